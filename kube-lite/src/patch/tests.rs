use serde_json::json;

use super::*;
use crate::schema::Schema;

#[test]
fn strategic_patches_follow_the_table() {
    let schema = Schema::from_lines(["l[k]", "l[k].inner[n]", "s[set]", "o"]);
    for (name, object, patch, wanted) in [
        (
            "fields merge",
            json!({"o": {"a": 1, "b": 2}}),
            json!({"o": {"b": null, "c": 3}}),
            json!({"o": {"a": 1, "c": 3}}),
        ),
        (
            "keyed items merge",
            json!({"l": [{"k": 1, "v": 1}]}),
            json!({"l": [{"k": 1, "w": 2}, {"k": 2}]}),
            json!({"l": [{"k": 1, "v": 1, "w": 2}, {"k": 2}]}),
        ),
        (
            "nested keyed items merge",
            json!({"l": [{"k": 1, "inner": [{"n": 1}]}]}),
            json!({"l": [{"k": 1, "inner": [{"n": 2}]}]}),
            json!({"l": [{"k": 1, "inner": [{"n": 1}, {"n": 2}]}]}),
        ),
        (
            "an item is deleted",
            json!({"l": [{"k": 1}, {"k": 2}]}),
            json!({"l": [{"k": 1, "$patch": "delete"}]}),
            json!({"l": [{"k": 2}]}),
        ),
        (
            "a list is replaced",
            json!({"l": [{"k": 1}]}),
            json!({"l": [{"$patch": "replace"}, {"k": 2}]}),
            json!({"l": [{"k": 2}]}),
        ),
        (
            "a map is replaced",
            json!({"o": {"a": 1}}),
            json!({"o": {"$patch": "replace", "b": 1}}),
            json!({"o": {"b": 1}}),
        ),
        ("other lists are replaced", json!({"x": [1, 2]}), json!({"x": [3]}), json!({"x": [3]})),
        ("sets merge", json!({"s": ["a"]}), json!({"s": ["b", "a"]}), json!({"s": ["a", "b"]})),
        (
            "values leave a set",
            json!({"s": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/s": ["a"]}),
            json!({"s": ["b"]}),
        ),
        (
            "items are ordered",
            json!({"l": [{"k": 1}, {"k": 2}]}),
            json!({"$setElementOrder/l": [{"k": 2}, {"k": 1}], "l": [{"k": 2, "v": 1}]}),
            json!({"l": [{"k": 2, "v": 1}, {"k": 1}]}),
        ),
        (
            "keys are retained",
            json!({"o": {"a": 1, "b": 1}}),
            json!({"o": {"$retainKeys": ["a"], "a": 2}}),
            json!({"o": {"a": 2}}),
        ),
        (
            "nothing is left of directives in new objects",
            json!({}),
            json!({"o": {"a": null, "b": 1}}),
            json!({"o": {"b": 1}}),
        ),
    ] {
        let mut object = object;
        strategic(&mut object, &patch, Some(&schema)).unwrap();
        assert_eq!(object, wanted, "{name}");
    }
}

#[test]
fn strategic_patches_that_mean_nothing_are_refused() {
    let schema = Schema::from_lines(["l[k]"]);
    for patch in [
        json!([]),
        json!({"o": {"$patch": "explode"}}),
        json!({"l": [{"v": 1}]}),
        json!({"$deleteFromPrimitiveList/s": 1}),
    ] {
        assert_eq!(strategic(&mut json!({}), &patch, Some(&schema)).unwrap_err().code, 400, "{patch}");
    }
}

#[test]
fn json_patches_apply_whole_or_not_at_all() {
    let mut object = json!({"a": 1});
    json(&mut object, json!([{"op": "add", "path": "/b", "value": 2}, {"op": "remove", "path": "/a"}]))
        .unwrap();
    assert_eq!(object, json!({"b": 2}));
    json(&mut object, json!([{"op": "replace", "path": "/new~1field", "value": 1}, {"op": "remove", "path": "/new~1field"}])).unwrap();
    let unfit = json!([{"op": "remove", "path": "/b"}, {"op": "test", "path": "/c", "value": 1}]);
    assert_eq!(json(&mut object, unfit).unwrap_err().code, 422);
    assert_eq!(object, json!({"b": 2}));
    assert_eq!(json(&mut object, json!({"op": "add"})).unwrap_err().code, 400);
}
