//! What a cluster's configuration says of it.

use ipnet::IpNet;
use std::collections::BTreeMap;

/// The keys of the ConfigMap `cilium-config`, or of `isthmus-config` where there is no Cilium.
///
/// Source: Cilium `install/kubernetes/cilium/templates/cilium-configmap.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The ConfigMap that it is of.
    pub source: String,
    /// Its `data`.
    pub data: BTreeMap<String, String>,
}

/// How packets travel between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// In tunnels of this protocol.
    Tunnel(String),
    /// As they are.
    Native,
}

impl Settings {
    fn get(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Name of the cluster; `default` if it says none, as Cilium does.
    pub fn name(&self) -> &str {
        self.get("cluster-name").unwrap_or("default")
    }

    /// Id of the cluster as it is written; `0` if it says none.
    pub fn id(&self) -> &str {
        self.get("cluster-id").unwrap_or("0")
    }

    /// How many clusters it counts for, as it is written; `255` if it says nothing.
    pub fn max_clusters(&self) -> &str {
        self.get("max-connected-clusters").unwrap_or("255")
    }

    /// How packets travel; `None` if nothing says so, as where Cilium is not the network.
    pub fn datapath(&self) -> Option<Datapath> {
        let protocol = || self.get("tunnel-protocol").unwrap_or("vxlan").to_owned();
        match (self.get("routing-mode"), self.get("tunnel")) {
            (Some("native"), _) | (None, Some("disabled")) => Some(Datapath::Native),
            (Some(_tunnel), _) => Some(Datapath::Tunnel(protocol())),
            (None, Some(old)) => Some(Datapath::Tunnel(old.to_owned())),
            (None, None) if self.get("tunnel-protocol").is_some() => Some(Datapath::Tunnel(protocol())),
            (None, None) => None,
        }
    }

    /// Whether IPv4 and IPv6 are on; `None` if nothing says so.
    pub fn families(&self) -> Option<[bool; 2]> {
        let (v4, v6) = (self.get("enable-ipv4"), self.get("enable-ipv6"));
        (v4.is_some() || v6.is_some()).then(|| [v4 != Some("false"), v6 == Some("true")])
    }

    /// The encryption between nodes: `wireguard`, `ipsec` or `none`; `None` if nothing says so.
    pub fn encryption(&self) -> Option<&'static str> {
        match (self.get("enable-wireguard"), self.get("enable-ipsec")) {
            (Some("true"), _) => Some("wireguard"),
            (_, Some("true")) => Some("ipsec"),
            (None, None) => None,
            (_, _) => Some("none"),
        }
    }

    /// The ranges from which nodes get theirs.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        let keys = ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"];
        let texts = keys.iter().filter_map(|key| self.get(key));
        let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '"');
        let cidrs = texts.flat_map(|text| text.split(separators));
        cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()).map(|cidr| cidr.trunc()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings { source: "cilium-config".to_owned(), data: data.collect() }
    }

    #[test]
    fn a_datapath_is_read_in_the_old_form_and_the_new_one() {
        let vxlan = Some(Datapath::Tunnel("vxlan".to_owned()));
        let cases = [
            (&[][..], None),
            (&[("routing-mode", "tunnel")], vxlan.clone()),
            (
                &[("routing-mode", "tunnel"), ("tunnel-protocol", "geneve")],
                Some(Datapath::Tunnel("geneve".into())),
            ),
            (&[("routing-mode", "native"), ("tunnel-protocol", "vxlan")], Some(Datapath::Native)),
            (&[("tunnel", "vxlan")], vxlan.clone()),
            (&[("tunnel", "disabled")], Some(Datapath::Native)),
            (&[("tunnel-protocol", "vxlan")], vxlan),
        ];
        for (pairs, expected) in cases {
            assert_eq!(settings(pairs).datapath(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_not_said_has_ciliums_default() {
        let nothing = Settings::default();
        assert_eq!((nothing.name(), nothing.id(), nothing.max_clusters()), ("default", "0", "255"));
        assert_eq!((nothing.families(), nothing.encryption()), (None, None));
        assert_eq!(settings(&[("enable-ipv4", "true")]).families(), Some([true, false]));
        assert_eq!(settings(&[("enable-wireguard", "false")]).encryption(), Some("none"));
    }

    #[test]
    fn pools_are_lists_in_any_of_their_forms() {
        let pools = settings(&[
            ("cluster-pool-ipv4-cidr", "10.1.0.0/16 10.2.0.0/16"),
            ("cluster-pool-ipv6-cidr", "fd00::/104"),
        ]);
        let texts: Vec<_> = pools.pod_cidrs().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.1.0.0/16", "10.2.0.0/16", "fd00::/104"]);
    }
}
