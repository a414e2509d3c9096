//! Keys, transactions, leases and watches from any revision.

use crate::{
    both::{both, requests},
    generate::keys_and_leases,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_transactions_leases_and_watches_are_etcds() {
    let (mut both, _ours, _theirs) = both(&["root"]).await;
    let asks = keys_and_leases();
    for _ in 0..requests() {
        both.random(0, &asks).await;
    }
}
