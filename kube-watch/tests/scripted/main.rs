//! The watch against an API server that answers from a script: failures that a real one shows rarely.
//!
//! Time is paused, so backoff costs nothing; the script is the order of requests.

mod script;

use http::StatusCode;
use kube_watch::{ConsumerGone, DecodeError, Event, RawObject, Resource, WatchOptions, WatchState, watch};
use serde::Deserialize;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use script::{Answer, Script, gone, list, object};

#[derive(Deserialize)]
struct Thing {
    value: u32,
}

fn decode(object: &RawObject<'_>) -> Result<u32, DecodeError> {
    Ok(object.parse::<Thing>()?.value)
}

fn things() -> Resource {
    Resource::new("example.org", "v1", "Thing", "things")
}

/// A running watch; it ends when this is dropped.
struct Running {
    events: Receiver<Event<u32>>,
    status: tokio::sync::watch::Receiver<kube_watch::WatchStatus>,
    stop: CancellationToken,
    task: JoinSet<Result<(), ConsumerGone>>,
}

fn run(script: &Script) -> Running {
    run_with(script, things(), WatchOptions::default())
}

fn run_with(script: &Script, resource: Resource, options: WatchOptions) -> Running {
    let (watch, events, status) = watch(script.client(), resource, decode, options);
    let stop = CancellationToken::new();
    let mut task = JoinSet::new();
    task.spawn(watch.run(stop.clone()));
    Running { events, status, stop, task }
}

impl Running {
    /// The next `count` events, as `+name=value`, `-name`, `!name` and `done`.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(match self.events.recv().await.expect("the watch runs") {
                Event::Applied { key, object } => format!("+{key}={object}"),
                Event::Deleted { key } => format!("-{key}"),
                Event::Undecodable { key, .. } => format!("!{key}"),
                Event::InitialListDone => "done".to_owned(),
            });
        }
        seen
    }

    async fn until(&mut self, what: impl FnMut(&kube_watch::WatchStatus) -> bool) {
        self.status.wait_for(what).await.expect("the watch runs");
    }

    /// Asserts that no event is waiting.
    fn silent(&mut self) {
        assert!(self.events.try_recv().is_err(), "an event too many");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_in_pages_then_a_watch_from_its_version() {
    let script = Script::new([
        Answer::ok(list(7, Some("t"), &[object("a", 1, "1")])),
        Answer::ok(list(7, None, &[object("b", 2, "2")])),
        Answer::lines([
            ("ADDED", object("c", 8, "3")),
            ("MODIFIED", object("a", 9, "4")),
            ("DELETED", object("b", 10, "2")),
        ]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(6).await, ["+n/a=1", "+n/b=2", "done", "+n/c=3", "+n/a=4", "-n/b"]);
    let requests = script.requests();
    assert!(requests[0].contains("limit=500") && !requests[0].contains("continue="), "{requests:?}");
    assert!(requests[1].contains("continue=t"), "{requests:?}");
    assert!(requests[2].contains("watch=true") && requests[2].contains("resourceVersion=7"), "{requests:?}");
    running.until(|status| status.state.is_listed()).await;
    assert_eq!(running.status.borrow().objects, 2);
    assert!(running.status.borrow().last_heard.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_from_the_last_version_it_saw() {
    let script = Script::new([
        Answer::ok(list(7, None, &[])),
        Answer::lines_then_end([("ADDED", object("a", 9, "1")), ("BOOKMARK", object("", 12, "0"))]),
        Answer::ok(list(12, None, &[])),
        Answer::lines([("ADDED", object("b", 13, "2"))]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(3).await, ["done", "+n/a=1", "+n/b=2"]);
    let requests = script.requests();
    assert!(requests[2].contains("limit=1"), "a watch that ends at once is verified: {requests:?}");
    assert!(requests[3].contains("resourceVersion=12"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_checked_and_goes_on_where_it_was() {
    let script = Script::new([
        Answer::ok(list(7, None, &[])),
        Answer::lines([("ADDED", object("a", 9, "1"))]),
        Answer::ok(list(9, None, &[object("a", 9, "1")])),
        Answer::lines([("ADDED", object("b", 10, "2"))]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(3).await, ["done", "+n/a=1", "+n/b=2"]);
    let requests = script.requests();
    assert!(requests[2].contains("limit=1"), "{requests:?}");
    assert!(requests[3].contains("resourceVersion=9"), "{requests:?}");
    assert!(running.status.borrow().state.is_listed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_broke_without_a_word_is_noticed_and_deletes_nothing() {
    // After its last answer the script is silent, to every request.
    let script = Script::new([Answer::ok(list(7, None, &[object("a", 1, "1")])), Answer::lines([])]);
    let mut running = run(&script);
    assert_eq!(running.events(2).await, ["+n/a=1", "done"]);
    let before = tokio::time::Instant::now();
    running.until(|status| matches!(status.state, WatchState::Failing { .. })).await;
    assert!(before.elapsed() < std::time::Duration::from_secs(120), "{:?}", before.elapsed());
    running.silent();
    assert_eq!(running.status.borrow().objects, 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_tells_only_the_difference() {
    for (name, expired) in [
        ("as an answer", Answer::status(StatusCode::GONE)),
        ("as an event", Answer::lines([("ERROR", gone())])),
    ] {
        let script = Script::new([
            Answer::ok(list(7, None, &[object("a", 1, "1"), object("b", 2, "2"), object("c", 3, "3")])),
            expired,
            Answer::ok(list(20, None, &[object("a", 1, "1"), object("c", 15, "30"), object("d", 16, "4")])),
            Answer::lines([("ADDED", object("e", 21, "5"))]),
        ]);
        let mut running = run(&script);
        assert_eq!(running.events(4).await, ["+n/a=1", "+n/b=2", "+n/c=3", "done"], "{name}");
        assert_eq!(running.events(4).await, ["+n/c=30", "+n/d=4", "-n/b", "+n/e=5"], "{name}");
        running.silent();
    }
}

#[tokio::test(start_paused = true)]
async fn no_failed_list_deletes_anything_or_counts_as_empty() {
    for (name, failure) in [
        ("500", Answer::status(StatusCode::INTERNAL_SERVER_ERROR)),
        ("403", Answer::status(StatusCode::FORBIDDEN)),
        ("an empty object", Answer::ok("{}".to_owned())),
        ("an empty body", Answer::ok(String::new())),
        ("a page of some proxy", Answer::ok("<html></html>".to_owned())),
        ("half a list", Answer::ok(list(20, None, &[object("a", 1, "1")])[..60].to_owned())),
        ("a broken body", Answer::broken(list(20, None, &[])[..20].to_owned())),
    ] {
        let script = Script::new([
            Answer::ok(list(7, None, &[object("a", 1, "1"), object("b", 2, "2")])),
            Answer::status(StatusCode::GONE),
            failure,
            Answer::ok(list(20, None, &[object("a", 1, "1"), object("b", 2, "2")])),
            Answer::lines([("ADDED", object("c", 21, "3"))]),
        ]);
        let mut running = run(&script);
        assert_eq!(running.events(3).await, ["+n/a=1", "+n/b=2", "done"], "{name}");
        running.until(|status| matches!(status.state, WatchState::Failing { .. })).await;
        assert!(running.status.borrow().initial_list_done, "{name}: the old list still counts");
        assert_eq!(running.events(1).await, ["+n/c=3"], "{name}");
        running.until(|status| status.state.is_listed()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_between_pages_deletes_nothing() {
    let script = Script::new([
        Answer::ok(list(7, None, &[object("a", 1, "1"), object("b", 2, "2")])),
        Answer::status(StatusCode::GONE),
        Answer::ok(list(20, Some("t"), &[object("a", 1, "1")])),
        Answer::status(StatusCode::SERVICE_UNAVAILABLE),
        Answer::ok(list(21, None, &[object("b", 2, "2")])),
        Answer::lines([]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(4).await, ["+n/a=1", "+n/b=2", "done", "-n/a"]);
    assert!(!script.requests()[4].contains("continue="), "the next list begins anew");
    running.silent();
}

#[tokio::test(start_paused = true)]
async fn an_expired_page_token_makes_the_next_list_one_piece() {
    let script = Script::new([
        Answer::ok(list(7, Some("t"), &[object("a", 1, "1")])),
        Answer::status(StatusCode::GONE),
        Answer::ok(list(9, None, &[object("a", 1, "1"), object("b", 2, "2")])),
        Answer::lines([]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(3).await, ["+n/a=1", "+n/b=2", "done"]);
    assert!(!script.requests()[2].contains("limit="), "{:?}", script.requests());
}

#[tokio::test(start_paused = true)]
async fn an_absent_resource_is_no_empty_list_and_is_followed_once_it_appears() {
    let script = Script::new([
        Answer::status(StatusCode::NOT_FOUND),
        Answer::status(StatusCode::NOT_FOUND),
        Answer::ok(list(7, None, &[object("a", 1, "1")])),
        Answer::lines([]),
    ]);
    let mut running = run(&script);
    running.until(|status| matches!(status.state, WatchState::Absent)).await;
    assert!(!running.status.borrow().initial_list_done);
    running.silent();
    assert_eq!(running.events(2).await, ["+n/a=1", "done"]);
    running.until(|status| status.state.is_listed()).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_served_falls_back_to_the_next_and_back() {
    let script = Script::new([
        Answer::status(StatusCode::NOT_FOUND),
        Answer::ok(list(7, None, &[object("a", 1, "1"), object("b", 2, "2")])),
        Answer::status(StatusCode::NOT_FOUND),
        Answer::status(StatusCode::GONE),
        Answer::ok(list(8, None, &[object("b", 2, "2")])),
        Answer::lines([]),
    ]);
    let mut running = run_with(&script, things().or_version("v1alpha1"), WatchOptions::default());
    assert_eq!(running.events(4).await, ["+n/a=1", "+n/b=2", "done", "-n/a"]);
    script.until_requests(6).await;
    let requests = script.requests();
    let versions: Vec<_> = requests.iter().map(|request| request.split('/').nth(3).unwrap()).collect();
    assert_eq!(versions, ["v1", "v1alpha1", "v1alpha1", "v1", "v1", "v1"]);
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_absent_when_no_version_of_it_is_served() {
    let script = Script::new([Answer::status(StatusCode::NOT_FOUND), Answer::status(StatusCode::NOT_FOUND)]);
    let mut running = run_with(&script, things().or_version("v1alpha1"), WatchOptions::default());
    running.until(|status| matches!(status.state, WatchState::Absent)).await;
    assert_eq!(script.requests().len(), 2);
    running.silent();
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_vanishes_keeps_what_is_known() {
    let script = Script::new([
        Answer::ok(list(7, None, &[object("a", 1, "1"), object("b", 2, "2")])),
        Answer::status(StatusCode::NOT_FOUND),
        Answer::status(StatusCode::NOT_FOUND),
        Answer::ok(list(9, None, &[object("b", 2, "2")])),
        Answer::lines([]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(3).await, ["+n/a=1", "+n/b=2", "done"]);
    running.until(|status| matches!(status.state, WatchState::Absent)).await;
    assert_eq!(running.status.borrow().objects, 2);
    assert_eq!(running.events(1).await, ["-n/a"], "the list is evidence");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_does_not_decode_stops_only_itself() {
    let script = Script::new([
        Answer::ok(list(7, None, &[object("a", 1, "1"), object("bad", 2, "\"x\""), object("c", 3, "3")])),
        Answer::lines([
            ("MODIFIED", object("a", 8, "-1")),
            ("MODIFIED", object("bad", 9, "2")),
            ("ADDED", object("d", 10, "null")),
            ("DELETED", object("d", 11, "null")),
            ("ADDED", "{\"metadata\":{}}".to_owned()),
            ("MODIFIED", object("a", 12, "5")),
        ]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(4).await, ["+n/a=1", "!n/bad", "+n/c=3", "done"]);
    assert_eq!(running.events(5).await, ["!n/a", "+n/bad=2", "!n/d", "-n/d", "+n/a=5"]);
    running.silent();
}

#[tokio::test(start_paused = true)]
async fn objects_that_do_not_decode_are_counted_in_the_status() {
    let script = Script::new([
        Answer::ok(list(7, None, &[object("a", 1, "1"), object("bad", 2, "\"x\"")])),
        Answer::lines([]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(3).await, ["+n/a=1", "!n/bad", "done"]);
    running.until(|status| status.initial_list_done).await;
    assert_eq!((running.status.borrow().objects, running.status.borrow().undecodable), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_went_back_in_time_is_listed_again() {
    let script = Script::new([
        Answer::ok(list(100, None, &[object("a", 90, "1"), object("b", 95, "2")])),
        Answer::broken(String::new()),
        Answer::ok(list(50, None, &[])),
        Answer::ok(list(50, None, &[object("a", 40, "7")])),
        Answer::lines([]),
    ]);
    let mut running = run(&script);
    assert_eq!(running.events(5).await, ["+n/a=1", "+n/b=2", "done", "+n/a=7", "-n/b"]);
}

#[tokio::test(start_paused = true)]
async fn the_failing_state_keeps_the_time_of_the_first_failure_and_names_the_error() {
    let script = Script::new([Answer::status(StatusCode::FORBIDDEN), Answer::status(StatusCode::FORBIDDEN)]);
    let mut running = run(&script);
    running.until(|status| matches!(status.state, WatchState::Failing { .. })).await;
    let WatchState::Failing { since, error } = running.status.borrow().state.clone() else { unreachable!() };
    assert!(error.to_string().contains("denies"), "{error}");
    script.until_requests(3).await;
    let WatchState::Failing { since: later, .. } = running.status.borrow().state.clone() else {
        panic!("still failing")
    };
    assert_eq!(since, later);
    running.silent();
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_with_its_token_and_reports_a_consumer_that_is_gone() {
    let answers = || [Answer::ok(list(7, None, &[object("a", 1, "1")])), Answer::lines([])];
    let script = Script::new(answers());
    let mut running = run(&script);
    assert_eq!(running.events(2).await, ["+n/a=1", "done"]);
    running.stop.cancel();
    assert_eq!(running.task.join_next().await.unwrap().unwrap(), Ok(()));

    let script = Script::new(answers());
    let mut running = run(&script);
    drop(running.events);
    assert_eq!(running.task.join_next().await.unwrap().unwrap(), Err(ConsumerGone));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_stops_before_the_watch_does_is_no_failure() {
    let answer = Answer::ok(list(7, None, &[object("a", 1, "1"), object("b", 2, "2")]));
    let script = Script::new([answer, Answer::lines([])]);
    let options = WatchOptions { capacity: 1, ..WatchOptions::default() };
    let mut running = run_with(&script, things(), options);
    // Time goes on once the watch waits for room for its second event.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    running.stop.cancel();
    drop(running.events);
    assert_eq!(running.task.join_next().await.unwrap().unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_full_channel_holds_the_watch_back_and_loses_nothing() {
    let items: Vec<_> = (0..50).map(|i| object(&format!("o{i:02}"), i + 1, &i.to_string())).collect();
    let script = Script::new([Answer::ok(list(99, None, &items)), Answer::lines([])]);
    let options = WatchOptions { capacity: 1, ..WatchOptions::default() };
    let mut running = run_with(&script, things(), options);
    let mut seen = 0;
    while let Some(Event::Applied { object, .. }) = running.events.recv().await {
        assert_eq!(object, seen);
        seen += 1;
    }
    assert_eq!(seen, 50);
}

#[tokio::test(start_paused = true)]
async fn selectors_and_namespace_are_part_of_every_request() {
    let script = Script::new([Answer::ok(list(7, None, &[])), Answer::lines([])]);
    let resource = things().in_namespace("shop").with_labels("a=b,c").with_fields("metadata.name=x");
    let mut running = run_with(&script, resource, WatchOptions::default());
    assert_eq!(running.events(1).await, ["done"]);
    script.until_requests(2).await;
    for request in script.requests() {
        assert!(request.starts_with("/apis/example.org/v1/namespaces/shop/things?"), "{request}");
        assert!(request.contains("labelSelector=a%3Db%2Cc"), "{request}");
        assert!(request.contains("fieldSelector=metadata.name%3Dx"), "{request}");
    }
}
