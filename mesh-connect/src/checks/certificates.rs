//! Certificates: their dates and names, and who vouches for whom.

use crate::certificate::{Shown, date, read, vouched};
use crate::code::Code;
use crate::plan::{Credentials, Way, credentials};
use crate::{Certificate, Finding, Host, Member, TlsSecret};
use jiff::Timestamp;

/// A certificate that ends earlier is to be renewed now.
const SOON_DAYS: i64 = 30;
const DAY: i64 = 86_400;

pub(super) fn check(members: &[Member], now: Timestamp, findings: &mut Vec<Finding>) {
    for member in members {
        for secret in [&member.server, &member.remote].into_iter().flatten() {
            for (what, pem) in [("tls.crt", &secret.certificate), ("ca.crt", &secret.ca)] {
                dates(member, secret, what, pem, now, findings);
            }
        }
        missing(member, findings);
        names(member, findings);
        own_chains(member, now, findings);
    }
    let sound: Vec<&Member> = members.iter().filter(|member| is_sound(member, now)).collect();
    for (number, one) in sound.iter().enumerate() {
        sound[number + 1..].iter().for_each(|other| findings.extend(between(one, other, now)));
    }
    for peer in members.iter().filter(|peer| Way::to(peer).has_aliases() && uncovered(peer).is_empty()) {
        let readers = members.iter().filter(|reader| reader.name() != peer.name() && !knows_aliases(reader));
        findings.extend(readers.map(|reader| by_name_only(reader, peer)));
    }
}

/// Whether what runs there resolves a store's name by what stands in its file.
fn knows_aliases(reader: &Member) -> bool {
    let Some(version) = reader.version.as_ref().filter(|version| version.product == "Cilium") else {
        return true;
    };
    super::time::minor(&version.text).is_none_or(|version| version >= (1, 20))
}

fn by_name_only(reader: &Member, peer: &Member) -> Finding {
    let version = reader.version.as_ref().map(|version| version.text.as_str()).unwrap_or_default();
    Finding::warning(Code::ServerNameMissing, &[peer.name(), reader.name()])
        .expected(format!("the address of the store of {} among the names of its certificate", peer.name()))
        .found(format!("it is for a name only, which Cilium {version} in {} resolves by DNS or by hostAliases of its pods", reader.name()))
        .advice("issue the certificate for the address too (Helm: clustermesh.apiserver.tls.server.extraIpAddresses), or see that the name is resolved")
}

fn missing(member: &Member, findings: &mut Vec<Finding>) {
    let finding = |found: String| {
        Finding::error(Code::CertificateMissing, &[member.name()])
            .expected("the Secrets clustermesh-apiserver-server-cert and -remote-cert, with ca.crt, tls.crt and tls.key")
            .found(found)
            .advice("enable the clustermesh-apiserver in the cluster (Helm: clustermesh.useAPIServer), or make them with `isthmus certs`")
    };
    for (secret, name) in [
        (&member.server, "clustermesh-apiserver-server-cert"),
        (&member.remote, "clustermesh-apiserver-remote-cert"),
    ] {
        let Some(secret) = secret else {
            findings.push(finding(format!("no Secret {name} in namespace {}", member.namespace)));
            continue;
        };
        for (key, pem) in [("ca.crt", &secret.ca), ("tls.crt", &secret.certificate)] {
            if read(pem).is_none() {
                findings.push(finding(format!("{key} of {} holds no certificate in PEM form", secret.name)));
            }
        }
    }
}

fn dates(
    member: &Member,
    secret: &TlsSecret,
    key: &str,
    pem: &str,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let now = now.as_second();
    for certificate in read(pem).unwrap_or_default() {
        let Certificate { not_before, not_after, subject, .. } = &certificate;
        let what = format!("{key} of {} ({subject})", secret.name);
        let clusters = [member.name()];
        let (finding, found) = if now > *not_after {
            (
                Finding::error(Code::CertificateExpired, &clusters),
                format!("{what} expired at {}", date(*not_after)),
            )
        } else if now < *not_before {
            let found = format!("{what} is not valid before {}", date(*not_before));
            (Finding::error(Code::CertificateNotYetValid, &clusters), found)
        } else if not_after - now < SOON_DAYS * DAY {
            let found = format!("{what} ends at {}, in {} days", date(*not_after), (not_after - now) / DAY);
            (Finding::warning(Code::CertificateEndsSoon, &clusters), found)
        } else {
            continue;
        };
        let expected = format!("certificates that are valid for {SOON_DAYS} days more");
        findings.push(
            finding
                .expected(expected)
                .found(found)
                .advice("renew it: `isthmus certs renew`, cert-manager, or Helm's cronJob"),
        );
    }
}

fn names(member: &Member, findings: &mut Vec<Finding>) {
    let name = member.name();
    if let Some(secret) = &member.remote
        && let Some(leaf) = read(&secret.certificate).and_then(|all| all.into_iter().next())
        && ![format!("remote-{name}"), "remote".to_owned()].contains(&leaf.common_name)
    {
        findings.push(
            Finding::error(Code::ClientNameUnexpected, &[name])
                .expected(format!(
                    "the common name remote-{name} or remote: it is the user that other stores know"
                ))
                .found(format!("{} has {:?}", secret.name, leaf.common_name))
                .advice("issue it anew with that common name"),
        );
    }
    let uncovered = uncovered(member);
    if !uncovered.is_empty() {
        findings.push(
            Finding::error(Code::ServerNameMissing, &[name])
                .expected("the host by which other clusters reach the store among the names of its certificate")
                .found(format!("clustermesh-apiserver-server-cert is not for {}", uncovered.join(", ")))
                .advice("issue it anew for that name, or for *.mesh.cilium.io (Helm: clustermesh.apiserver.tls.server.extraDnsNames, extraIpAddresses)"),
        );
    }
}

/// The hosts of the way to a store that its certificate is not for.
fn uncovered(member: &Member) -> Vec<String> {
    let leaf = member.server.as_ref().and_then(|secret| read(&secret.certificate)?.into_iter().next());
    let Some(leaf) = leaf else { return Vec::new() };
    let way = Way::to(member);
    let uncovered = way.hosts().filter(|host| !leaf.names.cover(host)).map(|host| match host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name,
    });
    uncovered.collect()
}

/// Within one cluster: without this nobody can read its store.
fn own_chains(member: &Member, now: Timestamp, findings: &mut Vec<Finding>) {
    for (authority, shown, as_whom) in chains(member).into_iter().flatten() {
        if let Err(why) = vouched(&authority.ca, &shown.certificate, as_whom, now) {
            findings.push(
                Finding::error(Code::ChainBroken, &[member.name()])
                    .expected(format!("ca.crt of {} vouches for tls.crt of {}", authority.name, shown.name))
                    .found(why)
                    .advice("put intermediates after the certificate in tls.crt, and the root in ca.crt; or issue both from one CA"),
            );
        }
    }
}

/// Who is to vouch for whom; `None` if something of it is missing.
fn chains(member: &Member) -> Option<[(&TlsSecret, &TlsSecret, Shown); 2]> {
    let (server, remote) = (member.server.as_ref()?, member.remote.as_ref()?);
    let pems = [&server.ca, &server.certificate, &remote.ca, &remote.certificate];
    pems.iter()
        .all(|pem| read(pem).is_some())
        .then_some([(remote, server, Shown::Server), (server, remote, Shown::Client)])
}

/// Whether the certificates of a cluster fit each other, so that it makes sense to compare them with another's.
fn is_sound(member: &Member, now: Timestamp) -> bool {
    let vouch = |(authority, shown, as_whom): (&TlsSecret, &TlsSecret, Shown)| {
        vouched(&authority.ca, &shown.certificate, as_whom, now).is_ok()
    };
    chains(member).is_some_and(|chains| chains.into_iter().all(vouch))
}

/// Of two clusters whose own certificates fit each other.
fn between(one: &Member, other: &Member, now: Timestamp) -> Option<Finding> {
    let ways = [credentials(one, other, now), credentials(other, one, now)];
    ways.contains(&Credentials::OfThePeer).then(|| {
        Finding::warning(Code::CaDiffers, &[one.name(), other.name()])
            .expected("one CA, or bundles of all of them, in all clusters")
            .found(format!(
                "the CAs of {} and {} do not vouch for each other's certificates",
                one.name(),
                other.name()
            ))
            .advice("each is given a copy of the other's client certificate, which must be copied again when it is renewed (run connect again); better put both CAs into each ca.crt")
    })
}
