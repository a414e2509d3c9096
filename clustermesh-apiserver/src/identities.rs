//! Carries out what the allocator decides: numeric identities recorded in ConfigMaps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use kube_watch::{
    ConsumerGone, DecodeError, Event, RawObject, Resource, Watch, WatchOptions, WatchStatus,
    watch as watch_resource,
};
use mesh_runtime::{Backoff, Chain, Retry, jitter};
use mesh_types::NumericIdentity;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::export::allocation::{Allocator, Records, Replacement, Shard, Space};

/// The ConfigMaps are called `isthmus-identities-<shard, two hexadecimal digits>`.
const NAME_PREFIX: &str = "isthmus-identities-";
/// By this label they are found.
const LABEL: (&str, &str) = ("isthmus.io/identity-records", "true");
/// Waits after a write failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// How often unused records are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(60);
/// Attempts at one shard before the others have their turn.
const ATTEMPTS: usize = 8;

/// Which label sets need numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) labels: BTreeSet<Arc<str>>,
    /// Whether these are all: only then it can be said that the others are not needed.
    pub(crate) complete: bool,
}

/// What the allocator has to tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// `None` before the records were read.
    pub(crate) records: Option<Arc<Records>>,
    /// Why the latest write failed, while that lasts.
    pub(crate) failure: Option<String>,
}

type Decode = fn(&RawObject<'_>) -> Result<Read, DecodeError>;

/// Reads the records, makes those that are wanted and removes those that nobody needs.
pub(crate) struct Identities {
    watch: Watch<Read, Decode>,
    events: mpsc::Receiver<Event<Read>>,
    keeper: Keeper,
}

impl Identities {
    /// Nothing is asked before [`Self::run`], and nothing written unless `leading`. Also gives the status of the watch of the ConfigMaps.
    pub(crate) fn new(
        client: Client,
        config: &Config,
        wanted: watch::Receiver<Wanted>,
        told: watch::Sender<Told>,
        leading: watch::Receiver<bool>,
    ) -> (Self, watch::Receiver<WatchStatus>) {
        let resource = Resource::new("", "v1", "ConfigMap", "configmaps")
            .in_namespace(&config.identity_namespace)
            .with_labels(format!("{}={}", LABEL.0, LABEL.1));
        let decode: Decode = decode;
        let options = WatchOptions::default();
        let (watch, events, status) = watch_resource(client.clone(), resource, decode, options);
        let space = Space::new(config.local.id.identities(config.local.max));
        let keeper = Keeper {
            api: Api::namespaced(client, &config.identity_namespace),
            allocator: Allocator::new(space, config.identity_grace),
            wanted,
            told,
            leading,
            listed: false,
            retry: RETRY.retry(),
        };
        (Self { watch, events, keeper }, status)
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// The watch of the ConfigMaps broke down, which it does not by itself.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ConsumerGone> {
        tokio::select! {
            ended = self.watch.run(stop.clone()) => ended,
            () = self.keeper.keep(self.events, stop) => Ok(()),
        }
    }
}

struct Keeper {
    api: Api<ConfigMap>,
    allocator: Allocator,
    wanted: watch::Receiver<Wanted>,
    told: watch::Sender<Told>,
    leading: watch::Receiver<bool>,
    listed: bool,
    retry: Retry,
}

/// A shard as it was read.
#[derive(Debug)]
struct Read {
    shard: u32,
    version: String,
    records: Shard,
}

impl Keeper {
    async fn keep(mut self, mut events: mpsc::Receiver<Event<Read>>, stop: CancellationToken) {
        let mut collect = tokio::time::interval(COLLECT_EVERY);
        let mut again: Option<tokio::time::Instant> = None;
        loop {
            let retry = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => match event {
                    Some(event) => self.read(event),
                    None => return,
                },
                changed = self.wanted.changed() => match changed {
                    Ok(()) => {
                        let wanted = self.wanted.borrow_and_update().labels.clone();
                        self.allocator.want(wanted);
                    }
                    Err(_exporter_is_gone) => return,
                },
                _ = collect.tick() => {}
                () = led(&mut self.leading) => {}
                () = retry => {}
            }
            if self.listed {
                // Whoever does not lead reads what the leader writes.
                if *self.leading.borrow() {
                    let written = stop.run_until_cancelled(self.write()).await;
                    let Some(written) = written else { return };
                    again = self.outcome(written);
                }
                self.tell();
            }
        }
    }

    fn read(&mut self, event: Event<Read>) {
        match event {
            Event::Applied { object: Read { shard, version, records }, .. } => {
                self.allocator.observe(shard, version, records);
            }
            Event::Deleted { key } => {
                if let Some(shard) = shard_of(&key.name) {
                    self.allocator.observe_gone(shard);
                }
            }
            Event::Undecodable { key, error } => {
                warn!(object = %key, error = %Chain(&error), "ConfigMap does not hold identity records");
            }
            Event::InitialListDone => {
                self.listed = true;
                info!(records = self.allocator.records().all().len(), "identity records read");
            }
        }
    }

    async fn write(&mut self) -> Result<(), kube::Error> {
        for _ in 0..ATTEMPTS {
            let collect = self.wanted.borrow().complete;
            let replacements = self.allocator.replacements(Instant::now(), collect);
            if replacements.is_empty() {
                return Ok(());
            }
            for replacement in replacements {
                self.replace(replacement).await?;
            }
        }
        Ok(())
    }

    /// Replaces a shard, or learns what someone else replaced it by.
    async fn replace(
        &mut self,
        Replacement { shard, version, records }: Replacement,
    ) -> Result<(), kube::Error> {
        let name = name_of(shard);
        let object = config_map(&name, version, &records);
        let params = PostParams::default();
        let written = match object.metadata.resource_version {
            Some(_) => self.api.replace(&name, &params, &object).await,
            None => self.api.create(&params, &object).await,
        };
        let stored = match written {
            Ok(stored) => {
                debug!(name, records = records.len(), "identity records written");
                Some(stored)
            }
            // Someone else was faster, or removed it.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {
                let found = self.api.get_opt(&name).await?;
                if found.is_none() && status.code == 404 && object.metadata.resource_version.is_none() {
                    // Not the object is missing but its namespace.
                    return Err(kube::Error::Api(status));
                }
                found
            }
            Err(error) => return Err(error),
        };
        match stored {
            Some(ConfigMap { metadata, data, .. }) => {
                let version = metadata.resource_version.unwrap_or_default();
                self.allocator.observe(shard, version, shard_records(data.unwrap_or_default()));
            }
            None => self.allocator.observe_gone(shard),
        }
        Ok(())
    }

    /// When to try again, if at all.
    fn outcome(&mut self, written: Result<(), kube::Error>) -> Option<tokio::time::Instant> {
        let failure = match &written {
            Ok(()) => {
                self.retry.reset();
                None
            }
            Err(error) => Some(Chain(error).to_string()),
        };
        let wait = failure.as_ref().map(|error| {
            let wait = self.retry.next_delay(jitter());
            if self.retry.attempts() == 1 {
                warn!(
                    error,
                    ?wait,
                    "identity records cannot be written; pods with new labels are not exported"
                );
            }
            wait
        });
        self.told.send_if_modified(|told| {
            let changed = told.failure != failure;
            told.failure = failure;
            changed
        });
        wait.map(|wait| tokio::time::Instant::now() + wait)
    }

    fn tell(&self) {
        let records = self.allocator.records();
        self.told.send_if_modified(|told| {
            let changed = told.records.as_deref() != Some(&records);
            if changed {
                told.records = Some(Arc::new(records));
            }
            changed
        });
    }
}

/// Ends when the standing changes; never, where it is settled.
async fn led(leading: &mut watch::Receiver<bool>) {
    if leading.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn decode(raw: &RawObject<'_>) -> Result<Read, DecodeError> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        data: Option<BTreeMap<String, String>>,
    }
    let shard = shard_of(raw.name());
    let shard = shard.ok_or_else(|| DecodeError::invalid("the name is none of those that records have"))?;
    let Data { data } = raw.parse()?;
    let records = shard_records(data.unwrap_or_default());
    Ok(Read { shard, version: raw.resource_version().to_owned(), records })
}

/// What is no number is left out, and goes with the next write.
fn shard_records(data: BTreeMap<String, String>) -> Shard {
    let record =
        |(number, labels): (String, String)| Some((NumericIdentity(number.parse().ok()?), Arc::from(labels)));
    data.into_iter().filter_map(record).collect()
}

fn name_of(shard: u32) -> String {
    format!("{NAME_PREFIX}{shard:02x}")
}

fn shard_of(name: &str) -> Option<u32> {
    let shard = u32::from_str_radix(name.strip_prefix(NAME_PREFIX)?, 16).ok()?;
    (name_of(shard) == name).then_some(shard)
}

fn config_map(name: &str, version: Option<String>, records: &Shard) -> ConfigMap {
    let labels = [LABEL, ("app.kubernetes.io/managed-by", "isthmus")];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: version,
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        data: Some(records.iter().map(|(number, labels)| (number.to_string(), labels.to_string())).collect()),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_records_round_trip() {
        for shard in [0, 9, 31, 255] {
            assert_eq!(shard_of(&name_of(shard)), Some(shard));
        }
        for name in ["isthmus-identities-", "isthmus-identities-1", "isthmus-identities-zz", "other-00"] {
            assert_eq!(shard_of(name), None, "{name}");
        }
        let records = Shard::from([(NumericIdentity(200_000), Arc::from("k8s:app=cart;"))]);
        let object = config_map("isthmus-identities-00", None, &records);
        let mut data = object.data.unwrap();
        data.insert("note".into(), "by hand".into());
        assert_eq!(shard_records(data), records);
    }
}
