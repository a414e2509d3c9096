use super::*;
use kvstore::auth::Auth;
use kvstore::{Store, StoreConfig};
use mesh_runtime::Supervisor;

fn local() -> ClusterName {
    "here".parse().unwrap()
}

#[test]
fn the_charts_file_is_understood() {
    let wanted = parse("users:\n- name: remote-west\n  role: remote\n- name: here\n  role: root\n", &local());
    assert_eq!(wanted.unwrap(), Wanted::from([("remote-west".into(), "remote".into())]));
    for empty in ["", "\n", "users:\n", "users: []\n"] {
        assert!(parse(empty, &local()).unwrap().is_empty(), "{empty:?}");
    }
    for wrong in ["users: 7", "- name: x", "users: [{name: x}]", "users: [{name: [x], role: y}]"] {
        assert!(parse(wrong, &local()).is_err(), "{wrong}");
    }
}

struct Bed {
    store: Arc<Store>,
    file: PathBuf,
    _dir: tempfile::TempDir,
    _tasks: Supervisor,
}

impl Bed {
    fn start(text: &str) -> Self {
        let store = Store::new(StoreConfig::default());
        store
            .change_auth(|auth| {
                *auth = Auth::of_cluster("here");
                Ok(())
            })
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.yaml");
        let tasks = Supervisor::new(Duration::from_secs(1));
        let bed = Self { store, file, _dir: dir, _tasks: tasks };
        bed.write(text);
        keep_users(Arc::new(bed.store.client()), bed.file.clone(), local(), &bed._tasks.spawner());
        bed
    }

    /// As kubelet does: the new file takes the place of the old one.
    fn write(&self, text: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    async fn until(&self, expected: &[&str]) {
        let own = ["admin-here", "local-here", "remote", "root"];
        let mut expected: Vec<&str> = own.into_iter().chain(expected.iter().copied()).collect();
        expected.sort_unstable();
        let users = || self.store.client();
        for _ in 0..600 {
            let found: Vec<String> = users().users().await.unwrap().into_keys().collect();
            if found == expected {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("expected {expected:?}, found {:?}", users().users().await);
    }
}

#[tokio::test(start_paused = true)]
async fn users_follow_the_file() {
    let bed = Bed::start("users: [{name: remote-a, role: remote}, {name: remote-b, role: remote}]");
    bed.until(&["remote-a", "remote-b"]).await;
    bed.write("users: [{name: remote-b, role: local}]");
    bed.until(&["remote-b"]).await;
    assert_eq!(bed.store.client().users().await.unwrap()["remote-b"], ["local"], "the earlier role is gone");

    // What is not understood, or not there, changes nothing.
    bed.write("users: {");
    sleep(Duration::from_secs(10)).await;
    bed.until(&["remote-b"]).await;
    std::fs::remove_file(&bed.file).unwrap();
    sleep(Duration::from_secs(10)).await;
    bed.until(&["remote-b"]).await;
    bed.write("users: []");
    bed.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_not_there_yet_is_asked_for_again() {
    let bed = Bed::start("users: [{name: remote-a, role: later}]");
    sleep(Duration::from_secs(5)).await;
    bed.store.change_auth(|auth| auth.add_role("later")).unwrap();
    let granted = async || {
        bed.store.client().users().await.unwrap().get("remote-a").is_some_and(|roles| roles == &["later"])
    };
    for _ in 0..600 {
        if granted().await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the role was not granted");
}
