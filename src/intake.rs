//! One happening becomes one store transaction, without a call to anybody: events of the homeserver and finished logins here,
//! what Gitter does by the reconciler's own looks.
//!
//! # Guarantees
//!
//! - All events of a transaction are on disk before it is answered, or none is.
//! - A transaction waits while several are in work already, and is answered later: nothing is dropped
//!   (`too_many_transactions_at_once_wait_for_their_turn`).
//! - After an older store was put in place nothing is taken before the rows know the rooms there are.
//! - An event that makes the bridge itself fail is passed over, and holds up no other (`an_event_that_panics_is_passed_over`).
//! - An event that comes again changes nothing, also after a restart: whatever it caused is marked with its id in the same
//!   write.

mod command;
mod event;
mod file;
mod login;
pub(crate) mod message;
mod reread;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reconcile::{
    breaker::Side,
    driver::Key,
    model::{Millis, PortalKey},
    panics::caught,
    port::Clock as _,
    queue::Class,
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::Value;
use store::{StoreError, WriteTxn};
use tokio::sync::Semaphore;
use url::Url;

pub use login::Logins;

use crate::{
    appservice::{BoxError, Incoming, Part, Readiness},
    bot::{answer::Answer, parse::Parser},
    matrix::Ghosts,
    metrics::{CommandKind, Destination, EventOutcome, Metrics, QueueClass},
    relay::{Bridge, Relay, live::Live, read, words::Voice},
    telemetry::Chain,
};

/// Transactions in work at a time. A homeserver sends one after the other; more come when it gave up on those before.
const TRANSACTIONS: usize = 4;

/// Where everything the homeserver says goes. Clones are the same.
#[derive(Debug, Clone)]
pub struct Intake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bridge: Arc<Bridge>,
    relay: Relay,
    live: Live,
    rules: Arc<Rules>,
    metrics: Metrics,
    lateness: reread::Lateness,
    room: Arc<Semaphore>,
    /// An older store was put in place, and does not know its rooms yet: what is said there must wait, not be turned away.
    unsettled: AtomicBool,
}

/// What it takes to read events; no part of it calls anybody.
#[derive(Debug)]
struct Rules {
    ghosts: Ghosts,
    parser: Parser,
    voice: Voice,
    bridge: Arc<Bridge>,
    live: Live,
}

/// What has to be looked at once the transaction is on disk.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Hints {
    keys: BTreeMap<Key, Class>,
    /// Whose the chats among them are.
    chats: BTreeMap<OwnedRoomId, OwnedUserId>,
    outward: BTreeSet<PortalKey>,
    words: bool,
    portals: bool,
    /// The homeserver had kept some of it.
    late: bool,
    commands: Vec<CommandKind>,
    duplicate: usize,
    ignored: usize,
}

impl Hints {
    fn key(&mut self, key: Key, class: Class) {
        let best = self.keys.entry(key).or_insert(class);
        *best = class.min(*best);
    }
}

impl Intake {
    /// Puts the parts together. `web` is where people see Gitter.
    #[must_use]
    pub fn new(
        bridge: Arc<Bridge>,
        relay: Relay,
        live: Live,
        ghosts: Ghosts,
        voice: Voice,
        web: &Url,
        metrics: Metrics,
    ) -> Self {
        let parser = Parser::new(reconcile::port::Matrix::bot(&bridge.matrix), "Gitter", web);
        let rules = Rules { ghosts, parser, voice, bridge: bridge.clone(), live: live.clone() };
        let lateness = reread::Lateness::default();
        let unsettled = bridge.state.store().read(store::Txn::restored);
        let unsettled = unsettled.is_ok_and(|restored| restored.is_some());
        let room = Arc::new(Semaphore::new(if unsettled { 0 } else { TRANSACTIONS }));
        Self(Arc::new(Inner {
            bridge,
            relay,
            live,
            rules: Arc::new(rules),
            metrics,
            lateness,
            room,
            unsettled: unsettled.into(),
        }))
    }

    /// The rows know the rooms there are: what waited for that is taken.
    pub fn settled(&self) {
        if self.0.unsettled.swap(false, Ordering::SeqCst) {
            self.0.room.add_permits(TRANSACTIONS);
        }
    }

    /// Takes events of a time of which the rows know nothing, before all that waits.
    ///
    /// # Errors
    ///
    /// When they can't be written down.
    pub async fn take_first(&self, events: Vec<Incoming>) -> Result<(), StoreError> {
        self.keep(Arc::new(events), self.0.bridge.clock.now()).await
    }

    /// Writes all events down in one transaction. If that panics, each in one of its own, but for those that panic.
    async fn keep(&self, events: Arc<Vec<Incoming>>, now: Millis) -> Result<(), StoreError> {
        if let Ok(kept) = caught(self.keep_some(events.clone(), 0..events.len(), now)).await {
            return kept;
        }
        for (index, event) in events.iter().enumerate() {
            match caught(self.keep_some(events.clone(), index..index + 1, now)).await {
                Ok(kept) => kept?,
                Err(panic) => {
                    self.0.metrics.panic();
                    tracing::error!(event = %event.event_id, room = %event.room_id, panic, "an event panicked, and is passed over");
                }
            }
        }
        Ok(())
    }

    async fn keep_some(
        &self,
        events: Arc<Vec<Incoming>>,
        which: Range<usize>,
        now: Millis,
    ) -> Result<(), StoreError> {
        let rules = self.0.rules.clone();
        let taken = self.0.bridge.state.change(move |t| {
            let mut hints = Hints::default();
            if let Some(since) = rules.kept_since(t, &events, now)? {
                t.note_unheard(since)?;
                hints.late = true;
            }
            for event in &events[which.clone()] {
                match rules.take(t, event, now, &mut hints) {
                    // One row that can't be read must not keep everybody's events out for ever.
                    Err(error @ StoreError::Damaged { .. }) => {
                        let error = Chain(&error);
                        tracing::error!(event = %event.event_id, %error, "event passed over");
                    }
                    taken => taken?,
                }
            }
            Ok(hints)
        });
        self.ring(taken.await?);
        Ok(())
    }

    /// Since when a side is away, for an admin.
    fn away(&self, side: Side) -> Option<String> {
        let away = self.0.bridge.sides.get(side).away()?;
        Some(format!("away for {} s; its work waits", away.as_secs()))
    }

    fn ring(&self, hints: Hints) {
        let Inner { bridge, relay, metrics, lateness, .. } = &*self.0;
        for (room, account) in hints.chats {
            bridge.chat_of(&room, &account);
        }
        for (key, class) in hints.keys {
            bridge.hint(key, class);
        }
        for portal in hints.outward {
            relay.poke_outward(portal);
        }
        if hints.words {
            bridge.bells.words.notify_one();
        }
        if hints.portals {
            bridge.bells.portals.notify_one();
        }
        if hints.late {
            lateness.ring();
        }
        for command in hints.commands {
            metrics.command(command);
        }
        metrics.events(EventOutcome::Duplicate, hints.duplicate);
        metrics.events(EventOutcome::Ignored, hints.ignored);
    }
}

impl crate::appservice::Intake for Intake {
    async fn transaction(
        &self,
        txn_id: String,
        events: Vec<Incoming>,
        ephemeral: Vec<Value>,
    ) -> Result<(), BoxError> {
        let receipts = read::receipts(&ephemeral);
        if !receipts.is_empty() {
            let relay = self.0.relay.clone();
            let metrics = self.0.metrics.clone();
            tokio::spawn(async move {
                if let Err(panic) = caught(relay.note_receipts(receipts)).await {
                    metrics.panic();
                    tracing::error!(panic, "receipts panicked");
                }
            });
        }
        if events.is_empty() {
            return Ok(());
        }
        tracing::trace!(txn = txn_id, events = events.len(), "transaction");
        // A sign of life.
        self.0.bridge.sides.homeserver.hurry();
        // Waiting here is how the homeserver learns that it is too fast.
        let room = self.0.room.clone().acquire_owned().await?;
        let (intake, now) = (self.clone(), self.0.bridge.clock.now());
        // A task of its own: the write goes on when the homeserver hangs up, and whoever waits for it must still hear of it,
        // since the events of a repeat are known already.
        let stored = tokio::spawn(async move {
            let _room = room;
            intake.keep(Arc::new(events), now).await
        });
        Ok(stored.await??)
    }

    fn knows_user(&self, user: &UserId) -> bool {
        let rows = self.0.bridge.state.store().read(|t| {
            let Some(id) = t.ghost_named(user)? else { return Ok(false) };
            Ok(t.ghost(&id)?.is_some_and(|ghost| ghost.dressed.is_some()))
        });
        rows.unwrap_or(false)
    }

    fn ready(&self) -> Readiness {
        let mut parts = BTreeMap::new();
        let broken = self.0.bridge.state.store().is_broken();
        let detail = if broken { "the disk failed; see the log, then restart" } else { "open" };
        parts.insert("store", Part { ready: !broken, detail: detail.to_owned() });
        let fails = self.0.metrics.backup_fails();
        let detail = if fails { "the last could not be made; see the log" } else { "none failed" };
        parts.insert("backups", Part { ready: true, detail: detail.to_owned() });
        let (wanted, up) = self.0.live.health();
        let detail = format!("{up} of {wanted} live connections; the others are polled");
        let away = |side, there| self.away(side).unwrap_or(there);
        parts.insert("gitter", Part { ready: true, detail: away(Side::Gitter, detail) });
        let detail = away(Side::Homeserver, "there".to_owned());
        parts.insert("homeserver", Part { ready: true, detail });
        let waiting: usize = Class::ALL.into_iter().map(|c| self.0.bridge.queue.depth(c)).sum();
        let detail = format!("{waiting} keys wait, {} lanes at work", self.0.relay.busy());
        parts.insert("reconciler", Part { ready: true, detail });
        Readiness { parts }
    }

    fn sample(&self, metrics: &Metrics) {
        for (class, shown) in Class::ALL.into_iter().zip(CLASSES) {
            metrics.queue_depth(shown, self.0.bridge.queue.depth(class));
        }
        metrics.queue_depth(QueueClass::Outbox, self.0.relay.outward());
        metrics.queue_depth(QueueClass::Confirm, self.0.relay.confirming());
        let sides = &self.0.bridge.sides;
        for (side, destination) in
            [(&sides.homeserver, Destination::Homeserver), (&sides.gitter, Destination::Gitter)]
        {
            metrics.away(destination, side.away().is_some(), side.outages());
        }
        metrics.panics(self.0.bridge.take_panics());
        metrics.store_commits(self.0.bridge.state.store().stats().commits);
    }
}

/// The reconciler's classes as metrics name them, in the same order.
const CLASSES: [QueueClass; 4] =
    [QueueClass::Waiting, QueueClass::Soon, QueueClass::Members, QueueClass::Looks];

/// The time of an event: what its server claims, but not later than now.
pub(crate) fn time_of(event: &Incoming, now: Millis) -> Millis {
    Millis(u64::try_from(event.origin_server_ts).unwrap_or(0)).min(now)
}

/// Words for a room or account, behind those that wait.
fn say(
    t: &mut WriteTxn<'_>,
    to: reconcile::model::Target,
    answer: Answer,
    now: Millis,
    hints: &mut Hints,
) -> Result<(), StoreError> {
    let Answer { body, html } = answer;
    let say = reconcile::model::Say::Text { body, html };
    t.push_notice(&reconcile::model::Notice { to, say, at: now })?;
    hints.words = true;
    Ok(())
}
