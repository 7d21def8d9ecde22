//! What an event means: who came, who went, what was said where.

use reconcile::{
    driver::Key,
    model::{Chat, ChatStage, Control, Failure, Link, Millis, PortalKey, Reason, Target},
    queue::Class,
};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;
use store::{StoreError, WriteTxn};

use super::{Hints, Rules, message::deleted, say, time_of};
use crate::{
    appservice::Incoming,
    bot::answer::{self, Closed},
    matrix::room,
    relay::fate,
};

impl Rules {
    /// Takes one event; what it changes is marked with its id.
    pub(super) fn take(
        &self,
        t: &mut WriteTxn<'_>,
        event: &Incoming,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        #[cfg(test)]
        assert!(event.kind != "test.panic", "on purpose");
        if event.kind == "m.room.member" {
            return self.member(t, event, now, hints);
        }
        if event.kind == "m.room.tombstone" {
            return replaced(t, event, now, hints);
        }
        let ours = self.ghosts.is_ours(&event.sender);
        if event.state_key.is_some() {
            let bot = reconcile::port::Matrix::bot(&self.bridge.matrix);
            let strays = room::strays(&event.kind, &event.content, ours, bot);
            if strays || ours && is_outdated(t, event)? {
                put_back(t, event, hints)?;
            }
        }
        if ours {
            hints.ignored += 1;
            return Ok(());
        }
        match event.kind.as_str() {
            "m.room.message"
            | "m.room.encrypted"
            | "m.room.encryption"
            | "m.sticker"
            | "m.room.redaction"
            | "m.poll.start"
            | "org.matrix.msc3381.poll.start" => {}
            _ => {
                hints.ignored += 1;
                return Ok(());
            }
        }
        if let Some(key) = t.portal_at(&event.room_id)? {
            return self.portal_event(t, &key, event, now, hints);
        }
        if let Some(key) = t.portal_before(&event.room_id)? {
            // Said before the portal moved, and told only now: whatever there is to answer is answered where it is now.
            let portal = t.portal(&key)?;
            let room = portal.and_then(|portal| portal.place.room().cloned());
            let room_id = room.unwrap_or_else(|| event.room_id.clone());
            return self.portal_event(t, &key, &Incoming { room_id, ..event.clone() }, now, hints);
        }
        if let Some(chat) = t.chat(&event.room_id)? {
            return self.chat_event(t, chat, event, now, hints);
        }
        too_late(t, event, now, hints)
    }

    fn member(
        &self,
        t: &mut WriteTxn<'_>,
        event: &Incoming,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        let Some(user) = event.state_key.as_deref().and_then(|key| OwnedUserId::try_from(key).ok())
        else {
            hints.ignored += 1;
            return Ok(());
        };
        let membership = event.content.get("membership").and_then(Value::as_str).unwrap_or("");
        if user == *reconcile::port::Matrix::bot(&self.bridge.matrix) {
            return self.bot_moved(t, event, membership, now, hints);
        }
        if self.ghosts.is_ghost(&user) {
            return self.ghost_moved(t, event, &user, membership, hints);
        }
        if let Some(key) = t.portal_at(&event.room_id)? {
            return self.person_moved(t, &key, event, &user, membership, now, hints);
        }
        if t.chat(&event.room_id)?.is_some() {
            hints.key(Key::Chat(event.room_id.clone()), Class::Waiting);
        }
        hints.ignored += 1;
        Ok(())
    }

    /// The bot was invited somewhere, or thrown out.
    fn bot_moved(
        &self,
        t: &mut WriteTxn<'_>,
        event: &Incoming,
        membership: &str,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        let room = &event.room_id;
        if membership != "invite" {
            if let Some(key) = t.portal_at(room)? {
                hints.key(Key::Portal(key), Class::Soon);
            } else if t.chat(room)?.is_some() {
                hints.key(Key::Chat(room.clone()), Class::Waiting);
            }
            hints.ignored += 1;
            return Ok(());
        }
        if let Some(key) = t.portal_at(room)? {
            // It followed there already.
            hints.key(Key::Portal(key), Class::Soon);
            hints.ignored += 1;
            return Ok(());
        }
        if self.ghosts.is_ours(&event.sender) || !seen_first(t, event, now, hints)? {
            return Ok(());
        }
        let encrypted = event.unsigned.get("invite_room_state").and_then(Value::as_array);
        let encrypted = encrypted.is_some_and(|state| {
            state.iter().any(|event| event.get("type").is_some_and(|t| t == "m.room.encryption"))
        });
        let stage = match t.chat(room)?.map(|chat| chat.stage) {
            // A room with several people is never accepted again: the invite is declined without a word.
            Some(ChatStage::Avoided | ChatStage::Shunned) => ChatStage::Shunned,
            _ => ChatStage::Invited,
        };
        let account = event.sender.clone();
        let at = time_of(event, now);
        hints.chats.insert(room.clone(), account.clone());
        t.put_chat(room, &Chat { account, stage, encrypted, invite_due: false, at })?;
        hints.key(Key::Chat(room.clone()), Class::Waiting);
        Ok(())
    }

    /// A ghost came or went; what the rows say of it follows.
    fn ghost_moved(
        &self,
        t: &mut WriteTxn<'_>,
        event: &Incoming,
        ghost: &UserId,
        membership: &str,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        let Some(key) = t.portal_at(&event.room_id)? else {
            hints.ignored += 1;
            return Ok(());
        };
        let now_in = membership == "join";
        let gone = matches!(membership, "leave" | "ban");
        if (now_in || gone) && t.is_inside(&event.room_id, ghost)? != now_in {
            t.put_inside(&event.room_id, ghost, now_in)?;
        }
        if gone && !self.ghosts.is_ours(&event.sender) {
            // Somebody else removed it: it comes back if it is among those who should be there.
            hints.key(Key::Populate(key), Class::Members);
        }
        hints.ignored += 1;
        Ok(())
    }

    /// Somebody came into a portal or left it: the account, or a stranger.
    #[expect(clippy::too_many_arguments, reason = "one event, taken apart once")]
    fn person_moved(
        &self,
        t: &mut WriteTxn<'_>,
        key: &PortalKey,
        event: &Incoming,
        user: &UserId,
        membership: &str,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        hints.key(Key::Portal(key.clone()), Class::Waiting);
        let by_us = self.ghosts.is_ours(&event.sender);
        if user != key.account || by_us || !matches!(membership, "leave" | "ban" | "join") {
            hints.ignored += 1;
            return Ok(());
        }
        if !seen_first(t, event, now, hints)? {
            return Ok(());
        }
        let Some(mut portal) = t.portal(key)? else { return Ok(()) };
        portal.joined = membership == "join";
        if membership == "join" {
            // Into a closed portal nobody comes: it is an old join, and its account may be out of the room by now.
            if portal.open.desired {
                portal.open.last = Some(true);
            }
            return t.put_portal(key, &portal);
        }
        if portal.missing_since.is_some() {
            // Whoever leaves a room that was replaced has not left the portal.
            return t.put_portal(key, &portal);
        }
        let was_open = portal.open.desired;
        // An event older than the last word is no word any more: the portal's next pass tells by a look what it means.
        if portal.open.ask(false, Reason::LeftPortal, time_of(event, now)) {
            portal.open.last = Some(false);
            portal.ask = None;
            if was_open {
                let name = t.room(key)?.map_or_else(|| key.room.to_string(), |r| r.uri);
                let words = answer::portal_closed(&name, Closed::LeftHere);
                say(t, Target::Account(key.account.clone()), words, now, hints)?;
            }
        }
        hints.portals = true;
        t.put_portal(key, &portal)
    }

    fn portal_event(
        &self,
        t: &mut WriteTxn<'_>,
        key: &PortalKey,
        event: &Incoming,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        if event.kind == "m.room.encryption" {
            tracing::warn!(portal = %key, "a portal is encrypted: the bridge can't read it");
            hints.ignored += 1;
            return Ok(());
        }
        // Only the account's own words go out under its name; strangers are on their way out of the room.
        if event.sender != key.account || !seen_first(t, event, now, hints)? {
            return Ok(());
        }
        self.outgoing(t, key, event, now, hints)
    }

    fn chat_event(
        &self,
        t: &mut WriteTxn<'_>,
        chat: Chat,
        event: &Incoming,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        if matches!(event.kind.as_str(), "m.room.encryption" | "m.room.encrypted") {
            if !chat.encrypted {
                t.put_chat(&event.room_id, &Chat { encrypted: true, ..chat })?;
            }
            hints.key(Key::Chat(event.room_id.clone()), Class::Waiting);
            return Ok(());
        }
        if matches!(chat.stage, ChatStage::Emptying | ChatStage::Former) {
            return too_late(t, event, now, hints);
        }
        // Who is quick speaks before the bot has settled in; the answer comes once it has.
        let settled = chat.stage == ChatStage::Control;
        let heard = (settled || chat.stage == ChatStage::Invited) && chat.account == event.sender;
        if event.kind != "m.room.message" || !heard {
            hints.ignored += 1;
            return Ok(());
        }
        if !seen_first(t, event, now, hints)? {
            return Ok(());
        }
        let account = t.account(&chat.account)?.unwrap_or_default();
        let here = matches!(&account.control, Control::At(room) if *room == event.room_id);
        if settled && !here {
            return Ok(());
        }
        self.command(t, &chat.account, account, event, now, hints)
    }
}

/// A room was upgraded: the reconciler looks what that means.
fn replaced(
    t: &mut WriteTxn<'_>,
    event: &Incoming,
    now: Millis,
    hints: &mut Hints,
) -> Result<(), StoreError> {
    hints.ignored += 1;
    if event.state_key.as_deref() != Some("") {
        return Ok(());
    }
    if let Some(key) = t.portal_at(&event.room_id)? {
        if let Some(mut portal) = t.portal(&key)? {
            let next = event.content.get("replacement_room").and_then(Value::as_str);
            let next = next.and_then(|next| next.try_into().ok());
            portal.successor = next.or(portal.successor);
            portal.missing_since = portal.missing_since.or(Some(now));
            t.put_portal(&key, &portal)?;
        }
        hints.key(Key::Portal(key), Class::Waiting);
    } else if t.chat(&event.room_id)?.is_some() {
        hints.key(Key::Chat(event.room_id.clone()), Class::Waiting);
    }
    Ok(())
}

/// Whether what the bridge itself set in a portal came after something newer.
fn is_outdated(t: &WriteTxn<'_>, event: &Incoming) -> Result<bool, StoreError> {
    let Some(key) = t.portal_at(&event.room_id)? else { return Ok(false) };
    let shows = t.room(&key)?;
    Ok(shows.is_some_and(|shows| room::is_outdated(&event.kind, &event.content, &shows)))
}

/// A portal looks otherwise than it should, or who may do what there: all of it is set again.
fn put_back(t: &mut WriteTxn<'_>, event: &Incoming, hints: &mut Hints) -> Result<(), StoreError> {
    let Some(key) = t.portal_at(&event.room_id)? else { return Ok(()) };
    let Some(mut portal) = t.portal(&key)? else { return Ok(()) };
    tracing::info!(portal = %key, kind = event.kind, by = %event.sender, "not as it should be, and put back");
    portal.strayed = portal.strayed.wrapping_add(1);
    portal.shown = None;
    portal.features = 0;
    t.put_portal(&key, &portal)?;
    hints.key(Key::Portal(key), Class::Soon);
    Ok(())
}

/// A room that is none of ours any more: its account wrote there before it was closed or replaced, or before its client knew.
fn too_late(
    t: &mut WriteTxn<'_>,
    event: &Incoming,
    now: Millis,
    hints: &mut Hints,
) -> Result<(), StoreError> {
    if let Some(of) = deleted(event) {
        let links = t.links_of_event(&of)?;
        let own = |link: &Link| link.portal.account == event.sender && !link.gone;
        let Some(link) = links.into_iter().find(own) else { return Ok(()) };
        if seen_first(t, event, now, hints)? {
            let why = (Failure::Kept, "I had closed this room when I heard of that");
            fate::failed(t, &link.portal, of, why, None, now)?;
            hints.words = true;
        }
        return Ok(());
    }
    let text = |name: &str| event.content.get(name).and_then(Value::as_str).unwrap_or_default();
    let said = event.kind == "m.room.message" && !matches!(text("msgtype"), "" | "m.notice");
    // Who has no chat, or is just beginning one with a store that was made anew, is told once it is there.
    let is_theirs = |(_, chat): &(_, Chat)| chat.account == event.sender;
    let known = said && (t.account(&event.sender)?.is_some() || t.chats()?.iter().any(is_theirs));
    if !known || !seen_first(t, event, now, hints)? {
        hints.ignored += 1;
        return Ok(());
    }
    let words = answer::too_late(text("body"));
    say(t, Target::Account(event.sender.clone()), words, now, hints)
}

/// Marks the event; false when it came before and is not to be taken again.
pub(super) fn seen_first(
    t: &mut WriteTxn<'_>,
    event: &Incoming,
    now: Millis,
    hints: &mut Hints,
) -> Result<bool, StoreError> {
    let first = t.mark_seen(&event.event_id, now)?;
    hints.duplicate += usize::from(!first);
    Ok(first)
}
