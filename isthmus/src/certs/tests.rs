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
    let error = authority.issue(&client(), now() + CA_LIFE, DAY).map(drop).unwrap_err().to_string();
    assert!(!error.contains("--valid-for") && error.contains("renew the CA"), "{error}");
    authority.issue(&client(), late, 10 * DAY).unwrap();
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
