//! Our server and a real etcd, side by side.

use bytes::Bytes;
use kvstore::proto::etcdserverpb as pb;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
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
    std::env::var("ISTHMUS_DIFFERENTIAL_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
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
            "\nPROPTEST_RNG_SEED={}: user {user} asked {question:?}\nafter\n{}",
            self.runner.config().rng_seed,
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
        runner: TestRunner::default(),
        asked: Vec::new(),
    };
    (both, ours, theirs)
}
