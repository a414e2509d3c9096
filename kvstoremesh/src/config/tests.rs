use proptest::prelude::*;

use super::*;

const WEST: &str = "endpoints:\n- https://west:2379\ntrusted-ca-file: ca.crt\n";

fn directory() -> Directory {
    Directory::new("here".parse().unwrap())
}

fn found(files: &[(&str, &str)]) -> Vec<FoundFile> {
    let file = |(name, content): &(&str, &str)| FoundFile {
        name: (*name).to_owned(),
        content: Some(content.as_bytes().to_vec()),
    };
    files.iter().map(file).collect()
}

fn words(changes: &[Change]) -> Vec<String> {
    let word = |change: &Change| match change {
        Change::Set(name, file) => format!("{name}={}", file.etcd.config.endpoints.join(",")),
        Change::Remove(name) => format!("-{name}"),
    };
    changes.iter().map(word).collect()
}

fn scan(directory: &mut Directory, files: &[(&str, &str)], now: Instant) -> Vec<String> {
    words(&directory.scan(Path::new("/mesh"), found(files), now))
}

#[test]
fn a_file_with_endpoints_is_a_peer_and_its_neighbours_are_not() {
    let mut directory = directory();
    let files = [("common-etcd-client.crt", "-----BEGIN CERTIFICATE-----"), ("west", WEST)];
    assert_eq!(scan(&mut directory, &files, Instant::now()), ["west=https://west:2379"]);
    assert!(directory.rejected().is_empty());
}

#[test]
fn only_changed_content_is_a_change() {
    let (mut directory, now) = (directory(), Instant::now());
    scan(&mut directory, &[("west", WEST)], now);
    assert!(scan(&mut directory, &[("west", WEST)], now).is_empty());
    let moved = WEST.replace("west:2379", "west:2380");
    assert_eq!(scan(&mut directory, &[("west", &moved)], now), ["west=https://west:2380"]);
}

#[test]
fn a_removal_is_believed_after_a_while_and_a_return_cancels_it() {
    let (mut directory, start) = (directory(), Instant::now());
    scan(&mut directory, &[("west", WEST)], start);
    assert!(scan(&mut directory, &[], start).is_empty(), "may be a file that is just being replaced");
    assert_eq!(directory.next_deadline(), Some(start + REMOVAL_CONFIRMED_AFTER));
    assert!(scan(&mut directory, &[("west", WEST)], start + Duration::from_secs(1)).is_empty());
    assert_eq!(directory.next_deadline(), None);

    let gone = start + Duration::from_secs(10);
    assert!(
        scan(&mut directory, &[("west", "# emptied\n")], gone).is_empty(),
        "without the mark it is no peer"
    );
    assert_eq!(scan(&mut directory, &[], gone + REMOVAL_CONFIRMED_AFTER), ["-west"]);
    assert!(scan(&mut directory, &[], gone + REMOVAL_CONFIRMED_AFTER).is_empty(), "removed once");
}

#[test]
fn what_cannot_be_used_has_a_reason_and_disturbs_nothing_else() {
    let too_long = "a".repeat(33);
    let cases = [
        ("name with wrong characters", "West", WEST, Reason::ClusterNameInvalid),
        ("name too long", too_long.as_str(), WEST, Reason::ClusterNameInvalid),
        ("name that ends in a dash", "west-", WEST, Reason::ClusterNameInvalid),
        ("the local cluster", "here", WEST, Reason::ClusterIsLocal),
        ("not YAML", "east", "endpoints: [", Reason::PeerConfigInvalid),
        ("no endpoint", "east", "endpoints: []\n", Reason::PeerConfigInvalid),
        ("no CA", "east", "endpoints: ['https://east:2379']\n", Reason::PeerConfigInvalid),
    ];
    for (case, name, content, reason) in cases {
        let mut directory = directory();
        let changes = scan(&mut directory, &[(name, content), ("west", WEST)], Instant::now());
        assert_eq!(changes, ["west=https://west:2379"], "{case}");
        let rejected = directory.rejected();
        assert_eq!(rejected.len(), 1, "{case}");
        assert_eq!((rejected[0].file.as_str(), rejected[0].rejection.reason), (name, reason), "{case}");
    }
}

#[test]
fn a_file_that_goes_bad_keeps_its_last_good_content_in_effect() {
    let (mut directory, start) = (directory(), Instant::now());
    scan(&mut directory, &[("west", WEST)], start);
    assert!(scan(&mut directory, &[("west", "endpoints: 7")], start).is_empty());
    assert!(scan(&mut directory, &[("west", "endpoints: 7")], start + Duration::from_secs(60)).is_empty());
    assert_eq!(directory.rejected().len(), 1);
    assert!(scan(&mut directory, &[("west", WEST)], start + Duration::from_secs(61)).is_empty(), "as before");
    assert!(directory.rejected().is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_not_gone() {
    let (mut directory, start) = (directory(), Instant::now());
    scan(&mut directory, &[("west", WEST)], start);
    let unreadable = |name: &str| FoundFile { name: name.to_owned(), content: None };
    let later = start + Duration::from_secs(60);
    for now in [later, later + REMOVAL_CONFIRMED_AFTER] {
        let files = vec![unreadable("common-etcd-client.key"), unreadable("west")];
        assert!(directory.scan(Path::new("/mesh"), files, now).is_empty());
    }
    let rejected = directory.rejected();
    assert_eq!(rejected.len(), 1, "a key that only root may read is no peer: {rejected:?}");
    assert_eq!(
        (rejected[0].file.as_str(), rejected[0].rejection.reason),
        ("west", Reason::PeerConfigInvalid)
    );
}

proptest! {
    /// Whatever the files do, changes applied in order give the set of usable files once removals are confirmed.
    #[test]
    fn changes_converge_to_the_files(scans in prop::collection::vec(prop::collection::btree_map("[a-c]", 0..3_u16, 0..4), 1..12)) {
        let (mut directory, mut now) = (directory(), Instant::now());
        let mut peers = BTreeMap::new();
        let mut apply = |changes: Vec<Change>| {
            for change in changes {
                match change {
                    Change::Set(name, file) => drop(peers.insert(name.to_string(), file.etcd.config.endpoints.clone())),
                    Change::Remove(name) => assert!(peers.remove(name.as_str()).is_some(), "removed what was not there"),
                }
            }
            peers.clone()
        };
        let mut last = Vec::new();
        for scan in scans {
            last = scan
                .iter()
                .map(|(name, port)| FoundFile {
                    name: name.clone(),
                    content: Some(format!("endpoints: ['http://h:{}']\n", port + 1).into_bytes()),
                })
                .collect();
            now += Duration::from_secs(1);
            apply(directory.scan(Path::new(""), last.clone(), now));
        }
        let after = now + REMOVAL_CONFIRMED_AFTER;
        apply(directory.scan(Path::new(""), last.clone(), after));
        let peers = apply(directory.scan(Path::new(""), last.clone(), after + REMOVAL_CONFIRMED_AFTER));
        let names: Vec<String> = last.into_iter().map(|file| file.name).collect();
        prop_assert_eq!(peers.into_keys().collect::<Vec<_>>(), names);
    }
}
