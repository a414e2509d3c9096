//! A durable store over crashes, full disks and half-made images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use kvstore::{
    Client, DurableError, Error, KeyRange, LeaseId, Revision, Store, StoreConfig, Write, auth::Auth, restore,
};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Where the child of the crash test keeps its store.
const CHILD: &str = "ISTHMUS_TEST_STORE_OF_THE_CHILD";

fn open(dir: &Path) -> Result<std::sync::Arc<Store>, DurableError> {
    Store::durable(StoreConfig::default(), dir)
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease: LeaseId(0) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn keys(store: &std::sync::Arc<Store>) -> BTreeMap<String, String> {
    let page = store.client().list(&KeyRange::all(), 0, None).await.unwrap();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    page.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal.")).collect();
    found.sort();
    found
}

/// What the crash test starts: writers at once, each of which says what the store has acknowledged. It ends by being
/// killed. As an ordinary test it has nothing to do.
#[test]
fn the_child_of_the_crash_test() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&dir)).unwrap();
    let write = |writer: u32| {
        let client = store.client();
        async move {
            for n in 0.. {
                let key = format!("w{writer}");
                let revision = client.write(vec![put(&key, &n.to_string())]).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {key} {n} {}", revision.0).unwrap();
                out.flush().unwrap();
            }
        }
    };
    runtime().block_on(futures::future::join_all((0..8).map(write)));
}

#[test]
fn what_was_acknowledged_outlives_kill_9_at_any_moment() {
    let dir = TempDir::new().unwrap();
    let mut ids = None;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_child_of_the_crash_test", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
        let mut newest = 0;
        let mut seen = 0;
        let least = 20 + round * 37;
        for line in lines {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let ["acknowledged", key, n, revision] = words[..] else { continue };
            acknowledged.insert(key.to_owned(), n.parse().unwrap());
            newest = newest.max(revision.parse().unwrap());
            seen += 1;
            // A different moment each time; what it still says meanwhile counts too.
            if seen == least {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= least, "round {round}: the child ended by itself after {seen} writes");
        let store = open(dir.path()).unwrap();
        let found = runtime().block_on(keys(&store));
        for (key, n) in &acknowledged {
            let kept: u64 = found[key].parse().unwrap();
            assert!(kept >= *n, "round {round}: {key} was acknowledged as {n} and is {kept}");
        }
        assert!(store.revision() >= newest, "round {round}: revisions go on");
        let config = (store.config().cluster_id, store.config().member_id);
        assert_eq!(*ids.get_or_insert(config), config, "it is the same store");
    }
}

#[test]
fn a_torn_end_is_cut_and_damage_in_the_middle_is_named() {
    let dir = TempDir::new().unwrap();
    let run = runtime();
    for n in 0..5 {
        let store = open(dir.path()).unwrap();
        run.block_on(store.client().write(vec![put("k", &n.to_string())])).unwrap();
    }
    let [journal] = &journals(dir.path())[..] else { panic!("one journal") };
    let whole = fs::read(journal).unwrap();
    let sizes: Vec<usize> = {
        let mut at = 0;
        let frame = |at: usize| 20 + u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
        std::iter::from_fn(|| {
            (at < whole.len()).then(|| {
                at += frame(at);
                at
            })
        })
        .collect()
    };
    // The last one is only the mark that the journal was closed.
    let [.., before, end, closed] = sizes[..] else { panic!("several frames") };
    assert_eq!(closed, whole.len());
    for cut in before..end {
        fs::write(journal, &whole[..cut]).unwrap();
        let store = open(dir.path()).unwrap();
        assert_eq!(run.block_on(keys(&store))["k"], "3", "cut at {cut}");
        drop(store);
        assert_eq!(fs::metadata(journal).unwrap().len(), before as u64, "the torn part is gone");
    }
    // Without the mark what was not written to its end cannot be told from what was damaged; with it, it can.
    fs::write(journal, &whole).unwrap();
    assert_eq!(run.block_on(keys(&open(dir.path()).unwrap()))["k"], "4");
    let mut damaged = whole.clone();
    damaged[before + 30] ^= 1;
    fs::write(journal, &damaged).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(&refused, DurableError::Damaged { offset, .. } if *offset == before), "{refused}");
    // The first put, and the mark after it.
    let first = sizes[1];
    let mut damaged = whole.clone();
    damaged[first + 30] ^= 1;
    fs::write(journal, &damaged).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(&refused, DurableError::Damaged { offset, .. } if *offset == first), "{refused}");
    assert!(refused.to_string().ends_with(&format!("is damaged at byte {first}")), "{refused}");
    assert_eq!(fs::read(journal).unwrap(), damaged, "nothing was changed");
}

#[test]
fn a_torn_end_is_cut_where_the_next_journal_could_not_be_begun() {
    let dir = TempDir::new().unwrap();
    let run = runtime();
    let store = open(dir.path()).unwrap();
    run.block_on(store.client().write(vec![put("k", "1")])).unwrap();
    drop(store);
    let [journal] = &journals(dir.path())[..] else { panic!("one journal") };
    let whole = fs::read(journal).unwrap();
    let torn = [&whole[..], &[1, 2, 3]].concat();
    let next = dir.path().join("journal.00000000000000000001");
    fs::write(journal, &torn).unwrap();
    fs::write(&next, "").unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(fs::read(journal).unwrap(), whole);
    run.block_on(store.client().write(vec![put("k", "2")])).unwrap();
    drop(store);
    assert_eq!(run.block_on(keys(&open(dir.path()).unwrap()))["k"], "2");
    // Once something came after it, it is damage.
    fs::write(journal, &torn).unwrap();
    assert!(
        matches!(open(dir.path()).unwrap_err(), DurableError::Damaged { offset, .. } if offset == whole.len())
    );
}

/// Each state that a crash may leave while a journal is folded into an image.
#[test]
fn a_crash_between_the_steps_of_a_new_image_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let run = runtime();
    let store = open(dir.path()).unwrap();
    run.block_on(store.client().write(vec![put("a", "1"), put("b", "1")])).unwrap();
    run.block_on(store.client().write(vec![put("a", "2")])).unwrap();
    let image = store.image();
    let expected = run.block_on(keys(&store));
    drop(store);
    let [old] = &journals(dir.path())[..] else { panic!("one journal") };
    let check = |step: &str, keys_now: &BTreeMap<String, String>| {
        let store = open(dir.path()).unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(run.block_on(keys(&store)), *keys_now, "{step}");
        assert_eq!(store.revision(), image.revision, "{step}");
    };
    let next = dir.path().join(format!("journal.{:020}", image.sequence));
    fs::write(&next, b"").unwrap();
    check("the new journal is there", &expected);
    fs::write(dir.path().join("image.new"), b"isthmus-store-1\nhalf").unwrap();
    check("half of the image is written", &expected);
    let aside = TempDir::new().unwrap();
    restore(aside.path(), &image).unwrap();
    // An image that says what it contains, as the fold writes it.
    let mut bytes = Vec::new();
    image.encode(1 << 20, |piece| bytes.extend_from_slice(&piece));
    fs::write(dir.path().join("image.new"), &bytes).unwrap();
    check("the image is written aside", &expected);
    fs::rename(dir.path().join("image.new"), dir.path().join("image")).unwrap();
    check("the image is in place", &expected);
    fs::remove_file(old).unwrap();
    check("the old journal is gone", &expected);
    // What must not be: the old journal gone without the image.
    fs::remove_file(dir.path().join("image")).unwrap();
    let store = open(dir.path()).unwrap();
    run.block_on(store.client().write(vec![put("c", "1")])).unwrap();
    drop(store);
    fs::write(dir.path().join("id"), "no ids").unwrap();
    assert!(matches!(open(dir.path()).unwrap_err(), DurableError::Damaged { offset: 0, .. }));
}

#[test]
fn a_long_journal_is_folded_while_writes_go_on() {
    let dir = TempDir::new().unwrap();
    let run = runtime();
    let store = open(dir.path()).unwrap();
    let value = "v".repeat(1 << 20);
    let stop = CancellationToken::new();
    let written = run.block_on(async {
        let (keeping, until) = (std::sync::Arc::clone(&store), stop.clone());
        let work = async {
            let client = store.client();
            let mut n = 0;
            while !dir.path().join("image").exists() {
                client.write(vec![put(&format!("k{}", n % 10), &format!("{n} {value}"))]).await.unwrap();
                n += 1;
                assert!(n < 1000, "it is folded at some size");
            }
            for _ in 0..20 {
                client.write(vec![put("last", &n.to_string())]).await.unwrap();
                n += 1;
            }
            stop.cancel();
            n
        };
        let (_, written) = tokio::join!(keeping.housekeep(&until), work);
        written
    });
    let expected = run.block_on(keys(&store));
    let revision = store.revision();
    drop(store);
    assert_eq!(revision, written + 1);
    let size: u64 = journals(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(size < 60 << 20, "{size} bytes of journals are left");
    let store = open(dir.path()).unwrap();
    assert_eq!((run.block_on(keys(&store)), store.revision()), (expected, revision));
}

#[test]
fn a_directory_that_a_store_uses_is_left_alone_by_everyone_else() {
    let dir = TempDir::new().unwrap();
    let run = runtime();
    let store = open(dir.path()).unwrap();
    run.block_on(store.client().write(vec![put("k", "1")])).unwrap();
    let [journal] = &journals(dir.path())[..] else { panic!("one journal") };
    // Half of an entry, as the second process would see what the first is writing.
    let mut half = fs::read(journal).unwrap();
    half.extend_from_slice(&[1, 2, 3]);
    fs::write(journal, &half).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(&refused, DurableError::InUse { path } if path == dir.path()), "{refused}");
    assert!(refused.to_string().contains("is in use by another store: stop that one first"), "{refused}");
    let refused = Store::keeping_users(StoreConfig::default(), dir.path()).unwrap_err();
    assert!(matches!(refused, DurableError::InUse { .. }), "{refused}");
    let busy = [
        kvstore::keep_users(dir.path(), &Auth::of_cluster("here")).unwrap_err(),
        restore(dir.path(), &store.image()).unwrap_err(),
        kvstore::empty_data_dir(dir.path()).unwrap_err(),
    ];
    for refused in busy {
        assert_eq!(refused.kind(), std::io::ErrorKind::ResourceBusy, "{refused}");
        assert!(refused.to_string().contains(dir.path().to_str().unwrap()), "{refused}");
    }
    assert_eq!(fs::read(journal).unwrap(), half, "nothing was cut");
    drop(store);
    fs::write(journal, &half).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(run.block_on(keys(&store))["k"], "1");
    drop(store);
    // One that keeps only users there counts as well, and what was locked can be emptied when it is gone.
    let users = TempDir::new().unwrap();
    let store = Store::keeping_users(StoreConfig::default(), users.path()).unwrap();
    assert!(matches!(open(users.path()).unwrap_err(), DurableError::InUse { .. }));
    drop(store);
    assert_eq!(kvstore::empty_data_dir(users.path()).unwrap(), Vec::<PathBuf>::new());
    drop(open(users.path()).unwrap());
}

/// Runs `test` with a file system of `megabytes` mounted at a directory that nobody else sees.
fn on_a_small_disk(megabytes: u32, test: impl FnOnce(&Path) + Send) {
    let run = || {
        let dir = TempDir::new().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).expect("mounting needs an administrator: run `make test`");
        let mount = |args: &[&str]| {
            let mounted = Command::new("mount").args(args).arg(dir.path()).status().unwrap();
            assert!(mounted.success(), "mount {args:?}");
        };
        let private = Command::new("mount").args(["--make-rprivate", "/"]).status().unwrap();
        assert!(private.success(), "the mount stays here");
        mount(&["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]);
        test(dir.path());
        let gone = Command::new("umount").arg("-l").arg(dir.path()).status().unwrap();
        assert!(gone.success());
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_recovers() {
    on_a_small_disk(64, |disk| {
        let ballast = disk.join("ballast");
        let fill = |megabytes: usize| fs::write(&ballast, vec![1; megabytes << 20]);
        fill(30).unwrap();
        let dir = disk.join("store");
        // Threads of this runtime would be made outside of the mount, so it has none.
        let run = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        run.block_on(async {
            let store = open(&dir).unwrap();
            let client = store.client();
            let value = "v".repeat(1 << 20);
            let mut taken = 0;
            let refused = loop {
                match client.write(vec![put(&format!("k{taken:03}"), &value)]).await {
                    Ok(_) => taken += 1,
                    Err(error) => break error,
                }
                assert!(taken < 64, "there is no room for more");
            };
            assert!(matches!(refused, Error::NoSpace), "{refused}");
            assert!(taken > 5, "{taken}");
            assert!(matches!(client.grant(Duration::from_secs(60)).await, Err(Error::NoSpace)));
            assert!(store.change_auth(|auth| auth.add_user("u", None)).is_err());
            assert_eq!(client.get(b"k000").await.unwrap().unwrap().value.len(), 1 << 20);
            assert_eq!(keys(&store).await.len(), taken);
            let revision = store.revision();
            let refused = client.write(vec![put("more", "1")]).await;
            assert!(matches!(refused, Err(Error::NoSpace)));
            assert_eq!(store.revision(), revision, "nothing happened");

            fs::remove_file(&ballast).unwrap();
            let written = tokio::time::timeout(Duration::from_secs(60), async {
                while client.write(vec![put("more", "1")]).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            written.await.expect("writes are taken again");
            store.change_auth(|auth| auth.add_user("u", None)).unwrap();
            let expected = keys(&store).await;
            let revision = store.revision();
            drop((store, client));
            let store = open(&dir).unwrap();
            assert_eq!((keys(&store).await, store.revision()), (expected, revision));
            assert!(store.auth().user("u").is_ok());
        });
    });
}

#[test]
fn a_disk_that_is_full_from_the_start_takes_nothing_and_says_so() {
    on_a_small_disk(8, |disk| {
        let dir = disk.join("store");
        let run = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        run.block_on(async {
            let store = open(&dir).unwrap();
            let refused = store.client().write(vec![put("k", "1")]).await;
            assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
            assert_eq!(store.client().get(b"k").await.unwrap(), None);
        });
        fs::write(disk.join("ballast"), vec![1; 16 << 20]).unwrap_err();
        let refused = open(&disk.join("other")).unwrap_err();
        assert!(matches!(refused, DurableError::Io { .. }), "{refused}");
    });
}

#[tokio::test]
async fn users_stay_where_keys_do_not() {
    let dir = TempDir::new().unwrap();
    let store = Store::keeping_users(StoreConfig::default(), dir.path()).unwrap();
    store
        .change_auth(|auth| {
            *auth = Auth::of_cluster("here");
            Ok(())
        })
        .unwrap();
    store.change_auth(|auth| auth.add_user("remote-there", None)).unwrap();
    store.client().write(vec![put("k", "1")]).await.unwrap();
    let refused = store.change_auth(|auth| auth.add_user("remote-there", None)).unwrap_err();
    assert_eq!(refused, kvstore::auth::AuthError::UserExists);
    drop(store);
    assert!(!kvstore::holds_keys(dir.path()).unwrap());
    let store = Store::keeping_users(StoreConfig::default(), dir.path()).unwrap();
    assert!(store.auth().enabled() && store.auth().user("remote-there").is_ok());
    assert_eq!(store.client().get(b"k").await.unwrap(), None);
    assert_eq!(store.client().status().await.unwrap().revision, Revision(1));
    // A store that cannot write them does not change them.
    fs::remove_dir_all(dir.path()).unwrap();
    fs::write(dir.path(), "").unwrap();
    let refused = store.change_auth(|auth| auth.delete_user("remote-there")).unwrap_err();
    assert_eq!(refused, kvstore::auth::AuthError::NotKept);
    assert!(store.auth().user("remote-there").is_ok());
    fs::remove_file(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    // Keys are not hidden by a store in memory.
    drop(open(dir.path()).unwrap());
    assert!(kvstore::holds_keys(dir.path()).unwrap());
    let refused = Store::keeping_users(StoreConfig::default(), dir.path()).unwrap_err();
    assert!(refused.to_string().contains("start it with --durable"), "{refused}");
}
