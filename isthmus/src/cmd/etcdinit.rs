//! Prepares the data directory of `etcd`, as Cilium's `clustermesh-apiserver etcdinit` does in an init container.
//!
//! Cilium starts an etcd for it and talks to it. Here the users and roles are written to the directory, where a store
//! that is started as `etcd` (or by `isthmus store serve`) with the same `--data-dir` finds them.

use crate::exit::{Exit, Usage};
use crate::{duration, out};
use anyhow::Context as _;
use clap::ArgAction;
use kvstore::auth::Auth;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cilium's limit of a cluster's name, in bytes.
const LONGEST_NAME: usize = 32;

/// Arguments of `isthmus etcdinit`: Cilium's flags and variables.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory. A store that is in it, of ours or of etcd's, is deleted.
    #[arg(long, value_name = "DIR", default_value = "/var/run/etcd", env = "CILIUM_ETCD_DATA_DIR")]
    etcd_data_dir: PathBuf,

    /// Name of the etcd member. Without effect: `etcd --name` decides.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "clustermesh-apiserver",
        env = "CILIUM_ETCD_CLUSTER_NAME"
    )]
    etcd_cluster_name: String,

    /// Token of the etcd cluster. Without effect: each start of a store has a cluster id of its own.
    #[arg(
        long,
        value_name = "TOKEN",
        default_value = "clustermesh-apiserver",
        env = "CILIUM_ETCD_INITIAL_CLUSTER_TOKEN"
    )]
    etcd_initial_cluster_token: String,

    /// Name of the cluster, which is part of its users' names.
    #[arg(long, value_name = "NAME", default_value = "default", env = "CILIUM_CLUSTER_NAME", value_parser = cluster_name)]
    cluster_name: String,

    /// How long it may take. Without effect: nothing is waited for.
    #[arg(long, value_name = "DURATION", default_value = "2m0s", env = "CILIUM_TIMEOUT", value_parser = duration::parse)]
    timeout: Duration,

    /// Say more.
    #[arg(long, env = "CILIUM_DEBUG", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true")]
    debug: bool,
}

/// An empty name gives users without a suffix, as in Cilium.
fn cluster_name(text: &str) -> Result<String, String> {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inside = text.bytes().all(|byte| lower(byte) || byte == b'-');
    let ends = text.bytes().next().is_none_or(lower) && text.bytes().last().is_none_or(lower);
    if inside && ends && text.len() <= LONGEST_NAME {
        Ok(text.to_owned())
    } else {
        Err(format!("expected at most {LONGEST_NAME} of a-z, 0-9 and -, not beginning or ending with -"))
    }
}

impl Args {
    /// Writes the users.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let others = prepare(&self.etcd_data_dir, &self.cluster_name)?;
        out::print(format_args!(
            "users of cluster {:?} are set up in {}",
            self.cluster_name,
            self.etcd_data_dir.display()
        ))?;
        if self.debug {
            let without_effect = [
                format!("--etcd-cluster-name={}", self.etcd_cluster_name),
                format!("--etcd-initial-cluster-token={}", self.etcd_initial_cluster_token),
                format!("--timeout={:?}", self.timeout),
            ];
            out::print(format_args!("without effect: {}", without_effect.join(" ")))?;
            for path in others {
                out::print(format_args!("left where it is: {}", path.display()))?;
            }
        }
        Ok(Exit::Done)
    }
}

/// Deletes the store in `dir` and puts the users of `cluster` there. Returns what else is in it, which stays.
///
/// # Errors
/// [`Usage`] if there is no such directory, else those of the file system.
pub(crate) fn prepare(dir: &Path, cluster: &str) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Err(Usage::error(format!("--etcd-data-dir={}: expected a directory", dir.display())));
    }
    let others = kvstore::empty_data_dir(dir).with_context(|| format!("empty {}", dir.display()))?;
    kvstore::keep_users(dir, &Auth::of_cluster(cluster))
        .with_context(|| format!("write {}", dir.display()))?;
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Cli::try_parse_from(std::iter::once("etcdinit").chain(line.split_whitespace())).map(|cli| cli.args)
    }

    #[test]
    fn the_charts_command_line_is_understood() {
        let args = parse(
            "--etcd-data-dir=/var/run/etcd --etcd-cluster-name=clustermesh-apiserver --cluster-name=here \
             --etcd-initial-cluster-token=5fd0c5f7-0b1a --timeout=2m0s --debug=false",
        )
        .unwrap();
        assert_eq!((args.cluster_name.as_str(), args.debug), ("here", false));
        assert!(parse("--debug").unwrap().debug);
        assert!(parse("--cluster-name=").unwrap().cluster_name.is_empty());
        for wrong in ["--cluster-name=Here", "--cluster-name=-x", "--timeout=soon", "--etcd=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_store_that_is_there_goes_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("member/wal")).unwrap();
        for name in ["image", "journal.00000000000000000000", "notes"] {
            std::fs::write(at(name), "old").unwrap();
        }
        for _ in 0..2 {
            assert_eq!(prepare(dir.path(), "here").unwrap(), [at("notes")]);
            assert!(!at("member").exists() && !at("journal.00000000000000000000").exists());
            let store = kvstore::Store::keeping_users(kvstore::StoreConfig::default(), dir.path()).unwrap();
            assert!(store.auth().enabled());
            let users: Vec<String> = store.auth().users().map(|(name, _)| name.clone()).collect();
            assert_eq!(users, ["admin-here", "local-here", "remote", "root"]);
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_mistake() {
        let error = prepare(Path::new("/nonexistent"), "here").unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
    }
}
