//! People: what they say to the bot, written as the intake writes it, and what they do elsewhere.

use rand::Rng;
use reconcile::{
    driver::{Key, ask_open},
    model::{
        Account, Ask, Chat, ChatStage, GitterRoom, GitterRoomId, GitterUserId, Millis, NamedAsk,
        NamedKind, Notice, Person, Portal, PortalKey, Profile, Reason, Say, Session, Target, Told,
    },
    port::{Clock, PersonSeen, Presence, Tables},
};
use ruma::{OwnedRoomId, OwnedUserId};

use crate::outside::{GitterSide, Handle, MatrixRoom, World, bot};

pub(crate) fn account(n: usize) -> OwnedUserId {
    format!("@person{n}:hs").try_into().expect("valid")
}

pub(crate) fn gitter_room(n: usize) -> GitterRoomId {
    format!("5f00000000000000000000{n:02x}").parse().expect("valid")
}

fn gitter_user(n: usize) -> GitterUserId {
    format!("6f00000000000000000000{n:02x}").parse().expect("valid")
}

pub(crate) fn stranger() -> OwnedUserId {
    "@stranger:elsewhere".try_into().expect("valid")
}

/// `accounts` people who are on both sides, `rooms` rooms, and eight people who are on Gitter only.
pub(crate) fn populate(world: &mut World, accounts: usize, rooms: usize) {
    for n in 0..accounts + 8 {
        let id = gitter_user(n);
        let username = format!("Name{n}");
        let profile = Profile { display_name: username.clone(), avatar_url: None };
        world.persons.insert(id.clone(), PersonSeen { id: id.clone(), username, profile });
        if n < accounts {
            let (username, display_name) = (format!("Name{n}"), format!("Name {n}"));
            world.who.insert(account(n), Person { id, username, display_name });
            world.data.accounts.insert(account(n), Account::default());
        }
    }
    for n in 0..rooms {
        let members = (0..accounts + 8).filter(|_| world.rng.random_bool(0.5)).map(gitter_user);
        let members = members.collect();
        let uri = format!("Org/room{n}");
        let (name, topic) = (format!("Room {n}"), String::new());
        let looks = GitterRoom { uri, name, topic, avatar_url: None, one_to_one: false };
        let side = GitterSide { looks, members, banned: std::collections::BTreeSet::new() };
        world.gitter.insert(gitter_room(n), side);
    }
}

fn tell(t: &mut dyn Tables, user: &OwnedUserId, told: Told, at: Millis) {
    let notice = Notice { to: Target::Account(user.clone()), say: Say::Told(told), at };
    t.push_notice(&notice).expect("maps don't fail");
}

/// Who upgrades a room, and how well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// An admin, acting as the bot.
    AsBot,
    /// The account, which then invites the bot.
    ByAccount,
    /// The account, which does not.
    Uninvited,
    /// An admin, to a room that is none of this one's.
    Astray,
}

impl Handle {
    /// The words `login`, finished.
    pub(crate) fn log_in(&self, user: &OwnedUserId) {
        let at = self.now();
        let mut world = self.lock();
        let token = world.rng.random();
        world.good_tokens.insert(token);
        world.data.tokens.insert(user.clone(), token);
        let person = world.who[user].clone();
        let out = world.data.accounts[user].session == Session::LoggedOut;
        world.intake(|t| {
            let mut row = t.account(user)?.unwrap_or_default();
            row.session = Session::Active(person);
            row.generation += 1;
            row.fresh_login = Some(at);
            t.put_account(user, &row)
        });
        if out {
            world.barred.retain(|key| key.account != *user);
        }
    }

    /// `logout`: no credentials, all portals closed, in one write.
    pub(crate) fn log_out(&self, user: &OwnedUserId) -> Vec<Key> {
        let at = self.now();
        let mut world = self.lock();
        let keys = world.intake(|t| {
            let mut row = t.account(user)?.unwrap_or_default();
            if row.session == Session::LoggedOut {
                return Ok(Vec::new());
            }
            row.session = Session::LoggedOut;
            row.generation += 1;
            row.fresh_login = None;
            row.asks.clear();
            t.put_account(user, &row)?;
            t.wipe_token(user)?;
            let mut keys = Vec::new();
            for (room, mut portal) in t.portals_of(user)? {
                let key = PortalKey::new(user.clone(), room);
                portal.open.ask(false, Reason::Logout, at.max(portal.open.at));
                t.put_portal(&key, &portal)?;
                keys.push(key);
            }
            Ok(keys)
        });
        world.barred.extend(keys.iter().cloned());
        // Nothing is remembered of who is not logged in.
        world.gone.retain(|key| key.account != *user);
        world.wanted.retain(|key| key.account != *user);
        keys.into_iter().map(Key::Portal).collect()
    }

    /// `gjoin` and `invite`; returns whether it was more than known already.
    pub(crate) fn ask_for(&self, key: &PortalKey, join: bool) -> bool {
        let at = self.now();
        let mut world = self.lock();
        if !world.data.accounts[&key.account].session.is_active() {
            return false;
        }
        let uri = world.gitter[&key.room].looks.uri.to_uppercase();
        let taken = world.intake(|t| {
            let Some(mut portal) = t.portal(key)? else {
                let mut row = t.account(&key.account)?.unwrap_or_default();
                let kind = if join { NamedKind::Join(uri) } else { NamedKind::Invite(uri) };
                row.asks.push(NamedAsk { kind, at });
                t.put_account(&key.account, &row)?;
                return Ok(true);
            };
            let taken = ask_open(&mut portal, at);
            if taken {
                t.put_portal(key, &portal)?;
            } else {
                tell(t, &key.account, Told::AlreadyOpen(key.room.clone()), at);
            }
            Ok(taken)
        });
        if taken {
            world.barred.remove(key);
            world.gone.remove(key);
            let is_in = world.gitter[&key.room].members.contains(&world.who[&key.account].id);
            let noted = world.data.portals.get(key).map(|portal| portal.member.last);
            // Whoever has left on Gitter unseen counts as in; the next look finds out, and that is the newer word.
            if noted == Some(Some(is_in)) {
                world.wanted.insert(key.clone());
            }
        }
        taken
    }

    /// `gpart`; returns whether there was anything to part from.
    pub(crate) fn part(&self, key: &PortalKey) -> bool {
        let at = self.now();
        let mut world = self.lock();
        if !world.data.accounts[&key.account].session.is_active() {
            return false;
        }
        let taken = world.intake(|t| {
            let Some(mut portal) = t.portal(key)?.filter(|portal| portal.member.desired) else {
                return Ok(false);
            };
            portal.member.ask(false, Reason::Asked, at.max(portal.member.at));
            portal.open.ask(false, Reason::Asked, at.max(portal.open.at));
            portal.ask = Some(Ask::Part);
            t.put_portal(key, &portal)?;
            Ok(true)
        });
        if taken {
            world.wanted.remove(key);
            world.barred.insert(key.clone());
            world.gone.insert(key.clone());
        }
        taken
    }

    /// Leaves or declines a portal. When the bridge had noted that the account was in it, the word of it may be `lost`.
    pub(crate) fn leave_portal(&self, key: &PortalKey, lost: bool) -> bool {
        let at = self.now();
        let mut world = self.lock();
        let Some(portal) = world.data.portals.get(key) else { return false };
        let Some(room) = portal.place.room().cloned() else { return false };
        let noted = portal.open.desired && !portal.open.pending();
        let Some(inside) = world.matrix.get_mut(&room) else { return false };
        if inside.end.is_some() {
            // Who leaves a room that was replaced has not left the portal.
            inside.people.remove(&key.account);
            return false;
        }
        if inside.presence(bot()) != Presence::In {
            // Nobody tells the bridge what happens there.
            return false;
        }
        if !matches!(inside.presence(&key.account), Presence::In | Presence::Invited) {
            return false;
        }
        inside.people.remove(&key.account);
        world.wanted.remove(key);
        world.barred.insert(key.clone());
        if lost && noted {
            return true;
        }
        world.intake(|t| {
            let Some(mut portal) = t.portal(key)? else { return Ok(()) };
            // Whatever it was before, a logout's for one: the next login does not open it.
            portal.open.ask(false, Reason::LeftPortal, at.max(portal.open.at));
            t.put_portal(key, &portal)
        });
        true
    }

    /// A room is upgraded, in one of several ways; returns what there is to hear of it.
    pub(crate) fn upgrade(
        &self,
        old: &OwnedRoomId,
        account: &OwnedUserId,
        how: Upgrade,
    ) -> Vec<Key> {
        let at = self.now();
        let mut world = self.lock();
        let mut hints = Vec::new();
        let ended = |room: &MatrixRoom| room.end.is_some() || room.presence(bot()) != Presence::In;
        if world.matrix.get(old).is_none_or(ended) {
            return hints;
        }
        let mut next = MatrixRoom { before: Some(old.clone()), ..MatrixRoom::default() };
        match how {
            Upgrade::AsBot => drop(next.people.insert(bot().to_owned(), Presence::In)),
            Upgrade::Astray => {
                next.before = None;
                next.people.insert(bot().to_owned(), Presence::In);
            }
            Upgrade::ByAccount | Upgrade::Uninvited => {
                next.people.insert(account.clone(), Presence::In);
            }
        }
        let next = world.new_room(next);
        let log = format!("{old} goes on in {next}: {how:?}");
        world.log.push(log);
        world.matrix.get_mut(old).expect("there").end = Some((next.clone(), at));
        let key = world.intake(|t| {
            let Some(key) = t.portal_at(old)? else { return Ok(None) };
            let Some(mut portal) = t.portal(&key)? else { return Ok(None) };
            portal.missing_since = portal.missing_since.or(Some(at));
            portal.successor = Some(next.clone());
            t.put_portal(&key, &portal)?;
            Ok(Some(key))
        });
        if let Some(key) = key.as_ref().filter(|key| world.data.portals[*key].open.desired) {
            // Whoever had left it unheard can't be known to have any more.
            world.barred.remove(key);
        }
        hints.push(key.map_or(Key::Chat(old.clone()), Key::Portal));
        if how == Upgrade::ByAccount {
            let room = world.matrix.get_mut(&next).expect("just made");
            room.people.insert(bot().to_owned(), Presence::Invited);
            let chat = Chat::new(account.clone(), ChatStage::Invited, at);
            world.intake(|t| t.put_chat(&next, &chat));
            hints.push(Key::Chat(next));
        }
        hints
    }

    /// Accepts every invite.
    pub(crate) fn accept(&self, user: &OwnedUserId) {
        for room in self.lock().matrix.values_mut() {
            if room.presence(user) == Presence::Invited {
                room.people.insert(user.clone(), Presence::In);
            }
        }
    }

    /// Joins on Gitter's own site.
    pub(crate) fn join_elsewhere(&self, key: &PortalKey) {
        let mut world = self.lock();
        let me = world.who[&key.account].id.clone();
        let room = world.gitter.get_mut(&key.room).expect("a room");
        if !room.banned.contains(&me) && room.members.insert(me) {
            world.gone.remove(key);
            world.barred.remove(key);
        }
    }

    /// Leaves on Gitter's own site, or is banned there.
    pub(crate) fn leave_elsewhere(&self, key: &PortalKey, banned: bool) {
        let mut world = self.lock();
        let me = world.who[&key.account].id.clone();
        let room = world.gitter.get_mut(&key.room).expect("a room");
        if banned {
            room.banned.insert(me.clone());
        }
        let was_in = room.members.remove(&me);
        world.wanted.remove(key);
        if !was_in {
            return;
        }
        let noted = |p: &Portal| p.member.desired && !p.member.pending();
        if world.data.portals.get(key).is_some_and(noted) {
            world.gone.insert(key.clone());
        }
    }

    /// Starts a chat with the bot.
    pub(crate) fn start_chat(&self, user: &OwnedUserId, encrypted: bool) -> OwnedRoomId {
        let at = self.now();
        let mut world = self.lock();
        let people = [(user.clone(), Presence::In), (bot().to_owned(), Presence::Invited)];
        let room = MatrixRoom { people: people.into_iter().collect(), ..MatrixRoom::default() };
        let id = world.new_room(room);
        let (account, stage) = (user.clone(), ChatStage::Invited);
        let chat = Chat { account, stage, encrypted, invite_due: false, at };
        world.intake(|t| t.put_chat(&id, &chat));
        id
    }

    /// The relay says what waits to be said.
    pub(crate) fn say(&self) {
        let mut world = self.lock();
        let notices = std::mem::take(&mut world.data.notices);
        world.said.extend(notices);
    }

    /// A portal, or its account's control room, is upgraded in whatever way.
    fn upgrade_some(&self, key: &PortalKey, portal: bool) -> Vec<Key> {
        let how = [Upgrade::AsBot, Upgrade::ByAccount, Upgrade::Uninvited, Upgrade::Astray];
        let (how, room) = {
            let mut world = self.lock();
            let how = how[world.rng.random_range(0..how.len())];
            let at = world.data.portals.get(key).and_then(|p| p.place.room());
            let control = world.data.accounts[&key.account].control_room();
            (how, if portal { at } else { control }.cloned())
        };
        room.map_or_else(Vec::new, |room| self.upgrade(&room, &key.account, how))
    }

    /// Somebody does something.
    pub(crate) fn step(&self, accounts: usize, rooms: usize) {
        let (what, who, which, coin, heard) = {
            let rng = &mut self.lock().rng;
            let (who, which) = (rng.random_range(0..accounts), rng.random_range(0..rooms));
            (rng.random_range(0..33), who, which, rng.random_bool(0.5), rng.random_bool(0.7))
        };
        let user = account(who);
        let key = PortalKey::new(user.clone(), gitter_room(which));
        self.log(format!("step {what}: {key} {coin} {heard}"));
        let mut hints = vec![Key::Account(user.clone()), Key::Portal(key.clone())];
        match what {
            0..=3 => drop(self.ask_for(&key, coin)),
            4 | 5 => drop(self.part(&key)),
            6 | 7 => drop(self.leave_portal(&key, coin)),
            8..=11 => self.accept(&user),
            12 | 13 => self.join_elsewhere(&key),
            14 => self.leave_elsewhere(&key, coin),
            15 => {
                let me = self.lock().who[&user].id.clone();
                self.lock().gitter.get_mut(&key.room).expect("a room").banned.remove(&me);
            }
            16 => hints.extend(self.log_out(&user)),
            17 | 18 => {
                let out = !self.lock().data.accounts[&user].session.is_active();
                if out {
                    self.log_in(&user);
                }
            }
            19 => {
                let token = self.lock().data.tokens.get(&user).copied();
                if let Some(token) = token {
                    self.lock().good_tokens.remove(&token);
                }
            }
            20 | 21 => self.in_portal(&key, |world, room| {
                let room = world.matrix.get_mut(&room).expect("found");
                room.people.insert(stranger(), Presence::In);
            }),
            22 => self.in_portal(&key, |world, room| {
                // The room is lost, or the bot is thrown out of it.
                if world.data.portals[&key].open.desired {
                    // Whoever had left it unheard can't be known to have any more.
                    world.barred.remove(&key);
                }
                let its = world.matrix.get_mut(&room).expect("found");
                if coin {
                    world.matrix.remove(&room);
                } else {
                    its.people.retain(|user, _| *user == key.account);
                }
            }),
            23 => self.in_portal(&key, |world, room| {
                let room = world.matrix.get_mut(&room).expect("found");
                let ghost = room.joined().find(|m| m.localpart().starts_with("gitter_")).cloned();
                if let Some(ghost) = ghost {
                    room.people.remove(&ghost);
                }
            }),
            24 => {
                let mut world = self.lock();
                let topic = format!("topic {}", world.log.len());
                world.gitter.get_mut(&key.room).expect("a room").looks.topic = topic;
            }
            25 => {
                let mut world = self.lock();
                if let Some(row) = world.data.accounts.get_mut(&user)
                    && row.session.is_active()
                {
                    row.asks.push(NamedAsk { kind: NamedKind::List, at: self.now() });
                }
            }
            26 | 27 => hints.push(Key::Chat(self.start_chat(&user, which == 0))),
            28 => {
                let mut world = self.lock();
                let control = world.data.accounts[&user].control_room().cloned();
                if let Some(room) = control.and_then(|room| world.matrix.get_mut(&room)) {
                    if coin {
                        room.people.insert(stranger(), Presence::In);
                    } else {
                        room.people.remove(&user);
                    }
                }
            }
            29 | 30 => {
                hints.extend(self.upgrade_some(&key, what == 29));
            }
            _ => {
                let mut world = self.lock();
                let id = gitter_user(accounts + which);
                let display_name = format!("Renamed {}", world.log.len() % 3);
                world.persons.get_mut(&id).expect("a person").profile.display_name = display_name;
            }
        }
        if heard {
            for key in hints {
                self.hint(key);
            }
        }
    }

    fn in_portal(&self, key: &PortalKey, f: impl FnOnce(&mut World, OwnedRoomId)) {
        let mut world = self.lock();
        let room = world.data.portals.get(key).and_then(|p| p.place.room().cloned());
        if let Some(room) = room.filter(|room| world.matrix.contains_key(room)) {
            f(&mut world, room);
        }
    }
}
