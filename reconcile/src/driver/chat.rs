//! A pass over one room of the bot that is no portal: an invite, a control room, a room to be left.

use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use super::{After, Driver, Key, tell, upgrade::LAST_WORDS};
use crate::{
    model::{Chat, ChatStage, Control, Millis, Notice, Say, Target, Told},
    port::{ActionError, Clock, Gitter, Matrix, NewRoom, Presence, State, TableError, Tables, Who},
    queue::Class,
};

impl<M: Matrix + Clone + 'static, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    pub(super) async fn pass_chat(&self, room: &RoomId) -> Result<After, ActionError> {
        let id = room.to_owned();
        let Some(chat) = self.state.read(move |t| t.chat(&id)).await? else {
            return Ok(After::Done);
        };
        match chat.stage {
            ChatStage::Invited => self.enter_chat(room, chat).await,
            ChatStage::Control => self.keep_control(room, chat).await,
            ChatStage::Shunned => {
                let target = Target::Room(room.to_owned());
                if self.state.read(move |t| t.has_notices(&target)).await? {
                    return Ok(After::In(LAST_WORDS));
                }
                self.leave_chat(
                    room,
                    &chat,
                    Some(Chat { stage: ChatStage::Avoided, ..chat.clone() }),
                )
                .await
            }
            ChatStage::Leaving => self.leave_chat(room, &chat, None).await,
            ChatStage::Emptying => self.empty_chat(room, &chat).await,
            ChatStage::Avoided | ChatStage::Former => Ok(After::Done),
        }
    }

    async fn enter_chat(&self, room: &RoomId, chat: Chat) -> Result<After, ActionError> {
        match self.homeserver(self.matrix.enter(room, Who::Bot)).await {
            Err(ActionError::Refused { source, .. }) => {
                tracing::info!(room = %room, error = %source, "the invite is no longer good");
                return self.write_chat(room, &chat, None).await;
            }
            other => other?,
        }
        if let Some(stage) = self.follows_portal(room).await? {
            let rest = (stage != ChatStage::Former).then(|| Chat { stage, ..chat.clone() });
            return self.write_chat(room, &chat, rest).await;
        }
        let people = self.people_in(room).await?.unwrap_or_default();
        if people.is_empty() {
            return self
                .write_chat(room, &chat, Some(Chat { stage: ChatStage::Leaving, ..chat.clone() }))
                .await;
        }
        if people.len() > 1 {
            return self.shun(room, chat, Told::TooManyPeople).await;
        }
        let account = people.into_iter().next().unwrap_or_else(|| chat.account.clone());
        let chat = Chat { account, ..chat };
        if chat.encrypted {
            return self.shun(room, chat, Told::EncryptedHere).await;
        }
        self.become_control(room, chat).await
    }

    /// The room becomes the account's control room; the previous one is left.
    async fn become_control(&self, room: &RoomId, chat: Chat) -> Result<After, ActionError> {
        let (id, now) = (room.to_owned(), self.clock.now());
        let owner = chat.account.clone();
        let before = self.state.read(move |t| t.account(&owner)).await?.unwrap_or_default().control;
        let orphans = self.settle_opening(&chat.account, &before).await?;
        let previous = self
            .state
            .write(move |t| {
                let mut account = t.account(&chat.account)?.unwrap_or_default();
                if account.control != before {
                    return Ok(None);
                }
                for room in &orphans {
                    let stage = ChatStage::Leaving;
                    t.put_chat(room, &Chat { stage, encrypted: false, ..chat.clone() })?;
                }
                let previous = account.control_room().filter(|old| **old != id).cloned();
                if let Some(old) = &previous
                    && let Some(chat) = t.chat(old)?
                {
                    t.put_chat(old, &Chat { stage: ChatStage::Leaving, ..chat })?;
                }
                account.control = Control::At(id.clone());
                t.put_account(&chat.account, &account)?;
                t.put_chat(&id, &Chat { stage: ChatStage::Control, ..chat.clone() })?;
                tell(t, &chat.account, Told::Welcome, now)?;
                Ok(Some(previous.into_iter().chain(orphans.clone())))
            })
            .await?;
        let Some(left) = previous else { return Ok(After::Again) };
        self.bells.words.notify_one();
        for room in left {
            self.hint(Key::Chat(room), Class::Waiting);
        }
        Ok(After::Done)
    }

    /// The rooms that the bot has made as control rooms and not recorded: with another one, nobody would look for them.
    async fn settle_opening(
        &self,
        user: &OwnedUserId,
        control: &Control,
    ) -> Result<Vec<OwnedRoomId>, ActionError> {
        let Control::Opening { since, attempted: true } = control else { return Ok(Vec::new()) };
        let found = self.find_rooms(&NewRoom::Control(user.clone()).marker()).await?;
        self.has_landed(since, &found)?;
        Ok(found)
    }

    async fn keep_control(&self, room: &RoomId, chat: Chat) -> Result<After, ActionError> {
        let Some(people) = self.people_in(room).await? else {
            return self.write_chat(room, &chat, None).await;
        };
        if let Some(tombstone) = self.matrix.tombstone(room).await? {
            return self.follow_control(room, &chat, &tombstone).await;
        }
        if chat.encrypted {
            return self.shun(room, chat, Told::EncryptedHere).await;
        }
        if people.len() > 1 {
            return self.shun(room, chat, Told::TooManyPeople).await;
        }
        if people.contains(&chat.account) {
            return Ok(After::Done);
        }
        match self.matrix.presence(room, &chat.account).await? {
            Presence::In | Presence::Invited if !chat.invite_due => Ok(After::Done),
            Presence::Out if chat.invite_due => {
                self.homeserver(self.matrix.invite_direct(room, &chat.account)).await?;
                self.write_chat(room, &chat, Some(Chat { invite_due: false, ..chat.clone() })).await
            }
            Presence::In | Presence::Invited => {
                self.write_chat(room, &chat, Some(Chat { invite_due: false, ..chat.clone() })).await
            }
            Presence::Out | Presence::Banned => {
                self.write_chat(
                    room,
                    &chat,
                    Some(Chat { stage: ChatStage::Leaving, ..chat.clone() }),
                )
                .await
            }
        }
    }

    /// Says why in the room; then it is left, and never accepted again.
    async fn shun(&self, room: &RoomId, chat: Chat, why: Told) -> Result<After, ActionError> {
        let (id, now) = (room.to_owned(), self.clock.now());
        let owner = chat.account.clone();
        self.state
            .write(move |t| {
                t.put_chat(&id, &Chat { stage: ChatStage::Shunned, ..chat.clone() })?;
                let to = Target::Room(id.clone());
                t.push_notice(&Notice { to, say: Say::Told(why.clone()), at: now })?;
                release_control(t, &chat.account, &id)?;
                if why == Told::EncryptedHere {
                    open_instead(t, &chat.account, now)?;
                }
                Ok(())
            })
            .await?;
        self.bells.words.notify_one();
        self.hint(Key::Account(owner), Class::Waiting);
        Ok(After::In(LAST_WORDS))
    }

    pub(super) async fn leave_chat(
        &self,
        room: &RoomId,
        chat: &Chat,
        rest: Option<Chat>,
    ) -> Result<After, ActionError> {
        self.leave_next(room, &chat.account).await?;
        match self.homeserver(self.matrix.leave(room, Who::Bot)).await {
            // Not in it any more: as good as left.
            Ok(()) | Err(ActionError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        self.write_chat(room, chat, rest).await?;
        Ok(After::Done)
    }

    /// Writes the row, or removes it, if it is still as it was `seen`; a room that stops being a control room is released.
    async fn write_chat(
        &self,
        room: &RoomId,
        seen: &Chat,
        chat: Option<Chat>,
    ) -> Result<After, ActionError> {
        let (id, seen) = (room.to_owned(), seen.clone());
        self.state
            .write(move |t| {
                // Something newer was written, by the intake or by another room's becoming the control room.
                let Some(old) = t.chat(&id)?.filter(|old| *old == seen) else { return Ok(()) };
                match &chat {
                    Some(chat) => t.put_chat(&id, chat)?,
                    None => t.remove_chat(&id)?,
                }
                if chat.as_ref().is_none_or(|chat| chat.stage != ChatStage::Control) {
                    release_control(t, &old.account, &id)?;
                }
                Ok(())
            })
            .await?;
        Ok(After::Again)
    }

    /// The people in a room: all but the bot and the ghosts. `None` when the bot is not in it.
    async fn people_in(&self, room: &RoomId) -> Result<Option<Vec<OwnedUserId>>, ActionError> {
        let Some(members) = self.matrix.members(room).await? else { return Ok(None) };
        let people = members.into_iter();
        let people = people.filter(|m| m != self.matrix.bot() && !self.matrix.is_ghost(m));
        Ok(Some(people.collect()))
    }
}

/// The account has no control room any more, if it was this one.
fn release_control(
    t: &mut dyn Tables,
    user: &OwnedUserId,
    room: &RoomId,
) -> Result<(), TableError> {
    if let Some(mut account) = t.account(user)?
        && account.control_room().is_some_and(|control| control == room)
    {
        account.control = Control::None;
        t.put_account(user, &account)?;
    }
    Ok(())
}

/// The bot opens a plain room itself, unless the account has one.
fn open_instead(t: &mut dyn Tables, user: &OwnedUserId, now: Millis) -> Result<(), TableError> {
    let mut account = t.account(user)?.unwrap_or_default();
    tell(t, user, Told::EncryptedThere, now)?;
    if account.control != Control::None {
        return Ok(());
    }
    account.control = Control::Opening { since: now.into(), attempted: false };
    t.put_account(user, &account)?;
    tell(t, user, Told::Welcome, now)
}
