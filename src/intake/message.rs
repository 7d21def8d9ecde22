//! What the account says in a portal becomes a row of its outbox, or a word why not.

use reconcile::model::{
    Answers, Failure, Fate, Millis, News, Notice, Outgoing, Payload, PortalKey, Say, Target,
};
use ruma::{EventId, OwnedEventId};
use serde_json::Value;
use store::{StoreError, WriteTxn};

use super::{
    Hints, Rules,
    file::{self, File},
    time_of,
};
use crate::{
    appservice::Incoming,
    relay::{fate, to_gitter::amend::CHANGED_FROM},
    render::{
        html_to_markdown::{strip_reply_fallback, to_gitter},
        split::split,
        status::split_status,
    },
    settings::LONGEST_MEDIA_LINK,
    web::media::{self, MediaLinks},
};

/// Gitter's limit for a message, in UTF-16 units: see the Gitter reference, section 8.4.
const LONGEST: usize = 4096;
/// More parts than this are a file, not a message.
const MOST_PARTS: usize = 16;

/// Among so many events that wait, one that was deleted is looked for.
const WITHDRAWN_FROM: usize = 1_000;

/// What an event is to Gitter.
enum Reading {
    /// Text, what stands before it, whether it is a `/me`, and what it relates to.
    Text { lead: Lead, body: String, html: Option<String>, emote: bool, relation: Relation },
    /// An earlier event was deleted.
    Redaction(OwnedEventId),
    /// Nothing that was meant for others.
    Silent,
    /// Nothing that can be shown there; a clause for its sender.
    Cannot(&'static str),
}

/// What is no text, before the text that goes with it.
enum Lead {
    None,
    File(File),
    /// Markdown already.
    Words(String),
}

/// How a text relates to an earlier event.
enum Relation {
    None,
    Replaces(OwnedEventId),
    Answers(Answers),
}

impl Reading {
    /// Markdown made here, and nothing else.
    fn words(words: String, relation: Relation) -> Self {
        let lead = Lead::Words(words);
        Self::Text { lead, body: String::new(), html: None, emote: false, relation }
    }
}

impl Rules {
    pub(super) fn outgoing(
        &self,
        t: &mut WriteTxn<'_>,
        key: &PortalKey,
        event: &Incoming,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        // Who was put out of a room, or is just being put out of it, is told nothing there.
        let portal = t.portal(key)?;
        let out = portal.is_some_and(|p| !p.open.desired && p.open.last != Some(true));
        let tell = |t: &mut WriteTxn<'_>, hints: &mut Hints, of: &EventId, failure, why: &str| {
            if out {
                hints.words = true;
                return fate::failed(t, key, of.to_owned(), (failure, why), None, now);
            }
            let news = News::Failed(failure, why.to_owned());
            let say = Say::Fate(Fate { event: of.to_owned(), news, instead: None });
            t.push_notice(&Notice { to: Target::Room(event.room_id.clone()), say, at: now })?;
            hints.words = true;
            Ok(())
        };
        let refuse = |t: &mut WriteTxn<'_>, hints: &mut Hints, failure, why: &str| {
            tell(t, hints, &event.event_id, failure, why)
        };
        let session = t.account(&key.account)?.unwrap_or_default().session;
        let reading = read(event);
        match &reading {
            Reading::Silent => return Ok(()),
            // Whoever is logged out can still take a file back.
            Reading::Redaction(of) => {
                let until = u64::try_from(LONGEST_MEDIA_LINK.as_millis()).unwrap_or(u64::MAX);
                t.burn_nonce(&media::revocation(of), Millis(now.0.saturating_add(until)))?;
            }
            _ => {}
        }
        let Some(person) = session.person() else {
            // A run whose rows are lost may have read it in the room, and sent it.
            let unlearned = t.relearn_since(key)?.is_some();
            let doubtful = t.portal(key)?.is_some_and(|portal| portal.doubtful.is_some());
            let unsure = unlearned || doubtful && matches!(reading, Reading::Redaction(_));
            return match &reading {
                Reading::Redaction(of)
                    if !unsure
                        && t.links_of_event(of)?.is_empty()
                        && !t.has_changed(key, of, CHANGED_FROM)? =>
                {
                    Ok(())
                }
                Reading::Redaction(of) if !unsure => {
                    tell(t, hints, of, Failure::Kept, "you are logged out of Gitter")
                }
                _ if unsure => refuse(t, hints, Failure::Unsure, "you were logged out of Gitter"),
                _ => refuse(t, hints, Failure::LoggedOut, "you are logged out of Gitter"),
            };
        };
        let payload = match reading {
            Reading::Silent => return Ok(()),
            Reading::Cannot(why) => return refuse(t, hints, Failure::Unsupported, why),
            Reading::Redaction(of) => {
                withdraw(t, key, &of, now)?;
                hints.words = true;
                Payload::Delete { of }
            }
            text @ Reading::Text { .. } => {
                match said(t, key, &person.username, event, text, self.voice.files(), now) {
                    Ok(payload) => payload,
                    Err((failure, why)) => return refuse(t, hints, failure, why),
                }
            }
        };
        let (event_id, sent) = (event.event_id.clone(), time_of(event, now));
        let row = Outgoing { event: event_id, sent, payload, done: 0, attempt: None, told: None };
        t.push_outgoing(key, &row)?;
        // Without a valid login its sender is told there that it waits.
        hints.outward.insert(key.clone());
        Ok(())
    }
}

/// What an event of a portal's account does on Gitter, where it is called `username`; `None` when nothing.
///
/// For events whose rows are lost: what is read from a room anew is put into the same words.
pub(crate) fn meaning(
    t: &WriteTxn<'_>,
    key: &PortalKey,
    username: &str,
    event: &Incoming,
    files: Option<&MediaLinks>,
    now: Millis,
) -> Option<Payload> {
    match read(event) {
        Reading::Silent | Reading::Cannot(_) => None,
        Reading::Redaction(of) => Some(Payload::Delete { of }),
        text @ Reading::Text { .. } => said(t, key, username, event, text, files, now).ok(),
    }
}

/// The words of an event on Gitter, or why there are none; a clause for its sender.
fn said(
    t: &WriteTxn<'_>,
    key: &PortalKey,
    username: &str,
    event: &Incoming,
    reading: Reading,
    files: Option<&MediaLinks>,
    now: Millis,
) -> Result<Payload, (Failure, &'static str)> {
    const EMPTY: (Failure, &str) = (Failure::Unsupported, "there is no text in it");
    let Reading::Text { lead, body, html, emote, relation } = reading else {
        return Err(EMPTY);
    };
    let text = to_markdown(t, key, username, &body, html.as_deref());
    let lead = led(lead, event, &relation, files, now);
    let lead = lead.map_err(|why| (Failure::Unsupported, why))?;
    let gap = if lead.is_empty() || text.trim().is_empty() { "" } else { "\n\n" };
    let text = format!("{lead}{gap}{text}");
    if text.trim().is_empty() {
        return Err(EMPTY);
    }
    let parts = if emote { split_status(username, &text, LONGEST) } else { split(&text, LONGEST) };
    if parts.len() > MOST_PARTS {
        return Err((Failure::TooLong, "it is too long, even in several parts"));
    }
    let status = emote;
    Ok(match relation {
        Relation::Replaces(of) => Payload::Edit { of, parts, status },
        Relation::Answers(answers) => Payload::say(parts, status, Some(answers)),
        Relation::None => Payload::say(parts, status, None),
    })
}

fn led(
    lead: Lead,
    event: &Incoming,
    relation: &Relation,
    files: Option<&MediaLinks>,
    now: Millis,
) -> Result<String, &'static str> {
    let file = match lead {
        Lead::None => return Ok(String::new()),
        Lead::Words(words) => return Ok(words),
        Lead::File(file) => file,
    };
    let links = files.ok_or(file::SWITCHED_OFF)?;
    // People delete the message, not the changes of it.
    let of = match relation {
        Relation::Replaces(of) => of,
        _ => &event.event_id,
    };
    file.markdown(links, of, i64::try_from(now.0).unwrap_or(i64::MAX))
}

/// What was deleted before it left need not leave at all. What may have left already is deleted afterwards.
fn withdraw(
    t: &mut WriteTxn<'_>,
    key: &PortalKey,
    event: &EventId,
    now: Millis,
) -> Result<(), StoreError> {
    // A run whose rows are lost may have sent what waits.
    let unlearned = t.relearn_since(key)?.is_some();
    for (number, row) in t.outgoing(key, WITHDRAWN_FROM)? {
        let untouched = row.done == 0 && row.attempt.is_none() && !unlearned;
        let meant = match &row.payload {
            Payload::Say { .. } => row.event == event,
            // An edit is deleted by itself, too.
            Payload::Edit { of, .. } => of == event || row.event == event,
            Payload::Delete { .. } => false,
        };
        if meant && untouched {
            t.remove_outgoing(key, number)?;
            fate::withdrawn(t, row, now)?;
        }
    }
    Ok(())
}

fn to_markdown(
    t: &WriteTxn<'_>,
    key: &PortalKey,
    username: &str,
    body: &str,
    html: Option<&str>,
) -> String {
    to_gitter(body, html, &|user| {
        if *user == key.account {
            return Some(username.to_owned());
        }
        let id = t.ghost_named(user).ok().flatten()?;
        Some(t.ghost(&id).ok().flatten()?.username)
    })
}

/// The event that this one deletes.
pub(super) fn deleted(event: &Incoming) -> Option<OwnedEventId> {
    match read(event) {
        Reading::Redaction(of) => Some(of),
        _ => None,
    }
}

fn read(event: &Incoming) -> Reading {
    let content = &event.content;
    match event.kind.as_str() {
        "m.room.message" | "m.sticker" => {}
        "m.room.encrypted" => {
            return Reading::Cannot("it is encrypted, and the bridge can't read that");
        }
        "m.room.redaction" => {
            let redacts = content.get("redacts").and_then(event_id);
            return redacts
                .or_else(|| event.redacts.clone())
                .map_or(Reading::Silent, Reading::Redaction);
        }
        // A redacted poll.
        _ if content.as_object().is_some_and(serde_json::Map::is_empty) => return Reading::Silent,
        _ => {}
    }
    let relates = content.get("m.relates_to");
    let related = relates.and_then(|r| r.get("event_id")).and_then(event_id);
    let kind = relates.and_then(|r| r.get("rel_type")).and_then(Value::as_str);
    let in_reply = relates.and_then(|r| r.pointer("/m.in_reply_to/event_id")).and_then(event_id);
    let (content, relation) = match (kind, related, in_reply.clone()) {
        (Some("m.replace"), Some(of), _) => {
            (content.get("m.new_content").unwrap_or(content), Relation::Replaces(of))
        }
        (Some("m.thread"), Some(event), _) => {
            (content, Relation::Answers(Answers { event, thread: true }))
        }
        (_, _, Some(event)) => (content, Relation::Answers(Answers { event, thread: false })),
        _ => (content, Relation::None),
    };
    if !matches!(event.kind.as_str(), "m.room.message" | "m.sticker") {
        let cannot = Reading::Cannot("this poll can't be read");
        return file::poll(content).map_or(cannot, |poll| Reading::words(poll, relation));
    }
    let text = |name: &str| content.get(name).and_then(Value::as_str);
    let Some(body) = text("body") else {
        // A redacted message comes back without its content; it was never seen before then.
        return Reading::Silent;
    };
    let (lead, emote) = match text("msgtype").unwrap_or_default() {
        "m.text" => (Lead::None, false),
        "m.emote" => (Lead::None, true),
        // Bots talk in notices, and must not answer each other's.
        "m.notice" => return Reading::Silent,
        "m.image" | "m.file" | "m.audio" | "m.video" => match File::read(content) {
            Ok(file) => (Lead::File(file), false),
            Err(why) => return Reading::Cannot(why),
        },
        "m.location" => return Reading::words(file::location(content), relation),
        _ if event.kind == "m.sticker" => match File::read(content) {
            Ok(file) => (Lead::File(file), false),
            Err(why) => return Reading::Cannot(why),
        },
        _ => return Reading::Cannot("this kind of message can't be shown there"),
    };
    if matches!(lead, Lead::File(_)) && !file::has_caption(content) {
        return Reading::Text { lead, body: String::new(), html: None, emote, relation };
    }
    let html = (text("format") == Some("org.matrix.custom.html"))
        .then(|| text("formatted_body").map(str::to_owned))
        .flatten();
    let body = if in_reply.is_some() { strip_reply_fallback(body) } else { body };
    Reading::Text { lead, body: body.to_owned(), html, emote, relation }
}

fn event_id(value: &Value) -> Option<OwnedEventId> {
    value.as_str()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a poll with this content says, and how it relates to what was said before.
    fn poll(kind: &str, content: &Value) -> Option<(String, Relation)> {
        let event = json!({"room_id": "!r:hs", "event_id": "$e", "sender": "@a:hs", "type": kind,
            "origin_server_ts": 1, "content": content});
        let event: Incoming = serde_json::from_value(event).expect("an event");
        match read(&event) {
            Reading::Text { lead: Lead::Words(words), relation, .. } => Some((words, relation)),
            _ => None,
        }
    }

    #[test]
    fn a_poll_stays_in_its_thread_and_an_edit_of_it_is_what_it_says_now() {
        let start =
            |question: &str| json!({"question": {"m.text": [{"body": question}]}, "answers": []});
        for (kind, key) in [
            ("m.poll.start", "m.poll"),
            ("org.matrix.msc3381.poll.start", "org.matrix.msc3381.poll.start"),
        ] {
            let relates = json!({"rel_type": "m.thread", "event_id": "$root",
                "is_falling_back": true, "m.in_reply_to": {"event_id": "$last"}});
            let (words, relation) =
                poll(kind, &json!({key: start("Tea?"), "m.relates_to": relates})).expect("a poll");
            assert!(words.starts_with("**Poll: Tea?**"), "{kind}: {words}");
            let Relation::Answers(answers) = relation else { panic!("{kind}: in no thread") };
            assert!(answers.thread && answers.event == "$root", "{kind}: {answers:?}");

            // An edit need not repeat beside it what is in the new content.
            let relates = json!({"rel_type": "m.replace", "event_id": "$poll"});
            let new = json!({key: start("Coffee?")});
            let (words, relation) =
                poll(kind, &json!({"m.new_content": new, "m.relates_to": relates}))
                    .expect("a poll");
            assert!(words.starts_with("**Poll: Coffee?**"), "{kind}: {words}");
            let Relation::Replaces(of) = relation else { panic!("{kind}: replaces nothing") };
            assert_eq!(of, "$poll", "{kind}");

            let (_, relation) = poll(kind, &json!({key: start("Tea?")})).expect("a poll");
            assert!(matches!(relation, Relation::None), "{kind}: related to something");
            assert!(poll(kind, &json!({})).is_none(), "{kind}: a deleted one");
        }
    }
}
