//! The part of Kubernetes' JSONPath that printer columns and selectable fields use. Pure.
//!
//! `.a.b`, `.a['b.c']`, `.a[0]`, `.a[*].b`, `.a[?(@.type=="Ready")].status`, with or without `{}` around.

use serde_json::Value;

/// A path into an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items (or values) for which a path below them compares so to a value.
    Where {
        path: JsonPath,
        equal: bool,
        value: Value,
    },
}

impl JsonPath {
    /// Reads a path; `None` if it is of another form.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let step;
            (step, rest) = read_step(rest)?;
            steps.extend(step);
        }
        Some(Self(steps))
    }

    /// Every value that it leads to, in order.
    pub(crate) fn all<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![object], |values, step| {
            values.into_iter().flat_map(|value| step.from(value)).collect()
        })
    }

    /// The first of them.
    pub(crate) fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.all(object).first().copied()
    }
}

impl Step {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let children = || -> Vec<&'a Value> {
            let items = value.as_array().map(|items| items.iter().collect());
            items.or_else(|| Some(value.as_object()?.values().collect())).unwrap_or_default()
        };
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let from_end =
                    items.len().checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX));
                let index = if *index < 0 { from_end } else { usize::try_from(*index).ok() };
                index.and_then(|index| items.get(index)).into_iter().collect()
            }
            Self::All => children(),
            Self::Where { path, equal, value } => {
                let holds = |child: &Value| (path.first(child) == Some(value)) == *equal;
                children().into_iter().filter(|child| holds(child)).collect()
            }
        }
    }
}

fn read_step(text: &str) -> Option<(Option<Step>, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let mut name = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_at, escaped)| escaped)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                _ => name.push(c),
            }
        }
        let step = match name.as_str() {
            // A lone dot is the object itself, and `.[0]` is an index.
            "" => None,
            "*" => Some(Step::All),
            _ => Some(Step::Field(name)),
        };
        return Some((step, &rest[end..]));
    }
    let inside = text.strip_prefix('[')?;
    if let Some(filter) = inside.strip_prefix("?(") {
        let (filter, rest) = filter.split_once(")]")?;
        let (path, equal, value) = match filter.split_once("==") {
            Some((path, value)) => (path, true, value),
            None => filter.split_once("!=").map(|(path, value)| (path, false, value))?,
        };
        let path = JsonPath::read(path.trim().strip_prefix('@')?)?;
        return Some((Some(Step::Where { path, equal, value: literal(value.trim())? }), rest));
    }
    let (inside, rest) = inside.split_once(']')?;
    let step = match literal(inside.trim()) {
        _ if inside == "*" => Step::All,
        Some(Value::String(name)) => Step::Field(name),
        Some(value) => Step::Index(value.as_i64()?),
        None => return None,
    };
    Some((Some(step), rest))
}

fn literal(text: &str) -> Option<Value> {
    let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    quoted.map(|text| Value::String(text.to_owned())).or_else(|| serde_json::from_str(text).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_the_table_says() {
        let object =
            json!({"a": {"b": 1, "c.d": 2}, "l": [{"t": "x", "s": "1"}, {"t": "y", "s": "2"}], "e": []});
        for (path, wanted) in [
            (".a.b", json!([1])),
            ("{.a.b}", json!([1])),
            (".a['c.d']", json!([2])),
            (r".a.c\.d", json!([2])),
            (".l[0].s", json!(["1"])),
            (".l[-1].s", json!(["2"])),
            (".l[*].s", json!(["1", "2"])),
            (r#".l[?(@.t=="y")].s"#, json!(["2"])),
            (".l[?(@.t!='y')].s", json!(["1"])),
            (".l[9]", json!([])),
            (".missing.b", json!([])),
            (".e", json!([[]])),
        ] {
            let found: Vec<_> = JsonPath::read(path).unwrap().all(&object).into_iter().cloned().collect();
            assert_eq!(Value::from(found), wanted, "{path}");
        }
    }

    #[test]
    fn other_forms_are_not_read() {
        for path in ["a.b", ".a[", ".a[x]", ".a[?(@.b>1)]", ".a[?(b==1)]"] {
            assert_eq!(JsonPath::read(path), None, "{path}");
        }
    }
}
