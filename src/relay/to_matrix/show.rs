//! One message, made to be in the portal as it is on Gitter: said, changed, or taken back.

use std::{cell::RefCell, collections::BTreeMap};

use reconcile::{
    driver::{Key, learn},
    model::{
        Cursor, GitterUserId, Image, Link, MessageId, Outgoing, Payload, Profile, Session, digest,
    },
    port::{ActionError, Clock as _, Matrix as _, PersonSeen},
    queue::Class,
};
use ruma::{EventId, OwnedEventId, OwnedUserId};
use serde_json::{Value, json};
use store::StoreError;

use super::{
    Failed, Lane, Relay, Step, differs,
    pictures::{Of, Said, first_of},
};
use crate::{
    gitter::Message,
    matrix::{As, MatrixError},
    metrics::{Direction, MessageOutcome},
    relay::{to_gitter::link_part, txn_id},
    render::markdown_to_matrix::{GitterText, Issue, Kind, MatrixText, Mention, to_matrix},
    telemetry::Chain,
};

/// The cursor is moved by itself when it is this far behind.
const CURSOR_BEHIND_MS: u64 = 60_000;
/// A message older than this is shown with its own time.
const LATE_MS: u64 = 60_000;

/// So many people of a message who were never heard of become ghosts for being called in it; of more the names stay text.
const INTRODUCED: usize = 8;

/// A content of so many bytes fits into an event of 64 KiB with all that homeservers add to it.
const LARGEST: usize = 60_000;

/// So many threads in threads are followed up to where they begin.
const NESTED: usize = 16;

/// What was sent of a message.
pub(super) struct Sent {
    pub(super) event: OwnedEventId,
    /// Its sender, if not the bot.
    sender: Option<OwnedUserId>,
    /// The events of its pictures.
    images: Vec<Image>,
    /// Whether the event was sent before, when the message read otherwise.
    older: bool,
}

impl Sent {
    fn by_bot(event: OwnedEventId) -> Self {
        Self { event, sender: None, images: Vec::new(), older: false }
    }
}

impl Relay {
    /// Makes sure that one message is in the portal, as it is now.
    pub(super) async fn show(&self, lane: &Lane, message: &Message) -> Result<Step, Failed> {
        let Ok(id) = message.id.parse::<MessageId>() else { return Ok(Step::Done) };
        let (key, of) = (lane.key.clone(), id.clone());
        let (open, link, first, account, cursor) = self
            .0
            .db
            .look(move |t| {
                let open = t.portal(&key)?.is_some_and(|portal| portal.open.desired);
                let first = t.first_outgoing(&key)?.filter(|(_, row)| row.attempt.is_some());
                let link = t.link_of_message(&key, &of)?;
                Ok((open, link, first, t.account(&key.account)?, t.cursor(&key)?))
            })
            .await?;
        if !open {
            // With a logout the outbox goes: then nobody knows any more which message is whose echo.
            return Ok(Step::Closed);
        }
        let begin = cursor.or_else(|| lane.cursor.clone()).map(|cursor| cursor.begin);
        let begin = begin.unwrap_or_else(|| MessageId::first_of(lane.portal.open.at));
        let mut before = None;
        if let Some(link) = link {
            self.0.unconfirmed.seen(&lane.key, &id);
            let differs = differs(Some(&link), message);
            if !differs || !link.gone || self.has_other_parts(&link).await? {
                if differs {
                    self.amend(lane, link, message).await?;
                }
                self.come_to(lane, id).await?;
                return Ok(Step::Done);
            }
            // Its event was deleted, and nothing brings that back: it is said anew.
            before = Some(link.event);
        } else if id <= begin || !differs(None, message) {
            return Ok(Step::Done);
        }
        let own = account.as_ref().and_then(|account| account.session.person());
        let author = message.from_user.as_ref();
        if let Some((number, row)) = first.filter(|_| before.is_none())
            && own.is_some_and(|own| author.is_some_and(|a| a.id == own.id.as_str()))
        {
            let session = account.as_ref().map(|account| &account.session);
            if !matches!(session, Some(Session::Rejected(_))) {
                return Ok(Step::EchoPending);
            }
            // Nobody can ask Gitter before the next login, and that may never come: the text has to tell.
            if self.is_echo(lane, message, &id, number, row).await? {
                return Ok(Step::Done);
            }
        }
        let Sent { event, sender, images, older } =
            self.send(lane, message, &id, before.as_deref()).await?;
        let link = Link {
            portal: lane.key.clone(),
            message: id,
            event,
            part: 0,
            from_matrix: false,
            version: message.v.unwrap_or(1),
            digest: digest(if older { "" } else { &message.text }),
            parent: message.parent_id.as_ref().and_then(|parent| parent.parse().ok()),
            sender,
            lead: String::new(),
            images,
            gone: false,
        };
        let (row, settled) = (link.clone(), self.0.unconfirmed.settled(&lane.key));
        self.0
            .db
            .change(move |t| {
                t.put_link(&row)?;
                if let Some(last) = &settled {
                    t.confirm_until(&row.portal, last)?;
                }
                let old = t.cursor(&row.portal)?;
                let fresh = || Cursor { begin: begin.clone(), last: begin.clone(), gap: None };
                let old = old.unwrap_or_else(fresh);
                let last = old.last.clone().max(row.message.clone());
                t.put_cursor(&row.portal, &Cursor { last, ..old })
            })
            .await?;
        self.0.metrics.message(Direction::ToMatrix, MessageOutcome::Delivered);
        if older {
            self.amend(lane, link, message).await?;
        }
        Ok(Step::Done)
    }

    /// Whether a message is the one that an outbox's row may have made; then it is linked.
    async fn is_echo(
        &self,
        lane: &Lane,
        message: &Message,
        id: &MessageId,
        number: u64,
        row: Outgoing,
    ) -> Result<bool, StoreError> {
        let Payload::Say { parts, .. } = &row.payload else { return Ok(false) };
        if parts.get(row.done as usize) != Some(&message.text) {
            return Ok(false);
        }
        let (key, id, now) = (lane.key.clone(), id.clone(), self.0.bridge.clock.now());
        let mark = digest(&message.text);
        let linked = self.0.db.change(move |t| link_part(t, (&key, number), &row, &id, mark, now));
        if linked.await? {
            self.0.bridge.bells.words.notify_one();
        }
        Ok(true)
    }

    /// All up to this message is in the portal: what the account says here moves the cursor as well, or it would look like
    /// something missed.
    async fn come_to(&self, lane: &Lane, id: MessageId) -> Result<(), StoreError> {
        let (key, at) = (lane.key.clone(), id.made().0);
        let cursor = self.0.db.look(move |t| t.cursor(&key)).await?;
        let behind = |row: &Cursor| at.saturating_sub(row.last.made().0) > CURSOR_BEHIND_MS;
        if !cursor.as_ref().is_some_and(behind) {
            return Ok(());
        }
        let key = lane.key.clone();
        let moved = self.0.db.change(move |t| match t.cursor(&key)? {
            Some(row) if row.last < id => t.put_cursor(&key, &Cursor { last: id.clone(), ..row }),
            _ => Ok(()),
        });
        moved.await
    }

    /// Carries an edit over, or a deletion that leaves an empty message behind because of its thread.
    pub(super) async fn amend(
        &self,
        lane: &Lane,
        link: Link,
        message: &Message,
    ) -> Result<(), Failed> {
        if message.text.is_empty() {
            return self.redact(lane, &link.message, Some(message.v.unwrap_or(link.version))).await;
        }
        let mark = digest(&message.text);
        let said = self.content(lane, message).await?;
        let pictured = link.sender.is_some() && self.0.choices.images.is_some();
        let mut shown = Vec::new();
        if pictured && said.alone {
            shown = self.pictures(&link.message, &said).await?;
        }
        let new = first_of(&said, &mut shown);
        if pictured && !said.alone {
            shown = self.pictures(&link.message, &said).await?;
        }
        let words = new["body"].as_str().unwrap_or_default().to_owned();
        let here = self.is_here(lane, &link.event).await?;
        // An edit that is undone and made again is another one.
        let edited = message.edited_at.map_or(0, jiff::Timestamp::as_millisecond);
        let version = format!("{mark} {edited}");
        if pictured && here {
            self.take_back_images(lane, &link, &shown).await?;
        }
        let (content, who) = if !here {
            // In the room before this one: nobody can change it there any more.
            let whose = self.whose(&link).await?;
            let body = format!(
                "In the room before this one, a message of {whose} was changed on Gitter, and now reads: {words}"
            );
            (json!({"msgtype": "m.notice", "body": body, "m.mentions": {}}), As::Bot)
        } else if let Some(sender) = &link.sender {
            let mut calls = json!({});
            if new["m.mentions"] != json!({}) {
                let there = self.0.home.client().event(&lane.room, &link.event);
                let there = self.speak(lane.key.account.as_str(), Class::Soon, there).await?;
                calls = newly_called(there.as_ref(), &new["m.mentions"]);
            }
            (edit_of(&link.event, new, calls), As::Ghost(sender))
        } else {
            // Nobody may change what the account itself said: the bot tells of it.
            let body = format!("This was changed on Gitter, and now reads: {words}");
            let reply = json!({"m.in_reply_to": {"event_id": link.event}});
            let calls = json!({});
            let kind = "m.notice";
            let content =
                json!({"msgtype": kind, "body": body, "m.mentions": calls, "m.relates_to": reply});
            (content, As::Bot)
        };
        let key = lane.key.to_string();
        let parts = ["m.room.message", lane.room.as_str(), &key, link.message.as_str(), &version];
        let (client, txn) = (self.0.home.client(), txn_id(&parts));
        let owner = lane.key.account.as_str();
        let send = || client.send(who, &lane.room, "m.room.message", &txn, &content, None);
        let mut sent = self.speak(owner, Class::Soon, send()).await;
        if let (Err(MatrixError::NotInRoom { .. }), Some(ghost), Some(author)) =
            (&sent, &link.sender, &message.from_user)
            && let Ok(author) = author.id.parse()
            && here
        {
            // Whoever left and changes what they said here comes back for it, as for a word that comes late.
            let (room, user) = (lane.room.clone(), ghost.clone());
            self.0.db.change(move |t| t.put_inside(&room, &user, false)).await?;
            match self.bring_in(lane, &author, Class::Members).await {
                Err(ActionError::Refused { .. }) => {}
                brought => {
                    brought?;
                    sent = self.speak(owner, Class::Soon, send()).await;
                }
            }
        }
        match sent {
            // The ghost left meanwhile, or the homeserver never takes it: the first version stays. If it is the bot that is out
            // of the room, it can't say so, and the edit waits.
            Err(error @ (MatrixError::Refused { .. } | MatrixError::NotInRoom { .. })) => {
                self.unless_replaced(lane).await?;
                self.tell_unchanged(lane, &link, &version, here, &error).await?;
            }
            other => drop(other?),
        }
        let images = match &link.sender {
            Some(ghost) if pictured && here => {
                let of = Of { lane, message, id: &link.message, ghost, version: &version };
                self.show_images(&of, shown, &link.images).await?
            }
            _ => link.images.clone(),
        };
        let link = Link {
            digest: mark,
            version: message.v.unwrap_or(link.version),
            images,
            gone: false,
            ..link
        };
        Ok(self.keep(link).await?)
    }

    /// An edit that the homeserver will never take is announced by the bot instead.
    async fn tell_unchanged(
        &self,
        lane: &Lane,
        link: &Link,
        version: &str,
        here: bool,
        error: &MatrixError,
    ) -> Result<(), Failed> {
        tracing::warn!(portal = %lane.key, message = %link.message, error = %Chain(error), "edit refused by the homeserver");
        self.0.metrics.message(Direction::ToMatrix, MessageOutcome::Refused);
        let whose = self.whose(link).await?;
        let body = format!(
            "A message of {whose} was changed on Gitter, and that can't be shown here: your homeserver refuses it."
        );
        let mut content = json!({"msgtype": "m.notice", "body": body, "m.mentions": {}});
        if here {
            content["m.relates_to"] = json!({"m.in_reply_to": {"event_id": link.event}});
        }
        let (room, key, id) = (&lane.room, lane.key.to_string(), link.message.as_str());
        let txn = txn_id(&["m.room.message", room.as_str(), &key, id, version, "refused"]);
        let client = self.0.home.client();
        let sent = client.send(As::Bot, room, "m.room.message", &txn, &content, None);
        match self.speak(lane.key.account.as_str(), Class::Soon, sent).await {
            Err(error @ MatrixError::Refused { .. }) => {
                let error = Chain(&error);
                tracing::error!(portal = %lane.key, %error, "the homeserver refuses the bot's words");
            }
            other => drop(other?),
        }
        Ok(())
    }

    /// Whether an event is on Gitter in more than this part of it.
    async fn has_other_parts(&self, link: &Link) -> Result<bool, StoreError> {
        let (key, event, id) = (link.portal.clone(), link.event.clone(), link.message.clone());
        let parts = self.0.db.look(move |t| t.links_of_event(&event)).await?;
        Ok(parts.iter().any(|part| part.portal == key && part.message != id && !part.gone))
    }

    /// A message is gone on Gitter, or, in the version `emptied`, has no words any more: so is its event, once all of its parts
    /// are.
    pub(super) async fn redact(
        &self,
        lane: &Lane,
        id: &MessageId,
        emptied: Option<u64>,
    ) -> Result<(), Failed> {
        let (key, id) = (lane.key.clone(), id.clone());
        let found = self.0.db.look(move |t| t.link_of_message(&key, &id)).await?;
        let Some(link) = found.filter(|link| !link.gone) else { return Ok(()) };
        let left = self.has_other_parts(&link).await?;
        if !left && !self.is_here(lane, &link.event).await? {
            let whose = self.whose(&link).await?;
            let body = format!(
                "In the room before this one, a message of {whose} is still to be read that was deleted on Gitter."
            );
            let content = json!({"msgtype": "m.notice", "body": body, "m.mentions": {}});
            let (room, key) = (&lane.room, lane.key.to_string());
            let parts = ["m.room.message", room.as_str(), &key, link.message.as_str(), "deleted"];
            let (client, txn) = (self.0.home.client(), txn_id(&parts));
            let sent = client.send(As::Bot, room, "m.room.message", &txn, &content, None);
            self.speak(lane.key.account.as_str(), Class::Soon, sent).await?;
        } else if !left {
            let key = lane.key.to_string();
            let parts = ["m.room.redaction", lane.room.as_str(), &key, link.message.as_str()];
            self.take_back(lane, &link, &link.event, &txn_id(&parts)).await?;
            self.take_back_images(lane, &link, &[]).await?;
        }
        let mut link = Link { gone: true, ..link };
        if let Some(version) = emptied {
            (link.digest, link.version) = (digest(""), version);
        }
        Ok(self.keep(link).await?)
    }

    /// Keeps a link as it is now; what of its portal was seen on Gitter since is noted with it.
    async fn keep(&self, link: Link) -> Result<(), StoreError> {
        let settled = self.0.unconfirmed.settled(&link.portal);
        let kept = self.0.db.change(move |t| {
            t.put_link(&link)?;
            settled.iter().try_for_each(|last| t.confirm_until(&link.portal, last))
        });
        kept.await
    }

    /// Redacts an event of a message.
    pub(super) async fn take_back(
        &self,
        lane: &Lane,
        link: &Link,
        event: &EventId,
        txn: &str,
    ) -> Result<(), Failed> {
        let (client, room) = (self.0.home.client(), &lane.room);
        let reason = Some("deleted on Gitter");
        let who = link.sender.as_deref().map_or(As::Bot, As::Ghost);
        let owner = lane.key.account.as_str();
        let taken = client.redact(who, room, event, txn, reason);
        let mut done = self.speak(owner, Class::Soon, taken).await;
        if matches!(done, Err(MatrixError::Refused { .. } | MatrixError::NotInRoom { .. })) {
            // A ghost that left can't; the bot may delete everything.
            let taken = client.redact(As::Bot, room, event, txn, reason);
            done = self.speak(owner, Class::Soon, taken).await;
        }
        match done {
            Err(error @ (MatrixError::Refused { .. } | MatrixError::NotFound { .. })) => {
                self.unless_replaced(lane).await?;
                let error = Chain(&error);
                tracing::info!(portal = %lane.key, message = %link.message, %error, "deletion not shown");
            }
            other => drop(other?),
        }
        Ok(())
    }

    /// If the room was upgraded, what is to be said waits for the next one. Asked before what was missed is said, and after a
    /// refusal, which may be for that.
    pub(super) async fn unless_replaced(&self, lane: &Lane) -> Result<(), Failed> {
        let (owner, looked) = (lane.key.account.as_str(), self.0.home.tombstone(&lane.room));
        let end = self.speak(owner, Class::Members, looked).await?;
        if end.is_none() && self.still_there(lane).await? {
            return Ok(());
        }
        self.0.bridge.hint(Key::Portal(lane.key.clone()), Class::Waiting);
        Err(Failed::Replaced)
    }

    /// Whether an event is in the lane's room, and not in one that the portal was in before.
    async fn is_here(&self, lane: &Lane, event: &EventId) -> Result<bool, MatrixError> {
        if lane.portal.before.is_none() {
            return Ok(true);
        }
        let looked = self.0.home.client().event(&lane.room, event);
        Ok(self.speak(lane.key.account.as_str(), Class::Soon, looked).await?.is_some())
    }

    /// Whose message it is, for people.
    async fn whose(&self, link: &Link) -> Result<String, StoreError> {
        let Some(sender) = link.sender.clone() else { return Ok("yours".to_owned()) };
        let ghost = self.0.db.look(move |t| match t.ghost_named(&sender)? {
            Some(id) => t.ghost(&id),
            None => Ok(None),
        });
        Ok(ghost.await?.map_or_else(|| "somebody".to_owned(), |ghost| ghost.username))
    }

    /// Sends a message as its author's ghost; anew, when the event that it was `before` is deleted.
    pub(super) async fn send(
        &self,
        lane: &Lane,
        message: &Message,
        id: &MessageId,
        before: Option<&EventId>,
    ) -> Result<Sent, Failed> {
        let author = message.from_user.as_ref().and_then(|user| self.0.gitter.person(user));
        // Somebody whose account is gone altogether still said it.
        let author = author.unwrap_or_else(nobody);
        let ghost = self.ghost(&author).await?;
        let class = self.class(message);
        match self.bring_in(lane, &author.id, class).await {
            // Closed meanwhile is no refusal: then nobody is to see the message.
            Err(error @ ActionError::Refused { .. }) if self.still_there(lane).await? => {
                self.unless_replaced(lane).await?;
                return Ok(Sent::by_bot(self.send_placeholder(lane, id, &author, &error).await?));
            }
            other => other?,
        }
        let said = self.content(lane, message).await?;
        let mut shown = Vec::new();
        if said.alone {
            shown = self.pictures(id, &said).await?;
        }
        let mut content = first_of(&said, &mut shown);
        // By these a store that has lost its rows learns them again from the room.
        content["im.gitter.id"] = id.as_str().into();
        if let Some(user) = message.from_user.as_ref().filter(|user| user.id.len() <= 255) {
            content["im.gitter.user"] = user.id.as_str().into();
        }
        let words = content["body"].as_str().unwrap_or_default().to_owned();
        let version = before.map_or("create", EventId::as_str);
        let of = Of { lane, message, id, ghost: &ghost, version };
        let key = lane.key.to_string();
        let txn = txn_id(&["m.room.message", lane.room.as_str(), &key, id.as_str(), version]);
        let event = match self.say_as_ghost(&of, &author.id, content, &txn).await {
            Err(Failed::Matrix(error @ MatrixError::Refused { .. })) => {
                self.unless_replaced(lane).await?;
                return Ok(Sent::by_bot(self.send_placeholder(lane, id, &author, &error).await?));
            }
            other => other?,
        };
        // Killed before the link was written, the homeserver answers with the event of back then, whatever it said.
        let older = message.edited_at.is_some() && {
            let looked = self.0.home.client().event(&lane.room, &event);
            let there = self.speak(lane.key.account.as_str(), Class::Soon, looked).await?;
            there.is_some_and(|there| there["content"]["body"].as_str().is_some_and(|b| b != words))
        };
        if !said.alone {
            // What is said is not held up by what it shows.
            shown = self.pictures(id, &said).await?;
        }
        let images = self.show_images(&of, shown, &[]).await?;
        Ok(Sent { event, sender: Some(ghost), images, older })
    }

    /// Sends one event of a message, in its thread and with its time, as its author's ghost, which comes in if it must.
    pub(super) async fn say_as_ghost(
        &self,
        of: &Of<'_>,
        author: &GitterUserId,
        mut content: Value,
        txn: &str,
    ) -> Result<OwnedEventId, Failed> {
        let Of { lane, message, ghost, .. } = *of;
        if let Some(thread) = self.thread(lane, message).await? {
            content["m.relates_to"] = thread;
        }
        let late = self.0.bridge.clock.now().0.saturating_sub(LATE_MS);
        let sent = u64::try_from(message.sent.as_millisecond()).unwrap_or(0);
        let ts = (sent > 0 && sent < late).then_some(sent);
        if sent < lane.portal.open.at.0 {
            // Nobody need be called for what was said before they came. The second key is MSC2716's, which tools know.
            content["im.gitter.historical"] = true.into();
            content["org.matrix.msc2716.historical"] = true.into();
            content["m.mentions"] = json!({});
        }
        let (owner, class) = (lane.key.account.as_str(), self.class(message));
        let mut tries = 0;
        loop {
            let who = As::Ghost(ghost);
            let kind = "m.room.message";
            let sent = self.0.home.client().send(who, &lane.room, kind, txn, &content, ts);
            match self.speak(owner, class, sent).await {
                // The homeserver knows better than our rows who is in the room and who exists.
                Err(MatrixError::NotInRoom { .. } | MatrixError::NotInvited { .. })
                    if tries < 2 =>
                {
                    let (room, user) = (lane.room.clone(), ghost.to_owned());
                    self.0.db.change(move |t| t.put_inside(&room, &user, false)).await?;
                    self.bring_in(lane, author, class).await?;
                }
                Err(MatrixError::NotRegistered { .. }) if tries < 2 => {
                    self.speak(owner, class, self.0.home.register(ghost)).await?;
                }
                // What it answers may be in a room that was there before this one, and relations end at a room's walls.
                Err(MatrixError::Refused { .. }) if content.get("m.relates_to").is_some() => {
                    content.as_object_mut().map(|content| content.remove("m.relates_to"));
                }
                // Brought in twice, and told the same: the homeserver may dislike what is said, and calls that by the same
                // code. Only the ghost's own look tells; out of the room, nothing is known to be refused.
                Err(error @ MatrixError::NotInRoom { .. }) => {
                    let looked = self.0.home.client().is_in(who, &lane.room);
                    let inside = self.speak(owner, class, looked).await?;
                    return Err(if inside { error.of_member() } else { error }.into());
                }
                other => return Ok(other?),
            }
            tries += 1;
        }
    }

    /// A message that the homeserver will never take is announced by the bot instead: nothing disappears silently.
    pub(super) async fn send_placeholder(
        &self,
        lane: &Lane,
        id: &MessageId,
        author: &PersonSeen,
        error: &(dyn std::error::Error + Sync + 'static),
    ) -> Result<OwnedEventId, Failed> {
        tracing::warn!(portal = %lane.key, message = %id, error = %Chain(error), "message refused by the homeserver");
        self.0.metrics.message(Direction::ToMatrix, MessageOutcome::Refused);
        let name: String = author.username.chars().take(100).collect();
        let body = format!(
            "A message of {name} on Gitter can't be shown here: your homeserver refuses it."
        );
        let mut content = json!({"msgtype": "m.notice", "body": body, "m.mentions": {}});
        content["im.gitter.id"] = id.as_str().into();
        let key = lane.key.to_string();
        let txn = txn_id(&["m.room.message", lane.room.as_str(), &key, id.as_str(), "refused"]);
        let client = self.0.home.client();
        let sent = client.send(As::Bot, &lane.room, "m.room.message", &txn, &content, None);
        Ok(self.speak(lane.key.account.as_str(), Class::Soon, sent).await?)
    }

    /// How urgent a message is: what is said now goes before what was said before.
    fn class(&self, message: &Message) -> Class {
        let sent = u64::try_from(message.sent.as_millisecond()).unwrap_or(0);
        let late = sent < self.0.bridge.clock.now().0.saturating_sub(LATE_MS);
        if late { Class::Members } else { Class::Soon }
    }

    /// Brings a ghost in for what it said, when it is the account's turn.
    async fn bring_in(
        &self,
        lane: &Lane,
        ghost: &GitterUserId,
        class: Class,
    ) -> Result<(), ActionError> {
        let _turn = self.0.arriving.take(lane.key.account.to_string(), class).await;
        self.0.bridge.bring_in(&lane.key, ghost).await
    }

    /// The ghost of somebody on Gitter, as they look now.
    pub(in crate::relay) async fn ghost(
        &self,
        author: &PersonSeen,
    ) -> Result<OwnedUserId, StoreError> {
        let (home, seen) = (self.0.home.clone(), author.clone());
        let known = self.0.db.look({
            let seen = seen.clone();
            move |t| t.ghost(&seen.id)
        });
        // Most speakers have spoken before and look as they did: no write then.
        if let Some(row) = known.await?
            && row.username == seen.username
            && row.profile == seen.profile
        {
            return Ok(row.user);
        }
        let learned =
            self.0.db.change(move |t| learn(t, &home, &seen).map_err(StoreError::given_up));
        let learned = learned.await?;
        for ghost in learned.outdated {
            self.0.bridge.hint(Key::Ghost(ghost), Class::Looks);
        }
        Ok(learned.ghost.user)
    }

    /// The Matrix id of somebody who is called by this name and need never have spoken; `None` when the homeserver won't have
    /// them. They come in only when they speak.
    async fn introduce(
        &self,
        lane: &Lane,
        id: &GitterUserId,
        name: &str,
        class: Class,
    ) -> Result<Option<OwnedUserId>, Failed> {
        let (home, id, username) = (self.0.home.clone(), id.clone(), name.to_owned());
        let key = id.clone();
        let known = self.0.db.look(move |t| t.ghost(&key)).await?;
        if known.is_none() {
            let seen = id.clone();
            let learned = self.0.db.change(move |t| {
                // Whoever saw more of them meanwhile knows better.
                if t.ghost(&seen)?.is_some() {
                    return Ok(Vec::new());
                }
                let (display_name, avatar_url) = (username.clone(), None);
                let profile = Profile { display_name, avatar_url };
                let seen = PersonSeen { id: seen.clone(), username: username.clone(), profile };
                learn(t, &home, &seen).map(|learned| learned.outdated).map_err(StoreError::given_up)
            });
            for ghost in learned.await? {
                self.0.bridge.hint(Key::Ghost(ghost), Class::Looks);
            }
        }
        let _turn = self.0.arriving.take(lane.key.account.to_string(), class).await;
        match self.0.bridge.introduce(&id).await {
            Err(error @ ActionError::Refused { .. }) => {
                tracing::info!(ghost = %id, error = %Chain(&error), "mention stays text");
                Ok(None)
            }
            other => Ok(Some(other?)),
        }
    }

    /// The relation of a message in a thread, for clients that know threads and, as a reply, for those that don't.
    pub(super) async fn thread(
        &self,
        lane: &Lane,
        message: &Message,
    ) -> Result<Option<Value>, Failed> {
        let parent = message.parent_id.as_ref().and_then(|parent| parent.parse::<MessageId>().ok());
        let Some(parent) = parent else { return Ok(None) };
        let key = lane.key.clone();
        // Gitter has threads in threads; on Matrix a thread begins outside of any.
        let found = self.0.db.look(move |t| {
            let Some(answered) = t.link_of_message(&key, &parent)? else { return Ok(None) };
            let mut root = answered.clone();
            for _ in 0..NESTED {
                let Some(above) = &root.parent else { break };
                let Some(link) = t.link_of_message(&key, above)? else { break };
                root = link;
            }
            Ok(Some((answered, root)))
        });
        let Some((answered, root)) = found.await? else { return Ok(None) };
        if !self.is_here(lane, &root.event).await? {
            return Ok(None);
        }
        Ok(Some(json!({
            "rel_type": "m.thread",
            "event_id": root.event,
            "is_falling_back": answered.event == root.event,
            "m.in_reply_to": {"event_id": answered.event},
        })))
    }

    /// What the message looks like on Matrix.
    pub(super) async fn content(&self, lane: &Lane, message: &Message) -> Result<Said, Failed> {
        let ids: Vec<GitterUserId> =
            message.mentions.iter().filter_map(|m| m.user_id.as_ref()?.parse().ok()).collect();
        let account = lane.key.account.clone();
        let mut people = self
            .0
            .db
            .look(move |t| {
                let own = t.account(&account)?.and_then(|a| a.session.person().cloned());
                let mut people = BTreeMap::new();
                for id in ids {
                    if own.as_ref().is_some_and(|own| own.id == id) {
                        // The account's own name is the account: its client notifies.
                        people.insert(id.to_string(), account.clone());
                    } else if let Some(ghost) = t.ghost(&id)?.filter(|row| row.dressed.is_some()) {
                        people.insert(id.to_string(), ghost.user);
                    }
                }
                Ok(people)
            })
            .await?;
        let (mut text, strangers) = rendered(message, &people);
        let mut introduced = false;
        for (id, name) in strangers {
            if let Some(user) = self.introduce(lane, &id, &name, self.class(message)).await? {
                people.insert(id.to_string(), user);
                introduced = true;
            }
        }
        if introduced {
            (text, _) = rendered(message, &people);
        }
        let mut content = json!({
            "msgtype": match text.msgtype {
                Kind::Text => "m.text",
                Kind::Emote => "m.emote",
            },
            "body": text.body,
        });
        if let Some(html) = text.formatted_body {
            content["format"] = "org.matrix.custom.html".into();
            content["formatted_body"] = html.into();
        }
        let mut mentions = json!({});
        if !text.mentioned.is_empty() {
            mentions["user_ids"] = json!(text.mentioned);
        }
        if text.mentions_room {
            mentions["room"] = true.into();
        }
        content["m.mentions"] = mentions;
        let alone = text.only_pictures && self.0.choices.images.is_some();
        Ok(Said { content, pictures: text.pictures, alone })
    }
}

/// An edit of an event, with what those clients show that know none, who are few: an event has at most 64 KiB, and where the words
/// would not fit in twice, those clients show them plain.
fn edit_of(event: &EventId, new: Value, calls: Value) -> Value {
    let mut content = new.clone();
    content["body"] = format!("* {}", new["body"].as_str().unwrap_or_default()).into();
    if let Some(html) = new["formatted_body"].as_str() {
        content["formatted_body"] = format!("* {html}").into();
    }
    content["m.mentions"] = calls;
    content["m.relates_to"] = json!({"rel_type": "m.replace", "event_id": event});
    content["m.new_content"] = new;
    if content.to_string().len() > LARGEST
        && let Some(content) = content.as_object_mut()
    {
        content.remove("format");
        content.remove("formatted_body");
    }
    content
}

/// Whom an edit calls: of those whom the message calls `now` those whom it did not call as it stands in the room, since the others
/// were told. What was said before its portal was asked for calls nobody, ever.
///
/// See <https://spec.matrix.org/v1.15/client-server-api/#user-and-room-mentions>.
fn newly_called(there: Option<&Value>, now: &Value) -> Value {
    let mut calls = json!({});
    let Some(there) = there else { return calls };
    let first = &there["content"];
    if first["body"].is_null() || first["im.gitter.historical"] == true {
        return calls;
    }
    let edit = there.pointer("/unsigned/m.relations/m.replace/content/m.new_content");
    let before = &edit.unwrap_or(first)["m.mentions"];
    let users = |mentions: &Value| mentions["user_ids"].as_array().cloned().unwrap_or_default();
    let (told, mut new) = (users(before), users(now));
    new.retain(|user| !told.contains(user));
    if !new.is_empty() {
        calls["user_ids"] = new.into();
    }
    if now["room"] == true && before["room"] != true {
        calls["room"] = true.into();
    }
    calls
}

/// The message on Matrix, given who is there; and who else it really calls, with the name that it calls them by, so far as that
/// is somebody.
fn rendered(
    message: &Message,
    people: &BTreeMap<String, OwnedUserId>,
) -> (MatrixText, BTreeMap<GitterUserId, String>) {
    let mentions: Vec<Mention> = message
        .mentions
        .iter()
        .map(|mention| Mention {
            screen_name: mention.screen_name.clone(),
            user_id: mention.user_id.clone(),
            group: mention.group,
            // Gitter lists a group only when its author may call it.
            announcement: mention.group,
        })
        .collect();
    let issues = message.issues.iter();
    let issues: Vec<Issue> = issues
        .map(|issue| Issue { number: issue.number.clone(), repo: issue.repo.clone() })
        .collect();
    // Names change, and what was said stays.
    let author = message.from_user.as_ref();
    let calls_author =
        |mention: &&Mention| author.is_some_and(|a| mention.user_id.as_ref() == Some(&a.id));
    let earlier = mentions.iter().filter(calls_author).map(|mention| mention.screen_name.as_str());
    let names: Vec<&str> = author.map(|a| a.username.as_str()).into_iter().chain(earlier).collect();
    let text = GitterText {
        text: &message.text,
        html: &message.html,
        status: message.status.then_some(&names),
        mentions: &mentions,
        issues: &issues,
    };
    let strangers = RefCell::new(BTreeMap::new());
    let text = to_matrix(&text, &|mention| {
        let id = mention.user_id.as_ref()?;
        if let Some(user) = people.get(id) {
            return Some(user.clone());
        }
        let id = id.parse().ok().filter(GitterUserId::is_person)?;
        let mut strangers = strangers.borrow_mut();
        if strangers.len() < INTRODUCED {
            strangers.insert(id, mention.screen_name.clone());
        }
        None
    });
    (text, strangers.into_inner())
}

/// Stands in for the author of a message whose account is gone altogether.
fn nobody() -> PersonSeen {
    PersonSeen {
        id: "gone".parse().expect("a valid id"),
        username: "ghost".to_owned(),
        profile: Profile { display_name: "Somebody".to_owned(), avatar_url: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_has_its_markup_twice_only_as_long_as_it_fits_into_an_event() {
        let event = ruma::event_id!("$1:hs");
        for (length, twice) in [(10_000, true), (40_000, false)] {
            let html = "x".repeat(length);
            let new = json!({"msgtype": "m.text", "body": "x", "m.mentions": {},
                "format": "org.matrix.custom.html", "formatted_body": html});
            let edit = edit_of(event, new.clone(), json!({}));
            assert_eq!(edit["m.new_content"], new, "{length}");
            assert_eq!(edit["body"], "* x", "{length}");
            let outer = twice.then(|| json!(format!("* {html}")));
            assert_eq!(edit.get("formatted_body"), outer.as_ref(), "{length}");
            assert_eq!(edit.get("format").is_some(), twice, "{length}");
            assert!(edit.to_string().len() < 65_536, "{length}");
        }
    }

    #[test]
    fn an_edit_calls_those_whom_the_message_did_not_call_before() {
        let said = |mentions: Value| json!({"content": {"body": "x", "m.mentions": mentions}});
        let edited = |first: Value, edit: Value| {
            let mut there = said(first);
            let content = json!({"m.mentions": {}, "m.new_content": {"m.mentions": edit}});
            there["unsigned"] = json!({"m.relations": {"m.replace": {"content": content}}});
            there
        };
        let mut old = said(json!({}));
        old["content"]["im.gitter.historical"] = true.into();
        let (a, ab) = (json!({"user_ids": ["@a:hs"]}), json!({"user_ids": ["@a:hs", "@b:hs"]}));
        let (none, b, room) = (json!({}), json!({"user_ids": ["@b:hs"]}), json!({"room": true}));
        let both = json!({"user_ids": ["@a:hs"], "room": true});
        //  name, the event as the homeserver has it, whom the message calls now, whom the edit calls
        let rows = [
            ("nobody", Some(said(none.clone())), &none, &none),
            ("somebody new", Some(said(none.clone())), &a, &a),
            ("one more", Some(said(a.clone())), &ab, &b),
            ("the same", Some(said(ab.clone())), &ab, &none),
            ("one less", Some(said(ab.clone())), &a, &none),
            ("called by an earlier edit", Some(edited(none.clone(), a.clone())), &ab, &b),
            ("dropped by an earlier edit", Some(edited(ab.clone(), a.clone())), &ab, &b),
            ("the room", Some(said(a.clone())), &both, &room),
            ("the room again", Some(said(both.clone())), &both, &none),
            ("said before the portal", Some(old), &both, &none),
            ("deleted here", Some(json!({"content": {}})), &both, &none),
            ("not to be read", None, &both, &none),
        ];
        for (name, there, now, calls) in rows {
            assert_eq!(newly_called(there.as_ref(), now), *calls, "row: {name}");
        }
    }
}
