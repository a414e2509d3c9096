//! What the server counts.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use mesh_types::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::handler::Outcome;
use crate::published::Published;

/// How a question came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Types of question that have a series of their own; the rest is what some clients always ask for too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    A,
    Aaaa,
    Srv,
    Txt,
    Soa,
    Ns,
    Any,
    Other,
    Unreadable,
}

impl From<Option<RecordType>> for Kind {
    fn from(kind: Option<RecordType>) -> Self {
        let Some(kind) = kind else { return Self::Unreadable };
        let own = [
            (RecordType::A, Self::A),
            (RecordType::AAAA, Self::Aaaa),
            (RecordType::SRV, Self::Srv),
            (RecordType::TXT, Self::Txt),
            (RecordType::SOA, Self::Soa),
            (RecordType::NS, Self::Ns),
            (RecordType::ANY, Self::Any),
        ];
        own.into_iter().find(|(of, _)| *of == kind).map_or(Self::Other, |(_, kind)| kind)
    }
}

/// Codes that the server answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    NoError,
    NxDomain,
    ServFail,
    Refused,
    FormErr,
    NotImp,
    BadVers,
    Other,
}

impl From<ResponseCode> for Code {
    fn from(code: ResponseCode) -> Self {
        let own = [
            (ResponseCode::NoError, Self::NoError),
            (ResponseCode::NXDomain, Self::NxDomain),
            (ResponseCode::ServFail, Self::ServFail),
            (ResponseCode::Refused, Self::Refused),
            (ResponseCode::FormErr, Self::FormErr),
            (ResponseCode::NotImp, Self::NotImp),
            (ResponseCode::BADVERS, Self::BadVers),
        ];
        own.into_iter().find(|(of, _)| *of == code).map_or(Self::Other, |(_, code)| code)
    }
}

/// Label values as DNS people write them.
macro_rules! label_values {
    ($label:ident { $($value:ident => $text:literal,)+ }) => {
        impl EncodeLabelValue for $label {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                encoder.write_str(match self {
                    $(Self::$value => $text,)+
                })
            }
        }
    };
}

label_values!(Transport { Udp => "udp", Tcp => "tcp", });
label_values!(Kind {
    A => "A", Aaaa => "AAAA", Srv => "SRV", Txt => "TXT", Soa => "SOA", Ns => "NS", Any => "ANY", Other => "other",
    Unreadable => "unreadable",
});
label_values!(Code {
    NoError => "NOERROR", NxDomain => "NXDOMAIN", ServFail => "SERVFAIL", Refused => "REFUSED", FormErr => "FORMERR",
    NotImp => "NOTIMP", BadVers => "BADVERS", Other => "other",
});

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    transport: Transport,
    qtype: Kind,
    rcode: Code,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: Transport,
}

/// Series of the server; clones count into the same series.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    responses: Family<Labels, Counter>,
    truncated: Family<TransportLabels, Counter>,
    dropped: Family<TransportLabels, Counter>,
    connections: Gauge,
}

impl Metrics {
    /// Registers the server's series, and those of the zone, which are read when they are scraped.
    pub fn register(registry: &mut Registry, published: Published) -> Self {
        let metrics = Self::default();
        registry.register(
            "responses",
            "Responses sent, by type of question and code",
            metrics.responses.clone(),
        );
        registry.register(
            "responses_truncated",
            "Responses that did not fit (TC)",
            metrics.truncated.clone(),
        );
        registry.register(
            "packets_dropped",
            "Messages that are no query, or that could not be answered",
            metrics.dropped.clone(),
        );
        registry.register("tcp_connections", "Open TCP connections", metrics.connections.clone());
        registry.register_collector(Box::new(ZoneCollector(published)));
        metrics
    }

    pub(crate) fn count(&self, transport: Transport, outcome: Option<&Outcome>) {
        let Some(outcome) = outcome else {
            self.dropped.get_or_create(&TransportLabels { transport }).inc();
            return;
        };
        let labels = Labels { transport, qtype: outcome.kind.into(), rcode: outcome.code.into() };
        self.responses.get_or_create(&labels).inc();
        if outcome.truncated {
            self.truncated.get_or_create(&TransportLabels { transport }).inc();
        }
    }

    pub(crate) fn connections(&self) -> &Gauge {
        &self.connections
    }
}

#[derive(Debug)]
struct ZoneCollector(Published);

impl Collector for ZoneCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (synced, services) = {
            let zone = self.0.zone();
            (zone.is_synced(), zone.services())
        };
        for (name, help, value) in [
            ("zone_synced", "Whether all names are known (1) or every question fails (0)", i64::from(synced)),
            ("zone_services", "Services that have names", i64::try_from(services).unwrap_or(i64::MAX)),
        ] {
            let series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(series)?;
        }
        let mut by_reason: BTreeMap<Reason, i64> = BTreeMap::new();
        for skipped in self.0.skipped().iter() {
            *by_reason.entry(skipped.reason).or_default() += i64::try_from(skipped.count).unwrap_or(i64::MAX);
        }
        let help = "Objects, or parts of them, that are not served";
        let mut series = encoder.encode_descriptor("zone_skipped", help, None, MetricType::Gauge)?;
        for (reason, count) in by_reason {
            ConstGauge::new(count).encode(series.encode_family(&[("reason", reason.code())])?)?;
        }
        Ok(())
    }
}
