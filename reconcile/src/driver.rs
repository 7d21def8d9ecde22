//! The loop: takes a key, looks at the world anew, plans, acts, notes.
//!
//! Everything here may be killed at any await: what was done is either noted or will be seen at the next look.

mod account;
mod chat;
mod find;
mod ghost;
mod late;
mod portal;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use tokio::{sync::Notify, time::Instant};
use tracing::Instrument;

pub use account::{ask_open, ask_part};
pub use ghost::{Learned, learn};

use crate::{
    backoff::Backoff,
    brake::{BrakeLimits, Held},
    breaker::{Away, Side, Sides},
    limiter::Limiter,
    model::{GitterRoomId, GitterUserId, Millis, Notice, PortalKey, Say, Session, Target, Told},
    panics::caught,
    port::{ActionError, Clock, Gitter, Matrix, State, TableError, Tables},
    queue::{Class, Owned, Queue},
};

/// A key whose pass panicked is not looked at again before this, and then later and later.
const QUARANTINE: Duration = Duration::from_secs(60);
/// What waits for Gitter to be back is looked at then; after this in any case.
const PARKED: Duration = Duration::from_secs(600);
/// Owners of chats kept in memory at most.
const CHAT_OWNERS: usize = 10_000;

/// What is looked at as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An account: its rooms on Gitter, its waiting commands, its control room if the bot has to open one.
    Account(OwnedUserId),
    /// A portal's room: there or not, the account in or out, its looks.
    Portal(PortalKey),
    /// The ghosts of a portal.
    Populate(PortalKey),
    /// Who is in a Gitter room.
    Room(GitterRoomId),
    /// A ghost's profile.
    Ghost(GitterUserId),
    /// A room of the bot that is no portal.
    Chat(OwnedRoomId),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Account(user) => write!(f, "account {user}"),
            Self::Portal(key) => write!(f, "portal {key}"),
            Self::Populate(key) => write!(f, "ghosts of {key}"),
            Self::Room(room) => write!(f, "room {room}"),
            Self::Ghost(ghost) => write!(f, "ghost {ghost}"),
            Self::Chat(room) => write!(f, "chat {room}"),
        }
    }
}

/// On whose behalf a key is worked on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// An account's.
    Account(OwnedUserId),
    /// Several accounts', or nobody knows whose.
    Shared,
}

impl Owned for Key {
    type Owner = Owner;

    fn owner(&self) -> Owner {
        match self {
            Self::Account(user) => Owner::Account(user.clone()),
            Self::Portal(key) | Self::Populate(key) => Owner::Account(key.account.clone()),
            Self::Room(_) | Self::Ghost(_) | Self::Chat(_) => Owner::Shared,
        }
    }
}

/// How much, how often, how many; all from the settings.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many members of a Gitter room are shown in its portals.
    pub portal_ghosts: usize,
    /// How many portals a login opens.
    pub open_on_login: usize,
    /// When removals are too many to be believed at once.
    pub brake: BrakeLimits,
    /// How often everything is looked at.
    pub resync: Duration,
    /// How far apart a room must be found gone twice.
    pub gone_apart: Duration,
    /// How long an invite waits for the portal to be filled with what was said before; zero when it is not filled.
    pub history: Duration,
    /// How many keys are worked on at a time.
    pub workers: usize,
    /// How many changes a second the homeserver is asked for.
    pub homeserver_per_second: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            portal_ghosts: 50,
            open_on_login: 20,
            brake: BrakeLimits::default(),
            resync: Duration::from_secs(600),
            gone_apart: Duration::from_secs(30),
            history: Duration::ZERO,
            workers: 4,
            homeserver_per_second: NonZeroU32::new(50).expect("not zero"),
        }
    }
}

/// Rung when the reconciler has changed something that others wait for.
#[derive(Debug, Default)]
pub struct Bells {
    /// The bot has something to say.
    pub words: Notify,
    /// Portals or sessions have changed: who reads which Gitter room may have, too.
    pub portals: Notify,
}

/// The last failure of a key, for `why` and `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The whole chain of causes.
    pub error: String,
    /// When.
    pub at: Millis,
    /// How often in a row.
    pub times: u32,
}

/// What is to become of a key after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Nothing: the next hint or resync brings it back.
    Done,
    /// Again at once: something was noted that changes the plan.
    Again,
    /// Again after this time.
    In(Duration),
}

/// The reconciler. One value for the whole program, behind an [`Arc`].
#[derive(Debug)]
pub struct Driver<M, G, S, C> {
    /// The homeserver.
    pub matrix: M,
    /// Gitter.
    pub gitter: G,
    /// The rows.
    pub state: S,
    /// Wall time.
    pub clock: C,
    /// What others wait for.
    pub bells: Arc<Bells>,
    /// Keys that wait.
    pub queue: Queue<Key>,
    /// Which side is there: work waits for those that are not.
    pub sides: Sides,
    panics: AtomicU64,
    /// Keys that wait for Gitter to be back.
    parked: Mutex<BTreeMap<Key, Class>>,
    chat_owners: Mutex<BTreeMap<OwnedRoomId, OwnedUserId>>,
    limits: Limits,
    limiter: Limiter,
    held: Mutex<Held>,
    failures: Mutex<BTreeMap<Key, (Backoff, Failure)>>,
    people_read: Mutex<BTreeMap<GitterRoomId, ghost::Reading>>,
    /// Who is said to have left a room, and is to be asked after at its next reading.
    said_to_leave: Mutex<BTreeMap<GitterRoomId, BTreeSet<GitterUserId>>>,
    /// When ghosts came into rooms.
    came: Mutex<BTreeMap<(OwnedRoomId, OwnedUserId), Instant>>,
    markers: Mutex<BTreeMap<OwnedRoomId, Option<String>>>,
    /// Times from which something is waited for: when that was noticed, and how long ago they were then by the clock.
    noticed: Mutex<BTreeMap<Millis, (Instant, Duration)>>,
    /// When this run began.
    began: Instant,
    /// When calls for portals failed of which nobody knows whether they land.
    unanswered: Mutex<BTreeMap<(PortalKey, late::Late), Instant>>,
    rng: Mutex<StdRng>,
}

impl<M: Matrix + Clone + 'static, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    /// Puts the parts together; `seed` decides all jitter.
    pub fn new(matrix: M, gitter: G, state: S, clock: C, limits: Limits, seed: u64) -> Self {
        Self {
            matrix,
            gitter,
            state,
            clock,
            bells: Arc::default(),
            queue: Queue::for_workers(limits.workers),
            sides: Sides::default(),
            panics: AtomicU64::new(0),
            parked: Mutex::default(),
            chat_owners: Mutex::default(),
            limiter: Limiter::new(limits.homeserver_per_second),
            limits,
            held: Mutex::default(),
            failures: Mutex::default(),
            people_read: Mutex::default(),
            said_to_leave: Mutex::default(),
            came: Mutex::default(),
            markers: Mutex::default(),
            noticed: Mutex::default(),
            began: Instant::now(),
            unanswered: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// The same, minding breakers that others mind, too.
    #[must_use]
    pub fn minding(mut self, sides: Sides) -> Self {
        self.sides = sides;
        self
    }

    /// Works until the queue is closed.
    pub async fn run(self: &Arc<Self>)
    where
        Self: Send + Sync + 'static,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..self.limits.workers {
            let driver = self.clone();
            tasks.spawn(async move { while driver.turn().await {} });
        }
        // These end with this function, also when that is cancelled.
        let mut loops = tokio::task::JoinSet::new();
        let driver = self.clone();
        loops.spawn(async move {
            while let Err(panic) = caught(driver.resyncs()).await {
                driver.panicked("resync", &panic);
                tokio::time::sleep(QUARANTINE).await;
            }
        });
        let driver = self.clone();
        loops.spawn(async move {
            loop {
                driver.sides.gitter.back().await;
                driver.unpark();
            }
        });
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.panicked("worker", &error.to_string());
                let driver = self.clone();
                tasks.spawn(async move { while driver.turn().await {} });
            }
        }
    }

    /// Works on one key; false once the queue is closed. While the homeserver is away no key is worked on: they keep their order.
    pub async fn turn(&self) -> bool {
        tokio::select! {
            biased;
            () = self.queue.closed() => return false,
            () = self.sides.homeserver.clear(Class::Waiting) => {}
        }
        let Some((key, class)) = self.queue.next().await else { return false };
        if !self.sides.homeserver.is_clear() {
            self.queue.done(key, class, Some(Duration::ZERO));
            return true;
        }
        // If the pass is cut off, the key must not stay "being worked on" for ever: it comes back after a while.
        let mut guard = Working { queue: &self.queue, key: Some((key.clone(), class)) };
        let span = tracing::debug_span!("reconcile.pass", key = %key);
        let again = caught(self.pass(&key, class).instrument(span)).await;
        guard.key = None;
        match again {
            Ok(again) => self.queue.done(key, class, again),
            Err(panic) => {
                let wait = self.broke(&key, &panic);
                self.queue.quarantine(key, class, wait);
            }
        }
        true
    }

    async fn pass(&self, key: &Key, class: Class) -> Option<Duration> {
        let after = match key {
            Key::Account(user) => self.pass_account(user).await,
            Key::Portal(portal) => self.pass_portal(portal).await,
            Key::Populate(portal) => self.pass_populate(portal).await,
            Key::Room(room) => self.pass_room(room, class).await,
            Key::Ghost(ghost) => self.pass_ghost(ghost).await,
            Key::Chat(room) => self.pass_chat(room).await,
        };
        match after {
            Ok(after) => {
                lock(&self.failures).remove(key);
                match after {
                    After::Done => None,
                    After::Again => Some(Duration::ZERO),
                    After::In(wait) => Some(wait),
                }
            }
            Err(error) => Some(match Away::among(&error) {
                Some(side) => self.waits(key, class, side, &error),
                None => self.failed(key, &error),
            }),
        }
    }

    /// How many panics were caught since the last call.
    pub fn take_panics(&self) -> u64 {
        self.panics.swap(0, Ordering::Relaxed)
    }

    fn panicked(&self, what: &str, panic: &str) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = what, panic, "a panic was caught; going on");
    }

    /// A pass panicked: how long its key stays in quarantine.
    fn broke(&self, key: &Key, panic: &str) -> Duration {
        self.panics.fetch_add(1, Ordering::Relaxed);
        let error = format!("the bridge itself failed, which its admin should report: {panic}");
        let (wait, times) = self.note_failure(key, error, Some(QUARANTINE));
        tracing::error!(key = %key, attempt = times, wait_ms = wait.as_millis(), panic, "a pass panicked; its key is in quarantine");
        wait
    }

    /// A whole side is away: that is no failure of the key's own, and decided by a probe, not by this key.
    fn waits(&self, key: &Key, class: Class, side: Side, error: &ActionError) -> Duration {
        tracing::debug!(key = %key, %side, "waits for a side that is away");
        let failure = Failure { error: chain(error), at: self.clock.now(), times: 1 };
        match lock(&self.failures).entry(key.clone()) {
            Entry::Occupied(mut old) => old.get_mut().1 = failure,
            Entry::Vacant(new) => drop(new.insert((Backoff::default(), failure))),
        }
        match side {
            // No worker takes it before that side is back.
            Side::Homeserver => Duration::ZERO,
            Side::Gitter => {
                lock(&self.parked).insert(key.clone(), class);
                // Back since, and nobody looks again.
                if self.sides.gitter.is_clear() && lock(&self.parked).remove(key).is_some() {
                    return Duration::from_secs(1);
                }
                PARKED
            }
        }
    }

    /// Gitter is back: whatever waits for it is ready, each in its class.
    fn unpark(&self) {
        for (key, class) in std::mem::take(&mut *lock(&self.parked)) {
            self.hint(key, class);
        }
    }

    /// One change on the homeserver, when its turn has come; if the homeserver asks for a pause, all changes wait.
    async fn homeserver<T>(
        &self,
        call: impl Future<Output = Result<T, ActionError>>,
    ) -> Result<T, ActionError> {
        self.limiter.take().await;
        self.heed(call).await
    }

    /// The same, for a turn that was taken before.
    async fn heed<T>(
        &self,
        call: impl Future<Output = Result<T, ActionError>>,
    ) -> Result<T, ActionError> {
        let result = call.await;
        if let Some(wait) = result.as_ref().err().and_then(ActionError::retry_after) {
            self.limiter.pause(wait);
        }
        result
    }

    fn failed(&self, key: &Key, error: &ActionError) -> Duration {
        let error_text = chain(error);
        let told = error.retry_after();
        let (wait, attempt) = self.note_failure(key, error_text.clone(), told);
        let wait_ms = wait.as_millis();
        if told.is_some() {
            tracing::debug!(key = %key, attempt, wait_ms, error = %error_text, "told to wait");
        } else {
            tracing::warn!(key = %key, attempt, wait_ms, error = %error_text, "will be tried again");
        }
        wait
    }

    /// Remembers a failure for whoever asks; returns how long to wait, and how often it failed in a row.
    fn note_failure(
        &self,
        key: &Key,
        error: String,
        at_least: Option<Duration>,
    ) -> (Duration, u32) {
        let mut failures = lock(&self.failures);
        let (backoff, failure) = failures.entry(key.clone()).or_insert_with(|| {
            let failure = Failure { error: String::new(), at: Millis(0), times: 0 };
            (Backoff::default(), failure)
        });
        failure.error = error;
        failure.at = self.clock.now();
        failure.times = failure.times.saturating_add(1);
        (backoff.next(at_least, &mut *lock(&self.rng)), failure.times)
    }

    /// Looks at everything, now and then for ever: what every lost hint is made good by.
    async fn resyncs(&self) {
        loop {
            if let Err(error) = self.resync().await {
                tracing::error!(error = %chain(&error), "resync could not read the rows");
            }
            let jitter = lock(&self.rng).random_range(0.9..1.1);
            tokio::time::sleep(self.limits.resync.mul_f64(jitter)).await;
        }
    }

    /// Puts all keys in.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn resync(&self) -> Result<(), TableError> {
        let (accounts, portals, chats) =
            self.state.read(|t| Ok((t.accounts()?, t.portal_keys()?, t.chats()?))).await?;
        for (user, _) in accounts {
            self.hint(Key::Account(user), Class::Members);
        }
        let mut rooms = std::collections::BTreeSet::new();
        for key in portals {
            rooms.insert(key.room.clone());
            self.hint(Key::Portal(key.clone()), Class::Members);
            self.hint(Key::Populate(key), Class::Looks);
        }
        for room in rooms {
            self.hint(Key::Room(room), Class::Looks);
        }
        for (room, chat) in chats {
            self.chat_of(&room, &chat.account);
            self.hint(Key::Chat(room), Class::Members);
        }
        Ok(())
    }

    /// Chance for another part of the program, decided by the same seed.
    pub fn dice(&self) -> StdRng {
        StdRng::seed_from_u64(lock(&self.rng).random())
    }

    /// Something about `key` may have changed: look at it soon.
    pub fn hint(&self, key: Key, class: Class) {
        let owner = match &key {
            Key::Chat(room) => lock(&self.chat_owners).get(room).cloned(),
            Key::Account(_) | Key::Portal(_) | Key::Populate(_) | Key::Room(_) | Key::Ghost(_) => {
                None
            }
        };
        match owner {
            Some(user) => self.queue.push_for(Owner::Account(user), key, class),
            None => self.queue.push(key, class),
        }
    }

    /// A chat is `account`'s: however many it has, others' are not held up by them.
    pub fn chat_of(&self, room: &OwnedRoomId, account: &OwnedUserId) {
        let mut owners = lock(&self.chat_owners);
        if owners.get(room) != Some(account) {
            if owners.len() >= CHAT_OWNERS {
                owners.clear();
            }
            owners.insert(room.clone(), account.clone());
        }
    }

    /// The last failure of a key and the time until it is tried again.
    pub fn trouble(&self, key: &Key) -> Option<(Failure, Option<Duration>)> {
        let failure = lock(&self.failures).get(key).map(|(_, failure)| failure.clone())?;
        Some((failure, self.queue.due(key)))
    }

    /// The removals that are held back: what, and how many.
    pub fn held(&self) -> Vec<(String, usize)> {
        lock(&self.held).all()
    }

    /// Gitter refused the token with which something of `generation` was tried: the session is marked, the user told once.
    ///
    /// # Errors
    ///
    /// When the rows can't be written.
    pub async fn token_rejected(&self, user: &UserId, generation: u64) -> Result<(), TableError> {
        let now = self.clock.now();
        let account = user.to_owned();
        let told = self
            .state
            .write(move |t| {
                let Some(mut row) = t.account(&account)? else { return Ok(false) };
                let Session::Active(person) = row.session.clone() else { return Ok(false) };
                if row.generation != generation {
                    return Ok(false);
                }
                // What was asked for by name waits for the next login: it was promised.
                row.session = Session::Rejected(person);
                t.put_account(&account, &row)?;
                t.wipe_token(&account)?;
                tell(t, &account, Told::TokenRejected, now)?;
                Ok(true)
            })
            .await?;
        if told {
            tracing::warn!(account = %user, "gitter refuses the token");
            self.bells.words.notify_one();
            self.bells.portals.notify_one();
        }
        Ok(())
    }
}

/// Puts a key back when its pass ends without a word, cut off with its task.
struct Working<'a> {
    queue: &'a Queue<Key>,
    key: Option<(Key, Class)>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if let Some((key, class)) = self.key.take() {
            self.queue.done(key, class, Some(Duration::from_secs(60)));
        }
    }
}

/// Words for an account, behind those that wait already.
fn tell(t: &mut dyn Tables, account: &UserId, told: Told, now: Millis) -> Result<(), TableError> {
    let to = Target::Account(account.to_owned());
    t.push_notice(&Notice { to, say: Say::Told(told), at: now })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
