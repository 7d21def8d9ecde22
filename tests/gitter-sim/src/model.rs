//! The data of the simulated Gitter.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What can stand in for a Gitter failure: an HTTP status.
pub(crate) type Outcome<T> = Result<T, u16>;

#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) username: String,
    pub(crate) display_name: String,
    pub(crate) providers: Vec<String>,
    pub(crate) removed: bool,
    pub(crate) hellbanned: bool,
    /// Where their picture is instead of with the simulator; empty when they have none.
    pub(crate) picture: Option<String>,
    pub(crate) v: u64,
    /// When each text was posted lately, for the spam detector.
    pub(crate) said: BTreeMap<String, Vec<i64>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) uri: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) user: String,
    pub(crate) lurk: bool,
    pub(crate) favourite: Option<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Ban {
    pub(crate) user: String,
    pub(crate) by: String,
    pub(crate) at_ms: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) html: String,
    pub(crate) sent_ms: i64,
    pub(crate) meta: Value,
    pub(crate) payload: Option<Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) html: String,
    pub(crate) status: Option<bool>,
    pub(crate) sent_ms: i64,
    pub(crate) edited_ms: Option<i64>,
    pub(crate) parent: Option<String>,
    pub(crate) thread_count: Option<i64>,
    pub(crate) read_by: BTreeSet<String>,
    pub(crate) urls: Vec<Value>,
    pub(crate) mentions: Vec<Value>,
    pub(crate) issues: Vec<Value>,
    pub(crate) from: String,
    pub(crate) virtual_user: Option<Value>,
    /// 0 when the message was never stored (silent spam block).
    pub(crate) v: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) id: String,
    /// `None` for one-to-one rooms.
    pub(crate) uri: Option<String>,
    pub(crate) topic: String,
    pub(crate) public: bool,
    pub(crate) group: Option<String>,
    pub(crate) members: Vec<Member>,
    pub(crate) admins: BTreeSet<String>,
    pub(crate) bans: Vec<Ban>,
    pub(crate) tags: Vec<String>,
    pub(crate) providers: Vec<String>,
    pub(crate) noindex: bool,
    pub(crate) v: u64,
    /// In order of sending.
    pub(crate) messages: Vec<Message>,
    pub(crate) events: Vec<Event>,
    pub(crate) unread: BTreeMap<String, Vec<String>>,
    pub(crate) mentioned: BTreeMap<String, Vec<String>>,
    pub(crate) access: BTreeMap<String, i64>,
}

impl Room {
    pub(crate) fn one_to_one(&self) -> bool {
        self.uri.is_none()
    }

    pub(crate) fn member(&self, user: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.user == user)
    }

    pub(crate) fn is_member(&self, user: &str) -> bool {
        self.member(user).is_some()
    }

    pub(crate) fn is_banned(&self, user: &str) -> bool {
        self.bans.iter().any(|b| b.user == user)
    }

    pub(crate) fn is_admin(&self, user: &str) -> bool {
        !self.one_to_one() && self.admins.contains(user)
    }

    pub(crate) fn can_read(&self, user: &str) -> bool {
        !self.is_banned(user) && (self.public || self.is_member(user) || self.is_admin(user))
    }

    pub(crate) fn message(&self, id: &str) -> Option<&Message> {
        self.messages.iter().find(|m| m.id == id)
    }

    pub(crate) fn message_mut(&mut self, id: &str) -> Option<&mut Message> {
        self.messages.iter_mut().find(|m| m.id == id)
    }

    pub(crate) fn unread_of(&self, user: &str) -> &[String] {
        self.unread.get(user).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn mentions_of(&self, user: &str) -> &[String] {
        self.mentioned.get(user).map_or(&[], Vec::as_slice)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) secret: String,
    pub(crate) redirect_uri: String,
    pub(crate) revoked: bool,
    /// Skips the consent page.
    pub(crate) trusted: bool,
    /// May send `virtualUser`.
    pub(crate) bridge: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) user: String,
    pub(crate) client: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) grant: Grant,
    pub(crate) redirect_uri: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) grant: Grant,
    pub(crate) redirect_uri: String,
    pub(crate) state: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    pub(crate) user: Option<String>,
    pub(crate) return_to: Option<String>,
}
