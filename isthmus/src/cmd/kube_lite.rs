//! A small Kubernetes API over an embedded store, for clusters without Kubernetes.

mod tokens;

use crate::certs::files::{self, CA_CERTIFICATE, CA_KEY, File, Mode};
use crate::certs::{Authority, CommonName, Issued, Leaf, ServerName, new_ca};
use crate::daemon::{self, DaemonArgs, Spec};
use crate::evidence::kube::Api;
use crate::exit::{Exit, Usage};
use crate::manifest;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use kube_lite::{Config, Server, Tls};
use kvstore::{Store, StoreConfig};
use serde_json::json;
use std::convert::Infallible;
use std::fs::{self, TryLockError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::info;

const SPEC: Spec = Spec { name: "kube-lite", metrics_prefix: "isthmus_kube_lite", health_port: 9883 };

/// File of the administrator's kubeconfig.
const KUBECONFIG: &str = "kubeconfig";
/// File that is locked while a server uses the directory. It is never deleted: whoever made it anew would hold another lock.
const LOCK: &str = "kube-lite.lock";
/// How long certificates are valid; those of the server and of the administrator are issued anew with each start.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const CA_VALID_FOR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Arguments of `isthmus kube-lite`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the administrator's kubeconfig is written, and the CA is kept between starts.
    #[arg(long, value_name = "DIRECTORY")]
    dir: PathBuf,

    /// Where to answer; port 0 is a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,

    /// Name or address in the server's certificate, besides that of --listen. May be repeated; the first is also the one
    /// in the kubeconfig.
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    advertise: Vec<ServerName>,

    /// Range of Services' addresses. One of each family may be given, the primary one first.
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    service_cidr: Vec<String>,

    /// Keep all objects in this directory, written through with each change. Without it they are in memory only.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,

    /// File of bearer tokens, each line `token,user,uid`, for those who have no certificate. Without it there are none.
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,

    /// A file with objects to apply at each start; may be repeated.
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,

    #[command(flatten)]
    daemon: DaemonArgs,
}

fn server_name(text: &str) -> Result<ServerName, String> {
    text.parse::<IpAddr>().map(ServerName::Ip).or_else(|_name| ServerName::dns(text))
}

impl Args {
    /// Serves until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let parse = |cidr: &String| {
            let wrong = |error| Usage::error(format!("--service-cidr {cidr}: {error}"));
            cidr.parse().map_err(wrong)
        };
        let service_cidrs = self.service_cidr.iter().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
        let objects = manifest::read(&self.manifest)?;
        let _held = hold(&self.dir)?;
        daemon::run(&SPEC, &self.daemon, async |daemon| {
            let listener = mesh_runtime::bind("kube-lite", self.listen).await?;
            let address = listener.local_addr().context("read the listener's address")?;
            let tls = self.credentials(address, SystemTime::now())?;
            let store = match &self.data_dir {
                Some(dir) => Store::durable(StoreConfig::default(), dir).context("open the durable store")?,
                None => Store::new(StoreConfig::default()),
            };
            let tokens = self.token_auth_file.as_deref().map(tokens::read).transpose()?.unwrap_or_default();
            let client = Arc::new(store.client());
            let config = Config { listener, tls, tokens, store: client, service_cidrs };
            let server = Server::open(config).await?;
            daemon.tasks.spawn_once("store", |stop| async move {
                store.housekeep(&stop).await;
                Ok::<_, Infallible>(())
            });
            daemon.tasks.spawn_once("server", |stop| server.run(stop));
            if !objects.is_empty() {
                let api = Api::new(&self.dir.join(KUBECONFIG), None).await?;
                manifest::apply(&api, &objects).await?;
                info!(objects = objects.len(), "manifests applied");
            }
            info!(%address, kubeconfig = %self.dir.join(KUBECONFIG).display(), "serving");
            Ok(())
        })
    }

    /// Issues certificates, and writes the administrator's kubeconfig.
    fn credentials(&self, address: SocketAddr, now: SystemTime) -> anyhow::Result<Tls> {
        let (ca, authority) = authority(&self.dir, now)?;
        let local = match address.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let mut reached_by = self.advertise.clone();
        reached_by.push(ServerName::Ip(local));
        reached_by.extend(ServerName::dns("kubernetes.default.svc"));
        let host = match &reached_by[0] {
            ServerName::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
            name @ (ServerName::Dns(_) | ServerName::Ip(IpAddr::V4(_))) => name.to_string(),
        };
        let name: CommonName = "kube-lite".parse().map_err(anyhow::Error::msg)?;
        let serving = authority.issue(&Leaf::Server { name, reached_by }, now, YEAR)?;
        let user: CommonName = "admin".parse().map_err(anyhow::Error::msg)?;
        let admin = authority.issue(&Leaf::Client { user }, now, YEAR)?;
        let url = format!("https://{host}:{}", address.port());
        let text = format!("{:#}\n", kubeconfig(&url, &ca, &admin));
        let file = File { name: KUBECONFIG, content: &text, mode: Mode::Secret };
        files::write(&self.dir, &[file], true)?;
        Ok(Tls { certificate: serving.certificate, key: serving.key.expose().to_owned(), client_ca: ca })
    }
}

/// The directory for one server alone, as long as the file is open: a second one would replace the kubeconfig of the first.
fn hold(dir: &Path) -> anyhow::Result<fs::File> {
    fs::create_dir_all(dir).with_context(|| format!("make the directory {}", dir.display()))?;
    let path = dir.join(LOCK);
    let opened = fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "--dir {} is in use by another kube-lite: stop that one first, or take another directory",
                dir.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// The CA of the directory with its certificate, made if there is none.
fn authority(dir: &Path, now: SystemTime) -> anyhow::Result<(String, Authority)> {
    if !dir.join(CA_CERTIFICATE).exists() && !dir.join(CA_KEY).exists() {
        let name: CommonName = "kube-lite CA".parse().map_err(anyhow::Error::msg)?;
        let made = new_ca(&name, now, CA_VALID_FOR)?;
        let files = [
            File { name: CA_CERTIFICATE, content: &made.certificate, mode: Mode::Public },
            File { name: CA_KEY, content: made.key.expose(), mode: Mode::Secret },
        ];
        files::write(dir, &files, false)?;
    }
    let certificate = files::read(&dir.join(CA_CERTIFICATE))?;
    let key = files::read(&dir.join(CA_KEY))?;
    let authority = Authority::load(&certificate, &key, now)?;
    Ok((certificate, authority))
}

/// With everything in it, so that it can be copied to elsewhere.
fn kubeconfig(url: &str, ca: &str, admin: &Issued) -> serde_json::Value {
    let inline = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kube-lite",
        "clusters": [{"name": "kube-lite", "cluster": {"server": url, "certificate-authority-data": inline(ca)}}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": inline(&admin.certificate),
            "client-key-data": inline(admin.key.expose()),
        }}],
        "contexts": [{"name": "kube-lite", "context": {"cluster": "kube-lite", "user": "admin"}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt as _;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_directory_is_for_one_server_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let first = hold(&path).unwrap();
        let refused = hold(&path).unwrap_err().to_string();
        assert!(refused.contains("is in use by another kube-lite"), "{refused}");
        drop(first);
        hold(&path).unwrap();
    }

    #[test]
    fn the_authority_is_kept_between_starts_and_secrets_are_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let args = ["kube-lite", "--advertise=api.example", "--dir", dir.path().to_str().unwrap()];
        let args = Cli::try_parse_from(args).unwrap().args;
        let address = "0.0.0.0:6443".parse().unwrap();
        let first = args.credentials(address, SystemTime::now()).unwrap();
        let second = args.credentials(address, SystemTime::now()).unwrap();
        assert_eq!(first.client_ca, second.client_ca);
        assert_ne!(first.certificate, second.certificate);
        let text = files::read(&dir.path().join(KUBECONFIG)).unwrap();
        assert!(text.contains("\"server\": \"https://api.example:6443\""), "{text}");
        for secret in [KUBECONFIG, CA_KEY] {
            let mode = fs::metadata(dir.path().join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
    }
}
