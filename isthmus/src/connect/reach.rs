//! From kubeconfig contexts to clients.

use crate::cmd::version::VERSION;
use crate::duration;
use crate::evidence::kube::Api;
use crate::exit::Usage;
use anyhow::Context as _;
use http::header::{HeaderValue, USER_AGENT};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Which clusters, and as whom. As in kubectl, but that more than one context may be named.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReachArgs {
    /// Kubeconfig with the contexts [default: KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A cluster, by its context in the kubeconfig. May be repeated; name all clusters of the mesh.
    #[arg(long = "context", value_name = "NAME")]
    contexts: Vec<String>,
    /// Every context of the kubeconfig.
    #[arg(long = "contexts", conflicts_with = "contexts")]
    all: bool,
    /// User to impersonate.
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// Namespace of Cilium or Isthmus, where the mesh's objects are.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub(crate) namespace: String,
    /// How long each cluster may take to answer; with --wait, how long it waits.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse_positive)]
    pub(crate) timeout: Duration,
}

/// A cluster that can be asked.
pub(crate) struct Reached {
    /// The kubeconfig's context.
    pub(crate) context: String,
    /// Its API, or why there is no client for it.
    pub(crate) api: anyhow::Result<Api>,
}

impl ReachArgs {
    /// The kubeconfig.
    ///
    /// # Errors
    /// [`Usage`] if there is none or it cannot be read.
    pub(crate) fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        read.map_err(|error| {
            let what = "give --kubeconfig FILE, or set KUBECONFIG";
            let wrong = kube_watch::wrong_with(&error);
            let why = if matches!(error, KubeconfigError::FindPath) {
                "there is none".to_owned()
            } else if let KubeconfigError::ReadConfig(_, path) = &error {
                format!("{}: {wrong}", path.display())
            } else {
                self.kubeconfig.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default()
                    + &wrong
            };
            Usage::error(format!("kubeconfig: {why}; {what}"))
        })
    }

    /// The contexts that are asked for.
    ///
    /// # Errors
    /// [`Usage`] if one is named that is not there, with those that are; or none is.
    pub(crate) fn contexts(&self, kubeconfig: &Kubeconfig) -> anyhow::Result<Vec<String>> {
        let known: BTreeSet<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
        let list = || match known.len() {
            0 => "the kubeconfig has none".to_owned(),
            _ => format!("the kubeconfig has {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
        };
        if self.all {
            return Ok(known.iter().map(|name| (*name).to_owned()).collect());
        }
        if let Some(unknown) = self.contexts.iter().find(|name| !known.contains(name.as_str())) {
            return Err(Usage::error(format!("--context {unknown}: no such context; {}", list())));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.contexts.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Usage::error(format!("--context {twice}: it is named twice")));
        }
        Ok(self.contexts.clone())
    }

    /// Clients for contexts of the kubeconfig. Nothing is sent yet.
    pub(crate) async fn clients(&self, kubeconfig: &Kubeconfig, contexts: &[String]) -> Vec<Reached> {
        let mut reached = Vec::new();
        for context in contexts {
            let api = self.client(kubeconfig.clone(), context).await;
            reached.push(Reached { context: context.clone(), api });
        }
        reached
    }

    async fn client(&self, kubeconfig: Kubeconfig, context: &str) -> anyhow::Result<Api> {
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.context("kubeconfig")?;
        config.connect_timeout = Some(self.timeout);
        // So that an audit log says who it was.
        let agent = HeaderValue::from_str(&format!("isthmus/{VERSION}")).context("the program's name")?;
        config.headers.push((USER_AGENT, agent));
        if let Some(user) = &self.user {
            config.auth_info.impersonate = Some(user.clone());
        }
        Ok(Api::of(Client::try_from(config).context("set up the client")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        reach: ReachArgs,
    }

    fn contexts(args: &[&str]) -> Result<Vec<String>, String> {
        let text = "contexts: [{name: west, context: {cluster: c}}, {name: east, context: {cluster: c}}]";
        let kubeconfig = Kubeconfig::from_yaml(text).unwrap();
        let cli = Cli::try_parse_from([&["x"], args].concat()).map_err(|error| error.to_string())?;
        cli.reach.contexts(&kubeconfig).map_err(|error| error.to_string())
    }

    #[test]
    fn a_kubeconfig_that_is_not_there_is_named_once() {
        let cli = Cli::try_parse_from(["x", "--kubeconfig=/nowhere/config"]).unwrap();
        let error = cli.reach.kubeconfig().unwrap_err().to_string();
        assert_eq!(error.matches("/nowhere/config").count(), 1, "{error}");
        assert_eq!(error.matches("No such file").count(), 1, "{error}");
    }

    #[test]
    fn contexts_are_those_named_or_all_and_unknown_ones_are_told_the_known() {
        assert_eq!(contexts(&["--contexts"]).unwrap(), ["east", "west"]);
        assert_eq!(contexts(&["--context=west"]).unwrap(), ["west"]);
        let error = contexts(&["--context=west", "--context=north"]).unwrap_err();
        assert_eq!(error, "--context north: no such context; the kubeconfig has east, west");
        assert!(contexts(&["--context=west", "--context=west"]).unwrap_err().contains("named twice"));
        assert!(contexts(&["--context=west", "--contexts"]).is_err());
    }
}
