//! Objects are JSON values; this is how their metadata is read and named.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value};

/// A text at a JSON pointer; empty if there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// How deep objects may nest: readers of JSON stop at 128, and lists of objects are deeper than they.
pub(crate) const MAX_DEPTH: usize = 100;

/// How deep a value nests: 1 for one without others in it.
pub(crate) fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    };
    below.unwrap_or_default() + 1
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Whether its deletion has begun.
pub(crate) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The items of a list at a JSON pointer; none if it is not there.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    items(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect()
}

/// The fields of an object value; what is not an object becomes an empty one.
pub(crate) fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object")
}

/// The metadata, made if there is none.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// The fields of a child object, made if there is none.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    fields(fields(object).entry(key).or_insert(Value::Null))
}

/// Sets a field that is missing or null.
pub(crate) fn default(fields: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = fields.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// Sets a text that is missing or empty.
pub(crate) fn default_text(fields: &mut Map<String, Value>, key: &str, value: &str) {
    if fields.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets or removes a field.
pub(crate) fn put(fields: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(fields.insert(key.to_owned(), value)),
        None => drop(fields.remove(key)),
    }
}

/// A time as metadata has it: RFC 3339 in UTC, whole seconds.
pub(crate) fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random UUID (version 4) from 16 random bytes.
pub(crate) fn uuid(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut uuid = String::with_capacity(36);
    for (i, byte) in random.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            uuid.push('-');
        }
        write!(uuid, "{byte:02x}").expect("a String takes everything");
    }
    uuid
}

/// A name from `generateName`: the prefix, cut so that five random characters fit in a label.
pub(crate) fn generated_name(prefix: &str, random: [u8; 5]) -> String {
    /// Without vowels and what looks alike, so that no words come out.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    const LONGEST_PREFIX: usize = 63 - 5;
    let end = (0..=LONGEST_PREFIX.min(prefix.len())).rev().find(|&end| prefix.is_char_boundary(end));
    let mut name = prefix[..end.unwrap_or_default()].to_owned();
    name.extend(random.iter().map(|&byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated_name("web-", [0; 5]), "web-bbbbb");
        assert_eq!(generated_name(&"x".repeat(80), [1; 5]).len(), 63);
        assert_eq!(generated_name(&"ä".repeat(40), [1; 5]).chars().count(), 29 + 5);
    }
}
