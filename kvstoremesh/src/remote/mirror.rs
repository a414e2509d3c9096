//! One kind of data of one peer, for the length of a connection.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use kvstore::sync::Change;
use kvstore::{Client, Revision};
use mesh_types::{Form, Reason, Rejection};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Feed, Remote, changed};
use crate::error::explain;
use crate::intake::{Intake, Signal, Taken};
use crate::record::Phase;
use crate::resource::Mirrored;

/// Canaries of a peer by name, each with the revision of its last write. One that was seen stays.
pub(super) type Canaries = BTreeMap<Bytes, Revision>;

pub(super) fn note_canaries(canaries: &watch::Sender<Canaries>, batch: Vec<Change>) {
    canaries.send_if_modified(|seen| {
        let before = seen.len();
        for change in batch {
            if let Change::Put { key, mod_revision, .. } = change {
                seen.insert(key, mod_revision);
            }
        }
        seen.len() > before
    });
}

impl Remote {
    /// Mirrors one kind once the peer says that it is complete; returns when it cannot go on.
    pub(super) async fn mirror(
        &self,
        client: &dyn Client,
        kind: Mirrored,
        form: Form,
        canaries: Option<watch::Receiver<Canaries>>,
    ) -> Rejection {
        let has_canaries = canaries.is_some();
        if let Some(mut canaries) = canaries {
            self.wait(kind, Phase::Canary);
            let name = kind.canary_name(form);
            while !canaries.borrow_and_update().contains_key(name.as_bytes()) {
                changed(&mut canaries).await;
            }
        }
        self.wait(kind, Phase::Listing);
        let mut feed = Feed::new(client, kind.prefix(form, &self.name));
        let mut intake = Intake::new(self.settings.max_value_bytes);
        loop {
            let batch = match feed.next().await {
                Ok(batch) => batch,
                Err(trouble) => return trouble,
            };
            let signal = self.carry_out(kind, intake.take(batch));
            match signal {
                None | Some(Signal::Lost) => {}
                Some(Signal::Resumed) => {
                    self.record(|record| record.view(kind).follows(Instant::now()));
                }
                Some(Signal::Listed { revision, again }) => {
                    if again
                        && has_canaries
                        && let Err(trouble) = self.check_canary(client, kind, form, revision).await
                    {
                        return trouble;
                    }
                    self.complete(kind, &mut intake);
                }
            }
        }
    }

    /// Gives the writer what was taken in and notes what was refused.
    fn carry_out(&self, kind: Mirrored, taken: Taken) -> Option<Signal> {
        let now = Instant::now();
        let mut news = Vec::new();
        self.record(|record| {
            match taken.signal {
                Some(Signal::Lost) => record.view(kind).wait(Phase::Unconnected, now),
                None | Some(Signal::Listed { .. } | Signal::Resumed) => {
                    record.view(kind).last_event = Some(now)
                }
            }
            if !record.skipped.is_empty() {
                taken.wishes.iter().for_each(|(key, _)| record.unskip(kind, key));
            }
            for (key, rejection) in taken.skipped {
                if record.skip(kind, key.clone(), rejection.clone()) {
                    news.push((key, rejection));
                }
            }
        });
        for (key, Rejection { reason, detail }) in news {
            warn!(cluster = %self.name, resource = kind.word(), key = %key.escape_ascii(), %reason, detail, "entry not mirrored");
        }
        self.sinks.writer(kind).extend(taken.wishes);
        taken.signal
    }

    /// The list is complete: what it did not name goes, and the local canary may be written.
    fn complete(&self, kind: Mirrored, intake: &mut Intake) {
        let named = intake.complete();
        let writer = self.sinks.writer(kind);
        writer.retain(|key| named.contains(key));
        writer.synced();
        self.record(|record| {
            record.skipped.retain(|(of, key), _| *of != kind || named.contains(key));
            record.view(kind).follows(Instant::now());
        });
        info!(cluster = %self.name, resource = kind.word(), keys = named.len(), "list complete");
    }

    /// Whether the peer's data was complete at `listed`.
    ///
    /// A store that lists again in the same connection may have been replaced by an empty one that calls itself the
    /// same. Its list proves nothing before the canary is back.
    async fn check_canary(
        &self,
        client: &dyn Client,
        kind: Mirrored,
        form: Form,
        listed: Revision,
    ) -> Result<(), Rejection> {
        let key = kind.canary(form, &self.name);
        let found = client.get(key.as_bytes()).await.map_err(|error| explain(&error))?;
        if found.is_some_and(|found| found.mod_revision <= listed) {
            debug!(cluster = %self.name, resource = kind.word(), "listed again");
            return Ok(());
        }
        let what =
            format!("{key} is gone: the store was emptied, what is known stays until it is complete again");
        Err(Rejection::new(Reason::StoreReplaced, what))
    }

    fn wait(&self, kind: Mirrored, phase: Phase) {
        self.record(|record| record.view(kind).wait(phase, Instant::now()));
    }
}
