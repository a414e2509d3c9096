//! The client of an etcd v3 server, ours or another, over mutual TLS: [`Client`] by the crate `etcd-client`.
//!
//! The crate speaks etcd's gRPC. Ours is what it leaves open: the channel (how to dial, TLS files as they are now,
//! keepalive, a limit for each answer), which store the answers are of, time limits, typed errors, and watches
//! that end with a reason.

mod connection;
mod error;
mod kv;
mod lease;
#[cfg(test)]
mod tests;
mod watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{GetOptions, Txn, TxnResponse};
use tonic::Status;

pub(super) use self::error::Asked;
use self::{
    connection::{Pin, Shared},
    error::error,
};
use super::{
    Client, Error, EtcdConfig, Guard, Guarded, KeyValue, LeaseId, Limits, Page, Revision, StoreStatus,
    WatchError, WatchStream, Write,
    connector::{Endpoint, client_config},
};
use crate::range::KeyRange;

/// Operations that every etcd takes in one transaction.
const TXN_OPERATIONS: usize = 128;
/// Bytes of keys and values in one transaction; etcd refuses requests above 1.5 MiB.
const TXN_BYTES: usize = 1 << 20;
/// Keys on one lease, as in Cilium: in etcd each put costs more with every key on its lease.
const KEYS_PER_LEASE: usize = 1000;
/// Keys per page, as in Cilium.
const PAGE: usize = 256;
/// Largest answer that is taken, so that a store cannot make its clients grow without end. A page of the largest
/// values that etcd stores by default (1.5 MiB) is 384 MiB.
const ANSWER_BYTES: usize = 512 << 20;

/// A client of an etcd v3 server. It connects when it is first used, and again whenever it has to.
///
/// The first answer fixes the cluster id; see [`OnNewCluster`] for what happens when it changes.
///
/// [`OnNewCluster`]: super::OnNewCluster
#[derive(Debug)]
pub struct EtcdClient {
    shared: Arc<Shared>,
}

impl EtcdClient {
    /// Checks the configuration and reads the TLS files; does not connect yet. Must be called on a runtime.
    ///
    /// # Errors
    /// [`Error::Credentials`] if an endpoint is no URL or a file cannot be used.
    pub fn new(config: EtcdConfig) -> Result<Self, Error> {
        let endpoints: Result<Vec<Endpoint>, _> =
            config.endpoints.iter().map(|text| Endpoint::parse(text)).collect();
        let endpoints = endpoints?;
        if endpoints.is_empty() {
            return Err(super::CredentialsError::Endpoint { endpoint: String::new() }.into());
        }
        match &config.tls {
            Some(tls) => drop(client_config(tls)?),
            None => {
                if let Some(endpoint) = endpoints.iter().position(Endpoint::is_tls) {
                    let endpoint = config.endpoints[endpoint].clone();
                    return Err(super::CredentialsError::NoCa { endpoint }.into());
                }
            }
        }
        Ok(Self { shared: Arc::new(Shared::new(config, endpoints)) })
    }

    /// Cluster id of the store that this client talks to; `None` before its first answer.
    pub fn cluster_id(&self) -> Option<u64> {
        self.shared.cluster_id()
    }

    fn pin(&self) -> Pin {
        Pin::new(&self.shared)
    }

    /// A call, for as long as a request may take.
    pub(super) async fn call<T>(
        &self,
        asked: Asked,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        let limit = self.shared.config().request_timeout;
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|cause| error(cause, asked)),
            Err(_elapsed) => {
                let words = format!("the store did not answer within {limit:?}");
                Err(Error::Unavailable(Status::deadline_exceeded(words)))
            }
        }
    }

    /// For calls about users. Their headers are not checked: users belong to no revision.
    pub(super) async fn auth(&self) -> Result<etcd_client::AuthClient, Error> {
        Ok(self.pin().clients().await?.auth.clone())
    }

    async fn transact(&self, txn: Txn, asked: Asked) -> Result<(TxnResponse, Revision), Error> {
        let pin = self.pin();
        let mut kv = pin.clients().await?.kv.clone();
        let answer = self.call(asked, kv.txn(txn)).await?;
        let revision = pin.check(answer.header())?;
        Ok((answer, revision))
    }
}

#[async_trait]
impl Client for EtcdClient {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        let page = self.list(&KeyRange::key(Bytes::copy_from_slice(key)), 0, None).await?;
        Ok(page.kvs.into_iter().next())
    }

    async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error> {
        let (key, range_end) = range.to_wire();
        let options = GetOptions::new()
            .with_range(range_end)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(at.map_or(0, |at| at.0));
        let pin = self.pin();
        let mut kv = pin.clients().await?.kv.clone();
        let answer = self.call(Asked::Revision(at.unwrap_or_default()), kv.get(key, Some(options))).await?;
        let revision = pin.check(answer.header())?;
        Ok(Page {
            more: answer.more(),
            kvs: answer.0.kvs.into_iter().map(kv::key_value).collect(),
            revision: at.unwrap_or(revision),
        })
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError> {
        watch::open(self, range, from).await
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error> {
        let mut revision = Revision::default();
        for part in kv::Parts::of(batch) {
            (_, revision) = self.transact(Txn::new().and_then(part.operations), part.asked).await?;
        }
        Ok(revision)
    }

    async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error> {
        let (txn, asked) = kv::guarded(&guards, batch);
        let (answer, revision) = self.transact(txn, asked).await?;
        if answer.succeeded() {
            return Ok(Guarded::Done(revision));
        }
        Ok(Guarded::Refused { current: kv::found(answer), revision })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        lease::grant(self, ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        lease::keep_alive(self, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        lease::revoke(self, lease).await
    }

    async fn status(&self) -> Result<StoreStatus, Error> {
        let pin = self.pin();
        let mut maintenance = pin.clients().await?.maintenance.clone();
        let answer = self.call(Asked::Nothing, maintenance.status()).await?;
        let revision = pin.check(answer.header())?;
        let header = answer.header().ok_or(Error::NoHeader)?;
        Ok(StoreStatus {
            cluster_id: header.cluster_id(),
            member_id: header.member_id(),
            revision,
            version: answer.version().to_owned(),
            db_size_bytes: answer.db_size(),
            errors: answer.errors().to_vec(),
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            batch_operations: TXN_OPERATIONS,
            batch_bytes: TXN_BYTES,
            keys_per_lease: Some(KEYS_PER_LEASE),
            page: Some(PAGE),
        }
    }

    fn is_spent(&self) -> bool {
        self.shared.is_spent()
    }
}
