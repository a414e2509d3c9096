//! `kubectl` against one cluster of the bed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Exec, NetNs, tool};

/// A cluster's API through the eyes of `kubectl`, as one user. Clones are the same user.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
    netns: NetNs,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: &Path, cache: &Path, netns: &NetNs) -> Result<Self> {
        let program = tool("kubectl")?;
        Ok(Self { program, kubeconfig: kubeconfig.to_owned(), cache: cache.to_owned(), netns: netns.clone() })
    }

    /// `kubectl` with the user's credentials, for arguments of any kind.
    pub fn exec(&self) -> Exec {
        self.netns
            .exec(&self.program)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            .arg("--request-timeout=30s")
    }

    /// `kubectl <args…>`, and what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.exec().args(args).stdout()
    }

    /// Creates or changes all objects of a YAML (or JSON) text. Fields that an earlier text had and this one omits are
    /// removed; who else wrote a field loses it.
    ///
    /// # Errors
    /// If the text is wrong, or the API refuses it.
    pub fn apply(&self, objects: &str) -> Result<()> {
        self.apply_with(&[], objects)
    }

    /// The same for one object.
    ///
    /// # Errors
    /// As [`Kubectl::apply`].
    pub fn apply_object(&self, object: &Value) -> Result<()> {
        self.apply(&object.to_string())
    }

    /// Writes the status of the objects of the text, for kinds whose status is a resource of its own, such as Service.
    ///
    /// # Errors
    /// If an object does not exist, or the API refuses it.
    pub fn apply_status(&self, objects: &str) -> Result<()> {
        self.apply_with(&["--subresource=status"], objects)
    }

    /// Creates or changes the objects of all `*.yaml` of a directory, or of one file.
    ///
    /// # Errors
    /// As [`Kubectl::apply`].
    pub fn apply_path(&self, path: &Path) -> Result<()> {
        let exec = self.exec().args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(path);
        exec.stdout().map(drop)
    }

    fn apply_with(&self, options: &[&str], objects: &str) -> Result<()> {
        let apply =
            self.exec().args(["apply", "--server-side", "--force-conflicts", "-f", "-"]).args(options);
        apply.stdin(objects).stdout().map(drop)
    }

    /// Changes an object by a JSON merge patch; `null` removes a field.
    ///
    /// # Errors
    /// If the object does not exist, or the API refuses the change.
    pub fn patch(&self, namespace: &str, kind: &str, name: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        self.run(&["-n", namespace, "patch", kind, name, "--type=merge", "-p", &patch]).map(drop)
    }

    /// Changes the status of an object by a JSON merge patch. A Node's needs it: its two addresses of one type cannot be
    /// applied.
    ///
    /// # Errors
    /// If the object does not exist, or the API refuses the change.
    pub fn patch_status(&self, namespace: &str, kind: &str, name: &str, status: &Value) -> Result<()> {
        let patch = serde_json::json!({"status": status}).to_string();
        let options = ["--subresource=status", "--type=merge", "-p", &patch];
        self.run(&[&["-n", namespace, "patch", kind, name][..], &options].concat()).map(drop)
    }

    /// Deletes an object; fine if it does not exist.
    ///
    /// # Errors
    /// If the API refuses.
    pub fn delete(&self, namespace: &str, kind: &str, name: &str) -> Result<()> {
        self.run(&["-n", namespace, "delete", kind, name, "--ignore-not-found", "--wait=false"]).map(drop)
    }

    /// Deletes a namespace and all Services, EndpointSlices and what else is in it.
    ///
    /// No controller does it here, so the objects are deleted one kind after the other, and the finalizer is removed.
    ///
    /// # Errors
    /// If the API refuses.
    pub fn delete_namespace(&self, name: &str) -> Result<()> {
        self.delete("", "namespace", name)?;
        let kinds = self.run(&["api-resources", "--namespaced", "--verbs=list,delete", "-o", "name"])?;
        for kind in kinds.lines() {
            self.run(&["-n", name, "delete", kind, "--all", "--wait=false"])?;
        }
        let mut object = self.get("", "namespace", name)?;
        object["spec"]["finalizers"] = Value::Array(Vec::new());
        let path = format!("/api/v1/namespaces/{name}/finalize");
        self.exec().args(["replace", "--raw", &path, "-f", "-"]).stdin(object.to_string()).stdout().map(drop)
    }

    /// An object.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        let text = self.run(&["-n", namespace, "get", kind, name, "-o", "json"])?;
        serde_json::from_str(&text).context("read kubectl's JSON")
    }

    /// All objects of a kind in a namespace; in all namespaces if it is empty.
    ///
    /// # Errors
    /// If there is no such kind.
    pub fn list(&self, namespace: &str, kind: &str) -> Result<Vec<Value>> {
        let scope = if namespace.is_empty() { "-A".to_owned() } else { format!("--namespace={namespace}") };
        let text = self.run(&["get", kind, &scope, "-o", "json"])?;
        let mut list: Value = serde_json::from_str(&text).context("read kubectl's JSON")?;
        let items = list["items"].as_array_mut().context("a list without items")?;
        Ok(std::mem::take(items))
    }

    /// Whether the API server says that it is ready.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn ensure_ready(&self) -> Result<()> {
        let answer = self.run(&["get", "--raw", "/readyz"])?;
        ensure!(answer == "ok", "/readyz says {answer:?}");
        Ok(())
    }
}
