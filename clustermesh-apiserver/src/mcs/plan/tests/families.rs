//! Address families of exports, of this cluster, and of imports.

use super::*;

/// A world whose cluster offers these families, in which `east` exports with those.
fn world_of_families(offered: &[&str], exported: &[&str]) -> World {
    let texts = |families: &[&str]| families.iter().map(|family| (*family).to_owned()).collect();
    let mut world = world();
    world.offered = texts(offered);
    let east = "east".parse().unwrap();
    let export = ServiceExport { ip_families: texts(exported), ..remote_export("east", 1) };
    world.set_remote(&east, key(), Some(export));
    world.set_remote_service(&east, &derived(), Some(offer("east", 1)));
    world
}

#[test]
fn kep1645_addresses_and_families_of_an_import_correspond() {
    /// What the cluster offers and the export has; families, addresses and slices of the import.
    type Case = (&'static [&'static str], &'static [&'static str], Value, Value, &'static [&'static str]);
    let (v4, v6) = ("10.96.7.7", "fd00:96::7");
    let cases: [Case; 6] = [
        (&["IPv4"], &["IPv4"], json!(["IPv4"]), json!([v4]), &["IPv4"]),
        (&["IPv4"], &["IPv6", "IPv4"], json!(["IPv4"]), json!([v4]), &["IPv4"]),
        (&["IPv4", "IPv6"], &["IPv6"], json!(["IPv6"]), json!([v6]), &["IPv6"]),
        (&["IPv4", "IPv6"], &["IPv6", "IPv4"], json!(["IPv6", "IPv4"]), json!([v6, v4]), &["IPv4", "IPv6"]),
        (&["IPv4"], &[], json!(["IPv4"]), json!([v4]), &["IPv4"]),
        (&[], &["IPv4", "IPv6"], json!(["IPv4"]), json!([v4]), &["IPv4", "IPv6"]),
    ];
    for (offered, exported, families, ips, slices) in cases {
        let mut world = world_of_families(offered, exported);
        assert_eq!(settle(&mut world), [], "{offered:?} {exported:?}");
        let import = &world.imports[&key()];
        assert_eq!(
            (&import["spec"]["ipFamilies"], &import["spec"]["ips"]),
            (&families, &ips),
            "{exported:?}"
        );
        assert_eq!(condition(observed_conditions(import), "Ready").0, "True", "{offered:?} {exported:?}");
        let found =
            world.slices[&derived()].values().map(|slice| slice.whole["addressType"].as_str().unwrap());
        assert_eq!(found.collect::<Vec<_>>(), slices, "{offered:?} {exported:?}");
    }
}

#[test]
fn kep1645_an_export_without_a_family_of_this_cluster_gets_no_address_and_says_so() {
    for kind in ["ClusterSetIP", "Headless"] {
        let mut world = world_of_families(&["IPv4"], &["IPv6"]);
        let mut export = world.remote[&key()].values().next().unwrap().clone();
        export.service_type = kind.to_owned();
        world.set_remote(&"east".parse().unwrap(), key(), Some(export.clone()));
        assert_eq!(settle(&mut world), [Reason::FamilyUnsupported], "{kind}");
        let import = world.imports[&key()].clone();
        assert_eq!(condition(observed_conditions(&import), "Ready"), ("False", "IPFamilyNotSupported"));
        assert_eq!(import["spec"]["ips"], json!([]));
        assert_eq!(import["spec"]["ipFamilies"], json!(["IPv6"]), "what it would need");
        assert!(!world.services.contains_key(&derived()) && !world.slices.contains_key(&derived()), "{kind}");

        // The exporter gets the other family, and loses it again.
        export.ip_families = vec!["IPv6".to_owned(), "IPv4".to_owned()];
        world.set_remote(&"east".parse().unwrap(), key(), Some(export.clone()));
        assert_eq!(settle(&mut world), [], "{kind}");
        assert!(world.services.contains_key(&derived()));
        export.ip_families.truncate(1);
        world.set_remote(&"east".parse().unwrap(), key(), Some(export));
        assert_eq!(settle(&mut world), [Reason::FamilyUnsupported], "{kind}");
        assert!(!world.services.contains_key(&derived()) && !world.slices.contains_key(&derived()), "{kind}");
    }
}

#[test]
fn a_family_that_the_cluster_gets_later_is_learned_from_its_services() {
    let mut world = world_of_families(&["IPv4"], &["IPv6"]);
    settle(&mut world);
    let dual = LocalService {
        families: vec!["IPv4".to_owned(), "IPv6".to_owned()],
        cluster_ips: vec!["10.96.0.9".to_owned(), "fd00:96::9".to_owned()],
        ..local_service()
    };
    let other = ObjectKey::new("shop", "other");
    assert!(world.set_service(other.clone(), Some(dual.clone())).contains(&key()));
    assert_eq!(world.set_service(other.clone(), Some(dual)), [other], "that is no news");
    assert_eq!(settle(&mut world), []);
    assert_eq!(world.imports[&key()]["spec"]["ips"], json!(["fd00:96::7"]));
}

#[test]
fn where_the_families_of_the_cluster_are_not_known_the_derived_service_tells() {
    let mut world = world_of_families(&[], &["IPv6"]);
    assert_eq!(settle(&mut world), [Reason::FamilyUnsupported]);
    let import = &world.imports[&key()];
    assert_eq!(condition(observed_conditions(import), "Ready"), ("False", "IPFamilyNotSupported"));
    assert_eq!(import["spec"]["ips"], json!([]));
}
