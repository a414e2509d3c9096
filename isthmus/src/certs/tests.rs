use super::*;
use std::net::IpAddr;
use std::time::SystemTime;

const DAY: Duration = Duration::from_secs(86_400);
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
const LEAF_LIFE: Duration = Duration::from_secs(1095 * 86_400);

fn now() -> SystemTime {
    // A fixed moment, 2023-11-14: nothing here depends on the day it runs.
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn name(text: &str) -> CommonName {
    text.parse().unwrap()
}

fn client() -> Leaf {
    Leaf::Client { user: name("remote-east") }
}

fn ca() -> Issued {
    new_ca(&name("Mesh CA"), now(), CA_LIFE).unwrap()
}

fn load(ca: &Issued, at: SystemTime) -> anyhow::Result<Authority> {
    Authority::load(&ca.certificate, ca.key.expose(), at)
}

#[test]
fn a_ca_reads_as_one() {
    let shown = show::text(&show::read(ca().certificate.as_bytes(), now()).unwrap());
    assert!(shown.contains("Subject    CN=Mesh CA\nIssuer     CN=Mesh CA\nFor        CA\n"), "{shown}");
    assert!(shown.contains("Valid      2023-11-14T22:08:20Z to 2033-11-11T22:13:20Z\n"), "{shown}");
}

#[test]
fn leaves_name_their_ca_usage_and_names() {
    let ca = ca();
    let authority = load(&ca, now()).unwrap();
    let reached_by =
        vec![ServerName::dns("*.mesh.cilium.io").unwrap(), ServerName::Ip(IpAddr::from([127, 0, 0, 1]))];
    let server = Leaf::Server { name: name("east"), reached_by };
    let issued = authority.issue(&server, now(), LEAF_LIFE).unwrap();
    let shown = serde_json::to_value(show::read(issued.certificate.as_bytes(), now()).unwrap()).unwrap();
    let of_ca = serde_json::to_value(show::read(ca.certificate.as_bytes(), now()).unwrap()).unwrap();
    let leaf = &shown[0];
    assert_eq!(leaf["subject"], "CN=east");
    assert_eq!(leaf["issuer"], "CN=Mesh CA");
    assert_eq!(leaf["isCa"], false);
    assert_eq!(leaf["usages"], serde_json::json!(["server"]));
    assert_eq!(leaf["dnsNames"], serde_json::json!(["*.mesh.cilium.io"]));
    assert_eq!(leaf["ipAddresses"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(leaf["authorityKeyId"], of_ca[0]["subjectKeyId"]);

    let issued = authority.issue(&client(), now(), LEAF_LIFE).unwrap();
    let shown = serde_json::to_value(show::read(issued.certificate.as_bytes(), now()).unwrap()).unwrap();
    assert_eq!(shown[0]["usages"], serde_json::json!(["client"]));
    assert_eq!(shown[0]["dnsNames"], serde_json::json!([]));
}

#[test]
fn a_bad_ca_is_refused_with_what_to_do() {
    let (good, other) = (ca(), ca());
    let leaf = load(&good, now()).unwrap().issue(&client(), now(), LEAF_LIFE).unwrap();
    let expired = now() + CA_LIFE + DAY;
    let cases = [
        ("not PEM", "hello", good.key.expose(), now(), "not PEM text with a CERTIFICATE block"),
        (
            "the key as certificate",
            good.key.expose(),
            good.key.expose(),
            now(),
            "not PEM text with a CERTIFICATE",
        ),
        ("a leaf", &leaf.certificate, leaf.key.expose(), now(), "is not a CA"),
        (
            "expired",
            &good.certificate,
            good.key.expose(),
            expired,
            "expired on 2033-11-11T22:13:20Z: make a new one",
        ),
        ("not yet valid", &good.certificate, good.key.expose(), now() - DAY, "is valid only from 2023-11-14"),
        (
            "another's key",
            &good.certificate,
            other.key.expose(),
            now(),
            "does not belong to the CA certificate",
        ),
        ("no key", &good.certificate, "hello", now(), "not a PKCS#8 private key"),
        ("a certificate as key", &good.certificate, &good.certificate, now(), "not a PKCS#8 private key"),
    ];
    for (case, certificate, key, at, expected) in cases {
        let error = Authority::load(certificate, key, at).map(drop).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{case}: {error:#}");
    }
}

#[test]
fn a_leaf_does_not_outlive_its_ca() {
    let ca = ca();
    let late = now() + CA_LIFE - 10 * DAY;
    let authority = load(&ca, late).unwrap();
    let error = authority.issue(&client(), late, LEAF_LIFE).map(drop).unwrap_err().to_string();
    assert!(error.contains("ends on 2033-11-11T22:13:20Z") && error.contains("`--valid-for 9d`"), "{error}");
    authority.issue(&client(), late, 10 * DAY).unwrap();
}

#[test]
fn a_ca_near_its_end_issues_nothing_however_short() {
    let ca = ca();
    let authority = load(&ca, now()).unwrap();
    let last = now() + CA_LIFE - 7 * DAY;
    authority.issue(&client(), last, DAY).unwrap();
    for at in [last + Duration::from_secs(1), now() + CA_LIFE] {
        let error = authority.issue(&client(), at, DAY).map(drop).unwrap_err().to_string();
        assert!(!error.contains("--valid-for") && error.contains("renew the CA first"), "{error}");
    }
}

/// A root, and an intermediate below it with the root after it.
fn intermediate() -> (String, Issued) {
    let key = rcgen::KeyPair::generate().unwrap();
    let named = |common_name: &str, depth| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(depth));
        params.not_before = (now() - DAY).into();
        params.not_after = (now() + CA_LIFE).into();
        params
    };
    let root = named("Root", 1).self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(named("Root", 1), key);
    let below = rcgen::KeyPair::generate().unwrap();
    let certificate = named("Intermediate", 0).signed_by(&below, &issuer).unwrap();
    let bundle = format!("{}{}", certificate.pem(), root.pem());
    (root.pem(), Issued { certificate: bundle, key: SecretPem(below.serialize_pem()) })
}

fn question<'a>(issued: &'a Issued, authorities: &'a str) -> verify::Question<'a> {
    verify::Question {
        chain: &issued.certificate,
        authorities,
        key: Some(issued.key.expose()),
        role: None,
        names: &[],
        soon: 30 * DAY,
        now: now(),
    }
}

/// The checks that fail, with what they say.
fn failing(question: &verify::Question<'_>) -> Vec<(&'static str, String)> {
    let checks = verify::verify(question).unwrap();
    checks.into_iter().filter(|check| !check.ok).map(|check| (check.check, check.text)).collect()
}

#[test]
fn what_an_intermediate_issues_leads_to_the_root_also_when_it_is_renewed() {
    let (root, ca) = intermediate();
    let authority = load(&ca, now()).unwrap();
    let issued = authority.issue(&client(), now(), LEAF_LIFE).unwrap();
    assert_eq!(issued.certificate.matches("BEGIN CERTIFICATE").count(), 2, "the leaf and the intermediate");
    assert_eq!(failing(&question(&issued, &root)), []);
    let renewed = authority.renew(&issued.certificate, now(), LEAF_LIFE).unwrap();
    assert_eq!(failing(&question(&renewed, &root)), []);
    let leaf_alone = Issued {
        certificate: issued
            .certificate
            .split_inclusive("-----END CERTIFICATE-----\n")
            .next()
            .unwrap()
            .to_owned(),
        key: SecretPem(issued.key.expose().to_owned()),
    };
    let failed = failing(&question(&leaf_alone, &root));
    assert!(failed[0].0 == "chain" && failed[0].1.contains("an intermediate is missing"), "{failed:?}");
}

#[test]
fn a_renewed_certificate_says_the_same_with_another_key() {
    let ca = ca();
    let authority = load(&ca, now()).unwrap();
    let reached_by =
        vec![ServerName::dns("*.mesh.cilium.io").unwrap(), ServerName::Ip(IpAddr::from([127, 0, 0, 1]))];
    for leaf in [client(), Leaf::Server { name: name("east"), reached_by }] {
        let former = authority.issue(&leaf, now(), 40 * DAY).unwrap();
        let later = now() + 30 * DAY;
        let renewed = authority.renew(&former.certificate, later, LEAF_LIFE).unwrap();
        let said = |issued: &Issued| {
            let shown = show::read(issued.certificate.as_bytes(), later).unwrap();
            let value = serde_json::to_value(&shown[0]).unwrap();
            let fields = ["subject", "issuer", "dnsNames", "ipAddresses", "usages", "isCa", "authorityKeyId"];
            (fields.map(|field| value[field].clone()), value["subjectKeyId"].clone(), shown[0].days_left)
        };
        let (before, after) = (said(&former), said(&renewed));
        assert_eq!(before.0, after.0);
        assert_ne!(former.key.expose(), renewed.key.expose());
        assert_eq!((before.2, after.2), (10, 1095));
    }
    let error = authority.renew(&ca.certificate, now(), DAY).map(drop).unwrap_err().to_string();
    assert!(error.contains("is a CA"), "{error}");
}

#[test]
fn each_fault_fails_its_own_check() {
    let (ca, other) = (ca(), new_ca(&name("Other CA"), now(), CA_LIFE).unwrap());
    let authority = load(&ca, now()).unwrap();
    let reached_by = vec![ServerName::dns("east.example").unwrap()];
    let server = authority.issue(&Leaf::Server { name: name("east"), reached_by }, now(), LEAF_LIFE).unwrap();
    let user = authority.issue(&client(), now(), LEAF_LIFE).unwrap();
    let good = || question(&server, &ca.certificate);
    assert_eq!(failing(&good()), []);
    let names = ["east.example".to_owned(), "west.example".to_owned(), "10.0.0.1".to_owned()];
    let cases = [
        ("dates", verify::Question { now: now() + LEAF_LIFE + DAY, ..good() }, "is not valid now"),
        ("dates", verify::Question { now: now() + LEAF_LIFE - 29 * DAY, ..good() }, "ends in 29 days"),
        ("chain", verify::Question { authorities: &other.certificate, ..good() }, "does not lead to the CA"),
        (
            "usage",
            verify::Question { role: Some(verify::Role::Client), ..good() },
            "is for server, not for a client",
        ),
        ("names", verify::Question { names: &names, ..good() }, "does not have west.example, 10.0.0.1"),
        ("key", verify::Question { key: Some(user.key.expose()), ..good() }, "is another certificate's"),
    ];
    for (check, question, expected) in cases {
        let failed = failing(&question);
        assert!(
            failed.iter().any(|(name, text)| *name == check && text.contains(expected)),
            "{check}: {failed:?}"
        );
    }
}

#[test]
fn a_life_beyond_the_calendar_is_refused() {
    let error = new_ca(&name("Mesh CA"), now(), 4_000_000 * DAY).map(drop).unwrap_err();
    assert!(error.to_string().contains("--valid-for"), "{error}");
    new_ca(&name("Mesh CA"), now(), Duration::MAX).map(drop).unwrap_err();
}

#[test]
fn what_is_no_certificate_is_not_shown() {
    let ca = ca();
    let damaged = ca.certificate.replacen("MII", "MIA", 1);
    for (case, pem) in [("empty", ""), ("text", "hello"), ("a key", ca.key.expose()), ("damaged", &damaged)] {
        let error = format!("{:#}", show::read(pem.as_bytes(), now()).map(drop).unwrap_err());
        let secret = ca.key.expose().lines().nth(1).unwrap();
        assert!(!error.contains(secret), "{case}: {error}");
    }
}

#[test]
fn states_follow_the_clock() {
    let ca = ca();
    let cases =
        [(now() - DAY, false), (now(), true), (now() + CA_LIFE, true), (now() + CA_LIFE + DAY, false)];
    for (at, valid) in cases {
        assert_eq!(show::read(ca.certificate.as_bytes(), at).unwrap()[0].is_valid(), valid, "{at:?}");
    }
}

#[test]
fn keys_are_not_in_debug() {
    assert!(!format!("{:?}", ca()).contains("PRIVATE"));
}
