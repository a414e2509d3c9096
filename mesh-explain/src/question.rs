//! What is asked.

use std::fmt;
use std::net::IpAddr;

use mesh_types::ClusterName;
use mesh_types::key::{Form, Resource};

/// What is asked, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub subject: Subject,
    /// The cluster whose view is explained.
    pub from: ClusterName,
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A service and its backends in all clusters.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A name below the domain of multi-cluster services.
    Name {
        /// As it was asked, in lower case, without a final dot.
        asked: String,
        /// The service in it.
        service: String,
        /// The namespace in it.
        namespace: String,
    },
    /// An address of a pod or node.
    Address(IpAddr),
}

/// A question that cannot be asked. The text says what can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionError(String);

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for QuestionError {}

impl Subject {
    /// Reads `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// A text of another shape.
    pub fn service(text: &str) -> Result<Self, QuestionError> {
        let parts = text
            .split_once('/')
            .filter(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains('/'));
        let (namespace, name) = parts.ok_or_else(|| {
            QuestionError(format!("expected NAMESPACE/NAME such as shop/cart, found {text:?}"))
        })?;
        Ok(Self::Service { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Reads `SERVICE.NAMESPACE.svc.ZONE`, also with labels of an endpoint and a cluster, or of a port, in front
    /// (KEP-1645, DNS).
    ///
    /// # Errors
    /// A name of another shape, or outside of `zone`.
    pub fn name(text: &str, zone: &str) -> Result<Self, QuestionError> {
        let asked = text.trim_end_matches('.').to_ascii_lowercase();
        let zone = zone.trim_end_matches('.').to_ascii_lowercase();
        let wrong = || QuestionError(format!("expected a name such as cart.shop.svc.{zone}, found {text:?}"));
        let labels = asked.strip_suffix(&format!(".svc.{zone}")).ok_or_else(wrong)?;
        let mut labels = labels.rsplit('.');
        let namespace = labels.next().filter(|label| !label.is_empty()).ok_or_else(wrong)?;
        let service = labels.next().filter(|label| !label.is_empty()).ok_or_else(wrong)?;
        // At most an endpoint and a cluster, or a port and a protocol.
        if labels.clone().count() > 2 || labels.any(str::is_empty) {
            return Err(wrong());
        }
        let (namespace, service) = (namespace.to_owned(), service.to_owned());
        Ok(Self::Name { namespace, service, asked })
    }

    /// `namespace/name` of the service that it is about, if it is about one.
    pub fn object(&self) -> Option<String> {
        match self {
            Self::Service { namespace, name } | Self::Name { namespace, service: name, .. } => {
                Some(format!("{namespace}/{name}"))
            }
            Self::Address(_) => None,
        }
    }

    /// The entry of a store that it is about, relative to the prefix of its kind.
    pub fn entry(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Service { .. } | Self::Name { .. } => self.object().unwrap_or_default(),
        }
    }

    /// The kinds of data that it travels in, the deciding one first.
    pub fn resources(&self) -> &'static [Resource] {
        match self {
            Self::Service { .. } => &[Resource::Services],
            Self::Name { .. } => &[Resource::ServiceExports, Resource::Services],
            Self::Address(_) => &[Resource::Ip],
        }
    }

    /// The keys of `cluster` in the given form: what to read from a store for the question.
    pub fn keys(&self, form: Form, cluster: &ClusterName) -> Vec<String> {
        let entry = self.entry();
        self.resources().iter().map(|resource| resource.prefix(form, cluster) + &entry).collect()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { namespace, name } => write!(f, "service {namespace}/{name}"),
            Self::Name { asked, .. } => write!(f, "name {asked}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_shapes_of_the_specification_are_read() {
        for text in [
            "cart.shop.svc.clusterset.local",
            "CART.shop.svc.clusterset.local.",
            "_http._tcp.cart.shop.svc.clusterset.local",
            "pod-0.east.cart.shop.svc.clusterset.local",
        ] {
            let subject = Subject::name(text, "clusterset.local.").unwrap();
            assert_eq!(subject.object().as_deref(), Some("shop/cart"), "{text}");
        }
        for text in [
            "",
            "svc.clusterset.local",
            "shop.svc.clusterset.local",
            "cart.shop.svc.cluster.local",
            "a.b.c.cart.shop.svc.clusterset.local",
            "..svc.clusterset.local",
        ] {
            Subject::name(text, "clusterset.local").unwrap_err();
        }
    }

    #[test]
    fn a_service_is_a_namespace_and_a_name() {
        assert_eq!(Subject::service("shop/cart").unwrap().object().as_deref(), Some("shop/cart"));
        for text in ["cart", "/cart", "shop/", "shop/cart/x"] {
            Subject::service(text).unwrap_err();
        }
    }

    #[test]
    fn keys_are_those_of_the_protocol() {
        let east = "east".parse().unwrap();
        let address = Subject::Address("10.0.0.7".parse().unwrap());
        assert_eq!(address.keys(Form::State, &east), ["cilium/state/ip/v1/default/10.0.0.7"]);
        assert_eq!(address.keys(Form::Cache, &east), ["cilium/cache/ip/v1/east/10.0.0.7"]);
        let service = Subject::service("shop/cart").unwrap();
        assert_eq!(service.keys(Form::Cache, &east), ["cilium/cache/services/v1/east/shop/cart"]);
    }
}
