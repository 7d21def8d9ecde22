//! What waits to be shown, in memory only: losing it loses nothing, for it is paged in again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reconcile::model::{MessageId, Millis, PortalKey};

use crate::gitter::Message;

/// So many messages wait in a lane; what comes beyond is paged in later.
const QUEUE: usize = 300;

/// So many messages wait in all lanes together: with 20 KiB for a long one, some 200 MiB at the very worst.
const ALL: usize = 10_000;

/// So many deletions wait in a lane. Of somebody who is banned Gitter may delete every message there is, and tells of each by itself;
/// a look finds of them only the newest.
const REMOVED: usize = 10_000;

/// So many deletions wait in all lanes together, since each portal of a room is told of all of them: at 100 bytes each some 20 MiB.
const ALL_REMOVED: usize = 200_000;

/// Order in a lane: time first, since ids have only the second; then the id.
pub(super) type Place = (i64, MessageId);

/// Where paging in begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Where it ended.
    On,
    /// Early enough to see what was changed since.
    Back,
}

/// What waits in memory, per portal. Losing it loses nothing: it is paged in again.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Lanes>);

#[derive(Debug, Default)]
struct Lanes {
    each: BTreeMap<PortalKey, Waiting>,
    /// Messages in all of them.
    messages: usize,
    /// Deletions in all of them.
    removed: usize,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "hints that come and go each by itself")]
pub(super) struct Waiting {
    queue: BTreeMap<Place, Arc<Message>>,
    /// Messages that were deleted on Gitter; of one that was emptied there, in which version.
    removed: BTreeMap<MessageId, Option<u64>>,
    /// Something may have been missed: page in before going on.
    pub(super) stale: bool,
    /// What may have been missed is not only at the end: look for changes of what is shown, too.
    changed: bool,
    /// The room holds more than the queue: page in once the queue is empty. Until then live messages are left to that.
    more: bool,
    /// More was deleted than was looked for at a time: look again once what is known to be gone is gone here, too.
    pub(super) more_removed: bool,
    /// The opening of the portal since when this is kept up: what was said before has been paged in, or is to be.
    pub(super) opened: Option<u64>,
    /// The message that is being shown: whether it is in the room is not known before that has come to its end.
    trying: Option<Place>,
    /// Since when it has come to none, or is known to be in the room if an earlier run was showing it.
    failing: Option<Millis>,
    /// The opening of the portal for which what was sent is linked: under another it may be in the room without a link.
    pub(super) linked: Option<u64>,
    /// How many messages it may hold now: one when all lanes together are full.
    most: usize,
    /// How many deletions it may hold now.
    most_removed: usize,
}

impl Waiting {
    fn remove(&mut self, id: MessageId, emptied: Option<u64>) {
        let trying = self.trying.clone();
        self.queue.retain(|place, _| place.1 != id || trying.as_ref() == Some(place));
        if let Some(known) = self.removed.get_mut(&id) {
            *known = known.and(emptied);
        } else if self.removed.len() < self.most_removed {
            self.removed.insert(id, emptied);
        } else {
            self.more_removed = true;
        }
    }

    /// Leaves a message to paging in. That may look back for edits; but a message that is deleted while it has replies is emptied
    /// at any age, without an edit.
    fn leave(&mut self, id: MessageId, message: &Message) {
        self.more = true;
        self.changed |= message.edited_at.is_some();
        if message.text.is_empty() {
            self.remove(id, Some(message.v.unwrap_or(0)));
        }
    }
}

impl Inbox {
    pub(super) fn with<R>(&self, portal: &PortalKey, f: impl FnOnce(&mut Waiting) -> R) -> R {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Lanes { each, messages, removed } = &mut *inner;
        let waiting = each.entry(portal.clone()).or_default();
        waiting.most = if *messages >= ALL { 1 } else { QUEUE };
        *messages -= waiting.queue.len();
        *removed -= waiting.removed.len();
        waiting.most_removed = REMOVED.min(ALL_REMOVED - *removed);
        let result = f(waiting);
        *messages += waiting.queue.len();
        *removed += waiting.removed.len();
        result
    }

    /// Takes a live or paged-in message; a full queue drops its newest one, which is paged in later.
    pub(in super::super) fn put(&self, portal: &PortalKey, message: Arc<Message>) {
        let Ok(id) = message.id.parse() else { return };
        let place = (message.sent.as_millisecond(), id);
        self.with(portal, |waiting| {
            // Live events overtake each other: the newest version is the one to show.
            let newer = |old: &Arc<Message>| old.v.unwrap_or(0) > message.v.unwrap_or(0);
            if waiting.queue.get(&place).is_some_and(newer) {
                return;
            }
            let emptied = waiting.removed.get(&place.1).copied().flatten();
            if emptied.is_some_and(|v| v < message.v.unwrap_or(0)) {
                // It has words again, or is emptied anew.
                waiting.removed.remove(&place.1);
            }
            if waiting.more {
                waiting.leave(place.1, &message);
                return;
            }
            waiting.queue.insert(place, message);
            if waiting.queue.len() > waiting.most
                && let Some(((_, id), message)) = waiting.queue.pop_last()
            {
                waiting.leave(id, &message);
            }
        });
    }

    /// The messages that wait to be shown, oldest first.
    pub(in super::super) fn waiting(&self, portal: &PortalKey) -> Vec<Message> {
        self.with(portal, |waiting| waiting.queue.values().map(|m| Message::clone(m)).collect())
    }

    /// Takes a deletion; one for which there is no room is looked for once the others are done.
    pub(super) fn put_removed(&self, portal: &PortalKey, id: MessageId) {
        self.with(portal, |waiting| waiting.remove(id, None));
    }

    /// Those of the messages whose deletion does not wait to be carried over.
    pub(super) fn not_removed(
        &self,
        portal: &PortalKey,
        mut messages: BTreeSet<MessageId>,
    ) -> BTreeSet<MessageId> {
        self.with(portal, |waiting| messages.retain(|id| !waiting.removed.contains_key(id)));
        messages
    }

    /// What to take back now; if it was emptied, with the version that has no words.
    pub(super) fn first_removed(&self, portal: &PortalKey) -> Option<(MessageId, Option<u64>)> {
        self.with(portal, |waiting| {
            waiting.removed.first_key_value().map(|(id, emptied)| (id.clone(), *emptied))
        })
    }

    pub(super) fn removed(&self, portal: &PortalKey, id: &MessageId) {
        self.with(portal, |waiting| waiting.removed.remove(id));
    }

    /// The room holds more after `last` than was put, of what is shown already, too, when it was cut `early`: what came live
    /// meanwhile comes after that.
    pub(super) fn cut(&self, portal: &PortalKey, last: &MessageId, early: bool) {
        self.with(portal, |waiting| {
            waiting.queue.retain(|(_, id), _| id <= last);
            waiting.more = true;
            waiting.changed |= early;
        });
    }

    /// Whether to page in now, and how: it was asked for, or there is more and nothing goes before it.
    pub(super) fn take_stale(&self, portal: &PortalKey) -> Option<Look> {
        self.with(portal, |waiting| {
            let more = waiting.more && waiting.queue.is_empty();
            if !waiting.stale && !more {
                return None;
            }
            let changes = waiting.stale || waiting.changed;
            (waiting.stale, waiting.more, waiting.changed) = (false, false, false);
            Some(if changes { Look::Back } else { Look::On })
        })
    }

    /// The messages that wait, in no order.
    pub(super) fn queued(&self, portal: &PortalKey) -> BTreeSet<MessageId> {
        self.with(portal, |waiting| waiting.queue.keys().map(|(_, id)| id.clone()).collect())
    }

    /// The message to be shown now.
    pub(super) fn first(&self, portal: &PortalKey) -> Option<(Place, Arc<Message>)> {
        self.with(portal, |waiting| {
            let first =
                waiting.queue.first_key_value().map(|(place, m)| (place.clone(), m.clone()));
            waiting.trying = first.as_ref().map(|(place, _)| place.clone());
            first
        })
    }

    /// Showing a message has failed: it may be in the room or not.
    pub(super) fn failed(&self, portal: &PortalKey, now: Millis) {
        self.with(portal, |waiting| {
            if waiting.trying.is_some() {
                waiting.failing.get_or_insert(now);
            }
        });
    }

    /// What is to be shown first is in the room, sent by an earlier run: for now, sending it again is no second message.
    pub(super) fn is_there(&self, portal: &PortalKey, now: Millis) {
        self.with(portal, |waiting| *waiting.failing.get_or_insert(now));
    }

    /// What was sent first so `long` ago may be in the room, and the homeserver knows it no more: look before it is sent again.
    pub(super) fn look_again(&self, portal: &PortalKey, now: Millis, long: Duration) {
        self.with(portal, |waiting| {
            if waiting.failing.is_some_and(|since| now.since(since) > long) {
                (waiting.failing, waiting.linked) = (Some(now), None);
                waiting.stale = true;
            }
        });
    }

    /// Takes out what was shown; a newer version that came meanwhile stays.
    pub(super) fn remove(&self, portal: &PortalKey, place: &Place, shown: &Arc<Message>) {
        self.with(portal, |waiting| {
            (waiting.trying, waiting.failing) = (None, None);
            if waiting.queue.get(place).is_some_and(|queued| Arc::ptr_eq(queued, shown)) {
                waiting.queue.remove(place);
            }
        });
    }

    pub(super) fn forget(&self, portal: &PortalKey) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gone) = inner.each.remove(portal) {
            inner.messages -= gone.queue.len();
            inner.removed -= gone.removed.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_user_id;
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn many_lanes_together_hold_a_bounded_number_of_messages() {
        let inbox = Inbox::default();
        let portal = |n: usize| {
            PortalKey::new(
                owned_user_id!("@alice:hs"),
                format!("5f00000000000000000{n:05x}").parse().expect("a room's id"),
            )
        };
        let message = |n: usize| {
            let id = format!("5f00000000000000000{n:05x}");
            let sent = "2020-01-01T00:00:00.000Z";
            let json = json!({"id": id, "text": "hi", "sent": sent, "v": 1});
            Arc::new(from_value::<Message>(json).expect("a message"))
        };
        for lane in 0..200 {
            for n in 0..QUEUE {
                inbox.put(&portal(lane), message(n));
            }
        }
        let held = || inbox.0.lock().expect("not poisoned").messages;
        assert!((ALL..=ALL + 200).contains(&held()), "{}", held());
        // What found no room is paged in once the lane has shown the rest.
        let (place, shown) = inbox.first(&portal(199)).expect("each lane has at least one");
        assert!(inbox.take_stale(&portal(199)).is_none());
        inbox.remove(&portal(199), &place, &shown);
        assert!(inbox.take_stale(&portal(199)).is_some());
        for lane in 0..200 {
            inbox.forget(&portal(lane));
        }
        assert_eq!(held(), 0);
    }

    #[test]
    fn many_lanes_together_hold_a_bounded_number_of_deletions_and_look_for_the_others_later() {
        let inbox = Inbox::default();
        let room = |n: usize| format!("5f00000000000000000{n:05x}").parse().expect("a room's id");
        let portal = |n: usize| PortalKey::new(owned_user_id!("@alice:hs"), room(n));
        let message = |n: usize| format!("5f00000000000000000{n:05x}").parse().expect("an id");
        let held = || inbox.0.lock().expect("not poisoned").removed;
        let looks = |n: usize| inbox.with(&portal(n), |waiting| waiting.more_removed);
        for n in 0..=REMOVED {
            assert!(!looks(0), "all of {n} are known");
            inbox.put_removed(&portal(0), message(n));
            inbox.put_removed(&portal(0), message(0));
        }
        assert_eq!(held(), REMOVED);
        assert_eq!(inbox.first_removed(&portal(0)), Some((message(0), None)), "none had to go");
        let lanes = ALL_REMOVED / REMOVED;
        for lane in 1..=lanes {
            for n in 0..REMOVED {
                inbox.put_removed(&portal(lane), message(n));
            }
        }
        assert_eq!(held(), ALL_REMOVED);
        assert!(looks(0) && looks(lanes) && !looks(1));
        assert_eq!(inbox.take_stale(&portal(lanes)), None, "what is known goes first");
        inbox.removed(&portal(1), &message(0));
        inbox.put_removed(&portal(lanes), message(0));
        assert_eq!(inbox.first_removed(&portal(lanes)), Some((message(0), None)));
        for lane in 0..=lanes {
            inbox.forget(&portal(lane));
        }
        assert_eq!(held(), 0);
    }

    #[test]
    fn what_changed_is_kept_or_looked_for_when_it_finds_no_room() {
        let portal = PortalKey::new(
            owned_user_id!("@alice:hs"),
            "5f000000000000000000b001".parse().expect("a room's id"),
        );
        let id = |n: usize| format!("5f00000000000000000{n:05x}");
        let message = |n: usize, text: &str, v: u64, edited: bool| {
            let sent = "2020-01-01T00:00:00.000Z";
            let mut json = json!({"id": id(n), "text": text, "sent": sent, "v": v});
            if edited {
                json["editedAt"] = "2020-01-01T00:05:00.000Z".into();
            }
            Arc::new(from_value::<Message>(json).expect("a message"))
        };
        let full = || {
            let inbox = Inbox::default();
            for n in 0..QUEUE {
                inbox.put(&portal, message(n, "hi", 1, false));
            }
            inbox
        };
        let look = |inbox: &Inbox| {
            while let Some((place, shown)) = inbox.first(&portal) {
                inbox.remove(&portal, &place, &shown);
            }
            inbox.take_stale(&portal)
        };
        let taken_back =
            |inbox: &Inbox| inbox.first_removed(&portal).map(|(id, v)| (id.as_str().to_owned(), v));
        for (name, n, text, edited, looks, takes_back) in [
            ("new", QUEUE, "hi", false, Look::On, None),
            ("edited", QUEUE, "ho", true, Look::Back, None),
            ("emptied", QUEUE, "", false, Look::On, Some((id(QUEUE), Some(2)))),
            ("emptied by an edit", QUEUE, "", true, Look::Back, Some((id(QUEUE), Some(2)))),
        ] {
            let inbox = full();
            inbox.put(&portal, message(n, text, 2, edited));
            assert_eq!(look(&inbox), Some(looks), "row: {name}");
            assert_eq!(taken_back(&inbox), takes_back, "row: {name}");
            // The same once the room is known to hold more.
            let inbox = full();
            inbox.put(&portal, message(QUEUE + 1, "hi", 1, false));
            inbox.put(&portal, message(n, text, 2, edited));
            assert_eq!(look(&inbox), Some(looks), "row: {name}, later");
            assert_eq!(taken_back(&inbox), takes_back, "row: {name}, later");
        }

        let inbox = full();
        inbox.put(&portal, message(QUEUE, "", 3, true));
        inbox.put(&portal, message(QUEUE, "hi", 2, false));
        assert_eq!(taken_back(&inbox), Some((id(QUEUE), Some(3))), "that was before");
        inbox.put(&portal, message(QUEUE, "ho", 4, true));
        assert_eq!(taken_back(&inbox), None, "it has words again");
        inbox.put(&portal, message(QUEUE, "", 5, true));
        inbox.put_removed(&portal, id(QUEUE).parse().expect("an id"));
        inbox.put(&portal, message(QUEUE, "", 6, false));
        assert_eq!(taken_back(&inbox), Some((id(QUEUE), None)), "it is gone for good");
    }

    #[test]
    fn what_an_earlier_run_has_shown_is_looked_for_again_before_the_homeserver_forgets_it() {
        let portal = PortalKey::new(
            owned_user_id!("@alice:hs"),
            "5f000000000000000000b001".parse().expect("a room's id"),
        );
        let inbox = Inbox::default();
        inbox.is_there(&portal, Millis(0));
        let hour = Duration::from_secs(3600);
        inbox.look_again(&portal, Millis(1_000), hour);
        assert_eq!(inbox.take_stale(&portal), None, "it is sent now");
        inbox.look_again(&portal, Millis(7_200_000), hour);
        assert_eq!(inbox.take_stale(&portal), Some(Look::Back));
    }

    #[test]
    fn an_edit_that_comes_while_its_message_is_being_sent_is_not_lost() {
        let portal = PortalKey::new(
            owned_user_id!("@alice:hs"),
            "5f000000000000000000b001".parse().expect("a room's id"),
        );
        let version = |v: u64| {
            let id = "5f000000000000000000c001";
            let sent = "2020-01-01T00:00:00.000Z";
            let json = json!({"id": id, "text": format!("version {v}"), "sent": sent, "v": v});
            Arc::new(from_value::<Message>(json).expect("a message"))
        };
        let inbox = Inbox::default();
        inbox.put(&portal, version(1));
        let (place, sending) = inbox.first(&portal).expect("it waits");
        inbox.put(&portal, version(2));
        inbox.remove(&portal, &place, &sending);
        let (place, waiting) = inbox.first(&portal).expect("the edit waits");
        assert_eq!(waiting.text, "version 2");
        inbox.remove(&portal, &place, &waiting);
        assert!(inbox.first(&portal).is_none(), "all is shown");
    }
}
