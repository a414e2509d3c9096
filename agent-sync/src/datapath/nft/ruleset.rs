//! Merged services as the text of nftables transactions. Pure.
//!
//! ```text
//!  prerouting, output (nat)    ─▶ map (address, protocol, port) ─▶ one chain per frontend ─▶ dnat to one of its backends
//!  postrouting (nat)           ─▶ a pod that reached itself by its service is masqueraded
//!  prerouting, output (filter) ─▶ frontends without a backend refuse, instead of letting clients wait
//! ```
//!
//! Two tables take turns: the next state is in effect before the former one goes. Replacing a table is one transaction too, but
//! a packet that is on its way through the hooks meets the new one before it counts and the old one after it did.
//!
//! Answers find their way back by connection tracking. The hooks come before kube-proxy's, so that a connection which
//! is translated here is not translated there. Connections that exist keep their backend when rules are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use mesh_types::Reason;

use super::NftScope;
use crate::datapath::SkippedFrontend;
use crate::services::{Frontend, MergedService, MergedServices, Origin, Protocol};

/// Families and names of the tables, which take turns.
pub const TABLES: [&str; 2] = ["inet isthmus", "inet isthmus-2"];

/// Before kube-proxy's hooks, which are at -100.
const DNAT_PRIORITY: i32 = -110;
/// Before kube-proxy's hook, which is at 100.
const SNAT_PRIORITY: i32 = 90;
/// After all translation, so that what another proxy translates is not refused; before routing, which may know no way
/// to a cluster IP.
const REFUSE_PRIORITY: i32 = -90;
/// Spreads clients over backends where a client shall stay with one; any constant does, all nodes have the same.
const AFFINITY_SEED: u32 = 0x0150_7405;

/// The content of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// What is between the braces of the table.
    pub text: String,
    /// How many frontends it translates.
    pub frontends: usize,
    /// Those that it does not translate.
    pub skipped: Vec<SkippedFrontend>,
}

/// What makes two frontends the same to the kernel; ordered as they are written.
type Key = (IpAddr, Protocol, u16);

#[derive(Default)]
struct Parts<'a> {
    taken: BTreeMap<Key, (&'a MergedService, &'a Frontend)>,
    /// Those of them that have no backend.
    refused: BTreeSet<Key>,
    /// Addresses of local backends.
    hairpins: BTreeSet<IpAddr>,
    skipped: Vec<SkippedFrontend>,
}

impl Ruleset {
    /// The rules for the services that `scope` says.
    pub fn of(services: &MergedServices, scope: NftScope) -> Self {
        let mut parts = Parts::default();
        for service in services.values().filter(|service| scope == NftScope::All || service.is_global()) {
            for frontend in &service.frontends {
                parts.add(service, frontend);
            }
        }
        let mut text = String::new();
        parts.write(&mut text).expect("writing to a string does not fail");
        Ruleset { text, frontends: parts.taken.len() - parts.refused.len(), skipped: parts.skipped }
    }

    /// Input for `nft -f -`: the transaction that puts this into `table`, whatever is there.
    pub fn placement(&self, table: &str) -> String {
        format!("{}table {table} {{\n{}}}\n", Self::removal(table), self.text)
    }

    /// The transaction that removes `table`, also when there is none.
    pub fn removal(table: &str) -> String {
        format!("table {table}\ndelete table {table}\n")
    }
}

impl<'a> Parts<'a> {
    fn add(&mut self, service: &'a MergedService, frontend: &'a Frontend) {
        let key = (frontend.address, frontend.port.protocol, frontend.port.port);
        let mut skip = |reason| {
            self.skipped.push(SkippedFrontend {
                service: service.name.clone(),
                address: frontend.address,
                port: frontend.port.port,
                protocol: frontend.port.protocol,
                reason,
            });
        };
        let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !plain(&service.name.namespace) || !plain(&service.name.name) {
            // Never true of what an API server accepts; it would be read as nft syntax.
            return skip(Reason::FieldInvalid);
        }
        if self.taken.contains_key(&key) {
            return skip(Reason::AddressInUse);
        }
        if service.selected(frontend).next().is_none() {
            skip(Reason::NoBackends);
            self.refused.insert(key);
        }
        let local = service.selected(frontend).filter(|(origin, _)| *origin == Origin::Local);
        self.hairpins.extend(local.map(|(_, backend)| backend.address));
        self.taken.insert(key, (service, frontend));
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        for family in Family::BOTH {
            self.write_maps(out, family)?;
        }
        let hooks = [("prerouting", DNAT_PRIORITY), ("output", DNAT_PRIORITY)];
        writeln!(out, "\tchain services {{")?;
        for Family { ip, digit, .. } in Family::BOTH {
            writeln!(out, "\t\t{ip} daddr . meta l4proto . th dport vmap @frontends{digit}")?;
        }
        writeln!(out, "\t}}")?;
        for (hook, priority) in hooks {
            writeln!(out, "\tchain {hook} {{")?;
            writeln!(
                out,
                "\t\ttype nat hook {hook} priority {priority}; policy accept;\n\t\tjump services\n\t}}"
            )?;
        }
        writeln!(out, "\tchain postrouting {{")?;
        writeln!(out, "\t\ttype nat hook postrouting priority {SNAT_PRIORITY}; policy accept;")?;
        for Family { ip, digit, .. } in Family::BOTH {
            writeln!(out, "\t\tct status dnat {ip} saddr . {ip} daddr @hairpin{digit} masquerade")?;
        }
        writeln!(out, "\t}}")?;
        writeln!(out, "\tchain refuse {{")?;
        for Family { ip, digit, .. } in Family::BOTH {
            writeln!(out, "\t\t{ip} daddr . meta l4proto . th dport @refused{digit} goto refusal")?;
        }
        writeln!(
            out,
            "\t}}\n\tchain refusal {{\n\t\tmeta l4proto tcp reject with tcp reset\n\t\treject\n\t}}"
        )?;
        for (hook, priority) in [("prerouting", REFUSE_PRIORITY), ("output", 0)] {
            writeln!(out, "\tchain refuse-{hook} {{")?;
            writeln!(
                out,
                "\t\ttype filter hook {hook} priority {priority}; policy accept;\n\t\tjump refuse\n\t}}"
            )?;
        }
        for (key, (service, frontend)) in &self.taken {
            if !self.refused.contains(key) {
                write_frontend(out, service, frontend)?;
            }
        }
        Ok(())
    }

    fn write_maps(&self, out: &mut String, Family { digit, ipv6, .. }: Family) -> std::fmt::Result {
        let of_family = || self.taken.iter().filter(move |((address, ..), _)| address.is_ipv6() == ipv6);
        let element = |(address, protocol, port): &Key| format!("{address} . {} . {port}", protocol.word());
        let translated =
            of_family().filter(|(key, _)| !self.refused.contains(key)).map(|(key, (service, frontend))| {
                format!("{} : goto {}", element(key), chain_name(service, frontend))
            });
        let refused = of_family().filter(|(key, _)| self.refused.contains(key)).map(|(key, _)| element(key));
        let hairpins = self.hairpins.iter().filter(|address| address.is_ipv6() == ipv6);
        let hairpins = hairpins.map(|address| format!("{address} . {address}"));
        let address = format!("ipv{digit}_addr");
        let key = format!("{address} . inet_proto . inet_service");
        write_set(out, &format!("map frontends{digit}"), &format!("{key} : verdict"), translated)?;
        write_set(out, &format!("set refused{digit}"), &key, refused)?;
        write_set(out, &format!("set hairpin{digit}"), &format!("{address} . {address}"), hairpins)
    }
}

#[derive(Clone, Copy)]
struct Family {
    ip: &'static str,
    digit: u8,
    ipv6: bool,
}

impl Family {
    const BOTH: [Family; 2] =
        [Family { ip: "ip", digit: 4, ipv6: false }, Family { ip: "ip6", digit: 6, ipv6: true }];

    fn of(address: IpAddr) -> Self {
        Self::BOTH[usize::from(address.is_ipv6())]
    }
}

fn write_set(
    out: &mut String,
    head: &str,
    kind: &str,
    elements: impl Iterator<Item = String>,
) -> std::fmt::Result {
    writeln!(out, "\t{head} {{\n\t\ttype {kind}")?;
    let mut elements = elements.peekable();
    if elements.peek().is_some() {
        writeln!(out, "\t\telements = {{")?;
        for element in elements {
            writeln!(out, "\t\t\t{element},")?;
        }
        writeln!(out, "\t\t}}")?;
    }
    writeln!(out, "\t}}")
}

fn chain_name(service: &MergedService, frontend: &Frontend) -> String {
    let (protocol, port) = (frontend.port.protocol.word(), frontend.port.port);
    let digit = Family::of(frontend.address).digit;
    format!("svc/{}/{protocol}/{port}/ip{digit}", service.name)
}

fn write_frontend(out: &mut String, service: &MergedService, frontend: &Frontend) -> std::fmt::Result {
    let Family { ip, ipv6, .. } = Family::of(frontend.address);
    let backends: Vec<_> = service.selected(frontend).map(|(_, backend)| backend).collect();
    writeln!(out, "\tchain {} {{", chain_name(service, frontend))?;
    write!(out, "\t\tmeta l4proto {} dnat {ip} to ", frontend.port.protocol.word())?;
    if let [backend] = &*backends {
        let (address, port) = (backend.address, backend.port);
        if ipv6 { writeln!(out, "[{address}]:{port}")? } else { writeln!(out, "{address}:{port}")? }
    } else {
        let sticky = service.local.as_ref().is_some_and(|local| local.client_ip_affinity.is_some());
        let count = backends.len();
        if sticky {
            write!(out, "jhash {ip} saddr mod {count} seed {AFFINITY_SEED:#x}")?;
        } else {
            write!(out, "numgen random mod {count}")?;
        }
        write!(out, " map {{ ")?;
        for (at, backend) in backends.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(out, "{comma}{at} : {} . {}", backend.address, backend.port)?;
        }
        writeln!(out, " }}")?;
    }
    writeln!(out, "\t}}")
}

#[cfg(test)]
mod tests;
