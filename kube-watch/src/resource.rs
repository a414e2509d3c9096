//! What to watch.

use kube::core::{ApiResource, DynamicObject, Request, Resource as _};

/// One resource of a Kubernetes API, and which of its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub(crate) api: ApiResource,
    /// Versions to try in this order when the API server does not have the one before.
    pub(crate) fallbacks: Vec<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
}

impl Resource {
    /// Every object of a resource, for example `("cilium.io", "v2", "CiliumNode", "ciliumnodes")`; the core group is empty.
    pub fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Self::from(ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        })
    }

    /// Takes `version` when the API server has neither the first version nor a fallback named before. The objects are decoded by the same
    /// function, so the versions must agree in what it reads.
    #[must_use]
    pub fn or_version(mut self, version: impl Into<String>) -> Self {
        self.fallbacks.push(version.into());
        self
    }

    /// Only the objects of one namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only objects whose labels match `selector`, in the API's syntax.
    #[must_use]
    pub fn with_labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Only objects whose fields match `selector`, in the API's syntax (few fields are selectable).
    #[must_use]
    pub fn with_fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// The resource as kube's clients take it, for reads and writes beside the watch.
    pub fn api(&self) -> &ApiResource {
        &self.api
    }

    /// `plural.group`, as `kubectl get` takes it; `plural` alone in the core group.
    pub fn name(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }

    /// Requests in version number `version`, 0 for the first, then the fallbacks.
    pub(crate) fn request(&self, version: usize) -> Request {
        let namespace = self.namespace.as_deref();
        let Some(fallback) = version.checked_sub(1).and_then(|index| self.fallbacks.get(index)) else {
            return Request::new(DynamicObject::url_path(&self.api, namespace));
        };
        let api_version = if self.api.group.is_empty() {
            fallback.clone()
        } else {
            format!("{}/{fallback}", self.api.group)
        };
        let api = ApiResource { version: fallback.clone(), api_version, ..self.api.clone() };
        Request::new(DynamicObject::url_path(&api, namespace))
    }
}

/// Every object of the resource.
impl From<ApiResource> for Resource {
    fn from(api: ApiResource) -> Self {
        Self { api, fallbacks: Vec::new(), namespace: None, labels: None, fields: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_follow_group_and_namespace() {
        let nodes = Resource::new("cilium.io", "v2", "CiliumNode", "ciliumnodes");
        assert_eq!(nodes.request(0).url_path, "/apis/cilium.io/v2/ciliumnodes");
        assert_eq!(nodes.name(), "ciliumnodes.cilium.io");
        let services = Resource::new("", "v1", "Service", "services");
        assert_eq!(services.request(0).url_path, "/api/v1/services");
        assert_eq!(services.name(), "services");
        assert_eq!(services.in_namespace("shop").request(0).url_path, "/api/v1/namespaces/shop/services");
        let imports = Resource::new("multicluster.x-k8s.io", "v1beta1", "ServiceImport", "serviceimports");
        let imports = imports.or_version("v1alpha1");
        assert_eq!(imports.request(1).url_path, "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports");
    }
}
