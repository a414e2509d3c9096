//! What to do for one service, from everything that is known.

use std::collections::{BTreeMap, BTreeSet};

use kube_watch::ObjectKey;
use mesh_types::annotation::GLOBAL;
use mesh_types::{ClusterName, Reason, Rejection, ServiceExport, derived_name, is_dns_label};
use serde_json::{Value, json};

use super::merge::{Conflict, Merged, merge};
use super::objects::{
    self, Action, Condition, Kind, MCS_SERVICE_LABEL, conditions, covers, derived_service, has_owner,
    is_owned_by, mirrored_slice, overlay, uid,
};
use super::world::{LocalExport, LocalSlice, ServiceKey, World};

/// Requests to make now, in order. A plan goes one step at a time: what depends on an object that is yet to be created follows once the
/// object has been seen.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// Why the service is not (or not wholly) imported or exported.
    pub(super) withheld: Vec<Rejection>,
}

/// Plans for the service called `key`; `api_version` is that of the MCS resources, `now` stamps changed conditions.
pub(super) fn plan(world: &World, key: &ServiceKey, api_version: &str, now: &str) -> Plan {
    let mut plan = Plan::default();
    if !world.concerns(key) {
        return plan;
    }
    let Some(namespace) = world.namespaces.get(&*key.namespace) else {
        plan.withhold(Reason::NamespaceAbsent, format!("namespace {} does not exist here", key.namespace));
        return plan;
    };
    if namespace.terminating {
        plan.withhold(Reason::NamespaceAbsent, format!("namespace {} is being deleted", key.namespace));
        return plan;
    }
    if !world.namespace_is_global(&key.namespace) {
        plan.withhold(Reason::NamespaceNotGlobal, format!("namespace {} is not global", key.namespace));
        plan.export_status(world, key, api_version, now, None);
        plan.not_global(world, key, api_version, now);
        return plan;
    }
    if let Some(unread) =
        world.imports.get(key).map(|import| world.unread(import)).filter(|unread| !unread.is_empty())
    {
        let detail =
            format!("import {key} stays as it is until the exports of {} are known", unread.join(", "));
        plan.withhold(Reason::NotSynced, detail);
        return plan;
    }
    let mut exports = world.remote.get(key).cloned().unwrap_or_default();
    // The local cluster's own export counts as it stands here, not as a peer may echo it.
    exports.remove(&world.cluster);
    exports.extend(world.local_constituent(key).map(|local| (world.cluster.clone(), local)));
    plan.usable(&mut exports);
    let merged = merge(&exports).map(|merged| merged.within(&world.offered));
    match &merged {
        Some(merged) => plan.import(world, key, api_version, now, merged),
        None => plan.remove(world, key),
    }
    plan.export_status(world, key, api_version, now, merged.as_ref());
    plan
}

fn derived_key(key: &ServiceKey) -> ObjectKey {
    ObjectKey::new(&key.namespace, &derived_name(&key.namespace, &key.name))
}

impl Plan {
    fn withhold(&mut self, reason: Reason, detail: String) {
        self.withheld.push(Rejection::new(reason, detail));
    }

    /// Leaves what a Service can be made of. An export that has no such port (or none at all, which only headless Services
    /// may), or a name that no Service can have, counts as none.
    fn usable(&mut self, exports: &mut BTreeMap<ClusterName, ServiceExport>) {
        exports.retain(|cluster, export| {
            if !is_dns_label(&export.name) {
                let what = format!("the export of {cluster} has a name that no Service can have");
                self.withhold(Reason::FieldInvalid, what);
                return false;
            }
            self.withheld.extend(export.drop_unusable());
            let usable = !export.ports.is_empty() || export.service_type == "Headless";
            if !usable {
                self.withhold(Reason::FieldMissing, format!("the export of {cluster} has no usable ports"));
            }
            usable
        });
    }

    /// The namespace left the mesh: no endpoints stay. The import stays as long as other clusters export the service, as
    /// with Cilium, so that its address is the same if the namespace comes back; but nothing is behind it.
    fn not_global(&mut self, world: &World, key: &ServiceKey, api_version: &str, now: &str) {
        let Some(import) = world.imports.get(key) else { return self.remove_derived(world, key) };
        let others = world.remote.get(key).into_iter().flat_map(BTreeMap::keys);
        let others: BTreeSet<ClusterName> = others.filter(|name| **name != world.cluster).cloned().collect();
        let all_read = world.unread(import).is_empty();
        if others.is_empty() && all_read {
            return self.remove(world, key);
        }
        let derived = derived_key(key);
        for (name, slice) in our_slices(world, &derived) {
            self.delete_slice(&derived, name, slice);
        }
        let whole = world.services.get(&derived).and_then(|service| service.whole.as_ref());
        if let Some(whole) = whole.filter(|whole| is_ours(whole, key)) {
            // Agents add the backends of other clusters to global Services.
            let mut alone = whole.clone();
            if let Some(annotations) = alone["metadata"]["annotations"].as_object_mut()
                && annotations.remove(GLOBAL).is_some()
            {
                self.actions.push(Action::Replace(Kind::Service, alone));
            }
        }
        let ready = Condition {
            kind: "Ready",
            status: "False",
            reason: "NamespaceNotGlobal".to_owned(),
            message: format!("namespace {} does not take part in the mesh", key.namespace),
        };
        let mut wanted = json!({"conditions": conditions(&[ready], observed_conditions(import), now)});
        if all_read {
            wanted["clusters"] = objects::clusters(&others);
        }
        self.status(Kind::Import, key, api_version, None, (&import["status"], &wanted));
    }

    fn delete_slice(&mut self, derived: &ObjectKey, name: &str, slice: &LocalSlice) {
        let key = ObjectKey::new(&derived.namespace, name);
        self.actions.push(Action::Delete(Kind::Slice, key, uid(&slice.whole).to_owned()));
    }

    /// Nobody exports the service: everything that was made for it goes.
    fn remove(&mut self, world: &World, key: &ServiceKey) {
        self.remove_derived(world, key);
        if let Some(import) = world.imports.get(key) {
            self.actions.push(Action::Delete(Kind::Import, key.clone(), uid(import).to_owned()));
        }
        if world.exports.contains_key(key) || world.imports.contains_key(key) {
            self.withhold(Reason::NotExported, format!("no cluster exports {key}"));
        }
    }

    /// The derived Service goes with its slices.
    fn remove_derived(&mut self, world: &World, key: &ServiceKey) {
        let derived = derived_key(key);
        self.slices(world, &derived, BTreeMap::new());
        if let Some(whole) = world.services.get(&derived).and_then(|service| service.whole.as_ref())
            && is_ours(whole, key)
        {
            self.actions.push(Action::Delete(Kind::Service, derived, uid(whole).to_owned()));
        }
    }

    fn import(&mut self, world: &World, key: &ServiceKey, api_version: &str, now: &str, merged: &Merged) {
        let derived = derived_key(key);
        let service = world.services.get(&derived);
        let foreign =
            service.and_then(|service| service.whole.as_ref()).is_some_and(|whole| !is_ours(whole, key));
        let import = world.imports.get(key);
        let cluster_ips = match service {
            Some(service) if !foreign && !service.headless => service.cluster_ips.clone(),
            // Between the import and its derived Service, an address that was given out stays.
            None => import.map(given_out).unwrap_or_default(),
            Some(_) => Vec::new(),
        };
        let addresses = if merged.headless || merged.unsupported {
            Vec::new()
        } else {
            objects::import_addresses(merged, &cluster_ips)
        };
        let wanted = objects::import(api_version, key, merged, &addresses);
        let Some(import) = import else {
            self.actions.push(Action::Create(Kind::Import, wanted));
            return;
        };
        self.replace(Kind::Import, import, &wanted);
        // Where the families of the cluster are not known, those of the derived Service tell.
        let unsupported = merged.unsupported
            || !merged.headless && service.is_some() && addresses.is_empty() && !cluster_ips.is_empty();
        if unsupported {
            self.withhold(
                Reason::FamilyUnsupported,
                format!(
                    "{key} is exported with {}, which this cluster does not offer",
                    merged.families.join(", ")
                ),
            );
        }
        if foreign {
            self.withhold(
                Reason::ForeignObject,
                format!("Service {derived} exists and does not belong to an import"),
            );
        } else if merged.unsupported {
            self.remove_derived(world, key);
        } else {
            self.derived(world, key, api_version, merged, uid(import));
        }
        let stays =
            service.and_then(|service| service.whole.as_ref()).is_some_and(|whole| !is_terminating(whole));
        let ready = !foreign && stays && (merged.headless || !addresses.is_empty());
        let (status, reason, message) = if unsupported {
            ("False", "IPFamilyNotSupported", "this cluster offers none of the families of the exports")
        } else if ready {
            ("True", "Ready", "")
        } else {
            ("False", "Pending", "the derived Service has no address yet")
        };
        let condition =
            Condition { kind: "Ready", status, reason: reason.to_owned(), message: message.to_owned() };
        let status = json!({
            "clusters": objects::clusters(&merged.clusters),
            "conditions": conditions(&[condition], observed_conditions(import), now),
        });
        self.status(Kind::Import, key, api_version, None, (&import["status"], &status));
    }

    /// The derived Service and the copies of local slices that belong to it.
    fn derived(
        &mut self,
        world: &World,
        key: &ServiceKey,
        api_version: &str,
        merged: &Merged,
        import_uid: &str,
    ) {
        let derived = derived_key(key);
        let wanted = derived_service(api_version, key, merged, import_uid);
        let Some(service) = world.services.get(&derived) else {
            self.actions.push(Action::Create(Kind::Service, wanted));
            return;
        };
        let Some(whole) = service.whole.as_ref().filter(|whole| !is_terminating(whole)) else { return };
        if service.headless != merged.headless {
            // The cluster IP of a Service cannot change: it is deleted, and made anew once it is gone.
            self.actions.push(Action::Delete(Kind::Service, derived, uid(whole).to_owned()));
            return;
        }
        self.replace(Kind::Service, whole, &wanted);
        let mut slices = BTreeMap::new();
        let local = world.services.get(key).filter(|_| world.local_constituent(key).is_some());
        if let Some(local) = local {
            let sources = world.slices.get(key).into_iter().flatten().filter(|(_, slice)| !slice.excluded);
            let copies = sources.filter_map(|(_, slice)| {
                mirrored_slice(&world.cluster, key, merged, local, uid(whole), &slice.whole)
            });
            slices = copies
                .map(|copy| (copy["metadata"]["name"].as_str().unwrap_or_default().to_owned(), copy))
                .collect();
        }
        let others = world.offers.of(&derived);
        let others =
            others.filter(|(cluster, _)| **cluster != world.cluster && merged.clusters.contains(*cluster));
        for (cluster, mut backends) in others {
            self.withheld.extend(backends.drop_unusable(cluster));
            let imported = objects::imported_slices(key, merged, cluster, &backends, uid(whole));
            let name = |slice: &Value| slice["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            slices.extend(imported.into_iter().map(|slice| (name(&slice), slice)));
        }
        self.slices(world, &derived, slices);
    }

    /// Makes the slices that belong to `derived` those of `wanted`, by name.
    fn slices(&mut self, world: &World, derived: &ObjectKey, mut wanted: BTreeMap<String, Value>) {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (name, slice) in world.slices.get(derived).into_iter().flatten() {
            match wanted.remove(name) {
                // A name of ours says enough, whatever somebody made of the labels.
                Some(wanted) if slice.whole["addressType"] == wanted["addressType"] => {
                    kept.push((&slice.whole, wanted));
                }
                // That can never change; the slice is made anew once it is gone.
                Some(_) => gone.push((name, slice)),
                None if !is_our_slice(slice, derived) => {}
                // What the cluster offers is not known yet, so nothing of it goes.
                None if slice.source_cluster.as_ref().is_some_and(|cluster| !world.is_read(cluster)) => {}
                None => gone.push((name, slice)),
            }
        }
        // An endpoint that moves from slice to slice is in both for a moment, never in none: new slices come first, old ones
        // go last, and between them endpoints move up when there are more of them, and down when there are fewer.
        self.actions.extend(wanted.into_values().map(|slice| Action::Create(Kind::Slice, slice)));
        let endpoints = |slice: &Value| slice["endpoints"].as_array().map_or(0, Vec::len);
        let before: usize = kept.iter().map(|(observed, _)| endpoints(observed)).sum();
        let after: usize = kept.iter().map(|(_, wanted)| endpoints(wanted)).sum();
        if after >= before {
            kept.reverse();
        }
        for (observed, wanted) in kept {
            self.replace(Kind::Slice, observed, &wanted);
        }
        for (name, slice) in gone {
            self.delete_slice(derived, name, slice);
        }
    }

    fn replace(&mut self, kind: Kind, observed: &Value, wanted: &Value) {
        // What came in a list has neither.
        let mut said = wanted.clone();
        for field in ["apiVersion", "kind"] {
            said.as_object_mut().and_then(|fields| fields.remove(field));
        }
        if !covers(observed, &said) {
            self.actions.push(Action::Replace(kind, overlay(observed, wanted)));
        }
    }

    /// Makes the observed status of an import or export the wanted one; of exactly this version of the object, if one is given.
    fn status(
        &mut self,
        kind: Kind,
        key: &ServiceKey,
        api_version: &str,
        version: Option<&str>,
        (observed, wanted): (&Value, &Value),
    ) {
        if covers(observed, wanted) {
            return;
        }
        self.actions.push(Action::ReplaceStatus(
            kind,
            json!({
                "apiVersion": api_version,
                "kind": if kind == Kind::Export { "ServiceExport" } else { "ServiceImport" },
                "metadata": {"namespace": &*key.namespace, "name": &*key.name, "resourceVersion": version},
                "status": overlay(observed, wanted),
            }),
        ));
    }

    /// Conditions of the local ServiceExport, if there is one.
    fn export_status(
        &mut self,
        world: &World,
        key: &ServiceKey,
        api_version: &str,
        now: &str,
        merged: Option<&Merged>,
    ) {
        let Some(export) = world.exports.get(key).filter(|export| !export.deleting) else { return };
        let invalid = match world.services.get(key) {
            _any if !world.namespace_is_global(&key.namespace) => Some((
                "NamespaceNotGlobal",
                format!("namespace {} does not take part in the mesh", key.namespace),
            )),
            None => Some(("NoService", format!("there is no Service {key}"))),
            Some(service) if service.external_name => Some((
                "InvalidServiceType",
                "a Service of type ExternalName has no endpoints to export".to_owned(),
            )),
            Some(_exportable) => None,
        };
        if let Some((reason, message)) = &invalid {
            let code = match *reason {
                "NoService" => Reason::ExportWithoutService,
                "InvalidServiceType" => Reason::ServiceExternalName,
                _namespace => Reason::NamespaceNotGlobal,
            };
            self.withhold(code, message.clone());
        }
        let wanted = export_conditions(invalid, merged);
        if let Some(conflict) =
            wanted.iter().find(|condition| condition.kind == "Conflict" && condition.status == "True")
        {
            self.withhold(Reason::ExportConflict, conflict.message.clone());
        }
        let observed = json!({"conditions": export.conditions});
        let status = json!({"conditions": merged_conditions(export, &wanted, now)});
        // Others write conditions there, too: what was written meanwhile is not lost.
        let version = Some(export.resource_version.as_str()).filter(|version| !version.is_empty());
        self.status(Kind::Export, key, api_version, version, (&observed, &status));
    }
}

fn export_conditions(invalid: Option<(&'static str, String)>, merged: Option<&Merged>) -> Vec<Condition> {
    if let Some((reason, message)) = invalid {
        return vec![
            Condition { kind: "Valid", status: "False", reason: reason.to_owned(), message: message.clone() },
            Condition { kind: "Ready", status: "False", reason: "Pending".to_owned(), message },
        ];
    }
    let reasons: Vec<_> =
        merged.into_iter().flat_map(|merged| &merged.conflicts).map(|c: &Conflict| c.reason()).collect();
    let conflict = if reasons.is_empty() {
        Condition {
            kind: "Conflict",
            status: "False",
            reason: "NoConflicts".to_owned(),
            message: String::new(),
        }
    } else {
        let clusters: Vec<_> =
            merged.into_iter().flat_map(|merged| &merged.clusters).map(ToString::to_string).collect();
        let message =
            format!("the exports of clusters {} differ; the oldest export decides", clusters.join(", "));
        Condition { kind: "Conflict", status: "True", reason: reasons.join(","), message }
    };
    vec![
        Condition { kind: "Valid", status: "True", reason: "Valid".to_owned(), message: String::new() },
        Condition { kind: "Ready", status: "True", reason: "Ready".to_owned(), message: String::new() },
        conflict,
    ]
}

/// The wanted conditions, beside those of other writers.
fn merged_conditions(export: &LocalExport, wanted: &[Condition], now: &str) -> Vec<Value> {
    const OURS: [&str; 3] = ["Valid", "Ready", "Conflict"];
    let ours = conditions(wanted, &export.conditions, now);
    let others = export
        .conditions
        .iter()
        .filter(|other| !other["type"].as_str().is_some_and(|kind| OURS.contains(&kind)));
    ours.into_iter().chain(others.cloned()).collect()
}

/// The addresses of an import as it stands.
fn given_out(import: &Value) -> Vec<String> {
    let ips = import.pointer("/spec/ips").and_then(Value::as_array).into_iter().flatten();
    ips.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn observed_conditions(import: &Value) -> &[Value] {
    import.pointer("/status/conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The slices that were made for a derived Service, with their names: by their labels, or by their owner where somebody
/// changed those.
fn our_slices<'a>(
    world: &'a World,
    derived: &'a ObjectKey,
) -> impl Iterator<Item = (&'a str, &'a LocalSlice)> {
    let slices = world.slices.get(derived).into_iter().flatten();
    slices.filter(|(_, slice)| is_our_slice(slice, derived)).map(|(name, slice)| (name.as_str(), slice))
}

fn is_our_slice(slice: &LocalSlice, derived: &ObjectKey) -> bool {
    slice.mirrored
        || slice.source_cluster.is_some()
        || !slice.by_kubernetes && is_owned_by(&slice.whole, "Service", &derived.name)
}

/// Whether a Service of the derived name was made for the import of `key`.
///
/// The owner's UID does not count: names are used once at a time, so another one is that of an import that is no more, and
/// the new import takes the Service over with its address. So it does where the owner was taken away (a deletion that
/// leaves orphans).
fn is_ours(service: &Value, key: &ServiceKey) -> bool {
    let label = service.pointer("/metadata/labels").and_then(|labels| labels.get(MCS_SERVICE_LABEL));
    label.and_then(Value::as_str) == Some(&*key.name)
        && (is_owned_by(service, "ServiceImport", &key.name) || !has_owner(service))
}

/// Whether an object is on its way out: it gives way to another once it is gone.
fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

#[cfg(test)]
mod tests;
