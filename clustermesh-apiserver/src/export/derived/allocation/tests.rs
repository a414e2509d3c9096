use mesh_types::{ClusterId, MaxClusters};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

fn space(max: MaxClusters) -> Space {
    Space::new(ClusterId::new(3, max).unwrap().identities(max))
}

fn labels(number: u32) -> Arc<str> {
    format!("k8s:app=app-{number};").into()
}

/// The API: objects with versions, replaced on condition.
#[derive(Debug, Default)]
struct Api {
    shards: BTreeMap<u32, (u64, Shard)>,
    version: u64,
    writes: usize,
}

impl Api {
    /// Whether the replacement took place.
    fn replace(&mut self, replacement: &Replacement) -> bool {
        let current = self.shards.get(&replacement.shard).map(|(version, _)| version.to_string());
        if current != replacement.version {
            return false;
        }
        self.version += 1;
        self.writes += 1;
        self.shards.insert(replacement.shard, (self.version, replacement.records.clone()));
        true
    }

    fn show(&self, allocator: &mut Allocator) {
        for shard in 0..SHARDS {
            match self.shards.get(&shard) {
                Some((version, records)) => allocator.observe(shard, version.to_string(), records.clone()),
                None => allocator.observe_gone(shard),
            }
        }
    }

    /// What the shell does: write, and on a conflict look again.
    fn settle(&mut self, allocator: &mut Allocator, now: Instant, collect: bool) {
        for _ in 0..4 {
            let replacements = allocator.replacements(now, collect);
            for replacement in &replacements {
                self.replace(replacement);
            }
            self.show(allocator);
            if replacements.is_empty() {
                return;
            }
        }
        panic!("the allocator does not settle");
    }

    fn all(&self) -> Vec<(NumericIdentity, Arc<str>)> {
        let records = self.shards.values().flat_map(|(_, records)| records);
        records.map(|(number, labels)| (*number, Arc::clone(labels))).collect()
    }
}

fn allocator() -> Allocator {
    Allocator::new(space(MaxClusters::C255), GRACE)
}

#[test]
fn numbers_lie_in_the_range_and_shards_do_not_overlap() {
    for max in [MaxClusters::C255, MaxClusters::C511] {
        let space = space(max);
        let range = ClusterId::new(3, max).unwrap().identities(max);
        assert_eq!(space.number(0, 0), range.first);
        assert_eq!(space.number(SHARDS - 1, space.slots() - 1), range.last);
        for shard in 1..SHARDS {
            assert_eq!(space.number(shard, 0).0, space.number(shard - 1, space.slots() - 1).0 + 1);
        }
    }
}

#[test]
fn a_restart_and_another_replica_find_the_same_numbers() {
    let (mut api, now) = (Api::default(), Instant::now());
    let wanted: BTreeSet<_> = (0..500).map(labels).collect();
    let mut first = allocator();
    first.want(wanted.clone());
    api.settle(&mut first, now, false);
    let writes = api.writes;
    let mut second = allocator();
    api.show(&mut second);
    second.want(wanted.clone());
    assert!(second.replacements(now, true).is_empty(), "everything is recorded already");
    assert_eq!(second.records(), first.records());
    assert!(wanted.iter().all(|labels| second.records().number(labels).is_ok()));
    assert_eq!(writes, usize::try_from(SHARDS).unwrap(), "one write per shard however many label sets");
}

#[test]
fn records_that_someone_deleted_come_back_with_the_same_numbers() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut allocator = allocator();
    allocator.want((0..500).map(labels).collect());
    api.settle(&mut allocator, now, false);
    let before = allocator.records();
    api.shards.clear();
    api.show(&mut allocator);
    assert_eq!(allocator.records(), before, "what is in use stays in use");
    api.settle(&mut allocator, now, false);
    assert_eq!(allocator.records(), before);
    assert_eq!(api.all().len(), 500);
}

#[test]
fn a_record_is_removed_when_nobody_needed_it_for_the_grace() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut allocator = allocator();
    allocator.want([labels(1), labels(2)].into());
    api.settle(&mut allocator, now, true);
    allocator.want([labels(1)].into());
    api.settle(&mut allocator, now, true);
    api.settle(&mut allocator, now + GRACE / 2, true);
    assert_eq!(api.all().len(), 2, "the grace is not over");
    allocator.want([labels(1), labels(2)].into());
    api.settle(&mut allocator, now + GRACE, true);
    allocator.want([labels(1)].into());
    api.settle(&mut allocator, now + GRACE, true);
    api.settle(&mut allocator, now + GRACE + GRACE / 2, true);
    assert_eq!(api.all().len(), 2, "it was needed again, so the grace began anew");
    api.settle(&mut allocator, now + GRACE * 2, false);
    assert_eq!(api.all().len(), 2, "who does not know all pods removes nothing");
    api.settle(&mut allocator, now + GRACE * 2, true);
    assert_eq!(api.all().into_iter().map(|(_, labels)| labels).collect::<Vec<_>>(), [labels(1)]);
}

#[test]
fn label_sets_without_a_free_number_are_refused_until_there_is_one() {
    let mut allocator = allocator();
    let slots = allocator.space.slots();
    // Fill the shard of one label set completely.
    let wanted = labels(0);
    let (shard, _) = allocator.space.place(&wanted);
    let fillers = (1..).map(labels).filter(|labels| allocator.space.place(labels).0 == shard);
    let records: Shard = (0..slots).map(|slot| allocator.space.number(shard, slot)).zip(fillers).collect();
    let mut api = Api::default();
    api.shards.insert(shard, (1, records.clone()));
    api.version = 1;
    api.show(&mut allocator);
    allocator.want([Arc::clone(&wanted)].into());
    let now = Instant::now();
    assert!(allocator.replacements(now, true).is_empty());
    assert_eq!(allocator.records().number(&wanted).unwrap_err().reason, Reason::IdentitiesExhausted);
    assert!(allocator.records().is_settled(&wanted));

    api.settle(&mut allocator, now + GRACE, true);
    let number = allocator.records().number(&wanted).unwrap();
    assert_eq!(number, allocator.space.number(shard, allocator.space.place(&wanted).1));
}

#[test]
fn records_of_another_cluster_id_or_in_the_wrong_place_do_not_count() {
    let mut allocator = allocator();
    let (shard, _) = allocator.space.place(&labels(1));
    let foreign = NumericIdentity(70_000);
    let misplaced = allocator.space.number((shard + 1) % SHARDS, 5);
    let records = Shard::from([(foreign, labels(1)), (misplaced, labels(1))]);
    allocator.observe(shard, "1".into(), records);
    allocator.want([labels(1)].into());
    assert!(!allocator.records().is_settled(&labels(1)));
    let replacements = allocator.replacements(Instant::now(), false);
    let [Replacement { records, version: Some(version), .. }] = &replacements[..] else {
        panic!("one shard")
    };
    assert_eq!((records.len(), version.as_str()), (1, "1"), "they are removed with the next write");
}

#[test]
fn news_that_are_older_than_what_is_known_say_nothing() {
    let mut allocator = allocator();
    let (shard, slot) = allocator.space.place(&labels(1));
    let number = allocator.space.number(shard, slot);
    allocator.want([labels(1)].into());
    allocator.observe(shard, "10".into(), Shard::from([(number, labels(1))]));
    allocator.observe(shard, "9".into(), Shard::new());
    assert!(allocator.replacements(Instant::now(), false).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    /// A replica learns which label sets are needed.
    Want(usize, BTreeSet<u32>),
    /// A replica looks at the API.
    Look(usize),
    /// A replica writes what it thinks is due, from what it saw last.
    Write(usize, bool),
    /// A replica restarts.
    Restart(usize),
    /// Time passes.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let replica = 0usize..2;
    prop_oneof![
        2 => (replica.clone(), btree_set(0u32..12, 0..8)).prop_map(|(replica, wanted)| Step::Want(replica, wanted)),
        3 => replica.clone().prop_map(Step::Look),
        4 => (replica.clone(), any::<bool>()).prop_map(|(replica, collect)| Step::Write(replica, collect)),
        1 => replica.prop_map(Step::Restart),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    /// However two replicas interleave, no label set ever has two records, no number two label sets, and a recorded number that
    /// both need does not change.
    #[test]
    fn replicas_agree(steps in vec(step(), 0..60)) {
        let mut api = Api::default();
        // Four numbers per shard make collisions.
        let tiny = Space::new(IdentityRange { first: NumericIdentity(1000), last: NumericIdentity(1000 + SHARDS * 4 - 1) });
        let fresh = || Allocator::new(tiny, GRACE);
        let mut replicas = [fresh(), fresh()];
        let mut wanted = [BTreeSet::new(), BTreeSet::new()];
        let mut now = Instant::now();
        for step in steps {
            let before: BTreeMap<_, _> = api.all().into_iter().map(|(number, labels)| (labels, number)).collect();
            match step {
                Step::Want(replica, numbers) => {
                    wanted[replica] = numbers.into_iter().map(labels).collect();
                    replicas[replica].want(wanted[replica].clone());
                }
                Step::Look(replica) => api.show(&mut replicas[replica]),
                Step::Write(replica, collect) => {
                    for replacement in replicas[replica].replacements(now, collect) {
                        if api.replace(&replacement) {
                            let version = api.version.to_string();
                            replicas[replica].observe(replacement.shard, version, replacement.records);
                        }
                    }
                }
                Step::Restart(replica) => {
                    replicas[replica] = fresh();
                    replicas[replica].want(wanted[replica].clone());
                }
                Step::Wait => now += GRACE,
            }
            let all = api.all();
            let numbers: BTreeMap<_, _> = all.iter().cloned().collect();
            let sets: BTreeMap<_, _> = all.iter().map(|(number, labels)| (Arc::clone(labels), *number)).collect();
            prop_assert_eq!((numbers.len(), sets.len()), (all.len(), all.len()));
            for (labels, number) in &sets {
                if let Some(former) = before.get(labels) {
                    prop_assert_eq!(former, number, "the record of {} changed", labels);
                }
            }
        }
        // In the end both know what is recorded, and need the same.
        let both: BTreeSet<_> = &wanted[0] | &wanted[1];
        for replica in &mut replicas {
            api.show(replica);
            replica.want(both.clone());
        }
        for replica in &mut replicas {
            api.show(replica);
            api.settle(replica, now, false);
        }
        api.show(&mut replicas[0]);
        let [one, two] = [replicas[0].records(), replicas[1].records()];
        for labels in &both {
            prop_assert_eq!(one.number(labels), two.number(labels));
        }
    }
}
