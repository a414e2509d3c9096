//! The same random requests to our server and to a real etcd: every answer, header, error and event must be equal.
//!
//! Both start empty and see the same requests in the same order, so even their revisions are equal throughout.
//!
//! Differences on purpose, evened out in `normal`:
//! - cluster and member ids are random in both;
//! - the order of keys that are equal in what they are sorted by is left open by etcd (its sort is not stable);
//! - `LeaseLeases` has an order by time in etcd and by id in ours;
//! - how events are cut into responses (both keep revisions whole and in order);
//! - a transaction that deletes everything from a key on and puts such a key is refused by ours as every overlap
//!   is; etcd takes its unbounded range for an empty one and lets it pass;
//! - a stream of more than ten keys with a target to sort by and no order goes on after the last key of each message as sorted
//!   in etcd, so keys are there twice or not at all; ours has each once;
//! - a range that ends before it begins holds no key; whether a user with some permissions may ask for it depends
//!   in etcd on the shape of a tree, in ours on its first key;
//! - of several permissions of a role with one start etcd compares only one with a new grant, and which one is open
//!   (its sort is not stable), so the same range can be there twice; ours compares all;
//! - a watch that is cancelled because its start is compacted says revision 0 in etcd's header; what ours says is
//!   compared too, but events that etcd still had in memory are not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "most requests have nothing that needs settling")]

#[path = "../battery/battery.rs"]
mod battery;

mod answers;
mod both;
mod generate;
mod key_space;
mod roots;
mod users;
