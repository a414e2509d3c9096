//! Endpoints, layer by layer: name, TCP, TLS, and a first answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvstore::EtcdConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::{self, Usable};
use super::{Layer, Outcome, Step};

/// Addresses of a name that are shown.
const SHOWN: usize = 4;
/// Limit for each of the layers below TLS.
const LIMIT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 16 * 1024;

/// Tries every endpoint; those that can be talked to. What fails at one endpoint is only a warning if another works.
pub(super) async fn endpoints(config: &EtcdConfig, tls: Option<&Usable>) -> (Vec<Step>, Vec<String>) {
    let mut all = Vec::new();
    let mut reached = Vec::new();
    for url in &config.endpoints {
        let mut steps = Vec::new();
        if endpoint(url, tls, &mut steps).await.is_some() {
            reached.push(url.clone());
        }
        all.extend(steps);
    }
    if !reached.is_empty() {
        for step in all.iter_mut().filter(|step| step.outcome == Outcome::Failed) {
            step.outcome = Outcome::Warning;
        }
    }
    (all, reached)
}

/// `None` as soon as a step failed.
async fn endpoint(url: &str, tls: Option<&Usable>, steps: &mut Vec<Step>) -> Option<()> {
    let (secure, host, port) = parts(url)?;
    let addresses = resolve(&host, port, steps).await?;
    let socket = connect(&addresses, steps).await?;
    match (secure, tls) {
        (false, _) => version(socket, &[], steps).await,
        // The files are in the way, of which there is a step already.
        (true, None) => None,
        (true, Some(usable)) => {
            let (stream, presented) = handshake(&host, socket, usable, steps).await?;
            version(stream, &presented, steps).await
        }
    }
}

fn parts(url: &str) -> Option<(bool, String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (rest, 2379),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((scheme == "https", host.to_owned(), port))
}

async fn resolve(host: &str, port: u16, steps: &mut Vec<Step>) -> Option<Vec<SocketAddr>> {
    let advice = "look at the name in `endpoints`, at cilium-host-aliases and at the DNS of this host";
    let failed =
        |why: String| Step::failed(Layer::NameResolution, format!("{host} has no address: {why}"), advice);
    let step = match timeout(LIMIT, lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let mut found: Vec<SocketAddr> = found.collect();
            found.dedup();
            if !found.is_empty() {
                let shown: Vec<String> =
                    found.iter().take(SHOWN).map(|address| address.ip().to_string()).collect();
                let more = found.len().saturating_sub(SHOWN);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                let what = format!("{host} is {}{more}", shown.join(", "));
                steps.push(Step::passed(Layer::NameResolution, what));
                return Some(found);
            }
            failed("the answer is empty".to_owned())
        }
        Ok(Err(error)) => failed(error.to_string()),
        Err(_elapsed) => failed(format!("no answer within {LIMIT:?}")),
    };
    steps.push(step);
    None
}

async fn connect(addresses: &[SocketAddr], steps: &mut Vec<Step>) -> Option<TcpStream> {
    let mut refused = Vec::new();
    for address in addresses {
        let why = match timeout(LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                steps.push(Step::passed(Layer::Tcp, format!("{address} accepts connections")).with(refused));
                return Some(socket);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer within {LIMIT:?}"),
        };
        refused.push(format!("{address}: {why}"));
    }
    let what = format!("no connection: {}", refused.join("; "));
    let advice = "see that the other cluster's store runs, and that its Service and firewalls let this address through";
    steps.push(Step::failed(Layer::Tcp, what, advice));
    None
}

/// Verifies as the mirror does, and keeps what was presented.
#[derive(Debug)]
struct Witness {
    inner: Arc<WebPkiServerVerifier>,
    presented: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) =
            chain.map(|certificate| certificate.clone().into_owned()).collect();
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

type Shaken = (Box<TlsStream<TcpStream>>, Vec<String>);

async fn handshake(host: &str, socket: TcpStream, usable: &Usable, steps: &mut Vec<Step>) -> Option<Shaken> {
    let name = usable.server_name.clone().unwrap_or_else(|| host.to_owned());
    let (witness, config) = match client(usable) {
        Ok(client) => client,
        Err(error) => {
            let what = format!("TLS cannot be set up from the files: {error}");
            steps.push(Step::failed(
                Layer::Certificate,
                what,
                "look at the files that the configuration names",
            ));
            return None;
        }
    };
    let server_name = ServerName::try_from(name.clone()).ok()?;
    let shaken = timeout(LIMIT, TlsConnector::from(Arc::new(config)).connect(server_name, socket)).await;
    let presented: Vec<String> = witness
        .presented
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|certificate| format!("server's certificate: {}", certificate::facts(certificate)))
        .collect();
    match shaken {
        Ok(Ok(stream)) => Some((Box::new(stream), presented)),
        Ok(Err(error)) => {
            steps.push(refusal(&error, &name).with(presented));
            None
        }
        Err(_elapsed) => {
            let what = format!("the port is open, and says nothing within {LIMIT:?}");
            steps.push(Step::failed(
                Layer::Tls,
                what,
                "see what listens there: it does not speak TLS, or hangs",
            ));
            None
        }
    }
}

fn client(usable: &Usable) -> Result<(Arc<Witness>, ClientConfig), Box<dyn std::error::Error>> {
    let provider = Arc::new(ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::clone(&usable.roots), Arc::clone(&provider))
        .build()?;
    let witness = Arc::new(Witness { inner, presented: Mutex::default() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>);
    let mut config = match &usable.own {
        Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((witness, config))
}

/// What an error of TLS means.
fn refusal(error: &std::io::Error, name: &str) -> Step {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(InvalidCertificate(why)) if certificate::is_about_dates(why) => Step::failed(
            Layer::Certificate,
            format!("the server's certificate is not valid now: {why}"),
            "issue the certificate of the other cluster's store anew, or set the clock",
        ),
        Some(InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        )) => Step::failed(
            Layer::Tls,
            format!("the server's certificate is not for {name}"),
            "use a name in `endpoints` that the certificate has, or issue it for this name as well",
        ),
        Some(InvalidCertificate(why)) => Step::failed(
            Layer::Tls,
            format!("the server's certificate is not vouched for by trusted-ca-file: {why}"),
            "put the CA of the other cluster's store into trusted-ca-file",
        ),
        Some(AlertReceived(alert)) => alerted(*alert),
        Some(InvalidMessage(_)) => Step::failed(
            Layer::Tls,
            "the port is open, and what answers is not TLS",
            "see what listens there, and whether `endpoints` should say http://",
        ),
        Some(PeerIncompatible(why)) => Step::failed(
            Layer::Tls,
            format!("the server and this program have no form of TLS in common: {why:?}"),
            "the server must offer TLS 1.2 or 1.3",
        ),
        _ => Step::failed(
            Layer::Tls,
            format!("the handshake failed: {error}"),
            "does the store know the CA of cert-file? A server may close without saying so",
        ),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other alerts are told alike")]
fn alerted(alert: AlertDescription) -> Step {
    match alert {
        AlertDescription::CertificateExpired => Step::failed(
            Layer::Certificate,
            "the server says that our certificate has expired",
            "issue the certificate of cert-file anew, or set the server's clock",
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError
        | AlertDescription::CertificateRequired
        | AlertDescription::AccessDenied
        | AlertDescription::UnsupportedCertificate => Step::failed(
            Layer::Tls,
            format!("the server refuses our certificate: {alert:?}"),
            "the store must know the CA of cert-file: exchange the CAs of the clusters, or use one for all",
        ),
        other => Step::failed(
            Layer::Tls,
            format!("the server refuses the connection: {other:?}"),
            "look at the log of the other cluster's store",
        ),
    }
}

/// A first answer, which also tells whether the server takes our certificate: in TLS 1.3 that comes after the handshake.
async fn version<S>(mut stream: S, presented: &[String], steps: &mut Vec<Step>) -> Option<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let layer = if presented.is_empty() { Layer::Tcp } else { Layer::Tls };
    let request = b"GET /version HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(request).await?;
        let mut part = [0; 1024];
        loop {
            let read = stream.read(&mut part).await;
            match read {
                Ok(0) => return Ok(()),
                // A server that does not say goodbye has still answered.
                Err(_) if !answer.is_empty() => return Ok(()),
                Err(error) => return Err(error),
                Ok(read) => answer.extend_from_slice(&part[..read]),
            }
            if answer.len() > MAX_ANSWER {
                return Ok(());
            }
        }
    };
    let talked = timeout(LIMIT, talk).await;
    let failed = |what: String, advice: &str| Step::failed(layer, what, advice);
    let step = match talked {
        Ok(Ok(())) if answer.starts_with(b"HTTP/1") => {
            let text = String::from_utf8_lossy(&answer);
            let version = text.split_once("\r\n\r\n").and_then(|(_, body)| server_version(body));
            let what = match version {
                Some(version) => format!("the store answers, etcd version {version}"),
                None => "the store answers".to_owned(),
            };
            steps.push(Step::passed(layer, what).with(presented.to_vec()));
            return Some(());
        }
        Ok(Ok(())) if answer.is_empty() => failed(
            "the server closes the connection without an answer".to_owned(),
            "does the store know the CA of cert-file? A server may close without saying so",
        ),
        Ok(Ok(())) => failed(
            "what answers is no store".to_owned(),
            "see what listens there: `endpoints` must lead to the store of the other cluster",
        ),
        Ok(Err(error)) => refusal(&error, ""),
        Err(_elapsed) => failed(
            format!("the connection stands, and there is no answer within {LIMIT:?}"),
            "look at the log and the load of the other cluster's store",
        ),
    };
    steps.push(step.with(presented.to_vec()));
    None
}

/// From the page `/version`, which may come in chunks.
fn server_version(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("\"etcdserver\":\"")?;
    rest.split_once('"').map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_parts() {
        for (url, expected) in [
            ("https://a:1", Some((true, "a", 1))),
            ("http://a", Some((false, "a", 2379))),
            ("https://[::1]:5", Some((true, "::1", 5))),
            ("https://[::1]", Some((true, "::1", 2379))),
            ("a:1", None),
            ("https://a:x", None),
        ] {
            let found = parts(url);
            let found = found.as_ref().map(|(secure, host, port)| (*secure, host.as_str(), *port));
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn the_version_is_found_in_etcds_answer() {
        assert_eq!(server_version(r#"{"etcdserver":"3.7.0","etcdcluster":"3.7.0"}"#), Some("3.7.0"));
        assert_eq!(server_version("not found"), None);
    }
}
