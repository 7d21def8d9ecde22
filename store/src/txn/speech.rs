//! What the bot has to say, and the rooms where it does.

use std::ops::Bound;

use reconcile::model::{Chat, Notice, Target};
use ruma::{OwnedRoomId, RoomId};

use super::Txn;
use crate::{
    WriteTxn,
    error::{Result, StoreError},
    tables::{Mode, decode, id},
};

fn parts(target: &Target) -> (u8, &str) {
    match target {
        Target::Account(user) => (0, user.as_str()),
        Target::Room(room) => (1, room.as_str()),
    }
}

fn target(table: &'static str, kind: u8, name: &str) -> Result<Target> {
    match kind {
        0 => id(table, name).map(Target::Account),
        1 => id(table, name).map(Target::Room),
        _ => Err(StoreError::Damaged {
            table,
            key: format!("{name:?}"),
            reason: format!("unknown kind {kind}"),
        }),
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// A room of the bot.
    pub fn chat(&self, room: &RoomId) -> Result<Option<Chat>> {
        self.tables.chats.get(&self.handle, room.as_str())
    }

    /// All rooms of the bot that are no portals, in order of their ids.
    pub fn chats(&self) -> Result<Vec<(OwnedRoomId, Chat)>> {
        let table = &self.tables.chats;
        table.collect(&self.handle, .., usize::MAX, |key, row| {
            Ok((id(table.name, key)?, decode(table.name, &key, row)?))
        })
    }

    /// Those for whom words wait, each once.
    pub fn notices_waiting(&self) -> Result<Vec<Target>> {
        let table = &self.tables.notices;
        let mut targets: Vec<Target> = Vec::new();
        loop {
            let from = match targets.last() {
                Some(last) => Bound::Excluded((parts(last).0, parts(last).1, u64::MAX)),
                None => Bound::Unbounded,
            };
            let next = table.collect(&self.handle, (from, Bound::Unbounded), 1, |key, _| {
                target(table.name, key.0, key.1)
            })?;
            if next.is_empty() {
                return Ok(targets);
            }
            targets.extend(next);
        }
    }

    /// The oldest words that wait for a target, with their number.
    pub fn first_notice(&self, target: &Target) -> Result<Option<(u64, Notice)>> {
        let (table, (kind, name)) = (&self.tables.notices, parts(target));
        let range = (kind, name, 0)..=(kind, name, u64::MAX);
        let mut found = table.collect(&self.handle, range, 1, |key, row| {
            Ok((key.2, decode(table.name, &key, row)?))
        })?;
        Ok(found.pop())
    }

    /// How many words wait for a target.
    pub fn notice_count(&self, target: &Target) -> Result<usize> {
        let (kind, name) = parts(target);
        let range = (kind, name, 0)..=(kind, name, u64::MAX);
        Ok(self.tables.notices.collect(&self.handle, range, usize::MAX, |_, _| Ok(()))?.len())
    }

    /// Whether words still wait for this target.
    pub fn has_notices(&self, target: &Target) -> Result<bool> {
        let (kind, name) = parts(target);
        let range = (kind, name, 0)..=(kind, name, u64::MAX);
        Ok(!self.tables.notices.collect(&self.handle, range, 1, |_, _| Ok(()))?.is_empty())
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// Keeps a room of the bot.
    pub fn put_chat(&mut self, room: &RoomId, row: &Chat) -> Result<()> {
        self.tables.chats.put(&self.handle, room.as_str(), row)
    }

    /// Forgets a room of the bot.
    pub fn remove_chat(&mut self, room: &RoomId) -> Result<()> {
        self.tables.chats.remove(&self.handle, room.as_str()).map(drop)
    }

    /// Puts words behind those that wait for the same target; returns their number, which no other words will ever have.
    pub fn push_notice(&mut self, notice: &Notice) -> Result<u64> {
        let number = self.next_number()?;
        let (kind, name) = parts(&notice.to);
        self.tables.notices.put(&self.handle, (kind, name, number), notice)?;
        Ok(number)
    }

    /// Removes words that were sent; false if they were removed already.
    pub fn remove_notice(&mut self, target: &Target, number: u64) -> Result<bool> {
        let (kind, name) = parts(target);
        self.tables.notices.remove(&self.handle, (kind, name, number))
    }
}
