//! OpenAPI v2 in protobuf, the only form in which `kubectl` reads it. It does so for a `kind: List`, whose items it checks
//! by itself. Pure.
//!
//! Each kind is an object of which nothing more is said, so that what it checks passes and the server has the say. No paths
//! are given: by them `kubectl` would make strategic merge patches of schemas, which are not here in full.
//!
//! Source: `openapiv2/OpenAPIv2.proto` of google/gnostic-models for the fields' numbers; protobuf docs, "Encoding".

use serde_json::json;

use super::{info, kind, schema_name};
use crate::catalog::Catalog;

/// The media type of the document.
pub(crate) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same as clients ask for it, though `@` is not allowed in one.
const OLDER: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Whether a client that accepts this takes the document.
pub(crate) fn is_wanted(accept: &str) -> bool {
    [MEDIA_TYPE, OLDER].iter().any(|form| accept.contains(form))
}

/// The document.
pub(crate) fn document(catalog: &Catalog) -> Vec<u8> {
    let info = info();
    let text = |name: &str| info[name].as_str().unwrap_or_default().to_owned();
    let mut described = Message::default();
    described.text(1, &text("title")).text(2, &text("version"));
    let mut definitions = Message::default();
    for resource in catalog.all() {
        let mut kinds = Message::default();
        // YAML, of which JSON is a part.
        kinds.text(2, &json!([kind(resource)]).to_string());
        let mut extension = Message::default();
        extension.text(1, "x-kubernetes-group-version-kind").message(2, &kinds);
        let mut types = Message::default();
        types.text(1, "object");
        let mut schema = Message::default();
        schema.message(22, &types).message(31, &extension);
        let mut named = Message::default();
        named.text(1, &schema_name(resource)).message(2, &schema);
        definitions.message(1, &named);
    }
    let mut document = Message::default();
    document.text(1, "2.0").message(2, &described).message(8, &Message::default()).message(9, &definitions);
    document.0
}

/// A message in the making. Every field of these is text or a message, so it has a length before it.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(&mut self, field: u64, value: &str) -> &mut Self {
        self.field(field, value.as_bytes())
    }

    fn message(&mut self, field: u64, value: &Self) -> &mut Self {
        self.field(field, &value.0)
    }

    fn field(&mut self, field: u64, value: &[u8]) -> &mut Self {
        const LENGTH_DELIMITED: u64 = 2;
        self.varint(field << 3 | LENGTH_DELIMITED).varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_number_length_and_bytes() {
        let mut message = Message::default();
        message.text(1, "2.0").text(22, &"x".repeat(300));
        assert_eq!(message.0[..5], [0x0a, 3, b'2', b'.', b'0']);
        assert_eq!(message.0[5..9], [0xb2, 0x01, 0xac, 0x02]);
        assert_eq!(message.0.len(), 9 + 300);
    }
}
