//! The tests that the `etcd-client` crate ships, against our server.
//!
//! They dial `localhost:2379`, so the server and they run in a network namespace of their own, where that port is free.
//! Nothing of theirs is kept here: cargo has the package anyway, and `tests/upstream/` compiles its files where they lie.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use kvstore::{
    Store, StoreConfig,
    server::{Server, ServerConfig},
};
use nix::sched::{CloneFlags, unshare};
use tokio_util::sync::CancellationToken;

/// Targets of this package that include a file of theirs.
const TARGETS: [&str; 2] = ["upstream-client", "upstream-namespace"];
/// Tests that they have, those that ask for etcd 3.7 included; one more or less means that another version of the crate
/// was taken.
const TESTS: usize = 28;
/// The one that is left out, which theirs ignore too: it adds a member, waits until a script of theirs has started an etcd as
/// that member, and wants it to become a voter. Of a member that is not there an etcd says that it lags behind; whoever
/// says that it votes says that there is a copy of the data.
const NOT_FOR_ONE_MEMBER: [&str; 2] = ["--skip", "test_cluster"];

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo
}

/// Where cargo keeps the package that this workspace is locked to.
fn package() -> PathBuf {
    // Only of this platform: packages of others need not be here.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let mut metadata = cargo(&["metadata", "--format-version=1", "--offline", "--filter-platform"]);
    let output = metadata.arg(host.trim()).output().unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "etcd-client").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// Compiles their tests; the programs.
fn build(tests: &Path) -> Vec<PathBuf> {
    let mut cargo = cargo(&["test", "--offline", "-p", "kvstore", "--no-run", "--message-format=json"]);
    for target in TARGETS {
        cargo.args(["--test", target]);
    }
    let output = cargo.env("ETCD_CLIENT_TESTS", tests).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>();
    let messages: Vec<serde_json::Value> = messages.map(Result::unwrap).collect();
    let program = |target: &str| {
        let built = messages.iter().filter(|message| message["target"]["name"] == target);
        PathBuf::from(built.filter_map(|message| message["executable"].as_str()).next().expect(target))
    };
    TARGETS.map(program).to_vec()
}

/// Puts this thread, and what it starts, into a network that has nothing but loopback.
fn leave_the_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs an administrator: run `make test`");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success(), "loopback does not come up");
}

/// Serves an empty store on the port of etcd until `stop`, with the user that the tests expect.
fn serve(ready: &mpsc::Sender<()>, stop: CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = ServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 2379)), None);
        config.limits.bcrypt_cost = 4;
        // What they expect: tokens that end while they wait, which is four seconds, and answers that are cut.
        config.limits.token_ttl = Duration::from_secs(3);
        config.limits.request_bytes = 10_240;
        let server = Server::bind(config, Store::new(StoreConfig::default())).await.unwrap();
        let users = async {
            let mut client = etcd_client::Client::connect(["127.0.0.1:2379"], None).await.unwrap();
            client.user_add("root", "rootpwd", None).await.unwrap();
            client.user_grant_role("root", "root").await.unwrap();
            ready.send(()).unwrap();
        };
        tokio::join!(server.run(stop), users);
    });
}

#[test]
fn its_tests_pass() {
    let programs = build(&package().join("tests"));
    // Only a thread can change its network alone, and only what it starts goes with it.
    let run = move || {
        leave_the_network();
        let (ready, is_ready) = mpsc::channel();
        let stop = CancellationToken::new();
        let until = stop.clone();
        let server = std::thread::spawn(move || serve(&ready, until));
        is_ready.recv().expect("the server's thread tells why it did not start");
        let run = |program| {
            Command::new(program).arg("--include-ignored").args(NOT_FOR_ONE_MEMBER).output().unwrap()
        };
        let outputs: Vec<_> = programs.iter().map(run).collect();
        stop.cancel();
        server.join().unwrap();
        outputs
    };
    let outputs = std::thread::spawn(run).join().unwrap();
    let mut passed = 0;
    for output in outputs {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        passed += text.lines().filter(|line| line.starts_with("test ") && line.ends_with(" ... ok")).count();
    }
    assert_eq!(passed, TESTS, "tests that passed");
}
