use proptest::prelude::*;
use serde_json::json;

use super::*;

const SCOPE: Scope = Scope::Whole;

fn schema() -> Schema {
    Schema::from_lines(["metadata.finalizers[set]", "l[k,p=TCP]", "s[set]", "atom!"])
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "v1", subresource: "", now }
}

fn apply_by(manager: &str, live: Option<&Value>, config: Value, force: bool) -> Result<Value> {
    apply(live, &config, Some(&schema()), SCOPE, &writer(manager, "T"), force)
}

fn update_by(manager: &str, live: &Value, new: Value) -> Value {
    let mut new = new;
    let managed = live.pointer("/metadata/managedFields").cloned();
    object::put(object::metadata(&mut new), "managedFields", managed);
    track(live, &mut new, Some(&schema()), SCOPE, &writer(manager, "T"));
    new
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object::metadata(&mut object);
    metadata.remove("managedFields");
    if metadata.is_empty() {
        object::fields(&mut object).remove("metadata");
    }
    object
}

fn owned_by(object: &Value, manager: &str) -> Vec<String> {
    entries(object)
        .into_iter()
        .filter(|entry| entry.manager == manager)
        .flat_map(|entry| entry.fields.paths())
        .collect()
}

#[test]
fn what_is_left_out_is_removed_unless_someone_else_owns_it() {
    let first = apply_by(
        "a",
        None,
        json!({"d": {"x": 1, "y": 1}, "l": [{"k": 1}, {"k": 2, "v": 1}], "s": ["m", "n"]}),
        false,
    )
    .unwrap();
    let second = apply_by("b", Some(&first), json!({"d": {"y": 1}, "l": [{"k": 2}]}), false).unwrap();
    let third = apply_by("a", Some(&second), json!({"s": ["n"]}), false).unwrap();
    assert_eq!(bare(&third), json!({"d": {"y": 1}, "l": [{"k": 2}], "s": ["n"]}));
    assert_eq!(owned_by(&third, "a"), [r#".s[="n"]"#]);
}

#[test]
fn a_changed_field_of_another_is_a_conflict_that_force_wins() {
    let first = apply_by("a", None, json!({"d": {"x": 1}}), false).unwrap();
    let refused = apply_by("b", Some(&first), json!({"d": {"x": 2}}), false).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"a\": .d.x")
    );
    let forced = apply_by("b", Some(&first), json!({"d": {"x": 2}}), true).unwrap();
    assert_eq!(bare(&forced), json!({"d": {"x": 2}}));
    assert_eq!((owned_by(&forced, "a"), owned_by(&forced, "b")), (vec![], vec![".d.x".to_owned()]));
}

#[test]
fn the_same_value_is_shared_and_outlives_one_of_its_owners() {
    let first = apply_by("a", None, json!({"d": {"x": 1}}), false).unwrap();
    let shared = apply_by("b", Some(&first), json!({"d": {"x": 1}}), false).unwrap();
    let left = apply_by("a", Some(&shared), json!({}), false).unwrap();
    assert_eq!(bare(&left), json!({"d": {"x": 1}}));
}

#[test]
fn applying_the_same_again_changes_nothing_not_even_the_time() {
    let config = json!({"d": {"x": 1}, "l": [{"k": 1}]});
    let first = apply_by("a", None, config.clone(), false).unwrap();
    let again = apply(Some(&first), &config, Some(&schema()), SCOPE, &writer("a", "later"), false).unwrap();
    assert_eq!(first, again);
}

#[test]
fn an_update_takes_what_it_changes_and_no_more() {
    let applied = apply_by("a", None, json!({"d": {"x": 1, "y": 1}}), false).unwrap();
    let updated = update_by("u", &applied, json!({"d": {"x": 2, "y": 1, "z": 1}}));
    assert_eq!(owned_by(&updated, "a"), [".d.y"]);
    assert_eq!(owned_by(&updated, "u"), [".d.x", ".d.z"]);
    let removed = update_by("u", &updated, json!({"d": {"x": 2}}));
    assert_eq!((owned_by(&removed, "a"), owned_by(&removed, "u")), (vec![], vec![".d.x".to_owned()]));
}

#[test]
fn a_new_object_is_owned_with_the_containers_that_came_with_it() {
    let mut new = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"atom": {"x": 1}}, "l": [{"k": 1}]});
    track(
        &json!({"spec": {}}),
        &mut new,
        Some(&Schema::from_lines(["l[k]", "spec.atom!"])),
        SCOPE,
        &writer("u", "T"),
    );
    assert_eq!(
        new["metadata"]["managedFields"][0]["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:atom": {}},
            "f:l": {".": {}, "k:{\"k\":1}": {".": {}, "f:k": {}}},
        })
    );
}

#[test]
fn a_missing_key_counts_as_its_default() {
    let first = apply_by("a", None, json!({"l": [{"k": 1}]}), false).unwrap();
    let entry = &first["metadata"]["managedFields"][0]["fieldsV1"]["f:l"];
    assert!(entry.get("k:{\"k\":1,\"p\":\"TCP\"}").is_some(), "{entry}");
    let defaulted = update_by("u", &first, json!({"l": [{"k": 1, "p": "TCP"}]}));
    let second = apply_by("a", Some(&defaulted), json!({"l": [{"k": 1, "v": 1}]}), false).unwrap();
    assert_eq!(bare(&second), json!({"l": [{"k": 1, "p": "TCP", "v": 1}]}));
}

#[test]
fn the_order_of_the_configuration_wins() {
    let live = apply_by("a", None, json!({"l": [{"k": 1}, {"k": 2}, {"k": 3}]}), false).unwrap();
    let new = apply_by("b", Some(&live), json!({"l": [{"k": 3}, {"k": 4}, {"k": 1}]}), false).unwrap();
    let order: Vec<_> = new["l"].as_array().unwrap().iter().map(|item| item["k"].clone()).collect();
    assert_eq!(order, [3, 4, 1, 2]);
}

#[test]
fn an_object_without_history_is_owned_by_who_came_before() {
    let refused = apply_by("a", Some(&json!({"d": {"x": 1}})), json!({"d": {"x": 2}}), false).unwrap_err();
    assert!(refused.message.contains("\"before-first-apply\" using v1"), "{}", refused.message);
}

#[test]
fn what_a_scope_leaves_out_is_neither_owned_nor_written() {
    let config = json!({"spec": {"a": 1}, "status": {"b": 1}});
    let new = apply(None, &config, None, Scope::WithoutStatus, &writer("a", "T"), false).unwrap();
    assert_eq!(bare(&new), json!({"spec": {"a": 1}}));
    let new = apply(
        Some(&new),
        &config,
        None,
        Scope::Status(false),
        &Writer { subresource: "status", ..writer("a", "T") },
        false,
    )
    .unwrap();
    assert_eq!(bare(&new), config);
    assert_eq!(owned_by(&new, "a"), [".spec.a", ".status.b"]);
}

/// Small values, so that managers meet.
fn config() -> impl Strategy<Value = Value> {
    let fields = proptest::collection::btree_map("[xyz]", 0..3_i32, 0..3);
    let items = proptest::collection::btree_map(0..3_i32, 0..3_i32, 0..3);
    (fields, items).prop_map(|(fields, items)| {
        let items: Vec<_> = items.into_iter().map(|(k, v)| json!({"k": k, "v": v})).collect();
        json!({"d": fields, "l": items})
    })
}

proptest! {
    /// After a forced apply the object has everything that the configuration says.
    #[test]
    fn a_forced_apply_holds(steps in proptest::collection::vec((0..3_usize, config()), 1..8)) {
        let mut live: Option<Value> = None;
        for (who, config) in steps {
            let new = apply_by(["a", "b", "c"][who], live.as_ref(), config.clone(), true).unwrap();
            let again = apply_by(["a", "b", "c"][who], Some(&new), config.clone(), false).unwrap();
            prop_assert_eq!(&again, &new, "applying is idempotent");
            for (name, value) in config["d"].as_object().unwrap() {
                prop_assert_eq!(&new["d"][name], value);
            }
            live = Some(new);
        }
    }

    /// What the last manager drops is gone: the object is no more than what its managers apply.
    #[test]
    fn nothing_is_left_when_all_managers_leave(configs in proptest::collection::vec(config(), 3)) {
        let mut live = json!({});
        for round in [true, false] {
            for (manager, config) in ["a", "b", "c"].into_iter().zip(&configs) {
                let config = if round { config.clone() } else { json!({}) };
                let known = live.get("metadata").is_some();
                live = apply_by(manager, known.then_some(&live), config, true).unwrap();
            }
        }
        prop_assert_eq!(bare(&live), json!({}));
    }

    /// A set of fields reads back as it was written.
    #[test]
    fn field_sets_come_back_from_the_wire(config in config()) {
        let set = owned(&config, Some(&schema()));
        prop_assert_eq!(FieldSet::from_json(&set.to_json()).paths(), set.paths());
    }
}
