//! What the daemons of a cluster say, through their commands and pages.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Member, Part};
use crate::Host;

/// The agent of a node, for those who look at it while others restart it.
#[derive(Clone, Debug)]
pub struct AgentView {
    host: Host,
    socket: PathBuf,
}

impl AgentView {
    /// `isthmus agent <table> -o json`.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn table(&self, table: &str) -> Result<Value> {
        let exec = self.host.isthmus()?.args(["agent", table, "-o", "json", "--socket"]);
        let output = exec.arg(&self.socket).output()?;
        // 3 is for a state that is not well, which is shown all the same.
        let shown = output.status.success() || output.status.code() == Some(3);
        ensure!(shown, "isthmus agent {table}: {} {}{}", output.status, output.stderr, output.stdout);
        serde_json::from_str(&output.stdout).with_context(|| format!("read the JSON of agent {table}"))
    }

    /// A service in its table.
    ///
    /// # Errors
    /// If it is not there.
    pub fn service(&self, namespace: &str, name: &str) -> Result<Value> {
        let table = self.table("services")?;
        let services = table["services"].as_array().context("a table without services")?;
        let found =
            services.iter().find(|service| service["namespace"] == namespace && service["name"] == name);
        found.cloned().with_context(|| format!("{} has no service {namespace}/{name}", self.host.name()))
    }

    /// The backends that a service's first frontend sends new connections to: `cluster address:port`.
    ///
    /// # Errors
    /// If the service or its frontend is not there.
    pub fn backends(&self, namespace: &str, name: &str) -> Result<BTreeSet<String>> {
        let service = self.service(namespace, name)?;
        let frontend = &service["frontends"][0];
        let backends = frontend["backends"].as_array();
        let backends = backends.with_context(|| format!("no frontend in {service}"))?;
        let selected = backends.iter().filter(|backend| backend["selected"] == true);
        let text = |backend: &Value| {
            let part = |name: &str| backend[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}:{}", part("cluster"), part("address"), backend["port"])
        };
        Ok(selected.map(text).collect())
    }
}

impl Member<'_> {
    /// The agent of the node of an index.
    #[must_use]
    pub fn agent_view(&self, node: usize) -> AgentView {
        AgentView { host: self.nodes()[node].host().clone(), socket: self.socket(node) }
    }

    /// `isthmus agent <table> -o json` on the first node.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn agent(&self, table: &str) -> Result<Value> {
        self.agent_of(0, table)
    }

    /// The same for people.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn agent_text(&self, table: &str) -> Result<String> {
        let exec = self.node().host().isthmus()?.args(["agent", table, "--socket"]).arg(self.socket(0));
        let output = exec.output()?;
        let shown = output.status.success() || output.status.code() == Some(3);
        ensure!(shown, "isthmus agent {table}: {} {}{}", output.status, output.stderr, output.stdout);
        Ok(output.stdout)
    }

    /// The same on the node of an index.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn agent_of(&self, node: usize, table: &str) -> Result<Value> {
        self.agent_view(node).table(table)
    }

    /// A service in the first agent's table.
    ///
    /// # Errors
    /// If it is not there.
    pub fn service(&self, namespace: &str, name: &str) -> Result<Value> {
        self.agent_view(0).service(namespace, name)
    }

    /// The backends that a service's first frontend sends new connections to, as the first agent has them: `cluster
    /// address:port`.
    ///
    /// # Errors
    /// If the service or its frontend is not there.
    pub fn backends(&self, namespace: &str, name: &str) -> Result<BTreeSet<String>> {
        self.agent_view(0).backends(namespace, name)
    }

    /// An entry of a table of the first agent by one of its fields, such as `("nodes", "name", "west-1")`.
    ///
    /// # Errors
    /// If there is none.
    pub fn entry(&self, table: &str, field: &str, value: &str) -> Result<Value> {
        let answer = self.agent(table)?;
        let entries = answer.as_object().and_then(|object| object.values().find_map(Value::as_array));
        let entries = entries.with_context(|| format!("no array in {answer}"))?;
        let printed = |found: &Value| found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        let is = |entry: &&Value| printed(&entry[field]) == value;
        let found = entries.iter().find(is).cloned();
        found.with_context(|| format!("{}: no entry with {field} {value} in {table}", self.name()))
    }

    /// A page of a daemon's health listener, as JSON.
    ///
    /// # Errors
    /// If it does not answer with JSON.
    pub fn page(&self, part: Part, path: &str) -> Result<Value> {
        let text = self.daemon(part).health(path)?;
        serde_json::from_str(&text).with_context(|| format!("read the JSON of {path} of {part:?}"))
    }

    /// The sum of all samples of the metrics whose name ends in `name` and whose line contains each of `labels`; 0 if
    /// there are none.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn metric(&self, part: Part, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.daemon(part).health("/metrics")?;
        let of_name = |line: &&str| {
            line.split(['{', ' ']).next().is_some_and(|found| found.ends_with(name)) && !line.starts_with('#')
        };
        let lines =
            text.lines().filter(of_name).filter(|line| labels.iter().all(|label| line.contains(label)));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}
