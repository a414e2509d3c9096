//! UDP and TCP: bytes in, [`respond`], bytes out. Nothing waits here but for the network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::BindError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::{Metrics, Transport};
use crate::packet::{Limit, respond};
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
    zone: Published,
    metrics: Metrics,
    datagram: Limit,
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
        let datagram = Limit::Datagram(max_datagram_bytes);
        Ok(Self { sockets, shared: Shared { zone, metrics, datagram } })
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
    let mut query = vec![0; MAX_QUERY_BYTES];
    while let Some(received) = stop.run_until_cancelled(socket.recv_from(&mut query)).await {
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "cannot receive DNS queries");
                sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        let response = respond(&query[..length], &shared.zone.zone(), shared.datagram);
        shared.metrics.count(Transport::Udp, response.as_ref());
        if let Some(response) = response
            && let Err(error) = socket.send_to(&response.bytes, client).await
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
            if let Err(error) = converse(stream, &shared, &stop).await {
                debug!(%client, %error, "DNS connection ended");
            }
            shared.metrics.connections().dec();
            drop(permit);
        });
    }
    connections.join_all().await;
}

/// Answers one query after the other (RFC 7766) until the client closes, is idle, or sends what is no query.
async fn converse(mut stream: TcpStream, shared: &Shared, stop: &CancellationToken) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        // Dropping the read at `stop` loses at most a query that has not come in whole.
        let read = timeout(TCP_TIMEOUT, read(&mut stream, &mut query));
        let Some(read) = stop.run_until_cancelled(read).await else { return Ok(()) };
        if !read?? {
            return Ok(());
        }
        let response = respond(&query, &shared.zone.zone(), Limit::Stream);
        shared.metrics.count(Transport::Tcp, response.as_ref());
        let Some(response) = response else { return Ok(()) };
        let length = u16::try_from(response.bytes.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes()[..], &response.bytes].concat();
        timeout(TCP_TIMEOUT, stream.write_all(&message)).await??;
    }
}

/// Reads one message. False if the client has closed the connection, or its message is longer than any query.
async fn read(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length > MAX_QUERY_BYTES {
        return Ok(false);
    }
    query.resize(length, 0);
    stream.read_exact(query).await?;
    Ok(true)
}

#[cfg(test)]
mod tests;
