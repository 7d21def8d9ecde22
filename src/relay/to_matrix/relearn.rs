//! A portal whose rows are older than its room: which messages are which events is learned from the room itself.
//!
//! What ghosts said carries the message's id. What the account said is looked for among its own messages on Gitter, by its
//! words and in order. What is found on one side only was never carried, and is carried now.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::{
    model::{
        Attempt, Cursor, Failure, Ghost, GitterUserId, Link, MessageId, Millis, Moment, Outgoing,
        Payload, PortalKey, Profile, digest,
    },
    port::{Clock as _, Matrix as _},
    queue::Class,
};
use ruma::{OwnedEventId, UserId};
use serde_json::Value;
use store::{StoreError, WriteTxn};

use super::{FORGETS, Failed, Lane, Relay};
use crate::{
    appservice::Incoming,
    gitter::{Caller, Message, Page},
    intake::{message::meaning, time_of},
    matrix::As,
    recover::AHEAD_MS,
    relay::{
        echo,
        fate::{self, STATUS},
        onward,
        to_gitter::amend::{LATE, newest},
    },
    settings::LONGEST_MEDIA_LINK,
    telemetry::Chain,
    web::media,
};

/// Events and messages a page.
const PAGE: u16 = 100;
/// Events a page, when only the last one that was shown is looked for.
const LAST: u16 = 20;
/// Pages read at most, back to where the rows end.
const PAGES: usize = 100;
/// Pages read of a room of which no row knows anything.
const GUESSED: usize = 3;
/// By how much clocks may differ, and how long a message may have been on its way.
const SKEW_MS: u64 = 120_000;
/// What was said before the end of a lost store goes on its way only if it is younger.
const FORGOTTEN_MS: u64 = 24 * 3600 * 1000;

/// A room's newest events.
struct Read {
    /// Oldest first.
    events: Vec<Incoming>,
    /// Whether they reach back to what the rows know, or to the room's beginning.
    whole: bool,
}

/// Something the account said, to be looked for on Gitter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    sent: Millis,
    /// Its parts, as they were and as later edits made them.
    versions: Vec<Vec<String>>,
    /// It changes an earlier event; as a message of its own it points at that.
    edit: bool,
}

impl Said {
    /// The first of its versions of which this part reads so.
    fn reads(&self, part: usize, text: &str) -> Option<&Vec<String>> {
        let is = |own: &String| same(text, own, part == 0, self.edit);
        self.versions.iter().find(|version| version.get(part).is_some_and(is))
    }
}

/// A message of the account on Gitter that no row knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    id: MessageId,
    sent: Millis,
    text: String,
    parent: Option<MessageId>,
}

impl Relay {
    /// Learns what the portal has carried since its rows end; then its lanes may go on.
    pub(super) async fn relearn(&self, lane: &Lane, caller: &Caller) -> Result<(), Failed> {
        let key = lane.key.clone();
        let Some(since) = self.0.db.look(move |t| t.relearn_since(&key)).await? else {
            return Ok(());
        };
        // Before the room: what comes meanwhile is behind all that is read there.
        let key = lane.key.clone();
        let waiting = self.0.db.look(move |t| t.outgoing(&key, usize::MAX)).await?;
        let read = self.read_room(lane, since).await?;
        let own = |event: &&Incoming| event.sender == lane.key.account && event.state_key.is_none();
        let now = self.0.bridge.clock.moment();
        let first = read.events.iter().filter(own).map(|event| time_of(event, now.at));
        let first = first.chain(waiting.iter().map(|(_, row)| row.sent)).min();
        let found = match first {
            Some(first) => self.own_messages(lane, caller, first).await?,
            None => Vec::new(),
        };
        let (key, username, home) =
            (lane.key.clone(), caller.username.clone(), self.0.home.clone());
        let files = self.0.voice.files().cloned();
        let (events, whole) = (read.events, read.whole);
        let until = waiting.last().map_or(0, |(number, _)| *number);
        let learned = self.0.db.change(move |t| {
            let mut lesson = Lesson { t: &mut *t, key: &key, now: &now, since, until, learned: 0 };
            let first = lesson.first_shown(&events)?;
            lesson.ghosts(&events, &|user| home.is_ghost(user) || user == home.bot())?;
            let payload = |t: &WriteTxn<'_>, event: &Incoming| {
                meaning(t, &key, &username, event, files.as_ref(), now.at)
            };
            let sent = lesson.account(&events, &found, &payload)?;
            lesson.cursor(&events, whole, first, &|user| home.is_ghost(user))?;
            let learned = lesson.learned;
            t.put_relearn(&key, None)?;
            Ok((learned, sent))
        });
        let (links, outgoing) = learned.await?;
        tracing::info!(portal = %lane.key, links, outgoing, "learned from the room what was carried");
        self.poke_outward(lane.key.clone());
        Ok(())
    }

    /// Links what was shown last after `begin`, has no link, and can't be shown again: the bridge was killed between the two,
    /// or the homeserver's answer was lost, and the message is gone on Gitter by now, or its transaction id forgotten.
    pub(super) async fn link_shown(
        &self,
        lane: &Lane,
        caller: &Caller,
        begin: &MessageId,
    ) -> Result<(), Failed> {
        let (mut unlinked, mut from) = (Vec::new(), None::<String>);
        for _ in 0..GUESSED {
            let client = self.0.home.client();
            let read = client.messages(As::Bot, &lane.room, LAST, from.as_deref());
            let page = match self.speak(lane.key.account.as_str(), Class::Members, read).await {
                Err(error) if !error.is_transient() => {
                    // Sending will tell what is to be done about it.
                    tracing::debug!(portal = %lane.key, error = %Chain(&error), "room not read");
                    break;
                }
                page => page?,
            };
            let ours = |user: &UserId| self.0.home.is_ghost(user) || user == self.0.home.bot();
            let shown = page.chunk.into_iter().filter_map(|event| {
                let event: Incoming = serde_json::from_value(event).ok()?;
                let message = shows(&event).filter(|_| ours(&event.sender))?;
                Some((message, event))
            });
            let (shown, key, begin) = (shown.collect::<Vec<_>>(), lane.key.clone(), begin.clone());
            let look = self.0.db.look(move |t| {
                let mut new = Vec::new();
                for (message, event) in shown {
                    // A lane sends one after the other: what came before one that is linked is linked.
                    if message <= begin || t.link_of_message(&key, &message)?.is_some() {
                        return Ok((new, true));
                    }
                    new.push((message, event));
                }
                Ok((new, false))
            });
            let (new, linked) = look.await?;
            unlinked.extend(new);
            from = page.end;
            if linked || from.is_none() {
                break;
            }
        }
        let now = self.0.bridge.clock.moment();
        let mut lost = Vec::new();
        for (message, event) in unlinked {
            let there = caller.account.message(lane.key.room.as_str(), message.as_str());
            if there.await?.is_none() {
                self.0.inbox.put_removed(&lane.key, message);
            } else if now.at.since(time_of(&event, now.at)) < FORGETS {
                // Shown again it is the same event, and what is still missing of it follows; if that is soon.
                self.0.inbox.is_there(&lane.key, now.at);
                continue;
            }
            lost.push(event);
        }
        if lost.is_empty() {
            return Ok(());
        }
        tracing::info!(portal = %lane.key, events = lost.len(), "shown before, and linked now");
        let (key, home) = (lane.key.clone(), self.0.home.clone());
        let linked = self.0.db.change(move |t| {
            let (since, until) = (Millis(0), 0);
            let mut lesson = Lesson { t, key: &key, now: &now, since, until, learned: 0 };
            lesson.ghosts(&lost, &|user| home.is_ghost(user) || user == home.bot())
        });
        Ok(linked.await?)
    }

    /// The room's events, back to one that the rows know of or that is older than `since`.
    async fn read_room(&self, lane: &Lane, since: Millis) -> Result<Read, Failed> {
        let pages = if since.0 == 0 { GUESSED } else { PAGES };
        let (mut events, mut from) = (Vec::new(), None::<String>);
        for _ in 0..pages {
            let client = self.0.home.client();
            let page = client.messages(As::Bot, &lane.room, PAGE, from.as_deref()).await?;
            let chunk = page.chunk.into_iter();
            let chunk: Vec<Incoming> =
                chunk.filter_map(|event| serde_json::from_value(event).ok()).collect();
            // Newer ones may have come from the homeserver since the rows are in place.
            let told = |event: &&Incoming| {
                event.sender == lane.key.account && event.state_key.is_none()
                    || shows(event).is_some()
            };
            let oldest = chunk.iter().rev().find(told).map(|event| event.event_id.clone());
            let key = lane.key.clone();
            let known = self.0.db.look(move |t| {
                let Some(id) = &oldest else { return Ok(false) };
                let linked = t.links_of_event(id)?.iter().any(|link| link.portal == key);
                Ok(linked || t.seen_at(id)?.is_some())
            });
            let known = known.await? && since.0 > 0;
            // Ghosts' events may bear the time of an old message.
            let old = chunk.iter().any(|event| {
                let sent = u64::try_from(event.origin_server_ts).unwrap_or(0);
                !self.0.home.is_ghost(&event.sender) && sent.saturating_add(AHEAD_MS) < since.0
            });
            events.extend(chunk);
            from = page.end;
            if known || old || from.is_none() {
                events.reverse();
                return Ok(Read { events, whole: true });
            }
        }
        events.reverse();
        Ok(Read { events, whole: false })
    }

    /// The account's own messages in the room since `first`, oldest first.
    async fn own_messages(
        &self,
        lane: &Lane,
        caller: &Caller,
        first: Millis,
    ) -> Result<Vec<Found>, Failed> {
        let mut from = MessageId::first_of(Millis(first.0.saturating_sub(SKEW_MS)));
        let (mut found, mut known) = (Vec::<Found>::new(), BTreeSet::new());
        for _ in 0..PAGES {
            let after = Page::After(from.as_str(), usize::from(PAGE));
            let page = caller.account.messages(lane.key.room.as_str(), after).await?;
            let next = onward(&from, &page, usize::from(PAGE));
            let own = page.into_iter().filter(|message| {
                message.from_user.as_ref().is_some_and(|user| user.id == caller.own)
            });
            // Pages overlap.
            let own = own.filter_map(Found::of).filter(|own| known.insert(own.id.clone()));
            found.extend(own);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(found)
    }
}

impl Found {
    fn of(message: Message) -> Option<Self> {
        let sent = Millis(u64::try_from(message.sent.as_millisecond()).unwrap_or(0));
        let parent = message.parent_id.as_ref().and_then(|parent| parent.parse().ok());
        Some(Self { id: message.id.parse().ok()?, sent, text: message.text, parent })
    }
}

/// The Gitter user who wrote what a ghost's event shows.
pub(crate) fn author(event: &Incoming) -> Option<GitterUserId> {
    event.content.get("im.gitter.user")?.as_str()?.parse().ok()
}

/// The time of an event as its homeserver has it, which is compared with Gitter's: our own clock may be behind both.
fn claimed(event: &Incoming) -> Millis {
    Millis(u64::try_from(event.origin_server_ts).unwrap_or(0))
}

/// The message that an event shows, if the bridge itself sent it.
fn shows(event: &Incoming) -> Option<MessageId> {
    event.content.get("im.gitter.id")?.as_str()?.parse().ok()
}

/// Keeps which Gitter user a ghost is, where that is not known; its looks follow when it is seen.
pub(crate) fn keep_ghost(
    t: &mut WriteTxn<'_>,
    ghost: &UserId,
    id: &GitterUserId,
) -> Result<(), StoreError> {
    if t.ghost(id)?.is_some() || t.ghost_named(ghost)?.is_some() {
        return Ok(());
    }
    let name = ghost.localpart().split_once('_').map_or(ghost.localpart(), |(_, name)| name);
    let profile = Profile { display_name: name.to_owned(), avatar_url: None };
    let (user, username) = (ghost.to_owned(), name.to_owned());
    t.put_ghost(id, &Ghost { user, username, profile, dressed: None })
}

/// The words that later edits gave to events.
type Edits = BTreeMap<OwnedEventId, Vec<Vec<String>>>;

/// Something the account said that no link knows, or not to its end.
struct Heard {
    event: OwnedEventId,
    sent: Millis,
    meant: Payload,
    /// How many of its parts are linked.
    done: u32,
    /// Its row in the outbox.
    row: Option<(u64, Outgoing)>,
}

impl Heard {
    /// What waits in the outbox.
    fn waiting(number: u64, row: Outgoing) -> Self {
        let (event, sent, meant, done) =
            (row.event.clone(), row.sent, row.payload.clone(), row.done);
        Self { event, sent, meant, done, row: Some((number, row)) }
    }

    fn said(&self, edits: &Edits) -> Said {
        let (versions, edit) = match &self.meant {
            Payload::Say { parts, .. } => {
                let later = edits.get(&self.event).cloned().unwrap_or_default();
                ([vec![parts.clone()], later].concat(), false)
            }
            // Late edits of one event are one message, which reads as the newest.
            Payload::Edit { of, parts, .. } => {
                let others = edits.get(of).cloned().unwrap_or_default();
                ([vec![parts.clone()], others].concat(), true)
            }
            Payload::Delete { .. } => (Vec::new(), false),
        };
        let left = |parts: Vec<String>| parts.into_iter().skip(self.done as usize).collect();
        Said { sent: self.sent, versions: versions.into_iter().map(left).collect(), edit }
    }
}

struct Lesson<'l, 't> {
    t: &'l mut WriteTxn<'t>,
    key: &'l PortalKey,
    now: &'l Moment,
    /// From when on rows may be missing; zero when there never were any.
    since: Millis,
    /// The number of the last row that waited before the room was read.
    until: u64,
    learned: usize,
}

impl Lesson<'_, '_> {
    fn link(&mut self, link: &Link) -> Result<(), StoreError> {
        if self.t.link_of_message(self.key, &link.message)?.is_none() {
            self.t.put_link(link)?;
            self.learned += 1;
        }
        Ok(())
    }

    /// What ghosts said, and what the bot said in their place.
    fn ghosts(
        &mut self,
        events: &[Incoming],
        is_ours: &dyn Fn(&UserId) -> bool,
    ) -> Result<(), StoreError> {
        for event in events.iter().filter(|event| is_ours(&event.sender)) {
            let Some(message) = shows(event) else { continue };
            let author = author(event);
            if let Some(author) = &author {
                keep_ghost(self.t, &event.sender, author)?;
            }
            let link = Link {
                portal: self.key.clone(),
                message,
                event: event.event_id.clone(),
                part: 0,
                from_matrix: false,
                version: 1,
                // Unknown: should the message have been changed, it is shown once more as it is now.
                digest: 0,
                parent: None,
                sender: author.map(|_| event.sender.clone()),
                lead: String::new(),
                images: Vec::new(),
                gone: false,
            };
            self.link(&link)?;
        }
        Ok(())
    }

    /// What the account said; returns how many events go on their way.
    fn account(
        &mut self,
        events: &[Incoming],
        found: &[Found],
        payload: &dyn Fn(&WriteTxn<'_>, &Incoming) -> Option<Payload>,
    ) -> Result<usize, StoreError> {
        let answered = answered(events);
        let (mut found_new, mut shown) = (Vec::new(), Vec::new());
        for message in found {
            match self.t.link_of_message(self.key, &message.id)? {
                None => found_new.push(message.clone()),
                Some(link) if !link.from_matrix => shown.push(message.clone()),
                Some(_) => {}
            }
        }
        let mut all = self.heard(events, payload)?;
        let mut edits: Edits = BTreeMap::new();
        let mut last_edits: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
        for (index, heard) in all.iter().enumerate() {
            if let Payload::Edit { of, parts, .. } = &heard.meant {
                edits.entry(of.clone()).or_default().push(parts.clone());
                last_edits.insert(of.clone(), index);
            }
        }
        let said: Vec<Said> = all.iter().map(|heard| heard.said(&edits)).collect();
        let mut pairs = pair(&said, &found_new);
        let newest = pairs.keys().next_back().copied();
        let used: BTreeSet<usize> = pairs.values().flatten().copied().collect();
        let left: Vec<&Found> =
            (0..found_new.len()).filter(|at| !used.contains(at)).map(|at| &found_new[at]).collect();
        // What was said in a room before this one may be in this one, too, as said elsewhere: by the account's own ghost.
        let here: BTreeSet<_> = events.iter().map(|event| &event.event_id).collect();
        let is_before =
            |index: &usize| !here.contains(&all[*index].event) && !pairs.contains_key(index);
        let before: Vec<usize> = (0..all.len()).filter(is_before).collect();
        let again: Vec<Said> = before.iter().map(|index| said[*index].clone()).collect();
        for (nth, at) in pair(&again, &shown) {
            for at in &at {
                self.t.remove_link(self.key, &shown[*at].id)?;
            }
            pairs.insert(before[nth], at.iter().map(|at| found_new.len() + at).collect());
        }
        let found: Vec<&Found> = found_new.iter().chain(&shown).collect();
        let mut going = 0;
        let mut lane = Vec::new();
        for (index, heard) in all.iter_mut().enumerate() {
            let messages: Vec<&Found> = match pairs.get(&index) {
                Some(at) => at.iter().map(|at| found[*at]).collect(),
                None => Vec::new(),
            };
            if let Payload::Delete { of } = &heard.meant
                && !answered.contains(of)
                && let Some(said) = events.iter().find(|event| event.event_id == *of)
                && self.may_be_one_of(said, heard.sent, &left)?
            {
                let why = (Failure::Unsure, "it was deleted here");
                fate::failed(self.t, self.key, of.clone(), why, None, self.now.at)?;
            }
            // Of several edits the newest counts: it may be on Gitter already, and must not be undone.
            let outdated = matches!(&heard.meant, Payload::Edit { of, .. } if last_edits.get(of) != Some(&index));
            let carried = self.carried(heard, &said[index], &messages)? || outdated;
            let done = heard.done + u32::try_from(messages.len()).unwrap_or(u32::MAX);
            if let Some((number, row)) = heard.row.take() {
                if carried {
                    fate::arrived(self.t, self.key, number, self.now.at)?;
                } else {
                    self.t.remove_outgoing(self.key, number)?;
                    lane.push(Outgoing { done, attempt: Some(self.attempt(heard.sent)?), ..row });
                }
                continue;
            }
            let over = carried || answered.contains(&heard.event);
            // Of a lost store: the last words, after those that were carried; and what was said since there is this one.
            let since = self.t.began()?.is_some_and(|began| heard.sent >= began);
            let last = newest.is_none_or(|newest| index > newest)
                && self.now.at.0.saturating_sub(heard.sent.0) < FORGOTTEN_MS
                && matches!(heard.meant, Payload::Say { .. });
            if !over && self.since.0 == 0 && !last && !since {
                // The homeserver may have yet to send it.
                continue;
            }
            if self.t.mark_seen(&heard.event, self.now.at)? && !over {
                let (event, payload) = (heard.event.clone(), heard.meant.clone());
                let (sent, attempt) =
                    (heard.sent.min(self.now.at), Some(self.attempt(heard.sent)?));
                lane.push(Outgoing { event, sent, payload, done, attempt, told: None });
                going += 1;
            }
        }
        // What came since the room was read goes behind it.
        for (number, row) in self.t.outgoing(self.key, usize::MAX)? {
            self.t.remove_outgoing(self.key, number)?;
            lane.push(row);
        }
        for row in lane {
            self.t.push_outgoing(self.key, &row)?;
        }
        Ok(going)
    }

    /// What the account said, as far as links don't know it: what waits, wherever it was said, and what is in the room.
    fn heard(
        &mut self,
        events: &[Incoming],
        payload: &dyn Fn(&WriteTxn<'_>, &Incoming) -> Option<Payload>,
    ) -> Result<Vec<Heard>, StoreError> {
        let rows = self.t.outgoing(self.key, usize::MAX)?.into_iter();
        let rows = rows.map(|(number, row)| (row.event.clone(), (number, row)));
        let mut waiting: BTreeMap<OwnedEventId, (u64, Outgoing)> = rows.collect();
        let mut heard = Vec::new();
        for event in events.iter().filter(|e| e.sender == self.key.account && e.state_key.is_none())
        {
            if let Some((number, row)) = waiting.remove(&event.event_id) {
                heard.push(Heard::waiting(number, row));
                continue;
            }
            let linked = self.t.links_of_event(&event.event_id)?;
            let linked = linked.iter().any(|link| link.portal == *self.key);
            let Some(meant) = payload(self.t, event).filter(|_| !linked) else {
                self.t.mark_seen(&event.event_id, self.now.at)?;
                continue;
            };
            let (event, sent) = (event.event_id.clone(), claimed(event));
            heard.push(Heard { event, sent, meant, done: 0, row: None });
        }
        // What is left and waited before was said in a room before this one, or long ago.
        let until = self.until;
        let mut before: Vec<_> =
            waiting.into_values().filter(|(number, _)| *number <= until).collect();
        before.sort_by_key(|(number, _)| *number);
        let before = before.into_iter().map(|(number, row)| Heard::waiting(number, row));
        Ok(before.chain(heard).collect())
    }

    /// Whether something that was deleted here, and whose words are lost with that, may be one of these messages.
    fn may_be_one_of(
        &self,
        said: &Incoming,
        deleted: Millis,
        left: &[&Found],
    ) -> Result<bool, StoreError> {
        let sent = claimed(said).0.saturating_sub(SKEW_MS);
        let until = deleted.0.saturating_add(SKEW_MS);
        let links = self.t.links_of_event(&said.event_id)?;
        let unknown = links.iter().all(|link| link.portal != *self.key);
        Ok(unknown && left.iter().any(|message| (sent..=until).contains(&message.sent.0)))
    }

    /// A call that a run whose rows are lost made just before it ended may still land: as after any that was cut off.
    fn attempt(&self, sent: Millis) -> Result<Attempt, StoreError> {
        let link = self.t.last_links(self.key, 1)?.pop().map(|link| link.message);
        let cursor = self.t.cursor(self.key)?.map(|cursor| cursor.last);
        Ok(echo::attempt(self.now.clone(), link.max(cursor), sent))
    }

    /// Links an event with the messages that were found to be it; returns whether there is nothing left of it to carry.
    fn carried(
        &mut self,
        heard: &Heard,
        said: &Said,
        messages: &[&Found],
    ) -> Result<bool, StoreError> {
        let (event, from) = match &heard.meant {
            Payload::Say { adds_to: Some(to), .. } => (&to.event, to.part),
            Payload::Edit { of, .. } => (of, (self.newest_links(of)?.0 + 1) * LATE),
            Payload::Say { .. } | Payload::Delete { .. } => (&heard.event, 0),
        };
        let done = heard.done as usize;
        for (part, message) in (done..).zip(messages) {
            // A quote above an answer, or what an edit points at, is none of the event's own words.
            let own = said.reads(part - done, &message.text).filter(|_| part == 0);
            let own = own.and_then(|version| version.first());
            let lead = own.and_then(|own| message.text.strip_suffix(own.as_str()));
            let link = Link {
                portal: self.key.clone(),
                message: message.id.clone(),
                event: event.clone(),
                part: from.saturating_add(u32::try_from(part).unwrap_or(u32::MAX)),
                from_matrix: true,
                version: 1,
                digest: digest(&message.text),
                parent: message.parent.clone(),
                sender: None,
                lead: lead.unwrap_or_default().to_owned(),
                images: Vec::new(),
                gone: false,
            };
            self.link(&link)?;
        }
        let parts = match &heard.meant {
            // An edit may have made it shorter.
            Payload::Say { parts, .. } => messages
                .first()
                .and_then(|message| said.reads(0, &message.text))
                .map_or(parts.len(), |version| done + version.len()),
            // It is on Gitter already if the words there are its own.
            Payload::Edit { of, parts, .. } if self.reads(of, parts)? => 0,
            Payload::Edit { .. } => 1,
            Payload::Delete { of } => {
                let until = u64::try_from(LONGEST_MEDIA_LINK.as_millis()).unwrap_or(u64::MAX);
                let until = Millis(self.now.at.0.saturating_add(until));
                self.t.burn_nonce(&media::revocation(of), until)?;
                1
            }
        };
        Ok(done + messages.len() >= parts)
    }

    /// Whether the messages that an event is read like this.
    fn reads(&self, event: &ruma::EventId, parts: &[String]) -> Result<bool, StoreError> {
        let (_, links) = self.newest_links(event)?;
        let same = |(link, part): (&Link, &String)| {
            link.digest == digest(part) || link.digest == digest(&format!("{}{part}", link.lead))
        };
        Ok(links.len() == parts.len() && links.iter().zip(parts).all(same))
    }

    /// The messages that an event is now, or those of its newest late edit: that is the how manieth, and these are they.
    fn newest_links(&self, event: &ruma::EventId) -> Result<(u32, Vec<Link>), StoreError> {
        let mut links = self.t.links_of_event(event)?;
        links.retain(|link| link.portal == *self.key);
        Ok(newest(links))
    }

    /// The first message shown in the room, if the rows know of none that was: the room is newer than they are.
    fn first_shown(&self, events: &[Incoming]) -> Result<Option<MessageId>, StoreError> {
        let mut first = None;
        for message in events.iter().filter_map(shows) {
            if self.t.link_of_message(self.key, &message)?.is_some() {
                return Ok(None);
            }
            first = Some(first.map_or(message.clone(), |first: MessageId| first.min(message)));
        }
        Ok(first)
    }

    /// From where on the Gitter room is compared with the portal.
    fn cursor(
        &mut self,
        events: &[Incoming],
        whole: bool,
        first: Option<MessageId>,
        is_ghost: &dyn Fn(&UserId) -> bool,
    ) -> Result<(), StoreError> {
        // The time of a ghost's event may be its message's.
        let oldest = events.iter().filter(|event| !is_ghost(&event.sender));
        let oldest = oldest.map(|event| time_of(event, self.now.at)).min();
        let before = self.t.cursor(self.key)?;
        let carried = events.iter().any(|event| shows(event).is_some())
            || events
                .iter()
                .any(|event| event.sender == self.key.account && event.kind == "m.room.message");
        if before.is_none() && !carried {
            // A new room after all: it begins as every portal does.
            return Ok(());
        }
        let Some(oldest) = oldest else { return Ok(()) };
        let begin = match (&before, whole, first) {
            // What is older was shown in a room before this one, if at all, and would come late among what was shown here.
            (before, true, Some(first)) => {
                before.as_ref().map_or(first.clone(), |before| before.begin.clone().max(first))
            }
            (Some(before), true, None) => before.begin.clone(),
            // By a clock that may be ahead of Gitter's.
            (None, true, None) => MessageId::first_of(Millis(oldest.0.saturating_sub(SKEW_MS))),
            // What is older was carried, as far as anybody can tell: it must not look new.
            (_, false, _) => {
                let cut = MessageId::first_of(Millis(oldest.0.saturating_add(SKEW_MS)));
                before.as_ref().map_or(cut.clone(), |before| before.begin.clone().max(cut))
            }
        };
        // A lane carries in order: before the newest message that was carried nothing is missing.
        let newest = events.iter().filter_map(shows).max();
        let (last, gap) = before.map_or((None, None), |before| (Some(before.last), before.gap));
        let last = last.max(newest).map_or_else(|| begin.clone(), |last| last.max(begin.clone()));
        self.t.put_cursor(self.key, &Cursor { begin, last, gap })
    }
}

/// The events that the bot has answered with why they are not on Gitter; those that wait are not among them.
fn answered(events: &[Incoming]) -> BTreeSet<OwnedEventId> {
    let text = |content: &Value, path: &str| {
        content.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let of = events.iter().filter_map(|event| {
        let content = &event.content;
        if event.kind == STATUS {
            let failed = text(content, "/status").starts_with("FAIL");
            return failed.then(|| text(content, "/m.relates_to/event_id"));
        }
        // With `yet` it waits.
        let body = text(content, "/body");
        let failed = ["This message is not on Gitter: ", "This message may be on Gitter or not: "];
        let failed = failed.iter().any(|words| body.starts_with(words));
        failed.then(|| text(content, "/m.relates_to/m.in_reply_to/event_id"))
    });
    of.filter_map(|of| OwnedEventId::try_from(of).ok()).collect()
}

/// Finds what was said among the messages, each once and in order; for each index the messages of its parts, as far as found.
fn pair(said: &[Said], found: &[Found]) -> BTreeMap<usize, Vec<usize>> {
    let mut free: Vec<bool> = vec![true; found.len()];
    let mut pairs = BTreeMap::new();
    for (index, said) in said.iter().enumerate() {
        let longest = said.versions.iter().map(Vec::len).max().unwrap_or(0);
        let mut parts = Vec::new();
        for part in 0..longest {
            let after = parts.last().map_or(0, |at: &usize| at + 1);
            let is_it = |at: &usize| {
                let message = &found[*at];
                free[*at]
                    && message.sent.0.saturating_add(SKEW_MS) >= said.sent.0
                    && said.reads(part, &message.text).is_some()
            };
            let Some(at) = (after..found.len()).find(is_it) else { break };
            free[at] = false;
            parts.push(at);
        }
        if !parts.is_empty() {
            pairs.insert(index, parts);
        }
    }
    pairs
}

/// Whether a message reads like a part: as it is, or below the quote that an answer begins with.
fn same(message: &str, part: &str, first: bool, edit: bool) -> bool {
    let (message, part) = (plain(message), plain(part));
    let points = message.starts_with(":point_up: ");
    if edit {
        return first && points && message.ends_with(&part);
    }
    message == part
        || (first && message.starts_with("> [") && message.ends_with(&format!("\n\n{part}")))
}

/// Without what differs each time: the tokens in links to files, capitals in names, white space around.
fn plain(text: &str) -> String {
    const MEDIA: &str = "/media/";
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text.trim());
    while let Some((before, after)) = rest.split_once(MEDIA) {
        plain.push_str(before);
        plain.push_str(MEDIA);
        let token = after.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(0);
        rest = &after[token..];
    }
    plain.push_str(rest);
    plain.to_lowercase()
}

#[cfg(test)]
mod tests {
    use reconcile::model::{Failure, Hold};

    use super::*;
    use crate::bot::answer;

    type Row<'r> = (&'r str, Vec<Said>, Vec<Found>, Vec<Vec<usize>>);

    fn said(sent: u64, versions: &[&[&str]]) -> Said {
        let version = |parts: &&[&str]| parts.iter().map(|&part| part.to_owned()).collect();
        Said { sent: Millis(sent), versions: versions.iter().map(version).collect(), edit: false }
    }

    fn found(n: u8, sent: u64, text: &str) -> Found {
        let id = format!("5f00000000000000000000{n:02x}").parse().expect("an id");
        Found { id, sent: Millis(sent), text: text.to_owned(), parent: None }
    }

    #[test]
    fn what_the_bot_has_answered_is_not_carried_after_all() {
        let event = |n: u8, body: &str| -> Incoming {
            serde_json::from_value(serde_json::json!({
                "room_id": "!r:hs", "event_id": format!("$bot{n}"), "sender": "@gitter:hs",
                "type": "m.room.message", "origin_server_ts": 1,
                "content": {"msgtype": "m.notice", "body": body,
                    "m.relates_to": {"m.in_reply_to": {"event_id": format!("$said{n}")}}},
            }))
            .expect("an event")
        };
        let refused = answer::not_delivered(Failure::Refused, "Gitter does not take it").body;
        let waits = answer::waits(Hold::Login).body;
        let events = [event(1, &refused), event(2, &waits), event(3, "Hello")];
        let expected = [ruma::owned_event_id!("$said1")];
        assert_eq!(answered(&events), expected.into());
    }

    #[test]
    fn what_was_said_is_found_by_its_words_in_order_and_once() {
        let media = |token: &str| format!("![a](https://b.example/media/{token}/a.png)");
        let (old, new) = (media("one.x"), media("two.y"));
        let late = Said { edit: true, ..said(0, &[&["new words"]]) };
        let rows: Vec<Row<'_>> = vec![
            ("nothing", vec![], vec![found(1, 0, "a")], vec![]),
            ("itself", vec![said(0, &[&["a"]])], vec![found(1, 0, " a ")], vec![vec![0]]),
            (
                "twice the same",
                vec![said(0, &[&["a"]]), said(1, &[&["a"]])],
                vec![found(1, 0, "a"), found(2, 1, "a")],
                vec![vec![0], vec![1]],
            ),
            (
                "never arrived",
                vec![said(0, &[&["a"]]), said(1, &[&["b"]])],
                vec![found(1, 0, "a")],
                vec![vec![0], vec![]],
            ),
            (
                "too old to be it",
                vec![said(500_000, &[&["a"]])],
                vec![found(1, 0, "a")],
                vec![vec![]],
            ),
            ("edited", vec![said(0, &[&["a"], &["b"]])], vec![found(1, 0, "b")], vec![vec![0]]),
            (
                "in parts",
                vec![said(0, &[&["a", "b"]])],
                vec![found(1, 0, "a"), found(2, 0, "x"), found(3, 0, "b")],
                vec![vec![0, 2]],
            ),
            (
                "of which one arrived",
                vec![said(0, &[&["a", "b"]])],
                vec![found(1, 0, "a")],
                vec![vec![0]],
            ),
            (
                "an answer",
                vec![said(0, &[&["yes"]])],
                vec![found(1, 0, "> [bob](L): yes?"), found(2, 0, "> [bob](L): sure?\n\nyes")],
                vec![vec![1]],
            ),
            ("a file", vec![said(0, &[&[old.as_str()]])], vec![found(1, 0, &new)], vec![vec![0]]),
            (
                "a late edit",
                vec![late],
                vec![found(1, 0, "new words"), found(2, 0, ":point_up: [Edit](L): new words")],
                vec![vec![1]],
            ),
        ];
        for (name, said, found, expected) in rows {
            let pairs = pair(&said, &found);
            let pairs: Vec<Vec<usize>> =
                (0..said.len()).map(|at| pairs.get(&at).cloned().unwrap_or_default()).collect();
            assert_eq!(pairs, expected, "row: {name}");
        }
    }
}
