//! Our server and a real etcd, side by side.

use bytes::Bytes;
use kvstore::proto::etcdserverpb as pb;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use tonic::transport::Channel;

use crate::{
    answers::ask,
    battery::{
        bed::{self, Pki},
        raw::{KvClient, connect},
    },
    generate::{Ask, SHORT_LIVED, settle, upright},
};

/// Requests per run; more find more.
pub(crate) fn requests() -> usize {
    from_environment("ISTHMUS_DIFFERENTIAL_REQUESTS").unwrap_or(1500)
}

/// Which requests these are. Always the same unless told otherwise, so that whoever changes something else meets no difference
/// that was there before, and one that was met can be met again.
fn seed() -> u64 {
    from_environment("ISTHMUS_DIFFERENTIAL_SEED").unwrap_or(1)
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is to be a number, not {value:?}")))
}

/// Random numbers of this seed.
fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(ProptestConfig::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Asks both the same until an answer differs.
pub(crate) struct Both {
    pub(crate) ours: Vec<Channel>,
    pub(crate) theirs: Vec<Channel>,
    newest: i64,
    runner: TestRunner,
    asked: Vec<String>,
}

impl Both {
    pub(crate) async fn ask(&mut self, user: usize, question: &Ask) -> String {
        let ours = ask(&self.ours[user], question).await;
        let theirs = ask(&self.theirs[user], question).await;
        self.asked.push(format!("{user}: {question:?}\n   {theirs}"));
        let tail = self.asked.len().saturating_sub(8);
        assert_eq!(
            ours,
            theirs,
            "\nISTHMUS_DIFFERENTIAL_SEED={}: user {user} asked {question:?}\nafter\n{}",
            seed(),
            self.asked[tail..].join("\n")
        );
        ours
    }

    pub(crate) async fn random(&mut self, user: usize, strategy: &BoxedStrategy<Ask>) {
        let mut question = strategy.new_tree(&mut self.runner).unwrap().current();
        settle(&mut question, self.newest);
        if let Ask::Grant(grant) = &mut question
            && grant.id == SHORT_LIVED
        {
            grant.id += self.asked.len() as i64;
        }
        if user > 0 {
            upright(&mut question);
        }
        let before = self.asked.len();
        self.ask(user, &question).await;
        assert_eq!(self.asked.len(), before + 1);
        let status = KvClient::new(self.theirs[0].clone())
            .range(pb::RangeRequest {
                key: Bytes::from_static(b"?"),
                serializable: true,
                ..Default::default()
            })
            .await
            .unwrap();
        self.newest = status.into_inner().header.unwrap().revision;
    }
}

pub(crate) async fn both(users: &[&str]) -> (Both, bed::Ours, bed::Etcd) {
    let (ours, theirs) = (bed::ours().await, bed::etcd().await);
    for user in users {
        ours.pki.issue(user, user);
        theirs.pki.issue(user, user);
    }
    let channels =
        |pki: &Pki, endpoint: String| users.iter().map(|user| connect(pki, &endpoint, user)).collect();
    let both = Both {
        ours: channels(&ours.pki, ours.endpoint()),
        theirs: channels(&theirs.pki, theirs.endpoint()),
        newest: 1,
        runner: runner(seed()),
        asked: Vec::new(),
    };
    (both, ours, theirs)
}
