//! The two shapes that the API server answers with, read without copying the objects in them; pure.

use std::borrow::Cow;

use kube::core::Status;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::object::Head;

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) items: Vec<&'a RawValue>,
    pub(crate) resource_version: String,
    /// Token of the next page; `None` on the last one.
    pub(crate) next: Option<String>,
}

impl<'a> Page<'a> {
    /// Reads a page.
    ///
    /// What is not certainly a list (another kind, no resource version, no items) is an error and not an empty list: a proxy
    /// that answers `{}` must not delete a whole mirror.
    pub(crate) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            kind: Cow<'a, str>,
            metadata: Metadata,
            #[serde(borrow, deserialize_with = "required_but_maybe_null")]
            items: Option<Vec<&'a RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: String,
            #[serde(default, rename = "continue")]
            next: Option<String>,
        }
        let wire: Wire<'a> = serde_json::from_str(text)?;
        if !wire.kind.ends_with("List") {
            return Err(serde_json::Error::custom(format_args!("a {} is not a list", wire.kind)));
        }
        if wire.metadata.resource_version.is_empty() {
            return Err(serde_json::Error::custom("list without a resource version"));
        }
        Ok(Self {
            items: wire.items.unwrap_or_default(),
            resource_version: wire.metadata.resource_version,
            next: wire.metadata.next.filter(|token| !token.is_empty()),
        })
    }
}

/// Some servers write `null` when there are no items; that the field is missing is another thing.
fn required_but_maybe_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<&'de RawValue>>, D::Error> {
    Option::deserialize(deserializer)
}

/// One line of a watch.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// `ADDED` or `MODIFIED`.
    Applied(&'a RawValue),
    Deleted(&'a RawValue),
    /// The server has sent everything up to this resource version.
    Bookmark(String),
    Error(Box<Status>),
}

impl<'a> Line<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Bookmark {
            metadata: BookmarkMetadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct BookmarkMetadata {
            resource_version: String,
        }
        let wire: Wire<'a> = serde_json::from_str(text)?;
        match wire.kind.as_ref() {
            "ADDED" | "MODIFIED" => Ok(Self::Applied(wire.object)),
            "DELETED" => Ok(Self::Deleted(wire.object)),
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(wire.object.get())?;
                Ok(Self::Bookmark(bookmark.metadata.resource_version))
            }
            "ERROR" => Ok(Self::Error(serde_json::from_str(wire.object.get())?)),
            other => Err(serde_json::Error::custom(format_args!("watch event of unknown type {other:?}"))),
        }
    }
}

/// Reads the name of an object.
pub(crate) fn head(object: &RawValue) -> Result<Head<'_>, serde_json::Error> {
    let head: Head<'_> = serde_json::from_str(object.get())?;
    if head.metadata.name.is_empty() {
        return Err(serde_json::Error::custom("object without a name"));
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_certainly_a_list_is_an_error_and_not_an_empty_list() {
        for (name, text) in [
            ("empty object", "{}"),
            ("empty body", ""),
            ("cut off", r#"{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":["#),
            ("no items", r#"{"kind":"NodeList","metadata":{"resourceVersion":"7"}}"#),
            ("no version", r#"{"kind":"NodeList","metadata":{},"items":[]}"#),
            ("empty version", r#"{"kind":"NodeList","metadata":{"resourceVersion":""},"items":[]}"#),
            ("another kind", r#"{"kind":"Status","metadata":{"resourceVersion":"7"},"items":[]}"#),
            ("html", "<html>gateway</html>"),
        ] {
            assert!(Page::read(text).is_err(), "{name}");
        }
    }

    #[test]
    fn pages_carry_items_version_and_token() {
        let text = r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"t"},
            "items":[{"metadata":{"name":"a\u002db","namespace":"n","resourceVersion":"3"},"x":1}]}"#;
        let page = Page::read(text).unwrap();
        assert_eq!((page.resource_version.as_str(), page.next.as_deref()), ("7", Some("t")));
        let head = head(page.items[0]).unwrap();
        assert_eq!(head.key().to_string(), "n/a-b");
        let last = Page::read(
            r#"{"kind":"NodeList","metadata":{"resourceVersion":"7","continue":""},"items":null}"#,
        )
        .unwrap();
        assert_eq!((last.items.len(), last.next), (0, None));
    }

    #[test]
    fn watch_lines_are_read_by_their_type() {
        let object = r#"{"metadata":{"name":"a","resourceVersion":"9"}}"#;
        let line = |kind: &str, object: &str| format!(r#"{{"type":"{kind}","object":{object}}}"#);
        assert!(matches!(Line::read(&line("ADDED", object)), Ok(Line::Applied(_))));
        assert!(matches!(Line::read(&line("MODIFIED", object)), Ok(Line::Applied(_))));
        assert!(matches!(Line::read(&line("DELETED", object)), Ok(Line::Deleted(_))));
        assert!(
            matches!(Line::read(&line("BOOKMARK", object)), Ok(Line::Bookmark(version)) if version == "9")
        );
        let gone = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410}"#;
        assert!(matches!(Line::read(&line("ERROR", gone)), Ok(Line::Error(status)) if status.code == 410));
        for (name, text) in [
            ("unknown type", line("RENAMED", object)),
            ("no object", r#"{"type":"ADDED"}"#.to_owned()),
            ("cut off", line("ADDED", object)[..20].to_owned()),
            ("bookmark without version", line("BOOKMARK", r#"{"metadata":{}}"#)),
        ] {
            assert!(Line::read(&text).is_err(), "{name}");
        }
    }

    #[test]
    fn an_object_without_a_name_has_no_key() {
        for text in [r#"{"metadata":{}}"#, r#"{"metadata":{"name":""}}"#, r#"{}"#, "7"] {
            let object: &RawValue = serde_json::from_str(text).unwrap();
            assert!(head(object).is_err(), "{text}");
        }
    }
}
