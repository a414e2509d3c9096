use std::collections::BTreeSet;

use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::*;
use crate::fixture::{self, CASES, SOA_TEXT, glue, text};

fn ask(zone: &Zone, name: &str, kind: RecordType) -> Answer {
    zone.answer(&Question { name: &Name::from_ascii(name).unwrap(), kind, turn: 0, enough: usize::MAX })
}

#[test]
fn every_case_is_answered_whole() {
    let zone = fixture::zone();
    for case in CASES {
        let context = format!("{} {} {}", case.clause, case.query_name(), case.kind);
        let answer = ask(&zone, &case.query_name(), case.kind);
        let sorted = |records: &[Record], show: fn(&Record) -> String| {
            records.iter().map(show).collect::<BTreeSet<_>>()
        };
        assert_eq!(answer.code, case.code, "{context}");
        assert!(sorted(&answer.answers, text).iter().eq(case.answers), "{context}: {:?}", answer.answers);
        assert!(
            sorted(&answer.additional, glue).iter().eq(case.additional),
            "{context}: {:?}",
            answer.additional
        );
        let negative = case.answers.is_empty() && case.code != ResponseCode::Refused;
        assert_eq!(answer.authority.iter().map(text).eq([SOA_TEXT]), negative, "{context}");
    }
}

#[test]
fn before_the_first_sync_every_question_in_the_zone_fails_and_none_is_denied() {
    let zone = fixture::empty_zone();
    for case in CASES.iter().filter(|case| case.code != ResponseCode::Refused) {
        let answer = ask(&zone, &case.query_name(), case.kind);
        assert_eq!(answer, Answer::refusal(ResponseCode::ServFail), "{}", case.query_name());
    }
}

#[test]
fn outside_the_zone_is_refused_synced_or_not() {
    for zone in [fixture::zone(), fixture::empty_zone()] {
        for name in [".", "local.", "svc1.testns.svc.cluster.local.", "xclusterset.local."] {
            let answer = ask(&zone, name, RecordType::NS);
            assert_eq!(answer, Answer::refusal(ResponseCode::Refused), "{name}");
        }
    }
}

#[test]
fn rfc2308_5_the_soa_lives_no_longer_than_300_seconds() {
    for (ttl, soa_ttl) in [(0, 0), (5, 5), (300, 300), (3600, 300)] {
        let settings = ZoneSettings { ttl_seconds: ttl, ..fixture::empty_zone().settings().clone() };
        let mut zone = Zone::new(settings).unwrap();
        zone.set_synced();
        let soa = ask(&zone, "clusterset.local.", RecordType::SOA).answers.remove(0);
        let RData::SOA(data) = &soa.data else { panic!("{soa}") };
        assert_eq!((soa.ttl, data.minimum), (soa_ttl, ttl));
    }
}

#[test]
fn a_zone_whose_name_leaves_no_room_is_an_error() {
    let long = [["x"; 63].concat(), ["y"; 63].concat(), ["z"; 63].concat(), ["w"; 60].concat()].join(".");
    let settings = ZoneSettings { zone: long.parse().unwrap(), ..fixture::empty_zone().settings().clone() };
    assert_eq!(Zone::new(settings).err(), Some(NameTooLong));
}

#[test]
fn a_snapshot_is_not_changed_by_what_follows() {
    let before = fixture::zone();
    let mut after = before.clone();
    assert!(after.set_service(&"testns".into(), &"svc1".into(), None));
    assert_eq!(ask(&before, "svc1.testns.svc.clusterset.local.", RecordType::A).code, ResponseCode::NoError);
    assert_eq!(ask(&after, "svc1.testns.svc.clusterset.local.", RecordType::A).code, ResponseCode::NXDomain);
    assert_eq!(before.services(), after.services() + 1);
}

#[test]
fn a_namespace_exists_while_its_object_or_a_service_of_it_does() {
    let mut zone = fixture::empty_zone();
    zone.set_synced();
    let (ns, name): (Arc<str>, Arc<str>) = ("ns".into(), "a".into());
    let settings = zone.settings().clone();
    let import = crate::service::Import {
        kind: crate::service::ImportKind::ClusterSetIp(vec!["10.0.0.1".parse().unwrap()]),
        ports: vec![],
    };
    let service = || Service::new(&settings.zone, "ns", "a", &import, []).0;
    let code = |zone: &Zone| ask(zone, "ns.svc.clusterset.local.", RecordType::A).code;
    assert_eq!(code(&zone), ResponseCode::NXDomain);
    assert!(zone.set_service(&ns, &name, service()));
    assert!(!zone.set_service(&ns, &name, service()), "the same again changes nothing");
    assert_eq!(code(&zone), ResponseCode::NoError);
    assert!(zone.set_namespace(&ns, true));
    assert!(!zone.set_namespace(&ns, true));
    assert!(zone.set_service(&ns, &name, None));
    assert_eq!(code(&zone), ResponseCode::NoError);
    assert!(zone.set_namespace(&ns, false));
    assert!(!zone.set_namespace(&ns, false));
    assert_eq!(code(&zone), ResponseCode::NXDomain);
    assert!(zone.namespaces.is_empty(), "nothing is left behind");
}

proptest! {
    /// Whatever the turn, the set is the same; and what is enough is the most that is given.
    #[test]
    fn turning_changes_the_order_and_nothing_else(turn in 0usize..100_000, enough in 1usize..400) {
        let zone = fixture::zone();
        for (name, kind) in [
            ("big.testns.svc.clusterset.local.", RecordType::A),
            ("_http._tcp.big.testns.svc.clusterset.local.", RecordType::SRV),
            ("hdls1.testns.svc.clusterset.local.", RecordType::AAAA),
        ] {
            let name = Name::from_ascii(name).unwrap();
            let ask = |turn, enough| zone.answer(&Question { name: &name, kind, turn, enough }).answers;
            let set = |records: Vec<Record>| records.iter().map(text).collect::<BTreeSet<_>>();
            let all = ask(0, usize::MAX);
            prop_assert_eq!(ask(turn, enough).len(), all.len().min(enough));
            prop_assert_eq!(set(ask(turn, usize::MAX)), set(all));
        }
    }
}
