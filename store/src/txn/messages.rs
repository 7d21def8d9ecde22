//! Messages on their way: outbox, links, and which events were seen.

use std::ops::Bound;

use reconcile::model::{Link, MessageId, Millis, Outgoing, Portal, PortalKey};
use ruma::{EventId, OwnedEventId};

use super::{Txn, portals::parts};
use crate::{
    WriteTxn,
    error::Result,
    tables::{Mode, decode, id},
};

// Greater than any message id, which are hex digits.
const LAST_MESSAGE: &str = "\u{10ffff}";
/// By how much the times of events may be off.
const SKEW_MS: u64 = 120_000;

fn lane(key: &PortalKey, number: u64) -> (&str, &str, u64) {
    let (account, room) = parts(key);
    (account, room, number)
}

fn at<'k>(key: &'k PortalKey, message: &'k str) -> (&'k str, &'k str, &'k str) {
    let (account, room) = parts(key);
    (account, room, message)
}

/// The events that a message is: itself and its pictures.
fn events(link: &Link) -> impl Iterator<Item = &OwnedEventId> {
    std::iter::once(&link.event).chain(link.images.iter().map(|image| &image.event))
}

fn is_of(link: &Link, event: &EventId) -> bool {
    events(link).any(|of| of == event)
}

/// The nonce that is burnt when an event has changed a message to what it reads like.
fn change(link: &Link, by: &EventId) -> String {
    format!("change {} {:016x} {by}", link.message, link.digest)
}

/// The nonce that is burnt when an event has changed any message.
fn changed(by: &EventId) -> String {
    format!("changed {by}")
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// The oldest event that waits in a portal's lane, with its number.
    pub fn first_outgoing(&self, portal: &PortalKey) -> Result<Option<(u64, Outgoing)>> {
        Ok(self.outgoing(portal, 1)?.pop())
    }

    /// The oldest events that wait in a portal's lane, with their numbers, in order, at most `limit`.
    pub fn outgoing(&self, portal: &PortalKey, limit: usize) -> Result<Vec<(u64, Outgoing)>> {
        let table = &self.tables.outbox;
        let range = lane(portal, 0)..=lane(portal, u64::MAX);
        table.collect(&self.handle, range, limit, |key, row| {
            Ok((key.2, decode(table.name, &key, row)?))
        })
    }

    /// How many events wait in a portal's lane.
    pub fn outgoing_count(&self, portal: &PortalKey) -> Result<usize> {
        let range = lane(portal, 0)..=lane(portal, u64::MAX);
        Ok(self.tables.outbox.collect(&self.handle, range, usize::MAX, |_, _| Ok(()))?.len())
    }

    /// The portals in whose lanes something waits, each once.
    pub fn outbox_waiting(&self) -> Result<Vec<PortalKey>> {
        let table = &self.tables.outbox;
        let mut lanes: Vec<PortalKey> = Vec::new();
        loop {
            let from = match lanes.last() {
                Some(last) => Bound::Excluded(lane(last, u64::MAX)),
                None => Bound::Unbounded,
            };
            let next = table.collect(&self.handle, (from, Bound::Unbounded), 1, |key, _| {
                Ok(PortalKey::new(id(table.name, key.0)?, id(table.name, key.1)?))
            })?;
            if next.is_empty() {
                return Ok(lanes);
            }
            lanes.extend(next);
        }
    }

    /// The event that a message is.
    pub fn link_of_message(&self, portal: &PortalKey, message: &MessageId) -> Result<Option<Link>> {
        self.tables.links.get(&self.handle, at(portal, message.as_str()))
    }

    /// The messages that an event is, in order of its parts; of a picture, the message it is a part of.
    pub fn links_of_event(&self, event: &EventId) -> Result<Vec<Link>> {
        let table = &self.tables.link_events;
        let end = super::after(event.as_str());
        let range = (event.as_str(), "", "", "")..(end.as_str(), "", "", "");
        let keys =
            table.collect(&self.handle, range, usize::MAX, |(_, account, room, text), ()| {
                let portal = PortalKey::new(id(table.name, account)?, id(table.name, room)?);
                Ok((portal, id::<MessageId>(table.name, text)?))
            })?;
        let mut links = Vec::with_capacity(keys.len());
        for (portal, message) in keys {
            let link = self.link_of_message(&portal, &message)?;
            let is = |link: &Link| is_of(link, event);
            links.extend(link.filter(is));
        }
        links.sort_by_key(|link| link.part);
        Ok(links)
    }

    /// The links of the messages after `message`, oldest first, at most `limit`.
    pub fn links_after(
        &self,
        portal: &PortalKey,
        message: &MessageId,
        limit: usize,
    ) -> Result<Vec<Link>> {
        let from = Bound::Excluded(at(portal, message.as_str()));
        self.links_in(from, Bound::Excluded(at(portal, LAST_MESSAGE)), limit)
    }

    /// The links of the messages from `first` to `last`, both included, oldest first, at most `limit`.
    pub fn links_between(
        &self,
        portal: &PortalKey,
        first: &MessageId,
        last: &MessageId,
        limit: usize,
    ) -> Result<Vec<Link>> {
        if first > last {
            return Ok(Vec::new());
        }
        let from = Bound::Included(at(portal, first.as_str()));
        self.links_in(from, Bound::Included(at(portal, last.as_str())), limit)
    }

    /// The links of the newest messages, oldest first, at most `limit`.
    pub fn last_links(&self, portal: &PortalKey, limit: usize) -> Result<Vec<Link>> {
        let table = &self.tables.links;
        let range = at(portal, "")..at(portal, LAST_MESSAGE);
        let mut links = table
            .collect_back(&self.handle, range, limit, |key, row| decode(table.name, &key, row))?;
        links.reverse();
        Ok(links)
    }

    /// Whether an event has changed one of the newest messages of a portal, at most `limit`, that still reads so.
    pub fn has_changed(&self, portal: &PortalKey, by: &EventId, limit: usize) -> Result<bool> {
        // Most of what is asked about is no edit, and costs no look at messages.
        if !self.is_burnt(&changed(by))? {
            return Ok(false);
        }
        for link in self.last_links(portal, limit)? {
            if !link.gone && self.is_burnt(&change(&link, by))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn links_in<'k>(
        &self,
        from: Bound<(&'k str, &'k str, &'k str)>,
        to: Bound<(&'k str, &'k str, &'k str)>,
        limit: usize,
    ) -> Result<Vec<Link>> {
        let table = &self.tables.links;
        table.collect(&self.handle, (from, to), limit, |key, row| decode(table.name, &key, row))
    }

    /// The messages of a portal of which nobody knows yet whether Gitter shows them, oldest first.
    pub fn unconfirmed(&self, portal: &PortalKey) -> Result<Vec<MessageId>> {
        let table = &self.tables.unconfirmed;
        let range = at(portal, "")..at(portal, LAST_MESSAGE);
        table.collect(&self.handle, range, usize::MAX, |key, ()| id(table.name, key.2))
    }

    /// The portals of which [`Txn::unconfirmed`] tells something, each once.
    pub fn unconfirmed_keys(&self) -> Result<Vec<PortalKey>> {
        let table = &self.tables.unconfirmed;
        let mut keys = table.collect(&self.handle, .., usize::MAX, |(account, room, _), ()| {
            Ok(PortalKey::new(id(table.name, account)?, id(table.name, room)?))
        })?;
        keys.dedup();
        Ok(keys)
    }

    /// When an event was first seen.
    pub fn seen_at(&self, event: &EventId) -> Result<Option<Millis>> {
        let table = self.tables.seen.open(&self.handle)?;
        Ok(redb::ReadableTable::get(table, event.as_str())?.map(|at| Millis(at.value())))
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// Puts an event at the end of a portal's lane; returns its number, which no other event will ever have.
    pub fn push_outgoing(&mut self, portal: &PortalKey, row: &Outgoing) -> Result<u64> {
        let number = self.next_number()?;
        self.tables.outbox.put(&self.handle, lane(portal, number), row)?;
        Ok(number)
    }

    /// Notes how far an event is. False, and nothing is written, if it is no longer in the lane.
    pub fn put_outgoing(
        &mut self,
        portal: &PortalKey,
        number: u64,
        row: &Outgoing,
    ) -> Result<bool> {
        if !self.tables.outbox.has(&self.handle, &lane(portal, number))? {
            return Ok(false);
        }
        self.tables.outbox.put(&self.handle, lane(portal, number), row)?;
        Ok(true)
    }

    /// Takes an event out of a portal's lane; false if it was out already.
    pub fn remove_outgoing(&mut self, portal: &PortalKey, number: u64) -> Result<bool> {
        self.tables.outbox.remove(&self.handle, lane(portal, number))
    }

    /// Takes all events out of a portal's lane; returns how many they were. What a call made whose end is not known is learned from
    /// the portal's room, as soon as that is wanted open.
    pub fn withdraw_outbox(&mut self, portal: &PortalKey) -> Result<usize> {
        let waiting = self.outgoing(portal, usize::MAX)?;
        for (number, _) in &waiting {
            self.remove_outgoing(portal, *number)?;
        }
        let doubtful = waiting.iter().filter(|(_, row)| row.attempt.is_some());
        let since = doubtful.map(|(_, row)| Millis(row.sent.0.saturating_sub(SKEW_MS))).min();
        if let (Some(since), Some(row)) = (since, self.portal(portal)?) {
            let since = row.doubtful.map_or(since, |before| before.min(since));
            self.put_portal(portal, &Portal { doubtful: Some(since), ..row })?;
        }
        Ok(waiting.len())
    }

    /// Keeps that an event and a message are the same.
    pub fn put_link(&mut self, link: &Link) -> Result<()> {
        let (account, room) = parts(&link.portal);
        let message = link.message.as_str();
        let old = self.link_of_message(&link.portal, &link.message)?;
        for event in old.iter().flat_map(events).filter(|event| !is_of(link, event)) {
            let key = (event.as_str(), account, room, message);
            self.tables.link_events.remove(&self.handle, key)?;
        }
        for event in events(link) {
            let key = (event.as_str(), account, room, message);
            self.tables.link_events.mark(&self.handle, key)?;
        }
        self.tables.links.put(&self.handle, at(&link.portal, message), link)
    }

    /// Notes until `expires` that a message reads as it does because of an event.
    pub fn put_change(&mut self, link: &Link, by: &EventId, expires: Millis) -> Result<()> {
        self.burn_nonce(&changed(by), expires)?;
        self.burn_nonce(&change(link, by), expires).map(drop)
    }

    /// Forgets that an event and a message are the same; false if it was not known.
    pub fn remove_link(&mut self, portal: &PortalKey, message: &MessageId) -> Result<bool> {
        let Some(link) = self.link_of_message(portal, message)? else {
            return Ok(false);
        };
        let (account, room) = parts(portal);
        for event in events(&link) {
            let key = (event.as_str(), account, room, message.as_str());
            self.tables.link_events.remove(&self.handle, key)?;
        }
        self.tables.links.remove(&self.handle, at(portal, message.as_str()))
    }

    /// Forgets the links of messages older than `before`, oldest first, at most `limit`; returns how many.
    pub fn prune_links(
        &mut self,
        portal: &PortalKey,
        before: &MessageId,
        limit: usize,
    ) -> Result<usize> {
        let from = Bound::Included(at(portal, ""));
        let old = self.links_in(from, Bound::Excluded(at(portal, before.as_str())), limit)?;
        for link in &old {
            self.remove_link(portal, &link.message)?;
        }
        Ok(old.len())
    }

    pub(super) fn clear_links(&mut self, portal: &PortalKey) -> Result<()> {
        let (account, room) = parts(portal);
        let range = at(portal, "")..at(portal, LAST_MESSAGE);
        let table = &self.tables.links;
        // A damaged row must not keep a portal from being removed; what it leaves in the index is skipped by readers.
        let old = table.collect(&self.handle, range.clone(), usize::MAX, |key, row| {
            let link = decode::<Link>(table.name, &key, row).ok();
            Ok(link.map(|link| (key.2.to_owned(), link)))
        })?;
        for (message, link) in old.iter().flatten() {
            for event in events(link) {
                let key = (event.as_str(), account, room, message.as_str());
                self.tables.link_events.remove(&self.handle, key)?;
            }
        }
        self.tables.links.clear(&self.handle, range)
    }

    /// Notes that nobody knows yet whether Gitter shows a message that it has taken.
    pub fn put_unconfirmed(&mut self, portal: &PortalKey, message: &MessageId) -> Result<()> {
        self.tables.unconfirmed.mark(&self.handle, at(portal, message.as_str()))
    }

    /// It is known what became of the messages up to this one.
    pub fn confirm_until(&mut self, portal: &PortalKey, last: &MessageId) -> Result<()> {
        let range = at(portal, "")..=at(portal, last.as_str());
        self.tables.unconfirmed.clear(&self.handle, range)
    }

    pub(super) fn clear_unconfirmed(&mut self, portal: &PortalKey) -> Result<()> {
        let range = at(portal, "")..at(portal, LAST_MESSAGE);
        self.tables.unconfirmed.clear(&self.handle, range)
    }

    /// Notes that an event was seen: true the first time, false ever after, until it is pruned.
    pub fn mark_seen(&mut self, event: &EventId, now: Millis) -> Result<bool> {
        if self.tables.seen.has(&self.handle, &event.as_str())? {
            return Ok(false);
        }
        self.tables.seen.open_mut(&self.handle)?.insert(event.as_str(), now.0)?;
        self.tables.seen_by_time.mark(&self.handle, (now.0, event.as_str()))?;
        Ok(true)
    }

    /// Forgets events seen before `before`, oldest first, at most `limit`; returns how many.
    pub fn prune_seen(&mut self, before: Millis, limit: usize) -> Result<usize> {
        let old = self.tables.seen_by_time.collect(
            &self.handle,
            ..(before.0, ""),
            limit,
            |(at, event), ()| Ok((at, event.to_owned())),
        )?;
        for (at, event) in &old {
            self.tables.seen_by_time.remove(&self.handle, (*at, event.as_str()))?;
            self.tables.seen.remove(&self.handle, event.as_str())?;
        }
        Ok(old.len())
    }
}
