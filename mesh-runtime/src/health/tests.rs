use super::*;
use prometheus_client::metrics::counter::Counter;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinSet<io::Result<()>>,
}

impl Served {
    async fn new(health: Health) -> Self {
        let listener = bind("health", ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(health.serve(listener, stop.clone()));
        Self { address, stop, server }
    }

    /// Status line and headers, and body.
    async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

#[tokio::test]
async fn readyz_names_what_is_pending_and_then_never_turns_back() {
    let readiness = Readiness::new();
    let (nodes, ip) = (readiness.guard("remote/east: nodes"), readiness.guard("kvstore"));
    let served = Served::new(Health::new(readiness.clone(), Registry::default())).await;

    let (head, body) = served.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    assert_eq!(body, "NotReady\nkvstore\nremote/east: nodes");
    let (head, _) = served.get("/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "alive while not ready: {head}");

    nodes.ready();
    ip.ready();
    let (head, body) = served.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "Ready");
}

#[tokio::test]
async fn metrics_are_openmetrics_text_of_the_moment() {
    let mut registry = Registry::with_prefix("mesh");
    let events = Counter::<u64>::default();
    registry.register("events", "Events seen", events.clone());
    let served = Served::new(Health::new(Readiness::new(), registry)).await;
    events.inc_by(3);
    let (head, body) = served.get("/metrics").await;
    assert!(head.contains(&format!("content-type: {OPENMETRICS}")), "{head}");
    assert!(body.contains("mesh_events_total 3\n"), "{body}");
}

#[tokio::test]
async fn a_json_page_shows_the_state_of_the_moment() {
    let keys = Arc::new(std::sync::atomic::AtomicU64::new(1));
    let source = Arc::clone(&keys);
    let page = move || serde_json::json!({ "keys": source.load(std::sync::atomic::Ordering::SeqCst) });
    let served = Served::new(Health::new(Readiness::new(), Registry::default()).json("/status", page)).await;
    keys.store(7, std::sync::atomic::Ordering::SeqCst);
    let (head, body) = served.get("/status").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, r#"{"keys":7}"#);
}

#[tokio::test]
async fn unknown_pages_are_not_found() {
    let served = Served::new(Health::new(Readiness::new(), Registry::default())).await;
    let (head, _) = served.get("/debug").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[tokio::test]
async fn a_taken_port_stops_the_start_and_says_what_to_do() {
    let first = bind("health", ANY_PORT).await.unwrap();
    let address = first.local_addr().unwrap();
    let error = bind("health", address).await.unwrap_err().to_string();
    assert!(error.contains(&format!("health cannot listen on {address}: the port is taken")), "{error}");
}

#[tokio::test]
async fn stopping_does_not_wait_for_an_idle_client() {
    let mut served = Served::new(Health::new(Readiness::new(), Registry::default())).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    let (head, _) = served.get("/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "the idle one was accepted before: {head}");
    served.stop.cancel();
    served.server.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0, "its connection is closed");
    assert!(TcpStream::connect(served.address).await.is_err(), "and nobody listens any more");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_free_place() {
    let served = Served::new(Health::new(Readiness::new(), Registry::default())).await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(served.address).await.unwrap());
    }
    let waiting = served.get("/healthz");
    tokio::pin!(waiting);
    let early = timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "no place is free: {early:?}");
    idle.pop();
    let (head, _) = waiting.await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn an_action_is_carried_out_for_loopback_alone() {
    let act = |word: String| match word.as_str() {
        "west" => Ok(7),
        other => Err(format!("no {other}")),
    };
    let health = Health::new(Readiness::new(), Registry::default()).action("/release", act);
    let ask = async |router: &Router, caller: [u8; 4], body: &'static str| {
        let service = router.clone().layer(Extension(Caller(caller.into())));
        let request = axum::http::Request::post("/release").body(axum::body::Body::from(body)).unwrap();
        let answer =
            hyper::service::Service::call(&TowerToHyperService::new(service), request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1024).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    assert_eq!(ask(&health.router, [127, 0, 0, 1], r#""west""#).await, (200, "7".to_owned()));
    assert_eq!(ask(&health.router, [127, 0, 0, 1], r#""east""#).await, (404, "no east".to_owned()));
    assert_eq!(ask(&health.router, [127, 0, 0, 1], "{").await.0, 400);
    assert_eq!(ask(&health.router, [10, 0, 0, 1], r#""west""#).await.0, 403);

    let served = Served::new(health).await;
    let (head, _) = served.get("/release").await;
    assert!(head.starts_with("HTTP/1.1 405 "), "to look is not to act: {head}");
}
