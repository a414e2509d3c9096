//! `isthmus certs`.

use crate::certs::files::{self, CA_CERTIFICATE, CA_KEY, CERTIFICATE, File, KEY, Mode};
use crate::certs::verify::{self, Question, Role};
use crate::certs::{Authority, CommonName, Issued, Leaf, ServerName, new_ca, show};
use crate::duration;
use crate::exit::Exit;
use crate::out::{self, FormatArgs};
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
    /// Issue a certificate again, with the same subject, names and usages and a key of its own; the daemons that use it take
    /// it up without a restart.
    Renew(RenewArgs),
    /// Check that a certificate does what it is for: dates, chain with intermediates, usage, names, key; exit code 3 if not.
    Verify(VerifyArgs),
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
struct RenewArgs {
    /// Directory with tls.crt, tls.key and ca.crt, which are replaced.
    directory: PathBuf,
    /// Directory with the CA's ca.crt and ca.key.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// How long the new certificate is valid.
    #[arg(long, value_name = "DURATION", default_value = "1095d", value_parser = duration::parse_positive)]
    valid_for: Duration,
    /// Only if it ends sooner than that; else it stays as it is.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    if_within: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// A file with the certificate and its intermediates, or a directory with tls.crt, tls.key and ca.crt.
    path: PathBuf,
    /// A file with the certificates that it must lead to [default: ca.crt beside it].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with its private key [default: tls.key, if a directory is given].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// What it is to be used as [default: what its usages say].
    #[arg(long = "for", value_name = "ROLE", value_enum)]
    role: Option<Role>,
    /// A name or an address that a server is to have; may be repeated.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// What ends sooner is not well.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration::parse)]
    within: Duration,
    #[command(flatten)]
    format: FormatArgs,
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
            Command::Renew(args) => renew(&args, now),
            Command::Verify(args) => verify(&args, now),
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

/// The CA of a directory, with its certificate.
fn authority(directory: &Path, now: SystemTime) -> anyhow::Result<(String, Authority)> {
    let certificate = files::read(&directory.join(CA_CERTIFICATE)).with_context(|| need_a_ca(directory))?;
    let key = files::read(&directory.join(CA_KEY)).with_context(|| need_a_ca(directory))?;
    let authority = Authority::load(&certificate, &key, now)
        .with_context(|| format!("cannot issue from {}", directory.display()))?;
    Ok((certificate, authority))
}

fn issue(args: &LeafArgs, leaf: &Leaf, now: SystemTime) -> anyhow::Result<Exit> {
    let (ca_certificate, authority) = authority(&args.ca, now)?;
    let Issued { certificate, key } = authority.issue(leaf, now, args.valid_for)?;
    let files = [
        secret(KEY, key.expose()),
        public(CERTIFICATE, &certificate),
        public(CA_CERTIFICATE, &ca_certificate),
    ];
    files::write(&args.out.out, &files, args.out.force)?;
    Ok(Exit::Done)
}

fn renew(args: &RenewArgs, now: SystemTime) -> anyhow::Result<Exit> {
    let former = files::read(&args.directory.join(CERTIFICATE))?;
    let shown = show::read(former.as_bytes(), now)
        .with_context(|| format!("cannot renew {}", args.directory.display()))?;
    let left = shown[0].days_left;
    let due = args
        .if_within
        .is_none_or(|within| i64::try_from(within.as_secs() / (24 * 3600)).is_ok_and(|days| left < days));
    if !due {
        out::print(format_args!("{} stays: {left} days are left", shown[0].subject))?;
        return Ok(Exit::Done);
    }
    let (ca_certificate, authority) = authority(&args.ca, now)?;
    let Issued { certificate, key } = authority
        .renew(&former, now, args.valid_for)
        .with_context(|| format!("cannot renew {}", args.directory.display()))?;
    // The certificate is what daemons watch for: with it comes the last of what belongs together.
    let files = [
        public(CA_CERTIFICATE, &ca_certificate),
        secret(KEY, key.expose()),
        public(CERTIFICATE, &certificate),
    ];
    files::write(&args.directory, &files, true)?;
    let renewed = show::read(certificate.as_bytes(), now)?;
    out::print(format_args!("{} is renewed: {}", renewed[0].subject, renewed[0].period()))?;
    Ok(Exit::Done)
}

fn verify(args: &VerifyArgs, now: SystemTime) -> anyhow::Result<Exit> {
    let (file, directory) = if args.path.is_dir() {
        (args.path.join(CERTIFICATE), Some(args.path.as_path()))
    } else {
        (args.path.clone(), args.path.parent())
    };
    let beside = directory.unwrap_or(Path::new("")).join(CA_CERTIFICATE);
    let chain = files::read(&file)?;
    let authorities = files::read(args.ca.as_ref().unwrap_or(&beside))?;
    let key = args.key.clone().or_else(|| args.path.is_dir().then(|| args.path.join(KEY)));
    let key = key.map(|file| files::read(&file)).transpose()?;
    let question = Question {
        chain: &chain,
        authorities: &authorities,
        key: key.as_deref(),
        role: args.role,
        names: &args.name,
        soon: args.within,
        now,
    };
    let checks = verify::verify(&question).with_context(|| format!("cannot verify {}", file.display()))?;
    args.format.print(&checks, |checks| verify::text(checks))?;
    Ok(if checks.iter().all(|check| check.ok) { Exit::Done } else { Exit::Degraded })
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
