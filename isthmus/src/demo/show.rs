//! What the demo prints when it is ready: clusters, services, names, and what to try.

use super::cluster::Cluster;
use super::objects::{self, CART, ORDERS};
use super::{Demo, out};
use crate::cmd::table;
use crate::evidence::reply;
use dns_plugin::ZoneName;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Something to try: a shell command that works as it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Try {
    /// What it shows.
    pub(crate) what: String,
    /// The command.
    pub(crate) command: String,
}

/// What the DNS server of a cluster answers for a service; nothing if it does not answer.
pub(crate) async fn name_of(cluster: &Cluster, service: &str) -> Option<Vec<String>> {
    let reply = reply::ask(cluster.dns(), &domain_name(service)).await.ok()?;
    (reply.code == "NOERROR").then_some(reply.answers)
}

/// `orders.shop.svc.clusterset.local`.
fn domain_name(service: &str) -> String {
    format!("{}.{}.svc.{}", objects::short(service), objects::NAMESPACE, ZoneName::DEFAULT)
}

impl Demo {
    /// Prints the tables.
    pub(crate) async fn show(&self) -> anyhow::Result<()> {
        let clusters = self.clusters.iter().map(|cluster| {
            [
                cluster.name.to_owned(),
                cluster.id.to_string(),
                format!("https://127.0.0.1:{}", cluster.ports.kubernetes),
                format!("https://127.0.0.1:{}", cluster.ports.store),
                cluster.dns().to_string(),
            ]
        });
        let mut text = table::table(["CLUSTER", "ID", "KUBERNETES", "STORE", "DNS"], clusters);
        let width = out::style().width;
        let backends =
            "Backends in use, as the agent of each cluster sees it: its own + those of other clusters";
        writeln!(text, "\n{}", mesh_explain::wrap(backends, "", width))?;
        text.push_str(&self.services());
        text.push('\n');
        for cluster in &self.clusters {
            let answers = name_of(cluster, ORDERS).await.unwrap_or_default().join(" ");
            writeln!(text, "{} is {answers} in {}", domain_name(ORDERS), cluster.name)?;
        }
        let plainly = "No packets flow between pods here: what runs is the control plane. Pods are addresses in \
                       objects, and the agents keep tables instead of writing to the kernel. `make demo-packets` has both.";
        write!(text, "\n{}", mesh_explain::wrap(plainly, "", width))?;
        out::print(text.trim_end())
    }

    fn services(&self) -> String {
        let state = self.observer.state();
        let names: Vec<_> = self.clusters.iter().map(|cluster| cluster.name).collect();
        let services = state.views.values().flat_map(|view| view.keys());
        // What the imports become is shown by name, below.
        let services: BTreeSet<_> = services.filter(|name| !objects::is_derived(name)).collect();
        let width = services.iter().map(|name| name.len()).max().unwrap_or_default();
        let mut text = format!("{:width$}", "SERVICE");
        for name in &names {
            text += &format!("  {:6}", name.to_uppercase());
        }
        for service in services {
            text = format!("{}\n{service:width$}", text.trim_end());
            for name in &names {
                let found = state.service(name, service);
                let cell = found.map_or_else(
                    || "-".to_owned(),
                    |found| format!("{}+{}", found.used_of(name), found.used() - found.used_of(name)),
                );
                text += &format!("  {cell:6}");
            }
        }
        format!("{}\n", text.trim_end())
    }

    /// What another terminal must know first: where the program is, unless it was found by its name, and where the demo is.
    pub(crate) fn setup(&self) -> Vec<String> {
        let path = out::directory().map(|dir| format!("export PATH={}:\"$PATH\"", out::quoted(&dir)));
        let dir = out::quoted(&self.dir().display().to_string());
        let demo = format!("export DEMO={dir}");
        let files = "export KUBECONFIG=\"$DEMO/kubeconfig\" ISTHMUS_MESH=\"$DEMO/mesh.yaml\"".to_owned();
        path.into_iter().chain([demo, files]).collect()
    }

    /// What to try, from any other terminal. None is wider than a terminal of 80 columns.
    pub(crate) fn tries(&self) -> Vec<Try> {
        let (west, east) = (&self.clusters[0], &self.clusters[1]);
        let one = &objects::backends(CART, east.id)[0];
        let link = self.links.file(west.name, east.name);
        let link = link.strip_prefix(self.dir()).unwrap_or(&link).display();
        let entry = |what: &str, command: String| Try { what: what.to_owned(), command };
        vec![
            entry(
                "the Kubernetes API of west, with what the mesh brought there",
                format!("kubectl -n {} get services,endpointslices,serviceimports", objects::NAMESPACE),
            ),
            entry(
                "a name that only east exports, answered in west",
                format!("dig +short @127.0.0.1 -p {} {}", west.ports.dns, domain_name(ORDERS)),
            ),
            entry(
                "the way of a service's data from every cluster to west, step by step",
                format!("isthmus explain service {CART} --from west"),
            ),
            entry(
                "one pod less of cart in east: look here at who notices, and when",
                format!(
                    "kubectl --context {} -n {} patch endpointslice cart-1 --type merge \\\n      \
                     -p '{{\"endpoints\":[{{\"addresses\":[\"{one}\"]}}]}}'",
                    east.name,
                    objects::NAMESPACE
                ),
            ),
            entry(
                "the link between west and east is cut; rm the file, and it is whole again",
                format!("touch \"$DEMO/{link}\""),
            ),
        ]
    }

    /// Prints what to try.
    pub(crate) fn show_tries(&self) -> anyhow::Result<()> {
        let mut text = "\nTry, from another terminal, after these lines:\n\n".to_owned();
        for line in self.setup() {
            writeln!(text, "  $ {line}")?;
        }
        for this in self.tries() {
            writeln!(text, "\n  # {}\n  $ {}", this.what, this.command)?;
        }
        text += "\nMore:\n\n";
        for command in self.more() {
            writeln!(text, "  $ {command}")?;
        }
        let ends = "All of it runs until Ctrl-C, and then nothing of it remains. What changes is told below.";
        write!(text, "\n{}", mesh_explain::wrap(ends, "", out::style().width).trim_end())?;
        out::print(text)
    }

    /// What else there is, in words that need no more.
    fn more(&self) -> Vec<String> {
        let (west, east) = (self.clusters[0].name, self.clusters[1].name);
        vec![
            "isthmus status".to_owned(),
            "isthmus check --contexts".to_owned(),
            format!("isthmus disconnect --context {west} --context {east} --apply"),
            "isthmus connect --contexts --apply --wait".to_owned(),
            format!("isthmus agent services --socket \"$DEMO/{west}/agent.sock\""),
        ]
    }
}
