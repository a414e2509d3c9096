//! A store's client that counts and times what is asked of it, by Cilium's names, and keeps to limits.
//!
//! ```text
//!   daemon ──▶ Observed ──(limiter)──▶ any client
//!                 └──▶ kvstore_operations_duration_seconds, kvstore_events_queue_seconds, api_limiter_…
//! ```

use super::limiter::Limiter;
use super::series::{Outcome, StoreSeries};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use kvstore::{
    Client, Error, Event, Guard, Guarded, KeyRange, KeyValue, LeaseId, Limits, Page, Record, Revision,
    StoreStatus, WatchError, WatchStream, Write,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module. The inner client does the work.
#[derive(Debug)]
pub(crate) struct Observed {
    inner: Arc<dyn Client>,
    limiter: Limiter,
    series: StoreSeries,
    /// Whose limiter it is: `etcd`, or `etcd-<peer>`.
    call: &'static str,
}

impl Observed {
    pub(crate) fn new(
        inner: Arc<dyn Client>,
        limiter: Limiter,
        series: StoreSeries,
        call: &'static str,
    ) -> Self {
        series.limited(call, &limiter);
        Self { inner, limiter, series, call }
    }

    async fn timed<T>(
        &self,
        what: What<'_>,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (permit, waited) = self.limiter.enter().await;
        let begun = Instant::now();
        let done = call.await;
        drop(permit);
        let outcome = if done.is_ok() { Outcome::Success } else { Outcome::Fail };
        self.series.operation(what.kind, what.action, what.key, outcome, begun.elapsed());
        self.series.processed(self.call, outcome, waited, begun.elapsed());
        done
    }
}

/// What a request does, in Cilium's words.
#[derive(Clone, Copy)]
struct What<'a> {
    kind: &'static str,
    action: &'static str,
    key: &'a [u8],
}

impl<'a> What<'a> {
    fn read(action: &'static str, key: &'a [u8]) -> Self {
        Self { kind: "read", action, key }
    }

    fn lease(action: &'static str) -> Self {
        Self { kind: "set", action, key: b"lease" }
    }

    /// A batch counts as what its first change is.
    fn of(batch: &'a [Write]) -> Self {
        match batch.first() {
            Some(Write::Put { key, .. }) => Self { kind: "set", action: "Update", key },
            Some(Write::Delete { key }) => Self { kind: "delete", action: "Delete", key },
            Some(Write::DeleteRange { range }) => {
                Self { kind: "delete", action: "DeletePrefix", key: range.start() }
            }
            None => Self { kind: "set", action: "Update", key: b"" },
        }
    }
}

/// A batch in the hands of whoever watches.
struct Held {
    since: Instant,
    /// Actions and scopes.
    events: Vec<(&'static str, String)>,
}

impl Held {
    fn of(events: &[Event]) -> Self {
        let event = |event: &Event| {
            let action = match event {
                Event::Put(kv) if kv.create_revision == kv.mod_revision => "create",
                Event::Put(_) => "modify",
                Event::Delete { .. } => "delete",
            };
            (action, super::series::scope(event.key()))
        };
        let mut events: Vec<_> = events.iter().map(event).collect();
        events.dedup();
        Self { since: Instant::now(), events }
    }
}

#[async_trait]
impl Client for Observed {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        self.timed(What::read("Get", key), self.inner.get(key)).await
    }

    async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error> {
        self.timed(What::read("ListPrefix", range.start()), self.inner.list(range, limit, at)).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError> {
        let watched = self.inner.watch(range, from).await?;
        let series = self.series.clone();
        // From when a batch is handed over until the next is asked for: so long what follows has to wait.
        let timed = stream::unfold((watched, None::<Held>), move |(mut watched, held)| {
            let series = series.clone();
            async move {
                if let Some(held) = held {
                    series.queued(&held.events, held.since.elapsed());
                }
                let batch = watched.next().await?;
                let held = batch.as_ref().ok().map(|batch| Held::of(&batch.events));
                Some((batch, (watched, held)))
            }
        });
        Ok(timed.boxed())
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error> {
        let first: Vec<Write> = batch.first().cloned().into_iter().collect();
        self.timed(What::of(&first), self.inner.write(batch)).await
    }

    async fn write_kept(&self, batch: Vec<Write>) -> Result<(Revision, Vec<Record>), Error> {
        let first: Vec<Write> = batch.first().cloned().into_iter().collect();
        self.timed(What::of(&first), self.inner.write_kept(batch)).await
    }

    async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error> {
        let first: Vec<Write> = batch.first().cloned().into_iter().collect();
        self.timed(What::of(&first), self.inner.write_if(guards, batch)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.timed(What::lease("AcquireLease"), self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        // As in Cilium, a lease is renewed whatever the limits.
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.timed(What { kind: "delete", action: "ReleaseLease", key: b"lease" }, self.inner.revoke(lease))
            .await
    }

    async fn status(&self) -> Result<StoreStatus, Error> {
        self.inner.status().await
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn is_spent(&self) -> bool {
        self.inner.is_spent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::limiter::Limits as Asked;
    use kvstore::{Store, StoreConfig};
    use prometheus_client::registry::Registry;

    #[tokio::test]
    async fn what_is_asked_of_a_store_is_counted_by_ciliums_names() {
        let mut registry = Registry::with_prefix("x");
        let series = StoreSeries::register(&mut registry);
        let limiter = Limiter::new(Asked { qps: Some(1000.0), ..Asked::default() });
        let store = Store::new(StoreConfig::default());
        let client = Observed::new(Arc::new(store.client()), limiter, series, "etcd");
        let key = "cilium/state/nodes/v1/west/n1";
        let put = |value: &'static str| {
            vec![Write::Put { key: key.into(), value: value.into(), lease: LeaseId::NONE }]
        };
        client.write(put("a")).await.unwrap();
        client.get(key.as_bytes()).await.unwrap();
        assert!(client.revoke(LeaseId(7)).await.is_err());
        let mut watched = client.watch(KeyRange::prefix("cilium/"), Revision(2)).await.unwrap();
        watched.next().await.unwrap().unwrap();
        client.write(put("b")).await.unwrap();
        watched.next().await.unwrap().unwrap();

        let text = mesh_runtime::encode(&registry);
        for line in [
            r#"x_kvstore_operations_duration_seconds_count{scope="nodes/v1",kind="set",action="Update",outcome="success"} 2"#,
            r#"x_kvstore_operations_duration_seconds_count{scope="nodes/v1",kind="read",action="Get",outcome="success"} 1"#,
            r#"x_kvstore_operations_duration_seconds_count{scope="lease",kind="delete",action="ReleaseLease",outcome="fail"} 1"#,
            r#"x_kvstore_events_queue_seconds_count{scope="nodes/v1",action="create"} 1"#,
            r#"x_api_limiter_processed_requests_total{api_call="etcd",outcome="success",return_code="200"} 3"#,
            r#"x_api_limiter_processed_requests_total{api_call="etcd",outcome="fail",return_code="500"} 1"#,
            r#"x_api_limiter_rate_limit{api_call="etcd",value="limit"} 1000.0"#,
            r#"x_api_limiter_requests_in_flight{api_call="etcd",value="in-flight"} 0.0"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
