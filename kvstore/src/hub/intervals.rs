//! Ranges by key: which of them hold a given one. Pure.
//!
//! A balanced tree (AVL) in the order of starts and ends, each node knowing the furthest end below it. Adding and removing
//! cost O(log ranges), finding O(log ranges + found).

use std::cmp::Ordering;

use bytes::Bytes;

use crate::range::{KeyRange, RangeEnd};

/// Values by range.
#[derive(Debug)]
pub(crate) struct Intervals<T> {
    root: Link<T>,
    len: usize,
}

type Link<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    range: KeyRange,
    value: T,
    left: Link<T>,
    right: Link<T>,
    /// Nodes on the longest way down, with this one.
    height: u8,
    /// Furthest end in the tree whose root this node is.
    reach: Reach,
}

/// The end of a range as something that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    /// Up to and with the key.
    Through(Bytes),
    /// Up to the key.
    Before(Bytes),
    Everything,
}

impl Reach {
    fn of(range: &KeyRange) -> Self {
        match range.end() {
            RangeEnd::Single => Self::Through(range.start().clone()),
            RangeEnd::Before(end) => Self::Before(end.clone()),
            RangeEnd::Unbounded => Self::Everything,
        }
    }

    fn holds(&self, key: &[u8]) -> bool {
        match self {
            Self::Through(end) => key <= &end[..],
            Self::Before(end) => key < &end[..],
            Self::Everything => true,
        }
    }

    /// Something that is ordered as the ends are.
    fn rank(&self) -> (bool, &[u8], bool) {
        match self {
            Self::Before(end) => (false, end, false),
            Self::Through(end) => (false, end, true),
            Self::Everything => (true, &[], false),
        }
    }
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<T> Intervals<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, range: &KeyRange) -> Option<&T> {
        let mut link = &self.root;
        while let Some(node) = link {
            link = match order(range, &node.range) {
                Ordering::Less => &node.left,
                Ordering::Greater => &node.right,
                Ordering::Equal => return Some(&node.value),
            };
        }
        None
    }

    /// Puts the value at its range, where nothing may be yet.
    pub(crate) fn insert(&mut self, range: KeyRange, value: T) {
        let reach = Reach::of(&range);
        insert(&mut self.root, Box::new(Node { range, value, left: None, right: None, height: 1, reach }));
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, range: &KeyRange) {
        self.len -= usize::from(remove(&mut self.root, range));
    }

    /// All values, in the order of their ranges.
    pub(crate) fn each(&self, mut see: impl FnMut(&T)) {
        each(&self.root, &mut see);
    }

    /// Calls `found` with the value of each range that holds `key`, in order.
    pub(crate) fn stab<'a>(&'a self, key: &[u8], mut found: impl FnMut(&'a T)) {
        stab(&self.root, key, &mut found);
    }
}

impl<T> Node<T> {
    /// What the nodes below say has changed.
    fn update(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let own = Reach::of(&self.range);
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.reach);
        let furthest = below.chain([&own]).max_by(|a, b| a.rank().cmp(&b.rank()));
        if let Some(furthest) = furthest.filter(|furthest| **furthest != self.reach) {
            self.reach = furthest.clone();
        }
    }
}

fn order(a: &KeyRange, b: &KeyRange) -> Ordering {
    a.start().cmp(b.start()).then_with(|| Reach::of(a).rank().cmp(&Reach::of(b).rank()))
}

fn height<T>(link: &Link<T>) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

fn insert<T>(link: &mut Link<T>, node: Box<Node<T>>) {
    match link {
        Some(here) if order(&node.range, &here.range).is_lt() => insert(&mut here.left, node),
        Some(here) => insert(&mut here.right, node),
        None => *link = Some(node),
    }
    balance(link);
}

/// Returns whether it was there.
fn remove<T>(link: &mut Link<T>, range: &KeyRange) -> bool {
    let Some(here) = link else { return false };
    let removed = match order(range, &here.range) {
        Ordering::Less => remove(&mut here.left, range),
        Ordering::Greater => remove(&mut here.right, range),
        Ordering::Equal => {
            let (left, mut right) = (here.left.take(), here.right.take());
            *link = match take_first(&mut right) {
                Some(mut next) => {
                    (next.left, next.right) = (left, right);
                    Some(next)
                }
                None => left,
            };
            true
        }
    };
    balance(link);
    removed
}

fn take_first<T>(link: &mut Link<T>) -> Link<T> {
    let first = match link {
        Some(here) if here.left.is_some() => take_first(&mut here.left),
        Some(_) | None => {
            let mut first = link.take()?;
            *link = first.right.take();
            Some(first)
        }
    };
    balance(link);
    first
}

/// Makes the sides of a node equally high, but for one, after one of them changed by one.
fn balance<T>(link: &mut Link<T>) {
    let Some(here) = link else { return };
    let (left, right) = (height(&here.left), height(&here.right));
    if left > right + 1 {
        if here.left.as_ref().is_some_and(|node| height(&node.left) < height(&node.right)) {
            lift_right(&mut here.left);
        }
        lift_left(link);
    } else if right > left + 1 {
        if here.right.as_ref().is_some_and(|node| height(&node.right) < height(&node.left)) {
            lift_left(&mut here.right);
        }
        lift_right(link);
    } else {
        here.update();
    }
}

/// Puts the left child in the place of its parent.
fn lift_left<T>(link: &mut Link<T>) {
    let Some(mut node) = link.take() else { return };
    let Some(mut up) = node.left.take() else { return *link = Some(node) };
    node.left = up.right.take();
    node.update();
    up.right = Some(node);
    up.update();
    *link = Some(up);
}

/// Puts the right child in the place of its parent.
fn lift_right<T>(link: &mut Link<T>) {
    let Some(mut node) = link.take() else { return };
    let Some(mut up) = node.right.take() else { return *link = Some(node) };
    node.right = up.left.take();
    node.update();
    up.left = Some(node);
    up.update();
    *link = Some(up);
}

fn each<T>(link: &Link<T>, see: &mut impl FnMut(&T)) {
    let Some(node) = link else { return };
    each(&node.left, see);
    see(&node.value);
    each(&node.right, see);
}

fn stab<'a, T>(link: &'a Link<T>, key: &[u8], found: &mut impl FnMut(&'a T)) {
    let Some(node) = link.as_ref().filter(|node| node.reach.holds(key)) else { return };
    stab(&node.left, key, found);
    if key >= &node.range.start()[..] {
        if node.range.contains(key) {
            found(&node.value);
        }
        stab(&node.right, key, found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || "[ab]{0,3}".prop_map(Bytes::from);
        prop_oneof![
            key().prop_map(KeyRange::key),
            key().prop_map(KeyRange::prefix),
            key().prop_map(KeyRange::from),
            (key(), key()).prop_map(|(start, end)| KeyRange::between(start, end)),
        ]
    }

    /// Whether each node says the truth about what is below it.
    fn is_sound(link: &Link<KeyRange>) -> bool {
        let Some(node) = link else { return true };
        let (left, right) = (height(&node.left), height(&node.right));
        let below = [&node.left, &node.right].into_iter().flatten();
        let reaches = below.map(|node| node.reach.clone()).chain([Reach::of(&node.range)]);
        let furthest = reaches.max_by(|a, b| a.rank().cmp(&b.rank()));
        left.abs_diff(right) <= 1
            && node.height == 1 + left.max(right)
            && furthest.as_ref() == Some(&node.reach)
            && is_sound(&node.left)
            && is_sound(&node.right)
    }

    #[test]
    fn many_ranges_that_come_and_go_in_order_make_no_long_way() {
        let mut intervals = Intervals::default();
        let range = |n: usize| KeyRange::key(format!("{n:06}"));
        for n in 0..20_000 {
            intervals.insert(range(n), range(n));
        }
        assert!(height(&intervals.root) <= 18, "{}", height(&intervals.root));
        for n in 0..19_000 {
            intervals.remove(&range(n));
        }
        assert!(height(&intervals.root) <= 14, "{}", height(&intervals.root));
        assert!(is_sound(&intervals.root));
        assert_eq!(intervals.len(), 1_000);
    }

    proptest! {
        /// The ranges found for a key are those that hold it, whatever came and went before.
        #[test]
        fn stabbing_finds_what_holds_the_key(
            steps in prop::collection::vec((range(), any::<bool>()), 0..64),
            keys in prop::collection::vec("[abc]{0,4}", 1..16),
        ) {
            let mut intervals = Intervals::default();
            let mut model: Vec<KeyRange> = Vec::new();
            for (range, remove) in steps {
                let known = model.contains(&range);
                prop_assert_eq!(intervals.get(&range), known.then_some(&range));
                if remove {
                    intervals.remove(&range);
                    model.retain(|other| *other != range);
                } else if !known {
                    intervals.insert(range.clone(), range.clone());
                    model.push(range);
                }
                prop_assert!(is_sound(&intervals.root));
                prop_assert_eq!((intervals.len(), intervals.is_empty()), (model.len(), model.is_empty()));
            }
            model.sort_by(order);
            let mut all = Vec::new();
            intervals.each(|range| all.push(range.clone()));
            prop_assert_eq!(&all, &model);
            for key in keys {
                let mut found = Vec::new();
                intervals.stab(key.as_bytes(), |range| found.push(range.clone()));
                let expected: Vec<KeyRange> =
                    model.iter().filter(|range| range.contains(key.as_bytes())).cloned().collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
