//! What a cluster's agent makes of the services of all clusters, and what moved between two looks. Pure.

use agent_sync::api::schema::{ServiceRecord, Services};
use std::collections::BTreeMap;

/// The services that an agent knows, by `namespace/name`; those without a backend in other clusters too.
pub(crate) type View = BTreeMap<String, Service>;

/// A service as an agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// By address.
    pub(crate) backends: BTreeMap<String, Backend>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Where it is.
    pub(crate) cluster: String,
    /// Why it gets no connections; nothing if it does.
    pub(crate) unused: Option<String>,
}

impl Service {
    /// How many backends get connections.
    pub(crate) fn used(&self) -> usize {
        self.backends.values().filter(|backend| backend.unused.is_none()).count()
    }

    /// How many of them are in that cluster.
    pub(crate) fn used_of(&self, cluster: &str) -> usize {
        let used = self.backends.values().filter(|backend| backend.unused.is_none());
        used.filter(|backend| backend.cluster == cluster).count()
    }

    /// How many backends there are.
    pub(crate) fn known(&self) -> usize {
        self.backends.len()
    }

    fn of(record: &ServiceRecord) -> Self {
        let backends =
            record.frontends.first().map(|frontend| frontend.backends.as_slice()).unwrap_or_default();
        let backend = |row: &agent_sync::api::schema::BackendRecord| {
            let why = || row.reason.clone().unwrap_or_else(|| row.state.clone());
            let unused = (!row.selected).then(why);
            (row.address.clone(), Backend { cluster: row.cluster.clone(), unused })
        };
        Self { backends: backends.iter().map(backend).collect() }
    }
}

/// The global services of an agent's table.
pub(crate) fn view(services: &Services) -> View {
    let global = services.services.iter().filter(|service| service.global || !service.clusters.is_empty());
    global.map(|record| (format!("{}/{}", record.namespace, record.name), Service::of(record))).collect()
}

/// What is different in a service, in words; nothing if nothing is.
pub(crate) fn moved(before: Option<&Service>, after: Option<&Service>) -> Option<String> {
    let none = Service::default();
    let (old, new) = (before.unwrap_or(&none), after.unwrap_or(&none));
    if before.is_some() == after.is_some() && old == new {
        return None;
    }
    let mut parts = Vec::new();
    let mut say = |sign: &str, rows: Vec<(&String, &Backend)>, why: &dyn Fn(&Backend) -> String| {
        if rows.is_empty() {
            return;
        }
        let (_, first) = rows[0];
        let addresses: Vec<_> = rows.iter().map(|(address, _)| address.as_str()).collect();
        parts.push(format!("{sign}{} ({}{})", addresses.join(" "), first.cluster, why(first)));
    };
    let mut clusters: Vec<_> = old.backends.values().chain(new.backends.values()).collect();
    clusters.sort_by(|one, other| one.cluster.cmp(&other.cluster));
    clusters.dedup_by(|one, other| one.cluster == other.cluster);
    for cluster in clusters.into_iter().map(|backend| backend.cluster.as_str()) {
        let is_here = |(_, backend): &(&String, &Backend)| backend.cluster == cluster;
        let used = |service: &Service, address: &String| {
            service.backends.get(address).is_some_and(|backend| backend.unused.is_none())
        };
        let gone =
            old.backends.iter().filter(is_here).filter(|(address, _)| !new.backends.contains_key(*address));
        say("-", gone.collect(), &|_| String::new());
        let left = new.backends.iter().filter(is_here);
        let left = left.filter(|(address, backend)| backend.unused.is_some() && used(old, address));
        say("unused: ", left.collect(), &|backend| {
            format!(", {}", backend.unused.as_deref().unwrap_or_default())
        });
        let taken = new.backends.iter().filter(is_here);
        let taken = taken.filter(|(address, _)| used(new, address) && !used(old, address));
        say("+", taken.collect(), &|_| String::new());
    }
    parts.push(match (after.is_none(), new.known()) {
        (true, _) => "gone".to_owned(),
        (false, 0) => "no backends for a Service here".to_owned(),
        (false, known) => format!("{} of {known} in use", new.used()),
    });
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(backends: &[(&str, &str, Option<&str>)]) -> Service {
        let backend = |(address, cluster, unused): &(&str, &str, Option<&str>)| {
            let unused = unused.map(str::to_owned);
            ((*address).to_owned(), Backend { cluster: (*cluster).to_owned(), unused })
        };
        Service { backends: backends.iter().map(backend).collect() }
    }

    #[test]
    fn what_moved_names_addresses_clusters_and_reasons() {
        let both = service(&[("10.1.0.1", "west", None), ("10.2.0.1", "east", None)]);
        let cases = [
            (None, Some(both.clone()), Some("+10.2.0.1 (east), +10.1.0.1 (west), 2 of 2 in use")),
            (Some(both.clone()), Some(both.clone()), None),
            (
                Some(both.clone()),
                Some(service(&[("10.2.0.1", "east", None)])),
                Some("-10.1.0.1 (west), 1 of 1 in use"),
            ),
            (
                Some(both.clone()),
                Some(service(&[("10.1.0.1", "west", None), ("10.2.0.1", "east", Some("affinity-local"))])),
                Some("unused: 10.2.0.1 (east, affinity-local), 1 of 2 in use"),
            ),
            (Some(both), None, Some("-10.2.0.1 (east), -10.1.0.1 (west), gone")),
        ];
        for (before, after, expected) in cases {
            assert_eq!(moved(before.as_ref(), after.as_ref()).as_deref(), expected);
        }
    }

    #[test]
    fn only_backends_that_get_connections_count_as_used() {
        let service = service(&[("10.1.0.1", "west", None), ("10.2.0.1", "east", Some("affinity-local"))]);
        assert_eq!((service.used(), service.known()), (1, 2));
        assert_eq!((service.used_of("west"), service.used_of("east")), (1, 0));
    }
}
