//! What happened, in words: printed when a schedule fails.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::time::{Time, shown};

/// So many lines are kept; of longer histories, the last.
const LINES: usize = 200_000;

/// The record of one schedule. Clones are the same one.
#[derive(Debug, Clone)]
pub struct History {
    time: Time,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: std::collections::VecDeque<String>,
    digest: DefaultHasher,
    faults: BTreeMap<String, u64>,
    violations: Vec<String>,
}

impl History {
    /// An empty one; lines begin with the time.
    #[must_use]
    pub fn new(time: Time) -> Self {
        Self { time, inner: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happened.
    pub fn note(&self, what: impl AsRef<str>) {
        let line = format!("{} {}", shown(self.time.now()), what.as_ref());
        let mut inner = self.lock();
        line.hash(&mut inner.digest);
        if inner.lines.len() == LINES {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Notes a fault and counts it by its kind.
    pub fn fault(&self, kind: &str, what: impl AsRef<str>) {
        *self.lock().faults.entry(kind.to_owned()).or_default() += 1;
        self.note(format!("FAULT {kind} {}", what.as_ref()));
    }

    /// Notes that a promise was broken.
    pub fn violation(&self, what: impl AsRef<str>) {
        self.note(format!("VIOLATION {}", what.as_ref()));
        let mut inner = self.lock();
        if inner.violations.len() < 20 {
            inner.violations.push(what.as_ref().to_owned());
        }
    }

    /// The promises that were broken.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Faults by kind.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<String, u64> {
        self.lock().faults.clone()
    }

    /// All lines.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// Equal for equal histories.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.lock().digest.finish()
    }
}
