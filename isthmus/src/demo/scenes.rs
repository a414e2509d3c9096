//! Scripted scenes: each does something to the mesh, says what to look at, and asserts what must come of it.
//!
//! A scene leaves the mesh as it was, but for `safe-deletion`, which is therefore the last.

use super::objects::{self, AFFINITY, CART, GLOBAL, NAMESPACE, PAYMENTS};
use super::observer::State;
use super::{Demo, out};
use anyhow::ensure;
use clap::ValueEnum;
use futures::future::try_join_all;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::io::AsyncBufReadExt as _;

/// Services that the last scene makes and deletes at once: more than a mirror lets go without a second look.
const CATALOGUE: usize = 14;

/// A scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// All pods of a service in one cluster go away, and come back.
    Failover,
    /// Two clusters lose each other, go on with what they know, and catch up.
    Partition,
    /// A cluster decides whose backends it prefers.
    Affinity,
    /// A store that comes back empty is no deletion; a deletion is; and many at once are looked at twice.
    SafeDeletion,
}

/// Plays one in a demo that runs.
pub(crate) struct Stage<'a> {
    demo: &'a mut Demo,
    /// Waits for Enter after each step.
    paced: bool,
}

impl Scene {
    /// Plays it.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub(crate) async fn play(self, demo: &mut Demo, paced: bool) -> anyhow::Result<()> {
        let mut stage = Stage { demo, paced };
        match self {
            Self::Failover => stage.failover().await,
            Self::Partition => stage.partition().await,
            Self::Affinity => stage.affinity().await,
            Self::SafeDeletion => stage.safe_deletion().await,
        }
    }
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

impl Stage<'_> {
    fn say(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        out::print(format_args!("\n{}", out::within(&format!("=> {text}"), "   ")))
    }

    async fn done(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        out::print(out::within(&format!("   {text}"), "   "))?;
        if self.paced {
            out::print("   [Enter]")?;
            let mut line = String::new();
            tokio::io::BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
        }
        Ok(())
    }

    /// How many clusters there are.
    fn count(&self) -> usize {
        self.demo.clusters.len()
    }

    fn names(&self) -> Vec<&'static str> {
        self.demo.clusters.iter().map(|cluster| cluster.name).collect()
    }

    fn backends(&self, service: &str, cluster: &str) -> Vec<String> {
        objects::backends(service, self.demo.cluster(cluster).id)
    }

    /// Waits until `cluster` uses so many backends of the service.
    async fn uses(
        &mut self,
        cluster: &'static str,
        service: &'static str,
        count: usize,
    ) -> anyhow::Result<Duration> {
        let what = format!("{cluster} uses {count} backends of {service}");
        self.demo.until(&what, |state| used(state, cluster, service) == Some(count)).await
    }

    async fn failover(&mut self) -> anyhow::Result<()> {
        let (all, names) = (2 * self.count(), self.names());
        self.say(format_args!(
            "All pods of {CART} in west go away. Look at what west uses instead, and that the others let go of them."
        ))?;
        let began = Instant::now();
        self.demo.cluster("west").scale(CART, &[]).await?;
        for name in &names {
            let what = format!("{name} uses no backend of west");
            self.demo
                .until(&what, |state| {
                    state
                        .service(name, CART)
                        .is_some_and(|cart| cart.used_of("west") == 0 && cart.used() == all - 2)
                })
                .await?;
        }
        self.done(format_args!(
            "west goes on with the {} backends of the others; all clusters knew after {}.",
            all - 2,
            ms(began.elapsed())
        ))
        .await?;
        self.say("They come back.")?;
        let began = Instant::now();
        self.demo.cluster("west").scale(CART, &self.backends(CART, "west")).await?;
        for name in names {
            self.uses(name, CART, all).await?;
        }
        self.done(format_args!("All {all} backends are in use everywhere after {}.", ms(began.elapsed())))
            .await
    }

    async fn partition(&mut self) -> anyhow::Result<()> {
        let all = 2 * self.count();
        let link = self.demo.links.file("west", "east");
        self.say("The link between west and east is cut. Look at what west keeps.")?;
        let before = self.demo.observer.state().changes_of("west", CART);
        std::fs::write(&link, "")?;
        let lost = |state: &State| {
            let apart = |one, other| state.remote(one, other).is_some_and(|remote| !remote.connected);
            apart("west", "east") && apart("east", "west")
        };
        self.demo.until("west and east know that they lost contact", lost).await?;
        self.done("Both know that they are out of touch. Losing contact is not deleting: west keeps all of east's backends.")
            .await?;

        self.say("Meanwhile east gets a third pod of cart, which west cannot know.")?;
        let mut more = self.backends(CART, "east");
        let third = format!("10.{}.0.99", self.demo.cluster("east").id);
        more.push(third.clone());
        self.demo.cluster("east").scale(CART, &more).await?;
        let witness = if self.count() > 2 { "north" } else { "east" };
        let time = self.uses(witness, CART, all + 1).await?;
        let state = self.demo.observer.state();
        ensure!(
            used(&state, "west", CART) == Some(all),
            "west must go on with the {all} backends that it knows"
        );
        ensure!(
            state.changes_of("west", CART) == before,
            "nothing of cart may have changed in west while it was out of touch"
        );
        self.done(format_args!(
            "{witness} uses {third} after {}; west still uses the {all} that it knew.",
            ms(time)
        ))
        .await?;

        self.say("The link is whole again.")?;
        std::fs::remove_file(&link)?;
        let time = self.uses("west", CART, all + 1).await?;
        let ready = |state: &State| {
            ["west", "east"].iter().all(|name| {
                state.remotes.get(name).is_some_and(|remotes| remotes.iter().all(|remote| remote.ready))
            })
        };
        self.demo.until("west and east are in step", ready).await?;
        self.done(format_args!("west caught up {} after the repair.", ms(time))).await?;
        self.demo.cluster("east").scale(CART, &self.backends(CART, "east")).await?;
        self.uses("west", CART, all).await.map(drop)
    }

    async fn affinity(&mut self) -> anyhow::Result<()> {
        let all = 2 * self.count();
        let others = all - 2;
        let of_west = |state: &State| state.service("west", PAYMENTS).map(|service| service.used_of("west"));
        self.say(format_args!(
            "{PAYMENTS} has {AFFINITY}=local: west knows all {all} backends, and uses its own."
        ))?;
        self.uses("west", PAYMENTS, 2).await?;
        ensure!(of_west(&self.demo.observer.state()) == Some(2), "west must use its own backends");
        self.done("Two of them are in use: those of west.").await?;

        self.say("Its own go away.")?;
        self.demo.cluster("west").scale(PAYMENTS, &[]).await?;
        let time = self.uses("west", PAYMENTS, others).await?;
        self.done(format_args!("The {others} of the others take over after {}.", ms(time))).await?;

        self.say("They come back.")?;
        self.demo.cluster("west").scale(PAYMENTS, &self.backends(PAYMENTS, "west")).await?;
        let time = self.uses("west", PAYMENTS, 2).await?;
        self.done(format_args!("West's own are in use again after {}.", ms(time))).await?;

        self.say(format_args!("west says {AFFINITY}=remote."))?;
        self.demo.cluster("west").annotate(PAYMENTS, AFFINITY, "remote").await?;
        let what = "west uses the backends of the others only";
        let time = self
            .demo
            .until(what, |state| of_west(state) == Some(0) && used(state, "west", PAYMENTS) == Some(others))
            .await?;
        self.done(format_args!("Now the {others} of the others are in use, after {}.", ms(time))).await?;
        self.demo.cluster("west").annotate(PAYMENTS, AFFINITY, "local").await?;
        self.uses("west", PAYMENTS, 2).await.map(drop)
    }

    async fn safe_deletion(&mut self) -> anyhow::Result<()> {
        self.empty_store().await?;
        self.one_deletion().await?;
        self.many_deletions().await
    }

    /// The store of a cluster starts empty, and nobody can fill it.
    async fn empty_store(&mut self) -> anyhow::Result<()> {
        let all = 2 * self.count();
        let store =
            |state: &State| state.remote("west", "east").and_then(|remote| remote.store_cluster_id.clone());
        let before = self.demo.observer.state();
        let (old, changes) = (store(&before), before.changes_of("west", CART));
        self.say(
            "The Kubernetes API of east hangs, and then east's store is killed and starts again, empty. Look at what \
             west makes of that.",
        )?;
        self.demo.cluster("east").freeze_kubernetes(true)?;
        let program = self.demo.program.clone();
        for cluster in self.demo.clusters.iter_mut().filter(|cluster| cluster.name == "east") {
            cluster.start_mesh(&program)?;
        }
        let met = |state: &State| {
            state.remote("west", "east").is_some_and(|remote| {
                remote.connected && remote.store_cluster_id.is_some() && remote.store_cluster_id != old
            })
        };
        let time = self.demo.until("west meets the new store of east", met).await?;
        let state = self.demo.observer.state();
        ensure!(used(&state, "west", CART) == Some(all), "west must keep the backends of east");
        self.done(format_args!(
            "west met the new, empty store after {}, and keeps all {all} backends: nobody said that they are deleted.",
            ms(time)
        ))
        .await?;

        self.say("The Kubernetes API of east goes on.")?;
        self.demo.cluster("east").freeze_kubernetes(false)?;
        let in_step = |state: &State| state.remote("west", "east").is_some_and(|remote| remote.ready);
        let time = self.demo.until("west is in step with the new store of east", in_step).await?;
        let after = self.demo.observer.state();
        ensure!(
            after.changes_of("west", CART) == changes && used(&after, "west", CART) == Some(all),
            "the agent of west must not have seen any change of {CART}"
        );
        self.done(format_args!("In step again after {}; the agent of west saw nothing of it.", ms(time)))
            .await
    }

    async fn one_deletion(&mut self) -> anyhow::Result<()> {
        self.say("east gets a catalogue of services, and then deletes one of them.")?;
        self.demo.observer.tell(false);
        let east = self.demo.cluster("east");
        for number in 1..=CATALOGUE {
            let backends = [format!("10.{}.1.{number}", east.id)];
            east.create_service(&catalogue(number), json!({GLOBAL: "true"}), &backends).await?;
        }
        let all = |state: &State| ["west", "east"].iter().all(|name| known(state, name) == CATALOGUE);
        self.demo.until("west knows the catalogue", all).await?;
        self.demo.observer.tell(true);
        self.demo.cluster("east").delete_service(&catalogue(1)).await?;
        let time =
            self.demo.until("west lets go of it", |state| known(state, "west") == CATALOGUE - 1).await?;
        self.done(format_args!("west let go of it after {}: a deletion is obeyed.", ms(time))).await
    }

    async fn many_deletions(&mut self) -> anyhow::Result<()> {
        self.say(
            "east deletes all the rest of the catalogue at once, as a mistake would. Look at `isthmus status`.",
        )?;
        let east = self.demo.cluster("east");
        let names: Vec<_> = (2..=CATALOGUE).map(catalogue).collect();
        try_join_all(names.iter().map(|name| east.delete_service(name))).await?;
        let held = |state: &State| {
            let services = state.remote("west", "east").and_then(|remote| remote.resources.get("services"));
            services.and_then(|services| services.withheld.clone())
        };
        let all_held = |state: &State| {
            let keys = held(state).map_or(0, |held| held.keys);
            known(state, "east") == 0 && keys > 0 && keys == known(state, "west")
        };
        self.demo.until("west holds back what east withdraws", all_held).await?;
        let (keys, reason) =
            held(&self.demo.observer.state()).map(|held| (held.keys, held.reason)).unwrap_or_default();
        self.done(format_args!(
            "west holds {keys} withdrawals back ({reason}) and goes on to offer these services; they go after five \
             minutes, or stay if they return."
        ))
        .await
    }
}

fn used(state: &State, cluster: &str, service: &str) -> Option<usize> {
    state.service(cluster, service).map(super::view::Service::used)
}

fn catalogue(number: usize) -> String {
    format!("{NAMESPACE}/catalogue-{number:02}")
}

/// How many services of the catalogue a cluster's agent knows.
fn known(state: &State, cluster: &str) -> usize {
    let names: BTreeSet<_> = (1..=CATALOGUE).map(catalogue).collect();
    let view = state.views.get(cluster);
    view.map_or(0, |view| view.keys().filter(|name| names.contains(*name)).count())
}
