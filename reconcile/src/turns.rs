//! Turns at a destination: so many calls at a time, shared by all who have something to say there, in order of service and
//! then each account in turn.
//!
//! # Guarantees
//!
//! - A flood of one account delays another's call by no more than the calls in work and a turn of each other account
//!   (`a_flood_of_one_account_delays_another_by_a_few_calls`).
//! - One account never has more than half of the turns (`one_account_never_has_all_turns`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    queue::{Class, Shares},
    ring::Ring,
};

/// The turns of a destination; clones are the same. `O` is on whose behalf a call is made.
#[derive(Debug)]
pub struct Turns<O: Ord + Clone>(Arc<Mutex<Inner<O>>>);

#[derive(Debug)]
struct Inner<O: Ord + Clone> {
    free: usize,
    /// The most of one owner.
    each: usize,
    held: BTreeMap<O, usize>,
    waiting: BTreeMap<Class, Ring<O, oneshot::Sender<Turn<O>>>>,
    shares: Shares,
}

/// A turn: whoever holds it may call. Dropping it gives it on.
#[derive(Debug)]
pub struct Turn<O: Ord + Clone> {
    owner: O,
    turns: Turns<O>,
}

impl<O: Ord + Clone> Clone for Turns<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O: Ord + Clone> Turns<O> {
    /// `most` at a time, at least two.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let free = most.max(2);
        Self(Arc::new(Mutex::new(Inner {
            free,
            each: free / 2,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            shares: Shares::default(),
        })))
    }

    /// Waits for a turn. May be cancelled at any time.
    pub async fn take(&self, owner: O, class: Class) -> Turn<O> {
        let told = {
            let (tell, told) = oneshot::channel();
            self.lock().waiting.entry(class).or_default().push(owner.clone(), tell);
            self.hand_out();
            told
        };
        // A sender is dropped only with all turns, which are held here.
        told.await.unwrap_or_else(|_| Turn { owner, turns: self.clone() })
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.values().map(Ring::len).sum()
    }

    fn hand_out(&self) {
        loop {
            let Some((owner, tell)) = self.lock().next() else { return };
            // To somebody who is gone it comes back, and is given on when it is dropped.
            drop(tell.send(Turn { owner, turns: self.clone() }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Ord + Clone> Inner<O> {
    fn next(&mut self) -> Option<(O, oneshot::Sender<Turn<O>>)> {
        if self.free == 0 || self.waiting.values().all(Ring::is_empty) {
            return None;
        }
        let Self { held, each, waiting, shares, .. } = self;
        for class in shares.peek() {
            let Some(ring) = waiting.get_mut(&class) else { continue };
            while let Some((owner, tell)) =
                ring.pop(|owner| held.get(owner).is_none_or(|held| held < each))
            {
                if tell.is_closed() {
                    continue;
                }
                shares.went();
                *held.entry(owner.clone()).or_default() += 1;
                self.free -= 1;
                return Some((owner, tell));
            }
        }
        None
    }
}

impl<O: Ord + Clone> Drop for Turn<O> {
    fn drop(&mut self) {
        {
            let mut inner = self.turns.lock();
            inner.free += 1;
            if let Some(held) = inner.held.get_mut(&self.owner) {
                *held -= 1;
                if *held == 0 {
                    inner.held.remove(&self.owner);
                }
            }
        }
        self.turns.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Makes `calls` of a second each, and logs whose turn it was.
    fn call(
        turns: &Turns<&'static str>,
        owner: &'static str,
        class: Class,
        log: &Arc<Mutex<Vec<&'static str>>>,
    ) -> tokio::task::JoinHandle<()> {
        let (turns, log) = (turns.clone(), log.clone());
        tokio::spawn(async move {
            let _turn = turns.take(owner, class).await;
            log.lock().expect("not poisoned").push(owner);
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_account_delays_another_by_a_few_calls() {
        let (turns, log) = (Turns::new(4), Arc::default());
        let mut calls: Vec<_> =
            (0..500).map(|_| call(&turns, "flood", Class::Soon, &log)).collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let other = call(&turns, "other", Class::Soon, &log);
        other.await.expect("no panic");
        let before = log.lock().expect("not poisoned").iter().position(|who| *who == "other");
        assert!(before.expect("it had its turn") <= 4, "{before:?}");
        while let Some(call) = calls.pop() {
            call.await.expect("no panic");
        }
        assert_eq!(log.lock().expect("not poisoned").len(), 501, "and nobody is forgotten");
        assert!(turns.lock().held.is_empty() && turns.lock().free == 4);
    }

    #[tokio::test(start_paused = true)]
    async fn one_account_never_has_all_turns() {
        let (turns, log) = (Turns::new(4), Arc::default());
        let calls: Vec<_> = (0..3).map(|_| call(&turns, "hangs", Class::Waiting, &log)).collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(*log.lock().expect("not poisoned"), ["hangs"; 2]);
        let start = tokio::time::Instant::now();
        drop(turns.take("other", Class::Looks).await);
        assert!(start.elapsed().is_zero());
        for call in calls {
            call.await.expect("no panic");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_waiting_person_sees_goes_first() {
        let (turns, log) = (Turns::new(2), Arc::default());
        let _a = call(&turns, "a", Class::Soon, &log);
        let _b = call(&turns, "b", Class::Soon, &log);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let calls = [
            call(&turns, "looks", Class::Looks, &log),
            call(&turns, "members", Class::Members, &log),
            call(&turns, "soon", Class::Soon, &log),
            call(&turns, "waiting", Class::Waiting, &log),
        ];
        for call in calls {
            call.await.expect("no panic");
        }
        let log = log.lock().expect("not poisoned");
        // The classes after it have their shares, too.
        assert_eq!(*log, ["a", "b", "waiting", "members", "soon", "looks"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_takes_no_turn_along() {
        let turns = Turns::new(2);
        let (a, b) = (turns.take("a", Class::Soon).await, turns.take("b", Class::Soon).await);
        for _ in 0..1000 {
            let waits = turns.take("c", Class::Soon);
            assert!(tokio::time::timeout(Duration::from_millis(1), waits).await.is_err());
        }
        drop((a, b));
        let both = tokio::join!(turns.take("d", Class::Soon), turns.take("e", Class::Soon));
        drop(both);
        assert_eq!(turns.waiting(), 0);
    }
}
