//! The part of Kubernetes' JSONPath that people use with `-o jsonpath=`: `{.[0].name}`, `{[*].ready}`, `{"\n"}`.

use crate::exit::Usage;
use serde_json::Value;

/// One step into a value.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
}

/// What `template` makes of `value`: text as it is, and in braces paths or quoted text.
///
/// # Errors
/// [`Usage`] for a template that is none. A path that leads nowhere prints nothing.
pub(super) fn print(template: &str, value: &Value) -> anyhow::Result<String> {
    // A bare path counts as one in braces.
    let braced = if template.contains('{') { template.to_owned() } else { format!("{{{template}}}") };
    let mut printed = String::new();
    let mut rest = braced.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        printed += before;
        let (path, next) = after.split_once('}').ok_or_else(|| wrong(template))?;
        rest = next;
        let path = path.trim();
        if let Some(quoted) = path.strip_prefix('"').and_then(|path| path.strip_suffix('"')) {
            printed += &quoted.replace("\\n", "\n").replace("\\t", "\t");
            continue;
        }
        let steps = steps(path).ok_or_else(|| wrong(template))?;
        let found = steps.iter().fold(vec![value], |values, step| {
            values.into_iter().flat_map(|value| follow(value, step)).collect()
        });
        printed += &found.into_iter().map(shown).collect::<Vec<_>>().join(" ");
    }
    Ok(printed + rest)
}

fn wrong(template: &str) -> anyhow::Error {
    Usage::error(format!("jsonpath={template}: expected a template such as {{[*].name}}"))
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), _) => value.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(values)) => {
            let at = if *index < 0 { *index + values.len() as i64 } else { *index };
            usize::try_from(at).ok().and_then(|at| values.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(values)) => values.iter().collect(),
        (Step::All, Value::Object(fields)) => fields.values().collect(),
        (Step::Index(_) | Step::All, _) => Vec::new(),
    }
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (index, next) = inner.split_once(']')?;
            steps.push(match index.strip_prefix('\'').and_then(|name| name.strip_suffix('\'')) {
                Some(name) => Step::Field(name.to_owned()),
                None if index == "*" => Step::All,
                None => Step::Index(index.parse().ok()?),
            });
            rest = next;
        } else {
            let field = rest.strip_prefix('.')?;
            let end = field.find(['.', '[']).unwrap_or(field.len());
            let (name, next) = field.split_at(end);
            match name {
                "" => {}
                "*" => steps.push(Step::All),
                name => steps.push(Step::Field(name.to_owned())),
            }
            if name.is_empty() && !next.starts_with('[') && !next.is_empty() {
                return None;
            }
            rest = next;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_what_they_name() {
        let value = json!([{"name": "a", "num-nodes": 4, "synced": {"nodes": true}}, {"name": "b"}]);
        for (template, expected) in [
            ("{.[0].name}", "a"),
            ("{[0].num-nodes}", "4"),
            ("{$[*].name}", "a b"),
            ("{.[*].name}{\"\\n\"}", "a b\n"),
            ("{[-1].name}", "b"),
            ("{[0].synced}", r#"{"nodes":true}"#),
            ("{[0]['num-nodes']}", "4"),
            ("n={[0].name}!", "n=a!"),
            ("[1].name", "b"),
            ("{[7].name}", ""),
            ("{[0].synced.*}", "true"),
        ] {
            assert_eq!(print(template, &value).unwrap(), expected, "{template}");
        }
        for wrong in ["{[0", "{[x]}", "{name}", "{..name}"] {
            assert!(print(wrong, &value).is_err(), "{wrong}");
        }
    }
}
