//! Rooms that were upgraded: followed into the room that replaces them, when that is right.
//!
//! # Guarantees
//!
//! - A portal is in one room at any time: it moves in one write, after the new room says what it is
//!   (`killed_within_an_upgrade_the_portal_is_in_one_room`).
//! - The old room is emptied by ghosts and bot; the account keeps it, with what was said there.

use std::time::Duration;

use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use super::{After, Driver, Key, lock, tell};
use crate::{
    driver::portal::Facts,
    model::{Chat, ChatStage, Control, Millis, Place, Portal, PortalKey, Target, Told},
    plan::{INVITED_WITHIN_MS, Successor, judge, ruled_out},
    port::{
        ActionError, Clock, Gitter, Matrix, NewRoom, Presence, Rows, State, TableError, Tables,
        Tombstone, Who,
    },
    queue::Class,
};

/// How soon to look again whether the last words in a room have been said.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

impl<M: Matrix + Clone + 'static, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    /// Where a room with a tombstone goes on; the bot tries to come in there. What it replaces is this portal's, or a control room.
    pub(super) async fn successor(
        &self,
        room: &RoomId,
        tombstone: &Tombstone,
        portal: Option<&PortalKey>,
    ) -> Result<Successor, ActionError> {
        let is_portal = portal.is_some();
        let taken = match tombstone.replacement.clone() {
            Some(next) => self.state.read(move |t| is_taken(t, &next)).await?,
            None => return Ok(judge(room, tombstone, false, None, is_portal)),
        };
        let Some(next) = tombstone.replacement.as_ref() else { return Ok(Successor::Shut) };
        if ruled_out(room, tombstone, taken).is_some() {
            return Ok(judge(room, tombstone, taken, None, is_portal));
        }
        if let Some(key) = portal {
            self.note_successor(key, next).await?;
        }
        // Where the bot is already it need not come in: a portal may have to wait for its account's login before it can follow.
        let mut origin = self.matrix.origin(next).await?;
        if origin.is_none() {
            match self.homeserver(self.matrix.enter(next, Who::Bot)).await {
                Err(ActionError::Refused { .. }) => return Ok(Successor::Shut),
                other => other?,
            }
            origin = self.matrix.origin(next).await?;
        }
        let successor = judge(room, tombstone, false, origin.as_ref(), is_portal);
        if let Successor::Unfit(why) = &successor {
            tracing::warn!(room = %room, why = ?why, "a tombstone that is not followed");
        }
        Ok(successor)
    }

    async fn note_successor(&self, key: &PortalKey, next: &OwnedRoomId) -> Result<(), ActionError> {
        let (id, at) = (key.clone(), next.clone());
        let noted = self.state.read(move |t| {
            Ok(t.portal(&id)?.is_none_or(|portal| portal.successor.as_ref() == Some(&at)))
        });
        if noted.await? {
            return Ok(());
        }
        let next = next.clone();
        self.change(key, move |_, _, portal, _| {
            portal.successor = Some(next.clone());
            Ok(())
        })
        .await
    }

    /// The portal moves: the new room is told what it is, then the row, then everything else follows from the row.
    pub(super) async fn follow(
        &self,
        key: &PortalKey,
        facts: &Facts,
        next: OwnedRoomId,
    ) -> Result<(), ActionError> {
        let Some(old) = facts.portal.place.room().cloned() else { return Ok(()) };
        let Some(shows) = facts.shows.clone() else {
            self.hint(Key::Account(key.account.clone()), Class::Soon);
            return Ok(());
        };
        self.heed(self.matrix.mark(&next, &NewRoom::Portal { key: key.clone(), shows })).await?;
        lock(&self.markers).remove(&next);
        let from = old.clone();
        self.change(key, move |t, id, portal, now| {
            if portal.place.room() != Some(&from) || is_taken(t, &next)? {
                return Ok(());
            }
            part_from_room(portal, Place::At(next.clone()));
            t.remove_chat(&next)?;
            empty(t, &from, &id.account, now)
        })
        .await?;
        tracing::info!(portal = %key, "portal followed its room's upgrade");
        self.hint(Key::Portal(key.clone()), Class::Waiting);
        self.hint(Key::Chat(old), Class::Members);
        self.hint(Key::Populate(key.clone()), Class::Members);
        Ok(())
    }

    /// A control room was upgraded: it goes on there, or the bot opens another.
    pub(super) async fn follow_control(
        &self,
        room: &RoomId,
        chat: &Chat,
        tombstone: &Tombstone,
    ) -> Result<After, ActionError> {
        let account = chat.account.clone();
        let waited = self.passed(tombstone.since) >= Duration::from_millis(INVITED_WITHIN_MS);
        let next = match self.successor(room, tombstone, None).await? {
            // The invite brings the bot in, and makes the room the control room.
            Successor::Shut if !waited => return Ok(After::In(self.limits.gone_apart)),
            Successor::Shut | Successor::Unfit(_) => None,
            Successor::Fit(next) => {
                let is = NewRoom::Control(account.clone());
                match self.homeserver(self.matrix.mark(&next, &is)).await {
                    // Without the power to: the room is known by its row alone, as those are that people make.
                    Ok(()) | Err(ActionError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
                lock(&self.markers).remove(&next);
                let due = self.matrix.presence(&next, &account).await? == Presence::Out;
                Some((next, due))
            }
        };
        let (old, now, seen) = (room.to_owned(), self.clock.now(), chat.clone());
        let moved = next.clone();
        self.state
            .write(move |t| {
                let mut row = t.account(&seen.account)?.unwrap_or_default();
                if t.chat(&old)?.as_ref() != Some(&seen) || row.control_room() != Some(&old) {
                    return Ok(());
                }
                if let Some((next, _)) = &moved
                    && is_taken(t, next)?
                {
                    return Ok(());
                }
                if let Some((next, due)) = &moved {
                    let stage = ChatStage::Control;
                    t.put_chat(next, &Chat { stage, invite_due: *due, ..seen.clone() })?;
                    row.control = Control::At(next.clone());
                } else {
                    tell(t, &seen.account, Told::Welcome, now)?;
                    row.control = Control::Opening { since: now.into(), attempted: false };
                }
                t.put_account(&seen.account, &row)?;
                empty(t, &old, &seen.account, now)
            })
            .await?;
        self.bells.words.notify_one();
        match next {
            Some((next, _)) => self.hint(Key::Chat(next), Class::Waiting),
            None => self.hint(Key::Account(account), Class::Waiting),
        }
        Ok(After::Again)
    }

    /// Whether a room that the bot was just invited to is no chat but follows a portal; then that portal's pass takes it, or
    /// nobody.
    pub(super) async fn follows_portal(
        &self,
        room: &RoomId,
    ) -> Result<Option<ChatStage>, ActionError> {
        let id = room.to_owned();
        if self.state.read(move |t| Ok(t.portal_at(&id)?.is_some())).await? {
            return Ok(Some(ChatStage::Former));
        }
        let origin = self.matrix.origin(room).await?;
        let Some((before, _)) = origin.and_then(|origin| origin.predecessor) else {
            return Ok(None);
        };
        let old = before.clone();
        let known = self.state.read(move |t| {
            let mut moved = false;
            if let Some(chat) = t.chat(&old)? {
                let portals = t.portals_of(&chat.account)?;
                moved = portals.iter().any(|(_, portal)| portal.before.as_ref() == Some(&old));
            }
            Ok((t.portal_at(&old)?, moved))
        });
        let (portal, moved) = known.await?;
        if let Some(portal) = portal {
            let tombstone = self.matrix.tombstone(&before).await?;
            if tombstone.is_some_and(|end| end.replacement.as_deref() == Some(room)) {
                self.hint(Key::Portal(portal), Class::Waiting);
                return Ok(Some(ChatStage::Former));
            }
            return Ok(Some(ChatStage::Leaving));
        }
        // Too late: what was there has gone on elsewhere.
        Ok(moved.then_some(ChatStage::Leaving))
    }

    /// A room that is being left may have a tombstone that brought the bot into another: it has no business there either.
    pub(super) async fn leave_next(
        &self,
        room: &RoomId,
        account: &OwnedUserId,
    ) -> Result<(), ActionError> {
        let tombstone = self.matrix.tombstone(room).await?;
        let Some(next) = tombstone.and_then(|end| end.replacement) else { return Ok(()) };
        let at = next.clone();
        if self.state.read(move |t| is_taken(t, &at)).await?
            || self.matrix.origin(&next).await?.is_none()
        {
            return Ok(());
        }
        self.shun_next(next, account).await
    }

    /// The bot has no business in a room that it only came into to look at it.
    async fn shun_next(&self, next: OwnedRoomId, account: &OwnedUserId) -> Result<(), ActionError> {
        let (left, now, account) = (next.clone(), self.clock.now(), account.clone());
        if self.state.write(move |t| shun(t, &left, &account, now)).await? {
            self.hint(Key::Chat(next), Class::Members);
        }
        Ok(())
    }

    /// A room that was replaced, or from which the bot was put out: once the last words in it are said, the ghosts leave, and then
    /// the bot.
    pub(super) async fn empty_chat(
        &self,
        room: &RoomId,
        chat: &Chat,
    ) -> Result<After, ActionError> {
        let target = Target::Room(room.to_owned());
        if self.state.read(move |t| t.has_notices(&target)).await? {
            return Ok(After::In(LAST_WORDS));
        }
        let ghosts: Vec<_> = if let Some(members) = self.matrix.members(room).await? {
            members.into_iter().filter(|member| self.matrix.is_ghost(member)).collect()
        } else {
            // The bot is out of it; ghosts can still leave by themselves.
            let id = room.to_owned();
            self.state.read(move |t| t.inside(&id)).await?
        };
        if ghosts.is_empty() {
            match self.homeserver(self.matrix.hush(room)).await {
                // Without the power to, what is said there is said to nobody.
                Ok(()) | Err(ActionError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
            let rest = Chat { stage: ChatStage::Former, ..chat.clone() };
            return self.leave_chat(room, chat, Some(rest)).await;
        }
        for ghost in ghosts {
            self.limiter.take().await;
            self.take_out(room, ghost).await?;
        }
        // The bot leaves when the next look finds no ghost: one may have come in meanwhile.
        Ok(After::Again)
    }
}

/// Whether a room is known as something else than one the bot was just invited to.
fn is_taken(t: &(impl Rows + ?Sized), room: &RoomId) -> Result<bool, TableError> {
    let invited = |chat: Chat| chat.stage == ChatStage::Invited;
    Ok(t.portal_at(room)?.is_some() || !t.chat(room)?.is_none_or(invited))
}

/// The bot is to leave a room, if it isn't known as something else.
pub(super) fn shun(
    t: &mut dyn Tables,
    room: &RoomId,
    account: &OwnedUserId,
    now: Millis,
) -> Result<bool, TableError> {
    if is_taken(t, room)? {
        return Ok(false);
    }
    t.put_chat(room, &Chat::new(account.clone(), ChatStage::Leaving, now))?;
    Ok(true)
}

/// The portal is in another room from now on, or in none; nobody is known to be there. Returns the old room.
pub(super) fn part_from_room(portal: &mut Portal, place: Place) -> Option<OwnedRoomId> {
    let old = portal.place.room().cloned();
    portal.place = place;
    portal.before.clone_from(&old);
    portal.successor = None;
    portal.shown = None;
    portal.missing_since = None;
    portal.joined = false;
    portal.open.last = Some(false);
    old
}

/// The room is none of the portal's any more: ghosts and bot are to leave it.
pub(super) fn empty(
    t: &mut dyn Tables,
    room: &RoomId,
    account: &OwnedUserId,
    now: Millis,
) -> Result<(), TableError> {
    t.put_chat(room, &Chat::new(account.clone(), ChatStage::Emptying, now))
}
