use super::*;
use crate::samples::{Ca, Days, YEAR, member, mesh, now, set};
use crate::{
    Address, Clock, Host, Observed, Probe, ProbeResult, StoreService, StoreServiceKind, TlsSecret, Version,
};

type Break = fn(&mut Vec<Member>);

fn codes(members: &[Member]) -> Vec<(Code, Severity)> {
    let findings = checks(members, &[], now());
    for finding in &findings {
        let Finding { expected, found, advice, clusters, .. } = finding;
        assert!(!expected.is_empty() && !found.is_empty() && !advice.is_empty(), "{finding:?}");
        assert!(!clusters.is_empty(), "{finding:?}");
    }
    findings.into_iter().map(|finding| (finding.code, finding.severity)).collect()
}

#[test]
fn healthy_clusters_have_no_finding() {
    assert_eq!(codes(&mesh()), []);
    let plain = |mut member: Member| {
        let keys = ["cluster-name", "cluster-id"];
        member.settings.data.retain(|key, _| keys.contains(&key.as_str()));
        member.settings.source = "isthmus-config".to_owned();
        member
    };
    let without_cilium: Vec<_> = mesh().into_iter().map(plain).collect();
    assert_eq!(codes(&without_cilium), [], "what is not said is not guessed");
}

/// The faults, each with the one code that it is to give.
const FAULTS: &[(&str, Break, Code, Severity)] = &[
    ("same id", |m| set(&mut m[1], "cluster-id", "1"), Code::IdDuplicate, Severity::Error),
    ("upper case", |m| rename(m, "West"), Code::NameInvalid, Severity::Error),
    ("default", |m| rename(m, "default"), Code::NameInvalid, Severity::Error),
    ("id 0", |m| set(&mut m[0], "cluster-id", "0"), Code::IdInvalid, Severity::Error),
    ("id 256", |m| set(&mut m[0], "cluster-id", "256"), Code::IdInvalid, Severity::Error),
    ("id is a word", |m| set(&mut m[0], "cluster-id", "one"), Code::IdInvalid, Severity::Error),
    (
        "511 and 255",
        |m| set(&mut m[0], "max-connected-clusters", "511"),
        Code::MaxClustersDiffer,
        Severity::Error,
    ),
    ("256 clusters", |m| know(&mut m[0], &strangers(254)), Code::TooManyClusters, Severity::Error),
    ("a third one", |m| know(&mut m[0], &strangers(1)), Code::MemberNotLookedAt, Severity::Warning),
    ("a third one at two places", |m| two_ways(m), Code::PeerDiffers, Severity::Warning),
    (
        "pool in pool",
        |m| set(&mut m[0], "cluster-pool-ipv4-cidr", "10.72.0.0/20"),
        Code::PodCidrOverlap,
        Severity::Error,
    ),
    (
        "a node's CIDR in the other's pool",
        |m| m[0].nodes[0].pod_cidrs = vec!["10.72.9.0/24".parse().unwrap()],
        Code::PodCidrOverlap,
        Severity::Error,
    ),
    (
        "same services",
        |m| m[0].service_cidrs = m[1].service_cidrs.clone(),
        Code::ServiceCidrOverlap,
        Severity::Warning,
    ),
    (
        "services in pods",
        |m| m[0].service_cidrs = vec!["10.72.0.0/24".parse().unwrap()],
        Code::ServiceCidrOverlap,
        Severity::Error,
    ),
    (
        "same nodes",
        |m| m[0].nodes[0].addresses = m[1].nodes[0].addresses.clone(),
        Code::NodeAddressOverlap,
        Severity::Error,
    ),
    (
        "a node among pods",
        |m| m[0].nodes[0].addresses = ["10.72.3.4".parse().unwrap()].into(),
        Code::NodeAddressOverlap,
        Severity::Error,
    ),
    (
        "geneve and vxlan",
        |m| set(&mut m[0], "tunnel-protocol", "geneve"),
        Code::DatapathDiffers,
        Severity::Error,
    ),
    (
        "native and tunnel",
        |m| set(&mut m[0], "routing-mode", "native"),
        Code::DatapathDiffers,
        Severity::Error,
    ),
    (
        "one family in common",
        |m| set(&mut m[0], "enable-ipv6", "true"),
        Code::FamiliesDiffer,
        Severity::Warning,
    ),
    ("no family in common", |m| other_family(m), Code::FamiliesDiffer, Severity::Error),
    (
        "encrypted and not",
        |m| set(&mut m[0], "enable-wireguard", "true"),
        Code::EncryptionDiffers,
        Severity::Warning,
    ),
    ("no server certificate", |m| m[0].server = None, Code::CertificateMissing, Severity::Error),
    ("no client certificate", |m| m[0].remote = None, Code::CertificateMissing, Severity::Error),
    (
        "no PEM",
        |m| m[0].remote.as_mut().unwrap().certificate = "x".into(),
        Code::CertificateMissing,
        Severity::Error,
    ),
    ("expired", |m| issue(m, &Days(-400, -1)), Code::CertificateExpired, Severity::Error),
    ("of tomorrow", |m| issue(m, &Days(2, 400)), Code::CertificateNotYetValid, Severity::Error),
    ("ends soon", |m| issue(m, &Days(-300, 20)), Code::CertificateEndsSoon, Severity::Warning),
    (
        "signed by nobody known",
        |m| m[0].remote.as_mut().unwrap().certificate = stranger().certificate,
        Code::ChainBroken,
        Severity::Error,
    ),
    ("intermediate missing", |m| m[0] = below_an_intermediate(false), Code::ChainBroken, Severity::Error),
    ("two CAs", |m| m[0] = member("west", 1, &Ca::new("another")), Code::CaDiffers, Severity::Warning),
    (
        "another name",
        |m| {
            let c = reissue(m, &["other.example"]);
            m[0].server = Some(c)
        },
        Code::ServerNameMissing,
        Severity::Error,
    ),
    (
        "a name that old readers must resolve",
        |m| m[0].server = Some(reissue(m, &["*.mesh.cilium.io"])),
        Code::ServerNameMissing,
        Severity::Warning,
    ),
    ("another user", |m| m[0].remote = Some(stranger_of(m)), Code::ClientNameUnexpected, Severity::Error),
    ("no Service", |m| m[0].store = None, Code::StoreWithoutAddress, Severity::Error),
    (
        "pending",
        |m| m[0].store.as_mut().unwrap().addresses.clear(),
        Code::StoreWithoutAddress,
        Severity::Error,
    ),
    (
        "cluster IP",
        |m| m[0].store.as_mut().unwrap().kind = StoreServiceKind::ClusterIp,
        Code::StoreInsideOnly,
        Severity::Warning,
    ),
    ("no answer", |m| probed(m, ProbeResult::Unreachable), Code::StoreUnreachable, Severity::Warning),
    ("refused", |m| probed(m, ProbeResult::Refused), Code::StoreRefused, Severity::Error),
    ("of another", |m| probed(m, ProbeResult::Another), Code::StoreOfAnother, Severity::Error),
    ("ten seconds", |m| ahead(&mut m[0], 10.0), Code::ClockSkew, Severity::Warning),
    ("behind by hours", |m| ahead(&mut m[1], -7200.0), Code::ClockSkew, Severity::Error),
    ("two versions apart", |m| version(&mut m[0], "v1.17.3"), Code::VersionSkew, Severity::Warning),
    ("users are a word", |m| users(&mut m[0], "users: nobody"), Code::UsersUnreadable, Severity::Error),
];

#[test]
fn each_fault_gives_its_own_code_and_no_other() {
    for (name, fault, code, severity) in FAULTS {
        let mut members = mesh();
        fault(&mut members);
        let mut found = codes(&members);
        // Both directions of one broken chain.
        found.dedup();
        // A third cluster that is known only by its configuration is told of for that, too.
        if matches!(code, Code::PeerDiffers | Code::TooManyClusters) {
            found.retain(|(code, _)| *code != Code::MemberNotLookedAt);
        }
        assert_eq!(found, [(*code, *severity)], "{name}");
    }
}

#[test]
fn every_check_of_members_has_a_fault_that_it_finds() {
    let others = [
        Code::NameDuplicate,
        Code::ApiUnreachable,
        Code::Unauthorised,
        Code::PermissionMissing,
        Code::NoClusterConfig,
        Code::NotConnected,
    ];
    for code in Code::ALL.iter().filter(|code| !others.contains(code)) {
        assert!(FAULTS.iter().any(|(_, _, fault, _)| fault == code), "{code:?}");
    }
}

#[test]
fn what_is_not_known_is_not_asked() {
    let stores = [Code::StoreUnreachable, Code::StoreRefused, Code::StoreOfAnother];
    let not_asked = |members: &[Member]| -> Vec<Code> {
        Code::ALL.iter().copied().filter(|code| !is_asked(*code, members)).collect()
    };
    let mut members = mesh();
    assert_eq!(not_asked(&members), stores, "nobody tried the stores");
    members[0].probe = Some(Probe { result: ProbeResult::Well, detail: String::new() });
    assert_eq!(not_asked(&members), stores, "one of two is not all");
    members[1].probe = members[0].probe.clone();
    members[1].clock = None;
    members[1].version = None;
    members[1].settings.data.remove("enable-wireguard");
    assert_eq!(not_asked(&members), [Code::EncryptionDiffers, Code::ClockSkew, Code::VersionSkew]);
    assert!(!is_asked(Code::IdDuplicate, &members[..1]), "one cluster differs from none");
    assert_eq!(not_asked(&[]), Code::ALL);
}

#[test]
fn one_cluster_by_two_contexts_is_told_as_such() {
    let mut members = mesh();
    let again = Member { context: "again".to_owned(), ..members[0].clone() };
    members.push(again);
    assert!(codes(&members).contains(&(Code::NameDuplicate, Severity::Error)));
}

#[test]
fn every_pair_is_compared_not_only_neighbours() {
    let ca = Ca::new("mesh");
    let mut members: Vec<_> =
        [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(name, id)| member(name, id, &ca)).into();
    set(&mut members[3], "cluster-pool-ipv4-cidr", "10.71.0.0/16");
    set(&mut members[2], "cluster-id", "1");
    let findings = checks(&members, &[], now());
    let about: Vec<_> = findings.iter().map(|finding| (finding.code, finding.clusters.join("+"))).collect();
    assert_eq!(about, [(Code::IdDuplicate, "a+c".to_owned()), (Code::PodCidrOverlap, "a+d".to_owned())]);
    assert_eq!(findings[1].found, "10.71.0.0/16 of a and 10.71.0.0/16 of d");
}

#[test]
fn an_intermediate_beside_the_certificate_is_enough() {
    let mut members = mesh();
    members[0] = below_an_intermediate(true);
    let found = codes(&members);
    assert_eq!(found, [(Code::CaDiffers, Severity::Warning)], "only that it is another CA");
}

#[test]
fn a_bundle_of_both_cas_is_as_good_as_one() {
    let (one, other) = (Ca::new("one"), Ca::new("other"));
    let mut members = vec![member("west", 1, &one), member("east", 2, &other)];
    for member in &mut members {
        for secret in [&mut member.server, &mut member.remote].into_iter().flatten() {
            secret.ca = format!("{}{}", one.pem, other.pem);
        }
    }
    assert_eq!(codes(&members), []);
}

#[test]
fn clusters_that_cannot_be_looked_at_say_why() {
    let failures: Vec<_> = [
        Trouble::Unreachable("connection refused".to_owned()),
        Trouble::Unauthorised("401".to_owned()),
        Trouble::Forbidden {
            verb: "get".into(),
            resource: "secrets/cilium-clustermesh".into(),
            namespace: "kube-system".into(),
            user: "eve".into(),
        },
        Trouble::NoConfig { namespace: "kube-system".into() },
    ]
    .into_iter()
    .map(|trouble| Failure { context: "north".into(), trouble })
    .collect();
    let findings = checks(&mesh(), &failures, now());
    let numbers: Vec<_> = findings.iter().map(|finding| finding.code.number()).collect();
    assert_eq!(numbers, ["C001", "C002", "C003", "C004"]);
    assert!(has_error(&findings));
    assert_eq!(findings[2].expected, "permission to get secrets/cilium-clustermesh in namespace kube-system");
    assert_eq!(findings[2].found, "eve may not");
    assert!(
        findings[2]
            .advice
            .contains("kubectl --context north auth can-i get secrets/cilium-clustermesh -n kube-system")
    );
}

/// All certificates of one CA; the first cluster has another name.
fn rename(members: &mut Vec<Member>, name: &str) {
    let ca = Ca::new("mesh");
    *members = vec![member(name, 1, &ca), member("east", 2, &ca)];
}

fn strangers(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("stranger-{number}")).collect()
}

fn know(member: &mut Member, names: &[String]) {
    let entry = |name: &String| (name.clone(), format!("endpoints:\n- https://{name}:2379\n").into_bytes());
    let data = names.iter().map(entry).collect();
    member.objects.mirror = Some(Observed { resource_version: "1".to_owned(), data });
}

fn two_ways(members: &mut [Member]) {
    know(&mut members[0], &strangers(1));
    let data = [("stranger-0".to_owned(), b"endpoints: ['https://elsewhere:1']".to_vec())].into();
    members[1].objects.mirror = Some(Observed { resource_version: "1".to_owned(), data });
}

fn other_family(members: &mut [Member]) {
    set(&mut members[0], "enable-ipv4", "false");
    set(&mut members[0], "enable-ipv6", "true");
}

/// All certificates of one CA, with the first cluster's client certificate of other dates.
fn issue(members: &mut Vec<Member>, days: &Days) {
    let ca = Ca::new("mesh");
    *members = vec![member("west", 1, &ca), member("east", 2, &ca)];
    members[0].remote = Some(ca.client("remote-west", days));
}

fn reissue(members: &mut Vec<Member>, names: &[&str]) -> TlsSecret {
    let ca = Ca::new("mesh");
    *members = vec![member("west", 1, &ca), member("east", 2, &ca)];
    ca.server(names, &YEAR)
}

fn stranger() -> TlsSecret {
    Ca::new("stranger").client("remote-west", &YEAR)
}

fn stranger_of(members: &mut Vec<Member>) -> TlsSecret {
    let ca = Ca::new("mesh");
    *members = vec![member("west", 1, &ca), member("east", 2, &ca)];
    ca.client("somebody", &YEAR)
}

fn below_an_intermediate(complete: bool) -> Member {
    let root = Ca::new("root");
    let intermediate = Ca::below("intermediate", Some(&root));
    let mut member = member("west", 1, &intermediate);
    for secret in [&mut member.server, &mut member.remote].into_iter().flatten() {
        secret.ca = root.pem.clone();
        if complete {
            secret.certificate += &intermediate.pem;
        }
    }
    member
}

fn probed(members: &mut [Member], result: ProbeResult) {
    members[0].probe = Some(Probe { result, detail: "192.0.2.1:2379".to_owned() });
}

fn ahead(member: &mut Member, ahead_seconds: f64) {
    member.clock = Some(Clock { ahead_seconds, uncertainty_seconds: 0.6 });
}

fn version(member: &mut Member, text: &str) {
    member.version = Some(Version { product: "Cilium".to_owned(), text: text.to_owned() });
}

fn users(member: &mut Member, text: &str) {
    let data = [("users.yaml".to_owned(), text.as_bytes().to_vec())].into();
    member.objects.users = Some(Observed { resource_version: "1".to_owned(), data });
}

#[test]
fn an_address_by_name_needs_that_name_in_the_certificate() {
    let mut members = mesh();
    let address = Address { host: Host::Name("store.example".to_owned()), port: 2379 };
    members[0].store = Some(StoreService { kind: StoreServiceKind::LoadBalancer, addresses: vec![address] });
    let findings = checks(&members, &[], now());
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].code, Code::ServerNameMissing);
    assert!(findings[0].found.contains("is not for store.example"), "{}", findings[0].found);
}
