//! What can be wrong with a mesh, by stable codes.

use serde::{Serialize, Serializer};

/// What a code is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The Kubernetes APIs.
    Access,
    /// Names, ids and who is in the mesh.
    Identity,
    /// Address ranges and how packets travel.
    Network,
    /// Who vouches for whom.
    Certificates,
    /// The stores and the way to them.
    Store,
    /// Clocks.
    Clock,
    /// Versions.
    Versions,
    /// What is written already.
    Configuration,
}

impl Group {
    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Access => "Kubernetes APIs",
            Self::Identity => "Names and ids",
            Self::Network => "Network",
            Self::Certificates => "Certificates",
            Self::Store => "Stores",
            Self::Clock => "Clocks",
            Self::Versions => "Versions",
            Self::Configuration => "Configuration",
        }
    }
}

macro_rules! codes {
    ($($variant:ident $number:literal $group:ident $title:literal,)*) => {
        /// A check that can fail. Numbers are never given to another one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Such as `C101`.
            pub const fn number(self) -> &'static str {
                match self { $(Self::$variant => $number,)* }
            }

            /// What it is about.
            pub const fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)* }
            }

            /// What holds if the check passes, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    ApiUnreachable "C001" Access "API server answers",
    Unauthorised "C002" Access "credentials are accepted",
    PermissionMissing "C003" Access "permissions suffice",
    NoClusterConfig "C004" Access "cluster says what it is",
    IdDuplicate "C101" Identity "cluster ids differ",
    NameDuplicate "C102" Identity "cluster names differ",
    NameInvalid "C103" Identity "cluster names are valid",
    IdInvalid "C104" Identity "cluster ids are in range",
    MaxClustersDiffer "C105" Identity "max-connected-clusters is the same",
    TooManyClusters "C106" Identity "mesh is not too large",
    MemberNotLookedAt "C107" Identity "all members are looked at",
    PeerDiffers "C108" Identity "members agree on where others are",
    PodCidrOverlap "C201" Network "pod CIDRs do not overlap",
    ServiceCidrOverlap "C202" Network "service CIDRs do not overlap",
    NodeAddressOverlap "C203" Network "node addresses do not overlap",
    DatapathDiffers "C204" Network "datapath modes fit",
    FamiliesDiffer "C205" Network "IP families fit",
    EncryptionDiffers "C206" Network "encryption is the same",
    CertificateMissing "C301" Certificates "certificates are there",
    CertificateExpired "C302" Certificates "no certificate has expired",
    CertificateNotYetValid "C303" Certificates "every certificate is valid already",
    CertificateEndsSoon "C304" Certificates "no certificate ends within 30 days",
    ChainBroken "C305" Certificates "CAs vouch for the certificates",
    CaDiffers "C306" Certificates "one CA for all clusters",
    ServerNameMissing "C307" Certificates "server certificates have the names",
    ClientNameUnexpected "C308" Certificates "client certificates have the names",
    StoreWithoutAddress "C401" Store "stores have an address",
    StoreInsideOnly "C402" Store "stores are reachable from outside",
    StoreUnreachable "C403" Store "stores answer from here",
    StoreRefused "C404" Store "stores accept the certificates",
    StoreOfAnother "C405" Store "stores are those of their clusters",
    ClockSkew "C501" Clock "clocks agree",
    VersionSkew "C601" Versions "versions fit",
    UsersUnreadable "C701" Configuration "users can be read",
    NotConnected "C702" Configuration "every cluster is connected to every other",
}

impl Code {
    /// Where the documentation explains it.
    pub fn docs(self) -> String {
        format!("docs/connect.md#{}", self.anchor())
    }

    /// The anchor of the heading `### C101 cluster ids differ` in a page.
    pub fn anchor(self) -> String {
        let heading = format!("{} {}", self.number(), self.title()).to_lowercase();
        heading.chars().map(|c| if c == ' ' { '-' } else { c }).collect()
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_its_heading_in_the_documentation() {
        let page = include_str!("../../docs/connect.md");
        let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        for code in Code::ALL {
            let heading = format!("{} {}", code.number(), code.title());
            assert!(headings.contains(heading.as_str()), "docs/connect.md has no heading `### {heading}`");
        }
        let numbered = headings.iter().filter(|heading| heading.starts_with('C')).count();
        assert_eq!(numbered, Code::ALL.len(), "the page explains a code that is not there");
    }

    #[test]
    fn numbers_differ_and_rise_within_their_groups() {
        let numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted() && numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len());
        let groups: Vec<_> = Code::ALL.iter().map(|code| code.group()).collect();
        assert!(groups.is_sorted());
        assert_eq!(Code::IdDuplicate.docs(), "docs/connect.md#c101-cluster-ids-differ");
    }
}
