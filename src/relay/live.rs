//! Live events: one Faye connection per account that is logged in, each room read once for all its portals, and polling
//! where there is no connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reconcile::{
    driver::Key,
    model::{GitterRoomId, MessageId, PortalKey},
    panics::caught,
    queue::Class,
};
use ruma::{OwnedUserId, UserId};
use secrecy::SecretString;
use store::{ReadTxn, StoreError};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Relay;
use crate::{
    gitter::{
        carrier::{Carriers, assign},
        faye::{
            self, Dialler, Event, FayeConfig, Operation, PeopleOperation, RoomsOperation, Timing,
        },
    },
    metrics::FayeState,
    telemetry::Chain,
};

/// Changes of portals come in bursts; the assignment is made once for all of them.
const SETTLE: Duration = Duration::from_millis(200);
/// Events of a connection that wait to be handled; beyond, the server waits.
const EVENTS: usize = 256;
/// Shortest time between two looks at the same rooms without a connection.
const POLL: Duration = Duration::from_secs(10);
/// A room that an account was refused is tried again after this.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// Share of an account's calls a minute that polling may use.
const POLLS_A_MINUTE: u32 = 40;

/// So long is waited after a panic.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// Ends a task with whatever holds this.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The connections and who carries what.
#[derive(Debug, Clone)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    relay: Relay,
    url: Url,
    dialler: Dialler,
    state: Mutex<State>,
    /// Something about connections has changed.
    changed: Notify,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    lines: BTreeMap<OwnedUserId, Line>,
    carriers: Carriers,
    /// Who may read which room, as last seen.
    readers: BTreeMap<GitterRoomId, BTreeSet<OwnedUserId>>,
    /// Rooms an account was refused and when, until its connection is made anew, its membership changes, or time passes.
    refused: BTreeMap<(OwnedUserId, GitterRoomId), Instant>,
}

/// One account's connection.
#[derive(Debug)]
struct Line {
    generation: u64,
    wanted: watch::Sender<BTreeSet<String>>,
    stop: CancellationToken,
    up: bool,
    shown: Option<FayeState>,
    /// When it went down, or was begun.
    since: Instant,
}

/// Who may listen, and what there is to listen to, as the rows say.
struct Wanted {
    accounts: BTreeMap<OwnedUserId, (u64, String, SecretString)>,
    readers: BTreeMap<GitterRoomId, BTreeSet<OwnedUserId>>,
}

impl Live {
    /// Nothing runs before [`Live::run`].
    #[must_use]
    pub fn new(relay: Relay, url: Url, dialler: Dialler, stop: CancellationToken) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { relay, url, dialler, state, changed, stop }))
    }

    /// Keeps connections and assignment as the rows want them, until stopped.
    pub async fn run(&self) {
        let _poller = Aborted(self.keep("poller", |live| async move { live.poll().await }));
        let bells = self.0.relay.0.bridge.bells.clone();
        loop {
            if let Err(error) = self.arrange().await {
                tracing::error!(error = %Chain(&error), "live connections can't be arranged");
            }
            if let Err(error) = self.0.relay.poke_unlearned().await {
                tracing::error!(error = %Chain(&error), "what waits in the store can't be read");
            }
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => break,
                () = bells.portals.notified() => {}
                () = self.0.changed.notified() => {}
            }
            sleep(SETTLE).await;
        }
        for line in self.state().lines.values() {
            line.stop.cancel();
        }
    }

    /// Runs a task, anew after every panic.
    fn keep<R>(
        &self,
        name: &'static str,
        make: impl Fn(Self) -> R + Send + 'static,
    ) -> tokio::task::JoinHandle<()>
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let live = self.clone();
        tokio::spawn(async move {
            while let Err(panic) = caught(make(live.clone())).await {
                live.0.relay.0.metrics.panic();
                tracing::error!(task = name, panic, "a task panicked; it is started anew");
                sleep(AFTER_PANIC).await;
            }
        })
    }

    /// How many accounts should be connected, and how many are.
    #[must_use]
    pub fn health(&self) -> (usize, usize) {
        let state = self.state();
        (state.lines.len(), state.lines.values().filter(|line| line.up).count())
    }

    /// Whether the account should be connected and is not, for long enough to be polled.
    #[must_use]
    pub fn is_polled(&self, account: &UserId) -> bool {
        let state = self.state();
        state.lines.get(account).is_some_and(|line| !line.up && line.since.elapsed() >= POLL)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn arrange(&self) -> Result<(), StoreError> {
        let wanted = self.0.relay.0.db.look(wanted).await?;
        let mut fresh = Vec::new();
        let begun;
        {
            let mut state = self.state();
            let State { lines, carriers, readers: known, refused } = &mut *state;
            lines.retain(|account, line| {
                let keep = wanted.accounts.get(account).is_some_and(|a| a.0 == line.generation);
                if !keep {
                    line.stop.cancel();
                    self.show(line, None);
                }
                keep
            });
            refused.retain(|(account, _), _| lines.contains_key(account));
            for (account, (generation, id, token)) in wanted.accounts {
                if lines.contains_key(&account) {
                    continue;
                }
                let (rooms, listen) = watch::channel(BTreeSet::new());
                let mut line = Line {
                    generation,
                    wanted: rooms,
                    stop: self.0.stop.child_token(),
                    up: false,
                    shown: None,
                    since: Instant::now(),
                };
                self.show(&mut line, Some(FayeState::Connecting));
                let config = FayeConfig {
                    url: self.0.url.clone(),
                    token,
                    user_id: id,
                    timing: Timing::default(),
                };
                fresh.push((account.clone(), generation, config, listen, line.stop.clone()));
                lines.insert(account, line);
            }
            let mut readers = wanted.readers;
            for (room, may) in &mut readers {
                may.retain(|account| {
                    lines.contains_key(account)
                        && !refused.contains_key(&(account.clone(), room.clone()))
                });
            }
            let up =
                lines.iter().filter(|(_, l)| l.up).map(|(account, _)| account.clone()).collect();
            let next = assign(&readers, carriers, &up);
            begun = joined_in(&readers, known, carriers, &next);
            (*carriers, *known) = (next, readers);
            for (account, line) in lines.iter() {
                let rooms = carriers.get(account).into_iter().flatten();
                let rooms: BTreeSet<String> = rooms.map(ToString::to_string).collect();
                line.wanted.send_if_modified(|old| {
                    let differs = *old != rooms;
                    *old = rooms;
                    differs
                });
            }
        }
        for (account, generation, config, listen, stop) in fresh {
            self.connect(account, generation, config, listen, stop);
        }
        for portal in begun {
            self.0.relay.catch_up(&portal);
        }
        Ok(())
    }

    fn connect(
        &self,
        account: OwnedUserId,
        generation: u64,
        config: FayeConfig,
        listen: watch::Receiver<BTreeSet<String>>,
        stop: CancellationToken,
    ) {
        let (send, mut receive) = mpsc::channel(EVENTS);
        let (bridge, dialler) = (self.0.relay.0.bridge.clone(), self.0.dialler.clone());
        let (metrics, who, live) = (self.0.relay.0.metrics.clone(), account.clone(), self.clone());
        tokio::spawn(async move {
            // A connection that panicked is made anew; its first word is that something was missed. Until then it is polled.
            loop {
                let (config, send) = (config.clone(), send.clone());
                let (rng, dialler) = (bridge.dice(), dialler.clone());
                let listened = faye::run(config, listen.clone(), send, stop.clone(), rng, dialler);
                let Err(panic) = caught(Box::pin(listened)).await else { return };
                metrics.panic();
                tracing::error!(account = %who, panic, "a live connection panicked; it is made anew");
                live.turned(&who, generation, false);
                if stop.run_until_cancelled(sleep(AFTER_PANIC)).await.is_none() {
                    return;
                }
            }
        });
        let live = self.clone();
        tokio::spawn(async move {
            while let Some(event) = receive.recv().await {
                let handled = match caught(live.handle(&account, generation, event)).await {
                    Ok(handled) => handled,
                    Err(panic) => {
                        live.0.relay.0.metrics.panic();
                        Err(StoreError::Panicked(panic))
                    }
                };
                if let Err(error) = handled {
                    tracing::error!(account = %account, error = %Chain(&error), "a live event is lost; its room is read anew later");
                    live.missed(&account, None).await;
                }
            }
            // Ended for good or by a panic: whoever is not connected is polled.
            live.turned(&account, generation, false);
        });
    }

    async fn handle(
        &self,
        account: &OwnedUserId,
        generation: u64,
        event: Event,
    ) -> Result<(), StoreError> {
        let relay = &self.0.relay;
        match event {
            Event::Connected => {
                tracing::debug!(account = %account, "listening to gitter");
                self.turned(account, generation, true);
                // What the account did elsewhere meanwhile was not heard.
                relay.0.bridge.hint(Key::Account(account.clone()), Class::Soon);
            }
            Event::Subscribed { room } => {
                if let Ok(room) = room.parse() {
                    for portal in self.portals(&room).await? {
                        relay.catch_up(&portal);
                    }
                    // Who came and went meanwhile was not heard, either.
                    relay.0.bridge.hint(Key::Room(room), Class::Members);
                }
            }
            Event::Refused { room, status, message } => {
                tracing::info!(account = %account, room, status, message, "gitter does not let this account listen");
                if let Ok(room) = room.parse() {
                    self.state().refused.insert((account.clone(), room), Instant::now());
                }
                relay.0.bridge.hint(Key::Account(account.clone()), Class::Soon);
                self.0.changed.notify_one();
            }
            Event::Chat {
                room,
                operation: Operation::Create(message) | Operation::Update(message),
            } => {
                let Ok(room) = room.parse() else { return Ok(()) };
                let message = Arc::new(*message);
                for portal in self.portals(&room).await? {
                    if self.may_read(&portal) {
                        relay.receive(&portal, message.clone());
                    } else {
                        relay.catch_up(&portal);
                    }
                }
            }
            Event::Chat { room, operation: Operation::Remove(message) } => {
                let (Ok(room), Ok(message)) = (room.parse(), message.parse::<MessageId>()) else {
                    return Ok(());
                };
                for portal in self.portals(&room).await? {
                    relay.receive_removal(&portal, message.clone());
                }
            }
            Event::Chat { operation: Operation::Patch(_), .. } => {}
            Event::People { room, operation } => {
                if let Ok(room) = room.parse() {
                    self.people_changed(&room, &operation).await?;
                }
            }
            Event::Rooms(operation) => self.rooms_changed(account, &operation),
            Event::Gap { room } => self.missed(account, room).await,
            Event::Disconnected { reason } => {
                tracing::info!(account = %account, reason, "not listening to gitter");
                self.turned(account, generation, false);
            }
            Event::TokenRejected => {
                relay.0.bridge.token_rejected(account, generation).await?;
            }
        }
        Ok(())
    }

    async fn people_changed(
        &self,
        room: &GitterRoomId,
        operation: &PeopleOperation,
    ) -> Result<(), StoreError> {
        let relay = &self.0.relay;
        match operation {
            PeopleOperation::Create(_) => relay.0.bridge.said_to_join(room).await?,
            PeopleOperation::Remove(person) => {
                if let Ok(person) = person.parse() {
                    relay.0.bridge.said_to_leave(room, &person).await?;
                }
            }
            PeopleOperation::Update(user) => {
                let Some(seen) = relay.0.gitter.person(user) else { return Ok(()) };
                let id = seen.id.clone();
                // Of whom there is no ghost nobody need know how they look.
                if relay.0.db.look(move |t| t.ghost(&id)).await?.is_some() {
                    relay.ghost(&seen).await?;
                }
            }
        }
        Ok(())
    }

    fn rooms_changed(&self, account: &OwnedUserId, operation: &RoomsOperation) {
        let room = match operation {
            RoomsOperation::Create(room) | RoomsOperation::Update(room) => &room.id,
            // Counts of unread messages change with every message: no reason to look at anything.
            RoomsOperation::Patch(patch) if patch.topic.is_none() => return,
            RoomsOperation::Patch(patch) => &patch.id,
            RoomsOperation::Remove(id) => id,
        };
        if let Ok(room) = room.parse() {
            self.state().refused.remove(&(account.clone(), room));
        }
        self.0.relay.0.bridge.hint(Key::Account(account.clone()), Class::Waiting);
        self.0.changed.notify_one();
    }

    /// Something of a room, or of all rooms the account carries, was missed.
    async fn missed(&self, account: &UserId, room: Option<String>) {
        let rooms: Vec<GitterRoomId> = match room {
            Some(room) => room.parse().into_iter().collect(),
            None => self.state().carriers.get(account).into_iter().flatten().cloned().collect(),
        };
        for room in rooms {
            for portal in self.portals(&room).await.unwrap_or_default() {
                self.0.relay.catch_up(&portal);
            }
        }
    }

    /// Whether its account could listen to the room itself. What another's connection hears is not for who has lost their login, and
    /// perhaps the room with it: they catch up when they can look there.
    fn may_read(&self, portal: &PortalKey) -> bool {
        let state = self.state();
        state.readers.get(&portal.room).is_some_and(|may| may.contains(&portal.account))
    }

    async fn portals(&self, room: &GitterRoomId) -> Result<Vec<PortalKey>, StoreError> {
        let id = room.clone();
        self.0.relay.0.db.look(move |t| t.portals_for(&id)).await
    }

    fn turned(&self, account: &UserId, generation: u64, up: bool) {
        let mut state = self.state();
        let Some(line) = state.lines.get_mut(account).filter(|l| l.generation == generation) else {
            return;
        };
        if line.up != up {
            line.up = up;
            line.since = Instant::now();
            self.0.changed.notify_one();
        }
        self.show(line, Some(if up { FayeState::Live } else { FayeState::Polling }));
        if up {
            state.refused.retain(|(refused, _), _| refused != account);
        }
    }

    fn show(&self, line: &mut Line, now: Option<FayeState>) {
        if line.shown != now {
            self.0.relay.0.metrics.faye(line.shown, now);
            line.shown = now;
        }
    }

    /// Looks at the rooms of accounts without a connection, within their budget, in turns.
    async fn poll(&self) {
        let mut next: BTreeMap<OwnedUserId, Instant> = BTreeMap::new();
        loop {
            sleep_until(Instant::now() + POLL).await;
            let down: Vec<(OwnedUserId, Vec<GitterRoomId>)> = {
                let mut state = self.state();
                let refused = state.refused.len();
                state.refused.retain(|_, since| since.elapsed() < REFUSED_FOR);
                if state.refused.len() < refused {
                    self.0.changed.notify_one();
                }
                let down = state.lines.iter().filter(|(_, l)| !l.up && l.since.elapsed() >= POLL);
                down.map(|(account, _)| {
                    let rooms = state.carriers.get(account).into_iter().flatten().cloned();
                    (account.clone(), rooms.collect())
                })
                .collect()
            };
            next.retain(|account, _| down.iter().any(|(other, _)| other == account));
            for (account, rooms) in down {
                let now = Instant::now();
                match next.get(&account) {
                    Some(at) if *at > now => continue,
                    Some(_) => {}
                    None => {
                        tracing::warn!(account = %account, rooms = rooms.len(), "no live connection to gitter: reading by turns");
                    }
                }
                let count = u32::try_from(rooms.len()).unwrap_or(u32::MAX);
                let turn = Duration::from_secs(60).saturating_mul(count) / POLLS_A_MINUTE;
                next.insert(account.clone(), now + turn.max(POLL));
                self.0.relay.0.bridge.hint(Key::Account(account.clone()), Class::Members);
                for room in rooms {
                    for portal in self.portals(&room).await.unwrap_or_default() {
                        self.0.relay.catch_up(&portal);
                    }
                }
            }
        }
    }
}

/// Portals of rooms that are already listened to: no new subscription will tell when to catch up.
fn joined_in(
    now: &BTreeMap<GitterRoomId, BTreeSet<OwnedUserId>>,
    before: &BTreeMap<GitterRoomId, BTreeSet<OwnedUserId>>,
    carried: &Carriers,
    next: &Carriers,
) -> Vec<PortalKey> {
    let kept = next.iter().flat_map(|(account, rooms)| {
        let old = carried.get(account);
        rooms.iter().filter(move |room| old.is_some_and(|old| old.contains(*room)))
    });
    kept.flat_map(|room| {
        let new = now.get(room).into_iter().flatten();
        let old = before.get(room);
        new.filter(move |account| !old.is_some_and(|old| old.contains(*account)))
            .map(|account| PortalKey::new(account.clone(), room.clone()))
    })
    .collect()
}

fn wanted(t: &ReadTxn) -> Result<Wanted, StoreError> {
    let mut accounts = BTreeMap::new();
    let mut readers: BTreeMap<GitterRoomId, BTreeSet<OwnedUserId>> = BTreeMap::new();
    for (user, account) in t.accounts()? {
        let Some(person) = account.session.person().filter(|_| account.session.is_active()) else {
            continue;
        };
        let Some(token) = t.token(&user)? else { continue };
        for (room, portal) in t.portals_of(&user)? {
            if portal.open.desired
                && portal.place.room().is_some()
                && portal.member.last == Some(true)
            {
                readers.entry(room).or_default().insert(user.clone());
            }
        }
        accounts.insert(user, (account.generation, person.id.to_string(), token));
    }
    Ok(Wanted { accounts, readers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_that_joins_a_room_already_listened_to_catches_up_by_itself() {
        let room = |n: u8| -> GitterRoomId {
            format!("5f00000000000000000000{n:02x}").parse().expect("a valid id")
        };
        let user = |name: &str| -> OwnedUserId {
            format!("@{name}:example.org").try_into().expect("a valid id")
        };
        let (a, b) = (user("a"), user("b"));
        let before = BTreeMap::from([(room(1), BTreeSet::from([a.clone()]))]);
        let now = BTreeMap::from([
            (room(1), BTreeSet::from([a.clone(), b.clone()])),
            (room(2), BTreeSet::from([b.clone()])),
        ]);
        let carried = Carriers::from([(a.clone(), BTreeSet::from([room(1)]))]);
        let next = Carriers::from([
            (a.clone(), BTreeSet::from([room(1)])),
            (b.clone(), BTreeSet::from([room(2)])),
        ]);
        let joined = joined_in(&now, &before, &carried, &next);
        assert_eq!(
            joined,
            [PortalKey::new(b.clone(), room(1))],
            "the other is being subscribed to"
        );
        assert!(joined_in(&now, &now, &carried, &next).is_empty());
        let moved = Carriers::from([(b.clone(), BTreeSet::from([room(1), room(2)]))]);
        assert!(joined_in(&now, &before, &carried, &moved).is_empty());
    }
}
