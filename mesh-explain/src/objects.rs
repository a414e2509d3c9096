//! Reading Kubernetes objects that are plain JSON.

use serde_json::Value;

/// The text at a JSON pointer.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// The array at a JSON pointer; an absent one is empty.
pub(crate) fn array<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name").unwrap_or_default()
}

/// The first of these annotations that is there, with its key.
pub(crate) fn annotation<'a, 'k>(object: &'a Value, keys: &[&'k str]) -> Option<(&'k str, &'a str)> {
    let annotations = object.pointer("/metadata/annotations")?;
    keys.iter().find_map(|key| Some((*key, annotations.get(*key)?.as_str()?)))
}

/// How many addresses of the slices are ready, and how many there are.
pub(crate) fn ready(slices: &[Value]) -> (usize, usize) {
    let endpoints = slices.iter().flat_map(|slice| array(slice, "/endpoints"));
    endpoints.fold((0, 0), |(ready, all), endpoint| {
        let addresses = array(endpoint, "/addresses").len();
        // Absent counts as ready (EndpointSlice API).
        let is_ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
        (ready + if is_ready { addresses } else { 0 }, all + addresses)
    })
}

/// `1 backend`, `2 backends`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
