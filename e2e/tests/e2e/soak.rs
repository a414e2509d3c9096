//! Daemons and stores are killed at random moments while everything changes; in the end nothing is lost, and nothing that
//! was good has ever been withdrawn.
//!
//! ```text
//!  dice (seed) ──▶ churn: services, backends, identities ──▶ the clusters' API servers
//!            └───▶ kill −9, restart a little later       ──▶ their daemons and stores
//!  witness of each agent: the backends that existed throughout, all of them, at every look
//! ```
//!
//! `ISTHMUS_SOAK_SECONDS` is how long (20 s; `make soak` takes ten minutes), `ISTHMUS_SOAK_SEED` throws the same dice again.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, ensure};
use e2e::{AgentView, Kubectl, Mesh, Part, objects};
use serde_json::Value;

use crate::path::{EndOnDrop, GLOBAL, addresses, apply_service, backends_become, bed_of};

const CLUSTERS: [&str; 3] = ["west", "east", "north"];
const PARTS: [Part; 4] = [Part::Store, Part::Exporter, Part::Mirror, Part::Agent(0)];
/// Services that come and go, in each cluster.
const SERVICES: u64 = 5;
/// Addresses that a service has at most.
const ADDRESSES: u64 = 5;
/// Identities that come and go, in each cluster. Fewer than what is held back when it goes at once.
const IDENTITIES: u64 = 8;
/// Between two deaths, at least.
const BREATH: Duration = Duration::from_millis(700);
/// Fewer deaths than this, and one more, show nothing.
const FEWEST: u64 = 3;
/// How long the dead stay so, at most.
const LONGEST_DEATH_MS: u64 = 4000;
/// How long both sides may take to be equal once nothing dies any more. Leases of the dead do not matter for it.
const CONVERGED: Duration = Duration::from_secs(180);

#[test]
fn killing_anything_at_any_moment_under_churn_withdraws_nothing_good_and_loses_nothing() {
    let length = Duration::from_secs(from_env("ISTHMUS_SOAK_SECONDS").unwrap_or(20));
    let seed = from_env("ISTHMUS_SOAK_SEED").unwrap_or(7);
    println!("soak for {length:?}; the same dice again: ISTHMUS_SOAK_SEED={seed}");
    let bed = bed_of("soak", &CLUSTERS);
    // One store whose data outlives it, two that come back empty.
    let mut mesh = Mesh::builder(&bed).etcd("north").start().unwrap();
    let steady = start_steady(&mesh);
    let witnesses: Vec<Witness> = CLUSTERS
        .iter()
        .map(|name| Witness::new(name, mesh.member(name).agent_view(0), steady.clone()))
        .collect();
    let over = AtomicBool::new(false);
    let mut soak = Soak::new(&mesh, seed);
    thread::scope(|scope| {
        for witness in &witnesses {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    witness.look();
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        // A panic must not leave the witnesses looking for ever.
        let end = EndOnDrop(&over);
        soak.run(&mut mesh, &witnesses, length);
        soak.everything_is_equal(&mesh);
        drop(end);
    });
    for witness in &witnesses {
        let told = witness.told.lock().unwrap();
        assert!(told.wrong.is_empty(), "{}: {:#?}\n{}", witness.cluster, told.wrong, bed.diary().read());
        assert!(told.looks > length.as_secs(), "{} looked {} times only", witness.cluster, told.looks);
        println!("{}: {} looks at {} backends that stay", witness.cluster, told.looks, steady.len());
    }
    println!("{} deaths, {} ends, {} changes", soak.deaths, soak.ends, soak.changes);
    assert!(
        soak.deaths > FEWEST && soak.changes > FEWEST,
        "{} deaths, {} changes",
        soak.deaths,
        soak.changes
    );
    for (name, part) in CLUSTERS.iter().flat_map(|name| PARTS.map(|part| (name, part))) {
        let log = mesh.member(name).log(part).unwrap();
        assert!(!log.contains("panicked at"), "{part:?} of {name}: {log}");
    }
}

fn from_env(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .map(|text| u64::from_str(&text).unwrap_or_else(|_| panic!("{name}: expected a number")))
}

/// The service whose backends exist throughout.
fn start_steady(mesh: &Mesh<'_>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (name, id) in CLUSTERS.iter().zip(1..) {
        let own = [format!("10.9.{id}.1"), format!("10.9.{id}.2")];
        let own = own.each_ref().map(String::as_str);
        apply_service(mesh, name, "steady", &[GLOBAL], &[("steady-1", &own)]);
        all.extend(own.map(|address| format!("{name} {address}:8080")));
    }
    let expected: Vec<&str> = all.iter().map(String::as_str).collect();
    for name in CLUSTERS {
        backends_become(mesh, name, "steady", &expected);
    }
    all
}

/// Looks at one agent.
struct Witness {
    cluster: &'static str,
    agent: AgentView,
    steady: BTreeSet<String>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// Which life of the agent this is.
    life: u64,
    /// It has shown all of them in this life, so it must go on to do so.
    whole: bool,
    looks: u64,
    wrong: Vec<String>,
}

impl Witness {
    fn new(cluster: &'static str, agent: AgentView, steady: BTreeSet<String>) -> Self {
        Self { cluster, agent, steady, told: Mutex::default() }
    }

    /// The agent dies now; the next one has to read its tables again.
    fn agent_dies(&self) {
        let mut told = self.told.lock().unwrap();
        (told.life, told.whole) = (told.life + 1, false);
    }

    fn look(&self) {
        let life = self.told.lock().unwrap().life;
        // One that does not answer is dead or was just born.
        let Ok(found) = self.agent.backends("shop", "steady") else { return };
        let mut told = self.told.lock().unwrap();
        if told.life != life {
            return;
        }
        told.looks += 1;
        let missing: Vec<_> = self.steady.difference(&found).collect();
        if missing.is_empty() {
            told.whole = true;
        } else if told.whole {
            // Told once for each time it happens.
            told.whole = false;
            let wrong = format!("withdrawn in life {life}: {missing:?}");
            told.wrong.push(wrong);
        }
    }
}

/// What a cluster's API server is told.
#[derive(Debug, Default)]
struct Source {
    /// The last bytes of the backends' addresses, by service.
    services: BTreeMap<u64, BTreeSet<u64>>,
    identities: BTreeSet<u64>,
}

struct Soak {
    dice: Dice,
    kubectl: Vec<Kubectl>,
    sources: Vec<Source>,
    dead: BTreeMap<(usize, Part), Instant>,
    deaths: u64,
    /// How often one ended by itself, as a mirror does whose store was replaced by an empty one, and was started again.
    ends: u64,
    changes: u64,
}

impl Soak {
    fn new(mesh: &Mesh<'_>, seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            kubectl: CLUSTERS.iter().map(|name| mesh.member(name).cluster().kubectl().clone()).collect(),
            sources: CLUSTERS.iter().map(|_| Source::default()).collect(),
            dead: BTreeMap::new(),
            deaths: 0,
            ends: 0,
            changes: 0,
        }
    }

    fn run(&mut self, mesh: &mut Mesh<'_>, witnesses: &[Witness], length: Duration) {
        let end = Instant::now() + length;
        let mut next_death = Instant::now();
        // On a machine that is slow it takes longer until enough has died.
        while Instant::now() < end || self.deaths <= FEWEST {
            self.change_something().unwrap();
            if Instant::now() >= next_death {
                self.kill_something(mesh, witnesses);
                next_death = Instant::now() + BREATH + Duration::from_millis(self.dice.below(1000));
            }
            self.bring_back(mesh, Instant::now());
            self.restart_the_ended(mesh, witnesses);
        }
        self.bring_back(mesh, end + Duration::from_secs(3600));
        let calm = Instant::now() + CONVERGED;
        loop {
            self.restart_the_ended(mesh, witnesses);
            match everything_is_ready(mesh) {
                Ok(()) => return,
                Err(error) => assert!(Instant::now() < calm, "{error:#}\n{}", mesh.bed().diary().read()),
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// As kubelet does with a container.
    fn restart_the_ended(&mut self, mesh: &mut Mesh<'_>, witnesses: &[Witness]) {
        for (cluster, part) in (0..CLUSTERS.len()).flat_map(|cluster| PARTS.map(|part| (cluster, part))) {
            if self.dead.contains_key(&(cluster, part)) {
                continue;
            }
            let daemon = mesh.member_mut(CLUSTERS[cluster]).daemon_mut(part);
            if daemon.process().exited().unwrap().is_some() {
                if matches!(part, Part::Agent(_)) {
                    witnesses[cluster].agent_dies();
                }
                daemon.restart().unwrap();
                self.ends += 1;
            }
        }
    }

    fn kill_something(&mut self, mesh: &mut Mesh<'_>, witnesses: &[Witness]) {
        let (cluster, part) = (self.dice.index(CLUSTERS.len()), PARTS[self.dice.index(PARTS.len())]);
        let back = Instant::now() + Duration::from_millis(self.dice.below(LONGEST_DEATH_MS));
        if self.dead.contains_key(&(cluster, part)) {
            return;
        }
        if matches!(part, Part::Agent(_)) {
            witnesses[cluster].agent_dies();
        }
        let daemon = mesh.member_mut(CLUSTERS[cluster]).daemon_mut(part);
        if daemon.process().exited().unwrap().is_some() {
            return;
        }
        daemon.kill9().unwrap();
        self.dead.insert((cluster, part), back);
        self.deaths += 1;
    }

    fn bring_back(&mut self, mesh: &mut Mesh<'_>, now: Instant) {
        for ((cluster, part), _) in self.dead.extract_if(.., |_, back| *back <= now) {
            mesh.member_mut(CLUSTERS[cluster]).daemon_mut(part).restart().unwrap();
        }
    }

    fn change_something(&mut self) -> Result<()> {
        let cluster = self.dice.index(CLUSTERS.len());
        let (kubectl, source) = (&self.kubectl[cluster], &mut self.sources[cluster]);
        self.changes += 1;
        if self.dice.below(4) == 0 {
            let identity = 1 + self.dice.below(IDENTITIES);
            let id =
                u32::try_from(((cluster as u64 + 1) << 16) + identity).context("an identity's number")?;
            if source.identities.remove(&identity) {
                return kubectl.delete("", "ciliumidentity", &id.to_string());
            }
            source.identities.insert(identity);
            let app = format!("app-{identity}");
            let object = objects::cilium_identity(id, CLUSTERS[cluster], "shop", &[("app", &app)]);
            return kubectl.apply_object(&object);
        }
        let service = self.dice.below(SERVICES);
        let (name, slice) = (format!("churn-{service}"), format!("churn-{service}-1"));
        if self.dice.below(4) == 0 && source.services.remove(&service).is_some() {
            kubectl.delete("shop", "service", &name)?;
            return kubectl.delete("shop", "endpointslice", &slice);
        }
        let backends: BTreeSet<u64> = (1..=ADDRESSES).filter(|_| self.dice.below(2) == 0).collect();
        let named: Vec<String> = backends.iter().map(|last| address(cluster, service, *last)).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let items = [
            objects::service("shop", &name, 80, &[GLOBAL]),
            objects::endpoint_slice("shop", &name, &slice, &addresses(&named), 8080),
        ];
        kubectl.apply_object(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
        source.services.insert(service, backends);
        Ok(())
    }

    /// Each store has what its API server says, each cache what the store says, each agent the sum of all.
    fn everything_is_equal(&self, mesh: &Mesh<'_>) {
        for (cluster, (name, source)) in CLUSTERS.iter().zip(&self.sources).enumerate() {
            let what = format!("the store of {name} has what its API server says");
            mesh.bed().eventually(&what, CONVERGED, || exported(mesh, cluster, source));
            for reader in CLUSTERS.iter().filter(|reader| *reader != name) {
                let what = format!("{reader} mirrors {name}");
                mesh.bed().eventually(&what, CONVERGED, || mirrored(mesh, name, reader));
            }
        }
        for (cluster, name) in CLUSTERS.iter().enumerate() {
            for service in self.sources[cluster].services.keys() {
                let expected: BTreeSet<String> =
                    (0..CLUSTERS.len()).flat_map(|owner| self.backends(owner, *service)).collect();
                let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
                backends_become(mesh, name, &format!("churn-{service}"), &expected);
            }
        }
    }

    fn backends(&self, owner: usize, service: u64) -> Vec<String> {
        let backends = self.sources[owner].services.get(&service).into_iter().flatten();
        let named =
            backends.map(|last| format!("{} {}:8080", CLUSTERS[owner], address(owner, service, *last)));
        named.collect()
    }
}

fn everything_is_ready(mesh: &Mesh<'_>) -> Result<()> {
    for (name, part) in CLUSTERS.iter().flat_map(|name| PARTS.map(|part| (name, part))) {
        let ready = mesh.member(name).daemon(part).health("/readyz");
        ready.with_context(|| format!("{part:?} of {name}"))?;
    }
    Ok(())
}

fn address(cluster: usize, service: u64, last: u64) -> String {
    format!("10.8.{}.{}", cluster + 1, 10 * service + last)
}

fn exported(mesh: &Mesh<'_>, cluster: usize, source: &Source) -> Result<()> {
    let name = CLUSTERS[cluster];
    let etcdctl = mesh.member(name).etcdctl();
    let prefix = format!("cilium/state/services/v1/{name}/shop/churn-");
    let mut services = BTreeMap::new();
    for (key, value) in etcdctl.get_prefix(&prefix)? {
        let number: u64 = key[prefix.len()..].parse().with_context(|| key.clone())?;
        let value: Value = serde_json::from_slice(&value).context(key)?;
        let backends =
            value["backends"].as_object().into_iter().flatten().map(|(address, _)| address.clone());
        services.insert(number, backends.collect::<BTreeSet<_>>());
    }
    let expected = source.services.iter().map(|(service, backends)| {
        (*service, backends.iter().map(|last| address(cluster, *service, *last)).collect::<BTreeSet<_>>())
    });
    let expected: BTreeMap<_, _> = expected.collect();
    ensure!(services == expected, "expected {expected:?}, found {services:?}");
    let prefix = "cilium/state/identities/v1/id/";
    let identities: BTreeSet<String> =
        etcdctl.get_prefix(prefix)?.into_keys().map(|key| key[prefix.len()..].to_owned()).collect();
    let id = |identity: &u64| (((cluster as u64 + 1) << 16) + identity).to_string();
    let expected: BTreeSet<String> = source.identities.iter().map(id).collect();
    ensure!(identities == expected, "expected {expected:?}, found {identities:?}");
    Ok(())
}

fn mirrored(mesh: &Mesh<'_>, owner: &str, reader: &str) -> Result<()> {
    let state = mesh.member(owner).etcdctl().get_prefix("cilium/state/")?;
    let expected: BTreeMap<String, Vec<u8>> = state
        .into_iter()
        .map(|(key, value)| {
            let key = key.replacen("cilium/state/", "cilium/cache/", 1);
            let key = key.replacen("/ip/v1/default/", &format!("/ip/v1/{owner}/"), 1);
            (key.replacen("/identities/v1/id/", &format!("/identities/v1/{owner}/id/"), 1), value)
        })
        .collect();
    let cache = mesh.member(reader).etcdctl().get_prefix("cilium/cache/")?;
    let is_owners = |key: &str| key.split('/').nth(4) == Some(owner);
    let found: BTreeMap<_, _> = cache.into_iter().filter(|(key, _)| is_owners(key)).collect();
    ensure!(!expected.is_empty(), "{owner} exports nothing");
    if found == expected {
        return Ok(());
    }
    let differs = |key: &&String| expected.get(*key) != found.get(*key);
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).filter(differs).collect();
    ensure!(keys.is_empty(), "these differ: {keys:?}");
    Ok(())
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index below a length")
    }
}
