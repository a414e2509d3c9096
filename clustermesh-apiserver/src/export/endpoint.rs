//! CiliumEndpoint and CiliumEndpointSlice to address entries.

use kube_watch::ObjectKey;
use mesh_types::{IpIdentityPair, LocalCluster, NamedPort, NumericIdentity, Reason, Rejection};
use serde::Deserialize;

use super::node::{Encryption, Reading};
use super::object::nullable;
use super::unit::{Entry, Unit};

/// A CiliumEndpoint (`cilium.io/v2`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CiliumEndpoint {
    #[serde(deserialize_with = "nullable")]
    status: EndpointFields,
}

/// A CiliumEndpointSlice (`cilium.io/v2alpha1`), which is of cluster scope and holds endpoints of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CiliumEndpointSlice {
    #[serde(deserialize_with = "nullable")]
    namespace: String,
    #[serde(deserialize_with = "nullable")]
    endpoints: Vec<EndpointFields>,
}

/// What the status of a CiliumEndpoint and an element of a CiliumEndpointSlice say of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct EndpointFields {
    /// In slices; a CiliumEndpoint is named by its metadata.
    #[serde(deserialize_with = "nullable")]
    name: String,
    /// In slices the numeric identity; in a status a number of the endpoint, which says nothing to others.
    #[serde(deserialize_with = "nullable")]
    id: i64,
    /// In a status.
    #[serde(deserialize_with = "nullable")]
    identity: EndpointIdentity,
    #[serde(deserialize_with = "nullable")]
    encryption: Encryption,
    #[serde(deserialize_with = "nullable")]
    networking: Networking,
    #[serde(deserialize_with = "nullable")]
    named_ports: Vec<PortOfEndpoint>,
    #[serde(deserialize_with = "nullable")]
    service_account: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct EndpointIdentity {
    #[serde(deserialize_with = "nullable")]
    id: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Networking {
    #[serde(deserialize_with = "nullable")]
    node: String,
    #[serde(deserialize_with = "nullable")]
    addressing: Vec<AddressPair>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct AddressPair {
    #[serde(deserialize_with = "nullable")]
    ipv4: String,
    #[serde(deserialize_with = "nullable")]
    ipv6: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PortOfEndpoint {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    port: u16,
    #[serde(deserialize_with = "nullable")]
    protocol: String,
}

/// One endpoint, with what each form says of it in another place.
struct Endpoint<'a> {
    namespace: &'a str,
    name: &'a str,
    identity: i64,
    fields: &'a EndpointFields,
}

/// The entries of a CiliumEndpoint, and what of it is left out.
pub fn convert(
    local: &LocalCluster,
    object: &ObjectKey,
    endpoint: &CiliumEndpoint,
) -> (Vec<IpIdentityPair>, Vec<Rejection>) {
    let CiliumEndpoint { status } = endpoint;
    let endpoint = Endpoint {
        namespace: &object.namespace,
        name: &object.name,
        identity: status.identity.id,
        fields: status,
    };
    let mut read = Reading::default();
    let pairs = endpoint.pairs(local, &mut read);
    (pairs, read.withheld)
}

/// The entries of a CiliumEndpointSlice, and what of it is left out.
pub fn convert_slice(
    local: &LocalCluster,
    slice: &CiliumEndpointSlice,
) -> (Vec<IpIdentityPair>, Vec<Rejection>) {
    let mut read = Reading::default();
    let endpoints = slice.endpoints.iter().map(|endpoint| Endpoint {
        namespace: &slice.namespace,
        name: &endpoint.name,
        identity: endpoint.id,
        fields: endpoint,
    });
    let pairs = endpoints.flat_map(|endpoint| endpoint.pairs(local, &mut read)).collect();
    (pairs, read.withheld)
}

impl Endpoint<'_> {
    fn pairs(&self, local: &LocalCluster, read: &mut Reading) -> Vec<IpIdentityPair> {
        let of = format!("{}/{}", self.namespace, self.name);
        let texts = || {
            let both = self.fields.networking.addressing.iter().flat_map(|pair| [&pair.ipv4, &pair.ipv6]);
            both.filter(|text| !text.is_empty())
        };
        if texts().next().is_none() {
            let what = format!("endpoint {of} has no address");
            read.withheld.push(Rejection::new(Reason::EndpointWithoutAddress, what));
            return Vec::new();
        }
        let identity = match exported_identity(local, self.identity) {
            Ok(identity) => identity,
            Err((reason, what)) => {
                read.withheld.push(Rejection::new(reason, format!("endpoint {of}: {what}")));
                return Vec::new();
            }
        };
        let host_ip = read.optional(&self.fields.networking.node);
        let ports = self.fields.named_ports.iter().map(|port| NamedPort {
            name: port.name.clone(),
            port: port.port,
            protocol: port.protocol.clone(),
        });
        let template = IpIdentityPair {
            host_ip,
            id: identity.0,
            key: self.fields.encryption.index(),
            k8s_namespace: self.namespace.to_owned(),
            k8s_pod_name: self.name.to_owned(),
            k8s_service_account: self.fields.service_account.to_owned(),
            named_ports: ports.collect(),
            ..IpIdentityPair::default()
        };
        let addresses: Vec<_> = texts().filter_map(|text| read.address(text)).collect();
        addresses.into_iter().map(|ip| IpIdentityPair { ip: Some(ip), ..template.clone() }).collect()
    }
}

/// Readers accept of a cluster only identities of its own range, and those that mean the same everywhere.
fn exported_identity(local: &LocalCluster, id: i64) -> Result<NumericIdentity, (Reason, String)> {
    if id == 0 {
        return Err((Reason::EndpointWithoutIdentity, "has no identity yet".to_owned()));
    }
    let range = local.id.identities(local.max);
    let identity = u32::try_from(id).ok().map(NumericIdentity);
    identity.filter(|&identity| identity.is_reserved() || range.contains(identity)).ok_or_else(|| {
        let what = format!("identity {id} is outside {} to {}", range.first, range.last);
        (Reason::IdentityOutOfRange, what)
    })
}

/// Entries of one object; of two pairs with one address the first counts.
pub(crate) fn unit(namespace: &str, (pairs, mut withheld): (Vec<IpIdentityPair>, Vec<Rejection>)) -> Unit {
    let entry = |pair: &IpIdentityPair| {
        let name = pair.key_name()?.into();
        Some(Entry { name, value: pair.encode().into() })
    };
    let mut unit = Unit::in_namespace(Some(namespace));
    let doubles = unit.set_entries(pairs.iter().filter_map(entry).collect());
    withheld.extend(
        doubles
            .iter()
            .map(|name| Rejection::new(Reason::AddressInUse, format!("{name} occurs twice in this object"))),
    );
    unit.withholding(withheld)
}

impl CiliumEndpointSlice {
    /// The namespace of all its endpoints.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> LocalCluster {
        LocalCluster::new("prod-eu", 7, 255).unwrap()
    }

    fn reasons(withheld: &[Rejection]) -> Vec<Reason> {
        withheld.iter().map(|rejection| rejection.reason).collect()
    }

    #[test]
    fn each_reason_not_to_write_an_endpoint() {
        let address = r#""networking":{"addressing":[{"ipv4":"10.0.0.1"}]}"#;
        let cases = [
            (format!(r#"{{"identity":{{"id":459008}},{address}}}"#), 1, None),
            (format!(r#"{{"identity":{{"id":8}},{address}}}"#), 1, None),
            (format!(r#"{{"identity":null,{address}}}"#), 0, Some(Reason::EndpointWithoutIdentity)),
            (format!(r#"{{"identity":{{"id":256}},{address}}}"#), 0, Some(Reason::IdentityOutOfRange)),
            (format!(r#"{{"identity":{{"id":-1}},{address}}}"#), 0, Some(Reason::IdentityOutOfRange)),
            (format!(r#"{{"identity":{{"id":524288}},{address}}}"#), 0, Some(Reason::IdentityOutOfRange)),
            (r#"{"identity":{"id":459008}}"#.to_owned(), 0, Some(Reason::EndpointWithoutAddress)),
            (
                r#"{"identity":{"id":459008},"networking":{"addressing":null}}"#.to_owned(),
                0,
                Some(Reason::EndpointWithoutAddress),
            ),
            (
                r#"{"identity":{"id":459008},"networking":{"addressing":[{"ipv4":"x","ipv6":"fd00::1"}]}}"#
                    .to_owned(),
                1,
                Some(Reason::AddressInvalid),
            ),
        ];
        for (status, entries, reason) in cases {
            let endpoint: CiliumEndpoint =
                serde_json::from_str(&format!(r#"{{"status":{status}}}"#)).unwrap();
            let (pairs, withheld) = convert(&local(), &ObjectKey::new("shop", "cart-0"), &endpoint);
            assert_eq!(
                (pairs.len(), reasons(&withheld)),
                (entries, reason.into_iter().collect()),
                "{status}"
            );
        }
    }

    #[test]
    fn a_slice_yields_what_its_endpoints_would() {
        let slice: CiliumEndpointSlice = serde_json::from_value(serde_json::json!({
            "namespace": "shop",
            "endpoints": [
                {"name": "cart-0", "id": 459008, "encryption": {"key": 3}, "service-account": "default",
                 "networking": {"node": "192.0.2.11", "addressing": [{"ipv4": "10.70.1.33"}]},
                 "named-ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]},
                {"name": "cart-1", "id": 0, "networking": {"addressing": [{"ipv4": "10.70.1.34"}]}},
                {"name": "cart-2", "id": 459008, "networking": {"addressing": [{"ipv4": "10.70.1.33"}]}},
            ],
        }))
        .unwrap();
        let endpoint: CiliumEndpoint = serde_json::from_value(serde_json::json!({"status": {
            "identity": {"id": 459008}, "encryption": {"key": 3}, "service-account": "default",
            "networking": {"node": "192.0.2.11", "addressing": [{"ipv4": "10.70.1.33"}]},
            "named-ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }}))
        .unwrap();
        let alone = convert(&local(), &ObjectKey::new("shop", "cart-0"), &endpoint);
        let sliced = unit(slice.namespace(), convert_slice(&local(), &slice));
        assert_eq!(sliced.entries(), unit("shop", alone).entries());
        assert_eq!(reasons(sliced.withheld()), [Reason::EndpointWithoutIdentity, Reason::AddressInUse]);
    }
}
