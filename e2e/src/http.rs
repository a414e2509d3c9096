//! The least of HTTP/1.1 that shows who answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::NetNs;

/// How long connecting may take. The kernel answers for a listener, however busy the machine is; where nobody answers, this is
/// how long a test waits.
const CONNECT: Duration = Duration::from_secs(3);
/// How long each read and write may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers every request with one text, in a namespace, until dropped.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    served: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The code, such as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl HttpServer {
    pub(crate) fn start(netns: &NetNs, port: u16, text: &str) -> Result<Self> {
        let listener = netns.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?.context("bind")?;
        let served = Arc::new(AtomicU64::new(0));
        let (accepting, count, text) = (listener.try_clone()?, Arc::clone(&served), text.to_owned());
        let thread = thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((stream, _peer)) = accepting.accept() {
                let (count, text) = (Arc::clone(&count), text.clone());
                // Whoever is not answered sees it at the other end.
                thread::spawn(move || drop(answer(&stream, &text, &count)));
            }
        });
        Ok(Self { listener, served, thread: Some(thread) })
    }

    /// How many requests it has been sent.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Shutting the socket down wakes the thread that accepts; the standard library offers it for streams only.
        if let Ok(listener) = self.listener.try_clone() {
            drop(TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both));
        }
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// One request, one answer, and the connection ends.
fn answer(stream: &TcpStream, text: &str, served: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    // Counted before: who has the answer finds it counted.
    served.fetch_add(1, Ordering::Relaxed);
    let mut stream = stream;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

impl NetNs {
    /// Asks for `path` from within the namespace, on a connection of its own.
    ///
    /// # Errors
    /// If there is no connection within three seconds, or no well-formed answer on it within twenty.
    pub fn http_get(&self, from: SocketAddr, path: &str) -> Result<HttpAnswer> {
        let stream = self.enter(|| TcpStream::connect_timeout(&from, CONNECT))?;
        let stream = stream.with_context(|| format!("connect from {} to {from}", self.name()))?;
        get(stream, from, path).with_context(|| format!("HTTP from {} to {from}", self.name()))
    }
}

fn get(mut stream: TcpStream, from: SocketAddr, path: &str) -> Result<HttpAnswer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    let mut length = None;
    loop {
        line.clear();
        ensure!(answer.read_line(&mut line)? > 0, "the headers do not end");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().context("a length that is no number")?);
        }
    }
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            answer.read_exact(&mut body)?;
        }
        None => drop(answer.read_to_end(&mut body)?),
    }
    Ok(HttpAnswer { status, body: String::from_utf8(body).context("a body that is no text")? })
}
