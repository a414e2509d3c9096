//! Whether an object keeps to its schema.

use jiff::Timestamp;
use regex::Regex;
use serde_json::{Map, Value};

use super::{Kind, ListKind, Schema};
use crate::status::Cause;

/// The keywords that only validation needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    required: Vec<String>,
    allowed: Vec<Value>,
    /// With whether the bound itself is allowed.
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: Bounds,
    pattern: Option<Regex>,
    format: Option<String>,
    items: Bounds,
    unique: bool,
    properties: Bounds,
    all_of: Vec<Part>,
    any_of: Vec<Part>,
    one_of: Vec<Part>,
    not: Option<Part>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

/// What stands in `allOf` and its like: rules for a value, with no say in defaulting or pruning.
#[derive(Clone, Debug, Default)]
struct Part {
    kind: Option<String>,
    properties: Vec<(String, Part)>,
    items: Option<Box<Part>>,
    rules: Box<Rules>,
}

impl Bounds {
    fn read(fields: &Map<String, Value>, least: &str, most: &str) -> Self {
        let number = |name: &str| fields.get(name).and_then(Value::as_u64);
        Self { least: number(least), most: number(most) }
    }

    fn is_empty(self) -> bool {
        self.least.is_none() && self.most.is_none()
    }

    fn too_few(self, count: usize) -> Option<u64> {
        self.least.filter(|&least| (count as u64) < least)
    }

    fn too_many(self, count: usize) -> Option<u64> {
        self.most.filter(|&most| count as u64 > most)
    }
}

impl Part {
    fn read(schema: &Value) -> Result<Self, String> {
        let fields = schema.as_object().ok_or("a schema must be an object")?;
        let properties = fields.get("properties").and_then(Value::as_object).into_iter().flatten();
        Ok(Self {
            kind: fields.get("type").and_then(Value::as_str).map(str::to_owned),
            properties: properties
                .map(|(name, part)| Ok((name.clone(), Self::read(part)?)))
                .collect::<Result<_, String>>()?,
            items: fields.get("items").map(|items| Self::read(items).map(Box::new)).transpose()?,
            rules: Box::new(Rules::read(fields)?),
        })
    }

    fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if let Some(kind) = &self.kind
            && type_name(value) != kind
            && !(kind == "number" && value.is_number())
        {
            causes.push(Cause::wrong_type(path, type_name(value), kind));
            return;
        }
        self.rules.check(value, path, causes);
        for (name, part) in &self.properties {
            if let Some(value) = value.get(name) {
                part.check(value, &below(path, name), causes);
            }
        }
        if let (Some(part), Value::Array(items)) = (&self.items, value) {
            for (i, item) in items.iter().enumerate() {
                part.check(item, &format!("{path}[{i}]"), causes);
            }
        }
    }

    fn holds(&self, value: &Value) -> bool {
        let mut causes = Vec::new();
        self.check(value, "", &mut causes);
        causes.is_empty()
    }
}

impl Rules {
    pub(super) fn read(fields: &Map<String, Value>) -> Result<Self, String> {
        let number = |name: &str| fields.get(name).and_then(Value::as_f64);
        let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or_default();
        let list = |name: &str| fields.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let parts = |name: &str| list(name).iter().map(Part::read).collect::<Result<Vec<_>, _>>();
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let pattern =
            text("pattern").map(|pattern| Regex::new(pattern).map_err(|error| format!("pattern: {error}")));
        Ok(Self {
            required: list("required").iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            allowed: list("enum").to_vec(),
            minimum: number("minimum").map(|bound| (bound, !flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|bound| (bound, !flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            length: Bounds::read(fields, "minLength", "maxLength"),
            pattern: pattern.transpose()?,
            format: text("format").map(str::to_owned),
            items: Bounds::read(fields, "minItems", "maxItems"),
            unique: flag("uniqueItems"),
            properties: Bounds::read(fields, "minProperties", "maxProperties"),
            all_of: parts("allOf")?,
            any_of: parts("anyOf")?,
            one_of: parts("oneOf")?,
            not: fields.get("not").map(Part::read).transpose()?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.allowed.is_empty()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.length.is_empty()
            && self.pattern.is_none()
            && self.format.is_none()
            && self.items.is_empty()
            && !self.unique
            && self.properties.is_empty()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }

    fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let mut wrong = |why: String| causes.push(Cause::invalid(path, value, why));
        if let Some(number) = value.as_f64() {
            if let Some((bound, _)) =
                self.minimum.filter(|&(bound, allowed)| number < bound || number == bound && !allowed)
            {
                wrong(format!("{path} in body should be greater than or equal to {bound}"));
            }
            if let Some((bound, _)) =
                self.maximum.filter(|&(bound, allowed)| number > bound || number == bound && !allowed)
            {
                wrong(format!("{path} in body should be less than or equal to {bound}"));
            }
            if let Some(unit) = self.multiple_of.filter(|&unit| unit != 0.0 && (number / unit).fract() != 0.0)
            {
                wrong(format!("{path} in body should be a multiple of {unit}"));
            }
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count();
            if let Some(least) = self.length.too_few(length) {
                wrong(format!("{path} in body should be at least {least} chars long"));
            }
            if let Some(most) = self.length.too_many(length) {
                wrong(format!("Too long: may not be more than {most} bytes"));
            }
            if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
                wrong(format!("{path} in body should match '{pattern}'"));
            }
        }
        if let Some(format) = self.format.as_ref().filter(|format| !has_format(value, format)) {
            wrong(format!("{path} in body must be of type {format}: {value}"));
        }
        if let Some(items) = value.as_array() {
            if let Some(least) = self.items.too_few(items.len()) {
                wrong(format!("{path} in body should have at least {least} items"));
            }
            if let Some(most) = self.items.too_many(items.len()) {
                wrong(format!("must have at most {most} items"));
            }
            if self.unique && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
                wrong(format!("{path} in body shouldn't contain duplicates"));
            }
        }
        if let Some(fields) = value.as_object() {
            if let Some(least) = self.properties.too_few(fields.len()) {
                wrong(format!("{path} in body should have at least {least} properties"));
            }
            if let Some(most) = self.properties.too_many(fields.len()) {
                wrong(format!("must have at most {most} properties"));
            }
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(|part| part.holds(value)) {
            wrong(format!("{path} in body must validate at least one schema (anyOf)"));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(|part| part.holds(value)).count() != 1 {
            wrong(format!("{path} in body must validate one and only one schema (oneOf)"));
        }
        if self.not.as_ref().is_some_and(|part| part.holds(value)) {
            wrong(format!("{path} in body must not validate the schema (not)"));
        }
        if let Some(fields) = value.as_object() {
            for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
                causes.push(Cause::required(below(path, name), ""));
            }
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            causes.push(Cause::not_supported(path, value, &self.allowed));
        }
        for part in &self.all_of {
            part.check(value, path, causes);
        }
    }
}

impl Schema {
    /// Everything about `object` that breaks the schema.
    pub(crate) fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check(object, "", &mut causes);
        causes
    }

    fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && self.nullable {
            return;
        }
        if let Some(wanted) = self.wrong_type(value) {
            causes.push(Cause::wrong_type(path, type_name(value), wanted));
            return;
        }
        if let Some(rules) = &self.rules {
            rules.check(value, path, causes);
        }
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                // Metadata has rules of its own, and only restrictions of the name may be added here.
                if path.is_empty() && name == "metadata" {
                    continue;
                }
                if let Some(schema) = self.field(name) {
                    schema.check(value, &below(path, name), causes);
                }
            }
        } else if let Value::Array(items) = value {
            self.check_keys(items, path, causes);
            if let Some(schema) = self.item() {
                for (i, item) in items.iter().enumerate() {
                    schema.check(item, &format!("{path}[{i}]"), causes);
                }
            }
        }
    }

    /// No two items of a set or map are the same to it.
    fn check_keys(&self, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
        let key = |item: &Value| -> Value {
            match &self.list {
                ListKind::Atomic | ListKind::Set => item.clone(),
                ListKind::Map(keys) => {
                    keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect()
                }
            }
        };
        if self.list == ListKind::Atomic {
            return;
        }
        let keys: Vec<_> = items.iter().map(key).collect();
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].contains(key) {
                causes.push(Cause::duplicate(format!("{path}[{i}]"), key));
            }
        }
    }

    /// The type that the value should have and has not.
    fn wrong_type(&self, value: &Value) -> Option<&'static str> {
        if self.int_or_string {
            return (!value.is_string() && !value.is_i64() && !value.is_u64()).then_some("integer,string");
        }
        let (fits, wanted) = match self.kind? {
            Kind::Object => (value.is_object(), "object"),
            Kind::Array => (value.is_array(), "array"),
            Kind::String => (value.is_string(), "string"),
            Kind::Integer => (
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
                "integer",
            ),
            Kind::Number => (value.is_number(), "number"),
            Kind::Boolean => (value.is_boolean(), "boolean"),
        };
        (!fits).then_some(wanted)
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a text has a format; one that is not known is had by all, and so are those of numbers, as in the original.
fn has_format(value: &Value, format: &str) -> bool {
    let Some(text) = value.as_str() else { return true };
    match format {
        "date-time" => text.parse::<Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        "uuid" => {
            text.len() == 36
                && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
                && text.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit())
        }
        _ => true,
    }
}
