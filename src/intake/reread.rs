//! What the homeserver did not send: read from the rooms themselves, after each start and whenever events come late.
//!
//! Synapse can put an event aside that arrives in the very moment in which it finds the bridge back, and sends it only after
//! the next failure (its recoverer and its controller race). So a hint that was lost is made good here as everywhere: by a look.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reconcile::{
    driver::Key,
    model::{Millis, PortalKey},
    port::Clock as _,
    queue::Class,
};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::Value;
use store::{ReadTxn, StoreError, WriteTxn};
use tokio::{sync::Notify, time::Instant};

use super::{Intake, Rules};
use crate::{
    appservice::{Incoming, Intake as _},
    matrix::MatrixError,
    telemetry::Chain,
};

/// Events of the account that are looked at per room: more than people write in the moments that matter.
const LAST: u16 = 50;
/// So many times as many are looked at for one that is known: more than anybody writes while a bridge is away unseen.
const PAGES: usize = 40;
/// An event is late when the homeserver had it for so long: it could not reach the bridge. Its first repeat is after 2 s.
const LATE_MS: u64 = 1_500;
/// From how long before the first late event on rooms are read: what came between is known by its ids.
const BEFORE_MS: u64 = 60_000;
/// What is older than that by this much may be on its way, too, when something after it is.
const LONG_BEFORE_MS: u64 = 3_600_000;
/// What is this young may be on its way.
const YOUNG_MS: u64 = 10_000;
/// Rooms that could not be read are read again after so long at most.
const AGAIN: Duration = Duration::from_secs(300);

/// When the homeserver was last heard to send what it had kept. Since when, stands in the store.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    last: Mutex<Option<Instant>>,
    rung: Notify,
}

impl Lateness {
    /// What was kept back has begun to come.
    pub(super) fn ring(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.rung.notify_one();
    }

    /// How long ago something late came last.
    fn quiet(&self) -> Duration {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(Duration::MAX, |last| last.elapsed())
    }
}

impl Rules {
    /// From when on events may have been kept back, if some of these were: by the ages the homeserver gives them, so that
    /// clocks may differ. To an event of another server that one gives its age, and strangers there are not believed.
    pub(super) fn kept_since(
        &self,
        t: &WriteTxn<'_>,
        events: &[Incoming],
        now: Millis,
    ) -> Result<Option<Millis>, StoreError> {
        let mut oldest = None;
        for event in events {
            let age = age(event).filter(|age| *age > LATE_MS);
            if age > oldest
                && (self.ghosts.are_at(event.sender.server_name())
                    || t.account(&event.sender)?.is_some())
            {
                oldest = age;
            }
        }
        Ok(oldest.map(|age| Millis(now.0.saturating_sub(age))))
    }
}

impl Intake {
    /// Whatever was said from `since` on may have been kept back: until then the bridge took what it was sent.
    ///
    /// # Errors
    ///
    /// When that can't be noted.
    pub async fn missed(&self, since: Millis) -> Result<(), StoreError> {
        let noted = self.0.bridge.state.change(move |t| {
            t.note_start(since)?;
            t.note_unheard(since)
        });
        noted.await?;
        self.0.lateness.ring();
        Ok(())
    }

    /// Reads rooms once more whenever the homeserver has sent late what it had, and nothing late came for `quiet`: what it
    /// sends late must not be overtaken by what is read from the rooms. Never returns.
    pub async fn keep_rereading(&self, quiet: Duration) {
        let lateness = &self.0.lateness;
        let mut failures = 0;
        loop {
            let wait = quiet.saturating_mul(1 << failures.min(10)).min(AGAIN);
            // What failed is not waited for to be rung for.
            let again = async {
                match failures {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(wait).await,
                }
            };
            tokio::select! {
                biased;
                () = lateness.rung.notified() => {}
                () = again => {}
            }
            while let Some(left) =
                quiet.checked_sub(lateness.quiet()).filter(|left| !left.is_zero())
            {
                tokio::time::sleep(left).await;
            }
            match self.reread().await {
                Ok(true) => failures = 0,
                Ok(false) => failures += 1,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(error = %Chain(&error), "rooms not read again");
                }
            }
        }
    }

    /// Takes what accounts said in their rooms and never came, since something may have been kept back; what did come is known
    /// by its id. Returns whether all rooms that can be read were.
    ///
    /// One call per control room and portal with a room, one after the other.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn reread(&self) -> Result<bool, StoreError> {
        let state = &self.0.bridge.state;
        let Some(since) = state.look(store::Txn::unheard_since).await? else { return Ok(true) };
        // A store made anew among old rooms does not know what was obeyed before it.
        let obeyed = state.look(store::Txn::obeyed_until).await?;
        let from = |before| Millis(since.0.saturating_sub(before)).max(obeyed);
        let from = (from(BEFORE_MS), from(LONG_BEFORE_MS));
        let (rooms, mut failed) = (state.look(rooms).await?, 0);
        let count = rooms.len();
        for (room, account) in rooms {
            if let Err(error) = self.reread_room(&room, &account, from).await {
                // A room that is closed to the bot stays so; one that did not answer is asked again.
                let closed = error.downcast_ref::<MatrixError>().is_some_and(|e| !e.is_transient());
                failed += usize::from(!closed);
                tracing::debug!(room = %room, error = %Chain(&*error), "room not read again");
            }
        }
        if failed > 0 {
            tracing::warn!(
                rooms = count,
                failed,
                "not all rooms could be read once more: tried again"
            );
            return Ok(false);
        }
        tracing::info!(rooms = count, "rooms read once more: the homeserver had been late");
        let cleared = state.change(move |t| t.clear_unheard(since)).await?;
        if cleared {
            // The bot stayed in these to read them.
            for portal in state.look(closing).await? {
                self.0.bridge.hint(Key::Portal(portal), Class::Soon);
            }
        }
        Ok(cleared)
    }

    async fn reread_room(
        &self,
        room: &OwnedRoomId,
        account: &OwnedUserId,
        (since, long_before): (Millis, Millis),
    ) -> Result<(), crate::appservice::BoxError> {
        let client = self.0.bridge.matrix.client();
        let now = self.0.bridge.clock.now();
        let age = |event: &Incoming, sent| age(event).unwrap_or(now.0.saturating_sub(sent));
        // Newest first.
        let (mut said, mut from) = (Vec::new(), None);
        for _ in 0..PAGES {
            // What others say meanwhile, however much it is, must not push out what this one said.
            let page = client.messages_by(account, room, LAST, from.as_deref()).await?;
            let theirs = page.chunk.into_iter().filter_map(|event| {
                let event: Incoming = serde_json::from_value(event).ok()?;
                let sent = u64::try_from(event.origin_server_ts).ok()?;
                let old = age(&event, sent) >= YOUNG_MS;
                let theirs = old && event.sender == *account && event.state_key.is_none();
                theirs.then_some((Millis(sent), event))
            });
            let theirs: Vec<(Millis, Incoming)> = theirs.collect();
            let ids: Vec<_> = theirs.iter().map(|(_, event)| event.event_id.clone()).collect();
            // Before anything that counts nothing does; after it, what is long before it.
            let none = said.iter().chain(&theirs).all(|(sent, _)| *sent < since);
            let end = if none { since } else { long_before };
            let past = theirs.last().is_some_and(|(sent, _)| *sent < end);
            said.extend(theirs);
            let known = self.0.bridge.state.look(move |t| {
                for id in &ids {
                    if t.seen_at(id)?.is_some() {
                        return Ok(true);
                    }
                }
                Ok(false)
            });
            from = page.end;
            // What came before something that is known is known.
            if past || from.is_none() || known.await? {
                break;
            }
        }
        said.reverse();
        let missed = self.0.bridge.state.look(move |t| {
            let (mut missed, mut older, mut known) = (Vec::new(), Vec::new(), false);
            for (sent, event) in said {
                if t.seen_at(&event.event_id)?.is_some() {
                    known = true;
                    older.clear();
                } else if sent >= since {
                    // What is to come yet must not be overtaken.
                    missed.append(&mut older);
                    missed.push(event);
                } else if known || sent >= long_before {
                    older.push(event);
                }
            }
            Ok(missed)
        });
        let missed = missed.await?;
        if !missed.is_empty() {
            tracing::info!(room = %room, events = missed.len(), "the homeserver had kept events back");
            self.transaction("reread".to_owned(), missed, Vec::new()).await?;
        }
        Ok(())
    }
}

/// How long the homeserver has had an event, in ms, by its own clock.
fn age(event: &Incoming) -> Option<u64> {
    event.unsigned.get("age").and_then(Value::as_u64)
}

/// Where accounts speak to the bridge.
fn rooms(t: &ReadTxn) -> Result<Vec<(OwnedRoomId, OwnedUserId)>, StoreError> {
    let mut rooms = Vec::new();
    for (user, account) in t.accounts()? {
        rooms.extend(account.control_room().map(|room| (room.clone(), user.clone())));
        for (id, portal) in t.portals_of(&user)? {
            // A portal that has yet to learn what was carried reads its room itself.
            let known = t.relearn_since(&PortalKey::new(user.clone(), id))?.is_none();
            // In one that was closed meanwhile, its author is told.
            if let Some(room) = portal.place.room().filter(|_| known) {
                rooms.push((room.clone(), user.clone()));
            }
        }
    }
    Ok(rooms)
}

/// Portals whose room is being closed.
fn closing(t: &ReadTxn) -> Result<Vec<PortalKey>, StoreError> {
    let mut closing = Vec::new();
    for key in t.portal_keys()? {
        let portal = t.portal(&key)?;
        if portal.is_some_and(|portal| !portal.open.desired && portal.place.room().is_some()) {
            closing.push(key);
        }
    }
    Ok(closing)
}
