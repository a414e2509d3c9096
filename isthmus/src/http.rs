//! Asking a daemon's health listener, which speaks plain HTTP.

use anyhow::{Context as _, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Limit for connecting, and for each read and write.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is read.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The body of `GET path`.
///
/// HTTP/1.0, so that the answer ends where the connection does and has no chunks.
pub(crate) fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    body(ask(address, &asking_for(address, path))?)
}

/// The same; `None` if the listener has no such page.
pub(crate) fn get_if(address: SocketAddr, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let answer = ask(address, &asking_for(address, path))?;
    let (head, _) = split(&answer)?;
    if status(&head) == Some("404") { Ok(None) } else { body(answer).map(Some) }
}

fn asking_for(address: SocketAddr, path: &str) -> String {
    format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")
}

/// The body of the answer to `POST path` with this JSON.
pub(crate) fn post(address: SocketAddr, path: &str, json: &str) -> anyhow::Result<Vec<u8>> {
    let length = json.len();
    body(ask(
        address,
        &format!(
            "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
        ),
    )?)
}

fn ask(address: SocketAddr, request: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a time-out")?;
    stream.set_write_timeout(Some(PATIENCE)).context("set a time-out")?;
    stream.write_all(request.as_bytes()).context("ask")?;
    let mut answer = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut answer).context("read the answer")?;
    Ok(answer)
}

/// The head, and where the body begins.
fn split(answer: &[u8]) -> anyhow::Result<(String, usize)> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("the answer is no HTTP")?;
    Ok((String::from_utf8_lossy(&answer[..end]).into_owned(), end + 4))
}

fn status(head: &str) -> Option<&str> {
    head.lines().next()?.split(' ').nth(1)
}

fn body(mut answer: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let (head, begins) = split(&answer)?;
    let body = answer.split_off(begins);
    match status(&head) {
        Some("200") => Ok(body),
        // A page that is not there has no words of its own.
        Some("404") if !body.is_empty() => bail!("{}", String::from_utf8_lossy(&body)),
        _ => bail!("expected 200, found {:?}", head.lines().next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}".to_vec()).unwrap(), b"{}");
        for (answer, expected) in [
            ("HTTP/1.0 404 Not Found\r\n\r\n", "expected 200, found \"HTTP/1.0 404 Not Found\""),
            ("SSH-2.0-OpenSSH\r\n", "the answer is no HTTP"),
        ] {
            assert_eq!(body(answer.as_bytes().to_vec()).unwrap_err().to_string(), expected);
        }
    }
}
