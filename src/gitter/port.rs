//! Gitter as the reconciler needs it: the rows hold the tokens, the REST client makes the calls.

use std::{collections::BTreeSet, time::Duration};

use reconcile::{
    model::{Door, GitterRoom, GitterRoomId, GitterUserId, MessageId, Profile, Refusal, Session},
    port::{ActionError, Gitter, PeopleSeen, PersonSeen, Resolved, RoomSeen},
};
use ruma::UserId;
use store::StoreError;
use url::Url;

use super::{Account, GitterError, Page, Rest, Room, User, rest::PAGE};
use crate::db::Db;

/// Speaks to Gitter in the name of accounts. Clones are the same.
#[derive(Debug, Clone)]
pub struct Speaker {
    rest: Rest,
    db: Db,
    web: Url,
}

/// An account that may call Gitter now.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Makes the calls.
    pub account: Account,
    /// The account's own Gitter user id.
    pub own: String,
    /// The account's own Gitter user name.
    pub username: String,
    /// Which login this is.
    pub generation: u64,
}

impl Speaker {
    /// `web` is where people see Gitter; relative addresses of pictures are below it.
    #[must_use]
    pub fn new(rest: Rest, db: Db, web: Url) -> Self {
        Self { rest, db, web }
    }

    /// The calls below, for a token that is in no row yet.
    #[must_use]
    pub fn rest(&self) -> &Rest {
        &self.rest
    }

    /// The account's handle, when it is logged in.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn caller(&self, user: &UserId) -> Result<Option<Caller>, StoreError> {
        let id = user.to_owned();
        let found = self.db.look(move |t| Ok((t.account(&id)?, t.token(&id)?))).await?;
        let (Some(account), Some(token)) = found else { return Ok(None) };
        let Session::Active(person) = account.session else { return Ok(None) };
        Ok(Some(Caller {
            account: self.rest.account(person.id.as_str(), token),
            own: person.id.to_string(),
            username: person.username,
            generation: account.generation,
        }))
    }

    /// What was seen of a Gitter user; `None` when the id can't be one.
    #[must_use]
    pub fn person(&self, user: &User) -> Option<PersonSeen> {
        let id = user.id.parse().ok()?;
        let shown = [&user.display_name, &user.username].into_iter().find(|name| !name.is_empty());
        let display_name = shown.map_or_else(|| user.id.clone(), Clone::clone);
        let avatar_url = user.avatar(&self.web).map(String::from);
        let username =
            if user.username.is_empty() { user.id.clone() } else { user.username.clone() };
        Some(PersonSeen { id, username, profile: Profile { display_name, avatar_url } })
    }

    /// Where people see a message.
    #[must_use]
    pub fn permalink(&self, room: &GitterRoom, message: &MessageId) -> String {
        let mut url = self.web.clone();
        url.set_path(room.uri.trim_start_matches('@'));
        url.set_query(Some(&format!("at={message}")));
        url.into()
    }

    fn seen(&self, room: &Room) -> Option<RoomSeen> {
        let id = room.id.parse().ok()?;
        let other = room.user.as_ref().filter(|_| room.one_to_one);
        let path = room.url.as_deref().unwrap_or_default().trim_matches('/');
        let uri = match (other, &room.uri) {
            (Some(other), _) => format!("@{}", other.username),
            (None, Some(uri)) => uri.clone(),
            (None, None) if room.one_to_one => format!("@{path}"),
            (None, None) => path.to_owned(),
        };
        let picture = room.avatar_url.as_deref().and_then(|address| self.web.join(address).ok());
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let active = room.last_access_time.map_or(0, jiff::Timestamp::as_millisecond);
        Some(RoomSeen {
            id,
            room: GitterRoom {
                uri,
                name: room.name.clone(),
                topic: room.topic.clone(),
                avatar_url: picture.map(String::from),
                one_to_one: room.one_to_one,
            },
            unread: count(room.unread_items),
            mentions: count(room.mentions),
            active: u64::try_from(active).unwrap_or(0),
        })
    }

    async fn ready(&self, user: &UserId) -> Result<Caller, ActionError> {
        let caller = self.caller(user).await.map_err(|error| ActionError::Table(error.into()))?;
        let caller = caller.ok_or(ActionError::TokenRejected { doing: DOING })?;
        // A pass whose account has used up its calls makes room for others'.
        Ok(Caller { account: caller.account.impatient(), ..caller })
    }
}

impl Gitter for Speaker {
    async fn rooms(&self, account: &UserId) -> Result<Vec<RoomSeen>, ActionError> {
        let caller = self.ready(account).await?;
        let rooms = caller.account.for_person().rooms().await.map_err(failed)?;
        Ok(rooms.iter().filter(|room| room.is_member()).filter_map(|r| self.seen(r)).collect())
    }

    async fn resolve(&self, account: &UserId, name: &str) -> Result<Resolved, ActionError> {
        let caller = self.ready(account).await?;
        let gitter = caller.account.for_person();
        let is_a_person = || ActionError::Refused {
            doing: DOING,
            why: Refusal::Person,
            source: "a word alone, and the name of a person".into(),
        };
        // A conversation with somebody is never begun by a word that was meant as a room's.
        let word = !name.starts_with('@') && !name.contains('/');
        if word {
            match gitter.knows_person(name).await {
                Ok(true) => return Err(is_a_person()),
                // Without the search the room that is found tells.
                Ok(false) | Err(GitterError::Unavailable { .. } | GitterError::Malformed(_)) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let room = gitter.resolve(name.trim_start_matches('@')).await.map_err(failed)?;
        if word && room.one_to_one {
            return Err(is_a_person());
        }
        let seen = self.seen(&room).ok_or_else(|| ActionError::Refused {
            doing: DOING,
            why: Refusal::NoSuchRoom,
            source: "the answer has no room id".into(),
        })?;
        Ok(Resolved { room: seen, member: room.room_member == Some(true) || room.one_to_one })
    }

    async fn join(&self, account: &UserId, room: &GitterRoomId) -> Result<(), ActionError> {
        let caller = self.ready(account).await?;
        caller.account.join(room.as_str()).await.map(drop).map_err(failed)
    }

    async fn leave(&self, account: &UserId, room: &GitterRoomId) -> Result<(), ActionError> {
        let caller = self.ready(account).await?;
        match caller.account.leave(room.as_str(), &caller.own).await {
            // Gitter's one answer that is special here: conversations of two can't be left.
            Err(error @ GitterError::Invalid { .. }) => Err(ActionError::Refused {
                doing: DOING,
                why: Refusal::CannotLeave,
                source: error.into(),
            }),
            // Banned or deleted: not a member in any case.
            Err(GitterError::Forbidden | GitterError::NotFound) => Ok(()),
            other => other.map_err(failed),
        }
    }

    async fn door(&self, account: &UserId, room: &GitterRoomId) -> Door {
        let Ok(caller) = self.ready(account).await else { return Door::Open };
        match caller.account.for_person().room(room.as_str()).await {
            Err(GitterError::Forbidden) => Door::Shut,
            Err(GitterError::NotFound) => Door::Gone,
            Ok(_) | Err(_) => Door::Open,
        }
    }

    async fn people(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        at_most: usize,
    ) -> Result<PeopleSeen, ActionError> {
        let caller = self.ready(account).await?;
        let messages = caller.account.messages(room.as_str(), Page::Newest(100)).await;
        let one_more = at_most.saturating_add(1);
        let members = caller.account.members(room.as_str(), one_more).await.map_err(failed)?;
        let messages = messages.map_err(failed)?;
        let member_ids: BTreeSet<&str> = members.iter().map(|member| member.id.as_str()).collect();
        let speakers = messages.iter().rev().filter_map(|message| message.from_user.as_ref());
        // Who spoke and left again is not brought back.
        let full = members.len() > at_most;
        // A list without the one who asks is not one of the members.
        let all = !full && member_ids.contains(caller.own.as_str());
        let speakers = speakers.filter(|user| full || member_ids.contains(user.id.as_str()));
        let speakers = speakers.filter(|user| !user.removed && user.id.len() == 24);
        let mut known = BTreeSet::new();
        let people = speakers.chain(&members).filter(|user| known.insert(user.id.as_str()));
        let people = people.filter_map(|user| self.person(user)).take(at_most).collect();
        Ok(PeopleSeen { people, all })
    }

    async fn is_member(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        person: &GitterUserId,
        username: &str,
    ) -> Result<Option<bool>, ActionError> {
        let caller = self.ready(account).await?;
        let found = caller.account.members_named(room.as_str(), username).await.map_err(failed)?;
        let is_in = found.iter().any(|user| user.id == person.as_str());
        // Too many are called alike: the one may be beyond the end.
        Ok(if is_in || found.len() < PAGE { Some(is_in) } else { None })
    }
}

const DOING: &str = "the call to Gitter";

/// A client's error, by what the reconciler may do about it.
#[must_use]
pub fn failed(error: GitterError) -> ActionError {
    let why = match &error {
        GitterError::TokenRejected => return ActionError::TokenRejected { doing: DOING },
        GitterError::Limited { retry_after } => {
            let retry_after = Some(*retry_after);
            return ActionError::Later { doing: DOING, retry_after, source: error.into() };
        }
        GitterError::Unavailable { .. } | GitterError::Malformed(_) => {
            let retry_after: Option<Duration> = None;
            return ActionError::Later { doing: DOING, retry_after, source: error.into() };
        }
        GitterError::Forbidden | GitterError::Invalid { .. } => Refusal::NotAllowed,
        GitterError::NotFound => Refusal::NoSuchRoom,
        GitterError::Moved => Refusal::Renamed,
    };
    ActionError::Refused { doing: DOING, why, source: error.into() }
}
