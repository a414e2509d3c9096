//! What the benchmark asks of its generator, a JSON text per line, and what that answers.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// On the generator's standard input; its end ends the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Order {
    /// Change endpoints, spread over all clusters, for a while.
    Change { per_second: u32, millis: u64 },
    /// Replace the store of cluster number so by a new one of the same content, as a restart of its pod does.
    Restart { cluster: usize },
}

impl Order {
    pub(crate) fn change(per_second: u32, time: Duration) -> Self {
        Self::Change { per_second, millis: time.as_millis() as u64 }
    }
}

/// On its standard output: one when it serves, then one per order that is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// All clusters can be connected to, and are configured in the directory.
    Ready { clusters: usize, keys: usize },
    /// So many changes were made.
    Changed { changes: u64 },
    /// The new store answers at the old address.
    Restarted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_are_one_line_of_json_each() {
        let order = serde_json::to_string(&Order::change(500, Duration::from_secs(2))).unwrap();
        assert_eq!(order, r#"{"change":{"per_second":500,"millis":2000}}"#);
        for order in [Order::change(1, Duration::ZERO), Order::Restart { cluster: 7 }] {
            let text = serde_json::to_string(&order).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        }
        for answer in
            [Answer::Ready { clusters: 1, keys: 2 }, Answer::Changed { changes: 3 }, Answer::Restarted]
        {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
        }
    }
}
