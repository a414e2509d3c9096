//! UDP and TCP: bytes in, [`Handler`], bytes out. Nothing waits here but for the network.
//!
//! hickory-server reads requests, hands them to the handler and writes responses; the sockets are held here, because its own listeners
//! bound neither tasks nor connections (`docs/decisions/0005-dns-sockets-of-our-own.md`, and the tests in `server/listeners.rs`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use mesh_runtime::BindError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::handler::{Handler, Outbox};
use crate::metrics::{Metrics, Transport};
use crate::published::Published;

/// No query is as long: a name has 255 octets at most, and an OPT record few options.
const MAX_QUERY_BYTES: usize = 4096;
/// Tasks that read from one UDP socket, so that one busy core does not hold up the others.
const RECEIVERS: usize = 2;
/// Further clients wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may be idle, and how long a message may take to come or go (RFC 7766 §6.2.3 asks for seconds).
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failure of the socket itself, which does not go away by asking again at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// How often another free port is tried when UDP has taken the one that TCP got.
const PORT_ATTEMPTS: usize = 16;

/// A server with its sockets open.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(TcpListener, UdpSocket)>,
    shared: Shared,
}

#[derive(Clone, Debug)]
struct Shared {
    handler: Handler,
    metrics: Metrics,
}

impl Server {
    /// Opens TCP and UDP on each of `addresses`, before any task runs, so that a taken port stops the start.
    ///
    /// Port 0 is a free one, the same for both. `max_datagram_bytes` bounds UDP responses to clients that offer more by EDNS.
    ///
    /// # Errors
    /// [`BindError`] of the first address that cannot be had.
    pub async fn bind(
        addresses: &[SocketAddr],
        zone: Published,
        metrics: Metrics,
        max_datagram_bytes: u16,
    ) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for address in addresses {
            sockets.push(bind(*address).await?);
        }
        let handler = Handler::new(zone, max_datagram_bytes);
        Ok(Self { sockets, shared: Shared { handler, metrics } })
    }

    /// Where it listens, in the order given to [`Server::bind`].
    ///
    /// # Errors
    /// What the system says.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(|(listener, _)| listener.local_addr()).collect()
    }

    /// Answers until `stop`; responses under way go out.
    ///
    /// # Errors
    /// None today: a failure of a client or of a socket is passed over.
    pub async fn serve(self, stop: CancellationToken) -> io::Result<()> {
        let mut loops = JoinSet::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for (listener, socket) in self.sockets {
            let socket = Arc::new(socket);
            for _ in 0..RECEIVERS {
                loops.spawn(udp(Arc::clone(&socket), self.shared.clone(), stop.clone()));
            }
            loops.spawn(tcp(listener, Arc::clone(&permits), self.shared.clone(), stop.clone()));
        }
        loops.join_all().await;
        Ok(())
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, UdpSocket), BindError> {
    let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let listener = mesh_runtime::bind("dns", address).await?;
        let refused = |source| BindError::Refused { what: "dns", address, source };
        let same_port = listener.local_addr().map_err(refused)?;
        match UdpSocket::bind(same_port).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => return Err(refused(source)),
            Err(_taken) if attempts == 0 => return Err(BindError::Taken { what: "dns", address: same_port }),
            Err(_taken) => {}
        }
    }
}

async fn udp(socket: Arc<UdpSocket>, shared: Shared, stop: CancellationToken) {
    // One octet more, by which a longer datagram shows.
    let mut query = vec![0; MAX_QUERY_BYTES + 1];
    let outbox = Outbox::default();
    while let Some(received) = stop.run_until_cancelled(socket.recv_from(&mut query)).await {
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "cannot receive DNS queries");
                sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        if length > MAX_QUERY_BYTES {
            shared.metrics.count(Transport::Udp, None);
            continue;
        }
        let outcome = shared.handler.answer(&query[..length], client, Protocol::Udp, &outbox).await;
        shared.metrics.count(Transport::Udp, outcome.as_ref());
        if outcome.is_some()
            && let Err(error) = socket.send_to(&outbox.take(), client).await
        {
            debug!(%client, %error, "cannot send a DNS response");
        }
    }
}

async fn tcp(listener: TcpListener, permits: Arc<Semaphore>, shared: Shared, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
            (listener.accept().await, permit)
        };
        let Some((accepted, permit)) = stop.run_until_cancelled(next).await else { break };
        while connections.try_join_next().is_some() {}
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept DNS connections");
                sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        let (shared, stop) = (shared.clone(), stop.clone());
        connections.spawn(async move {
            shared.metrics.connections().inc();
            if let Err(error) = converse(stream, client, &shared, &stop).await {
                debug!(%client, %error, "DNS connection ended");
            }
            shared.metrics.connections().dec();
            drop(permit);
        });
    }
    connections.join_all().await;
}

/// Answers one query after the other (RFC 7766) until the client closes, is idle, or sends what is no query.
async fn converse(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Shared,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut query = Vec::new();
    let outbox = Outbox::default();
    loop {
        // Dropping the read at `stop` loses at most a query that has not come in whole.
        let read = timeout(TCP_TIMEOUT, read(&mut stream, &mut query));
        let Some(read) = stop.run_until_cancelled(read).await else { return Ok(()) };
        let outcome = match read?? {
            Read::Closed => return Ok(()),
            Read::TooLong => None,
            Read::Query => shared.handler.answer(&query, client, Protocol::Tcp, &outbox).await,
        };
        shared.metrics.count(Transport::Tcp, outcome.as_ref());
        if outcome.is_none() {
            return Ok(());
        }
        let response = outbox.take();
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes()[..], &response].concat();
        timeout(TCP_TIMEOUT, stream.write_all(&message)).await??;
    }
}

/// What came of reading one message.
enum Read {
    Query,
    /// The client has closed the connection.
    Closed,
    /// Longer than any query; it was not read.
    TooLong,
}

async fn read(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<Read> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Read::Closed),
        Err(error) => return Err(error),
    };
    if length > MAX_QUERY_BYTES {
        return Ok(Read::TooLong);
    }
    query.resize(length, 0);
    stream.read_exact(query).await?;
    Ok(Read::Query)
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod tests;
