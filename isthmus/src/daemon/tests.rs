use super::*;
use clap::Parser as _;
use mesh_runtime::{Restart, TaskFailed};
use std::convert::Infallible;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const SPEC: Spec = Spec { name: "example", metrics_prefix: "mesh_example", health_port: 0 };

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn args(line: &str) -> Result<DaemonArgs, clap::Error> {
    let words = std::iter::once("example").chain(line.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.daemon)
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn free_address() -> SocketAddr {
    // The listener is closed at once, so that the daemon can take the port.
    bind("probe", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_daemon_answers_health_metrics_and_its_pages_until_it_is_stopped() {
    let address = free_address().await;
    let args = args(&format!("--health-listen {address}")).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let set_up = async move |daemon: &mut Daemon| {
        let guard = daemon.readiness.guard("clock");
        daemon.tasks.spawn_once("clock", async move |stop| {
            guard.ready();
            stop.cancelled().await;
            Ok::<(), Infallible>(())
        });
        daemon.page("/status", || serde_json::json!({ "clock": "ticks" }));
        drop(begun.send(daemon.readiness.clone()));
        Ok(())
    };
    let asked = async {
        let readiness: Readiness = has_begun.await.unwrap();
        readiness.wait().await;
        assert!(get(address, "/readyz").await.ends_with("\r\n\r\nReady"));
        assert!(get(address, "/status").await.ends_with(r#"{"clock":"ticks"}"#));
        assert!(get(address, "/tasks").await.contains(r#""name":"clock""#));
        assert!(get(address, "/metrics").await.contains("mesh_example_build_info"));
        drop(stop);
    };
    let served = serve(&SPEC, &args, set_up, async { drop(stopped.await) });
    let (served, ()) = tokio::join!(served, asked);
    assert_eq!(served.unwrap(), Exit::Done);
}

#[tokio::test]
async fn a_taken_health_port_stops_the_start() {
    let holder = bind("holder", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let args = args(&format!("--health-listen {}", holder.local_addr().unwrap())).unwrap();
    let set_up = async |_: &mut Daemon| panic!("nothing is set up");
    let error = serve(&SPEC, &args, set_up, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("the port is taken"), "{error:#}");
    assert_eq!(Exit::of(&error), Exit::Failed);
}

#[tokio::test]
async fn a_task_that_does_not_stop_in_time_is_named_with_the_code_for_it() {
    let args = args("--health-listen 127.0.0.1:0 --shutdown-grace 50ms").unwrap();
    let set_up = async |daemon: &mut Daemon| {
        daemon
            .tasks
            .spawn("stuck", Restart::Never, async |_| std::future::pending::<Result<(), Infallible>>().await);
        Ok(())
    };
    let error = serve(&SPEC, &args, set_up, async {}).await.unwrap_err();
    assert!(error.to_string().ends_with(": stuck"), "{error:#}");
    assert_eq!(Exit::of(&error), Exit::TimedOut);
}

#[tokio::test]
async fn an_essential_task_that_fails_is_the_commands_error() {
    let args = args("--health-listen 127.0.0.1:0").unwrap();
    let set_up = async |daemon: &mut Daemon| {
        daemon
            .tasks
            .spawn("store", Restart::Never, async |_| Err::<(), _>(std::io::Error::other("disk is full")));
        Ok(())
    };
    let error = serve(&SPEC, &args, set_up, std::future::pending()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(TaskFailed::Failed { task, .. }) if &**task == "store"));
    assert_eq!(format!("{error:#}"), "task `store` failed: disk is full");
}

#[tokio::test]
async fn a_signal_during_set_up_ends_it() {
    let args = args("--health-listen 127.0.0.1:0").unwrap();
    let set_up = async |_: &mut Daemon| std::future::pending().await;
    assert_eq!(serve(&SPEC, &args, set_up, async {}).await.unwrap(), Exit::Done);
}

#[test]
fn wrong_daemon_arguments_are_refused() {
    let cases = [
        ("format", "--log-format xml"),
        ("address", "--health-listen localhost"),
        ("grace", "--shutdown-grace soon"),
    ];
    for (name, line) in cases {
        let error = args(line).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{name}");
    }
    assert_eq!(args("--log-format json").unwrap().log_format, LogFormat::Json);
}
