//! Gitter answers the posts of those whom it has silenced as if nothing were wrong, and shows them to nobody: a message is there
//! when its echo was seen, or it can be read back. See the Gitter reference, section 6.1.
//!
//! A silenced account stays so. Hence the newest message tells for all before it, and one call is enough for many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reconcile::{
    breaker::Side,
    model::{Failure, Link, MessageId, Millis, Notice, PortalKey, Say, Session, Target},
    port::Clock as _,
    queue::Class,
};
use ruma::OwnedEventId;
use store::{StoreError, WriteTxn};

use super::{Relay, Turn, fate};
use crate::{
    bot::answer,
    gitter::GitterError,
    metrics::{Direction, MessageOutcome},
    render::split::utf16_len,
    telemetry::Chain,
};

/// An echo comes within a second or two; what has none by then is read back.
const ECHO: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });
/// So many messages of a portal wait for their echo; more are believed.
const KEPT: usize = 50;
/// Gitter silences accounts younger than this for repeating themselves within [`WINDOW`].
const YOUNG: Duration = Duration::from_secs(14 * 24 * 3600);
const WINDOW: Duration = Duration::from_secs(12 * 3600);
/// Links of a portal that are looked through for repetitions.
const LOOKED_THROUGH: usize = 2_000;

pub(super) const SWALLOWED: &str =
    "Gitter took it and shows it to nobody. It does that to accounts that it takes for spammers";

/// The messages of each portal that nobody has seen on Gitter yet.
///
/// Each has a row, written with its link: after a start it is asked for as well. Once it was seen the row goes with the next
/// write for its portal, when the lane has nothing more to wait for, or at the end: an echo costs no write of its own.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed(Mutex<BTreeMap<PortalKey, Waiting>>);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// With when they were sent, or when this run took over.
    sent: BTreeMap<MessageId, Millis>,
    /// Up to here it is known what became of them, although there may be rows.
    settled: Option<MessageId>,
}

impl Waiting {
    fn settle(&mut self, last: &MessageId) {
        self.sent.retain(|id, _| id > last);
        self.settled = self.settled.take().max(Some(last.clone()));
    }
}

impl Unconfirmed {
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut BTreeMap<PortalKey, Waiting>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sent(&self, portal: &PortalKey, message: MessageId, at: Millis) {
        self.with(|all| {
            let waiting = all.entry(portal.clone()).or_default();
            waiting.sent.insert(message, at);
            if waiting.sent.len() > KEPT
                && let Some((oldest, _)) = waiting.sent.pop_first()
            {
                waiting.settle(&oldest);
            }
        });
    }

    /// The message is on Gitter, and so is what was sent before it. Others' messages tell nothing.
    pub(super) fn seen(&self, portal: &PortalKey, message: &MessageId) {
        self.with(|all| {
            if let Some(waiting) = all.get_mut(portal)
                && waiting.sent.contains_key(message)
            {
                waiting.settle(message);
            }
        });
    }

    /// Whether it is still unknown if a message that has a row is on Gitter.
    pub(super) fn doubts(&self, portal: &PortalKey, message: &MessageId) -> bool {
        self.with(|all| {
            let Some(waiting) = all.get(portal) else { return true };
            waiting.sent.contains_key(message) || waiting.settled.as_ref() < Some(message)
        })
    }

    fn waiting(&self, portal: &PortalKey) -> Vec<(MessageId, Millis)> {
        self.with(|all| {
            let waiting = all.get(portal).into_iter().flat_map(|waiting| &waiting.sent);
            waiting.map(|(id, at)| (id.clone(), *at)).collect()
        })
    }

    pub(super) fn settled(&self, portal: &PortalKey) -> Option<MessageId> {
        self.with(|all| all.get(portal)?.settled.clone())
    }

    /// The rows up to this message are gone.
    fn cleared(&self, portal: &PortalKey, last: &MessageId) {
        self.with(|all| {
            let is_last = |waiting: &Waiting| waiting.settled.as_ref() == Some(last);
            if all.get(portal).is_some_and(|waiting| waiting.sent.is_empty() && is_last(waiting)) {
                all.remove(portal);
            }
        });
    }
}

impl Relay {
    /// Gitter says that it has taken a message: that is believed when it was seen.
    pub(super) fn confirm(&self, portal: &PortalKey, message: MessageId) {
        self.0.unconfirmed.sent(portal, message, self.0.bridge.clock.now());
        self.poke_confirm(portal);
    }

    /// Goes on with what an earlier run sent, and did not see on Gitter before it ended.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn poke_unconfirmed(&self) -> Result<(), StoreError> {
        let rows = self.0.db.look(|t| {
            let with = |key: PortalKey| Ok((t.unconfirmed(&key)?, key));
            t.unconfirmed_keys()?.into_iter().map(with).collect::<Result<Vec<_>, StoreError>>()
        });
        let now = self.0.bridge.clock.now();
        for (messages, portal) in rows.await? {
            for message in messages {
                // The pages that are read at a start show most of them without further calls.
                self.0.unconfirmed.sent(&portal, message, now);
            }
            self.poke_confirm(&portal);
        }
        Ok(())
    }

    fn poke_confirm(&self, portal: &PortalKey) {
        let relay = self.clone();
        self.0.confirming.poke(portal.clone(), || self.0.bridge.dice(), move |portal| {
            let relay = relay.clone();
            async move {
                relay.turn_confirm(&portal).await.unwrap_or_else(|error| {
                    tracing::error!(portal = %portal, error = %Chain(&error), "messages not confirmed");
                    Turn::Later(None)
                })
            }
        });
    }

    async fn turn_confirm(&self, portal: &PortalKey) -> Result<Turn, StoreError> {
        let waiting = self.0.unconfirmed.waiting(portal);
        let Some((newest, at)) = waiting.last() else { return self.settle(portal).await };
        let left = ECHO.saturating_sub(self.0.bridge.clock.now().since(*at));
        if !left.is_zero() {
            return Ok(Turn::Later(Some(left)));
        }
        let Some(caller) = self.0.gitter.caller(&portal.account).await? else {
            self.0.unconfirmed.seen(portal, newest);
            return self.settle(portal).await;
        };
        self.there(Side::Gitter, Class::Members).await;
        let mut missing = Vec::new();
        for (id, _) in waiting.iter().rev() {
            match caller.account.message(portal.room.as_str(), id.as_str()).await {
                Ok(Some(_)) => break,
                Ok(None) => missing.push(id.clone()),
                Err(
                    GitterError::Limited { .. }
                    | GitterError::Unavailable { .. }
                    | GitterError::Malformed(_),
                ) => return Ok(Turn::Later(None)),
                // No access any more: then nothing can be said about it.
                Err(_) => {
                    missing.clear();
                    break;
                }
            }
        }
        if !missing.is_empty() {
            self.swallowed(portal, missing).await?;
        }
        self.0.unconfirmed.seen(portal, newest);
        self.settle(portal).await
    }

    /// Forgets, before the end, all rows of messages that were seen: the next run would have to ask.
    ///
    /// # Errors
    ///
    /// When the rows can't be written.
    pub async fn settle_all(&self) -> Result<(), StoreError> {
        let settled: Vec<_> = self.0.unconfirmed.with(|all| {
            let settled = |(key, waiting): (&PortalKey, &Waiting)| {
                Some((key.clone(), waiting.settled.clone()?))
            };
            all.iter().filter_map(settled).collect()
        });
        let cleared = self
            .0
            .db
            .change(move |t| settled.iter().try_for_each(|(key, last)| t.confirm_until(key, last)));
        cleared.await
    }

    /// Forgets the rows of messages of which it is known by now what became of them.
    async fn settle(&self, portal: &PortalKey) -> Result<Turn, StoreError> {
        if let Some(last) = self.0.unconfirmed.settled(portal) {
            let (key, until) = (portal.clone(), last.clone());
            self.0.db.change(move |t| t.confirm_until(&key, &until)).await?;
            self.0.unconfirmed.cleared(portal, &last);
        }
        Ok(Turn::Idle)
    }

    /// Messages are not on Gitter although it said so: their senders are told, once for each event.
    async fn swallowed(
        &self,
        portal: &PortalKey,
        missing: Vec<MessageId>,
    ) -> Result<(), StoreError> {
        let (key, now) = (portal.clone(), self.0.bridge.clock.now());
        let told = self.0.db.change(move |t| {
            let mut events = BTreeSet::<OwnedEventId>::new();
            for id in missing.iter().rev() {
                // What was deleted meanwhile was there.
                let Some(link) = t.link_of_message(&key, id)?.filter(|link| !link.gone) else {
                    continue;
                };
                t.put_link(&Link { gone: true, ..link.clone() })?;
                if events.insert(link.event.clone()) {
                    let why = (Failure::Silenced, SWALLOWED);
                    fate::failed(t, &key, link.event, why, None, now)?;
                }
            }
            Ok(events.len())
        });
        for _ in 0..told.await? {
            self.0.metrics.message(Direction::ToGitter, MessageOutcome::Refused);
        }
        self.0.bridge.bells.words.notify_one();
        Ok(())
    }
}

/// Warns the sender of a message that was just linked when Gitter would take the next of the same text for spam.
pub(super) fn warn(
    t: &mut WriteTxn<'_>,
    link: &Link,
    text: &str,
    now: Millis,
) -> Result<bool, StoreError> {
    let key = &link.portal;
    let Some(Session::Active(person)) = t.account(&key.account)?.map(|account| account.session)
    else {
        return Ok(false);
    };
    // The ids of Gitter's users say when they were made, as those of messages do.
    let born = person.id.as_str().parse::<MessageId>().map(|id| id.made());
    if born.map_or(true, |born| now.since(born) > YOUNG) {
        return Ok(false);
    }
    let most = match utf16_len(text) {
        20.. => 10,
        10..20 => 20,
        _ => 100,
    };
    let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    let from = MessageId::first_of(Millis(now.0.saturating_sub(window)));
    let ghost = t.ghost(&person.id)?.map(|ghost| ghost.user);
    let mut times = 0;
    for (room, _) in t.portals_of(&key.account)? {
        let portal = PortalKey::new(key.account.clone(), room);
        let links = t.links_after(&portal, &from, LOOKED_THROUGH)?;
        let same = |other: &&Link| {
            let own = other.from_matrix || (ghost.is_some() && other.sender == ghost);
            own && other.digest == link.digest
        };
        times += links.iter().filter(same).count();
    }
    let portal = t.portal(key)?;
    let Some(room) = portal.and_then(|portal| portal.place.room().cloned()) else {
        return Ok(false);
    };
    if times != most {
        return Ok(false);
    }
    let words = answer::repeated(times);
    let say = Say::Reply { event: link.event.clone(), body: words.body, html: words.html };
    t.push_notice(&Notice { to: Target::Room(room), say, at: now })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use ruma::owned_user_id;

    use super::*;

    #[test]
    fn an_echo_tells_for_all_that_was_sent_before_it() {
        let room = "5f000000000000000000b001".parse().expect("a room's id");
        let portal = PortalKey::new(owned_user_id!("@alice:hs"), room);
        let id = |n: usize| format!("5f00000000000000{n:08x}").parse::<MessageId>().expect("an id");
        let unconfirmed = Unconfirmed::default();
        let left = |unconfirmed: &Unconfirmed| {
            unconfirmed.waiting(&portal).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        for n in 0..KEPT + 3 {
            unconfirmed.sent(&portal, id(n), Millis(1));
        }
        assert_eq!(left(&unconfirmed).len(), KEPT, "bounded");
        assert!(!unconfirmed.doubts(&portal, &id(2)), "the oldest are believed");
        unconfirmed.seen(&portal, &"5f00000000000001000000ff".parse().expect("an id"));
        assert_eq!(left(&unconfirmed).len(), KEPT, "somebody else's");
        unconfirmed.seen(&portal, &id(KEPT));
        assert_eq!(left(&unconfirmed), [id(KEPT + 1), id(KEPT + 2)]);
        assert!(unconfirmed.doubts(&portal, &id(KEPT + 1)));
        assert!(!unconfirmed.doubts(&portal, &id(KEPT)), "its row may still be there");
        unconfirmed.sent(&portal, id(KEPT - 1), Millis(1));
        assert!(unconfirmed.doubts(&portal, &id(KEPT - 1)), "ids of one second are in no order");
        unconfirmed.seen(&portal, &id(KEPT + 2));
        assert_eq!(
            (left(&unconfirmed), unconfirmed.settled(&portal)),
            (vec![], Some(id(KEPT + 2)))
        );
        unconfirmed.cleared(&portal, &id(KEPT));
        assert!(!unconfirmed.doubts(&portal, &id(KEPT + 2)), "only some rows are gone");
        unconfirmed.cleared(&portal, &id(KEPT + 2));
        unconfirmed.with(|all| assert!(all.is_empty(), "nothing is kept for nothing"));
    }
}
