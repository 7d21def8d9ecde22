//! What was missed: pages of the room are compared with the links, and what differs goes into the queue.

use std::{collections::BTreeSet, sync::Arc};

use reconcile::{
    driver::Key,
    model::{Cursor, Gap, MessageId, Millis},
    queue::Class,
};
use serde_json::json;
use store::StoreError;

use super::{Failed, Lane, Relay, differs, inbox::Look};
use crate::{
    bot::answer,
    gitter::{Caller, MAX_SKIP, Message, Page},
    matrix::{As, MatrixError},
    relay::{onward, txn_id},
    telemetry::Chain,
};

/// Deletions looked for at a time, each by a call.
const DELETIONS: usize = if cfg!(test) { 10 } else { 100 };
/// Links compared with a page, those of deleted messages among them.
const LINKS: usize = 2_000;
/// How long after it was sent a message can be changed on Gitter: whatever was changed since the cursor is younger at it.
const EDITABLE_MS: u64 = 600_000;
/// By how much the time in a message's id may be out of order.
const ID_SKEW_MS: u64 = 2_000;
/// Messages a page.
const PAGE: usize = 100;

/// What may have been deleted while nobody listened.
struct Gone {
    /// How many messages may still be asked for.
    left: usize,
    /// Whether one was gone.
    found: bool,
    /// What waited to be shown before the first page was read: all of it was on Gitter then.
    queued: BTreeSet<MessageId>,
}

impl Relay {
    /// Puts into the queue what the room holds and the portal has not seen, or the first of it.
    pub(super) async fn page_in(
        &self,
        lane: &Lane,
        caller: &Caller,
        look: Look,
    ) -> Result<(), Failed> {
        let room = lane.key.room.as_str();
        if lane.relearns {
            self.relearn(lane, caller).await?;
        } else if let Some(cursor) = &lane.cursor
            && self.0.inbox.with(&lane.key, |waiting| waiting.linked != waiting.opened)
        {
            self.link_shown(lane, caller, &cursor.begin).await?;
        }
        self.0.inbox.with(&lane.key, |waiting| waiting.linked = waiting.opened);
        let mut cursor = self.cursor(lane, caller).await?;
        let queued = self.0.inbox.queued(&lane.key);
        let mut gone = Gone { left: DELETIONS, found: false, queued };
        let newest = caller.account.messages(room, Page::Newest(PAGE)).await?;
        if look == Look::Back
            && cursor.gap.is_none()
            && let Some(gap) = self.gap(lane, caller, &cursor, &newest).await?
        {
            cursor = self.pass_over(lane, cursor, gap).await?;
        }
        if let Some(gap) = cursor.gap.take() {
            self.look_before(lane, caller, &cursor, &gap, &mut gone).await?;
            self.tell_of(lane, &gap).await?;
        }
        let all = newest.len() < PAGE;
        let first = id_of(newest.first()).filter(|_| !all).map(|first| first.before());
        let range = (first.unwrap_or(MessageId::first_of(Millis(0))), None);
        self.queue_deleted(lane, caller, range, &newest, &mut gone).await?;
        let (Some(oldest), Some(last)) = (id_of(newest.first()), id_of(newest.last())) else {
            return Ok(());
        };
        // Ids of one second are in no order, and Gitter's servers need not agree on the second.
        let back = ID_SKEW_MS + if look == Look::Back { EDITABLE_MS } else { 0 };
        let before = Millis(cursor.last.made().0.saturating_sub(back));
        let (mut from, mut missing) = (MessageId::first_of(before), 0);
        // Between the cursor and the newest page there may be any number of pages; what they hold goes first.
        while from < oldest {
            let page = caller.account.messages(room, Page::After(from.as_str(), PAGE)).await?;
            let Some(next) = onward(&from, &page, PAGE) else { break };
            // All of the page stays in the queue: else nothing of it might, and the next look would be the same.
            let last = page.iter().filter_map(|message| id_of(Some(message))).max();
            let range = (std::mem::replace(&mut from, next.clone()), Some(next));
            self.queue_deleted(lane, caller, range, &page, &mut gone).await?;
            missing += self.queue_missing(lane, &cursor, page).await?;
            if missing >= PAGE {
                let last = last.unwrap_or_else(|| from.clone());
                self.0.inbox.cut(&lane.key, &last, from < cursor.last);
                return Ok(());
            }
        }
        missing += self.queue_missing(lane, &cursor, newest).await?;
        if missing == 0 && last > cursor.last {
            // All of it is linked: the next start need not look so far back.
            let key = lane.key.clone();
            let row = Cursor { last, ..cursor };
            self.0.db.change(move |t| t.put_cursor(&key, &row)).await?;
        }
        Ok(())
    }

    /// What is passed over because more was said since the cursor than is caught up with, and where the portal goes on. Counted
    /// from the end of the room: by one call when there is nothing to pass over, by at most sixteen otherwise.
    async fn gap(
        &self,
        lane: &Lane,
        caller: &Caller,
        cursor: &Cursor,
        newest: &[Message],
    ) -> Result<Option<(Gap, MessageId)>, Failed> {
        let (room, most) = (lane.key.room.as_str(), self.0.choices.catch_up);
        // The messages that a new portal begins with are not missed ones.
        let since = cursor.last.clone().max(MessageId::first_of(lane.portal.open.at));
        let Some(oldest) = id_of(newest.first()).filter(|_| most > 0) else { return Ok(None) };
        let skipped = |skip, limit| caller.account.messages(room, Page::Skipping(skip, limit));
        // Up to the first message that is shown.
        let older = match newest.len().checked_sub(most) {
            Some(left @ 1..) => newest[..=left].to_vec(),
            _ if oldest <= since => return Ok(None),
            _ => skipped(most - 1, PAGE).await?,
        };
        let ids: Vec<MessageId> = older.iter().filter_map(|m| m.id.parse().ok()).collect();
        // Ids of one second are in no order: what is of one second with the first message shown is shown, too.
        let Some(end) = ids.last().map(|id| MessageId::first_of(id.made())) else {
            return Ok(None);
        };
        let missed = ids.iter().filter(|id| **id > since && **id < end);
        let (mut count, mut or_more) = (missed.clone().count(), false);
        let Some(until) = missed.max().map(MessageId::made) else { return Ok(None) };
        if ids.first().is_some_and(|first| *first > since) {
            // Further back than this page: how far, is found by halving.
            let shown = most - 1 + ids.iter().filter(|id| **id >= end).count();
            let (mut low, mut high) = (most + ids.len() - 2, MAX_SKIP + 1);
            let is_missed = async |skip: usize| {
                let page = skipped(skip, 1).await?;
                Ok::<_, Failed>(id_of(page.last()).is_some_and(|id| id > since))
            };
            or_more = low >= MAX_SKIP || is_missed(MAX_SKIP).await?;
            if or_more {
                low = low.max(MAX_SKIP);
            }
            while !or_more && high - low > 1 {
                let middle = usize::midpoint(low, high);
                if is_missed(middle).await? { low = middle } else { high = middle }
            }
            count = count.max((low + 1).saturating_sub(shown));
        }
        let first = caller.account.messages(room, Page::After(since.as_str(), 1)).await?;
        let first = id_of(first.first()).filter(|id| *id < end).unwrap_or_else(|| end.clone());
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Some((Gap { since: cursor.last.clone(), first, until, count, or_more }, end)))
    }

    /// From here on the portal begins after the gap; that it is to be told of is in the same write.
    async fn pass_over(
        &self,
        lane: &Lane,
        cursor: Cursor,
        (gap, end): (Gap, MessageId),
    ) -> Result<Cursor, StoreError> {
        tracing::info!(portal = %lane.key, count = gap.count, "too much was missed: passed over");
        let begin = cursor.begin.max(end.clone());
        let row = Cursor { begin, last: cursor.last.max(end), gap: Some(gap) };
        let (key, written) = (lane.key.clone(), row.clone());
        self.0.db.change(move |t| t.put_cursor(&key, &written)).await?;
        Ok(row)
    }

    /// Puts into the queue what was changed or deleted of the last messages before a gap.
    async fn look_before(
        &self,
        lane: &Lane,
        caller: &Caller,
        cursor: &Cursor,
        gap: &Gap,
        gone: &mut Gone,
    ) -> Result<(), Failed> {
        let before = gap.since.made().0.saturating_sub(ID_SKEW_MS + EDITABLE_MS);
        let mut from = MessageId::first_of(Millis(before));
        while from < gap.since {
            let page = Page::After(from.as_str(), PAGE);
            let page = caller.account.messages(lane.key.room.as_str(), page).await?;
            let Some(next) = onward(&from, &page, PAGE) else { break };
            let range = (std::mem::replace(&mut from, next.clone()), Some(next));
            self.queue_deleted(lane, caller, range, &page, gone).await?;
            self.queue_missing(lane, cursor, page).await?;
        }
        Ok(())
    }

    /// The bot says in the portal what it does not show. Said twice it is still one event, by its transaction id.
    async fn tell_of(&self, lane: &Lane, gap: &Gap) -> Result<(), Failed> {
        let key = lane.key.clone();
        let seen = self.0.db.look(move |t| t.room(&key)).await?;
        let link = seen.map_or_else(String::new, |room| self.0.gitter.permalink(&room, &gap.first));
        let answer = answer::passed_over(gap, &link);
        let content = json!({
            "msgtype": "m.notice",
            "body": answer.body,
            "format": "org.matrix.custom.html",
            "formatted_body": answer.html,
            "m.mentions": {},
        });
        let (key, until) = (lane.key.to_string(), gap.until.0.to_string());
        let parts = ["m.room.message", lane.room.as_str(), &key, gap.first.as_str(), &until, "gap"];
        let (client, txn) = (self.0.home.client(), txn_id(&parts));
        let sent = client.send(As::Bot, &lane.room, "m.room.message", &txn, &content, None);
        match self.speak(lane.key.account.as_str(), Class::Members, sent).await {
            Err(error @ MatrixError::Refused { .. }) => {
                let error = Chain(&error);
                tracing::error!(portal = %lane.key, %error, "the homeserver refuses the bot's words");
            }
            other => drop(other?),
        }
        let key = lane.key.clone();
        let told = self.0.db.change(move |t| match t.cursor(&key)? {
            Some(row) => t.put_cursor(&key, &Cursor { gap: None, ..row }),
            None => Ok(()),
        });
        Ok(told.await?)
    }

    /// The portal's cursor; a new portal begins with the last messages before its opening was asked for.
    pub(super) async fn cursor(&self, lane: &Lane, caller: &Caller) -> Result<Cursor, Failed> {
        let id = lane.key.clone();
        if let Some(cursor) = self.0.db.look(move |t| t.cursor(&id)).await? {
            return Ok(cursor);
        }
        let mut begin = MessageId::first_of(lane.portal.open.at);
        if self.0.choices.history > 0 {
            let room = lane.key.room.as_str();
            let page = caller.account.messages(room, Page::Newest(self.0.choices.history)).await?;
            // Ids of one second are in no order: not the first one's.
            let first = page.iter().filter_map(|message| id_of(Some(message))).min();
            // What came since the asking is shown in any case, however much it is. When nothing was said yet, everything is: by
            // a clock that is ahead the next hour's messages would be old.
            let first =
                first.map_or_else(|| MessageId::first_of(Millis(0)), |first| first.before());
            begin = begin.min(first);
        }
        let cursor = Cursor { begin: begin.clone(), last: begin, gap: None };
        let (id, row) = (lane.key.clone(), cursor.clone());
        self.0.db.change(move |t| t.put_cursor(&id, &row)).await?;
        Ok(cursor)
    }

    /// The room holds what was said before: its account may come in.
    pub(super) async fn history_shown(&self, lane: &Lane) -> Result<(), Failed> {
        if lane.portal.history.is_none() {
            return Ok(());
        }
        let id = lane.key.clone();
        let shown = self.0.db.change(move |t| {
            let Some(mut portal) = t.portal(&id)? else { return Ok(false) };
            let waited = portal.history.take().is_some();
            if waited {
                t.put_portal(&id, &portal)?;
            }
            Ok(waited)
        });
        if shown.await? {
            self.0.bridge.hint(Key::Portal(lane.key.clone()), Class::Waiting);
        }
        Ok(())
    }

    pub(super) async fn queue_missing(
        &self,
        lane: &Lane,
        cursor: &Cursor,
        page: Vec<Message>,
    ) -> Result<usize, StoreError> {
        for id in page.iter().filter_map(|message| message.id.parse().ok()) {
            self.0.unconfirmed.seen(&lane.key, &id);
        }
        let (key, begin) = (lane.key.clone(), cursor.begin.clone());
        let missing = self
            .0
            .db
            .look(move |t| {
                let mut missing = Vec::new();
                for message in page {
                    let Ok(id) = message.id.parse::<MessageId>() else { continue };
                    let link = t.link_of_message(&key, &id)?;
                    if (link.is_some() || id > begin) && differs(link.as_ref(), &message) {
                        missing.push(message);
                    }
                }
                Ok(missing)
            })
            .await?;
        let count = missing.len();
        for message in missing {
            self.0.inbox.put(&lane.key, Arc::new(message));
        }
        Ok(count)
    }

    /// Puts into the queue what was deleted while nobody listened: linked or waiting to be shown, after the first and up to the
    /// last of `range` (without one: to the end), and not on the page.
    async fn queue_deleted(
        &self,
        lane: &Lane,
        caller: &Caller,
        (after, to): (MessageId, Option<MessageId>),
        page: &[Message],
        gone: &mut Gone,
    ) -> Result<(), Failed> {
        let ids: BTreeSet<MessageId> = page.iter().filter_map(|m| m.id.parse().ok()).collect();
        let key = lane.key.clone();
        let from = after.clone();
        let read =
            self.0.db.look(move |t| Ok((t.links_after(&key, &from, LINKS)?, t.unconfirmed(&key)?)));
        let (links, unconfirmed) = read.await?;
        let within = |id: &MessageId| *id > after && to.as_ref().is_none_or(|to| id <= to);
        // What was perhaps never there was not deleted.
        let doubtful = |id: &MessageId| {
            unconfirmed.binary_search(id).is_ok() && self.0.unconfirmed.doubts(&lane.key, id)
        };
        let links = links.into_iter().filter(|link| !link.gone && !doubtful(&link.message));
        let known = links.map(|link| link.message).chain(gone.queued.iter().cloned());
        let missing = known.filter(|id| within(id) && !ids.contains(id)).collect();
        for id in self.0.inbox.not_removed(&lane.key, missing) {
            let Some(left) = gone.left.checked_sub(1) else {
                // Where nothing was gone, another look would ask for the same ones.
                self.0.inbox.with(&lane.key, |waiting| waiting.more_removed |= gone.found);
                break;
            };
            gone.left = left;
            // A page that came short must not take messages away: each is asked for by itself.
            let room = lane.key.room.as_str();
            if caller.account.message(room, id.as_str()).await?.is_none() {
                self.0.inbox.put_removed(&lane.key, id);
                gone.found = true;
            }
        }
        Ok(())
    }
}

fn id_of(message: Option<&Message>) -> Option<MessageId> {
    message.and_then(|message| message.id.parse().ok())
}
