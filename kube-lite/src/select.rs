//! Label and field selectors. Pure.
//!
//! Source: Kubernetes docs, "Labels and Selectors" and "Field Selectors".

use serde_json::Value;

use crate::jsonpath::JsonPath;
use crate::object::text;
use crate::status::{Failure, Result};

/// Which objects are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

/// A field that may be selected by, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct SelectableField {
    pub(crate) label: String,
    pub(crate) path: JsonPath,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Clone, Debug)]
struct FieldRequirement {
    field: Field,
    equal: bool,
    value: String,
}

#[derive(Clone, Debug)]
enum Field {
    Name,
    Namespace,
    Path(JsonPath),
}

impl Selector {
    /// Reads both texts; empty ones select everything.
    ///
    /// # Errors
    /// Syntax, or a field that the resource does not select by.
    pub(crate) fn read(labels: &str, fields: &str, selectable: &[SelectableField]) -> Result<Self> {
        Ok(Self { labels: read_labels(labels)?, fields: read_fields(fields, selectable)? })
    }

    /// Whether it selects everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that it selects, if it names one: only this key needs to be read.
    pub(crate) fn only_name(&self) -> Option<&str> {
        let by_name = self.fields.iter().find(|field| field.equal && matches!(field.field, Field::Name));
        by_name.map(|field| field.value.as_str())
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object.pointer("/metadata/labels")?.get(key)?.as_str();
        self.labels.iter().all(|requirement| requirement.matches(label(&requirement.key)))
            && self.fields.iter().all(|requirement| requirement.matches(object))
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let number = label.and_then(|label| label.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => label.is_some_and(|label| values.iter().any(|value| value == label)),
            Test::NotIn(values) => label.is_none_or(|label| values.iter().all(|value| value != label)),
            Test::Exists => label.is_some(),
            Test::DoesNotExist => label.is_none(),
            Test::GreaterThan(bound) => number.is_some_and(|number| number > *bound),
            Test::LessThan(bound) => number.is_some_and(|number| number < *bound),
        }
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let is_equal = match &self.field {
            Field::Name => text(object, "/metadata/name") == self.value,
            Field::Namespace => text(object, "/metadata/namespace") == self.value,
            Field::Path(path) => path.first(object).map(plain).unwrap_or_default() == self.value,
        };
        is_equal == self.equal
    }
}

/// A value as a selector writes it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::bad_request(message)
}

fn read_labels(text: &str) -> Result<Vec<Requirement>> {
    let mut requirements = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (requirement, after) = read_requirement(rest)?;
        requirements.push(requirement);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some("") => return Err(wrong("found '', expected: identifier after ','")),
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => {
                let found = after.chars().next().unwrap_or_default();
                return Err(wrong(format!("found '{found}', expected: ',' or 'end of string'")));
            }
        };
    }
    Ok(requirements)
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || "=!<>(),".contains(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// One requirement and what follows it.
fn read_requirement(text: &str) -> Result<(Requirement, &str)> {
    let (negated, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    };
    let (key, rest) = word(text);
    if !is_label_key(key) {
        return Err(wrong(format!("unable to parse requirement: invalid label key {key:?}")));
    }
    let key = key.to_owned();
    let rest = rest.trim_start();
    if negated {
        return Ok((Requirement { key, test: Test::DoesNotExist }, rest));
    }
    let one = |rest: &str| -> Result<(String, usize)> {
        let trimmed = rest.trim_start();
        let (value, _after) = word(trimmed);
        if !is_label_value(value) {
            return Err(wrong(format!("unable to parse requirement: invalid label value {value:?}")));
        }
        Ok((value.to_owned(), rest.len() - trimmed.len() + value.len()))
    };
    for (operator, equal) in [("==", true), ("!=", false), ("=", true)] {
        if let Some(rest) = rest.strip_prefix(operator) {
            let (value, used) = one(rest)?;
            let test = if equal { Test::In(vec![value]) } else { Test::NotIn(vec![value]) };
            return Ok((Requirement { key, test }, &rest[used..]));
        }
    }
    for (operator, greater) in [(">", true), ("<", false)] {
        if let Some(rest) = rest.strip_prefix(operator) {
            let (value, used) = one(rest)?;
            let bound = value
                .parse()
                .map_err(|_error| wrong(format!("for 'Gt', 'Lt' the value must be an integer: {value:?}")))?;
            let test = if greater { Test::GreaterThan(bound) } else { Test::LessThan(bound) };
            return Ok((Requirement { key, test }, &rest[used..]));
        }
    }
    let (operator, after) = word(rest);
    if !matches!(operator, "in" | "notin") {
        return Ok((Requirement { key, test: Test::Exists }, rest));
    }
    let inside = after.trim_start().strip_prefix('(').ok_or_else(|| wrong("found '', expected: '('"))?;
    let (inside, rest) = inside.split_once(')').ok_or_else(|| wrong("found '', expected: ',' or ')'"))?;
    let values: Vec<_> = inside.split(',').map(|value| value.trim().to_owned()).collect();
    if let Some(value) = values.iter().find(|value| !is_label_value(value)) {
        return Err(wrong(format!("unable to parse requirement: invalid label value {value:?}")));
    }
    let test = if operator == "in" { Test::In(values) } else { Test::NotIn(values) };
    Ok((Requirement { key, test }, rest))
}

fn read_fields(text: &str, selectable: &[SelectableField]) -> Result<Vec<FieldRequirement>> {
    let mut requirements = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let split = part.split_once("!=").map(|(key, value)| (key, value, false));
        let split = split.or_else(|| part.split_once("==").map(|(key, value)| (key, value, true)));
        let split = split.or_else(|| part.split_once('=').map(|(key, value)| (key, value, true)));
        let (key, value, equal) =
            split.ok_or_else(|| wrong(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
        let field = match key {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            _ => {
                let known = selectable.iter().find(|field| field.label == key);
                let refuse = || match selectable {
                    [] => wrong(format!(
                        "{key:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )),
                    _ => wrong(format!("field label not supported: {key}")),
                };
                Field::Path(known.ok_or_else(refuse)?.path.clone())
            }
        };
        requirements.push(FieldRequirement { field, equal, value: value.to_owned() });
    }
    Ok(requirements)
}

fn is_name_part(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|&c| inner(c))
}

/// At most 63 of `[A-Za-z0-9-_.]`, first and last alphanumeric, with an optional DNS prefix before a slash.
pub(crate) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
        None => is_name_part(key),
    }
}

/// As the name part of a key, or empty.
pub(crate) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name_part(value)
}

/// RFC 1123 label: at most 63 of `[a-z0-9-]`, first and last not `-`.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ok = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    bytes.len() <= 63
        && bytes.first().is_some_and(ok)
        && bytes.last().is_some_and(ok)
        && bytes.iter().all(|c| ok(c) || *c == b'-')
}

/// RFC 1123 subdomain: at most 253 bytes of labels joined by dots.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            let ok = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            bytes.first().is_some_and(ok)
                && bytes.last().is_some_and(ok)
                && bytes.iter().all(|c| ok(c) || *c == b'-')
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str, object: &Value) -> bool {
        let selectable = [SelectableField {
            label: "status.phase".into(),
            path: JsonPath::read(".status.phase").unwrap(),
        }];
        Selector::read(labels, fields, &selectable).unwrap().matches(object)
    }

    #[test]
    fn label_selectors_follow_the_table() {
        let object = json!({"metadata": {"labels": {"a": "1", "x.y/b": "two", "e": ""}}});
        for (selector, wanted) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("c", false),
            ("! c", true),
            ("a=1", true),
            ("a==1,x.y/b=two", true),
            ("a = 1 , x.y/b", true),
            ("a!=1", false),
            ("c!=1", true),
            ("e=", true),
            ("a in (1, 2)", true),
            ("a notin (2)", true),
            ("c notin (2)", true),
            ("a in (2)", false),
            ("a>0", true),
            ("a<1", false),
            ("x.y/b>0", false),
        ] {
            assert_eq!(matches(selector, "", &object), wanted, "{selector}");
        }
    }

    #[test]
    fn field_selectors_compare_texts() {
        let object = json!({"metadata": {"name": "a", "namespace": "n"}, "status": {"phase": "Up"}});
        for (selector, wanted) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("metadata.name=a,metadata.namespace==m", false),
            ("status.phase=Up", true),
            ("status.phase!=Down", true),
        ] {
            assert_eq!(matches("", selector, &object), wanted, "{selector}");
        }
        assert!(matches("", "status.phase=", &json!({})), "a missing field is an empty text");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (labels, fields) in [
            ("a=b=c", ""),
            ("a in 1", ""),
            ("a in (1", ""),
            ("-a", ""),
            ("a,", ""),
            ("a>b", ""),
            ("", "foo=1"),
            ("", "x"),
        ] {
            assert_eq!(Selector::read(labels, fields, &[]).unwrap_err().code, 400, "{labels} {fields}");
        }
    }

    #[test]
    fn a_selected_name_is_known() {
        let selector = Selector::read("", "metadata.name=a", &[]).unwrap();
        assert_eq!(selector.only_name(), Some("a"));
        assert_eq!(Selector::read("", "metadata.name!=a", &[]).unwrap().only_name(), None);
    }
}
