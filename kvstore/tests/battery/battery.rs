//! One battery for every client and store.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test crate uses a part of it")]

pub(crate) mod bed;
pub(crate) mod clients;
pub(crate) mod raw;
pub(crate) mod sync;

use std::time::Duration;

/// How long anything may take before the test counts as failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A test for each promise; `$bed` makes a store and its client for it.
macro_rules! battery {
    ($bed:path; $($module:ident::$promise:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let bed = $bed().await;
                battery::$module::$promise(&battery::bed::Bed::client(&bed)).await;
            }
        )*

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn what_is_compacted_is_said_to_be() {
            let bed = $bed().await;
            let client = battery::bed::Bed::client(&bed);
            battery::clients::what_is_compacted_is_said_to_be(&client, |to| battery::bed::Bed::compact(&bed, to)).await;
        }
    };
    ($bed:path) => {
        battery::battery! { $bed;
            clients::a_value_comes_back_with_its_revisions,
            clients::pages_are_parts_of_one_snapshot,
            clients::revisions_to_come_are_refused,
            clients::a_batch_larger_than_a_transaction_is_written_whole,
            clients::a_watch_tells_everything_once_and_in_order,
            clients::a_watch_may_begin_in_the_future,
            clients::many_watches_see_the_same,
            clients::guards_decide_whether_a_batch_is_written,
            clients::a_lease_takes_its_keys_with_it,
            clients::a_lease_that_nobody_keeps_alive_ends,
            clients::a_store_says_who_it_is,
            sync::a_follower_lists_then_watches,
            sync::a_follower_that_comes_back_deletes_what_went_meanwhile,
            sync::a_follower_that_is_stopped_before_a_slow_consumer_loses_nothing,
            sync::a_writer_writes_sweeps_and_then_raises_the_canary,
            sync::a_writer_whose_lease_ended_writes_everything_again,
            sync::an_enforcing_writer_reverts_what_others_do,
            sync::a_writer_spreads_many_keys_as_the_store_likes_it,
        }
    };
}
pub(crate) use battery;
