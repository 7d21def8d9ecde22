//! Everything the simulated Gitter knows, behind one lock.

mod messages;
mod people;
mod rooms;
mod unread;

use std::collections::BTreeMap;

pub(crate) use messages::{NewMessage, Page, page};

use crate::SimConfig;
use crate::fault::Faults;
use crate::faye::Bus;
use crate::ids::Ids;
use crate::limits::Limits;
use crate::model::{Client, Code, Grant, Group, Outcome, Room, Session, Transaction, User};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cfg: SimConfig,
    /// `http://127.0.0.1:PORT`, for links in answers; empty before the first start.
    pub(crate) origin: String,
    pub(crate) ids: Ids,
    clock_offset_ms: i64,
    last_ms: i64,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) rooms: BTreeMap<String, Room>,
    /// Former uris in lower case.
    pub(crate) renamed: BTreeMap<String, String>,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) tokens: BTreeMap<String, Grant>,
    pub(crate) codes: BTreeMap<String, Code>,
    pub(crate) transactions: BTreeMap<String, Transaction>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) limits: Limits,
    pub(crate) faults: Faults,
    pub(crate) bus: Bus,
    pub(crate) echo_before_answer: bool,
    /// What is served besides, by path.
    pub(crate) files: BTreeMap<String, crate::http::Reply>,
}

impl State {
    pub(crate) fn new(cfg: SimConfig) -> Self {
        let limits = Limits::new(cfg.rate_limit, cfg.rate_window_ms);
        Self {
            origin: String::new(),
            ids: Ids::new(cfg.seed),
            clock_offset_ms: 0,
            last_ms: 0,
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            rooms: BTreeMap::new(),
            renamed: BTreeMap::new(),
            clients: BTreeMap::new(),
            tokens: BTreeMap::new(),
            codes: BTreeMap::new(),
            transactions: BTreeMap::new(),
            sessions: BTreeMap::new(),
            limits,
            faults: Faults::default(),
            bus: Bus::default(),
            echo_before_answer: false,
            files: BTreeMap::new(),
            cfg,
        }
    }

    /// Epoch ms by the simulator's clock; never goes back.
    pub(crate) fn now(&mut self) -> i64 {
        let kept = self.cfg.clock.as_ref().map(|clock| (clock.0)());
        let base = kept.or(self.cfg.frozen_clock_ms).unwrap_or_else(wall_ms);
        self.last_ms = self.last_ms.max(base + self.clock_offset_ms);
        self.last_ms
    }

    pub(crate) fn advance(&mut self, ms: i64) {
        self.clock_offset_ms += ms;
    }

    /// A new object id of this moment.
    pub(crate) fn new_id(&mut self) -> String {
        let now = self.now();
        self.ids.object_id(now)
    }

    /// User by id, or by name in exact case.
    pub(crate) fn find_user(&self, id_or_name: &str) -> Option<&User> {
        self.users
            .get(id_or_name)
            .or_else(|| self.users.values().find(|u| !u.removed && u.username == id_or_name))
    }

    /// Room by id, or by uri in any case.
    pub(crate) fn find_room(&self, id_or_uri: &str) -> Option<&Room> {
        self.rooms.get(id_or_uri).or_else(|| {
            self.rooms
                .values()
                .find(|r| r.uri.as_deref().is_some_and(|u| u.eq_ignore_ascii_case(id_or_uri)))
        })
    }

    pub(crate) fn room(&self, id: &str) -> Outcome<&Room> {
        self.rooms.get(id).ok_or(404)
    }

    pub(crate) fn room_mut(&mut self, id: &str) -> Outcome<&mut Room> {
        self.rooms.get_mut(id).ok_or(404)
    }

    /// Whether `user` may write: read access, not banned, an allowed provider; admins always.
    pub(crate) fn can_write(&self, room: &Room, user: &str) -> bool {
        room.is_admin(user)
            || (room.can_read(user)
                && (room.providers.is_empty()
                    || self
                        .users
                        .get(user)
                        .is_some_and(|u| u.providers.iter().any(|p| room.providers.contains(p)))))
    }

    pub(crate) fn username(&self, id: &str) -> String {
        self.users.get(id).map_or_else(String::new, |u| u.username.clone())
    }
}

fn wall_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
