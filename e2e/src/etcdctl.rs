//! etcd as a store of the mesh, and `etcdctl` as the witness of any store.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::bed::poll;
use crate::{Exec, Host, NetNs, PemPair, Process, tool};

/// `etcdctl` against one store, from one namespace, with or without a client certificate.
#[derive(Clone, Debug)]
pub struct Etcdctl {
    program: PathBuf,
    netns: NetNs,
    endpoint: String,
    authority: PathBuf,
    client: Option<PemPair>,
}

impl Etcdctl {
    /// Against `endpoint` (`https://…`), whose certificate is by `authority`.
    ///
    /// # Errors
    /// If the tools cannot be built.
    pub fn new(netns: &NetNs, endpoint: &str, authority: &Path, client: Option<&PemPair>) -> Result<Self> {
        Ok(Self {
            program: tool("etcdctl")?,
            netns: netns.clone(),
            endpoint: endpoint.to_owned(),
            authority: authority.to_owned(),
            client: client.cloned(),
        })
    }

    /// `etcdctl` with its credentials, for arguments of any kind.
    pub fn exec(&self) -> Exec {
        let exec = self.netns.exec(&self.program).args(["--dial-timeout=15s", "--command-timeout=15s"]);
        let exec = exec.args(["--endpoints", &self.endpoint]).arg("--cacert").arg(&self.authority);
        match &self.client {
            Some(client) => exec.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key),
            None => exec,
        }
    }

    /// `etcdctl <args…>`, and what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.exec().args(args).stdout()
    }

    /// All keys with the prefix, and their values.
    ///
    /// # Errors
    /// If the store refuses, or a key is no text.
    pub fn get_prefix(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let text = self.run(&["get", "--prefix", prefix, "-w", "json"])?;
        let answer: Value = serde_json::from_str(&text).context("read etcdctl's JSON")?;
        let none = Vec::new();
        let decode = |field: &Value| BASE64_STANDARD.decode(field.as_str().unwrap_or_default());
        let pair = |kv: &Value| Ok((String::from_utf8(decode(&kv["key"])?)?, decode(&kv["value"])?));
        answer["kvs"].as_array().unwrap_or(&none).iter().map(pair).collect()
    }

    /// The same, one `key value` a line, for the eye; values that are not text are counted only.
    #[must_use]
    pub fn dump(&self, prefix: &str) -> String {
        let line = |(key, value): (String, Vec<u8>)| {
            let value = String::from_utf8(value)
                .unwrap_or_else(|binary| format!("({} bytes)", binary.as_bytes().len()));
            format!("{key} {value}\n")
        };
        match self.get_prefix(prefix) {
            Ok(all) => all.into_iter().map(line).collect(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Writes a key.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<()> {
        self.exec().args(["put", key]).stdin(value).stdout().map(drop)
    }

    /// Deletes a key; an error if it did not exist.
    ///
    /// # Errors
    /// If the store refuses, or there was no such key.
    pub fn delete(&self, key: &str) -> Result<()> {
        let deleted = self.run(&["del", key])?;
        ensure!(deleted.trim() == "1", "there was no key {key}");
        Ok(())
    }
}

/// A real etcd for the mesh's keys, on a cluster's control plane, for clients with a certificate.
#[derive(Debug)]
pub struct MeshEtcd {
    process: Process,
    endpoint: String,
}

impl MeshEtcd {
    /// Starts one at port 2379 of `host`. Its server certificate is `server`; clients need one by `authority`.
    ///
    /// # Errors
    /// If it does not become healthy.
    pub fn start(
        host: &Host,
        dir: &Path,
        authority: &Path,
        server: &PemPair,
        client: &PemPair,
    ) -> Result<Self> {
        let endpoint = format!("https://{}:2379", host.address());
        let data = dir.join("mesh-etcd");
        fs::create_dir_all(&data).context("make etcd's directory")?;
        let mut command = Command::new(tool("etcd")?);
        command.args(etcd_flags(&endpoint, &data, authority, server));
        let log = host.log("mesh-etcd");
        host.diary().record_log(&format!("{}: mesh-etcd", host.name()), &log);
        let mut process = Process::start("mesh-etcd", command, Some(host.netns()), &log)?;
        let witness = Etcdctl::new(host.netns(), &endpoint, authority, Some(client))?;
        poll(Duration::from_secs(120), || {
            process.ensure_running()?;
            witness.run(&["endpoint", "health"])
        })
        .context("wait for the mesh's etcd")?;
        host.diary().record(&format!("{}: keys in etcd", host.name()), move || witness.dump("cilium/"));
        Ok(Self { process, endpoint })
    }

    /// Where it serves.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The program, to stop, kill or freeze it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// etcd's arguments for a store of the mesh at `endpoint` and on loopback.
pub(crate) fn etcd_flags(endpoint: &str, data: &Path, authority: &Path, server: &PemPair) -> [String; 9] {
    [
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={endpoint},https://127.0.0.1:2379"),
        format!("--advertise-client-urls={endpoint}"),
        format!("--cert-file={}", server.certificate.display()),
        format!("--key-file={}", server.key.display()),
        format!("--trusted-ca-file={}", authority.display()),
        "--client-cert-auth".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}
