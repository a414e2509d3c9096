//! Addresses and the identities behind them: `cilium/state/ip/v1/default/<ip>`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cidr::Mask;
use crate::gojson::{self, go_struct};
use crate::{NumericIdentity, Peer, Reason, Rejection};

go_struct! {
    /// One address or prefix with its identity and the node behind it.
    pub struct IpIdentityPair {
        /// The address.
        pub ip: Option<IpAddr> = "IP",
        /// Set for a prefix, `None` for a single address.
        pub mask: Option<Mask> = "Mask",
        /// Node to which traffic is tunnelled.
        pub host_ip: Option<IpAddr> = "HostIP",
        /// Numeric identity; 0 when unknown.
        pub id: u32 = "ID",
        /// Encryption key index; 0: do not encrypt, 255: WireGuard.
        pub key: u8 = "Key",
        /// Opaque.
        pub metadata: String = "Metadata",
        /// Namespace of the pod.
        pub k8s_namespace: String = "K8sNamespace" omitempty,
        /// Name of the pod.
        pub k8s_pod_name: String = "K8sPodName" omitempty,
        /// Service account of the pod.
        pub k8s_service_account: String = "K8sServiceAccount" omitempty,
        /// Ports with names.
        pub named_ports: Vec<NamedPort> = "NamedPorts" omitempty,
    }
}

go_struct! {
    /// A port of a pod that policies can name.
    pub struct NamedPort {
        /// Name.
        pub name: String = "Name",
        /// Number.
        pub port: u16 = "Port",
        /// `TCP`, `UDP`, `SCTP`.
        pub protocol: String = "Protocol",
    }
}

impl IpIdentityPair {
    /// The stored bytes, in the form of Cilium 1.20.
    pub fn encode(&self) -> Vec<u8> {
        gojson::to_vec(self)
    }

    /// The prefix: a single address has full length.
    pub fn prefix(&self) -> Option<IpNet> {
        let ip = self.ip?;
        match self.mask {
            Some(mask) => IpNet::new(ip, mask.ones).ok().filter(|net| net.max_prefix_len() == mask.bits),
            None => Some(IpNet::from(ip)),
        }
    }

    /// Last part of the key: the address, with `/<bits>` if it is a prefix.
    pub fn key_name(&self) -> Option<String> {
        let ip = self.ip?;
        Some(match self.mask {
            Some(mask) => format!("{ip}/{}", mask.ones),
            None => ip.to_string(),
        })
    }

    /// Reads the value of `name` (the key after `…/ip/v1/default/` or `…/ip/v1/<cluster>/`) of `peer`.
    ///
    /// # Errors
    /// Not JSON, no address, key and address differ, or an identity that is neither reserved nor of the peer.
    pub fn decode(name: &str, value: &[u8], peer: &Peer) -> Result<Self, Rejection> {
        let refuse = |reason, what: String| Err(Rejection::new(reason, format!("ip {name}: {what}")));
        let pair: IpIdentityPair = match gojson::from_slice(value) {
            Ok(pair) => pair,
            Err(error) => return refuse(gojson::reason_of(&error), error.to_string()),
        };
        if pair.prefix().is_none() {
            return refuse(Reason::AddressInvalid, "the value has no usable IP".to_owned());
        }
        let expected = pair.key_name().unwrap_or_default();
        if expected != name {
            return refuse(Reason::NameMismatch, format!("the value is for {expected}"));
        }
        let id = NumericIdentity(pair.id);
        if !id.is_reserved() && !peer.identities().contains(id) {
            let range = peer.identities();
            return refuse(
                Reason::IdentityOutOfRange,
                format!(
                    "identity {id} is outside {} to {} of cluster {}",
                    range.first, range.last, peer.name
                ),
            );
        }
        Ok(pair)
    }
}
