//! What `kubectl get` shows of an object.

use jiff::Timestamp;
use serde_json::Value;

use crate::jsonpath::JsonPath;
use crate::object::{items, text};

/// A column of a table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    /// Above 0 only in wide output.
    pub(crate) priority: i64,
    /// Where the value is; `None` where the built-in's function makes it.
    pub(crate) path: Option<JsonPath>,
}

/// A column of a built-in: name, type, format, priority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading(pub(super) &'static str, pub(super) &'static str, pub(super) i64);

pub(super) fn built_in(headings: &[Heading]) -> Vec<Column> {
    let column = |&Heading(name, kind, priority): &Heading| Column {
        name: name.to_owned(),
        kind: if kind == "name" { "string" } else { kind }.to_owned(),
        format: if kind == "name" { "name" } else { "" }.to_owned(),
        description: String::new(),
        priority,
        path: None,
    };
    headings.iter().map(column).collect()
}

/// The cells of an object by its columns' paths.
pub(crate) fn by_path(columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    columns.iter().map(|column| cell(column, object, now)).collect()
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let Some(path) = &column.path else { return Value::Null };
    let found = path.all(object);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "string" => {
            let plain = |value: &&Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            found.iter().map(plain).collect::<Vec<_>>().join(" ").into()
        }
        "date" => first.as_str().map_or(Value::Null, |time| since(time, now).into()),
        "integer" => first.as_i64().map_or(Value::Null, Value::from),
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        _ => Value::Null,
    }
}

/// How long ago a time is, as a table says it.
pub(super) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(now.as_second() - time.as_second()),
        Err(_) if time.is_empty() => "<unknown>".to_owned(),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// The age of an object.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(text(object, "/metadata/creationTimestamp"), now).into()
}

/// Two or three digits and a unit or two.
pub(crate) fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |whole: i64, unit: &str, rest: i64, rest_unit: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{rest_unit}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, "d", hours % 24, "h")
    } else if days < 2 * 365 {
        format!("{days}d")
    } else if days < 8 * 365 {
        two(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}

/// At most three of a list, and how many more there are.
pub(super) fn some_of(values: &[String], none: &str) -> String {
    const SHOWN: usize = 3;
    if values.is_empty() {
        return none.to_owned();
    }
    let shown = values[..values.len().min(SHOWN)].join(",");
    if values.len() > SHOWN { format!("{shown} + {} more...", values.len() - SHOWN) } else { shown }
}

/// A value or `<none>`.
pub(super) fn or_none(value: &str) -> Value {
    if value.is_empty() { "<none>".into() } else { value.into() }
}

/// How many keys a map has.
pub(super) fn count(object: &Value, pointers: &[&str]) -> usize {
    pointers.iter().filter_map(|pointer| object.pointer(pointer)?.as_object()).map(serde_json::Map::len).sum()
}

/// The status of a condition by its type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let found =
        items(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)?;
    Some(text(found, "/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_kubectl() {
        for (seconds, wanted) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (11 * 60 + 5, "11m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600 + 60, "9h"),
            (49 * 3600, "2d1h"),
            (9 * 86_400, "9d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let values: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(some_of(&values, "<none>"), "a,b,c + 2 more...");
        assert_eq!(some_of(&values[..2], "<none>"), "a,b");
        assert_eq!(some_of(&[], "<none>"), "<none>");
    }
}
