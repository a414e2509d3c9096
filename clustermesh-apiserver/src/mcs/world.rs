//! Everything that a plan depends on, as last seen.

use std::collections::{BTreeMap, BTreeSet};

use kube_watch::{DecodeError, ObjectKey, RawObject};
use mesh_types::annotation::{Annotations, is_namespace_global};
use mesh_types::{
    ClusterEndpointSlice, ClusterName, ClusterService, ExportPort, ServiceExport, SessionAffinityConfig,
    derived_name,
};
use serde::Deserialize;
use serde_json::Value;

use super::objects::{
    EXCLUDED_FROM_MIRROR, MANAGED_BY_LABEL, MANAGED_BY_LOCAL_MIRROR, MANAGED_BY_MESH, MCS_SERVICE_LABEL,
    SERVICE_NAME_LABEL, SOURCE_CLUSTER_LABEL,
};
use super::offer::Offers;

/// Namespace and name of a service, its export, its import.
pub(super) type ServiceKey = ObjectKey;

/// What the local cluster and its peers hold. Changes come in by the `set_…` functions, each of which returns the
/// services whose plan may differ now.
#[derive(Debug)]
pub(super) struct World {
    pub(super) cluster: ClusterName,
    pub(super) namespaces_global_by_default: bool,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    pub(super) exports: BTreeMap<ServiceKey, LocalExport>,
    pub(super) services: BTreeMap<ServiceKey, LocalService>,
    /// EndpointSlices by the Service they belong to, then by name. A slice belongs to the Service of its label, and to the
    /// derived Service in its name, since labels can be edited and names cannot.
    pub(super) slices: BTreeMap<ServiceKey, BTreeMap<String, LocalSlice>>,
    slice_owners: BTreeMap<ObjectKey, BTreeSet<ServiceKey>>,
    pub(super) imports: BTreeMap<ServiceKey, Value>,
    pub(super) remote: BTreeMap<ServiceKey, BTreeMap<ClusterName, ServiceExport>>,
    /// What other clusters offer of derived Services.
    pub(super) offers: Offers,
    /// Other clusters of which all exports are known, or of which it is known that they left.
    read: BTreeSet<ClusterName>,
    /// Clusters that were not read by now are not waited for any more.
    waited_enough: bool,
    /// Derived name to the service it stands for.
    derived: BTreeMap<ObjectKey, ServiceKey>,
    /// Address families that Services of this cluster can have, the default first; none: not known.
    pub(super) offered: Vec<String>,
}

/// A namespace of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) annotations: Annotations,
    pub(super) terminating: bool,
}

/// A ServiceExport of this cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LocalExport {
    pub(super) created: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) resource_version: String,
    /// Conditions as they stand.
    pub(super) conditions: Vec<Value>,
    pub(super) deleting: bool,
}

/// A Service of this cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LocalService {
    pub(super) external_name: bool,
    pub(super) headless: bool,
    pub(super) ports: Vec<ExportPort>,
    pub(super) families: Vec<String>,
    pub(super) cluster_ips: Vec<String>,
    pub(super) session_affinity: String,
    pub(super) affinity_timeout_seconds: Option<i32>,
    pub(super) internal_traffic_policy: String,
    pub(super) traffic_distribution: String,
    /// The object as read, kept only for derived Services, which are compared and rewritten.
    pub(super) whole: Option<Value>,
}

/// An EndpointSlice of this cluster, as read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LocalSlice {
    /// A copy of a local slice, made by this controller.
    pub(super) mirrored: bool,
    /// The cluster whose endpoints a slice for a derived Service holds.
    pub(super) source_cluster: Option<String>,
    /// Made by another mesh controller, so no source of backends.
    pub(super) excluded: bool,
    /// Made by a controller of Kubernetes.
    pub(super) by_kubernetes: bool,
    pub(super) whole: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    resource_version: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

pub(super) fn decode_namespace(raw: &RawObject<'_>) -> Result<Namespace, DecodeError> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Meta,
    }
    let Object { metadata } = raw.parse()?;
    Ok(Namespace {
        annotations: metadata.annotations.unwrap_or_default(),
        terminating: metadata.deletion_timestamp.is_some(),
    })
}

pub(super) fn decode_export(raw: &RawObject<'_>) -> Result<LocalExport, DecodeError> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        exported_labels: Option<BTreeMap<String, String>>,
        exported_annotations: Option<BTreeMap<String, String>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        conditions: Vec<Value>,
    }
    #[derive(Deserialize)]
    struct Object {
        metadata: Meta,
        #[serde(default)]
        spec: Option<Spec>,
        #[serde(default)]
        status: Option<Status>,
    }
    let Object { metadata, spec, status } = raw.parse()?;
    let spec = spec.unwrap_or_default();
    Ok(LocalExport {
        created: metadata.creation_timestamp.unwrap_or_default(),
        labels: spec.exported_labels.unwrap_or_default(),
        annotations: spec.exported_annotations.unwrap_or_default(),
        resource_version: metadata.resource_version,
        conditions: status.unwrap_or_default().conditions,
        deleting: metadata.deletion_timestamp.is_some(),
    })
}

pub(super) fn decode_service(raw: &RawObject<'_>) -> Result<LocalService, DecodeError> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        #[serde(rename = "type")]
        kind: String,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        ip_families: Vec<String>,
        ports: Vec<Port>,
        session_affinity: String,
        session_affinity_config: Option<AffinityConfig>,
        internal_traffic_policy: String,
        traffic_distribution: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Port {
        #[serde(default)]
        name: String,
        #[serde(default)]
        protocol: String,
        #[serde(default)]
        app_protocol: String,
        port: i32,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct AffinityConfig {
        #[serde(rename = "clientIP")]
        client_ip: Option<ClientIp>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct ClientIp {
        timeout_seconds: Option<i32>,
    }
    #[derive(Deserialize)]
    struct Object {
        metadata: Meta,
        #[serde(default)]
        spec: Spec,
    }
    let Object { metadata, spec } = raw.parse()?;
    let derived = metadata.labels.is_some_and(|labels| labels.contains_key(MCS_SERVICE_LABEL))
        || raw.name().starts_with("derived-");
    let port = |port: Port| ExportPort {
        name: port.name,
        protocol: port.protocol,
        app_protocol: port.app_protocol,
        port: port.port,
    };
    Ok(LocalService {
        external_name: spec.kind == "ExternalName",
        headless: spec.cluster_ip.eq_ignore_ascii_case("none"),
        ports: spec.ports.into_iter().map(port).collect(),
        families: spec.ip_families,
        cluster_ips: spec.cluster_ips.into_iter().filter(|ip| !ip.eq_ignore_ascii_case("none")).collect(),
        session_affinity: spec.session_affinity,
        affinity_timeout_seconds: spec
            .session_affinity_config
            .and_then(|config| config.client_ip)
            .and_then(|client_ip| client_ip.timeout_seconds),
        internal_traffic_policy: spec.internal_traffic_policy,
        traffic_distribution: spec.traffic_distribution,
        whole: if derived { Some(whole(raw)?) } else { None },
    })
}

pub(super) fn decode_slice(raw: &RawObject<'_>) -> Result<(Option<String>, LocalSlice), DecodeError> {
    let whole = whole(raw)?;
    let label = |key: &str| whole.pointer("/metadata/labels")?.get(key)?.as_str();
    let managed_by = label(MANAGED_BY_LABEL).unwrap_or_default();
    let slice = LocalSlice {
        mirrored: managed_by == MANAGED_BY_LOCAL_MIRROR,
        source_cluster: label(SOURCE_CLUSTER_LABEL)
            .filter(|_| managed_by == MANAGED_BY_MESH && label(MCS_SERVICE_LABEL).is_some())
            .map(str::to_owned),
        excluded: EXCLUDED_FROM_MIRROR.contains(&managed_by),
        by_kubernetes: managed_by.ends_with(".k8s.io"),
        whole: Value::Null,
    };
    let service = label(SERVICE_NAME_LABEL).map(str::to_owned);
    Ok((service, LocalSlice { whole, ..slice }))
}

/// The derived Service in the name of a slice that was made for one.
fn derived_of_slice(name: &str) -> Option<&str> {
    let digits = "derived-".len() + 10;
    let (service, rest) = name.split_at_checked(digits)?;
    (service.starts_with("derived-") && rest.starts_with('-')).then_some(service)
}

/// The whole object without the bookkeeping that no plan looks at.
pub(super) fn whole(raw: &RawObject<'_>) -> Result<Value, DecodeError> {
    let mut object: Value = raw.parse()?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Ok(object)
}

impl World {
    pub(super) fn new(
        cluster: ClusterName,
        namespaces_global_by_default: bool,
        offered: Vec<String>,
    ) -> Self {
        World {
            offered,
            cluster,
            namespaces_global_by_default,
            namespaces: BTreeMap::new(),
            exports: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slice_owners: BTreeMap::new(),
            imports: BTreeMap::new(),
            remote: BTreeMap::new(),
            offers: Offers::default(),
            read: BTreeSet::new(),
            waited_enough: false,
            derived: BTreeMap::new(),
        }
    }

    /// Every service that is exported or imported.
    pub(super) fn all(&self) -> BTreeSet<ServiceKey> {
        self.exports.keys().chain(self.imports.keys()).chain(self.remote.keys()).cloned().collect()
    }

    /// Whether anything of the service is here: an export, an import, or what was made for one.
    pub(super) fn concerns(&self, key: &ServiceKey) -> bool {
        let derived = ObjectKey::new(&key.namespace, &derived_name(&key.namespace, &key.name));
        self.exports.contains_key(key)
            || self.imports.contains_key(key)
            || self.remote.contains_key(key)
            || self.services.contains_key(&derived)
            || self.slices.contains_key(&derived)
    }

    /// Forgets the name of a service that nothing is left of.
    pub(super) fn prune(&mut self, key: &ServiceKey) {
        if !self.concerns(key) {
            self.derived.remove(&ObjectKey::new(&key.namespace, &derived_name(&key.namespace, &key.name)));
        }
    }

    /// How many services have a name that leads to them.
    #[cfg(test)]
    pub(super) fn named(&self) -> usize {
        self.derived.len()
    }

    pub(super) fn namespace_is_global(&self, namespace: &str) -> bool {
        let annotations = self.namespaces.get(namespace).map(|namespace| &namespace.annotations);
        annotations
            .is_some_and(|annotations| is_namespace_global(annotations, self.namespaces_global_by_default))
    }

    /// Remembers that `key`'s derived Service, slices and so on lead back to it.
    fn know(&mut self, key: &ServiceKey) {
        let derived = ObjectKey::new(&key.namespace, &derived_name(&key.namespace, &key.name));
        self.derived.insert(derived, key.clone());
    }

    pub(super) fn set_namespace(&mut self, name: &str, namespace: Option<Namespace>) -> Vec<ServiceKey> {
        let changed = match namespace {
            Some(namespace) => self.namespaces.insert(name.to_owned(), namespace.clone()) != Some(namespace),
            None => self.namespaces.remove(name).is_some(),
        };
        let all = if changed { self.all() } else { BTreeSet::new() };
        all.into_iter().filter(|key| &*key.namespace == name).collect()
    }

    pub(super) fn set_export(&mut self, key: ServiceKey, export: Option<LocalExport>) -> Vec<ServiceKey> {
        self.know(&key);
        match export {
            Some(export) => drop(self.exports.insert(key.clone(), export)),
            None => drop(self.exports.remove(&key)),
        }
        vec![key]
    }

    pub(super) fn set_service(&mut self, key: ServiceKey, service: Option<LocalService>) -> Vec<ServiceKey> {
        let owner = self.derived.get(&key).cloned();
        let learned = service.as_ref().is_some_and(|service| self.learn_families(service));
        match service {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        let all = if learned { self.all() } else { BTreeSet::new() };
        owner.into_iter().chain([key]).chain(all).collect()
    }

    /// A cluster that was asked for its families once may get another; Services that have it show that.
    fn learn_families(&mut self, service: &LocalService) -> bool {
        if self.offered.is_empty() || service.cluster_ips.is_empty() {
            return false;
        }
        let known = self.offered.len();
        for family in &service.families {
            if !self.offered.contains(family) {
                self.offered.push(family.clone());
            }
        }
        self.offered.len() > known
    }

    pub(super) fn set_slice(
        &mut self,
        key: &ObjectKey,
        slice: Option<(Option<String>, LocalSlice)>,
    ) -> Vec<ServiceKey> {
        let mut touched = Vec::new();
        for former in self.slice_owners.remove(key).into_iter().flatten() {
            if let Some(slices) = self.slices.get_mut(&former) {
                slices.remove(&*key.name);
                if slices.is_empty() {
                    self.slices.remove(&former);
                }
            }
            touched.push(former);
        }
        if let Some((service, slice)) = slice {
            let names = service.as_deref().into_iter().chain(derived_of_slice(&key.name));
            let owners: BTreeSet<_> = names.map(|name| ObjectKey::new(&key.namespace, name)).collect();
            for owner in &owners {
                self.slices.entry(owner.clone()).or_default().insert(key.name.to_string(), slice.clone());
            }
            touched.extend(owners.iter().cloned());
            self.slice_owners.insert(key.clone(), owners);
        }
        let through_derived: Vec<_> =
            touched.iter().filter_map(|owner| self.derived.get(owner).cloned()).collect();
        touched.extend(through_derived);
        touched
    }

    pub(super) fn set_import(&mut self, key: ServiceKey, import: Option<Value>) -> Vec<ServiceKey> {
        self.know(&key);
        match import {
            Some(import) => drop(self.imports.insert(key.clone(), import)),
            None => drop(self.imports.remove(&key)),
        }
        vec![key]
    }

    pub(super) fn set_remote(
        &mut self,
        cluster: &ClusterName,
        key: ServiceKey,
        export: Option<ServiceExport>,
    ) -> Vec<ServiceKey> {
        self.know(&key);
        let of_key = self.remote.entry(key.clone()).or_default();
        match export {
            Some(export) => drop(of_key.insert(cluster.clone(), export)),
            None => drop(of_key.remove(cluster)),
        }
        if of_key.is_empty() {
            self.remote.remove(&key);
        }
        vec![key]
    }

    /// What a cluster offers of a derived Service. Other services do not concern imports and are passed over.
    pub(super) fn set_remote_service(
        &mut self,
        cluster: &ClusterName,
        key: &ServiceKey,
        service: Option<ClusterService>,
    ) -> Vec<ServiceKey> {
        let concerned = self.offers.set_record(cluster, key, service);
        self.derived.get(key).filter(|_| concerned).cloned().into_iter().collect()
    }

    /// What a cluster offers in a slice; as with [`World::set_remote_service`].
    pub(super) fn set_remote_slice(
        &mut self,
        cluster: &ClusterName,
        key: &ObjectKey,
        slice: Option<ClusterEndpointSlice>,
    ) -> Vec<ServiceKey> {
        let concerned = self.offers.set_slice(cluster, key, slice);
        concerned.iter().filter_map(|derived| self.derived.get(derived).cloned()).collect()
    }

    /// Whether it is known what the cluster of that name offers.
    pub(super) fn is_read(&self, cluster: &str) -> bool {
        self.waited_enough || cluster.parse().is_ok_and(|name: ClusterName| self.read.contains(&name))
    }

    /// All exports of the cluster are known.
    pub(super) fn set_read(&mut self, cluster: &ClusterName) -> Vec<ServiceKey> {
        let newly = self.read.insert(cluster.clone());
        if newly { self.all().into_iter().collect() } else { Vec::new() }
    }

    /// Clusters that were not read by now are taken for gone.
    pub(super) fn stop_waiting(&mut self) -> Vec<ServiceKey> {
        self.waited_enough = true;
        self.all().into_iter().collect()
    }

    /// The clusters that stand in the import's status and have not been read since the start: what they export is not
    /// known, so the import must not change yet.
    pub(super) fn unread(&self, import: &Value) -> Vec<String> {
        if self.waited_enough {
            return Vec::new();
        }
        let clusters = import.pointer("/status/clusters").and_then(Value::as_array).into_iter().flatten();
        let names = clusters.filter_map(|entry| entry["cluster"].as_str());
        let known = |name: &str| {
            name == self.cluster.as_str()
                || name.parse().is_ok_and(|name: ClusterName| self.read.contains(&name))
        };
        names.filter(|name| !known(name)).map(str::to_owned).collect()
    }

    /// Forgets a cluster that left the mesh.
    pub(super) fn remove_cluster(&mut self, cluster: &ClusterName) -> Vec<ServiceKey> {
        let of_cluster = |(key, exports): (&ServiceKey, &BTreeMap<ClusterName, ServiceExport>)| {
            exports.contains_key(cluster).then(|| key.clone())
        };
        let mut touched: Vec<_> = self.remote.iter().filter_map(of_cluster).collect();
        for key in &touched {
            self.set_remote(cluster, key.clone(), None);
        }
        self.offers.remove_cluster(cluster);
        touched.extend(self.set_read(cluster));
        touched
    }

    /// The local export as it travels, if the Service can be exported.
    pub(super) fn local_constituent(&self, key: &ServiceKey) -> Option<ServiceExport> {
        let export = self.exports.get(key).filter(|export| !export.deleting)?;
        let service = self.services.get(key).filter(|service| !service.external_name)?;
        if !self.namespace_is_global(&key.namespace) {
            return None;
        }
        let timeout = service.affinity_timeout_seconds;
        Some(ServiceExport {
            cluster: self.cluster.to_string(),
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            annotations: export.annotations.clone(),
            labels: export.labels.clone(),
            export_creation_timestamp: export.created.clone(),
            ports: service.ports.clone(),
            service_type: if service.headless { "Headless" } else { "ClusterSetIP" }.to_owned(),
            session_affinity: service.session_affinity.clone(),
            session_affinity_config: timeout.map(|timeout_seconds| SessionAffinityConfig {
                client_ip: mesh_types::ClientIpConfig { timeout_seconds },
            }),
            ip_families: service.families.clone(),
            internal_traffic_policy: service.internal_traffic_policy.clone(),
            traffic_distribution: service.traffic_distribution.clone(),
            ..Default::default()
        })
    }
}
