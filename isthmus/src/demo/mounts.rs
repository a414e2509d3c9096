//! What a kubelet does elsewhere: the objects that `isthmus connect` writes become the files that the daemons read.
//!
//! The Secret `cilium-kvstoremesh` is the directory of the mirror, the ConfigMap `clustermesh-remote-users` a file of the
//! store. On the way to a file the address of a store becomes that of the link to it, which can be cut.

use super::cluster::Cluster;
use super::link::Links;
use crate::connect::survey::data;
use anyhow::Context as _;
use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::BoxStream;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use mesh_connect::{MIRROR_SECRET, USERS_CONFIG_MAP};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tokio::task::JoinSet;

/// The namespace of the mesh's own objects.
pub(super) const NAMESPACE: &str = "kube-system";
/// Where Cilium's pods have what the entries name.
const MOUNTED_AT: &str = "/var/lib/cilium/clustermesh";

/// The mounts of all clusters. Dropping it ends them; the files stay.
#[derive(Debug)]
pub(crate) struct Mounts {
    _tasks: JoinSet<()>,
}

impl Mounts {
    /// Writes the files of all clusters, and from now on anew whenever their objects change.
    pub(crate) async fn start(
        clusters: &[Cluster],
        stores: &[(&str, u16)],
        links: &Links,
    ) -> anyhow::Result<Self> {
        let mounts = clusters.iter().flat_map(|cluster| {
            let way = |(peer, port): &(&str, u16)| {
                let link = links.address(cluster.name, peer)?;
                Some((format!("https://127.0.0.1:{port}"), format!("https://{link}")))
            };
            let ways = stores.iter().filter_map(way).collect();
            [
                Volume::open(cluster, "Secret", MIRROR_SECRET, Mount::new(cluster.remotes(), ways)),
                Volume::open(
                    cluster,
                    "ConfigMap",
                    USERS_CONFIG_MAP,
                    Mount::new(cluster.users(), BTreeMap::new()),
                ),
            ]
        });
        let volumes = try_join_all(mounts).await?;
        let mut tasks = JoinSet::new();
        for volume in volumes {
            tasks.spawn(volume.follow());
        }
        Ok(Self { _tasks: tasks })
    }
}

/// An object and its files.
struct Volume {
    kind: &'static str,
    objects: BoxStream<'static, Result<Option<DynamicObject>, watcher::Error>>,
    mount: Mount,
}

impl Volume {
    /// Writes the files as the object is now.
    async fn open(
        cluster: &Cluster,
        kind: &'static str,
        name: &str,
        mut mount: Mount,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&mount.dir).context("make a directory")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
        let api = Api::namespaced_with(cluster.api()?.client(), NAMESPACE, &resource);
        let mut objects = watch_object(api, name).default_backoff().boxed();
        let first = objects.next().await.context("nothing is watched")?;
        let first = first.with_context(|| format!("read {name} of {}", cluster.name))?;
        mount.write(&content(kind, first))?;
        Ok(Self { kind, objects, mount })
    }

    /// Writes them anew whenever it changes.
    async fn follow(mut self) {
        while let Some(found) = self.objects.next().await {
            // An error of the watch heals by itself, and a directory that cannot be written is gone with the demo.
            if let Ok(object) = found
                && self.mount.write(&content(self.kind, object)).is_err()
            {
                return;
            }
        }
    }
}

/// The files of an object: none if it is not there.
fn content(kind: &str, object: Option<DynamicObject>) -> BTreeMap<String, Vec<u8>> {
    let object = object.map(|object| object.data).unwrap_or_default();
    // Items of a list do not say it.
    data(&json!({"kind": kind, "data": object.get("data")}))
}

/// A directory with the files of one object, and others that are left alone.
#[derive(Debug)]
struct Mount {
    dir: PathBuf,
    /// What stands for the endpoint of a store.
    ways: BTreeMap<String, String>,
    written: BTreeMap<String, Vec<u8>>,
}

impl Mount {
    fn new(dir: PathBuf, ways: BTreeMap<String, String>) -> Self {
        Self { dir, ways, written: BTreeMap::new() }
    }

    /// Makes the files those of the object. Each is there as a whole or not at all.
    fn write(&mut self, object: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
        let gone: BTreeSet<String> =
            self.written.keys().filter(|name| !object.contains_key(*name)).cloned().collect();
        for name in gone {
            std::fs::remove_file(self.dir.join(&name)).with_context(|| format!("remove {name}"))?;
            self.written.remove(&name);
        }
        for (name, bytes) in object {
            if self.written.get(name) == Some(bytes) {
                continue;
            }
            let mut file =
                NamedTempFile::new_in(self.dir.parent().unwrap_or(Path::new("."))).context("make a file")?;
            std::io::Write::write_all(&mut file, &self.here(bytes))
                .with_context(|| format!("write {name}"))?;
            file.persist(self.dir.join(name)).with_context(|| format!("write {name}"))?;
            self.written.insert(name.clone(), bytes.clone());
        }
        Ok(())
    }

    /// A file as it must be on this machine.
    fn here(&self, bytes: &[u8]) -> Vec<u8> {
        let Ok(mut entry) = serde_yaml_ng::from_slice::<Value>(bytes) else { return bytes.to_owned() };
        let Some(fields) = entry.as_object_mut().filter(|fields| fields.contains_key("endpoints")) else {
            return bytes.to_owned();
        };
        let dir = self.dir.display().to_string();
        for value in fields.values_mut() {
            let texts = match value.as_array_mut() {
                Some(texts) => texts.iter_mut().collect(),
                None => vec![value],
            };
            for text in texts {
                let Some(said) = text.as_str() else { continue };
                let here = self.ways.get(said).cloned();
                *text = here.unwrap_or_else(|| said.replace(MOUNTED_AT, &dir)).into();
            }
        }
        serde_yaml_ng::to_string(&entry).map_or_else(|_| bytes.to_owned(), String::into_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_directory_follows_its_object_and_leaves_other_files_alone() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("remotes");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("mine"), "x").unwrap();
        let ways = [("https://127.0.0.1:1".to_owned(), "https://127.0.0.1:2".to_owned())].into();
        let mut mount = Mount::new(dir.clone(), ways);
        let entry = "endpoints: ['https://127.0.0.1:1', 'https://127.0.0.1:11']\ncert-file: /var/lib/cilium/clustermesh/a.crt\n";
        mount.write(&object(&[("east", entry), ("east.key", "endpoints, no YAML: [")])).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let expected = format!(
            "cert-file: {}/a.crt\nendpoints:\n- https://127.0.0.1:2\n- https://127.0.0.1:11\n",
            dir.display()
        );
        assert_eq!(read("east").unwrap(), expected);
        assert_eq!(read("east.key").unwrap(), "endpoints, no YAML: [", "only configurations are changed");

        mount.write(&object(&[("east.key", "new")])).unwrap();
        assert_eq!((read("east"), read("east.key").as_deref()), (None, Some("new")));
        mount.write(&content("Secret", None)).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "what is not of the object stays");
    }
}
