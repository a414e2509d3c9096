//! Pod to address entries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kube_watch::ObjectKey;
use mesh_types::{IpIdentityPair, LocalCluster, NamedPort, NumericIdentity, Reason, Rejection};
use serde::Deserialize;

use super::super::endpoint;
use super::super::namespaces::Namespaces;
use super::super::node::Reading;
use super::super::object::{Metadata, nullable};
use super::super::unit::Unit;
use super::allocation::Records;
use super::labels;
use super::node::WIREGUARD_KEY_INDEX;

/// A Pod (`v1`), as far as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    spec: PodSpec,
    #[serde(deserialize_with = "nullable")]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    #[serde(deserialize_with = "nullable")]
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    service_account_name: String,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    #[serde(deserialize_with = "nullable")]
    ports: Vec<ContainerPort>,
    #[serde(deserialize_with = "nullable")]
    restart_policy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    container_port: u16,
    #[serde(deserialize_with = "nullable")]
    protocol: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PodStatus {
    #[serde(deserialize_with = "nullable")]
    phase: String,
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<PodIp>,
    #[serde(rename = "hostIP", deserialize_with = "nullable")]
    host_ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PodIp {
    #[serde(deserialize_with = "nullable")]
    ip: String,
}

impl Pod {
    /// Forgets what does not travel: annotations, and containers without named ports.
    pub fn trimmed(mut self) -> Self {
        self.metadata.annotations.clear();
        for containers in [&mut self.spec.containers, &mut self.spec.init_containers] {
            for container in containers.iter_mut() {
                container.ports.retain(|port| !port.name.is_empty());
            }
            containers.retain(|container| !container.ports.is_empty());
        }
        self
    }

    /// Why the pod has no addresses of its own to export.
    fn refusal(&self) -> Option<Rejection> {
        if self.spec.host_network {
            return Some(Rejection::new(Reason::HostNetwork, "the pod's address is its node's"));
        }
        if ["Succeeded", "Failed"].contains(&self.status.phase.as_str()) {
            let what = format!("the pod's phase is {}", self.status.phase);
            return Some(Rejection::new(Reason::PodFinished, what));
        }
        let none = self.addresses().next().is_none();
        none.then(|| Rejection::new(Reason::EndpointWithoutAddress, "the pod has no address yet"))
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        let single = Some(self.status.pod_ip.as_str()).filter(|_| self.status.pod_ips.is_empty());
        let all = self.status.pod_ips.iter().map(|pod_ip| pod_ip.ip.as_str()).chain(single);
        all.filter(|text| !text.is_empty())
    }

    /// By name; of two ports with one name, the first container's.
    fn named_ports(&self) -> Vec<NamedPort> {
        // An init container that restarts always runs beside the others.
        let sidecars =
            self.spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
        let mut ports = BTreeMap::new();
        for port in self.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports) {
            let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
            let named = || NamedPort {
                name: port.name.clone(),
                port: port.container_port,
                protocol: protocol.to_owned(),
            };
            if !port.name.is_empty() {
                ports.entry(&port.name).or_insert_with(named);
            }
        }
        ports.into_values().collect()
    }

    fn pairs(
        &self,
        object: &ObjectKey,
        identity: NumericIdentity,
        encrypted_hosts: impl Fn(IpAddr) -> bool,
    ) -> (Vec<IpIdentityPair>, Vec<Rejection>) {
        let mut read = Reading::default();
        let host_ip = read.optional(&self.status.host_ip);
        let account = &self.spec.service_account_name;
        let template = IpIdentityPair {
            host_ip,
            id: identity.0,
            key: if host_ip.is_some_and(encrypted_hosts) { WIREGUARD_KEY_INDEX } else { 0 },
            k8s_namespace: object.namespace.to_string(),
            k8s_pod_name: object.name.to_string(),
            k8s_service_account: if account.is_empty() { "default".to_owned() } else { account.clone() },
            named_ports: self.named_ports(),
            ..IpIdentityPair::default()
        };
        let addresses = self.addresses().filter_map(|text| read.address(text));
        let pairs = addresses.map(|ip| IpIdentityPair { ip: Some(ip), ..template.clone() }).collect();
        (pairs, read.withheld)
    }
}

/// The pods that exist, and which label sets they need numbers for.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    pods: BTreeMap<ObjectKey, Pod>,
    /// Label set of each pod that needs a number.
    labels: BTreeMap<ObjectKey, Arc<str>>,
    /// Label set to the pods that need its number.
    wanted: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
    /// Counts the changes of the keys of `wanted`.
    generation: u64,
    records: Arc<Records>,
    /// With which number each pod was written last, and with which addresses.
    written: BTreeMap<ObjectKey, (NumericIdentity, Vec<String>)>,
    /// Addresses of the nodes that publish a WireGuard key, by node.
    encrypted_hosts: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

impl Pods {
    pub(crate) fn set(&mut self, object: &ObjectKey, pod: Option<Pod>) {
        match pod {
            Some(pod) => drop(self.pods.insert(object.clone(), pod)),
            None => drop(self.pods.remove(object)),
        }
    }

    /// What a pod contributes now; `None` if it is gone.
    pub(crate) fn unit(
        &mut self,
        local: &LocalCluster,
        namespaces: &Namespaces,
        object: &ObjectKey,
    ) -> Option<Unit> {
        let namespace = Some(&*object.namespace);
        let Some(pod) = self.pods.get(object) else {
            self.want(object, None);
            self.written.remove(object);
            return None;
        };
        let refused = pod.refusal().or_else(|| {
            let reason = namespaces.gate(namespace).err()?;
            Some(Rejection::new(reason, format!("namespace {}", object.namespace)))
        });
        if let Some(refused) = refused {
            self.want(object, None);
            self.written.remove(object);
            return Some(Unit::refused(namespace, refused));
        }
        let namespace_labels =
            namespaces.labels(&object.namespace).expect("its gate is open, so it is known");
        let labels = labels::of_pod(
            &local.name,
            &object.namespace,
            namespace_labels,
            &pod.spec.service_account_name,
            &pod.metadata.labels,
        );
        let labels = self.intern(labels.to_string());
        self.want(object, Some(Arc::clone(&labels)));
        let (identity, refused) = match self.records.number(&labels) {
            Ok(identity) => (identity, None),
            Err(refused) => match self.last_identity(object) {
                Some(identity) => (identity, Some(refused)),
                None => return Some(Unit::refused(namespace, refused)),
            },
        };
        let pod = &self.pods[object];
        self.written.insert(object.clone(), (identity, pod.addresses().map(str::to_owned).collect()));
        let encrypted = |ip| self.encrypted_hosts.values().flatten().any(|host| *host == ip);
        let (pairs, mut withheld) = pod.pairs(object, identity, encrypted);
        withheld.extend(refused);
        Some(endpoint::unit(&object.namespace, (pairs, withheld)))
    }

    /// The number that a running pod keeps while its new labels have none: to be known by what it was is better than to be
    /// unknown. Its new number may take long to come, as only the leader records numbers.
    fn last_identity(&self, object: &ObjectKey) -> Option<NumericIdentity> {
        let (identity, addresses) = self.written.get(object)?;
        let same_pod = self.pods.get(object)?.addresses().eq(addresses);
        (same_pod && self.records.all().contains_key(identity)).then_some(*identity)
    }

    /// Takes the numbers that are known now and returns the pods that they concern.
    pub(crate) fn set_records(&mut self, records: Arc<Records>) -> Vec<ObjectKey> {
        let before = std::mem::replace(&mut self.records, records);
        let concerned =
            self.wanted.iter().filter(|(labels, _)| before.number(labels) != self.records.number(labels));
        concerned.flat_map(|(_, pods)| pods.iter().cloned()).collect()
    }

    pub(crate) fn records(&self) -> &Arc<Records> {
        &self.records
    }

    /// Takes the addresses of a node that publishes a WireGuard key (none of any other node) and returns the pods that
    /// this concerns.
    pub(crate) fn set_encrypted_host(&mut self, node: &Arc<str>, addresses: Vec<IpAddr>) -> Vec<ObjectKey> {
        let before = match addresses.is_empty() {
            true => self.encrypted_hosts.remove(node).unwrap_or_default(),
            false => self.encrypted_hosts.insert(Arc::clone(node), addresses.clone()).unwrap_or_default(),
        };
        if before == addresses {
            return Vec::new();
        }
        let on = |pod: &Pod| {
            let host: Option<IpAddr> = pod.status.host_ip.parse().ok();
            host.is_some_and(|host| before.contains(&host) || addresses.contains(&host))
        };
        self.pods.iter().filter(|(_, pod)| on(pod)).map(|(object, _)| object.clone()).collect()
    }

    /// The pods of a namespace.
    pub(crate) fn of_namespace(&self, namespace: &str) -> Vec<ObjectKey> {
        let from = ObjectKey::new(namespace, "");
        let inside = self.pods.range(from..).take_while(|(object, _)| &*object.namespace == namespace);
        inside.map(|(object, _)| object.clone()).collect()
    }

    /// The label sets that need numbers.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &Arc<str>> {
        self.wanted.keys()
    }

    /// Changes whenever [`Self::wanted`] does.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether each label set that needs a number has one, or is known to get none.
    pub(crate) fn is_settled(&self) -> bool {
        self.wanted.keys().all(|labels| self.records.is_settled(labels))
    }

    /// Pods of one workload share the text.
    fn intern(&self, labels: String) -> Arc<str> {
        match self.wanted.get_key_value(labels.as_str()) {
            Some((known, _)) => Arc::clone(known),
            None => labels.into(),
        }
    }

    fn want(&mut self, object: &ObjectKey, labels: Option<Arc<str>>) {
        let before = match &labels {
            Some(labels) => self.labels.insert(object.clone(), Arc::clone(labels)),
            None => self.labels.remove(object),
        };
        if before == labels {
            return;
        }
        if let Some(before) = before
            && let Some(pods) = self.wanted.get_mut(&before)
        {
            pods.remove(object);
            if pods.is_empty() {
                self.wanted.remove(&before);
                self.generation += 1;
            }
        }
        if let Some(labels) = labels {
            let pods = self.wanted.entry(labels).or_default();
            self.generation += u64::from(pods.is_empty());
            pods.insert(object.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value::<Pod>(json).unwrap().trimmed()
    }

    fn bench() -> (LocalCluster, Namespaces, ObjectKey) {
        let mut namespaces = Namespaces::new(true);
        namespaces.apply("shop", Some(Default::default()));
        (LocalCluster::new("west", 3, 255).unwrap(), namespaces, ObjectKey::new("shop", "cart-0"))
    }

    #[test]
    fn each_reason_not_to_write_a_pod() {
        let (local, namespaces, object) = bench();
        let running = json!({"podIPs": [{"ip": "10.0.0.1"}], "phase": "Running"});
        let cases = [
            (json!({"spec": {"hostNetwork": true}, "status": running}), Reason::HostNetwork),
            (json!({"status": {"podIP": "10.0.0.1", "phase": "Succeeded"}}), Reason::PodFinished),
            (json!({"status": {"podIP": "10.0.0.1", "phase": "Failed"}}), Reason::PodFinished),
            (json!({"status": {"phase": "Pending"}}), Reason::EndpointWithoutAddress),
            (json!({"status": running}), Reason::EndpointWithoutIdentity),
        ];
        for (json, expected) in cases {
            let mut pods = Pods::default();
            pods.set(&object, Some(pod(json.clone())));
            let unit = pods.unit(&local, &namespaces, &object).unwrap();
            assert!(unit.entries().is_empty());
            assert_eq!(unit.withheld()[0].reason, expected, "{json}");
            let wants_number = expected == Reason::EndpointWithoutIdentity;
            assert_eq!(pods.wanted().count(), usize::from(wants_number), "{json}");
        }
        let mut pods = Pods::default();
        let elsewhere = ObjectKey::new("elsewhere", "x");
        pods.set(&elsewhere, Some(pod(json!({"status": running}))));
        let unit = pods.unit(&local, &namespaces, &elsewhere).unwrap();
        assert_eq!(unit.withheld()[0].reason, Reason::NamespaceUnknown);
        assert_eq!(pods.wanted().count(), 0, "a namespace that takes no part needs no numbers");
    }

    #[test]
    fn a_pod_is_written_once_its_labels_have_a_number() {
        let (local, namespaces, object) = bench();
        let mut pods = Pods::default();
        pods.set(&object, Some(pod(json!({
            "metadata": {"labels": {"app": "cart"}},
            "spec": {
                "serviceAccountName": "cart",
                "containers": [{"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]},
                               {"ports": [{"name": "http", "containerPort": 1}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
                "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 2}]},
                                   {"ports": [{"name": "setup", "containerPort": 3}]}],
            },
            "status": {"phase": "Running", "hostIP": "192.0.2.11", "podIPs": [{"ip": "10.71.1.11"}, {"ip": "fd00:71::11"}]},
        }))));
        pods.unit(&local, &namespaces, &object).unwrap();
        let labels = Arc::clone(pods.wanted().next().unwrap());
        assert!(!pods.is_settled());
        let records = Records::default().with(Arc::clone(&labels), NumericIdentity(196_700));
        assert_eq!(pods.set_records(Arc::new(records)), std::slice::from_ref(&object));
        assert!(pods.is_settled());
        assert_eq!(
            pods.set_encrypted_host(&"n".into(), vec!["192.0.2.11".parse().unwrap()]),
            std::slice::from_ref(&object)
        );
        let unit = pods.unit(&local, &namespaces, &object).unwrap();
        let texts: Vec<_> =
            unit.entries().iter().map(|entry| std::str::from_utf8(&entry.value).unwrap()).collect();
        let expected = |ip: &str| {
            format!(
                concat!(
                    r#"{{"IP":"{}","Mask":null,"HostIP":"192.0.2.11","ID":196700,"Key":255,"Metadata":"","#,
                    r#""K8sNamespace":"shop","K8sPodName":"cart-0","K8sServiceAccount":"cart","NamedPorts":["#,
                    r#"{{"Name":"dns","Port":53,"Protocol":"UDP"}},{{"Name":"http","Port":8080,"Protocol":"TCP"}},"#,
                    r#"{{"Name":"mesh","Port":2,"Protocol":"TCP"}}]}}"#
                ),
                ip
            )
        };
        assert_eq!(texts, [expected("10.71.1.11"), expected("fd00:71::11")]);

        pods.set(&object, None);
        assert!(pods.unit(&local, &namespaces, &object).is_none());
        assert_eq!(pods.wanted().count(), 0);
    }

    #[test]
    fn a_running_pod_whose_labels_change_keeps_its_number_until_it_has_another() {
        let (local, namespaces, object) = bench();
        let labelled = |app: &str, ip: &str| {
            pod(json!({"metadata": {"labels": {"app": app}}, "status": {"phase": "Running", "podIP": ip}}))
        };
        let ids = |unit: &Unit| -> Vec<u32> {
            let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
            unit.entries().iter().map(|entry| value(&entry.value)["ID"].as_u64().unwrap() as u32).collect()
        };
        let mut pods = Pods::default();
        pods.set(&object, Some(labelled("cart", "10.71.1.11")));
        pods.unit(&local, &namespaces, &object).unwrap();
        let cart = Arc::clone(pods.wanted().next().unwrap());
        let first = Records::default().with(cart, NumericIdentity(196_700));
        pods.set_records(Arc::new(first.clone()));
        assert_eq!(ids(&pods.unit(&local, &namespaces, &object).unwrap()), [196_700]);

        pods.set(&object, Some(labelled("basket", "10.71.1.11")));
        let unit = pods.unit(&local, &namespaces, &object).unwrap();
        assert_eq!(ids(&unit), [196_700]);
        assert_eq!(unit.withheld()[0].reason, Reason::EndpointWithoutIdentity, "it is said all the same");
        let basket = Arc::clone(pods.wanted().next().unwrap());
        assert_eq!(
            pods.set_records(Arc::new(first.with(basket, NumericIdentity(196_701)))),
            std::slice::from_ref(&object)
        );
        assert_eq!(ids(&pods.unit(&local, &namespaces, &object).unwrap()), [196_701]);

        // Another pod of the same name has nothing to keep.
        pods.set(&object, Some(labelled("orders", "10.71.1.99")));
        assert!(pods.unit(&local, &namespaces, &object).unwrap().entries().is_empty());
    }
}
