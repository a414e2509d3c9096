//! etcd's own command line tool: the same commands to our server and to a real etcd must print the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use battery::{
    DEADLINE,
    bed::{self, Pki, tool},
};

/// Commands in their order; `%` stands for a scratch directory. What they read from standard input comes after `<<`.
const COMMANDS: &[&str] = &[
    "put a 1",
    "put b 2 --prev-kv",
    "put b 3 --prev-kv",
    "get a",
    "get a -w fields",
    "get --prefix ''",
    "get a c --keys-only",
    "get --from-key b",
    "get b --rev 3",
    "get --prefix '' --limit 1 --count-only -w fields",
    "get --prefix '' --order DESCEND --sort-by KEY",
    "get --prefix '' --sort-by VALUE --order ASCEND",
    "get --prefix '' --print-value-only",
    "get a --hex",
    "get --prefix '' --consistency s",
    "get --prefix '' --max-create-rev 2 --sort-by CREATE",
    "get nothing",
    "get b --rev 99",
    "put '' x",
    "del a",
    "del nothing",
    "del --prefix b --prev-kv",
    "txn << mod(\"a\") = \"0\"\n\nput t 1\nget t\n\nput t 2\n\n",
    "txn << value(\"t\") = \"x\"\n\nput t 1\n\nget t\ndel t\n\n",
    "txn << version(\"t\") > \"0\"\n\nput t 1\nput t 2\n\n\n",
    "txn -i << create(\"t\") > \"0\"\n\nget t\nput t 3\n\n\n",
    "txn << lease(\"t\") = 0\n\nput t 4 --prev-kv\n\n\n",
    "txn << nothing(\"t\") = \"0\"\n\nput t 5\n\n\n",
    "txn -i << nonsense\n\n\n\n",
    "put t --ignore-value",
    "put t x --ignore-lease",
    "get --prefix '' --sort-by MODIFY --order DESCEND --limit 2",
    "get --prefix '' --min-mod-rev 4 --keys-only",
    "del --from-key zz",
    "lease grant 100 --lease-id 1f",
    "put l 1 --lease=1f",
    "lease grant 0 --lease-id 21",
    "lease grant 100",
    "lease list",
    "lease timetolive 99 --keys",
    "lease keep-alive --once 1f",
    "lease revoke 1f",
    "lease revoke 1f",
    "lease keep-alive --once 1f",
    "get l",
    "put l 1 --lease=1f",
    "lease timetolive 1f --keys",
    "lease grant 100 --lease-id 20",
    "put l 1 --lease=20",
    "lease timetolive 20 --keys -w fields",
    "lease grant 100 --lease-id 20",
    "compaction 4",
    "compaction 4",
    "compaction 5 --physical",
    "compaction 99",
    "get t --rev 3",
    "watch a --rev 3",
    "member list -w fields",
    "endpoint health",
    "endpoint status -w fields",
    "endpoint hashkv -w fields",
    "endpoint hashkv --rev 99 -w fields",
    "member remove 1234",
    "member promote 1234",
    "member update 1234 --peer-urls=http://127.0.0.1:1",
    "downgrade cancel",
    "alarm list",
    "alarm disarm",
    "defrag",
    "lock l echo held",
    "lock l false",
    "snapshot save %/snapshot",
    "move-leader 1234",
    "role add r",
    "role add r",
    "role grant-permission r readwrite x/ --prefix",
    "role grant-permission r read k",
    "role grant-permission nobody read k",
    "role get r",
    "role list",
    "role revoke-permission r k",
    "role get r",
    "user add u --no-password",
    "user add root --no-password",
    "user grant-role u r",
    "user grant-role u nothing",
    "user get u",
    "user list",
    "auth enable",
    "user grant-role root root",
    "auth enable",
    "auth status",
    "user delete root",
    "user revoke-role u r",
    "user revoke-role u r",
    "user delete u",
    "role delete r",
    "put a 1",
    "role add pub",
    "role grant-permission pub readwrite pub/ --prefix",
    "user add alice --new-user-password secret",
    "user add alice --new-user-password secret",
    "user grant-role alice pub",
    "user get alice --detail",
    "--user alice:secret put pub/x 1",
    "--user alice:secret get pub/x",
    "--user alice:secret get private",
    "--user alice:secret put private 1",
    "--user alice:secret get --prefix pub",
    "--user alice:secret watch private --rev 6",
    "--user alice:secret user list",
    "--user alice:secret user get alice",
    "--user alice:secret role get pub",
    "--user alice:secret auth disable",
    "--user alice:secret compaction 7",
    "--user alice:wrong get pub/x",
    "--user nobody:secret get pub/x",
    "user passwd alice --interactive=false << changed\n",
    "--user alice:secret get pub/x",
    "--user alice:changed get pub/x",
    "user revoke-role alice pub",
    "--user alice:changed get pub/x",
    "user delete alice",
    "auth disable",
    "auth disable",
    "auth status",
];

/// Programs that go on until they are ended: what starts them, and what happens then, each with the lines that are
/// printed of it. These are waited for before the next thing happens, so that there is one order of them.
const GOING_ON: &[(&str, &[(&str, usize)])] = &[
    ("watch w/ --prefix --rev 6", &[("put w/a 1", 3), ("put w/b 2", 3), ("del w/a", 3)]),
    ("watch w/ --prefix --rev 6 --prev-kv", &[("put w/b 3", 16)]),
    ("watch v --rev 6 -w fields", &[("put v 1", 1)]),
    ("watch w/ w0 --rev 6", &[("put w0 not-in-it", 12), ("put w/c 1", 3)]),
    ("watch -i << watch i --rev 6\nwatch j --rev 6\n", &[("put i 1", 3), ("put j 1", 3), ("put i 2", 3)]),
    ("watch x --rev 6 -- echo changed", &[("put x 1", 4)]),
    ("lease keep-alive 20", &[("", 1)]),
    ("elect e me", &[("", 2)]),
    ("elect --listen e", &[("", 2)]),
    ("lock m", &[("", 1)]),
];

/// A server, seen through etcdctl.
struct Seen<'a> {
    pki: &'a Pki,
    endpoint: String,
    scratch: PathBuf,
}

impl<'a> Seen<'a> {
    fn new(pki: &'a Pki, endpoint: String, scratch: &Path, name: &str) -> Self {
        let scratch = scratch.join(name);
        std::fs::create_dir(&scratch).unwrap();
        Self { pki, endpoint, scratch }
    }

    fn start(&self, line: &str) -> Child {
        let (command, input) = line.split_once(" << ").unwrap_or((line, ""));
        let command = command.replace('%', self.scratch.to_str().unwrap());
        let words = command.split(' ').map(|word| word.trim_matches('\''));
        let mut child = Command::new(tool("etcdctl"))
            .args(["--endpoints", &self.endpoint, "--command-timeout=60s", "--dial-timeout=60s"])
            .arg("--cacert")
            .arg(self.pki.path("ca.crt"))
            .arg("--cert")
            .arg(self.pki.path("client.crt"))
            .arg("--key")
            .arg(self.pki.path("client.key"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Interactive ones go on reading, so theirs stays open.
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        child
    }

    /// Runs a command; its exit code and what it printed, without what differs from store to store.
    fn run(&self, line: &str) -> String {
        let mut child = self.start(line);
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{:?}\n{}", output.status.code(), self.evened(&text))
    }

    /// Starts a command that goes on, does what is to happen meanwhile, and ends it after all of its lines.
    fn watch(&self, line: &str, meanwhile: &[(&str, usize)]) -> String {
        let mut child = self.start(line);
        let output = child.stdout.take().unwrap();
        let (send, printed) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                // Nobody wants the rest.
                let _enough = send.send(line.unwrap());
            }
        });
        let mut text = String::new();
        for (command, lines) in meanwhile {
            if !command.is_empty() {
                self.run(command);
            }
            for nth in 0..*lines {
                match printed.recv_timeout(DEADLINE) {
                    Ok(line) => text.push_str(&format!("{line}\n")),
                    Err(_none) => {
                        text.push_str(&format!("(no line {nth})\n"));
                        break;
                    }
                }
            }
        }
        child.kill().unwrap();
        let _status = child.wait().unwrap();
        reader.join().unwrap();
        self.evened(&text)
    }

    fn evened(&self, text: &str) -> String {
        let lines = text.lines().filter_map(|line| even(line, &self.endpoint, &self.scratch));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The same for both at once; what was printed if it differs.
fn compare(
    title: &str,
    ours: &Seen<'_>,
    theirs: &Seen<'_>,
    act: impl Fn(&Seen<'_>) -> String + Sync,
) -> Option<String> {
    let (found, expected) = std::thread::scope(|scope| {
        let expected = scope.spawn(|| act(theirs));
        (act(ours), expected.join().unwrap())
    });
    (found != expected).then(|| format!("etcdctl {title}\n ours: {found}\n etcd: {expected}"))
}

/// A line without ids, addresses, times and sizes; `None` for one that is only about them.
fn even(line: &str, endpoint: &str, scratch: &Path) -> Option<String> {
    // Log lines of the client.
    if line.starts_with('{') || line.starts_with("Snapshot saved") {
        return None;
    }
    let line = line.replace(endpoint, "ENDPOINT").replace(scratch.to_str().unwrap(), "DIR");
    let different = [
        "ClusterID",
        "MemberID",
        "\"ID\"",
        "DBSize",
        "DBSizeInUse",
        "RaftIndex",
        "RaftAppliedIndex",
        "Leader",
        "PeerURL",
        "ClientURL",
        "StorageVersion",
        "\"Version\"",
        "Name",
        "AuthRevision",
        // How much is left of it depends on how long the commands before took.
        "\"TTL\"",
        "\"Hash\"",
    ];
    if let Some((name, _)) = line.split_once(" : ")
        && different.iter().any(|different| name.contains(different))
    {
        return Some(name.to_owned());
    }
    let line = line.split("took =").next().unwrap_or_default();
    let line = line.split("took ").next().unwrap_or_default().trim_end();
    let words = line.split(' ').map(|word| {
        if word.starts_with("memberID:") {
            return "memberID:ID".to_owned();
        }
        // A key of a lock or an election ends with a lease.
        match word.rsplit_once('/') {
            Some((name, id)) if is_id(id) => format!("{name}/ID"),
            Some(_) | None => if is_id(word) { "ID" } else { word }.to_owned(),
        }
    });
    Some(words.collect::<Vec<_>>().join(" "))
}

fn is_id(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.len() > 12 && word.chars().all(|c| c.is_ascii_hexdigit())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_commands_print_what_they_print_of_etcd() {
    let (ours, theirs) = (bed::ours().await, bed::etcd().await);
    let work = move || {
        let scratch = tempfile::TempDir::new().unwrap();
        let here = Seen::new(&ours.pki, ours.endpoint(), scratch.path(), "ours");
        let there = Seen::new(&theirs.pki, theirs.endpoint(), scratch.path(), "theirs");
        let at = COMMANDS.iter().position(|command| command.starts_with("lock ")).unwrap();
        let (before, after) = COMMANDS.split_at(at);
        let mut different: Vec<String> = Vec::new();
        let one = |command: &&str| compare(command, &here, &there, |seen| seen.run(command));
        different.extend(before.iter().filter_map(one));
        // While nobody needs to be anybody yet.
        for (line, meanwhile) in GOING_ON {
            different.extend(compare(line, &here, &there, |seen| {
                let printed = seen.watch(line, meanwhile);
                assert!(!printed.contains("(no line"), "{} {line}: {printed}", seen.endpoint);
                printed
            }));
        }
        different.extend(after.iter().filter_map(one));
        assert!(different.is_empty(), "{}", different.join("\n"));
        what_was_saved_can_be_restored(&here.scratch.join("snapshot"), scratch.path());
        drop((ours, theirs));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

fn what_was_saved_can_be_restored(snapshot: &Path, scratch: &Path) {
    let image = kvstore::Image::decode(&std::fs::read(snapshot).unwrap()).unwrap();
    assert!(!image.records.is_empty());
    let dir = scratch.join("restored");
    kvstore::restore(&dir, &image).unwrap();
    let store = kvstore::Store::durable(kvstore::StoreConfig::default(), &dir).unwrap();
    assert_eq!(store.image().records, image.records);
    assert_eq!(store.revision(), image.revision);
    assert!(kvstore::restore(&dir, &image).is_err(), "there is a store now");
}

/// What a full store says, until it is compacted and the alarm is ended.
const WHEN_FULL: &[&str] = &[
    "put more 1",
    "txn << \n\nput more 1\n\n\n",
    "lease grant 100 --lease-id 5",
    "get small",
    "txn << \n\nget small\n\n\n",
    "alarm list",
    "endpoint health",
    "del big0",
    "compaction 3",
    "defrag",
    "put more 1",
    "alarm disarm",
    "alarm list",
    "put more 1",
    "endpoint health",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_what_a_full_etcd_says() {
    const QUOTA: u64 = 4 << 20;
    let ours = bed::ours_with(|config| config.limits.quota_bytes = QUOTA).await;
    let theirs = bed::etcd_with(&["--quota-backend-bytes", &QUOTA.to_string()]).await;
    let work = move || {
        let scratch = tempfile::TempDir::new().unwrap();
        let here = Seen::new(&ours.pki, ours.endpoint(), scratch.path(), "ours");
        let there = Seen::new(&theirs.pki, theirs.endpoint(), scratch.path(), "theirs");
        let value = "v".repeat(100 * 1024);
        for seen in [&here, &there] {
            assert_eq!(seen.run("put small 1"), "Some(0)\nOK");
            // How full is full depends on how the bytes are kept.
            let full = (0..100).find(|n| {
                let put = seen.run(&format!("put big{n} << {value}"));
                assert!(*n > 0 || put.starts_with("Some(0)"), "{put}");
                put.contains("etcdserver: mvcc: database space exceeded")
            });
            assert!(full.is_some(), "{} takes everything", seen.endpoint);
        }
        let different = WHEN_FULL.iter().filter_map(|command| {
            let deletion = command.starts_with("compaction");
            compare(command, &here, &there, |seen| match deletion {
                // Of all that it holds.
                true => {
                    seen.run("del --prefix big");
                    let revision = revision(seen);
                    seen.run(&format!("compaction {revision} --physical")).replace(&revision, "REVISION")
                }
                false => seen.run(command),
            })
        });
        let different: Vec<String> = different.collect();
        assert!(different.is_empty(), "{}", different.join("\n"));
        drop((ours, theirs));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

fn revision(seen: &Seen<'_>) -> String {
    let fields = seen.run("get small -w fields");
    let line = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
    line.unwrap_or_else(|| panic!("no revision in {fields}")).to_owned()
}

/// Takes a minute, as it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_perf_passes_where_etcd_passes() {
    let (ours, theirs) = (bed::ours().await, bed::etcd().await);
    let work = move || {
        let scratch = tempfile::TempDir::new().unwrap();
        let here = Seen::new(&ours.pki, ours.endpoint(), scratch.path(), "ours");
        let there = Seen::new(&theirs.pki, theirs.endpoint(), scratch.path(), "theirs");
        let line = "check perf --load s --auto-compact --auto-defrag";
        let run = || {
            std::thread::scope(|scope| {
                let expected = scope.spawn(|| there.run(line));
                (here.run(line), expected.join().unwrap())
            })
        };
        // What is told, without the numbers and the bar that moves.
        let verdicts = |text: &str| -> Vec<(String, String)> {
            let lines = text.lines().map(|line| line.rsplit('\r').next().unwrap_or(line));
            let told = lines.filter(|line| line.starts_with("PASS") || line.starts_with("FAIL"));
            let told = told.map(|line| line.split_once(": ").unwrap_or((line, "")));
            told.map(|(verdict, of)| {
                let words = of.split(' ').filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
                (verdict.to_owned(), words.take(2).collect::<Vec<_>>().join(" "))
            })
            .collect()
        };
        // One slow request of thousands is for the machine to answer for, which does other things meanwhile; the last
        // line is the sum of all.
        let as_good = |(found, expected): &(String, String)| {
            let (found, expected) = (verdicts(found), verdicts(expected));
            let passes = |of: &str| {
                let pass = ("PASS".to_owned(), of.to_owned());
                found.contains(&pass) || !expected.contains(&pass)
            };
            found.len() >= 3 && expected.len() >= 3 && ["Throughput is", "Stddev is"].into_iter().all(passes)
        };
        // So is a minute in which it left only one of the two alone.
        let mut outcome = run();
        for _ in 0..2 {
            if !as_good(&outcome) {
                outcome = run();
            }
        }
        assert!(as_good(&outcome), "ours: {} etcd: {}", outcome.0, outcome.1);
        drop((ours, theirs));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
