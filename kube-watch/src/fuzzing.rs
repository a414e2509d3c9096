//! What the fuzzer calls: the lines of a watch and the pages of a list. Also replayed by an ordinary test.
//!
//! Each takes any bytes, tells whether they were accepted, and panics if a rule is broken.

use std::collections::BTreeMap;

use crate::object::ObjectKey;
use crate::tracker::{Fingerprint, Tracker};
use crate::wire::{Line, Page, head};

/// A watch as the API server sends it, one event per line. Accepted if every line is an event, and every object has a name.
pub fn lines(stream: &[u8]) -> bool {
    let (mut tracker, mut known) = (Tracker::default(), BTreeMap::new());
    let mut accepted = !stream.is_empty();
    for line in stream.split(|byte| *byte == b'\n') {
        let read = std::str::from_utf8(line).ok().and_then(|text| Line::read(text).ok());
        accepted &= read.is_some_and(|line| follow(&line, &mut tracker, &mut known));
    }
    assert_eq!(tracker.objects(), known.len());
    assert_eq!(tracker.undecodable(), known.values().filter(|decodable| !**decodable).count());
    tracker.begin_list();
    assert_eq!(tracker.end_list(), known.into_keys().collect::<Vec<_>>(), "an empty list ends all");
    assert_eq!((tracker.objects(), tracker.undecodable()), (0, 0));
    accepted
}

/// Does as the watch does; `known` is the tracker's model.
fn follow(line: &Line<'_>, tracker: &mut Tracker, known: &mut BTreeMap<ObjectKey, bool>) -> bool {
    let (kind, object) = match line {
        Line::Applied(object) => ("ADDED", *object),
        Line::Deleted(object) => ("DELETED", *object),
        Line::Bookmark(_) | Line::Error(_) => return true,
    };
    let text = format!(r#"{{"type":"{kind}","object":{}}}"#, object.get());
    let again = Line::read(&text).expect("what was read can be written and read again");
    assert!(
        matches!((line, again), (Line::Applied(a), Line::Applied(b)) | (Line::Deleted(a), Line::Deleted(b)) if a.get() == b.get())
    );
    let Ok(head) = head(object) else { return false };
    let key = head.key();
    if kind == "DELETED" {
        assert_eq!(tracker.delete(&key), known.remove(&key).is_some());
        return true;
    }
    let fingerprint = Fingerprint::of(object.get());
    let news = tracker.observe(&key, fingerprint);
    assert!(news || known.contains_key(&key), "an object that was not known is news");
    assert!(!tracker.observe(&key, fingerprint), "the same again is none");
    if news {
        let decodable = object.get().contains("spec");
        tracker.decoded(&key, decodable);
        known.insert(key, decodable);
    }
    true
}

/// One page of a list. Accepted if it is one and every object has a name.
pub fn page(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let Ok(page) = Page::read(text) else { return false };
    assert!(!page.resource_version.is_empty(), "a list without a version is none");
    assert!(page.next.is_none_or(|token| !token.is_empty()));
    page.items.iter().all(|item| head(item).is_ok_and(|head| !head.key().name.is_empty()))
}

#[cfg(test)]
mod replays {
    fuzz_replay::replays! {
        lines: 10_000,
        page: 10_000,
    }
}
