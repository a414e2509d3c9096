use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

struct Bench {
    ledger: Ledger,
    namespaces: Namespaces,
    table: WithheldTable,
    /// What a consumer that carries out every delta holds.
    written: BTreeMap<Arc<str>, Bytes>,
    deltas: usize,
}

fn object(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

impl Bench {
    fn new() -> Self {
        let mut namespaces = Namespaces::new(true);
        namespaces.apply("shop", Some(Default::default()));
        Self {
            ledger: Ledger::new(Kind::CiliumEndpoint),
            namespaces,
            table: WithheldTable::default(),
            written: BTreeMap::new(),
            deltas: 0,
        }
    }

    fn carry_out(&mut self, deltas: Vec<Delta>) {
        self.deltas += deltas.len();
        for (name, value) in deltas {
            match value {
                Some(value) => drop(self.written.insert(name, value)),
                None => {
                    assert!(self.written.remove(&name).is_some(), "deleted {name}, which was not written")
                }
            }
        }
    }

    fn put(&mut self, name: &str, entries: &[(&str, &str)]) {
        self.put_in(name, Some("shop"), entries);
    }

    fn put_in(&mut self, name: &str, namespace: Option<&str>, entries: &[(&str, &str)]) {
        let mut unit = Unit::in_namespace(namespace);
        let entry =
            |(name, value): &(&str, &str)| Entry { name: (*name).into(), value: value.to_string().into() };
        unit.set_entries(entries.iter().map(entry).collect());
        let deltas = self.ledger.put(&object(name), unit, &self.namespaces, &mut self.table);
        self.carry_out(deltas);
    }

    fn remove(&mut self, name: &str) {
        let deltas = self.ledger.remove(&object(name), &mut self.table);
        self.carry_out(deltas);
    }

    fn flip(&mut self, global: bool) {
        let mut namespace = super::super::namespaces::Namespace::default();
        namespace.metadata.annotations.insert("clustermesh.cilium.io/global".into(), global.to_string());
        self.namespaces.apply("shop", Some(namespace));
        let deltas = self.ledger.regate("shop", &self.namespaces, &mut self.table);
        self.carry_out(deltas);
    }

    fn written(&self) -> Vec<(&str, &str)> {
        self.written.iter().map(|(name, value)| (&**name, std::str::from_utf8(value).unwrap())).collect()
    }

    fn reasons(&self) -> Vec<(String, Reason)> {
        self.table.rows().map(|row| (row.object, row.reason)).collect()
    }
}

#[test]
fn an_update_writes_what_changed_and_deletes_what_is_gone() {
    let mut bench = Bench::new();
    bench.put("a", &[("1", "x"), ("2", "x")]);
    bench.put("a", &[("2", "x"), ("3", "x")]);
    assert_eq!(bench.written(), [("2", "x"), ("3", "x")]);
    assert_eq!(bench.deltas, 4, "the key that stayed is not written again");
    bench.remove("a");
    assert_eq!(bench.written(), []);
}

#[test]
fn the_first_claimant_owns_a_key_and_the_next_takes_over_without_a_deletion() {
    let mut bench = Bench::new();
    bench.put("a", &[("1", "a")]);
    bench.put("b", &[("1", "b")]);
    bench.put("c", &[("1", "c")]);
    assert_eq!(bench.written(), [("1", "a")]);
    assert_eq!(
        bench.reasons(),
        [("shop/b".into(), Reason::AddressInUse), ("shop/c".into(), Reason::AddressInUse)]
    );

    bench.put("b", &[("1", "b2")]);
    assert_eq!(bench.written(), [("1", "a")], "an update of who waits is not exported");
    let before = bench.deltas;
    bench.remove("a");
    assert_eq!(bench.written(), [("1", "b2")]);
    assert_eq!(bench.deltas, before + 1, "one write, no deletion");
    assert_eq!(bench.reasons(), [("shop/c".into(), Reason::AddressInUse)]);
    assert_eq!(bench.table.rows().next().unwrap().detail, "1 belongs to shop/b");

    bench.remove("c");
    bench.put("b", &[]);
    assert_eq!(bench.written(), []);
    assert_eq!(bench.reasons(), []);
}

#[test]
fn deleting_the_older_of_two_owners_keeps_the_newer_ones_key() {
    let mut bench = Bench::new();
    bench.put("old", &[("1", "same")]);
    bench.put("new", &[("1", "same")]);
    let before = bench.deltas;
    bench.remove("old");
    assert_eq!(bench.written(), [("1", "same")]);
    assert_eq!(bench.deltas, before, "the bytes are the same, so nothing is written");
}

#[test]
fn a_namespace_takes_its_keys_out_and_brings_them_back() {
    let mut bench = Bench::new();
    bench.put("a", &[("1", "a")]);
    bench.put_in("b", None, &[("1", "b"), ("2", "b")]);
    bench.flip(false);
    assert_eq!(bench.written(), [("1", "b"), ("2", "b")], "who waits and needs no namespace takes over");
    assert_eq!(bench.reasons(), [("shop/a".into(), Reason::NamespaceNotGlobal)]);
    bench.put("a", &[("3", "a")]);
    assert_eq!(bench.written().len(), 2, "an update in a closed namespace stays inside");
    bench.flip(true);
    assert_eq!(bench.written(), [("1", "b"), ("2", "b"), ("3", "a")]);
    assert_eq!(bench.reasons(), []);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>, u8),
    Remove(u8),
    Flip(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u8..5, vec(0u8..4, 0..4), 0u8..3).prop_map(|(object, names, value)| Step::Put(object, names, value)),
        2 => (0u8..5).prop_map(Step::Remove),
        1 => any::<bool>().prop_map(Step::Flip),
    ]
}

proptest! {
    /// Whatever happened, who carried out every delta holds what the ledger desires, each key has a value of one of those that
    /// claim it, and a key is missing only when nobody claims it.
    #[test]
    fn deltas_lead_to_the_desired_set(steps in vec(step(), 0..40)) {
        let mut bench = Bench::new();
        let mut model: BTreeMap<u8, (Vec<u8>, u8)> = BTreeMap::new();
        let mut open = true;
        for step in steps {
            match step {
                Step::Put(object, names, value) => {
                    let texts: Vec<_> = names.iter().map(|name| (name.to_string(), format!("{object}={value}"))).collect();
                    let entries: Vec<_> = texts.iter().map(|(name, value)| (&**name, &**value)).collect();
                    // Even objects lie in the namespace, odd ones in none.
                    bench.put_in(&object.to_string(), object.is_multiple_of(2).then_some("shop"), &entries);
                    model.insert(object, (names, value));
                }
                Step::Remove(object) => {
                    bench.remove(&object.to_string());
                    model.remove(&object);
                }
                Step::Flip(global) => {
                    bench.flip(global);
                    open = global;
                }
            }
            let desired: BTreeMap<_, _> = bench.ledger.desired().collect();
            prop_assert_eq!(&desired, &bench.written);
            let out = |object: &u8| open || !object.is_multiple_of(2);
            for name in 0u8..4 {
                let values: Vec<_> = model
                    .iter()
                    .filter(|(object, (names, _))| out(object) && names.contains(&name))
                    .map(|(object, (_, value))| Bytes::from(format!("{object}={value}")))
                    .collect();
                match desired.get(&*name.to_string()) {
                    None => prop_assert!(values.is_empty()),
                    Some(value) => prop_assert!(values.contains(value)),
                }
            }
        }
    }
}
