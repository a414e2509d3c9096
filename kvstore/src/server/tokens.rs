//! Tokens of password users: random, short-lived, forgotten at restart, as etcd's simple tokens are.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::distr::{Alphanumeric, SampleString};

/// Most tokens at a time; the one that would end first goes.
const MOST: usize = 10_000;

/// All tokens.
pub(crate) struct Tokens {
    /// How long a token lives after its last use.
    life: Duration,
    known: Mutex<HashMap<String, Token>>,
}

struct Token {
    user: String,
    end: Instant,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(life: Duration) -> Self {
        Self { life, known: Mutex::default() }
    }

    /// A new token, if `still` holds at the moment when it begins to count: whoever makes it hold no longer forgets the
    /// tokens of the user after that.
    pub(crate) fn issue_if(&self, user: &str, still: impl FnOnce() -> bool) -> Option<String> {
        let token = Alphanumeric.sample_string(&mut rand::rng(), 32);
        let now = Instant::now();
        let mut known = self.lock();
        if !still() {
            return None;
        }
        known.retain(|_, token| token.end > now);
        if known.len() >= MOST
            && let Some(first) = known.iter().min_by_key(|(_, token)| token.end).map(|(name, _)| name.clone())
        {
            known.remove(&first);
        }
        known.insert(token.clone(), Token { user: user.to_owned(), end: now + self.life });
        Some(token)
    }

    /// Whose token it is; using it makes it live on.
    pub(crate) fn user(&self, token: &str) -> Option<String> {
        let mut known = self.lock();
        let now = Instant::now();
        let found = known.get_mut(token).filter(|token| token.end > now)?;
        found.end = now + self.life;
        Some(found.user.clone())
    }

    /// Forgets the tokens of a user.
    pub(crate) fn forget(&self, user: &str) {
        self.lock().retain(|_, token| token.user != user);
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Token>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
