//! Leases.

use std::time::Duration;

use tonic::Status;

use super::{EtcdClient, error::Asked};
use crate::{
    client::{Error, LeaseId},
    embedded::whole_seconds,
};

pub(super) async fn grant(client: &EtcdClient, ttl: Duration) -> Result<LeaseId, Error> {
    let pin = client.pin();
    let mut leases = pin.clients().await?.lease.clone();
    let answer = client.call(Asked::Nothing, leases.grant(whole_seconds(ttl), None)).await?;
    pin.check(answer.header())?;
    Ok(LeaseId(answer.id()))
}

/// Renews twice: `etcd-client` keeps the answer to the first request on a stream for itself.
pub(super) async fn keep_alive(client: &EtcdClient, lease: LeaseId) -> Result<Duration, Error> {
    let pin = client.pin();
    let asked = Asked::Lease(lease);
    let mut leases = pin.clients().await?.lease.clone();
    let renewed = client.call(asked, async {
        let (mut keeper, mut answers) = leases.keep_alive(lease.0).await?;
        keeper.keep_alive().await?;
        answers.message().await
    });
    let answer = match renewed.await {
        Err(Error::LeaseNotFound(lease)) => {
            // It also keeps the header, which says whether it is our store that does not know the lease.
            let mut leases = pin.clients().await?.lease.clone();
            if let Ok(answer) = client.call(asked, leases.time_to_live(lease.0, None)).await {
                pin.check(answer.header())?;
            }
            return Err(Error::LeaseNotFound(lease));
        }
        answer => answer?,
    };
    let answer = answer.ok_or_else(|| Error::Unavailable(Status::unavailable("the lease stream ended")))?;
    pin.check(answer.header())?;
    if answer.ttl() <= 0 {
        return Err(Error::LeaseNotFound(lease));
    }
    Ok(Duration::from_secs(answer.ttl().unsigned_abs()))
}

pub(super) async fn revoke(client: &EtcdClient, lease: LeaseId) -> Result<(), Error> {
    let pin = client.pin();
    let mut leases = pin.clients().await?.lease.clone();
    let answer = client.call(Asked::Lease(lease), leases.revoke(lease.0)).await?;
    pin.check(answer.header())?;
    Ok(())
}
