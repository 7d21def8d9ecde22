//! Matrix → Gitter: the outbox of a portal, in order, with the owner's own token.

pub(crate) mod amend;

use std::time::Duration;

use reconcile::{
    breaker::{Away, Side},
    driver::Key,
    model::{Attempt, Failure, Link, MessageId, Millis, Outgoing, Payload, PortalKey, digest},
    port::Clock as _,
    queue::Class,
};
use store::{StoreError, WriteTxn};

use super::{Relay, Turn, confirm, echo, fate, onward};
use crate::{
    gitter::{Caller, GitterError, Message, NewMessage, PATIENCE, Page},
    metrics::{Direction, MessageOutcome},
    telemetry::Chain,
};

/// A call that failed has come to its end so long after its answer: a message that appears after it was looked for would be
/// doubled.
const LANDS: Duration = Duration::from_secs(5);
/// The same of a call without an answer, after its beginning. That the connection broke, or the program ended, does not end it on
/// Gitter: it may go on there for as long as anybody would have waited.
const LANDS_UNSEEN: Duration = PATIENCE.saturating_add(LANDS);
/// Why nothing can be sent to a Gitter room any more, nor looked for in it.
pub(super) const SHUT_OUT: &str = "Gitter does not let you write in this room";
pub(super) const GONE: &str = "the room is gone on Gitter";
/// Messages a page, when one is looked for.
const LOOKED_AT: usize = 100;

/// A failure on the way to Gitter: the other side's, or our own store's.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Gitter(#[from] GitterError),
    /// After Gitter had taken the message, or may have: it may well be there.
    #[error(transparent)]
    Unsure(GitterError),
    /// A call of which nothing was heard may still come to its end.
    #[error("an earlier call may not have ended yet")]
    Early(Duration),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of the next thing to do for an event.
enum Step {
    /// A part of it is this message, with this digest of its text as Gitter keeps it.
    Said(MessageId, u64),
    /// It is something else on Gitter than it seemed: a late edit is a new message.
    Become(Payload),
    /// All of it is done.
    Done,
    /// It can't be done: of which kind this is, and a clause for its sender.
    Cannot(Failure, &'static str),
}

/// The first event of an outbox, and its number.
struct First {
    portal: PortalKey,
    number: u64,
    row: Outgoing,
}

impl Relay {
    /// There is something in the portal's outbox, or the way is clear again.
    pub fn poke_outward(&self, portal: PortalKey) {
        let relay = self.clone();
        self.0.outward.poke(
            portal,
            || self.0.bridge.dice(),
            move |portal| {
                let relay = relay.clone();
                async move { relay.turn_outward(&portal).await }
            },
        );
    }

    async fn turn_outward(&self, portal: &PortalKey) -> Turn {
        loop {
            if !self.0.sides.gitter.is_clear() {
                // Its sender is told that it waits, if it waits for long.
                self.watch(portal.clone());
                self.there(Side::Gitter, Class::Waiting).await;
            }
            let turn = match self.send_first(portal).await {
                Ok(turn) => turn,
                Err(error) => {
                    tracing::error!(portal = %portal, error = %Chain(&error), "outbox can't be worked on");
                    Some(Turn::Later(None))
                }
            };
            if let Some(turn) = turn {
                return turn;
            }
        }
    }

    /// Does the next thing for the first event; `None` when there is more to do at once.
    async fn send_first(&self, portal: &PortalKey) -> Result<Option<Turn>, StoreError> {
        let key = portal.clone();
        let read = self.0.db.look(move |t| {
            let open = t.portal(&key)?.is_some_and(|portal| portal.open.desired);
            Ok((t.first_outgoing(&key)?, t.relearn_since(&key)?.is_some(), open))
        });
        let (first, relearns, open) = read.await?;
        let Some((number, row)) = first else { return Ok(Some(Turn::Idle)) };
        // Without a login the messages wait: the next one pokes this lane.
        let Some(caller) = self.0.gitter.caller(&portal.account).await? else {
            self.hold(portal).await?;
            return Ok(Some(Turn::Blocked));
        };
        if relearns && open {
            // Perhaps it was sent by a run whose rows are lost; the other lane finds out, and pokes this one.
            self.catch_up(portal);
            return Ok(Some(Turn::Blocked));
        }
        if relearns {
            self.give_up_unlearned(portal, "its room here was closed").await?;
            return Ok(None);
        }
        if row.told.is_none() {
            self.watch(portal.clone());
        }
        let first = First { portal: portal.clone(), number, row };
        let step = match &first.row.payload {
            Payload::Say { parts, status, answers, parent, .. } => match answers {
                Some(answers) => self.place_answer(&first, &caller, answers).await,
                None => self.say_part(&first, &caller, parts, *status, parent.as_ref()).await,
            },
            Payload::Edit { of, parts, status } => {
                self.edit(&first, &caller, of, parts, *status).await
            }
            Payload::Delete { of } => self.delete(&first, &caller, of).await,
        };
        match step {
            Ok(Step::Said(message, digest)) => self.link(first, message, digest).await?,
            Ok(Step::Become(payload)) => self.become_payload(&first, payload).await?,
            Ok(Step::Done) => self.finish(&first).await?,
            Ok(Step::Cannot(failure, why)) => self.give_up(&first, failure, why).await?,
            Err(Failed::Store(error)) => return Err(error),
            Err(Failed::Gitter(error)) => {
                if !error.maybe_done() && first.row.attempt.is_none() {
                    // Gitter did not do it: the next try need not look for it, and nothing waits for its echo.
                    self.mark(&first, None).await?;
                    self.poke_inward(portal.clone());
                }
                return self.not_sent(&first, &caller, &error, false).await;
            }
            Err(Failed::Early(left)) => return Ok(Some(Turn::Later(Some(left)))),
            Err(Failed::Unsure(error)) => {
                return self.not_sent(&first, &caller, &error, true).await;
            }
        }
        Ok(None)
    }

    /// Makes sure that the next part is on Gitter.
    async fn say_part(
        &self,
        first: &First,
        caller: &Caller,
        parts: &[String],
        status: bool,
        parent: Option<&MessageId>,
    ) -> Result<Step, Failed> {
        let text = parts.get(first.row.done as usize).cloned().unwrap_or_default();
        if let Some(attempt) = &first.row.attempt {
            // Before the look: what lands while that is under way may not be seen by it.
            let (end, lands) = match &attempt.answered {
                Some(end) => (end, LANDS),
                None => (&attempt.at, LANDS_UNSEEN),
            };
            let left = lands.saturating_sub(self.0.bridge.waited(end));
            // The end of an earlier call was never seen: perhaps the message is there.
            if let Some(found) = self.look_for(&first.portal, caller, &text, attempt).await? {
                return Ok(Step::Said(found, digest(&text)));
            }
            if !left.is_zero() {
                return Err(Failed::Early(left));
            }
        }
        // Each time: from when on this call may land, the beginning of an earlier one does not tell.
        if !self.mark(first, Some(self.attempt(first).await?)).await? {
            // Withdrawn in this very moment: logged out, or deleted.
            return Ok(Step::Done);
        }
        let parent_id = parent.map(ToString::to_string);
        let room = first.portal.room.as_str();
        let message = NewMessage { text, status, parent_id };
        let answer = match caller.account.send(room, &message).await {
            Err(error) if error.maybe_done() => {
                if error.is_answer() {
                    self.note_answered(first).await?;
                }
                return Err(error.into());
            }
            answer => answer?,
        };
        // An answer without a version was never saved: see the Gitter reference, section 6.1.
        if answer.v.is_none() {
            let kept = caller.account.message(room, &answer.id).await;
            if kept.map_err(Failed::Unsure)?.is_none() {
                return Ok(Step::Cannot(Failure::Silenced, confirm::SWALLOWED));
            }
        }
        let id = answer.id.parse().map_err(|error: reconcile::model::IdError| {
            Failed::Unsure(GitterError::Malformed(error.into()))
        })?;
        Ok(Step::Said(id, digest(&answer.text)))
    }

    /// The message an earlier call may have made, among all that were made in the room since.
    async fn look_for(
        &self,
        portal: &PortalKey,
        caller: &Caller,
        text: &str,
        attempt: &Attempt,
    ) -> Result<Option<MessageId>, Failed> {
        let account = caller.account.for_person();
        let mut from = echo::since(attempt);
        loop {
            let after = Page::After(from.as_str(), LOOKED_AT);
            let page = account.messages(portal.room.as_str(), after).await;
            let page = match page {
                // Nobody can look there any more: but what was read there before waits to be shown.
                Err(error @ (GitterError::Forbidden | GitterError::NotFound)) => {
                    let read = self.0.inbox.waiting(portal);
                    let own = echo::find(&read, &caller.own, text, &|_| false);
                    let found = own.and_then(|message| message.id.parse::<MessageId>().ok());
                    let found = found.filter(|id| *id > from);
                    return found.map(Some).ok_or(Failed::Unsure(error));
                }
                page => page.map_err(Failed::Unsure)?,
            };
            let next = onward(&from, &page, LOOKED_AT);
            let (key, own, text) = (portal.clone(), caller.own.clone(), text.to_owned());
            let found = self.0.db.look(move |t| {
                let portals = t.portals_for(&key.room)?;
                // Of two people on one Gitter account either may have sent it.
                let others = |id: &MessageId| {
                    let link = |portal| t.link_of_message(portal, id).ok().flatten();
                    portals.iter().filter_map(link).any(|link| link.from_matrix)
                };
                let known = |message: &Message| match message.id.parse() {
                    // A row that can't be read counts as known: better a second look than a wrong link.
                    Ok(id) => !matches!(t.link_of_message(&key, &id), Ok(None)) || others(&id),
                    Err(_) => true,
                };
                Ok(echo::find(&page, &own, &text, &known).and_then(|m| m.id.parse().ok()))
            });
            match (found.await?, next) {
                (None, Some(next)) => from = next,
                (found, _) => return Ok(found),
            }
        }
    }

    async fn not_sent(
        &self,
        first: &First,
        caller: &Caller,
        error: &GitterError,
        unsure: bool,
    ) -> Result<Option<Turn>, StoreError> {
        let (portal, event) = (&first.portal, &first.row.event);
        let (failure, why) = match error {
            GitterError::TokenRejected => {
                self.0.bridge.token_rejected(&portal.account, caller.generation).await?;
                self.hold(portal).await?;
                return Ok(Some(Turn::Blocked));
            }
            GitterError::Limited { retry_after } => {
                return Ok(Some(Turn::Later(Some(*retry_after))));
            }
            // The lane waits for its return before the next try.
            GitterError::Unavailable { .. } if Away::among(error).is_some() => return Ok(None),
            GitterError::Unavailable { .. } | GitterError::Malformed(_) => {
                tracing::warn!(portal = %portal, event = %event, error = %Chain(error), "message waits for gitter");
                self.0.metrics.message(Direction::ToGitter, MessageOutcome::Delayed);
                return Ok(Some(Turn::Later(None)));
            }
            GitterError::Forbidden => (Failure::NotAllowed, SHUT_OUT),
            GitterError::NotFound | GitterError::Moved => (Failure::Gone, GONE),
            GitterError::Invalid { status: Some(413) } => {
                (Failure::TooLong, "it is too long for Gitter")
            }
            GitterError::Invalid { .. } => (Failure::Refused, "Gitter does not take this message"),
        };
        // Nobody heard the end of a call, and now nobody can look any more.
        let failure = if unsure { Failure::Unsure } else { failure };
        tracing::info!(portal = %portal, event = %event, error = %Chain(error), "message refused by gitter");
        self.give_up(first, failure, why).await?;
        self.0.bridge.hint(Key::Account(portal.account.clone()), Class::Soon);
        Ok(None)
    }

    /// A call that begins now.
    async fn attempt(&self, first: &First) -> Result<Attempt, StoreError> {
        let (key, at) = (first.portal.clone(), self.0.bridge.clock.moment());
        let sent = first.row.sent;
        self.0
            .db
            .look(move |t| {
                let link = t.last_links(&key, 1)?.pop().map(|link| link.message);
                let cursor = t.cursor(&key)?.map(|cursor| cursor.last);
                Ok(echo::attempt(at.clone(), link.max(cursor), sent))
            })
            .await
    }

    /// A call had an answer that does not tell: from now on it has so long to land.
    async fn note_answered(&self, first: &First) -> Result<(), StoreError> {
        let now = self.0.bridge.clock.moment();
        let noted = self.revise(first, move |row| {
            if let Some(attempt) = &mut row.attempt {
                attempt.answered = Some(now.clone());
            }
        });
        noted.await.map(drop)
    }

    /// Notes that a call is about to be made, or came to nothing; false when the event waits no longer.
    async fn mark(&self, first: &First, attempt: Option<Attempt>) -> Result<bool, StoreError> {
        self.revise(first, move |row| row.attempt.clone_from(&attempt)).await
    }

    async fn become_payload(&self, first: &First, payload: Payload) -> Result<(), StoreError> {
        self.revise(first, move |row| {
            (row.payload, row.done) = (payload.clone(), 0);
        })
        .await
        .map(drop)
    }

    /// Changes the row as it is now; false when it is there no longer.
    async fn revise(
        &self,
        first: &First,
        f: impl Fn(&mut Outgoing) + Send + 'static,
    ) -> Result<bool, StoreError> {
        let (key, number) = (first.portal.clone(), first.number);
        let changed = self.0.db.change(move |t| {
            let Some(mut row) = fate::still_first(t, &key, number)? else { return Ok(false) };
            f(&mut row);
            t.put_outgoing(&key, number, &row)
        });
        changed.await
    }

    async fn finish(&self, first: &First) -> Result<(), StoreError> {
        let (key, number, now) = (first.portal.clone(), first.number, self.0.bridge.clock.now());
        if self.0.db.change(move |t| fate::arrived(t, &key, number, now)).await? {
            self.0.metrics.message(Direction::ToGitter, MessageOutcome::Delivered);
            self.0.bridge.bells.words.notify_one();
        }
        Ok(())
    }

    /// A part is on Gitter: the link, and the row's progress or removal, in one write.
    async fn link(&self, first: First, message: MessageId, digest: u64) -> Result<(), StoreError> {
        let First { portal: key, number, row } = first;
        let (portal, id, now) = (key.clone(), message.clone(), self.0.bridge.clock.now());
        let linked = self.0.db.change(move |t| {
            t.put_unconfirmed(&key, &message)?;
            link_part(t, (&key, number), &row, &message, digest, now)
        });
        if linked.await? {
            self.0.bridge.bells.words.notify_one();
        }
        self.0.metrics.message(Direction::ToGitter, MessageOutcome::Delivered);
        self.confirm(&portal, id);
        self.poke_inward(portal);
        Ok(())
    }

    /// What waits may have been sent by a run whose rows are lost, and nobody can find out: its senders are told so.
    pub(super) async fn give_up_unlearned(
        &self,
        portal: &PortalKey,
        why: &'static str,
    ) -> Result<(), StoreError> {
        let (key, now) = (portal.clone(), self.0.bridge.clock.now());
        let given_up = self.0.db.change(move |t| {
            let waiting = t.outgoing(&key, usize::MAX)?;
            let count = waiting.len();
            for (number, row) in waiting {
                t.remove_outgoing(&key, number)?;
                fate::given_up(t, &key, row, (Failure::Unsure, why), now)?;
            }
            Ok(count)
        });
        for _ in 0..given_up.await? {
            self.0.metrics.message(Direction::ToGitter, MessageOutcome::Refused);
        }
        self.0.bridge.bells.words.notify_one();
        Ok(())
    }

    /// It will never be on Gitter: its sender sees why, in the room.
    async fn give_up(&self, first: &First, failure: Failure, why: &str) -> Result<(), StoreError> {
        let (key, number) = (first.portal.clone(), first.number);
        let (now, why) = (self.0.bridge.clock.now(), why.to_owned());
        self.0
            .db
            .change(move |t| {
                // Taken out already by a logout, which told.
                let Some(row) = fate::still_first(t, &key, number)? else { return Ok(()) };
                t.remove_outgoing(&key, number)?;
                fate::given_up(t, &key, row, (failure, &why), now)
            })
            .await?;
        self.0.metrics.message(Direction::ToGitter, MessageOutcome::Refused);
        self.0.bridge.bells.words.notify_one();
        self.poke_inward(first.portal.clone());
        Ok(())
    }
}

/// Links the next part of an outbox's row to the message that it is, and takes the row a step on, or out; whether there may be words
/// about it.
pub(super) fn link_part(
    t: &mut WriteTxn<'_>,
    (key, number): (&PortalKey, u64),
    row: &Outgoing,
    message: &MessageId,
    digest: u64,
    now: Millis,
) -> Result<bool, StoreError> {
    let Payload::Say { parts, parent, adds_to, lead, .. } = &row.payload else {
        return Ok(false);
    };
    let (event, from) =
        adds_to.as_ref().map_or((&row.event, 0), |earlier| (&earlier.event, earlier.part));
    let at = row.done as usize;
    let link = Link {
        portal: key.clone(),
        message: message.clone(),
        event: event.clone(),
        part: from + row.done,
        from_matrix: true,
        version: 1,
        digest,
        parent: parent.clone(),
        sender: None,
        lead: if at == 0 { lead.clone() } else { String::new() },
        images: Vec::new(),
        gone: false,
    };
    t.put_link(&link)?;
    if adds_to.is_some() {
        t.put_change(&link, &row.event, amend::remembered(now))?;
    }
    let warned = confirm::warn(t, &link, parts.get(at).map_or("", String::as_str), now)?;
    if at + 1 >= parts.len() {
        fate::arrived(t, key, number, now)?;
        return Ok(true);
    }
    if let Some(now) = fate::still_first(t, key, number)? {
        let row = Outgoing { done: row.done + 1, attempt: None, ..now };
        t.put_outgoing(key, number, &row)?;
    }
    Ok(warned)
}
