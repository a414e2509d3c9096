//! One kind of data of one peer, for the length of a connection.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kvstore::sync::Change;
use kvstore::{Client, Revision};
use mesh_types::{Form, Reason, Rejection, Resource, STAMPS, Stamps};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Feed, Remote, changed};
use crate::error::explain;
use crate::keeper::Signal;
use crate::record::Phase;

/// Canaries of a peer that were seen, each of a kind and a form. One that was seen stays.
pub(super) type Canaries = BTreeSet<(Resource, Form)>;

/// A kind of which the peer has far too much is looked at again after this.
const FLOOD_PAUSE: Duration = Duration::from_secs(600);
/// Lists for the sake of entries that were left out are not closer than this.
const RELIST_PAUSE: Duration = Duration::from_secs(30);
/// Entries of one batch that are refused are named up to this many in the log.
const TOLD_AT_ONCE: usize = 10;

/// Why a kind is not followed any more.
enum End {
    /// The connection is no use.
    Trouble(Rejection),
    /// It should be listed again.
    Again,
    /// There is far too much of it.
    Flooded,
}

impl Remote {
    /// Takes what lies where the canaries do.
    pub(super) fn note_synced(&self, canaries: &watch::Sender<Canaries>, batch: Vec<Change>) {
        canaries.send_if_modified(|seen| {
            let before = seen.len();
            for change in batch {
                let Change::Put { key, value, .. } = change else { continue };
                if key == STAMPS.as_bytes() {
                    match Stamps::decode(&value) {
                        Ok(stamps) => self.sinks.timing().told(stamps),
                        Err(Rejection { reason, detail }) => {
                            debug!(cluster = %self.name, %reason, detail, "stamps not understood");
                        }
                    }
                } else {
                    // A peer may have any number of other keys there.
                    seen.extend(std::str::from_utf8(&key).ok().and_then(Resource::from_canary_name));
                }
            }
            seen.len() > before
        });
    }

    /// Mirrors one kind once the peer says that it is complete; returns when it cannot go on.
    pub(super) async fn mirror(
        &self,
        client: &dyn Client,
        kind: Resource,
        form: Form,
        canaries: Option<watch::Receiver<Canaries>>,
    ) -> Rejection {
        let has_canaries = canaries.is_some();
        if let Some(mut canaries) = canaries {
            self.wait(kind, Phase::Canary);
            self.unread(kind);
            while !canaries.borrow_and_update().contains(&(kind, form)) {
                changed(&mut canaries).await;
            }
        }
        loop {
            self.wait(kind, Phase::Listing);
            let end = self.follow(client, kind, form, has_canaries).await;
            match end {
                End::Trouble(trouble) => return trouble,
                End::Again => {}
                End::Flooded => {
                    let what = format!(
                        "{} of {} has many times more keys than --max-keys-per-kind; it is not read, what is known stays",
                        kind.word(),
                        self.name
                    );
                    self.refuse(Rejection::new(Reason::TooManyKeys, what));
                    self.wait(kind, Phase::Flooded);
                    self.unread(kind);
                    sleep(FLOOD_PAUSE).await;
                }
            }
        }
    }

    /// Lists and watches one kind until its end.
    async fn follow(&self, client: &dyn Client, kind: Resource, form: Form, has_canaries: bool) -> End {
        let mut feed = Feed::new(client, kind.prefix(form, &self.name));
        self.sinks.keep(kind, |keeper, _| keeper.connect());
        let listed_at = Instant::now();
        loop {
            let batch = match feed.next().await {
                Ok(batch) => batch,
                Err(trouble) => return End::Trouble(trouble),
            };
            let (signal, has_room) = self.carry_out(kind, batch);
            match signal {
                None | Some(Signal::Lost) => {}
                Some(Signal::Flooded) => return End::Flooded,
                Some(Signal::Outdated) => return End::Again,
                Some(Signal::Resumed) => {
                    self.record(|record| record.view(kind).follows(Instant::now()));
                }
                Some(Signal::Listed { revision }) => {
                    if has_canaries
                        && let Err(trouble) = self.check_canary(client, kind, form, revision).await
                    {
                        return End::Trouble(trouble);
                    }
                    self.complete(kind);
                }
            }
            if has_room && listed_at.elapsed() >= RELIST_PAUSE {
                return End::Again;
            }
        }
    }

    /// Shows the keeper what came and notes what was refused; returns what became of the view, and whether to list again.
    fn carry_out(&self, kind: Resource, batch: Vec<Change>) -> (Option<Signal>, bool) {
        let now = Instant::now();
        let (taken, has_room) = self.sinks.keep(kind, |keeper, writer| {
            let taken = keeper.take(batch, now, writer);
            (taken, keeper.has_room(writer))
        });
        let mut news = Vec::new();
        // No view becomes complete here, and no cluster is connected.
        self.board.remote_quietly(&self.name, |record| {
            match taken.signal {
                Some(Signal::Lost) => record.view(kind).wait(Phase::Unconnected, now),
                None | Some(Signal::Listed { .. } | Signal::Resumed | Signal::Outdated | Signal::Flooded) => {
                    record.view(kind).last_event = Some(now);
                }
            }
            if !record.skipped.is_empty() {
                taken.settled.iter().for_each(|key| record.unskip(kind, key));
            }
            for (key, rejection) in taken.skipped {
                if record.skip(kind, key.clone(), rejection.clone()) {
                    news.push((key, rejection));
                }
            }
        });
        let untold = news.len().saturating_sub(TOLD_AT_ONCE);
        for (key, Rejection { reason, detail }) in news.into_iter().take(TOLD_AT_ONCE) {
            warn!(cluster = %self.name, resource = kind.word(), key = %key.escape_ascii(), %reason, detail, "entry not mirrored");
        }
        if untold > 0 {
            warn!(cluster = %self.name, resource = kind.word(), entries = untold, "more entries not mirrored");
        }
        (taken.signal, has_room)
    }

    /// The list is complete: what it did not name goes or is held back, and the local canary may be written.
    fn complete(&self, kind: Resource) {
        let now = Instant::now();
        let (keys, held) = self.sinks.keep(kind, |keeper, writer| {
            let keys = keeper.complete(now, writer);
            (keys, keeper.held().map(|held| held.keys.len()))
        });
        self.record(|record| record.view(kind).follows(now));
        info!(cluster = %self.name, resource = kind.word(), keys, "list complete");
        if let Some(held) = held {
            warn!(
                cluster = %self.name, resource = kind.word(), held,
                "the peer withdrew more than is usual; holding it back for a while, release it by isthmus kvstoremesh release"
            );
        }
    }

    /// Whether the peer's data was complete at `listed`.
    ///
    /// That the canary was seen before does not say so: the store may have been replaced meanwhile by an empty one that calls
    /// itself the same. Its list proves nothing before the canary is back.
    async fn check_canary(
        &self,
        client: &dyn Client,
        kind: Resource,
        form: Form,
        listed: Revision,
    ) -> Result<(), Rejection> {
        let key = kind.canary(form, &self.name);
        let found = client.get(key.as_bytes()).await.map_err(|error| explain(&error))?;
        if found.is_some_and(|found| found.create_revision <= listed) {
            debug!(cluster = %self.name, resource = kind.word(), %listed, "the list can be trusted");
            return Ok(());
        }
        let what =
            format!("{key} is gone: the store was emptied, what is known stays until it is complete again");
        Err(Rejection::new(Reason::StoreReplaced, what))
    }

    /// What is known of the kind is not kept up to date from now on.
    fn unread(&self, kind: Resource) {
        self.sinks.keep(kind, |keeper, writer| keeper.unread(Instant::now(), writer));
    }

    fn wait(&self, kind: Resource, phase: Phase) {
        self.record(|record| record.view(kind).wait(phase, Instant::now()));
        self.sinks.stir();
    }
}
