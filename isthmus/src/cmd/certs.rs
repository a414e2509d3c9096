//! `isthmus certs`.

use crate::certs::files::{self, CA_CERTIFICATE, CA_KEY, CERTIFICATE, File, KEY, Mode};
use crate::certs::{Authority, CommonName, Issued, Leaf, ServerName, new_ca, show};
use crate::duration;
use crate::exit::Exit;
use crate::out::FormatArgs;
use anyhow::Context as _;
use clap::Subcommand;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Arguments of `isthmus certs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority: `ca.crt` and `ca.key`.
    Ca(CaArgs),
    /// Issue a certificate for a store: `tls.crt`, `tls.key` and `ca.crt`.
    Server(ServerArgs),
    /// Issue a certificate for a client of a store: `tls.crt`, `tls.key` and `ca.crt`.
    Client(ClientArgs),
    /// Print what the certificates of a file say; exit code 3 if one is not valid now.
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct CaArgs {
    #[command(flatten)]
    out: OutArgs,
    /// Common name of the CA.
    #[arg(long, default_value = "Isthmus CA")]
    name: CommonName,
    /// How long the CA is valid.
    #[arg(long, value_name = "DURATION", default_value = "3650d", value_parser = duration::parse_positive)]
    valid_for: Duration,
}

#[derive(Debug, clap::Args)]
struct ServerArgs {
    #[command(flatten)]
    leaf: LeafArgs,
    /// Common name; a DNS name is also one of the names the server is reached by.
    #[arg(long, default_value = "clustermesh-apiserver.cilium.io")]
    name: CommonName,
    /// A further DNS name it is reached by, beside *.mesh.cilium.io and localhost; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = ServerName::dns)]
    dns: Vec<ServerName>,
    /// A further address it is reached at, beside 127.0.0.1 and ::1; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
}

#[derive(Debug, clap::Args)]
struct ClientArgs {
    #[command(flatten)]
    leaf: LeafArgs,
    /// Common name, which is the user in the store, such as `remote-east`, `local-west` or `admin-west`.
    #[arg(long, value_name = "USER")]
    cn: CommonName,
}

#[derive(Debug, clap::Args)]
struct LeafArgs {
    #[command(flatten)]
    out: OutArgs,
    /// Directory with the CA's ca.crt and ca.key.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// How long the certificate is valid.
    #[arg(long, value_name = "DURATION", default_value = "1095d", value_parser = duration::parse_positive)]
    valid_for: Duration,
}

#[derive(Debug, clap::Args)]
struct OutArgs {
    /// Directory to write to; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace files that are there already.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A file with certificates in PEM form.
    file: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let now = SystemTime::now();
        match self.command {
            Command::Ca(args) => {
                let Issued { certificate, key } = new_ca(&args.name, now, args.valid_for)?;
                let files = [secret(CA_KEY, key.expose()), public(CA_CERTIFICATE, &certificate)];
                files::write(&args.out.out, &files, args.out.force)?;
                Ok(Exit::Done)
            }
            Command::Server(args) => issue(&args.leaf, &server(args.name, args.dns, args.ip), now),
            Command::Client(args) => issue(&args.leaf, &Leaf::Client { user: args.cn }, now),
            Command::Show(args) => show(&args.file, args.format, now),
        }
    }
}

fn server(name: CommonName, dns: Vec<ServerName>, ip: Vec<IpAddr>) -> Leaf {
    let always = [
        ServerName::Dns("*.mesh.cilium.io".to_owned()),
        ServerName::Dns("localhost".to_owned()),
        ServerName::Ip(Ipv4Addr::LOCALHOST.into()),
        ServerName::Ip(Ipv6Addr::LOCALHOST.into()),
    ];
    // Clients look at alternative names only, so a common name that they could dial becomes one.
    let by_name = ServerName::dns(name.as_str()).ok();
    let reached_by: BTreeSet<ServerName> =
        always.into_iter().chain(by_name).chain(dns).chain(ip.into_iter().map(ServerName::Ip)).collect();
    Leaf::Server { name, reached_by: reached_by.into_iter().collect() }
}

fn issue(args: &LeafArgs, leaf: &Leaf, now: SystemTime) -> anyhow::Result<Exit> {
    let ca_certificate = files::read(&args.ca.join(CA_CERTIFICATE)).with_context(|| need_a_ca(&args.ca))?;
    let ca_key = files::read(&args.ca.join(CA_KEY)).with_context(|| need_a_ca(&args.ca))?;
    let authority = Authority::load(&ca_certificate, &ca_key, now)
        .with_context(|| format!("cannot issue from {}", args.ca.display()))?;
    let Issued { certificate, key } = authority.issue(leaf, now, args.valid_for)?;
    let files = [
        secret(KEY, key.expose()),
        public(CERTIFICATE, &certificate),
        public(CA_CERTIFICATE, &ca_certificate),
    ];
    files::write(&args.out.out, &files, args.out.force)?;
    Ok(Exit::Done)
}

fn need_a_ca(directory: &Path) -> String {
    format!("expected a CA in {0} (make one by `isthmus certs ca --out {0}`)", directory.display())
}

fn show(file: &Path, format: FormatArgs, now: SystemTime) -> anyhow::Result<Exit> {
    let pem = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let certificates = show::read(&pem, now).with_context(|| format!("cannot show {}", file.display()))?;
    format.print(&certificates, |certificates| show::text(certificates))?;
    let all_valid = certificates.iter().all(show::Shown::is_valid);
    Ok(if all_valid { Exit::Done } else { Exit::Degraded })
}

fn public<'a>(name: &'static str, content: &'a str) -> File<'a> {
    File { name, content, mode: Mode::Public }
}

fn secret<'a>(name: &'static str, content: &'a str) -> File<'a> {
    File { name, content, mode: Mode::Secret }
}
