//! ServiceExport and Service to export value.

use std::collections::BTreeMap;

use kube_watch::ObjectKey;
use mesh_types::{ClientIpConfig, ExportPort, LocalCluster, Reason, Rejection, SessionAffinityConfig};
use serde::Deserialize;

use super::object::{Metadata, nullable};
use super::service::Service;
use super::unit::Unit;

/// Words of `trafficDistribution` that readers accept; they refuse a whole export for any other.
const DISTRIBUTIONS: [&str; 4] = ["", "PreferClose", "PreferSameZone", "PreferSameNode"];

/// A ServiceExport (`multicluster.x-k8s.io`, `v1alpha1` or `v1beta1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceExport {
    metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    spec: ExportSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExportSpec {
    #[serde(deserialize_with = "nullable")]
    exported_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    exported_annotations: BTreeMap<String, String>,
}

impl ServiceExport {
    /// Forgets the metadata that do not travel.
    pub fn trimmed(mut self) -> Self {
        self.metadata.labels.clear();
        self.metadata.annotations.clear();
        self
    }
}

/// The value of an export with its Service, and what of it is left out.
///
/// # Errors
/// Why it is not exported at all.
pub fn convert(
    local: &LocalCluster,
    proxy_name: &str,
    object: &ObjectKey,
    export: &ServiceExport,
    service: Option<&Service>,
) -> Result<(mesh_types::ServiceExport, Vec<Rejection>), Rejection> {
    let service = service.ok_or_else(|| {
        Rejection::new(Reason::ExportWithoutService, format!("there is no Service {object}"))
    })?;
    if let Some(refused) = service.refusal(proxy_name) {
        return Err(refused);
    }
    if export.metadata.creation_timestamp.is_empty() {
        return Err(Rejection::new(Reason::FieldMissing, "the object has no metadata.creationTimestamp"));
    }
    let (spec, mut withheld) = (&service.spec, Vec::new());
    let known = DISTRIBUTIONS.contains(&spec.traffic_distribution.as_str());
    if !known {
        let what = format!("trafficDistribution {:?} is not known to readers", spec.traffic_distribution);
        withheld.push(Rejection::new(Reason::FieldInvalid, what));
    }
    let ports = spec.ports.iter().map(|port| ExportPort {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
        port: port.port,
    });
    let timeout = spec.session_affinity_config.client_ip.timeout_seconds;
    let value = mesh_types::ServiceExport {
        cluster: local.name.to_string(),
        name: object.name.to_string(),
        namespace: object.namespace.to_string(),
        annotations: export.spec.exported_annotations.clone(),
        labels: export.spec.exported_labels.clone(),
        export_creation_timestamp: export.metadata.creation_timestamp.clone(),
        ports: ports.collect(),
        service_type: if service.is_headless() { "Headless" } else { "ClusterSetIP" }.to_owned(),
        session_affinity: spec.session_affinity.clone(),
        session_affinity_config: timeout
            .map(|timeout_seconds| SessionAffinityConfig { client_ip: ClientIpConfig { timeout_seconds } }),
        ip_families: spec.ip_families.clone(),
        internal_traffic_policy: spec.internal_traffic_policy.clone(),
        traffic_distribution: if known { spec.traffic_distribution.clone() } else { String::new() },
        ..Default::default()
    };
    Ok((value, withheld))
}

pub(crate) fn unit(
    local: &LocalCluster,
    proxy_name: &str,
    object: &ObjectKey,
    export: &ServiceExport,
    service: Option<&Service>,
) -> Unit {
    let namespace = Some(&*object.namespace);
    match convert(local, proxy_name, object, export, service) {
        Ok((value, withheld)) => {
            Unit::of(namespace, &object.to_string(), value.encode()).withholding(withheld)
        }
        Err(refused) => Unit::refused(namespace, refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn converted(
        export: serde_json::Value,
        spec: Option<serde_json::Value>,
    ) -> Result<(mesh_types::ServiceExport, Vec<Reason>), Reason> {
        let local = LocalCluster::new("prod-eu", 7, 255).unwrap();
        let export: ServiceExport = serde_json::from_value(export).unwrap();
        let service = spec.map(|spec| serde_json::from_value::<Service>(json!({"spec": spec})).unwrap());
        convert(&local, "", &ObjectKey::new("shop", "cart"), &export, service.as_ref())
            .map(|(value, withheld)| (value, withheld.iter().map(|rejection| rejection.reason).collect()))
            .map_err(|refused| refused.reason)
    }

    #[test]
    fn each_reason_not_to_write_an_export() {
        let created = json!({"metadata": {"creationTimestamp": "2026-01-05T08:30:00Z"}});
        let cases = [
            (created.clone(), None, Reason::ExportWithoutService),
            (created, Some(json!({"type": "ExternalName"})), Reason::ServiceExternalName),
            (json!({}), Some(json!({})), Reason::FieldMissing),
        ];
        for (export, spec, expected) in cases {
            assert_eq!(converted(export, spec).unwrap_err(), expected);
        }
    }

    #[test]
    fn what_the_api_server_defaults_travels_as_it_is() {
        let created = json!({"metadata": {"creationTimestamp": "2026-01-05T08:30:00Z"}, "spec": null});
        let spec = json!({
            "clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "h2"}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ipFamilies": ["IPv4"], "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferNothing",
        });
        let (value, withheld) = converted(created, Some(spec)).unwrap();
        assert_eq!(withheld, [Reason::FieldInvalid], "readers would refuse the whole export for that word");
        let expected = concat!(
            r#"{"cluster":"prod-eu","name":"cart","namespace":"shop","exportCreationTimestamp":"2026-01-05T08:30:00Z","#,
            r#""ports":[{"name":"http","protocol":"TCP","appProtocol":"h2","port":80}],"type":"ClusterSetIP","#,
            r#""sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},"#,
            r#""ipFamilies":["IPv4"],"internalTrafficPolicy":"Cluster"}"#,
        );
        assert_eq!(String::from_utf8(value.encode()).unwrap(), expected);
    }
}
