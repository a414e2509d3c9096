//! An etcd client configuration in Cilium's form: how to read one store.

use crate::certificate::read;
use crate::{Address, Host, Member};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Where Cilium's pods mount the Secrets.
const DIRECTORY: &str = "/var/lib/cilium/clustermesh";
/// Below it each cluster's store has a name. Source: Cilium chart, `clustermesh.config.domain`.
const DOMAIN: &str = "mesh.cilium.io";

/// The endpoints of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    addresses: Vec<Address>,
    /// The addresses behind the name, where the store's certificate is for the name only.
    aliases: BTreeSet<IpAddr>,
}

impl Way {
    /// To the store of `peer`: by its addresses if its certificate is for them, so that nothing need be resolved; else by
    /// its name.
    pub(crate) fn to(peer: &Member) -> Self {
        let addresses = peer.store.as_ref().map(|store| store.addresses.clone()).unwrap_or_default();
        let leaf = peer.server.as_ref().and_then(|secret| read(&secret.certificate)?.into_iter().next());
        let covered = |address: &Address| match &leaf {
            Some(leaf) => leaf.names.cover(&address.host),
            None => true,
        };
        let ip = |address: &Address| match address.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) => None,
        };
        if addresses.iter().all(|address| covered(address) || ip(address).is_none()) {
            return Self { addresses, aliases: BTreeSet::new() };
        }
        let name = Host::Name(format!("{}.{DOMAIN}", peer.name()));
        let ports: BTreeSet<u16> = addresses.iter().map(|address| address.port).collect();
        let aliases = addresses.iter().filter_map(ip).collect();
        Self {
            addresses: ports.into_iter().map(|port| Address { host: name.clone(), port }).collect(),
            aliases,
        }
    }

    /// To the cluster's own store, for its nodes.
    pub(crate) fn within(namespace: &str) -> Self {
        let host = Host::Name(format!("clustermesh-apiserver.{namespace}.svc"));
        Self { addresses: vec![Address { host, port: 2379 }], aliases: BTreeSet::new() }
    }

    /// The hosts that the store's certificate must be for.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Host> {
        self.addresses.iter().map(|address| address.host.clone())
    }

    /// Whether its reader must know what stands in the file about the name.
    pub(crate) fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// The files that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Files {
    pub(crate) fn of(ca: &str, certificate: &str, key: &str) -> Self {
        let path = |name: &str| format!("{DIRECTORY}/{name}");
        Self { ca: path(ca), certificate: path(certificate), key: path(key) }
    }

    /// Of `clustermesh-apiserver-remote-cert`, as they are mounted.
    pub(crate) fn common() -> Self {
        Self::of("common-etcd-client-ca.crt", "common-etcd-client.crt", "common-etcd-client.key")
    }

    /// Of `clustermesh-apiserver-local-cert`, as they are mounted.
    pub(crate) fn local() -> Self {
        Self::of("local-etcd-client-ca.crt", "local-etcd-client.crt", "local-etcd-client.key")
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry<'a> {
    endpoints: Vec<String>,
    trusted_ca_file: &'a str,
    key_file: &'a str,
    cert_file: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cilium_host_aliases: Vec<Alias>,
}

#[derive(Serialize)]
struct Alias {
    hostname: String,
    ips: BTreeSet<IpAddr>,
}

/// The configuration's text.
pub(crate) fn entry(way: &Way, files: &Files) -> String {
    let alias =
        way.has_aliases().then(|| way.addresses.first()).flatten().and_then(|address| match &address.host {
            Host::Name(hostname) => Some(Alias { hostname: hostname.clone(), ips: way.aliases.clone() }),
            Host::Ip(_) => None,
        });
    let entry = Entry {
        endpoints: way.addresses.iter().map(|address| format!("https://{address}")).collect(),
        trusted_ca_file: &files.ca,
        key_file: &files.key,
        cert_file: &files.certificate,
        cilium_host_aliases: alias.into_iter().collect(),
    };
    serde_yaml_ng::to_string(&entry).expect("text and addresses can be written as YAML")
}

/// Whether two values of a key mean the same: configurations do if they differ in their layout only.
pub(crate) fn same(old: &[u8], new: &[u8]) -> bool {
    let parse = |text: &[u8]| {
        serde_yaml_ng::from_slice::<serde_json::Value>(text)
            .ok()
            .filter(|value| value.get("endpoints").is_some())
    };
    old == new || parse(new).is_some_and(|new| parse(old) == Some(new))
}
