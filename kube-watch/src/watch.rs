//! The loop: list, watch, and do it again when it breaks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{AsyncReadExt, StreamExt};
use kube::Client;
use kube::core::params::{ListParams, WatchParams};
use mesh_runtime::{Backoff, Retry, jitter};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::object::{DecodeError, ObjectKey, RawObject};
use crate::resource::Resource;
use crate::status::{WatchError, WatchState, WatchStatus};
use crate::tracker::{Fingerprint, Tracker};
use crate::wire::{Line, Page, head};

/// A list page that takes longer than this has failed.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the smallest list may take, which asks no more than whether the server answers.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the API server keeps one watch open; below the 295 seconds that common proxies in front of it allow.
const WATCH_SECONDS: u32 = 290;
/// A watch that is still open so much later than the server should have ended it hangs on a dead connection.
const WATCH_GRACE: Duration = Duration::from_secs(15);
/// A watch that lived as long as this has worked: the next failure is a new one.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// No object is as long: etcd takes 1.5 MB at most, and JSON of it grows by a small factor.
const MAX_LINE_BYTES: usize = 16 << 20;
/// No list page is as long (500 objects are rarely more than 5 MB); reached only when paging had to be given up.
const MAX_LIST_BYTES: usize = 1 << 30;

/// What happened to one object, or to the whole list.
#[derive(Debug)]
pub enum Event<T> {
    /// The object exists and has this content.
    Applied {
        /// Which one.
        key: ObjectKey,
        /// Its content.
        object: T,
    },
    /// The object is gone: the API server said so, or a complete list omits it.
    Deleted {
        /// Which one; the consumer may know nothing of it if it never decoded.
        key: ObjectKey,
    },
    /// The object exists, and its content cannot be used. The consumer keeps what it had for the key.
    Undecodable {
        /// Which one.
        key: ObjectKey,
        /// Why not.
        error: DecodeError,
    },
    /// Every object of the first complete list was sent. Comes once.
    InitialListDone,
}

/// The consumer dropped its end of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("consumer of the watch events is gone")]
pub struct ConsumerGone;

/// How a watch behaves.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// Events that wait for the consumer. When it is full the watch stops reading, and the API server may cut it off; it then lists again
    /// and sends the difference.
    pub capacity: usize,
    /// Objects per list page.
    pub page_limit: u32,
    /// A watch that is silent for so long is checked: API servers send a bookmark every minute, so it may hang on a connection that
    /// broke without a word.
    pub silence: Duration,
    /// Waits after failures.
    pub retry: Backoff,
    /// Waits between questions for a resource that is absent.
    pub absent: Backoff,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            capacity: 1024,
            page_limit: 500,
            silence: Duration::from_secs(100),
            retry: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            absent: Backoff::new(Duration::from_secs(1), Duration::from_secs(15)),
        }
    }
}

/// The task that lists and watches; [`watch()`] makes it, [`Watch::run`] runs it.
pub struct Watch<T, D> {
    client: Client,
    resource: Resource,
    decode: D,
    options: WatchOptions,
    events: mpsc::Sender<Event<T>>,
    status: watch::Sender<WatchStatus>,
    tracker: Tracker,
    /// Resource version up to which everything was sent; empty before the first list.
    version: String,
    retry: Retry,
    absent: Retry,
    /// Which version of the resource is asked for: the first or one of its fallbacks.
    served: usize,
    /// A page token expired: list in one piece until that works.
    unpaged: bool,
}

/// Prepares a watch of `resource`, whose objects `decode` turns into `T`.
///
/// Nothing is sent before [`Watch::run`]. The events come in the order in which they must be applied; of one key, a later one replaces an
/// earlier one.
pub fn watch<T, D>(
    client: Client,
    resource: Resource,
    decode: D,
    options: WatchOptions,
) -> (Watch<T, D>, mpsc::Receiver<Event<T>>, watch::Receiver<WatchStatus>)
where
    D: FnMut(&RawObject<'_>) -> Result<T, DecodeError>,
{
    let (events, events_out) = mpsc::channel(options.capacity.max(1));
    let (status, status_out) = watch::channel(WatchStatus::default());
    let task = Watch {
        client,
        resource,
        decode,
        options,
        events,
        status,
        tracker: Tracker::default(),
        version: String::new(),
        retry: options.retry.retry(),
        absent: options.absent.retry(),
        served: 0,
        unpaged: false,
    };
    (task, events_out, status_out)
}

/// What to ask of the API server next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Everything.
    List,
    /// What happened since the resource version that was seen last.
    Watch,
    /// Whether it answers, and still knows of that resource version, after a failure or a silence: a server that was restored from a backup does not,
    /// and would silently send nothing until it has caught up.
    Verify,
}

enum Failure {
    ConsumerGone,
    Watch(WatchError),
}

impl<E: Into<WatchError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Watch(error.into())
    }
}

impl<T, D> Watch<T, D>
where
    T: Send,
    D: FnMut(&RawObject<'_>) -> Result<T, DecodeError> + Send,
{
    /// Lists and watches until `stop`, whatever the API server does.
    ///
    /// # Errors
    /// [`ConsumerGone`] if the receiver of the events was dropped before `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ConsumerGone> {
        let mut step = Step::List;
        loop {
            let Some(outcome) = stop.run_until_cancelled(self.take(step)).await else { return Ok(()) };
            let error = match outcome {
                Ok(next) => {
                    step = next;
                    continue;
                }
                // The consumer stops by the same token, and may be faster.
                Err(Failure::ConsumerGone) if stop.is_cancelled() => return Ok(()),
                Err(Failure::ConsumerGone) => return Err(ConsumerGone),
                Err(Failure::Watch(error)) => error,
            };
            step = after_failure(step, &error);
            let wait = self.failed(error);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, step: Step) -> Result<Step, Failure> {
        match step {
            Step::List => self.list().await,
            Step::Watch => self.follow().await,
            Step::Verify => self.verify().await,
        }
    }

    async fn list(&mut self) -> Result<Step, Failure> {
        let began = Instant::now();
        self.tracker.begin_list();
        let mut token = None;
        self.version = loop {
            let limit = if self.unpaged { None } else { Some(self.options.page_limit) };
            let text = self.get_list(limit, token.take(), LIST_TIMEOUT).await.inspect_err(|error| {
                self.unpaged |= matches!(error, WatchError::Expired);
            })?;
            let page = Page::read(&text).map_err(WatchError::Protocol)?;
            for item in &page.items {
                if self.offer(item).await?.is_none() {
                    self.tracker.observe_nameless();
                }
            }
            token = page.next;
            if token.is_none() {
                break page.resource_version;
            }
            self.heard(None);
        };
        for key in self.tracker.end_list() {
            self.send(Event::Deleted { key }).await?;
        }
        self.unpaged = false;
        self.absent.reset();
        if !self.status.borrow().initial_list_done {
            self.send(Event::InitialListDone).await?;
            info!(resource = %self.resource.name(), objects = self.tracker.objects(), elapsed = ?began.elapsed(), "initial list done");
        }
        self.heard(Some(WatchState::Listed));
        Ok(Step::Watch)
    }

    async fn follow(&mut self) -> Result<Step, Failure> {
        let params = WatchParams {
            label_selector: self.resource.labels.clone(),
            field_selector: self.resource.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let request =
            self.resource.request(self.served).watch(&params, &self.version).map_err(build_error)?;
        let opened = timeout(LIST_TIMEOUT, self.client.request_stream(request)).await;
        let body = opened.map_err(|_elapsed| WatchError::TimedOut(LIST_TIMEOUT))??;
        self.heard(Some(WatchState::Listed));

        let began = Instant::now();
        let allowed = Duration::from_secs(u64::from(WATCH_SECONDS)) + WATCH_GRACE;
        let mut lines = FramedRead::new(body.compat(), LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        loop {
            let deadline = began + allowed;
            let patience = deadline.min(Instant::now() + self.options.silence);
            let Ok(line) = timeout_at(patience, lines.next()).await else {
                debug!(resource = %self.resource.name(), "watch is silent, asking the API server");
                return Ok(Step::Verify);
            };
            let Some(line) = line else { break };
            let line = line.map_err(read_error)?;
            match Line::read(&line).map_err(WatchError::Protocol)? {
                Line::Applied(object) => {
                    if let Some(version) = self.offer(object).await? {
                        self.version = version;
                    }
                }
                Line::Deleted(object) => {
                    if let Some(version) = self.withdraw(object).await? {
                        self.version = version;
                    }
                }
                Line::Bookmark(version) => self.version = version,
                Line::Error(status) => return Err(WatchError::from(status).into()),
            }
            self.retry.reset();
            self.heard(None);
        }
        if began.elapsed() < HEALTHY_AFTER {
            return Err(WatchError::Closed.into());
        }
        self.retry.reset();
        Ok(Step::Watch)
    }

    async fn verify(&mut self) -> Result<Step, Failure> {
        let text = self.get_list(Some(1), None, VERIFY_TIMEOUT).await?;
        let page = Page::read(&text).map_err(WatchError::Protocol)?;
        if is_at_least(&page.resource_version, &self.version) {
            return Ok(Step::Watch);
        }
        warn!(
            resource = %self.resource.name(), known = self.version, server = page.resource_version,
            "API server went back in time, listing again"
        );
        Ok(Step::List)
    }

    async fn get_list(
        &self,
        limit: Option<u32>,
        token: Option<String>,
        within: Duration,
    ) -> Result<String, WatchError> {
        let mut params = ListParams { limit, continue_token: token, ..ListParams::default() };
        params.label_selector = self.resource.labels.clone();
        params.field_selector = self.resource.fields.clone();
        let request = self.resource.request(self.served).list(&params).map_err(build_error)?;
        let read = async {
            let body = self.client.request_stream(request).await?;
            let mut text = String::new();
            let mut limited = body.take(MAX_LIST_BYTES as u64);
            limited.read_to_string(&mut text).await.map_err(WatchError::Read)?;
            if limited.limit() == 0 {
                return Err(WatchError::TooLarge { limit_bytes: MAX_LIST_BYTES });
            }
            Ok(text)
        };
        timeout(within, read).await.map_err(|_elapsed| WatchError::TimedOut(within))?
    }

    /// Tells the consumer of an object if its content is new; returns its resource version, or `None` if it has no name.
    async fn offer(&mut self, json: &RawValue) -> Result<Option<String>, Failure> {
        let Some(head) = self.head(json) else { return Ok(None) };
        let key = head.key();
        let object = RawObject::new(json, &head);
        if self.tracker.observe(&key, Fingerprint::of(json.get())) {
            let decoded = (self.decode)(&object);
            self.tracker.decoded(&key, decoded.is_ok());
            let event = match decoded {
                Ok(object) => Event::Applied { key, object },
                Err(error) => {
                    warn!(resource = %self.resource.name(), object = %key, %error, "object skipped: it does not decode");
                    Event::Undecodable { key, error }
                }
            };
            self.send(event).await?;
        }
        Ok(head.metadata.resource_version.map(Into::into))
    }

    async fn withdraw(&mut self, json: &RawValue) -> Result<Option<String>, Failure> {
        let Some(head) = self.head(json) else { return Ok(None) };
        let key = head.key();
        if self.tracker.delete(&key) {
            self.send(Event::Deleted { key }).await?;
        }
        Ok(head.metadata.resource_version.map(Into::into))
    }

    fn head<'a>(&self, json: &'a RawValue) -> Option<crate::object::Head<'a>> {
        head(json)
            .inspect_err(|error| {
                warn!(resource = %self.resource.name(), %error, "object skipped: it has no readable name");
            })
            .ok()
    }

    async fn send(&self, event: Event<T>) -> Result<(), Failure> {
        self.events.send(event).await.map_err(|_gone| Failure::ConsumerGone)
    }

    /// The API server answered; `state` if the answer tells it.
    fn heard(&self, state: Option<WatchState>) {
        let (objects, undecodable) = (self.tracker.objects(), self.tracker.undecodable());
        self.status.send_if_modified(|status| {
            status.last_heard = Some(SystemTime::now());
            status.objects = objects;
            status.undecodable = undecodable;
            let Some(state) = state else { return false };
            let listed_now = state.is_listed() && !status.initial_list_done;
            status.initial_list_done |= listed_now;
            let changed = listed_now || !status.state.same_kind(&state);
            status.state = state;
            changed
        });
    }

    /// Publishes and logs a failure; returns how long to wait.
    fn failed(&mut self, error: WatchError) -> Duration {
        let name = self.resource.name();
        if matches!(error, WatchError::Expired) {
            // The list that follows is what counts; the state is still the one before.
            debug!(resource = %name, "resource version expired, listing again");
            return self.retry.next_delay(jitter());
        }
        if matches!(error, WatchError::Absent) {
            self.served = (self.served + 1) % (self.resource.fallbacks.len() + 1);
            if self.served > 0 {
                return Duration::ZERO;
            }
            if !matches!(self.status.borrow().state, WatchState::Absent) {
                warn!(resource = %name, "API server does not have the resource; waiting for it to appear");
            }
            self.heard(Some(WatchState::Absent));
            return self.absent.next_delay(jitter());
        }
        let wait = self.retry.next_delay(jitter());
        let error = Arc::new(error);
        let first = self.status.send_if_modified(|status| {
            let since = match &status.state {
                WatchState::Failing { since, .. } => *since,
                WatchState::NotListed | WatchState::Listed | WatchState::Absent => SystemTime::now(),
            };
            let state = WatchState::Failing { since, error: Arc::clone(&error) };
            let first = !status.state.same_kind(&state);
            status.state = state;
            first
        });
        if first {
            warn!(resource = %name, %error, ?wait, "list or watch failed; keeping what is known");
        } else {
            debug!(resource = %name, %error, ?wait, "list or watch failed again");
        }
        wait
    }
}

/// What to do after `step` failed.
fn after_failure(step: Step, error: &WatchError) -> Step {
    match (step, error) {
        (_, WatchError::Absent | WatchError::Expired) | (Step::List, _) => Step::List,
        (Step::Watch | Step::Verify, _) => Step::Verify,
    }
}

/// Whether resource version `server` is not before `known`. They are numbers by the API's conventions since Kubernetes 1.35, and in fact ever
/// since; what is no number cannot be trusted to be later.
fn is_at_least(server: &str, known: &str) -> bool {
    matches!((server.parse::<u64>(), known.parse::<u64>()), (Ok(server), Ok(known)) if server >= known)
}

fn build_error(error: kube::core::request::Error) -> WatchError {
    WatchError::Transport(Box::new(kube::Error::BuildRequest(error)))
}

fn read_error(error: LinesCodecError) -> WatchError {
    match error {
        LinesCodecError::MaxLineLengthExceeded => WatchError::TooLarge { limit_bytes: MAX_LINE_BYTES },
        LinesCodecError::Io(error) => WatchError::Read(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_watch_is_verified_and_an_expired_or_absent_one_lists_again() {
        assert_eq!(after_failure(Step::Watch, &WatchError::Closed), Step::Verify);
        assert_eq!(after_failure(Step::Verify, &WatchError::Closed), Step::Verify);
        assert_eq!(after_failure(Step::Watch, &WatchError::Expired), Step::List);
        assert_eq!(after_failure(Step::Watch, &WatchError::Absent), Step::List);
        assert_eq!(after_failure(Step::List, &WatchError::Closed), Step::List);
    }

    #[test]
    fn a_resource_version_that_is_no_number_is_never_trusted_to_be_later() {
        assert!(is_at_least("10", "9"));
        assert!(is_at_least("9", "9"));
        assert!(!is_at_least("8", "9"));
        assert!(!is_at_least("a", "9"));
        assert!(!is_at_least("9", "a"));
    }
}
