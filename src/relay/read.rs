//! What the account reads on Matrix is marked read on Gitter: its public receipts only, gathered for a moment. What does not
//! work yet is tried again, until a newer receipt takes its place; a restart forgets it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reconcile::{
    breaker::Side,
    model::{Link, MessageId, PortalKey},
    queue::Class,
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::Value;

use super::{Relay, Turn};
use crate::{
    gitter::GitterError,
    matrix::{As, MatrixError},
    telemetry::Chain,
};

/// People scroll: so long is waited for the last receipt of a portal.
const SETTLE: Duration = Duration::from_secs(2);
/// Ids sent in one call.
const BATCH: usize = 100;

/// Events of a page in which a message is looked for that comes before an event.
const EVENTS: u16 = 50;
/// Pages that are looked through: what is read is near the end of a room.
const PAGES: usize = 3;
/// Receipts of so many threads of a portal wait; of more, the last ones.
const THREADS: usize = 50;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The last event read, per portal and thread, that Gitter was not told of yet.
#[derive(Debug, Default)]
pub struct Receipts(Mutex<BTreeMap<PortalKey, BTreeMap<Thread, OwnedEventId>>>);

/// What a receipt covers: <https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts>.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thread {
    /// Everything, in threads or not.
    All,
    /// What is in no thread.
    Main,
    /// The thread that begins with this event.
    Of(OwnedEventId),
}

/// A [`Thread`] as it is on Gitter.
enum Cover {
    All,
    Main,
    /// What answers one of these, the parts of one event.
    Below(Vec<MessageId>),
}

impl Cover {
    fn holds(&self, parent: Option<&MessageId>) -> bool {
        match self {
            Self::All => true,
            Self::Main => parent.is_none(),
            Self::Below(roots) => parent.is_some_and(|parent| roots.contains(parent)),
        }
    }
}

/// A receipt: who has read up to which event of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The room.
    pub room: OwnedRoomId,
    /// Who read.
    pub user: OwnedUserId,
    /// The last event they saw.
    pub event: OwnedEventId,
    /// Of what.
    pub thread: Thread,
}

/// The public read receipts among what the homeserver sends beside events; everything else is none of the bridge's business.
#[must_use]
pub fn receipts(ephemeral: &[Value]) -> Vec<Receipt> {
    let mut found = Vec::new();
    for item in ephemeral.iter().filter(|item| item["type"] == "m.receipt") {
        let Some(Ok(room)) = item["room_id"].as_str().map(OwnedRoomId::try_from) else { continue };
        for (event, kinds) in item["content"].as_object().into_iter().flatten() {
            let readers = kinds["m.read"].as_object().into_iter().flatten();
            for (user, receipt) in readers {
                let thread = match receipt["thread_id"].as_str() {
                    None => Thread::All,
                    Some("main") => Thread::Main,
                    Some(root) => match OwnedEventId::try_from(root) {
                        Ok(root) => Thread::Of(root),
                        Err(_) => continue,
                    },
                };
                if let (Ok(event), Ok(user)) =
                    (OwnedEventId::try_from(event.as_str()), OwnedUserId::try_from(user.as_str()))
                {
                    found.push(Receipt { room: room.clone(), user, event, thread });
                }
            }
        }
    }
    found
}

impl Relay {
    /// Takes receipts; only those of a portal's own account count.
    pub async fn note_receipts(&self, receipts: Vec<Receipt>) {
        let read = self.0.db.look(move |t| {
            let mut mine = Vec::new();
            for receipt in receipts {
                let portal = t.portal_at(&receipt.room)?;
                if let Some(portal) = portal.filter(|portal| portal.account == receipt.user) {
                    mine.push((portal, receipt.thread, receipt.event));
                }
            }
            Ok(mine)
        });
        for (portal, thread, event) in read.await.unwrap_or_default() {
            {
                let mut all = self.0.receipts.0.lock().unwrap_or_else(PoisonError::into_inner);
                let waiting = all.entry(portal.clone()).or_default();
                waiting.insert(thread, event);
                if waiting.len() > THREADS {
                    waiting.pop_last();
                }
            }
            let relay = self.clone();
            self.0.reading.poke(
                portal,
                || self.0.bridge.dice(),
                move |portal| {
                    let relay = relay.clone();
                    async move { relay.turn_read(&portal).await }
                },
            );
        }
    }

    async fn turn_read(&self, portal: &PortalKey) -> Turn {
        tokio::time::sleep(SETTLE).await;
        self.there(Side::Gitter, Class::Looks).await;
        let waiting = {
            let mut waiting = self.0.receipts.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.remove(portal).unwrap_or_default()
        };
        if waiting.is_empty() {
            return Turn::Idle;
        }
        let Err(error) = self.mark_read(portal, &waiting).await else { return Turn::Idle };
        tracing::debug!(portal = %portal, error = %Chain(&*error), "gitter not told what was read");
        let home = error.downcast_ref::<MatrixError>().filter(|error| error.is_transient());
        let wait = match (error.downcast_ref::<GitterError>(), home) {
            (Some(GitterError::Limited { retry_after }), _) => Some(*retry_after),
            (Some(GitterError::Unavailable { .. }), _) => None,
            (_, Some(error)) => error.retry_after(),
            // Refused for good, and nobody misses it.
            _ => return Turn::Idle,
        };
        // A newer receipt says all that an older one of the same thread does.
        let mut all = self.0.receipts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = all.entry(portal.clone()).or_default();
        for (thread, event) in waiting {
            newer.entry(thread).or_insert(event);
        }
        Turn::Later(wait)
    }

    async fn mark_read(
        &self,
        portal: &PortalKey,
        receipts: &BTreeMap<Thread, OwnedEventId>,
    ) -> Result<(), Error> {
        let mut covers = Vec::new();
        for (thread, event) in receipts {
            let Some(last) = self.read_up_to(portal, event).await? else { continue };
            let cover = match thread {
                Thread::All => Cover::All,
                Thread::Main => Cover::Main,
                Thread::Of(root) => {
                    let root = self.links(portal, root).await?;
                    Cover::Below(root.into_iter().map(|link| link.message).collect())
                }
            };
            covers.push((last, cover));
        }
        let caller = self.0.gitter.caller(&portal.account).await?;
        let Some(caller) = caller.filter(|_| !covers.is_empty()) else { return Ok(()) };
        let room = portal.room.as_str();
        let unread = caller.account.unread_items(room).await?;
        let key = portal.clone();
        let read = self.0.db.look(move |t| {
            let mut read = Vec::new();
            for id in unread.chat {
                let Ok(message) = id.parse::<MessageId>() else { continue };
                let parent = t.link_of_message(&key, &message)?.and_then(|link| link.parent);
                let is_read = |(last, cover): &(MessageId, Cover)| {
                    message <= *last && cover.holds(parent.as_ref())
                };
                if covers.iter().any(is_read) {
                    read.push(id);
                }
            }
            Ok(read)
        });
        for ids in read.await?.chunks(BATCH) {
            caller.account.mark_read(room, ids).await?;
        }
        Ok(())
    }

    /// The last message that is at or before an event, which may be none itself: somebody's coming, or a word of the bot.
    async fn read_up_to(
        &self,
        portal: &PortalKey,
        event: &EventId,
    ) -> Result<Option<MessageId>, Error> {
        let newest = |links: Vec<Link>| links.into_iter().map(|link| link.message).max();
        if let Some(message) = newest(self.links(portal, event).await?) {
            return Ok(Some(message));
        }
        let key = portal.clone();
        let row = self.0.db.look(move |t| t.portal(&key)).await?;
        let Some(room) = row.and_then(|row| row.place.room().cloned()) else { return Ok(None) };
        let (mut from, mut passed) = (None, false);
        for _ in 0..PAGES {
            let client = self.0.home.client();
            let page = client.messages(As::Bot, &room, EVENTS, from.as_deref()).await?;
            for id in page.chunk.iter().filter_map(|event| event["event_id"].as_str()) {
                passed |= id == event;
                if passed
                    && let Ok(id) = OwnedEventId::try_from(id)
                    && let Some(message) = newest(self.links(portal, &id).await?)
                {
                    return Ok(Some(message));
                }
            }
            from = page.end;
            if from.is_none() {
                break;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_public_receipts_are_taken_and_nonsense_is_passed_over() {
        let ephemeral = [
            json!({"type": "m.typing", "room_id": "!r:hs", "content": {"user_ids": ["@a:hs"]}}),
            json!({"type": "m.receipt", "room_id": "!r:hs", "content": {
                "$e": {"m.read": {"@a:hs": {"ts": 1}, "no user": {}}, "m.read.private": {"@b:hs": {}}},
                "$f": {"m.read": {"@a:hs": {"thread_id": "main"}, "@b:hs": {"thread_id": "what"}}},
                "$g": {"m.read": {"@a:hs": {"thread_id": "$e"}}},
                "no event": {"m.read": {"@a:hs": {}}},
            }}),
            json!({"type": "m.receipt", "content": {"$e": {"m.read": {"@a:hs": {}}}}}),
            json!({"type": "m.receipt", "room_id": "!r:hs", "content": ["what"]}),
            json!(3),
        ];
        let found = receipts(&ephemeral);
        let found: Vec<_> =
            found.iter().map(|r| (r.user.as_str(), r.event.as_str(), r.thread.clone())).collect();
        let root = OwnedEventId::try_from("$e").expect("an id");
        let expected = [("$e", Thread::All), ("$f", Thread::Main), ("$g", Thread::Of(root))];
        assert_eq!(found, expected.map(|(event, thread)| ("@a:hs", event, thread)));
    }
}
