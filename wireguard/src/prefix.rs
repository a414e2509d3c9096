//! Prefixes as keys of an ordered table: longest match for an address, overlap for a prefix.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// A table from prefix to `T`; host bits of a prefix never count.
///
/// Cost: a look-up tries each prefix *length* that occurs in the table, of which there are few.
#[derive(Clone, Debug)]
pub(crate) struct PrefixMap<T> {
    entries: BTreeMap<IpNet, T>,
    /// How many entries have this length, per family.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), lengths: Default::default() }
    }
}

fn family(prefix: &IpNet) -> usize {
    usize::from(matches!(prefix, IpNet::V6(_)))
}

/// The prefix of `length` around `address`.
fn around(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).expect("the length comes from a prefix of the same family").trunc()
}

impl<T> PrefixMap<T> {
    /// Sets the value of `prefix` and returns the one before.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let prefix = prefix.trunc();
        let before = self.entries.insert(prefix, value);
        if before.is_none() {
            *self.lengths[family(&prefix)].entry(prefix.prefix_len()).or_default() += 1;
        }
        before
    }

    /// Takes `prefix` out.
    pub(crate) fn remove(&mut self, prefix: &IpNet) -> Option<T> {
        let prefix = prefix.trunc();
        let before = self.entries.remove(&prefix)?;
        let lengths = &mut self.lengths[family(&prefix)];
        if let Some(count) = lengths.get_mut(&prefix.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&prefix.prefix_len());
            }
        }
        Some(before)
    }

    /// The value of the longest prefix that holds `address`.
    pub(crate) fn longest_match(&self, address: IpAddr) -> Option<&T> {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        lengths.keys().rev().find_map(|length| self.entries.get(&around(address, *length)))
    }

    /// Some entry that holds `prefix`, equals it or lies within it.
    pub(crate) fn overlapping(&self, prefix: &IpNet) -> Option<(&IpNet, &T)> {
        let prefix = prefix.trunc();
        let lengths = &self.lengths[family(&prefix)];
        let around_it = lengths
            .range(..=prefix.prefix_len())
            .find_map(|(length, _)| self.entries.get_key_value(&around(prefix.network(), *length)));
        around_it.or_else(|| self.entries.range(prefix..).next().filter(|(inner, _)| prefix.contains(*inner)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// Few bits, so that prefixes nest and collide.
    fn any_prefix() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), 0u8..16, 0u8..=6).prop_map(|(v6, bits, length)| {
            if v6 {
                let address = std::net::Ipv6Addr::from(u128::from(bits) << 122);
                IpNet::new(address.into(), if length == 6 { 128 } else { length }).unwrap()
            } else {
                let address = std::net::Ipv4Addr::from(u32::from(bits) << 26);
                IpNet::new(address.into(), if length == 6 { 32 } else { length }).unwrap()
            }
        })
    }

    proptest! {
        #[test]
        fn answers_are_those_of_a_scan(
            steps in vec((any_prefix(), any::<bool>()), 0..40),
            asked in any_prefix(),
        ) {
            let mut table = PrefixMap::default();
            let mut model = BTreeMap::new();
            for (number, (prefix, insert)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(table.insert(prefix, number), model.insert(prefix.trunc(), number));
                } else {
                    prop_assert_eq!(table.remove(&prefix), model.remove(&prefix.trunc()));
                }
            }
            let longest = model.iter().filter(|(p, _)| p.contains(&asked.addr())).max_by_key(|(p, _)| p.prefix_len());
            prop_assert_eq!(table.longest_match(asked.addr()), longest.map(|(_, value)| value));
            let overlap = model.keys().any(|p| p.contains(&asked.trunc()) || asked.contains(p));
            prop_assert_eq!(table.overlapping(&asked).is_some(), overlap);
        }
    }

    #[test]
    fn families_are_apart() {
        let mut table = PrefixMap::default();
        table.insert(net("0.0.0.0/0"), ());
        assert!(table.longest_match("::1".parse().unwrap()).is_none());
        assert!(table.overlapping(&net("::/0")).is_none());
    }
}
