//! What is stored: keys and values as a mirror writes them, 257 bytes each pair.

use kvstore::proto::etcdserverpb as pb;
use prost::bytes::Bytes;

/// Bytes of a key and its value together, the mean of what a mirrored cluster holds.
pub(crate) const PAIR_BYTES: usize = 257;

/// The key and value number `n` below `prefix`.
pub(crate) fn pair(prefix: &str, n: usize) -> (Bytes, Bytes) {
    let key = format!("{prefix}{n:08}");
    let mut value = format!(
        "{{\"ip\":\"10.{}.{}.{}\",\"node\":\"192.168.{}.{}\",\"metadata\":\"{n:x}",
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255,
        n >> 4 & 255,
        n & 255
    );
    while value.len() + key.len() < PAIR_BYTES - 2 {
        value.push(char::from(b'a' + (value.len() * 7 + n) as u8 % 26));
    }
    value.push_str("\"}");
    (key.into(), value.into())
}

/// A put of it, on a lease if that is not 0.
pub(crate) fn put(prefix: &str, n: usize, lease: i64) -> pb::PutRequest {
    let (key, value) = pair(prefix, n);
    pb::PutRequest { key, value, lease, ..pb::PutRequest::default() }
}

/// The first key after all those that start with `prefix`. Prefixes here end in ASCII.
pub(crate) fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The four prefixes that an agent follows of `cluster`, each with its number of keys for so many endpoints.
pub(crate) fn prefixes(cluster: usize, endpoints: usize) -> [(String, usize); 4] {
    [
        ("nodes/v1", endpoints / 50),
        ("identities/v1", endpoints / 25),
        ("ip/v1", endpoints),
        ("services/v1", endpoints / 50),
    ]
    .map(|(kind, keys)| (format!("cilium/cache/{kind}/cluster-{cluster:03}/"), keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_pair_has_its_size_and_differs_from_the_others() {
        let pairs: BTreeSet<_> = (0..1000).map(|n| pair("cilium/cache/ip/v1/c/", n * 977)).collect();
        assert_eq!(pairs.len(), 1000);
        assert!(pairs.iter().all(|(key, value)| key.len() + value.len() == PAIR_BYTES));
    }

    #[test]
    fn a_standard_cluster_has_5400_keys_and_its_prefixes_do_not_overlap() {
        let prefixes = prefixes(7, 5000);
        assert_eq!(prefixes.iter().map(|(_, keys)| keys).sum::<usize>(), 5400);
        for (prefix, _) in &prefixes {
            let (first, end) = (Bytes::from(prefix.clone()), end_of(prefix));
            let inside = prefixes.iter().filter(|(other, _)| first <= *other && end > *other).count();
            assert_eq!(inside, 1, "{prefix}");
        }
    }
}
