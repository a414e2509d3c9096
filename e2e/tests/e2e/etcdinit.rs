//! The store in the place of etcd in Cilium's chart: an init container sets up the users, the store is started by etcd's
//! name and flags on the same directory, and whoever comes is what the certificate says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::{Authority, Bed, Daemon, DaemonSpec, Etcdctl, Host, isthmus};

use crate::path::SOON;

/// What the chart of Cilium 1.19 passes to its init container.
const INIT: [&str; 3] = [
    "--etcd-cluster-name=clustermesh-apiserver",
    "--etcd-initial-cluster-token=5fd0c5f7-0b1a-4f7e-9d3b-7a6e2f1c0d11",
    "--timeout=2m0s",
];

/// A machine with our program under Cilium's and etcd's names.
struct Pod {
    host: Host,
    pki: Authority,
    bin: PathBuf,
    data: PathBuf,
}

impl Pod {
    fn new(bed: &Bed) -> Result<Self> {
        let host = bed.host("pod", 1)?;
        let (bin, data) = (bed.dir().join("bin"), bed.dir().join("etcd"));
        fs::create_dir_all(&bin).context("make a directory")?;
        fs::create_dir_all(&data).context("make a directory")?;
        for name in ["clustermesh-apiserver", "etcd"] {
            symlink(isthmus()?, bin.join(name)).context("link the program")?;
        }
        Ok(Self { pki: Authority::new(&bed.dir().join("pki"))?, host, bin, data })
    }

    fn address(&self) -> String {
        format!("https://{}:2379", self.host.address())
    }

    /// The etcd container, by the chart's command line.
    fn etcd(&self) -> Result<Daemon> {
        let address = self.address();
        let server = self.pki.server("server", &[&self.host.address().to_string(), "127.0.0.1"])?;
        let spec = DaemonSpec::program("etcd", &self.bin.join("etcd"))
            .args([format!("--data-dir={}", self.data.display()), "--name=clustermesh-apiserver".to_owned()])
            .arg("--client-cert-auth")
            .arg(format!("--trusted-ca-file={}", self.pki.certificate().display()))
            .arg(format!("--cert-file={}", server.certificate.display()))
            .arg(format!("--key-file={}", server.key.display()))
            .arg(format!("--listen-client-urls=https://127.0.0.1:2379,{address}"))
            .arg(format!("--advertise-client-urls={address}"))
            .args(["--initial-cluster-token=5fd0c5f7-0b1a-4f7e-9d3b-7a6e2f1c0d11"])
            .args(["--auto-compaction-retention=1", "--enable-grpc-gateway=false"])
            .arg(format!("--listen-metrics-urls=http://{}:9963", self.host.address()))
            .arg("--metrics=basic");
        self.host.daemon(spec)
    }

    fn etcdctl(&self, user: &str) -> Result<Etcdctl> {
        let client = self.pki.client(user, user, None)?;
        Etcdctl::new(self.host.netns(), &self.address(), &self.pki.certificate(), Some(&client))
    }

    /// Everyone may do what Cilium's users may do, and no more.
    fn users_are_ciliums(&self, bed: &Bed) {
        let admin = self.etcdctl("admin-here").unwrap();
        bed.eventually("the store answers", SOON, || admin.put("cilium/.heartbeat", "now"));
        for key in [
            "cilium/state/nodes/v1/here/n",
            "cilium/cache/nodes/v1/there/n",
            "cilium/cluster-config/here",
            "cilium/cluster-config/there",
            "cilium/synced/here/cilium/state/nodes/v1",
            "cilium/synced/there/cilium/cache/nodes/v1",
            "other",
        ] {
            admin.put(key, "{}").unwrap();
        }
        let (local, remote) = (self.etcdctl("local-here").unwrap(), self.etcdctl("remote").unwrap());
        for (range, local_may, remote_may) in [
            (&["--prefix", "cilium/.heartbeat"][..], true, true),
            (&["--prefix", "cilium/state/"], false, true),
            (&["--prefix", "cilium/cache/"], true, false),
            (&["--prefix", "cilium/cluster-config/"], true, false),
            (&["cilium/cluster-config/here"], true, true),
            (&["cilium/cluster-config/there"], true, false),
            (&["--prefix", "cilium/synced/"], true, false),
            (&["--prefix", "cilium/synced/here/"], true, true),
            (&["--prefix", "cilium/"], false, false),
            (&["other"], false, false),
        ] {
            for (user, etcdctl, may) in [("local", &local, local_may), ("remote", &remote, remote_may)] {
                let got = etcdctl.run(&[&["get"], range].concat());
                match got {
                    Ok(text) => assert!(may && !text.is_empty(), "{user} read {range:?}"),
                    Err(error) => {
                        let text = format!("{error:#}");
                        assert!(
                            !may && text.contains("etcdserver: permission denied"),
                            "{user} {range:?}: {text}"
                        );
                    }
                }
            }
        }
        for etcdctl in [&local, &remote] {
            for refused in [
                etcdctl.put("cilium/state/nodes/v1/here/evil", "{}").unwrap_err(),
                etcdctl.run(&["user", "list"]).unwrap_err(),
                etcdctl.run(&["auth", "disable"]).unwrap_err(),
            ] {
                assert!(format!("{refused:#}").contains("permission denied"), "{refused:#}");
            }
        }
        let stranger =
            self.etcdctl("remote-elsewhere").unwrap().run(&["get", "cilium/.heartbeat"]).unwrap_err();
        assert!(format!("{stranger:#}").contains("permission denied"), "{stranger:#}");
    }
}

#[test]
fn etcdinit_sets_up_the_users_of_the_store_that_is_started_as_etcd() {
    let bed = Bed::builder("etcdinit").start().unwrap();
    let pod = Pod::new(&bed).unwrap();
    // What another life left there.
    fs::create_dir_all(pod.data.join("member/wal")).unwrap();
    let init = pod.host.exec(pod.bin.join("clustermesh-apiserver")).arg("etcdinit").args(INIT);
    init.env("CILIUM_CLUSTER_NAME", "here")
        .arg(format!("--etcd-data-dir={}", pod.data.display()))
        .stdout()
        .unwrap();
    assert!(!pod.data.join("member").exists(), "the old store goes");

    let mut etcd = pod.etcd().unwrap();
    pod.users_are_ciliums(&bed);
    let admin = pod.etcdctl("admin-here").unwrap();

    // A peer that joins at run time stays through a restart of the container; keys do not.
    admin.run(&["user", "add", "remote-there", "--no-password"]).unwrap();
    admin.run(&["user", "grant-role", "remote-there", "remote"]).unwrap();
    etcd.kill9().unwrap();
    etcd.restart().unwrap();
    let there = pod.etcdctl("remote-there").unwrap();
    bed.eventually("the peer is known", SOON, || {
        let keys = there.get_prefix("cilium/state/")?;
        ensure!(keys.is_empty(), "keys are in memory only: {keys:?}");
        Ok(())
    });
    pod.users_are_ciliums(&bed);
    let log = fs::read_to_string(etcd.log()).unwrap();
    let ignored =
        log.lines().filter(|line| line.contains("flags of etcd without effect")).collect::<Vec<_>>();
    assert_eq!(ignored.len(), 2, "once per start: {ignored:?}");
    for flag in ["enable-grpc-gateway", "initial-cluster-token"] {
        assert!(ignored[0].contains(flag), "{flag}: {ignored:?}");
    }
    assert!(!ignored[0].contains("metrics"), "obeyed: {ignored:?}");
}

/// Cilium's own program starts the program `etcd` on loopback, sets up users by gRPC, ends it by SIGTERM, and the chart
/// starts it again with TLS. The same calls in the same order, by etcdctl.
#[test]
fn the_calls_of_ciliums_own_etcdinit_do_the_same() {
    let bed = Bed::builder("etcdinit-calls").start().unwrap();
    let pod = Pod::new(&bed).unwrap();
    let spec = DaemonSpec::program("etcd-init", &pod.bin.join("etcd"))
        .args([format!("--data-dir={}", pod.data.display()), "--name=clustermesh-apiserver".to_owned()])
        .args(["--listen-client-urls=http://localhost:2379", "--advertise-client-urls=http://localhost:2379"])
        .args(["--initial-cluster-token=clustermesh-apiserver", "--initial-cluster-state=new"]);
    let mut init = pod.host.daemon(spec).unwrap();
    let run = |line: &str| -> Result<String> {
        let exec = pod.host.exec(e2e::tool("etcdctl")?).args(["--endpoints=http://localhost:2379"]);
        exec.args(line.split(' ')).stdout()
    };
    bed.eventually("it answers", SOON, || run("endpoint health"));
    let grant =
        |role: &str, start: &str, end: &str| format!("role grant-permission {role} read {start} {end}");
    for line in [
        "user add root --no-password".to_owned(),
        "user grant-role root root".to_owned(),
        "user add admin-here --no-password".to_owned(),
        "user grant-role admin-here root".to_owned(),
        "role add local".to_owned(),
        grant("local", "cilium/.heartbeat", "cilium/.heartbeau"),
        grant("local", "cilium/cache/", "cilium/cache0"),
        grant("local", "cilium/cluster-config/", "cilium/cluster-config0"),
        grant("local", "cilium/synced/", "cilium/synced0"),
        "user add local-here --no-password".to_owned(),
        "user grant-role local-here local".to_owned(),
        "role add remote".to_owned(),
        grant("remote", "cilium/.heartbeat", "cilium/.heartbeau"),
        grant("remote", "cilium/state/", "cilium/state0"),
        "role grant-permission remote read cilium/cluster-config/here".to_owned(),
        grant("remote", "cilium/synced/here/", "cilium/synced/here0"),
        "user add remote --no-password".to_owned(),
        "user grant-role remote remote".to_owned(),
        "auth enable".to_owned(),
    ] {
        run(&line).unwrap();
    }
    assert!(init.stop().unwrap().success(), "it ends in order");

    let _etcd = pod.etcd().unwrap();
    pod.users_are_ciliums(&bed);
}
