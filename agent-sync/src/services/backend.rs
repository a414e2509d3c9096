//! What a service is made of: ports, backends and their states.

use std::net::IpAddr;
use std::sync::Arc;

/// A protocol that load balancing knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// Reads Kubernetes' word; the empty one is TCP. `None` for any other.
    pub fn read(word: &str) -> Option<Self> {
        match word {
            "" => Some(Protocol::Tcp),
            word => Self::ALL.into_iter().find(|protocol| protocol.word().eq_ignore_ascii_case(word)),
        }
    }

    /// Its word in lower case.
    pub const fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// What a backend can take. In the order in which backends are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// New connections.
    Active,
    /// New connections only if no backend is active; existing ones in any case.
    Terminating,
    /// Existing connections only.
    TerminatingNotServing,
    /// Nothing.
    Maintenance,
}

impl BackendState {
    /// The state that an endpoint's conditions stand for. Absent `ready` and `serving` count as true, absent
    /// `terminating` as false.
    pub fn of_conditions(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        match (ready.unwrap_or(true), serving.unwrap_or(true), terminating.unwrap_or(false)) {
            (true, _, _) => BackendState::Active,
            (false, true, true) => BackendState::Terminating,
            (false, false, true) => BackendState::TerminatingNotServing,
            (false, _, false) => BackendState::Maintenance,
        }
    }
}

/// The names of one port, sorted; empty for an unnamed one. Shared by the backends of a record.
pub type PortNames = Arc<[Arc<str>]>;

/// One address and port that serves a service in one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port, not 0.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Names that the port has in the service.
    pub port_names: PortNames,
    /// What it can take. Remote backends of the older format are always active: their record has no condition.
    pub state: BackendState,
    /// A health check says that it does not answer. Nothing in this crate checks; whoever does sets it.
    pub unhealthy: bool,
    /// The node that it is on; known of local ones only.
    pub node: Option<Arc<str>>,
}

/// What tells two backends of one service in one cluster apart.
pub(crate) type Socket = (IpAddr, u16, Protocol);

impl Backend {
    pub(crate) fn socket(&self) -> Socket {
        (self.address, self.port, self.protocol)
    }

    /// The order of slots: what can take connections first.
    pub(crate) fn slot_order(&self) -> impl Ord + use<> {
        (self.unhealthy, self.state, self.address, self.port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_give_the_state_of_the_table() {
        let (yes, no) = (Some(true), Some(false));
        let cases = [
            (yes, None, None, BackendState::Active),
            (yes, no, yes, BackendState::Active),
            (None, None, None, BackendState::Active),
            (no, yes, yes, BackendState::Terminating),
            (no, None, yes, BackendState::Terminating),
            (no, no, yes, BackendState::TerminatingNotServing),
            (no, None, None, BackendState::Maintenance),
            (no, yes, no, BackendState::Maintenance),
            (no, no, no, BackendState::Maintenance),
        ];
        for (ready, serving, terminating, expected) in cases {
            let state = BackendState::of_conditions(ready, serving, terminating);
            assert_eq!(state, expected, "{ready:?} {serving:?} {terminating:?}");
        }
    }

    #[test]
    fn an_absent_protocol_is_tcp_and_an_unknown_one_none() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::read(protocol.word()), Some(protocol));
        }
        assert_eq!(Protocol::read("SCTP"), Some(Protocol::Sctp));
        assert_eq!(Protocol::read(""), Some(Protocol::Tcp));
        assert_eq!(Protocol::read("ICMP"), None);
    }
}
