//! etcd's own command line tool: the same commands to our server and to a real etcd must print the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use battery::bed::{self, Pki, tool};

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
    "get nothing",
    "get b --rev 99",
    "put '' x",
    "del a",
    "del nothing",
    "del --prefix b --prev-kv",
    "txn << mod(\"a\") = \"0\"\n\nput t 1\nget t\n\nput t 2\n\n",
    "txn << value(\"t\") = \"x\"\n\nput t 1\n\nget t\ndel t\n\n",
    "txn << version(\"t\") > \"0\"\n\nput t 1\nput t 2\n\n\n",
    "lease grant 100 --lease-id 1f",
    "put l 1 --lease=1f",
    "lease list",
    "lease keep-alive --once 1f",
    "lease revoke 1f",
    "lease revoke 1f",
    "lease keep-alive --once 1f",
    "get l",
    "put l 1 --lease=1f",
    "compaction 4",
    "compaction 4",
    "compaction 99",
    "get t --rev 3",
    "watch a --rev 3",
    "member list -w fields",
    "endpoint health",
    "endpoint status -w fields",
    "alarm list",
    "alarm disarm",
    "defrag",
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
    "auth disable",
    "auth status",
    "lock --help",
];

/// Runs a command; its exit code and what it printed, without what differs from store to store.
fn run(pki: &Pki, endpoint: &str, scratch: &Path, line: &str) -> String {
    let (command, input) = line.split_once(" << ").unwrap_or((line, ""));
    let command = command.replace('%', scratch.to_str().unwrap());
    let words = command.split(' ').map(|word| word.trim_matches('\''));
    let mut child = Command::new(tool("etcdctl"))
        .args(["--endpoints", endpoint, "--command-timeout=10s"])
        .arg("--cacert")
        .arg(pki.path("ca.crt"))
        .arg("--cert")
        .arg(pki.path("client.crt"))
        .arg("--key")
        .arg(pki.path("client.key"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter_map(|line| even(line, endpoint, scratch));
    format!("{:?}\n{}", output.status.code(), lines.collect::<Vec<_>>().join("\n"))
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
    ];
    if let Some((name, _)) = line.split_once(" : ")
        && different.iter().any(|different| name.contains(different))
    {
        return Some(name.to_owned());
    }
    let line = line.split("took =").next().unwrap_or_default();
    let line = line.split("took ").next().unwrap_or_default().trim_end();
    Some(line.split(' ').map(|word| if is_id(word) { "ID" } else { word }).collect::<Vec<_>>().join(" "))
}

fn is_id(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.len() > 12 && word.chars().all(|c| c.is_ascii_hexdigit())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_commands_print_what_they_print_of_etcd() {
    let (ours, theirs) = (bed::ours().await, bed::etcd().await);
    let compare = move || {
        let scratch = tempfile::TempDir::new().unwrap();
        let [here, there] = ["ours", "theirs"].map(|name| scratch.path().join(name));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&there).unwrap();
        let mut different = Vec::new();
        for command in COMMANDS {
            let (expected, found) = std::thread::scope(|scope| {
                let expected = scope.spawn(|| run(&theirs.pki, &theirs.endpoint(), &there, command));
                let found = run(&ours.pki, &ours.endpoint(), &here, command);
                (expected.join().unwrap(), found)
            });
            if found != expected {
                different.push(format!("etcdctl {command}\n ours: {found}\n etcd: {expected}"));
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
        assert!(std::fs::metadata(here.join("snapshot")).unwrap().len() > 512);
        kvstore::Image::decode(&std::fs::read(here.join("snapshot")).unwrap()).unwrap();
        drop((ours, theirs));
    };
    tokio::task::spawn_blocking(compare).await.unwrap();
}
