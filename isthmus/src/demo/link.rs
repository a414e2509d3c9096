//! The connections between clusters: for each direction a TCP proxy that can be cut.
//!
//! A pair of clusters is cut while the directory `cut` has a file of its two names, such as `west-east`.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A pair of clusters, the one of the lower id first.
pub(crate) type Pair = (&'static str, &'static str);

/// All links.
#[derive(Debug)]
pub(crate) struct Links {
    dir: PathBuf,
    /// Where the first cluster of the key reaches the store of the second.
    addresses: BTreeMap<(&'static str, &'static str), SocketAddr>,
    open: BTreeMap<Pair, watch::Sender<bool>>,
    proxies: JoinSet<()>,
}

impl Links {
    /// Opens a proxy for each direction between the stores.
    pub(crate) async fn open(dir: &Path, stores: &[(&'static str, u16)]) -> anyhow::Result<Self> {
        let dir = dir.join("cut");
        std::fs::create_dir_all(&dir).context("make the directory of cut links")?;
        let mut links =
            Self { dir, addresses: BTreeMap::new(), open: BTreeMap::new(), proxies: JoinSet::new() };
        for (index, (one, one_port)) in stores.iter().enumerate() {
            for (other, other_port) in &stores[index + 1..] {
                let open = watch::Sender::new(true);
                for (from, to, port) in [(one, other, other_port), (other, one, one_port)] {
                    let listener =
                        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open a link")?;
                    let address = listener.local_addr().context("read the address of a link")?;
                    links.addresses.insert((*from, *to), address);
                    links.proxies.spawn(serve(listener, *port, open.subscribe()));
                }
                links.open.insert((one, other), open);
            }
        }
        Ok(links)
    }

    /// Where `from` reaches the store of `to`.
    pub(crate) fn address(&self, from: &str, to: &str) -> Option<SocketAddr> {
        let found = self.addresses.iter().find(|((one, other), _)| *one == from && *other == to);
        found.map(|(_, address)| *address)
    }

    /// The file whose presence cuts a pair.
    pub(crate) fn file(&self, one: &str, other: &str) -> PathBuf {
        self.dir.join(format!("{one}-{other}"))
    }

    /// What [`Switch`] needs to follow the directory.
    pub(crate) fn switch(&self) -> Switch {
        Switch { dir: self.dir.clone(), open: self.open.clone() }
    }
}

/// Opens and cuts links as the directory says.
#[derive(Debug)]
pub(crate) struct Switch {
    dir: PathBuf,
    open: BTreeMap<Pair, watch::Sender<bool>>,
}

impl Switch {
    /// Looks at the directory. Returns the pairs that changed, with whether they are open now.
    pub(crate) fn look(&self) -> Vec<(Pair, bool)> {
        let mut changed = Vec::new();
        for (pair, open) in &self.open {
            let (one, other) = pair;
            let cut = [(one, other), (other, one)];
            let cut = cut.iter().any(|(one, other)| self.dir.join(format!("{one}-{other}")).exists());
            if open.send_if_modified(|open| std::mem::replace(open, !cut) == cut) {
                changed.push((*pair, !cut));
            }
        }
        changed
    }
}

/// Takes connections, and passes on those that come while the link is open.
async fn serve(listener: TcpListener, port: u16, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((inbound, _peer)) = accepted else { return };
                if *open.borrow() {
                    connections.spawn(pass_on(inbound, port, open.clone()));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Passes bytes on both ways until an end is reached or the link is cut.
async fn pass_on(mut inbound: TcpStream, port: u16, mut open: watch::Receiver<bool>) {
    let Ok(mut outbound) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    tokio::select! {
        _ended = copy_bidirectional(&mut inbound, &mut outbound) => {}
        _cut = open.wait_for(|open| !open) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_cut_link_ends_connections_and_takes_no_new_ones_until_it_is_whole() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = echo.local_addr().unwrap().port();
        let mut echoes = JoinSet::new();
        echoes.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((mut stream, _)) = echo.accept().await {
                streams.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.unwrap_or_default();
                });
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path(), &[("west", 1), ("east", port)]).await.unwrap();
        let switch = links.switch();
        assert_eq!(switch.look(), []);
        let address = links.address("west", "east").unwrap();
        let speak = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            let mut byte = [0];
            let heard = stream.read_exact(&mut byte).await.is_ok();
            (stream, heard)
        };
        let (mut stream, heard) = speak().await;
        assert!(heard);
        // Either order of the names counts.
        std::fs::write(links.file("east", "west"), "").unwrap();
        assert_eq!(switch.look(), [(("west", "east"), false)]);
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "the connection has ended");
        assert!(!speak().await.1);
        std::fs::remove_file(links.file("east", "west")).unwrap();
        assert_eq!(switch.look(), [(("west", "east"), true)]);
        assert!(speak().await.1);
    }
}
