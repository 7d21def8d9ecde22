//! What is said about an earlier message: answers, edits, deletions.
//!
//! All of it may be done twice without harm: what is written on Gitter is the same each time, and what was deleted stays so.

use std::time::Duration;

use reconcile::{
    model::{AddsTo, Answers, Failure, Link, MessageId, Millis, Payload, PortalKey, digest},
    port::Clock as _,
};
use ruma::EventId;
use store::StoreError;

use super::{Failed, First, Relay, Step};
use crate::{
    gitter::{Caller, GitterError},
    render::{split::split, status::split_led},
    settings::Replies,
};

/// Gitter's limit for a message, in UTF-16 units: see the Gitter reference, section 8.4.
const LONGEST: usize = 4096;
/// Messages older than this can't be changed on Gitter; its 600 s, less what clocks may differ.
const EDITABLE: Duration = Duration::from_secs(590);
/// Parts of an event from this number on, and its multiples, are those of an edit that came too late.
pub(in crate::relay) const LATE: u32 = 1_000;
/// Why an edit is not on Gitter when what it changes is not, or not all of it.
const NOTHING_TO_CHANGE: &str = "the message it changes is not on Gitter, or not all of it";
/// Why the deletion of an edit changes nothing.
const STAYS_CHANGED: &str = "it changed an earlier one, which stays as it reads there now; to take that back, edit that one";
/// How long it is known which event was an edit: 30 days.
const REMEMBERED_MS: u64 = 30 * 24 * 3600 * 1000;
/// Among so many of the newest messages, one is looked for that a deleted edit has changed.
pub(crate) const CHANGED_FROM: usize = 2_000;
/// How much of an answered message is quoted, in characters and lines.
const QUOTED: (usize, usize) = (200, 3);

impl Relay {
    /// Where an answer goes: into the thread of what it answers, or below a quote of it.
    pub(super) async fn place_answer(
        &self,
        first: &First,
        caller: &Caller,
        answers: &Answers,
    ) -> Result<Step, Failed> {
        let Payload::Say { parts, status, .. } = &first.row.payload else { return Ok(Step::Done) };
        let say = |lead: String, parent| {
            let (status, parts) = (*status, led_by(&lead, parts, *status));
            let (answers, adds_to) = (None, None);
            Step::Become(Payload::Say { parts, status, answers, parent, adds_to, lead })
        };
        let nothing = String::new;
        let target = self.links(&first.portal, &answers.event).await?.into_iter().next();
        let Some(target) = target else {
            // Something said before the portal, or by the bot: the answer stands alone.
            return Ok(say(nothing(), None));
        };
        // Gitter's threads have one level: who answers a child answers in its thread.
        if target.parent.is_some() {
            return Ok(say(nothing(), target.parent));
        }
        let (room, account) = (first.portal.room.as_str(), caller.account.for_person());
        if answers.thread || self.0.choices.replies == Replies::Thread {
            // With replies, a deleted message is still there to answer, empty; without, it is gone.
            let there =
                !target.gone || account.message(room, target.message.as_str()).await?.is_some();
            return Ok(say(nothing(), there.then_some(target.message)));
        }
        let quoted = account.message(room, target.message.as_str()).await?;
        let Some(quoted) = quoted else { return Ok(say(nothing(), None)) };
        let author = quoted.from_user.as_ref().map_or("somebody", |user| user.username.as_str());
        let link = self.permalink(&first.portal, &target.message).await?;
        Ok(say(format!("{}\n\n", quote(author, &link, &quoted.text)), None))
    }

    /// Changes the messages of an earlier event; too late for that, the new words are a message that points at the old one.
    pub(super) async fn edit(
        &self,
        first: &First,
        caller: &Caller,
        of: &EventId,
        parts: &[String],
        status: bool,
    ) -> Result<Step, Failed> {
        let (late, links) = newest(self.links(&first.portal, of).await?);
        let Some(oldest) = links.first() else {
            return Ok(Step::Cannot(Failure::Unsupported, NOTHING_TO_CHANGE));
        };
        let parent = oldest.parent.clone();
        let add = |parts: Vec<String>, part, lead| {
            let adds_to = Some(AddsTo { event: of.to_owned(), part });
            let (answers, parent) = (None, parent.clone());
            Step::Become(Payload::Say { parts, status, answers, parent, adds_to, lead })
        };
        let led = led_by(&oldest.lead, parts, status);
        let (room, account) = (first.portal.room.as_str(), &caller.account);
        let age = self.0.bridge.clock.now().since(oldest.message.made());
        let (mut too_late, mut missing) = (age > EDITABLE, false);
        if !too_late {
            for (link, text) in links.iter().zip(&led) {
                // Noted first: the echo of the change must not be taken for somebody else's.
                self.note(Link { digest: digest(text), ..link.clone() }).await?;
                match account.edit(room, link.message.as_str(), text).await {
                    Ok(now) => {
                        let link = Link { digest: digest(&now.text), ..link.clone() };
                        self.note_change(link, &first.row.event).await?;
                    }
                    Err(GitterError::NotFound) => {
                        // If the room is gone, this tells. If the message is, it is the lane of the other direction that takes
                        // it back here: once noted as gone, it would stay.
                        account.room(room).await?;
                        self.catch_up(&first.portal);
                        missing = true;
                    }
                    Err(GitterError::Invalid { .. }) => {
                        self.note(link.clone()).await?;
                        too_late = true;
                        break;
                    }
                    Err(error) => {
                        if error.maybe_done() {
                            let link = Link { digest: digest(text), ..link.clone() };
                            self.note_change(link, &first.row.event).await?;
                        }
                        return Err(error.into());
                    }
                }
            }
        }
        if too_late {
            // An earlier call may have changed it in time, of which nobody heard.
            let mut changed = led.len() <= links.len();
            for (link, text) in links.iter().zip(&led) {
                if changed {
                    let now = account.message(room, link.message.as_str()).await?;
                    changed = now.is_some_and(|now| now.text == *text);
                }
            }
            if !changed {
                let link = self.permalink(&first.portal, &oldest.message).await?;
                let lead = format!(":point_up: [Edit]({link}): ");
                return Ok(add(led_by(&lead, parts, status), (late + 1) * LATE, lead));
            }
        }
        for link in links.iter().skip(led.len()) {
            // Deleted before it is noted: cut off in between, it must be deleted again. The first part keeps the event.
            account.delete(room, link.message.as_str()).await?;
            self.note(Link { gone: true, ..link.clone() }).await?;
        }
        if missing {
            return Ok(Step::Cannot(Failure::Unsupported, NOTHING_TO_CHANGE));
        }
        if led.len() > links.len() {
            let next = links.last().map_or(0, |last| last.part + 1);
            return Ok(add(led[links.len()..].to_vec(), next, String::new()));
        }
        Ok(Step::Done)
    }

    /// Deletes every message of an earlier event. What an edit has changed on Gitter is not changed back: it has no memory of how it
    /// read before.
    pub(super) async fn delete(
        &self,
        first: &First,
        caller: &Caller,
        of: &EventId,
    ) -> Result<Step, Failed> {
        let links = self.links(&first.portal, of).await?;
        if links.is_empty() {
            let (key, of) = (first.portal.clone(), of.to_owned());
            let changed = self.0.db.look(move |t| t.has_changed(&key, &of, CHANGED_FROM));
            if changed.await? {
                return Ok(Step::Cannot(Failure::Kept, STAYS_CHANGED));
            }
        }
        for link in links {
            self.note(Link { gone: true, ..link.clone() }).await?;
            caller.account.delete(first.portal.room.as_str(), link.message.as_str()).await?;
        }
        Ok(Step::Done)
    }

    /// The messages an event is in this portal, those deleted left out unless their deletion was only begun.
    pub(in crate::relay) async fn links(
        &self,
        portal: &PortalKey,
        event: &EventId,
    ) -> Result<Vec<Link>, StoreError> {
        let (key, event) = (portal.clone(), event.to_owned());
        let links = self.0.db.look(move |t| t.links_of_event(&event));
        let mut links: Vec<Link> =
            links.await?.into_iter().filter(|link| link.portal == key).collect();
        links.sort_by_key(|link| link.part);
        Ok(links)
    }

    async fn note(&self, link: Link) -> Result<(), StoreError> {
        self.0.db.change(move |t| t.put_link(&link)).await
    }

    /// Notes with a link that its message reads otherwise by an edit, or may do so.
    async fn note_change(&self, link: Link, by: &EventId) -> Result<(), StoreError> {
        let (by, until) = (by.to_owned(), remembered(self.0.bridge.clock.now()));
        let noted = self.0.db.change(move |t| {
            t.put_link(&link)?;
            t.put_change(&link, &by, until)
        });
        noted.await
    }

    async fn permalink(
        &self,
        portal: &PortalKey,
        message: &MessageId,
    ) -> Result<String, StoreError> {
        let key = portal.clone();
        let room = self.0.db.look(move |t| t.room(&key)).await?;
        Ok(room.map_or_else(String::new, |room| self.0.gitter.permalink(&room, message)))
    }
}

/// Until when it is known which event was an edit, for whoever deletes that.
pub(super) fn remembered(now: Millis) -> Millis {
    Millis(now.0.saturating_add(REMEMBERED_MS))
}

/// What an event's messages are that are changed from now on, in order, and by the how manieth late edit they are: each is a message
/// of its own.
pub(in crate::relay) fn newest(mut links: Vec<Link>) -> (u32, Vec<Link>) {
    let late = links.iter().map(|link| link.part / LATE).max().unwrap_or(0);
    links.retain(|link| !link.gone && link.part / LATE == late);
    links.sort_by_key(|link| link.part);
    (late, links)
}

/// The parts with something before the first, which may make it two.
fn led_by(lead: &str, parts: &[String], status: bool) -> Vec<String> {
    let Some((first, rest)) = parts.split_first().filter(|_| !lead.is_empty()) else {
        return parts.to_vec();
    };
    let mut led = if status {
        split_led(lead, first, LONGEST)
    } else {
        split(&format!("{lead}{first}"), LONGEST)
    };
    led.extend_from_slice(rest);
    led
}

/// `> [@author](link): the first words`, so that readers on Gitter see what is answered.
fn quote(author: &str, link: &str, text: &str) -> String {
    // A fence cut off would swallow the answer; without its fences, code reads as text.
    let is_fence = |line: &str| ["```", "~~~"].iter().any(|f| line.trim_start().starts_with(f));
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !is_fence(line));
    let lines: Vec<&str> = lines.collect();
    let mut kept: String = lines.iter().take(QUOTED.1).copied().collect::<Vec<_>>().join("\n");
    let cut = lines.len() > QUOTED.1 || kept.chars().count() > QUOTED.0;
    kept = kept.replace("```", "").chars().take(QUOTED.0).collect();
    if cut {
        kept.push('…');
    }
    // Quoting somebody must not call them, or the whole room, again.
    let kept = kept.replace('@', "@\u{2060}").replace('\n', "\n> ");
    format!("> [{author}]({link}): {kept}")
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_quote_is_short_calls_nobody_and_leaves_no_fence_open() {
        let rows = [
            ("one line", "hello", "> [bob](L): hello"),
            ("several lines", "a\nb\nc\nd", "> [bob](L): a\n> b\n> c…"),
            ("a mention", "hi @/all", "> [bob](L): hi @\u{2060}/all"),
            ("a fence", "```rust\nx\n```", "> [bob](L): x"),
            ("a fence, and more", "see:\n\n~~~\nx\n~~~\ny", "> [bob](L): see:\n> x\n> y"),
        ];
        for (name, text, expected) in rows {
            assert_eq!(quote("bob", "L", text), expected, "row: {name}");
        }
        assert!(quote("bob", "L", &"x".repeat(1000)).chars().count() < 230);
    }
}
