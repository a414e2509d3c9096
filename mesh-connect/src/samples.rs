//! Clusters for tests: healthy ones, to be broken.

use crate::{Host, Member, Node, Objects, Settings, StoreService, StoreServiceKind, TlsSecret};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: i64 = 86_400;

/// When the tests take place.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// A CA that can sign.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// How long something is valid, in days from [`now`].
pub(crate) struct Days(pub(crate) i64, pub(crate) i64);

impl Days {
    fn set(&self, params: &mut CertificateParams) {
        let at = |days: i64| {
            let date = Timestamp::from_second(now().as_second() + days * DAY)
                .unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC);
            rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
        };
        (params.not_before, params.not_after) = (at(self.0), at(self.1));
    }
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        Self::below(name, None)
    }

    /// One that another vouches for.
    pub(crate) fn below(name: &str, above: Option<&Ca>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Days(-400, 4000).set(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = match above {
            None => params.self_signed(&key).unwrap().pem(),
            Some(above) => params.signed_by(&key, &above.issuer).unwrap().pem(),
        };
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn server(&self, names: &[&str], days: &Days) -> TlsSecret {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        self.issue("clustermesh-apiserver-server-cert", "clustermesh-apiserver.cilium.io", params, days)
    }

    pub(crate) fn client(&self, user: &str, days: &Days) -> TlsSecret {
        self.issue("clustermesh-apiserver-remote-cert", user, CertificateParams::default(), days)
    }

    fn issue(&self, secret: &str, name: &str, mut params: CertificateParams, days: &Days) -> TlsSecret {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        days.set(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        TlsSecret { name: secret.to_owned(), ca: self.pem.clone(), certificate, key: key.serialize_pem() }
    }
}

pub(crate) const YEAR: Days = Days(-10, 365);

/// A healthy cluster.
pub(crate) fn member(name: &str, id: u8, ca: &Ca) -> Member {
    let settings = [
        ("cluster-name", name.to_owned()),
        ("cluster-id", id.to_string()),
        ("max-connected-clusters", "255".to_owned()),
        ("routing-mode", "tunnel".to_owned()),
        ("tunnel-protocol", "vxlan".to_owned()),
        ("enable-ipv4", "true".to_owned()),
        ("enable-ipv6", "false".to_owned()),
        ("enable-wireguard", "false".to_owned()),
        ("cluster-pool-ipv4-cidr", format!("10.{}.0.0/16", 70 + id)),
    ];
    let data = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let address = format!("192.0.2.{id}");
    let node = Node {
        name: format!("{name}-1"),
        addresses: [format!("10.200.{id}.11").parse().unwrap()].into(),
        reached_at: None,
        pod_cidrs: vec![format!("10.{}.1.0/24", 70 + id).parse().unwrap()],
    };
    Member {
        context: format!("{name}-context"),
        namespace: "kube-system".to_owned(),
        settings: Settings { source: "cilium-config".to_owned(), data },
        nodes: vec![node],
        service_cidrs: vec![format!("10.{}.0.0/16", 110 + id).parse().unwrap()],
        kubernetes_version: Some("v1.35.4".to_owned()),
        version: Some(crate::Version { product: "Cilium".to_owned(), text: "v1.19.1".to_owned() }),
        clock: Some(crate::Clock { ahead_seconds: 0.2, uncertainty_seconds: 0.6 }),
        store: Some(StoreService {
            kind: StoreServiceKind::LoadBalancer,
            addresses: vec![crate::Address { host: Host::Ip(address.parse().unwrap()), port: 2379 }],
        }),
        server: Some(ca.server(&["*.mesh.cilium.io", &address], &YEAR)),
        remote: Some(ca.client(&format!("remote-{name}"), &YEAR)),
        mirrored: true,
        objects: Objects::default(),
        probe: None,
    }
}

/// Two healthy clusters of one CA.
pub(crate) fn mesh() -> Vec<Member> {
    let ca = Ca::new("mesh");
    vec![member("west", 1, &ca), member("east", 2, &ca)]
}

pub(crate) fn set(member: &mut Member, key: &str, value: &str) {
    member.settings.data.insert(key.to_owned(), value.to_owned());
}
