//! Keys in order, with counts.
//!
//! A sorted list of sorted blocks of slot numbers. Two levels are enough: ten million keys are 40,000 blocks,
//! whose counts are summed in microseconds. A key costs 4 to 8 bytes here; its text is only in its record.

use std::{cmp::Ordering, ops::Range};

use super::{
    record::Record,
    slots::{SlotId, Slots},
};
use crate::range::{KeyRange, RangeEnd};

/// A full block is split in two.
const FULL: usize = 256;
/// Neighbours that fit together below this are joined.
const SPARSE: usize = 96;

/// The keys in order.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blocks: Vec<Block>,
    live: usize,
}

#[derive(Debug)]
struct Block {
    /// A record whose key is not above the block's first key and above every key before the block.
    floor: Record,
    slots: Vec<SlotId>,
    /// Keys of the block that exist now.
    live: u32,
}

/// A place in the order: block and index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    block: usize,
    at: usize,
}

impl Index {
    /// Where `key` is, or where it would be.
    pub(crate) fn find(&self, slots: &Slots, key: &[u8]) -> Result<(Place, SlotId), Place> {
        let block = self.blocks.partition_point(|block| block.floor.key() <= key).saturating_sub(1);
        let Some(entries) = self.blocks.get(block).map(|block| &block.slots) else {
            return Err(Place { block: 0, at: 0 });
        };
        // Keys often arrive in order, so the end is tried first.
        if entries.last().is_some_and(|&last| slots.get(last).current.key() < key) {
            return Err(Place { block, at: entries.len() });
        }
        match entries.binary_search_by(|&id| slots.get(id).current.key().cmp(key)) {
            Ok(at) => Ok((Place { block, at }, entries[at])),
            Err(at) => Err(Place { block, at }),
        }
    }

    /// [`Self::find`] that looks right behind `near` first: keys that are written in order cost no search.
    pub(crate) fn find_near(
        &self,
        slots: &Slots,
        key: &[u8],
        near: Option<Place>,
    ) -> Result<(Place, SlotId), Place> {
        self.find_behind(slots, key, near).unwrap_or_else(|| self.find(slots, key))
    }

    /// Where `key` is or would be, if that is the next place behind `near`.
    fn find_behind(
        &self,
        slots: &Slots,
        key: &[u8],
        near: Option<Place>,
    ) -> Option<Result<(Place, SlotId), Place>> {
        let near = near?;
        let block = self.blocks.get(near.block)?;
        let key_of = |id: SlotId| slots.get(id).current.key();
        if key_of(*block.slots.get(near.at)?) >= key {
            return None;
        }
        let place = Place { at: near.at + 1, ..near };
        let Some(&next) = block.slots.get(place.at) else {
            let ends_here = self.blocks.get(near.block + 1).is_none_or(|block| key < block.floor.key());
            return ends_here.then_some(Err(place));
        };
        match key.cmp(key_of(next)) {
            Ordering::Less => Some(Err(place)),
            Ordering::Equal => Some(Ok((place, next))),
            Ordering::Greater => None,
        }
    }

    /// Puts a slot at the place that [`Self::find`] gave for its (new) key; returns where it is now.
    pub(crate) fn insert(&mut self, place: Place, id: SlotId, slots: &Slots) -> Place {
        self.live += 1;
        let floor = || slots.get(id).current.clone();
        let Some(block) = self.blocks.get_mut(place.block) else {
            self.blocks.push(Block { floor: floor(), slots: vec![id], live: 1 });
            return place;
        };
        if block.slots.len() < FULL {
            if place.at == 0 {
                block.floor = floor();
            }
            block.slots.insert(place.at, id);
            block.live += 1;
            return place;
        }
        if place.at == FULL {
            // Appending leaves full blocks behind, not half-full ones.
            let mut entries = Vec::with_capacity(FULL);
            entries.push(id);
            self.blocks.insert(place.block + 1, Block { floor: floor(), slots: entries, live: 1 });
            return Place { block: place.block + 1, at: 0 };
        }
        let mut right = Vec::with_capacity(FULL);
        right.extend(block.slots.drain(FULL / 2..));
        let right_live = right.iter().filter(|&&id| !slots.get(id).dead).count() as u32;
        block.live -= right_live;
        let right = Block { floor: slots.get(right[0]).current.clone(), slots: right, live: right_live };
        self.blocks.insert(place.block + 1, right);
        self.live -= 1;
        let place = if place.at <= FULL / 2 {
            place
        } else {
            Place { block: place.block + 1, at: place.at - FULL / 2 }
        };
        self.insert(place, id, slots)
    }

    /// A key at `place` came back to life, or died.
    pub(crate) fn set_live(&mut self, place: Place, live: bool) {
        let block = &mut self.blocks[place.block];
        if live {
            block.live += 1;
            self.live += 1;
        } else {
            block.live -= 1;
            self.live -= 1;
        }
    }

    /// Forgets a dead key.
    pub(crate) fn remove(&mut self, place: Place) {
        let Place { block, at } = place;
        self.blocks[block].slots.remove(at);
        let len = self.blocks[block].slots.len();
        if len == 0 {
            self.blocks.remove(block);
        } else if let Some(next) = self.blocks.get(block + 1)
            && len + next.slots.len() < SPARSE
        {
            let next = self.blocks.remove(block + 1);
            self.blocks[block].slots.extend(next.slots);
            self.blocks[block].live += next.live;
        }
    }

    /// Slots of `range` in order, dead ones included.
    pub(crate) fn iter<'a>(
        &'a self,
        slots: &'a Slots,
        range: &KeyRange,
    ) -> impl Iterator<Item = SlotId> + 'a {
        let places = self.places(slots, range);
        let (first, last) = (places.start, places.end);
        let blocks = self.blocks.get(first.block..).unwrap_or_default().iter().enumerate();
        blocks.take(last.block.saturating_sub(first.block) + 1).flat_map(move |(nth, block)| {
            let start = if nth == 0 { first.at } else { 0 };
            let end = if first.block + nth == last.block { last.at } else { block.slots.len() };
            block.slots[start.min(end)..end].iter().copied()
        })
    }

    /// How many keys of `range` exist now. Cost: the blocks that the range spans, not its keys.
    pub(crate) fn count(&self, slots: &Slots, range: &KeyRange) -> usize {
        let Range { start, end } = self.places(slots, range);
        if start >= end {
            return 0;
        }
        let part = |place: Place| self.live_before(slots, place);
        let whole: usize = self.blocks[start.block..end.block].iter().map(|block| block.live as usize).sum();
        whole + part(end) - part(start)
    }

    /// Keys that exist now.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Live keys of `place`'s block before it.
    fn live_before(&self, slots: &Slots, place: Place) -> usize {
        let Some(block) = self.blocks.get(place.block) else { return 0 };
        if block.live as usize == block.slots.len() {
            return place.at;
        }
        block.slots[..place.at].iter().filter(|&&id| !slots.get(id).dead).count()
    }

    fn places(&self, slots: &Slots, range: &KeyRange) -> Range<Place> {
        let place = |key: &[u8]| match self.find(slots, key) {
            Ok((place, _)) | Err(place) => place,
        };
        let start = place(range.start());
        let end = match range.end() {
            RangeEnd::Single => match self.find(slots, range.start()) {
                Ok((place, _)) => Place { at: place.at + 1, ..place },
                Err(place) => place,
            },
            RangeEnd::Before(end) => place(end),
            RangeEnd::Unbounded => {
                let block = self.blocks.len().saturating_sub(1);
                Place { block, at: self.blocks.last().map_or(0, |block| block.slots.len()) }
            }
        };
        start..end.max(start)
    }
}
