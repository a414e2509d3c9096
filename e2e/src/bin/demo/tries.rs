//! Commands to go on with. What is printed is what is checked.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{str, thread};

use anyhow::{Context, Result, bail};

use crate::places::Places;
use crate::scene::Scene;

/// How long a change may take to show.
const SOON: Duration = Duration::from_secs(120);

/// A command line, and what it shows sooner or later.
#[derive(Debug)]
pub(crate) struct Try {
    /// For people.
    pub(crate) what: &'static str,
    /// To type.
    pub(crate) command: String,
    /// Are in the output.
    shows: Vec<String>,
    /// Are not in the output.
    hides: Vec<String>,
}

impl Try {
    fn new(what: &'static str, command: String, shows: &[&str]) -> Self {
        let shows = shows.iter().map(|text| (*text).to_owned()).collect();
        Self { what, command, shows, hides: Vec::new() }
    }

    fn without(mut self, text: &str) -> Self {
        self.hides.push(text.to_owned());
        self
    }

    /// Runs it, as a user would, until it shows what it should.
    pub(crate) fn run(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("exec 2>&1; {}", self.command)).stdin(Stdio::null());
            let output = shell.output().context("start a shell")?;
            let text = str::from_utf8(&output.stdout).context("output that is no text")?;
            let missing = self.shows.iter().filter(|wanted| !text.contains(*wanted));
            let unwanted = self.hides.iter().filter(|unwanted| text.contains(*unwanted));
            let wrong: Vec<_> = missing.chain(unwanted).collect();
            if output.status.success() && wrong.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{}, about {wrong:?}:\n{text}", output.status);
            }
            thread::sleep(Duration::from_millis(300));
        }
    }
}

/// In the order in which they are to be tried: some change what later ones show.
pub(crate) fn all(scene: &Scene<'_>, places: &Places) -> Result<Vec<Try>> {
    let at = |place: &str, command: &str| places.at(place, command);
    let (cart, orders) = (scene.cart().ip(), scene.orders().ip().to_string());
    let dig = format!("dig +short @{} {}", scene.dns(), Scene::NAME);
    let share = |word: &str| {
        format!("kubectl -n shop annotate --overwrite service cart service.cilium.io/shared={word}")
    };
    let east = scene.mesh().member("east").cluster().plan().pod(1, 1).0.to_string();
    Ok(vec![
        Try::new(
            "the objects of a cluster",
            at("west", "kubectl get services,serviceimports -A"),
            &["cart", "orders"],
        ),
        Try::new("what an agent knows", at("west-1", "isthmus agent services"), &["cart", &east]),
        Try::new("nodes of the other clusters", at("west-1", "isthmus agent nodes"), &["east-1"]),
        Try::new("what the mirror says", at("west", "isthmus kvstoremesh status"), &["east"]),
        Try::new(
            "the keys in the store, in Cilium's own form",
            at("west", "etcdctl get --prefix cilium/ --keys-only"),
            &["cilium/state/nodes/v1/west/west-1", "cilium/cache/services/v1/east/shop/cart"],
        ),
        Try::new(
            "a request to the global service",
            at("west-client", &format!("curl -sS http://{cart}/")),
            &["-server"],
        ),
        Try::new("the name of an exported service", at("west-1", &dig), &[&orders]),
        Try::new(
            "a request to it",
            at("west-client", &format!("curl -sS http://{orders}/")),
            &["east/east-server"],
        ),
        Try::new("east keeps its backends to itself …", at("east", &share("false")), &["annotated"]),
        Try::new(
            "… and west's agent follows",
            at("west-1", "isthmus agent services | grep shop/cart"),
            &["west"],
        )
        .without(&east),
        Try::new("and back again", at("east", &share("true")), &["annotated"]),
        Try::new(
            "withdraw the export …",
            at("east", "kubectl -n shop delete serviceexport orders"),
            &["deleted"],
        ),
        Try::new("… and the name is gone", at("west-1", &dig), &[]).without(&orders),
        Try::new("the translation of services in the kernel", at("west-1", "nft list tables"), &["isthmus"]),
    ])
}
