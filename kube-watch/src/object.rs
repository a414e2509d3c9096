//! One object as the API server sent it, and the name it goes by.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Namespace and name of an object; unique within one resource.
///
/// Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Empty for a resource of cluster scope.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of `name` in `namespace`; the empty namespace is cluster scope.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// `namespace/name`, or `name` alone in cluster scope.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Why one object was not turned into its type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The JSON does not have the shape of the type.
    #[error("object does not have the expected shape: {0}")]
    Json(#[from] serde_json::Error),
    /// The shape is right, a value breaks a rule of the type.
    #[error("object breaks a rule: {0}")]
    Invalid(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DecodeError {
    /// An error of the decoding function's own.
    pub fn invalid(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Invalid(source.into())
    }
}

/// One object, not yet decoded; borrows the text of the answer it came in.
///
/// Decode it into a small type that names only the fields that matter ([`RawObject::parse`]): what the type does not name,
/// `metadata.managedFields` above all, is skipped in the text and never held in memory.
#[derive(Clone, Copy, Debug)]
pub struct RawObject<'a> {
    json: &'a RawValue,
    namespace: &'a str,
    name: &'a str,
    resource_version: &'a str,
}

impl<'a> RawObject<'a> {
    pub(crate) fn new(json: &'a RawValue, head: &'a Head<'a>) -> Self {
        Self {
            json,
            namespace: head.metadata.namespace.as_deref().unwrap_or_default(),
            name: &head.metadata.name,
            resource_version: head.metadata.resource_version.as_deref().unwrap_or_default(),
        }
    }

    /// Decodes one object from its JSON text, as a watch does.
    ///
    /// # Errors
    /// What `decode` returns, or [`DecodeError::Json`] if the text is no object with a name.
    pub fn decode<T>(
        json: &str,
        decode: impl FnOnce(&RawObject<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let json: &RawValue = serde_json::from_str(json)?;
        let head = crate::wire::head(json)?;
        decode(&RawObject::new(json, &head))
    }

    /// `metadata.namespace`; empty in cluster scope.
    pub fn namespace(&self) -> &'a str {
        self.namespace
    }

    /// `metadata.name`.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &'a str {
        self.resource_version
    }

    /// The whole object as JSON text.
    pub fn json(&self) -> &'a str {
        self.json.get()
    }

    /// Reads the object as a `K`; fields that `K` does not name are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Json`] if the object does not have the shape of `K`.
    pub fn parse<K: DeserializeOwned>(&self) -> Result<K, DecodeError> {
        Ok(serde_json::from_str(self.json.get())?)
    }
}

/// What is read of every object before anything else: enough to name it.
#[derive(Deserialize)]
pub(crate) struct Head<'a> {
    #[serde(borrow)]
    pub(crate) metadata: HeadMetadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeadMetadata<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) resource_version: Option<Cow<'a, str>>,
}

impl Head<'_> {
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(self.metadata.namespace.as_deref().unwrap_or_default(), &self.metadata.name)
    }
}
