//! Every reason of the code base, at the place that gives it: what `explain` prints, as kept in `tests/golden`.
//!
//! `ISTHMUS_WRITE_PAGES=1 cargo test -p mesh-explain` writes the files anew.

use std::collections::BTreeSet;
use std::path::Path;

use mesh_explain::{
    Answer, Cluster, ExportScope, ReadKind, RejectedFile, SkippedKey, SkippedObject, Style, Trouble,
    WithheldObject, explain,
};
use mesh_types::Reason;
use serde_json::{Value, json};

use crate::fixture::{ADDRESS, Asked, mesh, question};

/// The place that gives a reason, and what is asked when it shows.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A configuration file of west that east's mirror does not use.
    File,
    /// What is in the way of east's mirror.
    Peer,
    /// East's mirror holds back withdrawals of west's services.
    Held,
    /// East's mirror has no complete view of west's services, or no current one.
    View(&'static str),
    /// East's mirror does not take west's key of the service.
    MirroredKey,
    /// East's agent does not take west.
    Standing(&'static str),
    /// East's agent does not take west's key of the service.
    ServiceKey,
    /// East's agent does not take west's key of the address.
    AddressKey,
    /// West's exporter withholds the service, for this kind of object.
    Export(&'static str),
    /// West's exporter withholds the address, for this kind of object.
    ExportedAddress(&'static str),
    /// West's exporter keeps the service from east, whose scope lacks it.
    Scope,
    /// West's exporter cannot read a kind.
    Unread,
    /// West's exporter withholds the ServiceExport.
    ServiceExport,
    /// East's controllers withhold something of the import.
    Import,
    /// The service in east's agent.
    Service,
    /// West's share of the service in east's agent.
    Share,
    /// West's backend in east's agent.
    Backend,
    /// The frontend in east's agent.
    Frontend,
    /// Another claim on the address.
    Claim,
    /// West's node or prefix is left out of encryption.
    Encryption,
    /// East's DNS server leaves out the import.
    Zone,
}

/// A reason that is not here does not compile: see the assertion below.
const SEEDS: &[(Reason, Place)] = &[
    (Reason::ClusterNameInvalid, Place::File),
    (Reason::ClusterIsLocal, Place::File),
    (Reason::ClusterNameInUse, Place::File),
    (Reason::ClusterIdZero, Place::Peer),
    (Reason::ClusterIdOutOfRange, Place::Peer),
    (Reason::ClusterIdIsLocal, Place::Peer),
    (Reason::ClusterIdInUse, Place::Peer),
    (Reason::MaxClustersMismatch, Place::Peer),
    (Reason::ClusterConfigMissing, Place::Peer),
    (Reason::ClusterConfigInvalid, Place::Peer),
    (Reason::PeerConfigInvalid, Place::File),
    (Reason::CertificateUnusable, Place::Peer),
    (Reason::CertificateExpired, Place::Peer),
    (Reason::TlsFailed, Place::Peer),
    (Reason::PermissionDenied, Place::Peer),
    (Reason::PeerUnreachable, Place::Peer),
    (Reason::HeartbeatMissing, Place::Peer),
    (Reason::StoreReplaced, Place::Peer),
    (Reason::CapabilityAbsent, Place::View("not-offered")),
    (Reason::NotSynced, Place::View("never-synced")),
    (Reason::PeerDisconnected, Place::View("stale")),
    (Reason::ClusterConfigAbsent, Place::Standing("absent")),
    (Reason::WithdrawalHeld, Place::Held),
    (Reason::WithdrawalAbrupt, Place::Held),
    (Reason::ContactLostDrained, Place::Peer),
    (Reason::CacheTtlEnded, Place::Peer),
    (Reason::KeyMalformed, Place::MirroredKey),
    (Reason::ValueNotJson, Place::ServiceKey),
    (Reason::ValueNotText, Place::MirroredKey),
    (Reason::ValueNotProtobuf, Place::ServiceKey),
    (Reason::ValueTooLarge, Place::MirroredKey),
    (Reason::TooManyKeys, Place::Peer),
    (Reason::FieldMissing, Place::ServiceKey),
    (Reason::FieldInvalid, Place::ServiceKey),
    (Reason::ClusterMismatch, Place::ServiceKey),
    (Reason::ClusterIdMismatch, Place::ServiceKey),
    (Reason::NameMismatch, Place::ServiceKey),
    (Reason::IdentityOutOfRange, Place::AddressKey),
    (Reason::IdentityClusterLabel, Place::AddressKey),
    (Reason::AddressInvalid, Place::AddressKey),
    (Reason::CidrInvalid, Place::AddressKey),
    (Reason::ObjectUndecodable, Place::Export("Service")),
    (Reason::ServiceNotGlobal, Place::Export("Service")),
    (Reason::ServiceNotShared, Place::Export("Service")),
    (Reason::ServiceExternalName, Place::Export("Service")),
    (Reason::ServiceOtherProxy, Place::Export("Service")),
    (Reason::NamespaceNotGlobal, Place::Export("Service")),
    (Reason::NamespaceUnknown, Place::Export("Service")),
    (Reason::ExportWithoutService, Place::ServiceExport),
    (Reason::IdentityWithoutLabels, Place::ExportedAddress("CiliumIdentity")),
    (Reason::IdentityWithoutNamespace, Place::ExportedAddress("CiliumIdentity")),
    (Reason::IdentitiesExhausted, Place::ExportedAddress("Pod")),
    (Reason::EndpointWithoutIdentity, Place::ExportedAddress("CiliumEndpoint")),
    (Reason::EndpointWithoutAddress, Place::ExportedAddress("CiliumEndpoint")),
    (Reason::EndpointWithoutNode, Place::ExportedAddress("CiliumEndpoint")),
    (Reason::HostNetwork, Place::ExportedAddress("Pod")),
    (Reason::PodFinished, Place::ExportedAddress("Pod")),
    (Reason::AddressInUse, Place::ExportedAddress("Pod")),
    (Reason::BackendNotReady, Place::Export("EndpointSlice")),
    (Reason::PortUnusable, Place::Export("EndpointSlice")),
    (Reason::EndpointsImported, Place::Export("EndpointSlice")),
    (Reason::AddressTypeUnsupported, Place::Export("EndpointSlice")),
    (Reason::CrdAbsent, Place::Unread),
    (Reason::SourceUnreadable, Place::Unread),
    (Reason::ExportConflict, Place::Import),
    (Reason::NotExported, Place::Import),
    (Reason::NamespaceAbsent, Place::Import),
    (Reason::ForeignObject, Place::Import),
    (Reason::FamilyUnsupported, Place::Import),
    (Reason::ServiceNotLocal, Place::Service),
    (Reason::ServiceHeadless, Place::Service),
    (Reason::AffinityLocal, Place::Backend),
    (Reason::AffinityRemote, Place::Backend),
    (Reason::AffinityUnknown, Place::Service),
    (Reason::ProtocolMismatch, Place::Backend),
    (Reason::FamilyMismatch, Place::Backend),
    (Reason::PortNameMismatch, Place::Backend),
    (Reason::TrafficPolicyLocal, Place::Backend),
    (Reason::ShadowedByLocal, Place::Share),
    (Reason::ShadowedByRemote, Place::Share),
    (Reason::BackendDraining, Place::Backend),
    (Reason::BackendUnhealthy, Place::Backend),
    (Reason::NoBackends, Place::Frontend),
    (Reason::LocalNode, Place::Claim),
    (Reason::SourcePrecedence, Place::Claim),
    (Reason::PrefixOverlap, Place::Claim),
    (Reason::PrefixOverlapsLocal, Place::Claim),
    (Reason::WireguardKeyMissing, Place::Encryption),
    (Reason::WireguardKeyInvalid, Place::Encryption),
    (Reason::WireguardKeyZero, Place::Encryption),
    (Reason::WireguardKeyDuplicate, Place::Encryption),
    (Reason::NodeWithoutAddress, Place::Encryption),
    (Reason::PrefixTaken, Place::Encryption),
    (Reason::PrefixCoversNode, Place::Encryption),
    (Reason::KernelUnsupported, Place::Frontend),
    (Reason::NameTooLong, Place::Zone),
    (Reason::NotInScope, Place::Scope),
];

const _: () = assert!(
    SEEDS.len() == Reason::ALL.len(),
    "a reason without a golden explanation: add it to SEEDS, at the place that gives it"
);

const DETAIL: &str = "what was expected and found";

fn said<T>(answer: &mut Answer<T>) -> &mut T {
    match answer {
        Answer::Said(said) => said,
        Answer::Silent(_) | Answer::NotAsked => panic!("the fixture answers everything"),
    }
}

fn push(page: &mut Value, pointer: &str, row: Value) {
    let parent = page.pointer_mut(pointer).unwrap();
    parent.as_array_mut().unwrap().push(row);
}

fn trouble(code: &str) -> Trouble {
    Trouble { reason: code.to_owned(), detail: DETAIL.to_owned() }
}

/// Takes keys of west away, at home and where they were mirrored.
fn forget_keys(west: &mut Cluster, east: &mut Cluster, at_home: bool, resource: &str) {
    if at_home {
        said(&mut west.store).retain(|key, _value| !key.contains(&format!("/state/{resource}/")));
    }
    said(&mut east.store).retain(|key, _value| !key.contains(&format!("/cache/{resource}/v1/west/")));
}

fn drop_west_backend(east: &mut Cluster, code: Option<&str>) {
    let backends = said(&mut east.agent).services.pointer_mut("/services/0/frontends/0/backends").unwrap();
    backends[1]["selected"] = json!(false);
    match code {
        Some(code) => backends[1]["reason"] = json!(code),
        None => drop(backends.as_array_mut().unwrap().pop()),
    }
}

/// What the fixture's places say when `reason` holds at `place`.
fn explained(reason: Reason, place: Place) -> String {
    let code = reason.code();
    let mut mesh = mesh();
    let mut west = mesh.clusters.remove("west").unwrap();
    let mut east = mesh.clusters.remove("east").unwrap();
    let row = |extra: &[(&str, Value)]| {
        let mut row = json!({"reason": code, "detail": DETAIL, "cluster": "west"});
        for (field, value) in extra {
            row[*field] = value.clone();
        }
        row
    };
    let asked = match place {
        Place::File => {
            let page = said(&mut east.mirror);
            page.remotes.clear();
            page.rejected_files = vec![RejectedFile {
                file: "west".to_owned(),
                reason: code.to_owned(),
                detail: DETAIL.to_owned(),
            }];
            forget_keys(&mut west, &mut east, false, "services");
            drop_west_backend(&mut east, None);
            Asked::Service
        }
        Place::Peer => {
            let remote = &mut said(&mut east.mirror).remotes[0];
            remote.connected = false;
            remote.trouble = Some(trouble(code));
            let view = remote.resources.get_mut("services").unwrap();
            (view.state, view.stale_seconds) = ("stale".to_owned(), Some(42.0));
            Asked::Service
        }
        Place::Held => {
            let view = said(&mut east.mirror).remotes[0].resources.get_mut("services").unwrap();
            view.withheld = Some(trouble(code));
            Asked::Service
        }
        Place::View(state) => {
            let remote = &mut said(&mut east.mirror).remotes[0];
            remote.connected = state == "not-offered";
            let view = remote.resources.get_mut("services").unwrap();
            state.clone_into(&mut view.state);
            if state == "stale" {
                view.stale_seconds = Some(42.0);
            } else {
                forget_keys(&mut west, &mut east, false, "services");
                drop_west_backend(&mut east, None);
            }
            Asked::Service
        }
        Place::MirroredKey => {
            let (resource, key) = ("services".to_owned(), "shop/cart".to_owned());
            let (reason, detail) = (code.to_owned(), DETAIL.to_owned());
            said(&mut east.mirror).remotes[0].skipped = vec![SkippedKey { resource, key, reason, detail }];
            forget_keys(&mut west, &mut east, false, "services");
            drop_west_backend(&mut east, None);
            Asked::Service
        }
        Place::Standing(standing) => {
            let cluster = &mut said(&mut east.agent).status["clusters"][0];
            (cluster["standing"], cluster["reason"]) = (json!(standing), json!(code));
            Asked::Service
        }
        Place::ServiceKey | Place::AddressKey => {
            let is_service = matches!(place, Place::ServiceKey);
            let (kind, key) = if is_service { ("services", "shop/cart") } else { ("ip", ADDRESS) };
            let row = row(&[("kind", json!(kind)), ("key", json!(key))]);
            push(&mut said(&mut east.agent).rejected, "/rejected", row);
            if is_service {
                drop_west_backend(&mut east, None);
                Asked::Service
            } else {
                said(&mut east.agent).ipcache = json!({"entries": []});
                Asked::Address
            }
        }
        Place::Export(kind) | Place::ExportedAddress(kind) => {
            let is_service = matches!(place, Place::Export(_));
            let object = match kind {
                "EndpointSlice" => "shop/cart-x7k2p",
                "Service" => "shop/cart",
                _ => "shop/cart-0",
            };
            // One backend of a slice is withheld, or the whole of anything else.
            let is_part = kind == "EndpointSlice";
            said(&mut west.exporter).withheld = vec![WithheldObject {
                kind: kind.to_owned(),
                object: object.to_owned(),
                reason: code.to_owned(),
                detail: if is_service { DETAIL.to_owned() } else { format!("{DETAIL}: {ADDRESS}") },
            }];
            if !is_part {
                forget_keys(&mut west, &mut east, true, if is_service { "services" } else { "ip" });
                drop_west_backend(&mut east, None);
            }
            if is_service {
                Asked::Service
            } else {
                said(&mut east.agent).ipcache = json!({"entries": []});
                Asked::Address
            }
        }
        Place::Scope => {
            let (resource, key) = ("services".to_owned(), "shop/cart".to_owned());
            let (reason, detail) = (code.to_owned(), DETAIL.to_owned());
            let withheld = vec![SkippedKey { resource, key, reason, detail }];
            let (name, clusters) = ("pay".to_owned(), vec!["east".to_owned()]);
            said(&mut west.exporter).scopes = vec![ExportScope { name, clusters, withheld }];
            forget_keys(&mut west, &mut east, false, "services");
            drop_west_backend(&mut east, None);
            Asked::Service
        }
        Place::Unread => {
            let kinds = &mut said(&mut west.exporter).kinds;
            kinds.retain(|kind| kind.kind != "ServiceExport");
            let (kind, state) = ("ServiceExport".to_owned(), "failing".to_owned());
            kinds.push(ReadKind {
                kind,
                state,
                reason: Some(code.to_owned()),
                error: Some(DETAIL.to_owned()),
            });
            Asked::Name
        }
        Place::ServiceExport => {
            said(&mut west.kubernetes).service = None;
            let (kind, object) = ("ServiceExport".to_owned(), "shop/cart".to_owned());
            let (reason, detail) = (code.to_owned(), DETAIL.to_owned());
            said(&mut west.exporter).withheld = vec![WithheldObject { kind, object, reason, detail }];
            forget_keys(&mut west, &mut east, true, "serviceexports");
            Asked::Name
        }
        Place::Import => {
            said(&mut east.controllers).withheld.insert("shop/cart".to_owned(), vec![trouble(code)]);
            Asked::Name
        }
        Place::Service => {
            said(&mut east.agent).services["services"][0]["reasons"] = json!([code]);
            Asked::Service
        }
        Place::Share => {
            said(&mut east.agent).services["services"][0]["clusters"][0]["reasons"] = json!([code]);
            Asked::Service
        }
        Place::Backend => {
            drop_west_backend(&mut east, Some(code));
            Asked::Service
        }
        Place::Frontend => {
            let agent = said(&mut east.agent);
            let skipped = json!({"service": "shop/cart", "address": "10.96.0.7", "port": 80, "protocol": "TCP",
                "reason": code});
            agent.status["datapath"] = json!({"skipped": [skipped]});
            Asked::Service
        }
        Place::Claim => {
            let claim = row(&[("cluster", json!("north")), ("identity", json!(9))]);
            said(&mut east.agent).ipcache["entries"][0]["overridden"] = json!([claim]);
            Asked::Address
        }
        Place::Encryption => {
            let skipped = row(&[("node", json!("west-1")), ("prefix", json!("10.1.0.0/24"))]);
            said(&mut east.agent).wireguard =
                json!({"summary": {"enabled": true}, "peers": [], "skipped": [skipped]});
            Asked::Address
        }
        Place::Zone => {
            let (kind, reason) = ("ServiceImport".to_owned(), code.to_owned());
            let (namespace, name) = ("shop".to_owned(), "cart".to_owned());
            said(&mut east.dns).skipped = vec![SkippedObject { kind, namespace, name, reason }];
            let reply = said(&mut east.reply);
            "NXDOMAIN".clone_into(&mut reply.code);
            reply.answers.clear();
            Asked::Name
        }
    };
    mesh.clusters.extend([("west".to_owned(), west), ("east".to_owned(), east)]);
    explain(&question(asked), &mesh).text(Style { width: 100, colour: false })
}

#[test]
fn every_reason_is_explained_where_it_arises() {
    let seeded: BTreeSet<_> = SEEDS.iter().map(|(reason, _place)| reason.code()).collect();
    let all: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(seeded, all);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (reason, place) in SEEDS {
        let text = explained(*reason, *place);
        assert!(text.contains(reason.code()), "{reason} does not show:\n{text}");
        assert!(
            text.contains(&format!("docs/reasons.md#{}", reason.code())),
            "no way on from {reason}:\n{text}"
        );
        let file = golden.join(format!("{}.txt", reason.code()));
        if std::env::var_os("ISTHMUS_WRITE_PAGES").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, kept, "{} differs; if that is wanted, write it anew", file.display());
    }
}
