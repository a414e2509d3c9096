//! Users, roles and their permissions, and what they let whom do.

use kvstore::proto::etcdserverpb as pb;

use crate::{
    battery::raw::AuthClient,
    both::{both, requests},
    generate::{Ask, keys_and_leases, users_and_roles},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_permissions_are_etcds() {
    let (mut both, ours, theirs) = both(&["root", "u", "stranger"]).await;
    let (users, keys) = (users_and_roles(), keys_and_leases());
    for _ in 0..requests() / 4 {
        both.random(0, &users).await;
    }
    for question in [
        Ask::UserAdd("root".into()),
        Ask::UserAdd("u".into()),
        Ask::RoleAdd("v".into()),
        Ask::GrantRole("root".into(), "root".into()),
        Ask::GrantRole("u".into(), "v".into()),
        Ask::RevokeRole("u".into(), "root".into()),
    ] {
        both.ask(0, &question).await;
    }
    for channel in [&both.ours[0], &both.theirs[0]] {
        AuthClient::new(channel.clone()).auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    }
    for nth in 0..requests() {
        match nth % 8 {
            0 => both.random(0, &users).await,
            1 | 2 => both.random(0, &keys).await,
            3 => both.random(1, &users).await,
            4 => both.random(2, &keys).await,
            _ => both.random(1, &keys).await,
        }
    }
    drop((ours, theirs));
}
