//! Which of several replicas writes to Kubernetes: the one that holds a Lease.
//!
//! ```text
//!  Lease ──read──▶ Election ──plan──▶ create, replace, wait ──▶ Lease
//!                  (pure)   └──leads──▶ watch::Receiver<bool> ──▶ controllers, identity records
//! ```
//!
//! All replicas export, each to its own store; only what is written to Kubernetes needs a leader. Whoever reads a Lease
//! waits out its duration on his own clock from when he saw it change, so clocks need not agree. The holder stops
//! writing a while before others may take over.
//! Source: Kubernetes `coordination.k8s.io/v1`; the times are those of Cilium's operator.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_runtime::{Backoff, Chain, MasterStatus, Restart, Spawner, jitter};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{Cni, Config, Leases};

mod election;

use election::{Election, Plan};

/// The Lease.
const NAME: &str = "isthmus-clustermesh-apiserver";
/// Waits before the task starts again, which it does not need by itself.
const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// How long giving the Lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Whether this replica leads; `true` from the start where nothing is to be elected.
///
/// The election runs as a task of `tasks` until they are stopped, and then gives the Lease back. `controllers` says
/// whether any controller writes; numeric identities are also written where the CNI is not Cilium.
pub fn elect(
    config: &Config,
    controllers: bool,
    kube: Client,
    tasks: &Spawner,
    metrics: &mut Registry,
) -> watch::Receiver<bool> {
    let writes = controllers || config.cni != Cni::Cilium;
    let Some(leases) = config.leases.clone().filter(|_| writes) else {
        // Nobody will change it, and readers take the last value.
        let (_, alone) = watch::channel(true);
        return alone;
    };
    let (leads, leading) = watch::channel(false);
    let shown = leading.clone();
    MasterStatus::register(metrics, "clustermesh-apiserver", move || *shown.borrow());
    tasks.spawn("leader", Restart::WithBackoff(RESTART), move |stop| {
        let candidate = Candidate::new(leases.clone(), kube.clone(), leads.clone());
        async move {
            candidate.run(stop).await;
            Ok::<(), Infallible>(())
        }
    });
    leading
}

/// Runs `term` for as long as this replica leads, and again for each term, until `stop`.
///
/// `term` is to end soon after its token is cancelled; the next one waits for that.
///
/// # Errors
/// The first error of a term.
pub async fn while_leading<F, E>(
    mut leading: watch::Receiver<bool>,
    stop: CancellationToken,
    mut term: impl FnMut(CancellationToken) -> F,
) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    loop {
        if stop.run_until_cancelled(until(&mut leading, true)).await.is_none() {
            return Ok(());
        }
        let over = stop.child_token();
        let watch_over = async {
            until(&mut leading, false).await;
            over.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = term(over.clone()) => ended?,
            () = watch_over => {}
        }
    }
}

/// Ends when the standing is `wanted`; never, if nobody changes it any more.
async fn until(leading: &mut watch::Receiver<bool>, wanted: bool) {
    if leading.wait_for(|leads| *leads == wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A replica that wants to lead.
struct Candidate {
    api: Api<Lease>,
    leases: Leases,
    election: Election,
    leads: watch::Sender<bool>,
    complained: bool,
}

impl Candidate {
    fn new(leases: Leases, kube: Client, leads: watch::Sender<bool>) -> Self {
        let election = Election::new(leases.identity.clone(), leases.duration, leases.renew_deadline);
        Self { api: Api::namespaced(kube, &leases.namespace), leases, election, leads, complained: false }
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            let limit = self.leases.renew_deadline;
            // The standing ends on time even while a request is under way.
            let step = tokio::select! {
                () = stop.cancelled() => break,
                () = ends(self.election.leads_until()), if *self.leads.borrow() => {
                    warn!("the Lease was not renewed in time, no longer leading");
                    self.leads.send_replace(false);
                    continue;
                }
                step = timeout(limit, Self::step(&self.api, &self.election)) => step,
            };
            self.take(step.unwrap_or(Err(Failure::Late)));
            // Those who wait spread, so that they do not all come when the Lease is free.
            let wait = self.leases.retry.mul_f64(1.0 + 0.2 * jitter());
            let wait = if *self.leads.borrow() { self.leases.retry } else { wait };
            tokio::select! {
                () = stop.cancelled() => break,
                () = ends(self.election.leads_until()), if *self.leads.borrow() => {
                    self.leads.send_replace(false);
                }
                () = sleep(wait) => {}
            }
        }
        if self.leads.send_replace(false) && timeout(RELEASE_LIMIT, self.release()).await.is_err() {
            debug!("giving the Lease back took too long; others wait until it has run out");
        }
    }

    /// One look at the Lease, and what follows from it.
    async fn step(api: &Api<Lease>, election: &Election) -> Result<Step, Failure> {
        let found = api.get_opt(NAME).await?;
        let mut seen = election.clone();
        seen.observe(found.as_ref(), Instant::now());
        let asked = Instant::now();
        let params = PostParams::default();
        let written = match seen.plan(asked) {
            Plan::Wait => None,
            Plan::Create(spec) => Some(api.create(&params, &lease(spec, None)).await?),
            Plan::Replace(spec, version) => {
                Some(api.replace(NAME, &params, &lease(spec, Some(version))).await?)
            }
        };
        if let Some(written) = &written {
            seen.held(written, asked);
        }
        Ok(Step { election: seen })
    }

    fn take(&mut self, step: Result<Step, Failure>) {
        match step {
            Ok(Step { election }) => {
                self.election = election;
                self.complained = false;
            }
            // Someone else was faster, which is no failure.
            Err(Failure::Api(kube::Error::Api(status))) if status.code == 409 => {}
            Err(failure) => {
                let (error, lease) =
                    (Chain(&failure).to_string(), format!("{}/{NAME}", self.leases.namespace));
                if self.complained {
                    debug!(error, lease, "the Lease cannot be read or written");
                } else {
                    warn!(
                        error,
                        lease,
                        "the Lease cannot be read or written; without it nothing is written to Kubernetes \
                         (get, create and update of leases are needed, or --leader-election=false for one replica)"
                    );
                }
                self.complained = true;
            }
        }
        let leads = self.election.leads(Instant::now());
        if self.leads.send_replace(leads) != leads {
            if leads {
                info!(identity = self.leases.identity, "leading: this replica writes to Kubernetes");
            } else {
                warn!(holder = self.election.holder(), "no longer leading");
            }
        }
    }

    async fn release(&self) {
        if let Some((spec, version)) = self.election.released() {
            let released = self.api.replace(NAME, &PostParams::default(), &lease(spec, Some(version))).await;
            if let Err(error) = released {
                debug!(error = %Chain(&error), "the Lease could not be given back; others wait until it has run out");
            }
        }
    }
}

struct Step {
    election: Election,
}

/// Why a look at the Lease failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("ask the Kubernetes API for the Lease")]
    Api(#[from] kube::Error),
    #[error("the Kubernetes API did not answer in time")]
    Late,
}

async fn ends(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn lease(spec: k8s_openapi::api::coordination::v1::LeaseSpec, version: Option<String>) -> Lease {
    let mut lease = Lease { spec: Some(spec), ..Lease::default() };
    lease.metadata.name = Some(NAME.to_owned());
    lease.metadata.resource_version = version;
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn each_term_has_its_own_run_and_ends_with_it() {
        let (leads, leading) = watch::channel(false);
        let (stop, runs) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let ends = Arc::new(AtomicUsize::new(0));
        let (begun, over_again, end) = (Arc::clone(&runs), Arc::clone(&ends), stop.clone());
        let terms = while_leading(leading, end, move |over| {
            let (begun, over_again) = (Arc::clone(&begun), Arc::clone(&over_again));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                over.cancelled().await;
                over_again.fetch_add(1, Ordering::SeqCst);
                Ok::<(), Infallible>(())
            }
        });
        let script = async {
            let until = async |count: &AtomicUsize, wanted| {
                while count.load(Ordering::SeqCst) != wanted {
                    tokio::task::yield_now().await;
                }
            };
            tokio::task::yield_now().await;
            assert_eq!(runs.load(Ordering::SeqCst), 0, "nobody leads yet");
            leads.send_replace(true);
            until(&runs, 1).await;
            leads.send_replace(false);
            until(&ends, 1).await;
            leads.send_replace(true);
            until(&runs, 2).await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(terms, script);
        ended.unwrap();
    }

    #[tokio::test]
    async fn who_is_alone_leads_for_ever() {
        let (_, alone) = watch::channel(true);
        let stop = CancellationToken::new();
        let (asked, over_with) = (Arc::new(AtomicUsize::new(0)), stop.clone());
        let seen = Arc::clone(&asked);
        while_leading(alone, stop, move |over| {
            seen.fetch_add(1, Ordering::SeqCst);
            over_with.cancel();
            async move {
                over.cancelled().await;
                Ok::<(), Infallible>(())
            }
        })
        .await
        .unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
