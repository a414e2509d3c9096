//! `isthmus agent cleanup`.

use super::SocketArgs;
use crate::exit::Exit;
use crate::once;
use crate::out;
use agent_sync::datapath::{Datapath as _, Nft, NftOptions};
use anyhow::{Context as _, bail};
use std::os::unix::net::UnixStream;
use std::path::Path;
use wireguard::{Choice, Config, PrivateKey};

/// Arguments of `isthmus agent cleanup`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also remove this WireGuard interface with its peers and routes. Packets to other clusters may then leave in clear.
    #[arg(long, value_name = "NAME")]
    wireguard_interface: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let socket = &self.socket.socket;
        if UnixStream::connect(socket).is_ok() {
            bail!("an agent runs here (it answers at {}); stop it first", socket.display());
        }
        once::run(async {
            let mut nft = Nft::new(NftOptions::default());
            let found = nft.inherited().await?;
            nft.uninstall().await?;
            out::print(if found {
                "removed the rules for services"
            } else {
                "no rules for services were left"
            })?;
            agent_sync::forget_followed(socket).context("remove what the agent noted for its next start")?;
            match &self.wireguard_interface {
                Some(name) => remove_interface(name),
                None => Ok(()),
            }
        })??;
        Ok(Exit::Done)
    }
}

/// Must be called on a runtime.
fn remove_interface(name: &str) -> anyhow::Result<()> {
    if name.contains('/') || !Path::new("/sys/class/net").join(name).exists() {
        return out::print(format_args!("no interface {name} was left"));
    }
    // To take it down it must be opened, and that wants a key; nobody will ever use this one.
    let key = PrivateKey::generate().context("make a key")?;
    let config = Config { name: name.to_owned(), ..Config::default() };
    let mut opened = wireguard::open(Choice::Auto, &config, &key)?;
    opened.device.uninstall()?;
    out::print(format_args!("removed the interface {name}"))
}
