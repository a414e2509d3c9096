//! Short commands that run something at a place of the demo: `target/demo/west-1 isthmus agent services`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use anyhow::{Context, Result};
use e2e::{Member, NetNs};

use crate::scene::Scene;

/// A directory with one script for each control plane, node and pod.
#[derive(Debug)]
pub(crate) struct Places {
    /// As a user would type it.
    shown: String,
}

impl Places {
    /// Writes the scripts anew, into `target/demo`.
    pub(crate) fn write(scene: &Scene<'_>) -> Result<Self> {
        let dir = directory()?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context("clean up"),
            _gone => fs::create_dir_all(&dir)?,
        }
        fs::write(dir.join(OWNER), process::id().to_string())?;
        for member in scene.mesh().members() {
            place(&dir, member.name(), member.cluster().host().netns(), &control_plane(scene, member)?)?;
            for (index, node) in member.nodes().iter().enumerate() {
                let socket = member.socket(index);
                place(&dir, node.name(), node.host().netns(), &[("ISTHMUS_AGENT_SOCKET", socket)])?;
            }
        }
        for pod in scene.pods() {
            place(&dir, pod.name(), pod.netns(), &[])?;
        }
        let here = env::current_dir().unwrap_or_default();
        let shown = dir.strip_prefix(here).unwrap_or(&dir).display().to_string();
        Ok(Self { shown })
    }

    /// `<script of the place> <command>`, to type.
    pub(crate) fn at(&self, place: &str, command: &str) -> String {
        format!("{}/{place} {command}", self.shown)
    }
}

/// Holds the process id of the demo that a directory belongs to.
const OWNER: &str = ".owner";

/// Beside the directory of this program: `target/demo`, unless that belongs to another demo that still runs.
fn directory() -> Result<PathBuf> {
    let program = env::current_exe().context("find this program")?;
    let target = program.ancestors().nth(2).context("this program lies in no target directory")?;
    let usual = target.join("demo");
    let owner = fs::read_to_string(usual.join(OWNER)).unwrap_or_default();
    let name = fs::read_to_string(format!("/proc/{}/comm", owner.trim())).unwrap_or_default();
    let taken = name.trim() == "demo" && owner.trim() != process::id().to_string();
    Ok(if taken { target.join(format!("demo-{}", process::id())) } else { usual })
}

/// What `kubectl` and `etcdctl` need to know at a control plane.
fn control_plane(scene: &Scene<'_>, member: &Member<'_>) -> Result<Vec<(&'static str, PathBuf)>> {
    let root = scene.mesh().pki().client("root")?;
    Ok(vec![
        ("KUBECONFIG", member.cluster().kubeconfig().to_owned()),
        ("KUBECACHEDIR", member.cluster().dir().join("kubectl-cache")),
        ("ETCDCTL_CACERT", scene.mesh().pki().authority()),
        ("ETCDCTL_CERT", root.certificate),
        ("ETCDCTL_KEY", root.key),
    ])
}

fn place(dir: &Path, name: &str, netns: &NetNs, variables: &[(&str, PathBuf)]) -> Result<()> {
    let (pid, net) = (process::id(), netns.path());
    let tools = [e2e::tool("kubectl")?, e2e::isthmus()?];
    let path: Vec<_> = tools.iter().filter_map(|tool| Some(tool.parent()?.display().to_string())).collect();
    let set: String =
        variables.iter().map(|(name, value)| format!("export {name}='{}'\n", value.display())).collect();
    let script = format!(
        r#"#!/bin/sh
# Runs a command at {name}.
if [ ! -e {net} ]; then echo "the demo has ended; start it again by: make demo-packets" >&2; exit 1; fi
user=
if [ "$(readlink /proc/self/ns/user)" != "$(readlink /proc/{pid}/ns/user)" ]; then
    user="--user=/proc/{pid}/ns/user --preserve-credentials"
fi
export PATH='{path}':"$PATH":/usr/sbin:/sbin
{set}export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
exec nsenter $user --net={net} "$@"
"#,
        net = net.display(),
        path = path.join(":"),
    );
    let file = dir.join(name);
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
