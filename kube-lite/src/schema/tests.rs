use serde_json::json;

use super::*;

fn schema(value: Value) -> Schema {
    Schema::read(&value).unwrap()
}

#[test]
fn defaults_fill_what_is_missing_at_every_depth() {
    let schema = schema(json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "x"},
        "o": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
        "z": {"type": "string", "nullable": true, "default": "z"},
    }}));
    let mut value = json!({"l": [{}, {"p": "UDP"}], "a": null});
    schema.apply_defaults(&mut value);
    assert_eq!(value, json!({"a": "x", "o": {"n": 3}, "l": [{"p": "TCP"}, {"p": "UDP"}], "z": "z"}));
}

#[test]
fn pruning_keeps_what_is_known_and_says_what_went() {
    let schema = schema(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"closed": {"type": "object", "properties": {}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"k": {"type": "integer"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}},
        }},
    }}));
    let mut value = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "x": 1, "spec": {
        "a": "s", "b": 1, "open": {"any": 1, "closed": {"gone": 1}}, "map": {"m": {"k": 1, "j": 2}},
        "pod": {"metadata": {"name": "p"}, "y": 1},
    }});
    let gone = schema.prune(&mut value);
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {
            "a": "s", "open": {"any": 1, "closed": {}}, "map": {"m": {"k": 1}}, "pod": {"metadata": {"name": "p"}},
        }})
    );
    assert_eq!(gone, ["spec.b", "spec.map.m.j", "spec.open.closed.gone", "spec.pod.y", "x"]);
}

#[test]
fn validation_follows_the_table() {
    for (schema_text, good, bad) in [
        (json!({"type": "string"}), json!("a"), json!(1)),
        (json!({"type": "integer"}), json!(1), json!(1.5)),
        (json!({"type": "number"}), json!(1.5), json!("1")),
        (json!({"type": "string", "nullable": true}), json!(null), json!(1)),
        (json!({"type": "string"}), json!(""), json!(null)),
        (json!({"x-kubernetes-int-or-string": true}), json!("http"), json!(1.5)),
        (json!({"type": "string", "enum": ["a", "b"]}), json!("b"), json!("c")),
        (json!({"type": "integer", "minimum": 1, "maximum": 3}), json!(3), json!(4)),
        (json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}), json!(2), json!(1)),
        (json!({"type": "integer", "multipleOf": 5}), json!(10), json!(11)),
        (json!({"type": "string", "minLength": 1, "maxLength": 2}), json!("äö"), json!("abc")),
        (json!({"type": "string", "pattern": "^a+$"}), json!("aa"), json!("ab")),
        (json!({"type": "string", "format": "date-time"}), json!("2026-01-02T03:04:05Z"), json!("yesterday")),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["a"]),
            json!(["a", "b"]),
        ),
        (json!({"type": "array", "items": {"type": "string"}}), json!(["a"]), json!([1])),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a"]),
            json!(["a", "a"]),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}),
            json!([{"k": "a", "v": 1}, {"k": "b", "v": 1}]),
            json!([{"k": "a", "v": 1}, {"k": "a", "v": 2}]),
        ),
        (json!({"type": "object", "required": ["a"]}), json!({"a": 1}), json!({})),
        (
            json!({"type": "object", "maxProperties": 1, "additionalProperties": true}),
            json!({"a": 1}),
            json!({"a": 1, "b": 1}),
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"b": 1}),
            json!({}),
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"b": 1}),
            json!({"a": 1, "b": 1}),
        ),
        (json!({"type": "string", "not": {"enum": ["x"]}}), json!("y"), json!("x")),
        (json!({"type": "string", "allOf": [{"minLength": 2}, {"pattern": "^a"}]}), json!("ab"), json!("b")),
    ] {
        let schema = schema(schema_text.clone());
        assert_eq!(schema.validate(&good), [], "{schema_text} {good}");
        assert_ne!(schema.validate(&bad), [], "{schema_text} {bad}");
    }
}

#[test]
fn a_schema_that_is_not_structural_is_refused_with_its_place() {
    for (schema, path) in [
        (json!({}), ""),
        (json!({"type": "object", "properties": {"a": {}}}), "properties[a]"),
        (json!({"type": "thing"}), ""),
        (json!({"type": "string", "pattern": "("}), ""),
        (json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}), ""),
    ] {
        assert_eq!(Schema::read(&schema).unwrap_err().path, path, "{schema}");
    }
}

#[test]
fn short_lines_say_how_built_ins_merge() {
    let schema =
        Schema::from_lines(["metadata.finalizers[set]", "spec.ports[port,protocol=TCP]", "spec.selector!"]);
    let ports = &schema.properties["spec"].properties["ports"];
    assert_eq!(ports.list, ListKind::Map(vec!["port".into(), "protocol".into()]));
    assert_eq!(ports.key_default("protocol"), Some(&json!("TCP")));
    assert!(schema.properties["spec"].properties["selector"].atomic_map);
    assert_eq!(schema.properties["metadata"].properties["finalizers"].list, ListKind::Set);
}
