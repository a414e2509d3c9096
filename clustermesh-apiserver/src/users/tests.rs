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
    assert_eq!(wanted.unwrap(), Wanted::from([("remote-west".into(), Some("remote".into()))]));
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
    tasks: Supervisor,
}

/// The users that come with a store.
fn set_up(store: &Store) {
    let preset = store.change_auth(|auth| {
        *auth = Auth::of_cluster("here");
        Ok(())
    });
    preset.unwrap();
}

impl Bed {
    fn start(text: &str) -> Self {
        let store = Store::new(StoreConfig::default());
        set_up(&store);
        Self::start_on(store, text)
    }

    fn start_on(store: Arc<Store>, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.yaml");
        let bed = Self { store, file, _dir: dir, tasks: Supervisor::new(Duration::from_secs(60)) };
        bed.write(text);
        let users = Arc::new(bed.store.client());
        keep_users(users, Some(bed.file.clone()), None, local(), &bed.tasks.spawner());
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
    assert_eq!(bed.store.client().users().await.unwrap()["remote-b"], [SET_UP_HERE, "local"], "no more");

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
        bed.store
            .client()
            .users()
            .await
            .unwrap()
            .get("remote-a")
            .is_some_and(|roles| roles == &[SET_UP_HERE, "later"])
    };
    for _ in 0..600 {
        if granted().await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the role was not granted");
}

fn scopes(text: &str) -> Scopes {
    Scopes::parse(text, &local()).unwrap()
}

fn listed(names: &[&str]) -> Wanted {
    names.iter().map(|name| ((*name).to_owned(), Some(REMOTE.to_owned()))).collect()
}

fn planned(plan: &Plan) -> Vec<(&str, &str)> {
    plan.users.iter().map(|(name, role)| (name.as_str(), role.as_deref().unwrap_or("-"))).collect()
}

#[test]
fn who_is_in_a_scope_lives_in_its_tree_and_others_follow_the_default() {
    let all = listed(&["remote-prod", "remote-test"]);
    let shop = "scopes:\n- name: shop\n  clusters: [prod, gone]\n";
    let in_shop = ("remote-prod", "root=isthmus/scope/shop/");
    let plan_of = |text: &str, applied: &Wanted| plan(Some(&all), &scopes(text), applied, |_| true);
    let nothing = Wanted::new();
    assert_eq!(planned(&plan_of("", &nothing)), [("remote-prod", "remote"), ("remote-test", "remote")]);
    assert_eq!(planned(&plan_of(shop, &nothing)), [in_shop, ("remote-test", "remote")]);
    let closed = plan_of(&format!("default: none\n{shop}"), &nothing);
    assert_eq!(planned(&closed), [("remote", "-"), in_shop, ("remote-test", "-")]);
    let open_again = plan_of(shop, &closed.users);
    assert_eq!(planned(&open_again), [("remote", "remote"), in_shop, ("remote-test", "remote")]);
    assert_eq!(planned(&plan_of(shop, &open_again.users))[0], ("remote", "remote"), "it is not deleted");
    let without_a_file = plan(None, &scopes(shop), &nothing, |_| true);
    assert_eq!(planned(&without_a_file), [("remote-gone", "root=isthmus/scope/shop/"), in_shop]);
}

#[test]
fn nobody_is_given_a_tree_that_is_not_complete() {
    let all = listed(&["remote-prod"]);
    let shop = scopes("scopes:\n- name: shop\n  clusters: [prod]\n");
    let waiting = |applied: &Wanted| plan(Some(&all), &shop, applied, |_| false);
    let new = waiting(&Wanted::new());
    assert!(new.users.is_empty() && new.scopes.is_empty() && new.waiting.contains("remote-prod"), "{new:?}");
    assert_eq!(planned(&waiting(&all)), [("remote-prod", "remote")], "until then it keeps what it had");
}

/// In a store that keeps everything, and in one that keeps its users alone.
#[tokio::test]
async fn who_is_removed_from_the_file_while_nobody_looks_loses_access() {
    for open in [Store::durable, Store::keeping_users] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(StoreConfig::default(), dir.path()).unwrap();
        set_up(&store);
        let operators = store.change_auth(|auth| {
            auth.add_user("of-the-operator", None)?;
            auth.grant_role("of-the-operator", REMOTE)
        });
        operators.unwrap();
        let both = "users: [{name: remote-a, role: remote}, {name: remote-b, role: remote}]";
        let first = Bed::start_on(store, both);
        first.until(&["of-the-operator", "remote-a", "remote-b"]).await;
        let Bed { store, tasks, .. } = first;
        tasks.until(std::future::ready(())).await.unwrap();
        drop(store);

        let store = open(StoreConfig::default(), dir.path()).unwrap();
        assert!(store.client().users().await.unwrap().contains_key("remote-a"), "it was kept");
        let second = Bed::start_on(store, "users: [{name: remote-b, role: remote}]");
        second.until(&["of-the-operator", "remote-b"]).await;
        let users = second.store.client().users().await.unwrap();
        assert_eq!(users["of-the-operator"], [REMOTE]);
        assert_eq!(users[REMOTE], [REMOTE], "it comes with the store");
    }
}

#[tokio::test(start_paused = true)]
async fn roles_of_scopes_that_are_gone_when_the_daemon_starts_are_removed() {
    let store = Store::new(StoreConfig::default());
    set_up(&store);
    let client = store.client();
    for scope in ["shop", "lived-in"] {
        client.put_reader(&scope_role(scope), &place(scope)).await.unwrap();
    }
    for role in ["root=of/the/operator/", SET_UP_HERE] {
        client.put_role(role).await.unwrap();
    }
    client.put_user("remote-a", &[SET_UP_HERE, &scope_role("shop")]).await.unwrap();
    client.put_user("of-the-operator", &[&scope_role("lived-in")]).await.unwrap();
    let bed = Bed::start_on(store, "users: [{name: remote-a, role: remote}]");
    bed.until(&["of-the-operator", "remote-a"]).await;
    for _ in 0..600 {
        let roles = client.roles().await.unwrap();
        if !roles.contains(&scope_role("shop")) {
            assert!(
                roles.contains(&scope_role("lived-in")),
                "somebody has it whom we do not know: {roles:?}"
            );
            assert!(roles.iter().any(|role| role == "root=of/the/operator/"), "{roles:?}");
            assert_eq!(client.users().await.unwrap()["remote-a"], [SET_UP_HERE, REMOTE]);
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the role of the scope stays: {:?}", client.roles().await);
}
