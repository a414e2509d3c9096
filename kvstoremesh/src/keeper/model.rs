//! Every interleaving of what can happen to three keys, up to a number of steps, driven through the real [`Keeper`].
//!
//! The world around it is a cluster with its keys (the truth), its store, an exporter that may lie about them, a connection
//! that breaks anywhere, a mirror that restarts, a clock and a user. States that were seen are not explored again.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::tests::{Written, delete, list_done, lost, put, resumed};
use super::*;

const KEYS: [&str; 3] = ["a", "b", "c"];
const TICK: Duration = Duration::from_secs(1);
const HOLD: u32 = 2;
const DRAIN: u32 = 3;
/// Steps of the longest interleavings. Eight steps hold as well, but take minutes.
const DEPTH: usize = 7;

const RULES: Rules = Rules {
    max_value_bytes: 9,
    max_keys: 9,
    shrink: Shrink {
        percent: 50,
        window: Duration::from_secs(2),
        exempt: 0,
        hold: Duration::from_secs(HOLD as u64),
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The cluster gets or loses a key; its exporter follows unless it lies.
    Add(usize),
    Remove(usize),
    /// The exporter withdraws everything, by deletions or as a new store that calls itself complete.
    LieLive,
    LieAnew,
    /// It writes what is true again.
    Heal,
    /// The store is replaced by an empty one, which is then filled, and then said to be complete.
    Replace,
    Fill,
    Canary,
    /// The kind is switched off, or on again.
    Offer(bool),
    Connect,
    /// The first half of a list, and the rest of it.
    ListHalf,
    ListEnd,
    /// What the watch has, one by one or together.
    DeliverOne,
    DeliverAll,
    /// The watch breaks; it goes on where it was, or a list is needed.
    Break,
    Resume,
    Relist,
    Disconnect,
    Restart,
    Tick,
    Release,
}

/// All of them. The third key only goes, which is enough of it.
const STEPS: [Step; 25] = {
    use Step::*;
    [
        Add(0),
        Add(1),
        Remove(0),
        Remove(1),
        Remove(2),
        LieLive,
        LieAnew,
        Heal,
        Replace,
        Fill,
        Canary,
        Offer(false),
        Offer(true),
        Connect,
        ListHalf,
        ListEnd,
        DeliverOne,
        DeliverAll,
        Break,
        Resume,
        Relist,
        Disconnect,
        Restart,
        Tick,
        Release,
    ]
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Link {
    Down,
    /// Waiting for the canary.
    Waiting,
    Listing {
        snapshot: Vec<usize>,
        trusted: bool,
        half: bool,
    },
    Watching,
    /// A list that broke off cannot go on where it was.
    Broken {
        resumable: bool,
    },
    NotOffered,
}

type Event = (usize, bool);

#[derive(Clone, Debug)]
struct World {
    truth: [bool; 3],
    store: [bool; 3],
    canary: bool,
    offered: bool,
    lying: bool,
    link: Link,
    /// What happened in the store since the snapshot.
    queue: VecDeque<Event>,
    keeper: Keeper,
    local: Written,
    start: Instant,
    now: u32,
    // What the invariants need to know.
    /// The truth lost the key since the mirror was last seen to be up to date.
    tainted: [bool; 3],
    listed_once: bool,
    /// When it first lied since the mirror was last up to date, and how many keys the mirror had then at most.
    lied: Option<(u32, usize)>,
    /// How many good keys that has cost since all were there.
    cost: usize,
    /// Ticks since which it is up to date, and out of contact.
    up_to_date: u32,
    out: u32,
}

impl World {
    fn new(start: Instant) -> Self {
        Self {
            truth: [true; 3],
            store: [true; 3],
            canary: true,
            offered: true,
            lying: false,
            link: Link::Down,
            queue: VecDeque::new(),
            keeper: Keeper::new(RULES),
            local: Written::default(),
            start,
            now: 0,
            tainted: [false; 3],
            listed_once: false,
            lied: None,
            cost: 0,
            up_to_date: 0,
            out: 0,
        }
    }

    fn at(&self) -> Instant {
        self.start + TICK * self.now
    }

    fn has(&self, key: usize) -> bool {
        self.local.keys.borrow().contains_key(KEYS[key].as_bytes())
    }

    fn is_caught_up(&self) -> bool {
        self.link == Link::Watching && self.queue.is_empty() && !self.lying
    }

    fn write(&mut self, key: usize, there: bool) {
        if self.store[key] != there {
            self.store[key] = there;
            self.queue.push_back((key, there));
        }
    }

    fn take(&mut self, batch: Vec<Change>) {
        let at = self.at();
        self.keeper.take(batch, at, &self.local);
    }

    fn lie(&mut self) {
        self.lying = true;
        let (since, had) = self.lied.unwrap_or((self.now, 0));
        self.lied = Some((since, had.max(self.local.wanted())));
    }

    fn disconnect(&mut self) {
        if self.link != Link::Down {
            let at = self.at();
            self.keeper.disconnected(at, &self.local);
        }
        (self.link, self.queue) = (Link::Down, VecDeque::new());
    }

    fn begin_list(&mut self, connect: bool) {
        if connect {
            self.keeper.connect();
        }
        let snapshot = (0..3).filter(|key| self.store[*key]).collect();
        self.queue.clear();
        self.link = Link::Listing { snapshot, trusted: self.canary, half: false };
    }

    /// Takes the step; `false` if it is not possible now.
    #[expect(clippy::wildcard_enum_match_arm, reason = "`explore` sees that each step is possible somewhere")]
    fn step(&mut self, step: Step) -> bool {
        let at = self.at();
        match step {
            Step::Add(key) | Step::Remove(key) => {
                let there = matches!(step, Step::Add(_));
                if self.truth[key] == there {
                    return false;
                }
                self.truth[key] = there;
                self.tainted[key] |= !there;
                if self.canary && !self.lying {
                    self.write(key, there);
                } else if !there {
                    self.write(key, false);
                }
            }
            Step::LieLive if self.canary && !self.lying => {
                self.lie();
                (0..3).for_each(|key| self.write(key, false));
            }
            Step::LieAnew if !self.lying => {
                self.disconnect();
                self.lie();
                (self.store, self.canary) = ([false; 3], true);
            }
            Step::Heal if self.lying && self.offered => {
                self.lying = false;
                (0..3).for_each(|key| self.write(key, self.truth[key]));
            }
            Step::Replace if !self.lying => {
                self.disconnect();
                (self.store, self.canary) = ([false; 3], false);
            }
            Step::Fill if !self.canary && self.store != self.truth => {
                let missing = (0..3).find(|key| self.store[*key] != self.truth[*key]);
                let Some(key) = missing else { return false };
                self.write(key, self.truth[key]);
            }
            Step::Canary if !self.canary && self.store == self.truth => self.canary = true,
            Step::Offer(offered) if self.offered != offered && self.link != Link::Down => {
                self.offered = offered;
                self.queue.clear();
                if offered {
                    self.lying = false;
                    self.store = self.truth;
                    self.keeper.unread(at, &self.local);
                    self.link = Link::Waiting;
                } else {
                    self.lie();
                    self.link = Link::NotOffered;
                    self.keeper.not_offered(at, &self.local);
                    self.listed_once = true;
                }
            }
            Step::Connect if self.link == Link::Down && self.offered => {
                self.keeper.found();
                self.link = Link::Waiting;
            }
            Step::ListHalf if self.link == Link::Waiting && self.canary => {
                self.begin_list(true);
                self.list_half();
            }
            Step::ListEnd => {
                let Link::Listing { snapshot, trusted, half: true } = self.link.clone() else { return false };
                let mut batch: Vec<Change> =
                    snapshot.iter().skip(1).map(|key| put(KEYS[*key], "1")).collect();
                batch.push(list_done());
                self.take(batch);
                if trusted {
                    self.keeper.complete(at, &self.local);
                    self.link = Link::Watching;
                    self.listed_once = true;
                } else {
                    self.disconnect();
                }
            }
            Step::DeliverOne if self.link == Link::Watching && !self.queue.is_empty() => self.deliver(1),
            Step::DeliverAll if self.link == Link::Watching && self.queue.len() > 1 => {
                self.deliver(usize::MAX)
            }
            Step::Break if matches!(self.link, Link::Watching | Link::Listing { .. }) => {
                self.take(vec![lost()]);
                self.link = Link::Broken { resumable: self.link == Link::Watching };
            }
            Step::Resume if self.link == (Link::Broken { resumable: true }) => {
                let given_up = self.keeper.given_up().is_some();
                self.take(vec![resumed()]);
                self.link = Link::Watching;
                if given_up {
                    self.begin_list(true);
                    self.list_half();
                }
            }
            Step::Relist if matches!(self.link, Link::Broken { .. }) => {
                self.begin_list(false);
                self.list_half();
            }
            Step::Disconnect if self.link != Link::Down => self.disconnect(),
            Step::Restart => {
                (self.link, self.queue) = (Link::Down, VecDeque::new());
                let found = self.local.keys.take().into_iter().collect();
                self.keeper = Keeper::new(RULES);
                self.keeper.adopt(found, self.local.synced.get(), at, &self.local);
                self.out = 0;
            }
            Step::Tick => self.now += 1,
            Step::Release if self.keeper.held().is_some() => {
                self.keeper.release(at, &self.local);
            }
            _ => return false,
        }
        true
    }

    fn list_half(&mut self) {
        if let Link::Listing { snapshot, half, .. } = &mut self.link {
            *half = true;
            let first = snapshot.iter().take(1).map(|key| put(KEYS[*key], "1")).collect();
            self.take(first);
        }
    }

    fn deliver(&mut self, most: usize) {
        let take = most.min(self.queue.len());
        let batch = self.queue.drain(..take);
        let batch =
            batch.map(|(key, there)| if there { put(KEYS[key], "1") } else { delete(KEYS[key]) }).collect();
        self.take(batch);
    }

    /// Carries out what is due; returns by which rules.
    fn keep_time(&mut self, patience: Patience) -> Vec<Reason> {
        let mut rules = Vec::new();
        while let Some((reason, _)) = self.keeper.on_deadline(self.at(), patience, &self.local) {
            rules.push(reason);
        }
        rules
    }

    /// Everything that must hold after `step` from `before`.
    fn check(
        &mut self,
        before: &World,
        step: Step,
        rules: &[Reason],
        patience: Patience,
    ) -> Result<(), String> {
        let gone: Vec<usize> = (0..3).filter(|key| before.has(*key) && !self.has(*key)).collect();
        let good = |key: &&usize| self.truth[**key] && !self.tainted[**key];
        let good_gone = gone.iter().filter(good).count();
        if let Some((_, had)) = &mut self.lied {
            *had = before.local.wanted().max(*had);
        }
        if good_gone > 0 && step != Step::Release {
            self.cost += good_gone;
            // Until a list is complete, one that breaks off takes along what it has brought back.
            let drained = rules.contains(&Reason::ContactLostDrained) || self.keeper.given_up().is_some();
            let held_long_enough = self.lied.is_some_and(|(since, _)| since + HOLD <= self.now);
            let a_little =
                self.lied.is_some_and(|(_, had)| !RULES.shrink.is_abrupt(had, had - self.cost.min(had)));
            if !(drained || held_long_enough || a_little) {
                return Err(format!("{good_gone} good keys are withdrawn"));
            }
        }
        if self.local.synced.get() && !self.listed_once {
            return Err("a canary before the first list".to_owned());
        }
        let caught_up = self.is_caught_up();
        if caught_up && (0..3).any(|key| self.truth[key] && !self.has(key)) {
            return Err("up to date, and a key is missing".to_owned());
        }
        let ticked = u32::from(step == Step::Tick);
        self.up_to_date = if caught_up { self.up_to_date + ticked } else { 0 };
        let dead = (0..3).any(|key| !self.truth[key] && self.has(key));
        if dead && self.up_to_date > HOLD {
            return Err("a dead key is past its bound".to_owned());
        }
        if (0..3).all(|key| self.has(key) || !self.truth[key]) {
            self.cost = 0;
        }
        if caught_up && !dead {
            (self.tainted, self.lied, self.cost) = ([false; 3], None, 0);
        }
        let out = self.keeper.stale_since().is_some();
        self.out = if out { self.out + ticked } else { 0 };
        if patience.drain_after.is_some() && self.out >= DRAIN && self.local.wanted() > 0 {
            // A list that is under way writes what it names before it is complete.
            let listing = matches!(self.link, Link::Listing { .. });
            if !listing && self.now >= self.out + DRAIN {
                return Err("out of contact for too long, and not drained".to_owned());
            }
        }
        Ok(())
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let ghosts = (self.tainted, self.listed_once, self.up_to_date, self.out);
        let peer = (self.truth, self.store, self.canary, self.offered, self.lying, self.lied, self.cost);
        let local: BTreeMap<Bytes, Bytes> = self.local.keys.borrow().clone();
        (ghosts, peer, &self.link, &self.queue, &self.keeper, local, self.local.synced.get(), self.now)
            .hash(&mut hasher);
        hasher.finish()
    }
}

/// Explores everything within `depth` steps from `start`; returns how many states there were.
fn explore(start: World, patience: Patience, depth: usize) -> usize {
    let mut seen = HashSet::from([start.fingerprint()]);
    let mut edge = vec![(start, Vec::new())];
    let mut untaken = STEPS.to_vec();
    for _ in 0..depth {
        let mut next = Vec::new();
        for (world, path) in &edge {
            for step in STEPS {
                let mut after = world.clone();
                if !after.step(step) {
                    continue;
                }
                untaken.retain(|other| *other != step);
                let mut path: Vec<Step> = path.clone();
                path.push(step);
                let rules = after.keep_time(patience);
                if let Err(wrong) = after.check(world, step, &rules, patience) {
                    panic!("{wrong} after {path:?}: {after:#?}");
                }
                if seen.insert(after.fingerprint()) {
                    next.push((after, path));
                }
            }
        }
        edge = next;
    }
    assert_eq!(untaken, [], "these were never possible");
    seen.len()
}

/// A world whose mirror has listed once and follows.
fn following() -> World {
    let mut world = World::new(Instant::now());
    for step in [Step::Connect, Step::ListHalf, Step::ListEnd] {
        assert!(world.step(step));
    }
    assert!(world.is_caught_up() && world.local.wanted() == 3);
    world
}

#[test]
fn no_interleaving_withdraws_a_good_key_or_keeps_a_dead_one_past_its_bound() {
    let states = explore(following(), Patience::default(), DEPTH);
    assert!(states > 20_000, "only {states} states were reached");
}

#[test]
fn neither_does_one_that_begins_before_the_first_contact_or_drains() {
    let drain = Patience { drain_after: Some(TICK * DRAIN), revoke_after: None };
    let states = explore(World::new(Instant::now()), drain, DEPTH) + explore(following(), drain, DEPTH - 1);
    assert!(states > 20_000, "only {states} states were reached");
}

/// What the model is worth: it finds what goes wrong without the rules.
#[test]
#[should_panic(expected = "good keys are withdrawn")]
fn a_mirror_that_obeys_at_once_is_found_out() {
    let mut world = following();
    world.keeper = Keeper::new(Rules { shrink: Shrink { percent: 100, ..RULES.shrink }, ..RULES });
    let at = world.at();
    world.keeper.connect();
    world.keeper.take(
        KEYS.map(|key| put(key, "1")).into_iter().chain([list_done()]).collect(),
        at,
        &world.local,
    );
    world.keeper.complete(at, &world.local);
    explore(world, Patience::default(), DEPTH);
}
