//! What the exporter is told at its start.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mesh_types::LocalCluster;

/// Bounds of [`Config::lease_ttl`], as in Cilium.
const LEASE_TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(25)..=Duration::from_secs(24 * 3600);

/// Where nodes, identities and endpoints come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cni {
    /// From Cilium's objects if the API server has their definitions at the start, else derived. When the definitions
    /// appear later, the exporter changes over to them.
    #[default]
    Auto,
    /// From Cilium's objects; waits for their definitions.
    Cilium,
    /// Derived from Node, Pod and Namespace.
    None,
}

/// A word that is none of `auto`, `cilium` and `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `auto`, `cilium` or `none`")]
pub struct UnknownCni;

impl FromStr for Cni {
    type Err = UnknownCni;

    fn from_str(text: &str) -> Result<Self, UnknownCni> {
        match text {
            "auto" => Ok(Self::Auto),
            "cilium" => Ok(Self::Cilium),
            "none" => Ok(Self::None),
            _ => Err(UnknownCni),
        }
    }
}

impl fmt::Display for Cni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cilium => "cilium",
            Self::None => "none",
        })
    }
}

/// In which formats global services go out: Cilium's `--clustermesh-service-v2`.
///
/// The first two differ in what readers of this cluster prefer, which is theirs to say; a cluster exports both formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceFormat {
    /// Services and EndpointSlices.
    #[default]
    PreferLegacy,
    /// Services and EndpointSlices.
    PreferEndpointSlice,
    /// EndpointSlices alone, which only readers of Cilium 1.20 and newer understand.
    OnlyEndpointSlice,
}

/// A word that is none of Cilium's three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `prefer-legacy`, `prefer-endpointslice` or `only-endpointslice`")]
pub struct UnknownServiceFormat;

impl ServiceFormat {
    const ALL: [(Self, &str); 3] = [
        (Self::PreferLegacy, "prefer-legacy"),
        (Self::PreferEndpointSlice, "prefer-endpointslice"),
        (Self::OnlyEndpointSlice, "only-endpointslice"),
    ];

    /// Whether the older format is written.
    pub(crate) const fn has_services(self) -> bool {
        !matches!(self, Self::OnlyEndpointSlice)
    }

    /// What the cluster's configuration announces.
    pub(crate) const fn announced(self) -> &'static str {
        if self.has_services() { "services-and-endpointslices" } else { "endpointslices-only" }
    }
}

impl FromStr for ServiceFormat {
    type Err = UnknownServiceFormat;

    fn from_str(text: &str) -> Result<Self, UnknownServiceFormat> {
        let known = Self::ALL.into_iter().find(|(_, word)| *word == text);
        known.map(|(format, _)| format).ok_or(UnknownServiceFormat)
    }
}

impl fmt::Display for ServiceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.into_iter().find(|(format, _)| format == self);
        f.write_str(known.map_or("", |(_, word)| word))
    }
}

/// What the exporter is told at its start; the defaults are Cilium's.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster whose state is exported.
    pub local: LocalCluster,
    /// Keys outlive a dead exporter by so long; 25 s to 24 h.
    pub lease_ttl: Duration,
    /// Where nodes, identities and endpoints come from.
    pub cni: Cni,
    /// Read CiliumEndpointSlice instead of CiliumEndpoint.
    pub cilium_endpoint_slices: bool,
    /// Export the ServiceExports of the Multi-Cluster Services API.
    pub mcs_api: bool,
    /// In which formats global services go out.
    pub service_format: ServiceFormat,
    /// Whether a namespace without the annotation is global.
    pub default_global_namespace: bool,
    /// Export Services whose label `service.kubernetes.io/service-proxy-name` has this value; empty is none.
    pub service_proxy_name: String,
    /// Namespace of the ConfigMaps that record numeric identities where the CNI is not Cilium.
    pub identity_namespace: String,
    /// How long such a record stays when no pod needs it.
    pub identity_grace: Duration,
    /// With [`Cni::Cilium`], how long to wait for Cilium's definitions before giving up; `None` is as long as it takes.
    pub crd_wait: Option<Duration>,
    /// The file of export scopes, if clusters are to see different parts.
    pub export_scopes: Option<PathBuf>,
    /// How replicas agree on who writes to Kubernetes; `None` if there is one only.
    pub leases: Option<Leases>,
}

/// The times of a leader election; the defaults are those of Cilium's operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leases {
    /// Namespace of the Lease.
    pub namespace: String,
    /// What this replica calls itself; no two may have the same.
    pub identity: String,
    /// How long a Lease holds when its holder is silent; whole seconds.
    pub duration: Duration,
    /// How long its holder writes without having renewed it.
    pub renew_deadline: Duration,
    /// How often it is renewed, or looked at.
    pub retry: Duration,
}

impl Default for Leases {
    /// An identity of its own each time: the host's name, and a random number.
    fn default() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let number = (mesh_runtime::jitter() * f64::from(u32::MAX)) as u32;
        Self {
            namespace: "kube-system".to_owned(),
            identity: format!("{}-{number:08x}-{}", host.trim(), std::process::id()),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Out of bounds.
    #[error("the lease's time to live is {0:?}, expected 25 s to 24 h")]
    LeaseTtl(Duration),
    /// It is not the name of a namespace.
    #[error("identity namespace {0:?}: expected the name of a namespace")]
    IdentityNamespace(String),
    /// Another replica could take over while this one still writes, or no renewal would come in time.
    #[error(
        "leader election: expected retry {retry:?} < renew deadline {renew_deadline:?} < lease duration {duration:?}"
    )]
    Leases {
        /// See [`Leases`].
        duration: Duration,
        /// See [`Leases`].
        renew_deadline: Duration,
        /// See [`Leases`].
        retry: Duration,
    },
    /// It is not the name of a namespace.
    #[error("leader election namespace {0:?}: expected the name of a namespace")]
    LeaseNamespace(String),
}

impl Config {
    /// Everything at its default.
    #[must_use]
    pub fn new(local: LocalCluster) -> Self {
        Self {
            local,
            lease_ttl: Duration::from_secs(15 * 60),
            cni: Cni::default(),
            cilium_endpoint_slices: false,
            mcs_api: false,
            service_format: ServiceFormat::default(),
            default_global_namespace: true,
            service_proxy_name: String::new(),
            identity_namespace: "kube-system".to_owned(),
            identity_grace: Duration::from_secs(3600),
            crd_wait: None,
            export_scopes: None,
            leases: None,
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`], with what would work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !LEASE_TTL.contains(&self.lease_ttl) {
            return Err(ConfigError::LeaseTtl(self.lease_ttl));
        }
        if !is_namespace(&self.identity_namespace) {
            return Err(ConfigError::IdentityNamespace(self.identity_namespace.clone()));
        }
        if let Some(Leases { namespace, duration, renew_deadline, retry, .. }) = &self.leases {
            if !is_namespace(namespace) {
                return Err(ConfigError::LeaseNamespace(namespace.clone()));
            }
            if retry >= renew_deadline || renew_deadline >= duration {
                let (duration, renew_deadline, retry) = (*duration, *renew_deadline, *retry);
                return Err(ConfigError::Leases { duration, renew_deadline, retry });
            }
        }
        Ok(())
    }
}

fn is_namespace(name: &str) -> bool {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_what_would() {
        let config = || Config::new(LocalCluster::new("west", 3, 255).unwrap());
        assert_eq!(config().validate(), Ok(()));
        for seconds in [24, 24 * 3600 + 1] {
            let config = Config { lease_ttl: Duration::from_secs(seconds), ..config() };
            assert!(config.validate().unwrap_err().to_string().contains("25 s to 24 h"));
        }
        for namespace in ["", "Kube", "a/b"] {
            let config = Config { identity_namespace: namespace.into(), ..config() };
            assert_eq!(config.validate(), Err(ConfigError::IdentityNamespace(namespace.into())));
        }
    }

    #[test]
    fn a_lease_outlives_its_holders_writes() {
        let leases = |renew, retry| Leases {
            renew_deadline: Duration::from_secs(renew),
            retry: Duration::from_secs(retry),
            ..Leases::default()
        };
        for (leases, works) in [(leases(10, 2), true), (leases(15, 2), false), (leases(2, 2), false)] {
            let local = LocalCluster::new("west", 3, 255).unwrap();
            let config = Config { leases: Some(leases), ..Config::new(local) };
            assert_eq!(config.validate().is_ok(), works, "{config:?}");
        }
        assert_ne!(Leases::default().identity, Leases::default().identity);
    }

    #[test]
    fn words_of_service_formats_round_trip() {
        for (format, word) in ServiceFormat::ALL {
            assert_eq!((format.to_string().as_str(), word.parse()), (word, Ok(format)));
        }
        assert_eq!("endpointslices".parse::<ServiceFormat>(), Err(UnknownServiceFormat));
    }

    #[test]
    fn cni_words_round_trip() {
        for cni in [Cni::Auto, Cni::Cilium, Cni::None] {
            assert_eq!(cni.to_string().parse(), Ok(cni));
        }
        assert_eq!("calico".parse::<Cni>(), Err(UnknownCni));
    }
}
