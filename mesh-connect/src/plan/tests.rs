use super::*;
use crate::samples::{Ca, YEAR, member, mesh, now};
use crate::{Objects, checks};

/// What the writes leave behind, as the API would.
fn written(members: &mut [Member], plan: &Plan) {
    for write in &plan.writes {
        let member = members.iter_mut().find(|member| member.context == write.context).unwrap();
        let Objects { agents, mirror, users } = &mut member.objects;
        let object = match write.name {
            AGENTS_SECRET => agents,
            MIRROR_SECRET => mirror,
            USERS_CONFIG_MAP => users,
            other => panic!("{other} is no object of ours"),
        };
        assert_eq!(write.action == Action::Create, object.is_none());
        let object = object.get_or_insert_default();
        object.resource_version += "1";
        for (key, change) in &write.keys {
            match change {
                Change::Set { old, new } => {
                    assert_eq!(object.data.insert(key.clone(), new.clone()), *old);
                }
                Change::Remove { old } => assert_eq!(object.data.remove(key).as_ref(), Some(old)),
            }
        }
    }
}

fn text(member: &Member, object: &Option<Observed>, key: &str) -> String {
    let value = object.as_ref().and_then(|object| object.data.get(key));
    let value = value.unwrap_or_else(|| panic!("{} has no {key}", member.name()));
    String::from_utf8(value.clone()).unwrap()
}

#[test]
fn two_clusters_are_connected_in_ciliums_layout() {
    let mut members = mesh();
    let plan = connect(&members, now());
    let order: Vec<_> = plan.writes.iter().map(|write| (write.cluster.as_str(), write.name)).collect();
    assert_eq!(
        order,
        [
            ("west", USERS_CONFIG_MAP),
            ("east", USERS_CONFIG_MAP),
            ("west", MIRROR_SECRET),
            ("west", AGENTS_SECRET),
            ("east", MIRROR_SECRET),
            ("east", AGENTS_SECRET),
        ],
        "first who may read, everywhere"
    );
    written(&mut members, &plan);
    let west = &members[0];
    assert_eq!(
        text(west, &west.objects.mirror, "east"),
        "endpoints:\n- https://192.0.2.2:2379\n\
         trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt\n\
         key-file: /var/lib/cilium/clustermesh/common-etcd-client.key\n\
         cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt\n"
    );
    assert_eq!(
        text(west, &west.objects.agents, "east"),
        "endpoints:\n- https://clustermesh-apiserver.kube-system.svc:2379\n\
         trusted-ca-file: /var/lib/cilium/clustermesh/local-etcd-client-ca.crt\n\
         key-file: /var/lib/cilium/clustermesh/local-etcd-client.key\n\
         cert-file: /var/lib/cilium/clustermesh/local-etcd-client.crt\n"
    );
    assert_eq!(
        text(west, &west.objects.users, "users.yaml"),
        "users:\n- name: remote-east\n  role: remote\n"
    );
    assert_eq!(connect(&members, now()), Plan::default(), "planned again it is empty");
    assert_eq!(checks(&members, &[], now()), []);
}

#[test]
fn an_interrupted_plan_is_finished_by_the_next_one() {
    let all = connect(&mesh(), now());
    for done in 0..=all.writes.len() {
        let mut members = mesh();
        // The certificates differ from run to run, the plans do not.
        written(&mut members, &Plan { writes: all.writes[..done].to_vec() });
        let rest = connect(&members, now());
        assert_eq!(rest.writes, all.writes[done..], "after {done}");
    }
}

#[test]
fn disconnecting_undoes_it_and_leaves_everything_else() {
    let ca = Ca::new("mesh");
    let mut members: Vec<_> = [("a", 1), ("b", 2), ("c", 3)].map(|(name, id)| member(name, id, &ca)).into();
    let theirs: BTreeMap<_, _> = [("note".to_owned(), b"mine".to_vec())].into();
    members[0].objects.mirror = Some(Observed { resource_version: "7".into(), data: theirs.clone() });
    let data = [("users.yaml".to_owned(), b"users:\n- name: ops\n  role: root\nextra: 1\n".to_vec())].into();
    members[0].objects.users = Some(Observed { resource_version: "8".into(), data });
    let plan = connect(&members, now());
    assert_eq!(plan.writes[0].action, Action::Patch { resource_version: "8".into() });
    written(&mut members, &plan);
    assert_eq!(members[0].peers(), ["b", "c"].into());

    // From the side of `a` only: `c` is gone.
    let gone = BTreeSet::from(["c".to_owned()]);
    let plan = disconnect(&members[..1], &gone);
    assert_eq!(plan.writes.last().unwrap().name, USERS_CONFIG_MAP, "who reads goes before who may");
    written(&mut members, &plan);
    assert_eq!(members[0].peers(), ["b"].into());
    assert_eq!(disconnect(&members[..1], &gone), Plan::default());

    let names = BTreeSet::from(["a".to_owned(), "b".to_owned(), "c".to_owned()]);
    let plan = disconnect(&members, &names);
    written(&mut members, &plan);
    assert!(members.iter().all(|member| member.peers().is_empty()));
    assert_eq!(members[0].objects.mirror.as_ref().unwrap().data, theirs);
    let users = text(&members[0], &members[0].objects.users, "users.yaml");
    assert_eq!(users, "extra: 1\nusers:\n- name: ops\n  role: root\n");
}

#[test]
fn clusters_of_two_cas_get_a_copy_of_the_others_certificate() {
    let mut members = vec![member("west", 1, &Ca::new("one")), member("east", 2, &Ca::new("two"))];
    let plan = connect(&members, now());
    written(&mut members, &plan);
    let (west, east) = (&members[0], &members[1]);
    let entry = text(west, &west.objects.mirror, "east");
    assert!(
        entry.contains("trusted-ca-file: /var/lib/cilium/clustermesh/east.etcd-client-ca.crt"),
        "{entry}"
    );
    assert!(entry.contains("cert-file: /var/lib/cilium/clustermesh/east.etcd-client.crt"), "{entry}");
    let copied = east.remote.as_ref().unwrap();
    for (key, value) in [
        ("east.etcd-client-ca.crt", &copied.ca),
        ("east.etcd-client.crt", &copied.certificate),
        ("east.etcd-client.key", &copied.key),
    ] {
        assert_eq!(text(west, &west.objects.mirror, key), *value, "{key}");
    }
    // West appears in east's store as the copied certificate says.
    let users = text(east, &east.objects.users, "users.yaml");
    assert_eq!(users, "users:\n- name: remote-east\n  role: remote\n- name: remote-west\n  role: remote\n");
    assert_eq!(connect(&members, now()), Plan::default());
    let names = BTreeSet::from(["east".to_owned()]);
    let plan = disconnect(&members[..1], &names);
    written(&mut members, &plan);
    assert!(members[0].objects.mirror.as_ref().unwrap().data.is_empty(), "the copies go too");
}

#[test]
fn without_a_mirror_the_agents_read_the_other_store_themselves() {
    let mut members = mesh();
    members[0].mirrored = false;
    let plan = connect(&members, now());
    written(&mut members, &plan);
    let west = &members[0];
    assert!(text(west, &west.objects.agents, "east").contains("https://192.0.2.2:2379"));
    assert_eq!(west.objects.mirror, None);
}

#[test]
fn a_store_whose_certificate_is_for_a_name_is_reached_by_it() {
    let ca = Ca::new("mesh");
    let mut members = vec![member("west", 1, &ca), member("east", 2, &ca)];
    members[1].server = Some(ca.server(&["*.mesh.cilium.io"], &YEAR));
    let plan = connect(&members, now());
    written(&mut members, &plan);
    let entry = text(&members[0], &members[0].objects.mirror, "east");
    assert!(entry.starts_with("endpoints:\n- https://east.mesh.cilium.io:2379\n"), "{entry}");
    assert!(
        entry.ends_with("cilium-host-aliases:\n- hostname: east.mesh.cilium.io\n  ips:\n  - 192.0.2.2\n"),
        "{entry}"
    );
}

#[test]
fn a_configuration_of_another_layout_and_the_same_meaning_stays() {
    let mut members = mesh();
    let plan = connect(&members, now());
    written(&mut members, &plan);
    let mirror = members[0].objects.mirror.as_mut().unwrap();
    let helms = "cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt\n\
        endpoints: [\"https://192.0.2.2:2379\"]\n\
        key-file: /var/lib/cilium/clustermesh/common-etcd-client.key\n\
        trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt # chart\n";
    mirror.data.insert("east".to_owned(), helms.into());
    assert_eq!(connect(&members, now()), Plan::default());
    let elsewhere = helms.replace("192.0.2.2", "192.0.2.9");
    members[0].objects.mirror.as_mut().unwrap().data.insert("east".to_owned(), elsewhere.into());
    let plan = connect(&members, now());
    assert_eq!(plan.writes.len(), 1);
    let text = plan.text();
    assert!(text.contains("    - endpoints: [\"https://192.0.2.9:2379\"]\n"), "{text}");
    assert!(text.contains("    + - https://192.0.2.2:2379\n"), "{text}");
}

#[test]
fn no_private_key_is_in_what_is_printed() {
    let members = vec![member("west", 1, &Ca::new("one")), member("east", 2, &Ca::new("two"))];
    let plan = connect(&members, now());
    let keys = members.iter().map(|member| &member.remote.as_ref().unwrap().key);
    let key_lines: Vec<&str> =
        keys.flat_map(|key| key.lines().filter(|line| !line.starts_with("--"))).collect();
    let json = serde_json::to_string(&plan).unwrap();
    for printed in [plan.text(), json.clone(), format!("{plan:?}"), format!("{members:?}")] {
        assert!(!key_lines.iter().any(|line| printed.contains(line)), "{printed}");
        assert!(!printed.contains("PRIVATE"), "{printed}");
    }
    assert!(plan.text().contains("(a private key of "));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = &json[0];
    assert_eq!(
        (&first["cluster"], &first["kind"], &first["action"]),
        (&"west".into(), &"ConfigMap".into(), &"create".into())
    );
    assert_eq!(first["keys"][0]["change"], "add");
}

#[test]
fn the_way_to_a_store_can_be_tried_before_anything_is_written() {
    let members = mesh();
    let trial = trial(&members[0], &members[1], now()).unwrap();
    let names: Vec<_> = trial.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ca.crt", "tls.crt", "tls.key", "east"]);
    assert_eq!(trial.files[1].1, members[0].remote.as_ref().unwrap().certificate);
    let entry = &trial.files[3].1;
    assert!(
        entry.contains("- https://192.0.2.2:2379\n") && entry.contains("cert-file: tls.crt\n"),
        "{entry}"
    );
}

#[test]
fn who_only_looks_is_told_what_is_missing() {
    let mut members = mesh();
    let plan = connect(&members, now());
    let findings = not_connected(&plan);
    assert_eq!(findings.len(), plan.writes.len());
    assert!(
        findings[2].found.contains("add east of Secret kube-system/cilium-kvstoremesh"),
        "{}",
        findings[2].found
    );
    written(&mut members, &plan);
    assert_eq!(not_connected(&connect(&members, now())), []);
}

/// A large mesh takes no longer than its pairs need: each certificate is read once, none verified twice.
#[test]
fn a_mesh_of_100_clusters_is_checked_and_planned() {
    let ca = Ca::new("mesh");
    let like = member("like", 1, &ca);
    let members: Vec<_> = (1..=100_u8)
        .map(|id| {
            let mut member = crate::Member { context: format!("c{id}"), ..like.clone() };
            crate::samples::set(&mut member, "cluster-name", &format!("c{id}"));
            crate::samples::set(&mut member, "cluster-id", &id.to_string());
            crate::samples::set(&mut member, "cluster-pool-ipv4-cidr", &format!("10.{id}.0.0/16"));
            member.remote.as_mut().unwrap().certificate = ca.client("remote", &YEAR).certificate;
            member.nodes = Vec::new();
            member.service_cidrs = Vec::new();
            member
        })
        .collect();
    assert_eq!(checks(&members, &[], now()), []);
    let plan = connect(&members, now());
    assert_eq!(plan.writes.len(), 3 * 100);
    let keys: usize = plan.writes.iter().map(|write| write.keys.len()).sum();
    assert_eq!(keys, 100 * (99 + 99 + 1));
}
