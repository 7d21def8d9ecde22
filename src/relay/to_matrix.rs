//! Gitter → Matrix: the messages of a portal's Gitter room, in order, each once.
//!
//! Live messages only fill the lane's queue; what says whether a message was carried over is its link, and how far the portal
//! has come is its cursor. After a start, a reconnect or a gap, the lane pages in what it missed before it goes on.

mod catch_up;
mod inbox;
mod pictures;
pub(crate) mod relearn;
mod show;

use std::{sync::Arc, time::Duration};

use reconcile::{
    breaker::{Away, Side},
    driver::Key,
    model::{Cursor, Link, MessageId, Portal, PortalKey, digest},
    port::{ActionError, Clock as _},
    queue::Class,
};
use ruma::OwnedRoomId;
use store::StoreError;

pub use self::inbox::Inbox;
use super::{
    Relay, Turn,
    to_gitter::{GONE, SHUT_OUT},
};
use crate::{
    gitter::{GitterError, Message},
    matrix::MatrixError,
    metrics::{Direction, MessageOutcome},
    telemetry::Chain,
};

/// A failure on the way to Matrix.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Gitter(#[from] GitterError),
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody can speak in the room any more; what is to be said is said in the next one.
    #[error("the room is gone or was replaced: the portal is still to follow")]
    Replaced,
}

/// Homeservers know transaction ids for a day.
pub(super) const FORGETS: Duration = Duration::from_secs(12 * 3600);
/// How soon to look again whether a portal has followed.
const FOLLOWS: Duration = Duration::from_secs(1);

/// What became of the first message of a lane.
enum Step {
    /// It is done with.
    Done,
    /// It waits for the end of a send the other way: it may be that send's echo.
    EchoPending,
    /// The portal is being closed.
    Closed,
}

struct Lane {
    key: PortalKey,
    room: OwnedRoomId,
    portal: Portal,
    cursor: Option<Cursor>,
    /// What was carried before has to be learned first.
    relearns: bool,
}

impl Relay {
    /// A live message of the portal's Gitter room.
    pub fn receive(&self, portal: &PortalKey, message: Arc<Message>) {
        self.0.inbox.put(portal, message);
        self.poke_inward(portal.clone());
    }

    /// A message of the portal's Gitter room was deleted.
    pub fn receive_removal(&self, portal: &PortalKey, message: MessageId) {
        // Then it was there.
        self.0.unconfirmed.seen(portal, &message);
        self.0.inbox.put_removed(portal, message);
        self.poke_inward(portal.clone());
    }

    /// Something of the portal's Gitter room may have been missed.
    pub fn catch_up(&self, portal: &PortalKey) {
        self.0.inbox.with(portal, |waiting| waiting.stale = true);
        self.poke_inward(portal.clone());
    }

    /// The portal's lane may go on.
    pub fn poke_inward(&self, portal: PortalKey) {
        let relay = self.clone();
        self.0.inward.poke(
            portal,
            || self.0.bridge.dice(),
            move |portal| {
                let relay = relay.clone();
                async move { relay.turn_inward(&portal).await }
            },
        );
    }

    async fn turn_inward(&self, key: &PortalKey) -> Turn {
        loop {
            let error = match self.work_inward(key).await {
                Ok(turn) => return turn,
                Err(error) => error,
            };
            self.0.inbox.failed(key, self.0.bridge.clock.now());
            if let Some(side) = Away::among(&error) {
                self.there(side, Class::Soon).await;
                continue;
            }
            let wait = match &error {
                Failed::Gitter(GitterError::Limited { retry_after }) => Some(*retry_after),
                Failed::Matrix(error) => error.retry_after(),
                Failed::Action(error) => error.retry_after(),
                Failed::Replaced => Some(FOLLOWS),
                Failed::Gitter(_) | Failed::Store(_) => None,
            };
            tracing::warn!(portal = %key, error = %Chain(&error), "messages from gitter wait");
            self.0.metrics.message(Direction::ToMatrix, MessageOutcome::Delayed);
            return Turn::Later(wait);
        }
    }

    async fn work_inward(&self, key: &PortalKey) -> Result<Turn, Failed> {
        let Some(lane) = self.lane(key).await? else {
            self.0.inbox.forget(key);
            return Ok(Turn::Idle);
        };
        if lane.portal.missing_since.is_some() {
            // Gone or upgraded: what is to be said waits for the room that comes after.
            return Err(Failed::Replaced);
        }
        self.0.inbox.with(key, |waiting| {
            // Nobody announces what was said before a portal was opened, or opened again, or while no bridge ran.
            let opened = waiting.opened.replace(lane.portal.open.generation);
            let unread = opened != waiting.opened || lane.cursor.is_none() || lane.relearns;
            waiting.stale |= unread;
        });
        loop {
            self.there(Side::Homeserver, Class::Soon).await;
            self.0.inbox.look_again(key, self.0.bridge.clock.now(), FORGETS);
            // Before each message: what was missed goes before what came since.
            if let Some(look) = self.0.inbox.take_stale(key) {
                // Before the room is looked at, which may have to wait for a login to be followed where it was upgraded to.
                let Some(caller) = self.0.gitter.caller(&key.account).await? else {
                    self.0.inbox.with(key, |waiting| waiting.stale = true);
                    // The next login wakes this lane.
                    return Ok(Turn::Blocked);
                };
                let paged = match self.unless_replaced(&lane).await {
                    Ok(()) => self.page_in(&lane, &caller, look).await,
                    Err(error) => Err(error),
                };
                match paged {
                    Err(Failed::Gitter(error)) if !self.may_read(key, &error).await? => {
                        let why = match error {
                            GitterError::Forbidden => Some(SHUT_OUT),
                            GitterError::NotFound => Some(GONE),
                            _ => None,
                        };
                        if let Some(why) = why.filter(|_| lane.relearns) {
                            self.give_up_unlearned(key, why).await?;
                        }
                        self.0.inbox.forget(key);
                        // Should it be allowed after all, the next message begins with what was missed.
                        self.0.inbox.with(key, |waiting| waiting.stale = true);
                        return Ok(Turn::Idle);
                    }
                    Err(error) => {
                        self.0.inbox.with(key, |waiting| waiting.stale = true);
                        return Err(error);
                    }
                    Ok(()) => {}
                }
                continue;
            }
            if let Some((place, message)) = self.0.inbox.first(key) {
                match self.show(&lane, &message).await? {
                    Step::Done => self.0.inbox.remove(key, &place, &message),
                    // The lane of the other direction pokes this one when it knows.
                    Step::EchoPending => return Ok(Turn::Blocked),
                    Step::Closed => {
                        self.0.inbox.forget(key);
                        return Ok(Turn::Idle);
                    }
                }
                continue;
            }
            let Some((id, emptied)) = self.0.inbox.first_removed(key) else {
                let more = self.0.inbox.with(key, |waiting| {
                    let more = std::mem::take(&mut waiting.more_removed);
                    waiting.stale |= more;
                    more
                });
                if more {
                    continue;
                }
                self.history_shown(&lane).await?;
                return Ok(Turn::Idle);
            };
            self.redact(&lane, &id, emptied).await?;
            self.0.inbox.removed(key, &id);
        }
    }

    /// The lane's rows; `None` when the portal has no room or is closed.
    async fn lane(&self, key: &PortalKey) -> Result<Option<Lane>, StoreError> {
        let id = key.clone();
        let read = self
            .0
            .db
            .look(move |t| Ok((t.portal(&id)?, t.cursor(&id)?, t.relearn_since(&id)?.is_some())));
        let (portal, cursor, relearns) = read.await?;
        let Some(portal) = portal.filter(|portal| portal.open.desired) else { return Ok(None) };
        let Some(room) = portal.place.room().cloned() else { return Ok(None) };
        Ok(Some(Lane { key: key.clone(), room, portal, cursor, relearns }))
    }

    /// Whether the lane's room is still its portal's.
    async fn still_there(&self, lane: &Lane) -> Result<bool, StoreError> {
        Ok(self.lane(&lane.key).await?.is_some_and(|now| now.room == lane.room))
    }

    /// What a refusal to read means; false when there is nothing to wait for here.
    async fn may_read(&self, key: &PortalKey, error: &GitterError) -> Result<bool, StoreError> {
        match error {
            GitterError::TokenRejected => {
                if let Some(caller) = self.0.gitter.caller(&key.account).await? {
                    self.0.bridge.token_rejected(&key.account, caller.generation).await?;
                }
                Ok(false)
            }
            GitterError::Forbidden | GitterError::NotFound => {
                self.0.bridge.hint(Key::Account(key.account.clone()), Class::Soon);
                Ok(false)
            }
            _ => Ok(true),
        }
    }
}

/// Whether a message is not in the portal as it is now. An update may be a mere counter, and an edit may change nothing: the
/// text tells. A deleted message that has replies stays, empty and without an edit: if it was never here, it need not be.
fn differs(link: Option<&Link>, message: &Message) -> bool {
    let blank = message.text.is_empty();
    let Some(link) = link else { return !blank };
    if link.gone {
        // What was deleted stays so; what was emptied may have got words again, since.
        let emptied = link.digest == digest("");
        return emptied && !blank && message.v.is_none_or(|version| version > link.version);
    }
    let touched = message.edited_at.is_some() || blank;
    touched && link.digest != digest(&message.text)
}
