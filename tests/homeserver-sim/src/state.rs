//! Everything the homeserver knows, behind one lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Config;
use crate::event::{Draft, Event, with_copies};
use crate::fault::Faults;
use crate::http::Reply;
use crate::ids::Ids;
use crate::push::Push;
use crate::refusal::Refusal;
use crate::room::Room;
use crate::rules;

const HALF_HOUR_MS: u64 = 30 * 60_000;
const DAY_MS: u64 = 24 * 60 * 60_000;
/// The room and the event's place in it go into what is measured; this is what they may take.
const EVENT_OVERHEAD: usize = 900;
const EVENT_MAX: usize = 65_536;
const NAME_MAX: usize = 256;

/// A local user.
#[derive(Debug, Clone, Default)]
pub(crate) struct User {
    /// False for a sender that acts without having been registered.
    pub(crate) registered: bool,
    pub(crate) profile: BTreeMap<String, String>,
    pub(crate) devices: BTreeSet<String>,
}

/// A stored file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) content_type: String,
    pub(crate) name: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

/// A sent event by what the homeserver remembers of it: room, user, device, transaction id.
type TxnKey = (String, String, String, String);

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cfg: Config,
    pub(crate) ids: Ids,
    started: Instant,
    /// When the process last started: the in-memory cache is cleaned in turns counted from then.
    booted_ms: u64,
    /// How wrong the homeserver's clock is.
    pub(crate) clock_off_ms: i64,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) rooms: BTreeMap<String, Room>,
    /// Rooms an admin deleted, of which transactions may still tell.
    pub(crate) purged: BTreeMap<String, Room>,
    pub(crate) media: BTreeMap<String, File>,
    /// Answers to sends by path, in memory.
    cache: BTreeMap<String, (u64, Reply)>,
    /// Event ids by transaction id of a device, on disk.
    sent: BTreeMap<TxnKey, (String, u64)>,
    /// Events that the appservice sender has not looked at: room and id.
    pub(crate) stream: VecDeque<(String, String)>,
    pub(crate) push: Push,
    pub(crate) faults: Faults,
}

impl State {
    pub(crate) fn new(cfg: Config) -> Self {
        Self {
            ids: Ids::new(cfg.seed),
            started: Instant::now(),
            booted_ms: 0,
            clock_off_ms: 0,
            users: BTreeMap::new(),
            rooms: BTreeMap::new(),
            purged: BTreeMap::new(),
            media: BTreeMap::new(),
            cache: BTreeMap::new(),
            sent: BTreeMap::new(),
            stream: VecDeque::new(),
            push: Push::default(),
            faults: Faults::default(),
            cfg,
        }
    }

    /// Time since the world began, which no clock jump changes.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The time, whatever the homeserver's clock shows, in milliseconds since 1970.
    pub(crate) fn time(&self) -> u64 {
        self.cfg.epoch_ms.saturating_add(self.elapsed_ms())
    }

    /// The homeserver's clock, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.time().saturating_add_signed(self.clock_off_ms)
    }

    /// What a process forgets when it ends.
    pub(crate) fn reboot(&mut self) {
        self.booted_ms = self.elapsed_ms();
        self.cache.clear();
        for room in self.rooms.values_mut() {
            room.typing.clear();
        }
        let flaws = self.cfg.flaws;
        if !flaws {
            self.requeue();
        }
        self.push.reboot();
    }

    pub(crate) fn bot(&self) -> String {
        format!("@{}:{}", self.cfg.bot, self.cfg.domain)
    }

    /// Whether the appservice may act as `user`.
    pub(crate) fn owns(&self, user: &str) -> bool {
        self.cfg.owns(user)
    }

    /// The part of a local user's id before the colon.
    pub(crate) fn localpart<'a>(&self, user: &'a str) -> Option<&'a str> {
        user.strip_prefix('@')?.strip_suffix(&self.cfg.domain)?.strip_suffix(':')
    }

    pub(crate) fn register(&mut self, user: &str) -> Result<(), Refusal> {
        let local = self.localpart(user).unwrap_or_default().to_owned();
        let known = self.users.entry(user.to_owned()).or_default();
        if known.registered {
            return Err(Refusal::new(400, "M_USER_IN_USE", "User ID already taken."));
        }
        if !known.profile.is_empty() {
            // The row of the profile is in the way, for ever.
            return Err(Refusal::new(500, "M_UNKNOWN", "Internal server error"));
        }
        known.registered = true;
        known.profile.insert("displayname".to_owned(), local);
        Ok(())
    }

    pub(crate) fn profile(&self, user: &str) -> BTreeMap<String, String> {
        self.users.get(user).map(|user| user.profile.clone()).unwrap_or_default()
    }

    /// Sets a field of a profile; an event in every joined room follows if it differs.
    pub(crate) fn set_profile(
        &mut self,
        user: &str,
        field: &str,
        value: &str,
    ) -> Result<(), Refusal> {
        if value.chars().count() > NAME_MAX && field == "displayname" {
            let words = format!("Displayname is too long (max {NAME_MAX})");
            return Err(Refusal::new(400, "M_UNKNOWN", words));
        }
        let profile = &mut self.users.entry(user.to_owned()).or_default().profile;
        if value.is_empty() {
            profile.remove(field);
        } else {
            profile.insert(field.to_owned(), value.to_owned());
        }
        let rooms = self.rooms.values().filter(|room| room.is_joined(user));
        let rooms: Vec<String> = rooms.map(|room| room.id.clone()).collect();
        for room in rooms {
            // Where it is refused, the old profile stays: Synapse logs it and goes on.
            let _ = self.change_membership(user, &room, user, "join", json!({}), None);
        }
        Ok(())
    }

    pub(crate) fn room(&self, id: &str) -> Result<&Room, Refusal> {
        self.rooms.get(id).ok_or_else(|| Refusal::not_found(format!("Unknown room {id}")))
    }

    /// A room as far as `user` may read it: up to which event.
    pub(crate) fn readable(&self, user: &str, id: &str) -> Result<(&Room, usize), Refusal> {
        let refused = || {
            Refusal::forbidden(format!(
                "User {user} not in room {id}, and room previews are disabled"
            ))
        };
        let room = self.rooms.get(id).ok_or_else(refused)?;
        Ok((room, room.readable(user).ok_or_else(refused)?))
    }

    /// Adds an event that was checked.
    pub(crate) fn append(&mut self, room: &str, draft: Draft) -> String {
        let id = self.ids.event();
        self.append_as(room, draft, id)
    }

    pub(crate) fn append_as(&mut self, room: &str, draft: Draft, id: String) -> String {
        let (came, now) = (self.time(), self.now());
        let Some(place) = self.rooms.get_mut(room) else { return id };
        let invite = draft.kind == "m.room.member" && draft.content["membership"] == "invite";
        let event = Event {
            id: id.clone(),
            room: room.to_owned(),
            kind: draft.kind,
            state_key: draft.state_key,
            ts: draft.ts.unwrap_or(now),
            came,
            original: draft.content.clone(),
            content: draft.content,
            redacts: draft.redacts,
            redacted_by: None,
            txn: draft.txn,
            replaced: None,
            invite_state: invite.then(|| place.stripped(&draft.sender)),
            sender: draft.sender,
        };
        tracing::trace!(room, event = id, kind = event.kind, sender = event.sender, "event");
        if self.cfg.owns(&event.sender) {
            self.faults.count_event(now, &event.kind);
        }
        place.append(event);
        self.stream.push_back((room.to_owned(), id.clone()));
        self.push.news.notify_one();
        id
    }

    /// Sends a message-like event, once for each transaction id of a device.
    pub(crate) fn send(&mut self, room: &str, draft: Draft) -> Result<String, Refusal> {
        let key = draft.txn.as_ref().and_then(|txn| {
            let device = txn.device.clone()?;
            Some((room.to_owned(), draft.sender.clone(), device, txn.id.clone()))
        });
        let now = self.elapsed_ms();
        if let Some(key) = &key {
            self.sent.retain(|_, (_, at)| *at + DAY_MS > now);
            if let Some((id, _)) = self.sent.get(key) {
                return Ok(id.clone());
            }
        }
        let place = self.rooms.get(room);
        let place = place.ok_or_else(|| Refusal::not_in_room(&draft.sender, room))?;
        rules::check(place, &draft)?;
        valid(place, &draft)?;
        let id = self.append(room, draft);
        if let Some(key) = key {
            self.sent.insert(key, (id.clone(), now));
        }
        Ok(id)
    }

    /// Sets state; the same content by the same sender again is the old event.
    pub(crate) fn set_state(&mut self, room: &str, mut draft: Draft) -> Result<String, Refusal> {
        let key = draft.state_key.clone().unwrap_or_default();
        if draft.kind == "m.room.member" {
            let action = draft.content["membership"].as_str().unwrap_or_default().to_owned();
            let content = draft.content.take();
            return self.change_membership(&draft.sender, room, &key, &action, content, draft.ts);
        }
        let place = self.rooms.get(room);
        let place = place.ok_or_else(|| Refusal::not_in_room(&draft.sender, room))?;
        if let Some(old) = place.get(&draft.kind, &key)
            && old.sender == draft.sender
            && old.content == draft.content
            && place.is_joined(&draft.sender)
        {
            return Ok(old.id.clone());
        }
        rules::check(place, &draft)?;
        valid(place, &draft)?;
        Ok(self.append(room, draft))
    }

    /// Redacts an event; an unknown one, too.
    pub(crate) fn redact(&mut self, room: &str, mut draft: Draft) -> Result<String, Refusal> {
        let place = self
            .rooms
            .get(room)
            .ok_or_else(|| Refusal::not_found(format!("Could not find room_version for {room}")))?;
        if let Some(target) = &draft.redacts
            && place.is_modern()
        {
            draft.content["redacts"] = json!(target);
        }
        self.send(room, draft)
    }

    /// The remembered answer to a request that carried a transaction id, whoever it acted as.
    pub(crate) fn cached(&mut self, path: &str) -> Option<Reply> {
        let (now, booted) = (self.elapsed_ms(), self.booted_ms);
        let cleaned = booted + (now - booted) / HALF_HOUR_MS * HALF_HOUR_MS;
        self.cache.retain(|_, (at, _)| *at + HALF_HOUR_MS >= cleaned);
        self.cache.get(path).map(|(_, reply)| reply.clone())
    }

    pub(crate) fn remember(&mut self, path: &str, reply: &Reply) {
        self.cache.insert(path.to_owned(), (self.elapsed_ms(), reply.clone()));
    }

    /// An event as `reader` sees it, on a device or none, in an answer about more than this event's content.
    pub(crate) fn show(
        &self,
        room: &Room,
        event: &Event,
        reader: &str,
        device: Option<&str>,
    ) -> Value {
        let now = self.now();
        let redaction = event.redacted_by.as_ref().and_then(|id| room.event(id));
        let own = |event: &Event, mut shown: Value| {
            if let Some(txn) = &event.txn
                && event.sender == reader
                && (txn.device.is_none() || txn.device.as_deref() == device)
            {
                shown["unsigned"]["transaction_id"] = json!(txn.id);
            }
            with_copies(shown)
        };
        let mut shown = event.shown(now, redaction);
        if let Some(by) = redaction {
            shown["unsigned"]["redacted_because"] = own(by, by.shown(now, None));
        }
        let mut shown = own(event, shown);
        if event.state_key.is_none()
            && let Some(edit) = room.edit_of(event)
        {
            let edit = own(edit, edit.shown(now, None));
            shown["unsigned"]["m.relations"] = json!({"m.replace": edit});
        }
        shown
    }

    /// An event of a room's timeline as `reader` sees it.
    pub(crate) fn show_in_time(
        &self,
        room: &Room,
        event: &Event,
        reader: &str,
        device: Option<&str>,
    ) -> Value {
        let mut shown = self.show(room, event, reader, device);
        shown["unsigned"]["membership"] = json!(match membership_at(room, event, reader) {
            "" => "leave",
            membership => membership,
        });
        shown
    }
}

/// The membership of `user` when `event` came.
fn membership_at<'a>(room: &'a Room, event: &Event, user: &str) -> &'a str {
    let Some(end) = room.position(&event.id) else { return "" };
    if let Some(newest) = room.member(user)
        && room.position(&newest.id).is_some_and(|at| at <= end)
    {
        return newest.membership();
    }
    let events = room.events[..=end].iter().rev();
    let mut own =
        events.filter(|e| e.kind == "m.room.member" && e.state_key.as_deref() == Some(user));
    own.next().map_or("", Event::membership)
}

/// Refuses what no event may contain.
fn valid(room: &Room, draft: &Draft) -> Result<(), Refusal> {
    let content = &draft.content;
    if !plain(content) {
        return Err(Refusal::new(400, "M_BAD_JSON", "Bad JSON value: float"));
    }
    if content.to_string().len() + EVENT_OVERHEAD > EVENT_MAX {
        return Err(Refusal::new(413, "M_TOO_LARGE", "event too large"));
    }
    let strings: &[&str] = match draft.kind.as_str() {
        "m.room.message" => &["body", "msgtype"],
        "m.room.name" => &["name"],
        "m.room.topic" => &["topic"],
        _ => &[],
    };
    for field in strings {
        let wrong = match content.get(field) {
            Some(Value::String(_)) => continue,
            Some(_) => "not a string type",
            None => "not in content",
        };
        return Err(Refusal::new(400, "M_UNKNOWN", format!("'{field}' {wrong}")));
    }
    let relation = &content["m.relates_to"];
    let (Some(kind), Some(target)) = (relation["rel_type"].as_str(), relation["event_id"].as_str())
    else {
        return Ok(());
    };
    if room.event(target).is_none() {
        return Err(Refusal::new(400, "M_UNKNOWN", "Can't send relation to unknown event"));
    }
    let same = |e: &&Event| {
        e.kind == draft.kind
            && e.sender == draft.sender
            && e.relates("m.annotation") == Some(target)
            && e.content["m.relates_to"]["key"] == relation["key"]
    };
    if kind == "m.annotation" && room.related(target).any(|e| same(&e)) {
        let words = "Can't send same reaction twice";
        return Err(Refusal::new(400, "M_DUPLICATE_ANNOTATION", words));
    }
    Ok(())
}

/// Whether all numbers are integers that every implementation can hold.
fn plain(value: &Value) -> bool {
    const LARGEST: u64 = (1 << 53) - 1;
    match value {
        Value::Number(number) => number.as_i64().is_some_and(|n| n.unsigned_abs() <= LARGEST),
        Value::Array(values) => values.iter().all(plain),
        Value::Object(map) => map.values().all(plain),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
