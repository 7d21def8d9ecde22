//! Keys that wait to be looked at: each at most once, worked on by at most one task, in order of service.
//!
//! # Guarantees
//!
//! - A key pushed while it is being worked on is worked on once more afterwards: no hint is lost
//!   (`a_key_pushed_while_it_is_worked_on_comes_again`).
//! - Each class has its own share of the turns (`no_class_starves`).
//! - Within a class each owner has its turn (`the_keys_of_one_owner_delay_another_by_one`), and none has all workers, however long
//!   the work on its keys takes (`the_work_of_one_owner_leaves_a_worker_to_another`).
//! - A key in quarantine stays there, however often it is pushed (`a_key_in_quarantine_stays_there`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::ring::Ring;

/// Order of service: what a waiting person sees comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody waits: a command, an invite, a kick, an answer.
    Waiting,
    /// Ghosts about to speak, and rooms that changed.
    Soon,
    /// The rest of the members; resyncs.
    Members,
    /// Profiles and pictures.
    Looks,
}

impl Class {
    /// All of them, in order of service.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Soon, Self::Members, Self::Looks];
}

/// Whose turn it is, over and over: a class with nothing to do gives its turn to the next one in order of service.
const TURNS: [Class; 8] = [
    Class::Waiting,
    Class::Soon,
    Class::Waiting,
    Class::Members,
    Class::Waiting,
    Class::Soon,
    Class::Waiting,
    Class::Looks,
];

/// Whose share is next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shares(usize);

impl Shares {
    /// The classes, in the order in which they are to be looked at now.
    pub(crate) fn peek(self) -> impl Iterator<Item = Class> {
        std::iter::once(TURNS[self.0 % TURNS.len()]).chain(Class::ALL)
    }

    /// Somebody went: the next one's share is next.
    pub(crate) fn went(&mut self) {
        self.0 = (self.0 + 1) % TURNS.len();
    }
}

/// On whose behalf a key is worked on: the keys of one owner wait for each other, and delay no one else's.
pub trait Owned {
    /// Who it is.
    type Owner: Ord + Clone + std::fmt::Debug;
    /// The key's.
    fn owner(&self) -> Self::Owner;
}

/// The queue. `K` orders what is otherwise equal, so that equal runs are equal.
#[derive(Debug)]
pub struct Queue<K: Owned> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
    closing: Notify,
}

#[derive(Debug)]
struct Inner<K: Owned> {
    ready: BTreeMap<Class, Ring<K::Owner, K>>,
    /// Owners other than the keys say.
    owners: BTreeMap<K, K::Owner>,
    later: BTreeSet<(Instant, K)>,
    slots: BTreeMap<K, Slot>,
    shares: Shares,
    /// On whose behalf each key is that is being worked on.
    working: BTreeMap<K, K::Owner>,
    /// So many keys of one owner are worked on at a time, at most.
    most: usize,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Ready(Class),
    Later(Instant, Class),
    /// The same, and no hint changes that.
    Quarantine(Instant, Class),
    /// Being worked on; pushed again meanwhile with this class.
    Working(Option<Class>),
}

impl<K: Owned + Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        Self::for_workers(usize::MAX)
    }
}

impl<K: Owned + Ord + Clone> Queue<K> {
    /// One from which so many tasks take; the keys of one owner leave one of them to others.
    #[must_use]
    pub fn for_workers(workers: usize) -> Self {
        let inner = Inner {
            ready: BTreeMap::new(),
            owners: BTreeMap::new(),
            later: BTreeSet::new(),
            slots: BTreeMap::new(),
            shares: Shares::default(),
            working: BTreeMap::new(),
            most: workers.saturating_sub(1).max(1),
            closed: false,
        };
        Self { inner: Mutex::new(inner), changed: Notify::new(), closing: Notify::new() }
    }

    /// Puts a key in, or moves it forward: to the better class, and out of its wait.
    pub fn push(&self, key: K, class: Class) {
        self.push_as(None, key, class);
    }

    /// The same, on behalf of `owner`, where the key itself does not say of whom.
    pub fn push_for(&self, owner: K::Owner, key: K, class: Class) {
        self.push_as(Some(owner), key, class);
    }

    fn push_as(&self, owner: Option<K::Owner>, key: K, class: Class) {
        {
            let mut inner = self.lock();
            if let Some(owner) = owner
                && !inner.slots.contains_key(&key)
            {
                inner.owners.insert(key.clone(), owner);
            }
            match inner.slots.get(&key).copied() {
                Some(Slot::Ready(old)) if old <= class => return,
                Some(Slot::Ready(old)) => {
                    let owner = inner.owner(&key);
                    inner.ready.entry(old).or_default().retain(&owner, |other| other != &key);
                }
                Some(Slot::Quarantine(..)) => return,
                Some(Slot::Later(at, old)) => {
                    inner.later.remove(&(at, key.clone()));
                    inner.ready(key, old.min(class));
                    drop(inner);
                    self.changed.notify_one();
                    return;
                }
                Some(Slot::Working(again)) => {
                    let again = again.map_or(class, |old| old.min(class));
                    inner.slots.insert(key, Slot::Working(Some(again)));
                    return;
                }
                None => {}
            }
            inner.ready(key, class);
        }
        self.changed.notify_one();
    }

    /// Waits for the next key to work on; `None` once the queue is closed. The caller owes it a [`Queue::done`].
    pub async fn next(&self) -> Option<(K, Class)> {
        loop {
            let changed = self.changed.notified();
            let wake = {
                let mut inner = self.lock();
                if inner.closed {
                    return None;
                }
                inner.ripen(Instant::now());
                if let Some(found) = inner.take() {
                    let more = inner.ready.values().any(|keys| !keys.is_empty());
                    drop(inner);
                    if more {
                        self.changed.notify_one();
                    }
                    return Some(found);
                }
                inner.later.first().map(|(at, _)| *at)
            };
            match wake {
                None => changed.await,
                Some(at) => tokio::select! {
                biased;
                                   () = changed => {}
                                   () = sleep_until(at) => {}
                               },
            }
        }
    }

    /// The work on a key ended; with `again` it comes back after that time, or at once if it was pushed meanwhile.
    pub fn done(&self, key: K, class: Class, again: Option<Duration>) {
        {
            let mut inner = self.lock();
            inner.working.remove(&key);
            match (inner.slots.remove(&key), again) {
                (Some(Slot::Working(Some(pushed))), again) => {
                    // What is to come again anyway comes in no worse a class for being pushed meanwhile.
                    inner.ready(key, again.map_or(pushed, |_| pushed.min(class)));
                }
                (_, Some(wait)) => {
                    let at = Instant::now() + wait;
                    inner.slots.insert(key.clone(), Slot::Later(at, class));
                    inner.later.insert((at, key));
                }
                (_, None) => {
                    inner.owners.remove(&key);
                }
            }
        }
        self.changed.notify_one();
    }

    /// The work on a key ended so badly that it is not tried again before `wait` is over, whatever is pushed.
    pub fn quarantine(&self, key: K, class: Class, wait: Duration) {
        {
            let mut inner = self.lock();
            inner.working.remove(&key);
            let at = Instant::now() + wait;
            inner.slots.insert(key.clone(), Slot::Quarantine(at, class));
            inner.later.insert((at, key));
        }
        self.changed.notify_one();
    }

    /// Waits until the queue is closed.
    pub async fn closed(&self) {
        loop {
            let closed = self.closing.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.lock().closed {
                return;
            }
            closed.await;
        }
    }

    /// How many keys wait in a class, those with a wait of their own not counted.
    pub fn depth(&self, class: Class) -> usize {
        self.lock().ready.get(&class).map_or(0, Ring::len)
    }

    /// How long until a key is tried again; zero when it is ready or being worked on, `None` when it is not in the queue.
    pub fn due(&self, key: &K) -> Option<Duration> {
        match self.lock().slots.get(key)? {
            Slot::Later(at, _) | Slot::Quarantine(at, _) => {
                Some(at.saturating_duration_since(Instant::now()))
            }
            Slot::Ready(_) | Slot::Working(_) => Some(Duration::ZERO),
        }
    }

    /// Whether nothing is ready or being worked on; what waits for a later time does not count.
    pub fn is_idle(&self) -> bool {
        self.lock()
            .slots
            .values()
            .all(|slot| matches!(slot, Slot::Later(..) | Slot::Quarantine(..)))
    }

    /// Ends all waiting; keys still in are left to the next start.
    pub fn close(&self) {
        self.lock().closed = true;
        self.closing.notify_waiters();
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<K>> {
        self.inner.lock().expect("nothing panics while it is held")
    }
}

impl<K: Owned + Ord + Clone> Inner<K> {
    fn ready(&mut self, key: K, class: Class) {
        self.slots.insert(key.clone(), Slot::Ready(class));
        let owner = self.owner(&key);
        self.ready.entry(class).or_default().push(owner, key);
    }

    fn owner(&self, key: &K) -> K::Owner {
        self.owners.get(key).cloned().unwrap_or_else(|| key.owner())
    }

    fn ripen(&mut self, now: Instant) {
        while let Some((at, key)) = self.later.first().cloned() {
            if at > now {
                break;
            }
            self.later.remove(&(at, key.clone()));
            if let Some(Slot::Later(_, class) | Slot::Quarantine(_, class)) =
                self.slots.get(&key).copied()
            {
                self.ready(key, class);
            }
        }
    }

    fn take(&mut self) -> Option<(K, Class)> {
        // As many as there are workers.
        let working = &self.working;
        let busy = |owner: &K::Owner| working.values().filter(|other| *other == owner).count();
        for class in self.shares.peek() {
            let ring = self.ready.get_mut(&class);
            let found = ring.and_then(|ring| ring.pop(|owner| busy(owner) < self.most));
            if let Some((owner, key)) = found {
                self.shares.went();
                self.slots.insert(key.clone(), Slot::Working(None));
                self.working.insert(key.clone(), owner);
                return Some((key, class));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! nobodys {
        ($($key:ty),+) => {$(
            impl Owned for $key {
                type Owner = ();
                fn owner(&self) {}
            }
        )+};
    }
    nobodys!(&'static str, i32, u8);

    /// Whose, and which.
    impl Owned for (&'static str, u32) {
        type Owner = &'static str;
        fn owner(&self) -> &'static str {
            self.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_keys_of_one_owner_delay_another_by_one() {
        let queue = Queue::default();
        for n in 0..500 {
            queue.push(("flood", n), Class::Waiting);
        }
        queue.push(("other", 1), Class::Waiting);
        // Found out by name alone, this one would be somebody else's.
        queue.push_for("flood", ("third", 1), Class::Waiting);
        assert_eq!(queue.depth(Class::Waiting), 502);
        assert_eq!(queue.next().await, Some((("flood", 0), Class::Waiting)));
        assert_eq!(queue.next().await, Some((("other", 1), Class::Waiting)));
        let mut last = None;
        for _ in 0..500 {
            let (key, class) = queue.next().await.expect("open");
            queue.done(key, class, None);
            last = Some(key);
        }
        assert_eq!(last, Some(("third", 1)), "in its owner's order");
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_of_one_owner_leaves_a_worker_to_another() {
        let queue = Queue::for_workers(3);
        for n in 0..3 {
            queue.push(("flood", n), Class::Waiting);
        }
        for n in 0..2 {
            assert_eq!(queue.next().await, Some((("flood", n), Class::Waiting)));
        }
        let next = async || tokio::time::timeout(Duration::from_secs(60), queue.next()).await;
        assert!(next().await.is_err(), "the third worker waits for somebody else");
        queue.push(("other", 1), Class::Looks);
        assert_eq!(next().await, Ok(Some((("other", 1), Class::Looks))));
        queue.done(("flood", 0), Class::Waiting, None);
        assert_eq!(next().await, Ok(Some((("flood", 2), Class::Waiting))));
        queue.push(("flood", 3), Class::Waiting);
        queue.quarantine(("flood", 1), Class::Waiting, Duration::from_secs(999));
        assert_eq!(next().await, Ok(Some((("flood", 3), Class::Waiting))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_in_quarantine_stays_there() {
        let queue = Queue::default();
        queue.push("bad", Class::Waiting);
        assert_eq!(queue.next().await, Some(("bad", Class::Waiting)));
        queue.push("bad", Class::Waiting);
        queue.quarantine("bad", Class::Waiting, Duration::from_secs(60));
        queue.push("bad", Class::Waiting);
        assert_eq!(queue.due(&"bad"), Some(Duration::from_secs(60)));
        let start = Instant::now();
        assert_eq!(queue.next().await, Some(("bad", Class::Waiting)));
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_in_the_queue_once_and_moves_forward() {
        let queue = Queue::default();
        queue.push("b", Class::Members);
        queue.push("a", Class::Members);
        queue.push("a", Class::Members);
        queue.push("a", Class::Waiting);
        assert_eq!(queue.next().await, Some(("a", Class::Waiting)));
        queue.done("a", Class::Waiting, None);
        assert_eq!(queue.next().await, Some(("b", Class::Members)));
        queue.done("b", Class::Members, Some(Duration::from_secs(60)));
        assert_eq!(queue.due(&"b"), Some(Duration::from_secs(60)));
        let start = Instant::now();
        assert_eq!(queue.next().await, Some(("b", Class::Members)));
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_while_it_is_worked_on_comes_again() {
        let queue = Queue::default();
        queue.push(1, Class::Soon);
        assert_eq!(queue.next().await, Some((1, Class::Soon)));
        queue.push(1, Class::Soon);
        queue.push(1, Class::Waiting);
        assert_eq!(queue.depth(Class::Waiting), 0, "not by two tasks at a time");
        queue.done(1, Class::Soon, Some(Duration::from_secs(999)));
        assert_eq!(queue.next().await, Some((1, Class::Waiting)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_never_makes_a_key_less_urgent() {
        let queue = Queue::default();
        queue.push(1, Class::Soon);
        assert_eq!(queue.next().await, Some((1, Class::Soon)));
        queue.done(1, Class::Soon, Some(Duration::from_secs(9)));
        queue.push(1, Class::Looks);
        assert_eq!(queue.next().await, Some((1, Class::Soon)), "out of its wait");
        queue.push(1, Class::Looks);
        queue.done(1, Class::Soon, Some(Duration::from_secs(9)));
        assert_eq!(queue.next().await, Some((1, Class::Soon)), "pushed while it was worked on");
        queue.push(1, Class::Looks);
        queue.done(1, Class::Soon, None);
        assert_eq!(queue.next().await, Some((1, Class::Looks)), "what it was urgent for is done");
    }

    #[tokio::test(start_paused = true)]
    async fn no_class_starves() {
        let queue = Queue::default();
        for n in 0..100 {
            queue.push(n, Class::Waiting);
        }
        queue.push(1000, Class::Looks);
        let mut turns = 0;
        while let Some((key, class)) = queue.next().await {
            queue.done(key, class, None);
            turns += 1;
            if key == 1000 {
                break;
            }
        }
        assert!(turns <= TURNS.len(), "{turns}");
    }

    #[tokio::test]
    async fn a_closed_queue_lets_its_workers_go() {
        let queue = std::sync::Arc::new(Queue::<u8>::default());
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(worker.await.expect("no panic"), None);
    }
}
