//! Taking secrets out of what leaves the machine. Pure.
//!
//! By what things are called (`token`, `password`, …), and by what they look like: private keys, tokens, passwords in URLs,
//! and anything that could be a key, which is 32 hex digits or 40 characters of base64 in a row. Rather too much than too
//! little: a digest that is lost costs less than a key that is not.

use regex::{Captures, Regex, RegexBuilder};
use serde_json::{Map, Value};

/// What stands where a secret was.
pub(crate) const REDACTED: &str = "<redacted>";

/// So many characters of base64 in a row could be a key of 30 bytes or more.
const KEY_LENGTH: usize = 40;

/// Names of things whose value nobody else is to know.
const SECRET_NAMES: &str = "token|password|passwd|passphrase|secret|private[-_]?key|preshared[-_]?key|\
     client[-_]?key|key[-_]?data|api[-_]?key|access[-_]?key|credential|authorization|cookie|\\bpsk\\b";

/// The rules, compiled.
#[derive(Debug)]
pub(crate) struct Redactor {
    name: Regex,
    rules: Vec<(Regex, &'static str)>,
    base64: Regex,
}

impl Default for Redactor {
    fn default() -> Self {
        let regex = |text: &str| {
            let built = RegexBuilder::new(text).case_insensitive(true).dot_matches_new_line(true).build();
            built.expect("the rules are constants, and a test uses each")
        };
        let assigned = format!(
            r#"([\w.-]*(?:{SECRET_NAMES})[\w.-]*\\*["']?\s*[:=]\s*)(\\*"(?:[^"\\]|\\[^"])*\\*"|\\*'[^']*'|[^\s,;}}\]]+)"#
        );
        let rules = vec![
            (
                regex("-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\\z)"),
                REDACTED,
            ),
            (regex(r#"([a-z][a-z0-9+.-]*://)[^\s"'<>/?#]*@"#), "${1}<redacted>@"),
            (regex(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), "${1} <redacted>"),
            (regex(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), REDACTED),
            (regex(&assigned), "${1}<redacted>"),
            (regex(r"\b[0-9a-f]{32,}\b"), REDACTED),
        ];
        Self { name: regex(SECRET_NAMES), rules, base64: regex("[A-Za-z0-9+/_-]{40,}={0,2}") }
    }
}

impl Redactor {
    /// A text without what is, or looks like, a secret.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (rule, replacement) in &self.rules {
            if rule.is_match(&text) {
                text = rule.replace_all(&text, *replacement).into_owned();
            }
        }
        let long = |found: &Captures<'_>| {
            let word = &found[0];
            if is_random(word) { REDACTED.to_owned() } else { word.to_owned() }
        };
        self.base64.replace_all(&text, long).into_owned()
    }

    /// JSON without secrets, and without what Kubernetes keeps of earlier versions of an object, which has them too.
    pub(crate) fn value(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => self.object(fields),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::String(text) => self.text(text).into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn object(&self, fields: &Map<String, Value>) -> Value {
        // `{"name": "TOKEN", "value": "…"}`, as environments are written.
        let named = fields.get("name").and_then(Value::as_str).is_some_and(|name| self.is_secret(name));
        let field = |(key, value): (&String, &Value)| {
            let value = match key.as_str() {
                "managedFields" | "kubectl.kubernetes.io/last-applied-configuration" => return None,
                "value" if named => hide(value),
                key if self.is_secret(key) => hide(value),
                // A public key is no secret, and says who is meant.
                key if key.to_ascii_lowercase().contains("pub") && value.as_str().is_some_and(is_public) => {
                    value.clone()
                }
                _ => self.value(value),
            };
            Some((self.text(key), value))
        };
        Value::Object(fields.iter().filter_map(field).collect())
    }

    /// Where a secret is, by name or path, is none.
    fn is_secret(&self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        let points = ["name", "ref", "file", "path", "refs"].iter().any(|end| lower.ends_with(end));
        self.name.is_match(name) && !points
    }
}

/// Hides all texts, and leaves what is around them.
fn hide(value: &Value) -> Value {
    match value {
        Value::String(_) => REDACTED.into(),
        Value::Array(items) => items.iter().map(hide).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (key.clone(), hide(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// 32 bytes of base64: what a WireGuard key is.
fn is_public(text: &str) -> bool {
    text.len() == 44 && text.ends_with('=') && !text.contains(char::is_whitespace)
}

/// Whether a long word has capitals, small letters and digits, as random bytes in base64 do and names do not.
fn is_random(word: &str) -> bool {
    word.len() >= KEY_LENGTH
        && word.contains(|char: char| char.is_ascii_uppercase())
        && word.contains(|char: char| char.is_ascii_lowercase())
        && word.contains(|char: char| char.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "kFJ5Xw0yq9sB1n2E3r4T5y6U7i8O9p0AaSsDdFfGgHh=";

    #[test]
    fn whatever_is_or_looks_like_a_secret_goes_and_the_rest_stays() {
        let redactor = Redactor::default();
        let pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----";
        for (name, text, expected) in [
            ("words", "the mesh of west is ready", "the mesh of west is ready"),
            ("PEM", &format!("a {pem} b"), "a <redacted> b"),
            ("PEM, cut off", "a -----BEGIN PRIVATE KEY-----\nMHc", "a <redacted>"),
            (
                "PEM in JSON",
                "{\"k\":\"-----BEGIN PRIVATE KEY-----\\nMHc\\n-----END PRIVATE KEY-----\\n\"}",
                "{\"k\":\"<redacted>\\n\"}",
            ),
            ("URL", "dial https://joe:pa55@etcd:2379/x", "dial https://<redacted>@etcd:2379/x"),
            ("URL without", "dial https://etcd:2379/a@b", "dial https://etcd:2379/a@b"),
            ("header", "Authorization: Bearer abc.def", "Authorization: <redacted> <redacted>"),
            ("bearer", "sent Bearer abcdef123", "sent Bearer <redacted>"),
            ("token", "got eyJhbGci.eyJzdWIi.c2ln.", "got <redacted>."),
            (
                "YAML",
                "users:\n- user:\n    token: s3same\n    x: y",
                "users:\n- user:\n    token: <redacted>\n    x: y",
            ),
            ("JSON", r#"{"password":"a b", "x":1}"#, r#"{"password":<redacted>, "x":1}"#),
            ("JSON in JSON", r#""{\"token\":\"abc\",\"x\":1}""#, r#""{\"token\":<redacted>,\"x\":1}""#),
            ("flag", "--store-password=x --port=1", "--store-password=<redacted> --port=1"),
            ("WireGuard", &format!("peer {KEY} up"), "peer <redacted> up"),
            (
                "IPsec",
                "3+ rfc4106(gcm(aes)) 41049390e1e2b5d6543901daab6435f4042155fe 128",
                "3+ rfc4106(gcm(aes)) <redacted> 128",
            ),
            (
                "a key of the store",
                "cilium/state/services/v1/west/shop/a-long-name-of-a-service",
                "cilium/state/services/v1/west/shop/a-long-name-of-a-service",
            ),
            ("a uid", "0b1c2d3e-aaaa-bbbb-cccc-0123456789ab", "0b1c2d3e-aaaa-bbbb-cccc-0123456789ab"),
        ] {
            assert_eq!(redactor.text(text), expected, "{name}");
        }
    }

    #[test]
    fn objects_lose_secrets_by_name_and_earlier_versions_and_keep_where_secrets_are() {
        let given = json!({
            "metadata": {"name": "x", "managedFields": [{"a": 1}], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{\"data\":\"top\"}",
                "network.cilium.io/wg-pub-key": KEY,
            }},
            "client-key-data": "TUhj", "secretName": "tls", "tokens": ["a", {"b": "c"}],
            "env": [{"name": "DB_PASSWORD", "value": "x"}, {"name": "PORT", "value": "80"}],
            "data": {"etcd.yaml": "endpoints:\n- https://u:p@h:1\n"}, "count": 3, "privateKey": KEY,
        });
        let expected = json!({
            "metadata": {"name": "x", "annotations": {"network.cilium.io/wg-pub-key": KEY}},
            "client-key-data": REDACTED, "secretName": "tls", "tokens": [REDACTED, {"b": REDACTED}],
            "env": [{"name": "DB_PASSWORD", "value": REDACTED}, {"name": "PORT", "value": "80"}],
            "data": {"etcd.yaml": "endpoints:\n- https://<redacted>@h:1\n"}, "count": 3, "privateKey": REDACTED,
        });
        assert_eq!(Redactor::default().value(&given), expected);
    }
}
