//! The writes that connect or disconnect clusters.
//!
//! Layout: Cilium's chart, `templates/clustermesh-config` (what the Secrets hold) and `clustermesh-apiserver/users-configmap`.

use crate::certificate::{Shown, read, vouched};
use crate::code::Code;
use crate::{Finding, Member, Observed, TlsSecret};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub(crate) mod entry;
mod text;
pub(crate) mod users;

pub(crate) use entry::Way;
use entry::{Files, entry, same};
use users::{USERS_FILE, Users};

/// Secret with what agents read of the other clusters.
pub const AGENTS_SECRET: &str = "cilium-clustermesh";
/// Secret with what the mirror reads of the other clusters.
pub const MIRROR_SECRET: &str = "cilium-kvstoremesh";
/// ConfigMap with the other clusters' users.
pub const USERS_CONFIG_MAP: &str = "clustermesh-remote-users";

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// Who may read: written first, so that nobody is refused at first.
    ConfigMap,
    /// How to read.
    Secret,
}

/// Whether an object is new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It does not exist.
    Create,
    /// It is as it was read in this version, else the write is refused.
    Patch {
        /// `metadata.resourceVersion`.
        #[serde(rename = "resourceVersion")]
        resource_version: String,
    },
}

/// What becomes of one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// It gets this value.
    Set {
        /// The value that it has; absent if it has none.
        old: Option<Vec<u8>>,
        /// The value that it gets.
        new: Vec<u8>,
    },
    /// It goes.
    Remove {
        /// The value that it has.
        old: Vec<u8>,
    },
}

impl fmt::Debug for Change {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Change {
    /// `add`, `change` or `remove`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Set { old: None, .. } => "add",
            Self::Set { old: Some(_), .. } => "change",
            Self::Remove { .. } => "remove",
        }
    }
}

/// A write to one object: these keys of its `data`, and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The kubeconfig's context.
    pub context: String,
    /// The cluster's name.
    pub cluster: String,
    /// Of which kind the object is.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: &'static str,
    /// Whether it exists.
    pub action: Action,
    /// By key; never empty.
    pub keys: BTreeMap<String, Change>,
}

/// Writes, in the order in which they are to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One for each object that changes.
    pub writes: Vec<Write>,
}

/// By which certificate a cluster reads another's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Its own.
    Own,
    /// A copy of the other's, because neither CA vouches for the other cluster.
    OfThePeer,
}

/// By which certificate `reader` reads the store of `peer`.
pub(crate) fn credentials(reader: &Member, peer: &Member, now: Timestamp) -> Credentials {
    let (Some(mine), Some(theirs)) = (&reader.remote, &peer.server) else { return Credentials::Own };
    // The usual mesh has one CA: what vouches for a cluster's own certificates vouches for the others' too.
    let same = |ca: &str, secret: &Option<TlsSecret>| secret.as_ref().is_some_and(|secret| secret.ca == ca);
    if same(&mine.ca, &peer.remote) && same(&theirs.ca, &reader.server) {
        return Credentials::Own;
    }
    let trusts = |ca, certificate, shown| vouched(ca, certificate, shown, now).is_ok();
    let own = trusts(&mine.ca, &theirs.certificate, Shown::Server)
        && trusts(&theirs.ca, &mine.certificate, Shown::Client);
    if own { Credentials::Own } else { Credentials::OfThePeer }
}

/// What connects each of `members` with each other; empty if they are.
///
/// Meant for members without an error among their [`checks`](crate::checks()): what is not known is not written.
pub fn connect(members: &[Member], now: Timestamp) -> Plan {
    // Once for each member, as there are many more pairs.
    let peers: Vec<Peer<'_>> = members.iter().map(Peer::of).collect();
    let writes = peers.iter().flat_map(|Peer { member, user, .. }| {
        let near = entry(&Way::within(&member.namespace), &Files::local()).into_bytes();
        let (mut mirror, mut agents, mut users) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for peer in peers.iter().filter(|peer| peer.member.name() != member.name()) {
            let far = remote_entry(member, peer, now);
            if member.mirrored {
                agents.insert(peer.member.name().to_owned(), near.clone());
                mirror.extend(far);
            } else {
                agents.extend(far);
            }
            users.insert(format!("remote-{}", peer.member.name()));
            // As the peer appears here: by its own certificate, or by a copy of this cluster's.
            users.extend(match credentials(peer.member, member, now) {
                Credentials::Own => peer.user.clone(),
                Credentials::OfThePeer => user.clone(),
            });
        }
        // Every store has it from the start.
        users.remove("remote");
        [
            secret(member, MIRROR_SECRET, &member.objects.mirror, mirror),
            secret(member, AGENTS_SECRET, &member.objects.agents, agents),
            users_write(member, &users, &BTreeSet::new()),
        ]
    });
    ordered(writes.flatten().collect())
}

/// A member, with what its certificates say.
struct Peer<'a> {
    member: &'a Member,
    way: Way,
    /// The user of its client certificate.
    user: Option<String>,
}

impl<'a> Peer<'a> {
    fn of(member: &'a Member) -> Self {
        let leaf = member.remote.as_ref().and_then(|secret| read(&secret.certificate)?.into_iter().next());
        let user = leaf.map(|leaf| leaf.common_name).filter(|name| !name.is_empty());
        Self { member, way: Way::to(member), user }
    }
}

/// What removes each of `names` from each of `members`, but a member from itself; empty if nothing is left of them.
pub fn disconnect(members: &[Member], names: &BTreeSet<String>) -> Plan {
    let writes = members.iter().flat_map(|member| {
        let names: Vec<&String> = names.iter().filter(|name| *name != member.name()).collect();
        let keys: BTreeSet<String> = names.iter().flat_map(|name| keys_of(name)).collect();
        let users = names.iter().map(|name| format!("remote-{name}")).collect();
        [
            removal(member, MIRROR_SECRET, &member.objects.mirror, &keys),
            removal(member, AGENTS_SECRET, &member.objects.agents, &keys),
            users_write(member, &BTreeSet::new(), &users),
        ]
    });
    let mut plan = ordered(writes.flatten().collect());
    // Nobody asks any more before he is refused.
    plan.writes.sort_by_key(|write| std::cmp::Reverse(write.kind));
    plan
}

/// What a reader of a store has in one directory, to try the way to it.
#[derive(Clone)]
pub struct Trial {
    /// By file name: the configuration, which is named after the store's cluster, and what it names. Holds a private key.
    pub files: Vec<(String, String)>,
}

impl fmt::Debug for Trial {
    /// Without the files, one of which is a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial").finish_non_exhaustive()
    }
}

/// How the mirror of `reader` will read the store of `peer`, with paths that are relative to the configuration; `None` if
/// there is no way or no certificate.
pub fn trial(reader: &Member, peer: &Member, now: Timestamp) -> Option<Trial> {
    let way = Way::to(peer);
    let shown = match credentials(reader, peer, now) {
        Credentials::Own => reader.remote.as_ref(),
        Credentials::OfThePeer => peer.remote.as_ref(),
    }?;
    if way.is_empty() {
        return None;
    }
    let files = Files { ca: "ca.crt".into(), certificate: "tls.crt".into(), key: "tls.key".into() };
    let entry = entry(&way, &files);
    let texts = [&shown.ca, &shown.certificate, &shown.key].map(String::clone);
    let named = [files.ca, files.certificate, files.key].into_iter().zip(texts);
    Some(Trial { files: named.chain([(peer.name().to_owned(), entry)]).collect() })
}

/// What [`connect`] would write, as findings: for who only looks.
pub fn not_connected(plan: &Plan) -> Vec<Finding> {
    let found = |write: &Write| {
        let keys = write.keys.iter().map(|(key, change)| format!("{} {key}", change.word()));
        Finding::warning(Code::NotConnected, &[&write.cluster])
            .expected("what `isthmus connect` would write is written")
            .found(format!(
                "it would {} of {} {}/{}",
                keys.collect::<Vec<_>>().join(", "),
                write.kind.word(),
                write.namespace,
                write.name
            ))
            .advice("run `isthmus connect` with the same contexts, and read its plan")
    };
    plan.writes.iter().map(found).collect()
}

/// The keys of a peer.
fn keys_of(peer: &str) -> [String; 4] {
    let file = |ending: &str| format!("{peer}.etcd-client{ending}");
    [peer.to_owned(), file("-ca.crt"), file(".crt"), file(".key")]
}

/// The keys by which a cluster reads the store of another.
fn remote_entry(
    member: &Member,
    Peer { member: peer, way, .. }: &Peer<'_>,
    now: Timestamp,
) -> BTreeMap<String, Vec<u8>> {
    if way.is_empty() {
        return BTreeMap::new();
    }
    let [name, ca, certificate, key] = keys_of(peer.name());
    let copied =
        (credentials(member, peer, now) == Credentials::OfThePeer).then_some(peer.remote.as_ref()).flatten();
    let mut keys = BTreeMap::new();
    let files = match copied {
        None => Files::common(),
        Some(secret) => {
            let files = Files::of(&ca, &certificate, &key);
            keys.insert(ca, secret.ca.clone().into_bytes());
            keys.insert(certificate, secret.certificate.clone().into_bytes());
            keys.insert(key, secret.key.clone().into_bytes());
            files
        }
    };
    keys.insert(name, entry(way, &files).into_bytes());
    keys
}

fn secret(
    member: &Member,
    name: &'static str,
    observed: &Option<Observed>,
    wanted: BTreeMap<String, Vec<u8>>,
) -> Option<Write> {
    let mut keys = BTreeMap::new();
    for (key, new) in wanted {
        let old = observed.as_ref().and_then(|object| object.data.get(&key)).cloned();
        if !old.as_ref().is_some_and(|old| same(old, &new)) {
            keys.insert(key, Change::Set { old, new });
        }
    }
    write(member, Kind::Secret, name, observed, keys)
}

fn removal(
    member: &Member,
    name: &'static str,
    observed: &Option<Observed>,
    keys: &BTreeSet<String>,
) -> Option<Write> {
    let data = observed.iter().flat_map(|object| &object.data);
    let gone = data.filter(|(key, _)| keys.contains(*key));
    let keys = gone.map(|(key, old)| (key.clone(), Change::Remove { old: old.clone() })).collect();
    write(member, Kind::Secret, name, observed, keys)
}

fn users_write(member: &Member, wanted: &BTreeSet<String>, gone: &BTreeSet<String>) -> Option<Write> {
    let observed = &member.objects.users;
    // What cannot be read has a finding, and stays.
    let mut users = observed.as_ref().map_or_else(|| Ok(Users::default()), Users::of).ok()?;
    if !users.change(wanted, gone) {
        return None;
    }
    let old = observed.as_ref().and_then(|object| object.data.get(USERS_FILE)).cloned();
    let change = Change::Set { old, new: users.text().into_bytes() };
    write(member, Kind::ConfigMap, USERS_CONFIG_MAP, observed, [(USERS_FILE.to_owned(), change)].into())
}

fn write(
    member: &Member,
    kind: Kind,
    name: &'static str,
    observed: &Option<Observed>,
    keys: BTreeMap<String, Change>,
) -> Option<Write> {
    let action = match observed {
        None => Action::Create,
        Some(object) => Action::Patch { resource_version: object.resource_version.clone() },
    };
    let (context, cluster) = (member.context.clone(), member.name().to_owned());
    let namespace = member.namespace.clone();
    (!keys.is_empty()).then_some(Write { context, cluster, kind, namespace, name, action, keys })
}

/// First who may read, in all clusters, then how.
fn ordered(mut writes: Vec<Write>) -> Plan {
    writes.sort_by_key(|write| write.kind);
    Plan { writes }
}

#[cfg(test)]
mod tests;
