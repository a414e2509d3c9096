//! A way to an API server that lies about the time, or keeps writes waiting.
//!
//! `kubectl proxy` speaks TLS with the API server; this stands before it, in plain HTTP/1.1, one request a connection.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::poll;
use crate::{Cluster, Daemon, DaemonSpec, Host, tool};

/// How long `kubectl proxy` may take until it listens.
const PROXY_PATIENCE: Duration = Duration::from_secs(60);

/// How often a held write looks whether its client still waits.
const LOOK: Duration = Duration::from_millis(50);

/// Whether writes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// They do.
    No,
    /// They wait until they do.
    Writes,
}

/// A relay to one cluster's API, on another machine. Dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    state: Arc<State>,
    url: String,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
    _proxy: Daemon,
}

#[derive(Debug)]
struct State {
    host: Host,
    upstream: SocketAddr,
    ahead_seconds: AtomicI64,
    /// Bit 0: whether writes are held; the rest: how many are.
    held: AtomicU64,
}

impl Relay {
    /// Starts it at `port` of `host`, and `kubectl proxy` at the next one, with the administrator's rights.
    ///
    /// # Errors
    /// If a port is taken, or a program cannot be started.
    pub fn start(host: &Host, port: u16, cluster: &Cluster) -> Result<Self> {
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port + 1));
        let proxy = DaemonSpec::program(&format!("proxy-{port}"), &tool("kubectl")?)
            .args(["proxy", "--address=127.0.0.1"])
            .arg(format!("--port={}", upstream.port()))
            .env("KUBECONFIG", cluster.kubeconfig());
        let mut proxy = host.daemon(proxy)?;
        poll(PROXY_PATIENCE, || {
            proxy.process().ensure_running()?;
            host.netns().enter(|| TcpStream::connect(upstream))?.context("kubectl proxy does not listen yet")
        })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = host.netns().enter(|| TcpListener::bind(address))?.context("bind")?;
        let state = Arc::new(State {
            host: host.clone(),
            upstream,
            ahead_seconds: AtomicI64::new(0),
            held: AtomicU64::new(0),
        });
        let (accepting, shared) = (listener.try_clone()?, Arc::clone(&state));
        let thread = thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((stream, _peer)) = accepting.accept() {
                let state = Arc::clone(&shared);
                // What fails here fails at both ends, which say so.
                thread::spawn(move || drop(state.relay(&stream)));
            }
        });
        Ok(Self { state, url: format!("http://{address}"), listener, thread: Some(thread), _proxy: proxy })
    }

    /// Where it answers, on its machine.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The dates of answers are so far ahead of the truth.
    pub fn set_ahead(&self, seconds: i64) {
        self.state.ahead_seconds.store(seconds, Ordering::SeqCst);
    }

    /// Holds writes, or lets them pass.
    pub fn hold(&self, held: Held) {
        self.state.held.store(u64::from(held == Held::Writes), Ordering::SeqCst);
    }

    /// How many writes were held since it was last said whether they are.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.state.held.load(Ordering::SeqCst) / 2
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // As with the HTTP server: this wakes the thread that accepts.
        if let Ok(listener) = self.listener.try_clone() {
            drop(TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both));
        }
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl State {
    fn relay(&self, client: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(client);
        let (mut head, length) = head(&mut reader)?;
        let mut body = vec![0; length.unwrap_or_default()];
        reader.read_exact(&mut body)?;
        let is_write = !head[0].starts_with("GET ") && !head[0].contains("reviews");
        if is_write && self.held.load(Ordering::SeqCst) & 1 == 1 {
            self.held.fetch_add(2, Ordering::SeqCst);
            self.wait(client)?;
        }
        head.retain(|line| !is(line, "connection"));
        head.push("Connection: close".to_owned());
        let mut server = self.host.netns().enter(|| TcpStream::connect(self.upstream))??;
        server.write_all(lines(&head).as_bytes())?;
        server.write_all(&body)?;

        let mut answer = BufReader::new(server);
        let (mut head, _) = self::head(&mut answer)?;
        for line in head.iter_mut().filter(|line| is(line, "date")) {
            *line = format!("Date: {}", self.date(line.split_once(": ").context("a date")?.1)?);
        }
        let mut client = client;
        client.write_all(lines(&head).as_bytes())?;
        std::io::copy(&mut answer, &mut client)?;
        client.shutdown(Shutdown::Both)?;
        Ok(())
    }

    /// Until writes pass.
    ///
    /// # Errors
    /// If the client is gone: what it asked for is not done.
    fn wait(&self, client: &TcpStream) -> Result<()> {
        client.set_read_timeout(Some(LOOK))?;
        loop {
            let pass = self.held.load(Ordering::SeqCst) & 1 == 0;
            // It has sent all of its request: it can only go, or go on waiting.
            let waits = client.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            ensure!(waits, "the client is gone");
            if pass {
                return Ok(client.set_read_timeout(None)?);
            }
        }
    }

    fn date(&self, date: &str) -> Result<String> {
        static PARSER: jiff::fmt::rfc2822::DateTimeParser = jiff::fmt::rfc2822::DateTimeParser::new();
        static PRINTER: jiff::fmt::rfc2822::DateTimePrinter = jiff::fmt::rfc2822::DateTimePrinter::new();
        let second = PARSER.parse_timestamp(date)?.as_second() + self.ahead_seconds.load(Ordering::SeqCst);
        Ok(PRINTER.timestamp_to_rfc9110_string(&jiff::Timestamp::from_second(second)?)?)
    }
}

fn is(line: &str, header: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(header))
}

fn lines(head: &[String]) -> String {
    format!("{}\r\n\r\n", head.join("\r\n"))
}

/// The lines of a head, and the length of the body that follows, if it says so.
fn head(reader: &mut impl BufRead) -> Result<(Vec<String>, Option<usize>)> {
    let mut head = Vec::new();
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the head does not end");
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((head, length));
        }
        if is(line, "content-length") {
            length = line.split_once(':').and_then(|(_, length)| length.trim().parse().ok());
        }
        head.push(line.to_owned());
    }
}
