//! A pass over one account: its rooms on Gitter, its waiting commands, and the control room the bot owes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{OwnedUserId, UserId};

use super::{After, Driver, Key, late::Late, lock, portal::tell_refused, tell};
use crate::{
    brake::Brake,
    model::{
        Account, Ask, Chat, ChatStage, Control, Door, GitterRoom, GitterRoomId, Millis, Moment,
        NamedAsk, NamedKind, Portal, PortalKey, Reason, Refusal, Seen, Told, Wish,
    },
    plan::{AccountPlan, AccountView, Adoption, MemberAction, plan_account},
    port::{
        ActionError, Clock, Gitter, Matrix, NewRoom, Resolved, RoomSeen, State, TableError, Tables,
    },
    queue::Class,
};

type Portals = BTreeMap<GitterRoomId, Portal>;

impl<M: Matrix + Clone + 'static, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    pub(super) async fn pass_account(&self, user: &UserId) -> Result<After, ActionError> {
        let id = user.to_owned();
        let read = self.state.read(move |t| Ok((t.account(&id)?, t.portals_of(&id)?))).await?;
        let (Some(account), portals) = read else { return Ok(After::Done) };
        let portals: Portals = portals.into_iter().collect();
        let opened = match &account.control {
            Control::Opening { since, attempted } => {
                self.open_control(user, attempted.then_some(since)).await
            }
            Control::None | Control::At(_) => Ok(()),
        };
        // No control room is no reason to leave the rooms alone, nor the other way round.
        let after = self.pass_rooms(user, &account, portals).await;
        opened.and(after)
    }

    async fn pass_rooms(
        &self,
        user: &UserId,
        account: &Account,
        portals: Portals,
    ) -> Result<After, ActionError> {
        if !account.session.is_active() {
            return Ok(After::Done);
        }
        let rooms = match self.gitter.rooms(user).await {
            Ok(rooms) => rooms,
            Err(ActionError::TokenRejected { .. }) => {
                self.token_rejected(user, account.generation).await?;
                return Ok(After::Done);
            }
            Err(error) => {
                // Told when to come again is as good as an answer.
                if error.retry_after().is_none() {
                    self.list_from_memory(user, account, &portals).await?;
                }
                return Err(error);
            }
        };
        let (after, act) = self.settle_members(user, account, &portals, rooms).await?;
        // A room that can't be joined yet holds up no other command.
        let acted = self.act_members(user, account.generation, act).await;
        let answered = self.answer_named(user, account.generation).await;
        acted.and(answered).map(|()| after)
    }

    /// Compares the rooms just seen with the rows, and writes down what the user did elsewhere.
    async fn settle_members(
        &self,
        user: &UserId,
        account: &Account,
        portals: &Portals,
        mut rooms: Vec<RoomSeen>,
    ) -> Result<(After, BTreeMap<GitterRoomId, MemberAction>), ActionError> {
        rooms.sort_by(|a, b| b.active.cmp(&a.active).then_with(|| a.id.cmp(&b.id)));
        let now = self.clock.now();
        let mut plan = plan_account(&AccountView {
            portals,
            rooms: Seen::Fresh(rooms.iter().map(|seen| seen.id.clone()).collect()),
            login: account.fresh_login.map(|_| self.limits.open_on_login),
        });
        let held = self.brake_members(user, portals, &rooms, &mut plan, now);
        let doubtful = self.doubt_members(user, portals, &mut plan);
        let after = if doubtful.is_zero() { self.after_brake(held) } else { After::In(doubtful) };
        let act = std::mem::take(&mut plan.act);

        let waits = |ask: &NamedAsk| ask.kind == NamedKind::List || named(ask, &rooms).is_some();
        let waits = account.asks.iter().any(waits);
        if plan.adopt.is_empty() && account.fresh_login.is_none() && !waits {
            let key = |r: &RoomSeen| PortalKey::new(user.to_owned(), r.id.clone());
            let looks: Vec<_> = rooms.iter().map(|r| (key(r), r.room.clone())).collect();
            let known = self.state.read(move |t| {
                for (key, room) in &looks {
                    if t.room(key)?.as_ref() != Some(room) {
                        return Ok(false);
                    }
                }
                Ok(true)
            });
            if known.await? {
                // Nothing to write down: a quiet resync costs the disk nothing.
                return Ok((after, act));
            }
        }

        let mut doors = BTreeMap::new();
        for room in plan.removals() {
            doors.insert(room.clone(), self.gitter.door(user, room).await);
        }
        let id = user.to_owned();
        let before = portals.clone();
        let generation = account.generation;
        let (hints, told) = self
            .state
            .write(move |t| {
                let Some(mut row) = t.account(&id)? else { return Ok(Default::default()) };
                if row.generation != generation {
                    // Logged out or in again meanwhile: these are somebody else's rooms.
                    return Ok(Default::default());
                }
                let mut hints = BTreeSet::new();
                for seen in &rooms {
                    let key = PortalKey::new(id.clone(), seen.id.clone());
                    if t.room(&key)?.as_ref() != Some(&seen.room) {
                        t.put_room(&key, &seen.room)?;
                        // Who shares the room finds nothing new in it any more.
                        hints.extend(t.portals_for(&seen.id)?);
                        hints.insert(key);
                    }
                }
                for (room, adoption) in &plan.adopt {
                    let key = PortalKey::new(id.clone(), room.clone());
                    let door = doors.get(room).copied().unwrap_or(Door::Open);
                    if adopt(t, &key, *adoption, before.get(room), row.fresh_login, door, now)? {
                        hints.insert(key);
                    }
                }
                let mut told = false;
                if row.fresh_login.take().is_some() {
                    told = true;
                    tell_login(t, &id, &rooms, now)?;
                    t.put_account(&id, &row)?;
                }
                if row.asks.iter().any(|ask| ask.kind == NamedKind::List) {
                    told = true;
                    row.asks.retain(|ask| ask.kind != NamedKind::List);
                    t.put_account(&id, &row)?;
                    let list = rooms.iter().map(|r| (r.id.clone(), r.unread, r.mentions));
                    tell(t, &id, Told::List { rooms: list.collect(), fresh: true }, now)?;
                }
                told |= plan.adopt.values().any(|a| *a == Adoption::Gone);
                let found = open_named(t, &id, &mut row, &rooms, now)?;
                told |= !found.is_empty();
                hints.extend(found.into_iter().map(|room| PortalKey::new(id.clone(), room)));
                Ok((hints, told))
            })
            .await?;
        if told {
            self.bells.words.notify_one();
        }
        if !hints.is_empty() {
            self.bells.portals.notify_one();
        }
        for portal in hints {
            self.hint(Key::Portal(portal), Class::Waiting);
        }
        Ok((after, act))
    }

    /// Where the account has changed its mind, what is seen is not believed as long as a call of before may still land; returns
    /// for how long.
    fn doubt_members(&self, user: &UserId, portals: &Portals, plan: &mut AccountPlan) -> Duration {
        let mut longest = Duration::ZERO;
        for (room, portal) in portals.iter().filter(|(_, portal)| portal.member.last.is_none()) {
            let key = PortalKey::new(user.to_owned(), room.clone());
            let left = self.landing(&key, &portal.member);
            if !left.is_zero() {
                plan.doubt(room);
                longest = longest.max(left);
            }
        }
        longest
    }

    /// What was held back is looked at again as soon as it could be believed.
    pub(super) fn after_brake(&self, held: bool) -> After {
        if held { After::In(self.limits.brake.apart) } else { After::Done }
    }

    /// Takes removals out of the plan that are too many to be believed; returns whether it did.
    fn brake_members(
        &self,
        user: &UserId,
        portals: &Portals,
        rooms: &[RoomSeen],
        plan: &mut AccountPlan,
        now: Millis,
    ) -> bool {
        let total = portals.values().filter(|p| p.member.last == Some(true)).count();
        let mut held = lock(&self.held);
        let removals: BTreeSet<&str> = plan.removals().map(GitterRoomId::as_str).collect();
        let known = rooms.iter().map(|seen| &seen.id).chain(portals.keys());
        for room in known.filter(|room| !removals.contains(room.as_str())) {
            held.seen(user.as_str(), room.as_str());
        }
        if removals.is_empty() {
            return false;
        }
        let count = removals.len();
        let verdict = held.judge(&self.limits.brake, user.as_str(), removals, total, now);
        if verdict == Brake::Holds {
            tracing::warn!(account = %user, count, total, "removals held back: too many rooms seem lost at once");
            plan.hold_removals();
            return true;
        }
        false
    }

    /// Joins and leaves on Gitter, each only if it is still what the user wants.
    async fn act_members(
        &self,
        user: &UserId,
        generation: u64,
        act: BTreeMap<GitterRoomId, MemberAction>,
    ) -> Result<(), ActionError> {
        let mut failed = None;
        for (room, action) in act {
            let id = PortalKey::new(user.to_owned(), room.clone());
            let join = action == MemberAction::Join;
            let wanted = self.state.write(move |t| {
                let Some(mut row) = t.portal(&id)? else { return Ok(false) };
                let wanted = row.member.pending() && row.member.desired == join;
                if wanted && !std::mem::replace(&mut row.member.tried, true) {
                    t.put_portal(&id, &row)?;
                }
                Ok(wanted)
            });
            if !wanted.await? {
                continue;
            }
            let result = match action {
                MemberAction::Join => self.gitter.join(user, &room).await,
                MemberAction::Leave => self.gitter.leave(user, &room).await,
            };
            let key = PortalKey::new(user.to_owned(), room);
            match result {
                Ok(()) => self.member_done(&key, action).await?,
                Err(ActionError::Refused { why, source, .. }) => {
                    tracing::info!(portal = %key, why = ?why, error = %source, "gitter refuses");
                    self.member_refused(&key, action, why).await?;
                }
                Err(ActionError::TokenRejected { .. }) => {
                    return Ok(self.token_rejected(user, generation).await?);
                }
                Err(error) => {
                    self.may_land(&key, if join { Late::In } else { Late::Out }, &error);
                    failed = failed.or(Some(error));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn member_done(&self, key: &PortalKey, action: MemberAction) -> Result<(), ActionError> {
        self.change(key, move |_, _, portal, _| {
            portal.member.last = Some(action == MemberAction::Join);
            Ok(())
        })
        .await?;
        self.hint(Key::Portal(key.clone()), Class::Waiting);
        Ok(())
    }

    /// Gitter refuses: the wish is taken back, so that it is not tried for ever, and the user is told.
    async fn member_refused(
        &self,
        key: &PortalKey,
        action: MemberAction,
        why: crate::model::Refusal,
    ) -> Result<(), ActionError> {
        self.change(key, move |t, id, portal, now| {
            let member = action == MemberAction::Leave;
            portal.member.adopt(member, Reason::Refused, now);
            if !member {
                portal.open.ask(false, Reason::Refused, now.max(portal.open.at));
            }
            portal.ask = None;
            tell_refused(t, id, why, now)
        })
        .await?;
        self.hint(Key::Portal(key.clone()), Class::Waiting);
        Ok(())
    }

    /// Looks up the names that commands gave for rooms the account is not known to be in.
    async fn answer_named(&self, user: &UserId, generation: u64) -> Result<(), ActionError> {
        let mut again = false;
        loop {
            let id = user.to_owned();
            let next = self
                .state
                .read(move |t| {
                    let account = t.account(&id)?.filter(|a| a.generation == generation);
                    Ok(account.and_then(|account| account.asks.into_iter().next()))
                })
                .await?;
            let Some(ask) = next else { break };
            let name = match &ask.kind {
                NamedKind::Join(name) | NamedKind::Invite(name) => name,
                NamedKind::Part(name) => {
                    let left = self.part_named(user, generation, &ask, name).await?;
                    again |= left;
                    continue;
                }
                NamedKind::List => {
                    // Asked while this pass was on its way: the next one sees fresh counts.
                    again = true;
                    break;
                }
            };
            let answer = match self.gitter.resolve(user, name).await {
                Ok(resolved) => Ok(resolved),
                Err(ActionError::Refused { why, .. }) => Err(why),
                Err(ActionError::TokenRejected { .. }) => {
                    return Ok(self.token_rejected(user, generation).await?);
                }
                Err(error) => return Err(error),
            };
            let found = answer.as_ref().ok().map(|resolved| resolved.room.id.clone());
            let (id, name, now) = (user.to_owned(), name.clone(), self.clock.now());
            self.state
                .write(move |t| {
                    let Some(mut row) = t.account(&id)? else { return Ok(()) };
                    if row.generation != generation || row.asks.first() != Some(&ask) {
                        return Ok(());
                    }
                    row.asks.remove(0);
                    t.put_account(&id, &row)?;
                    match &answer {
                        Ok(Resolved { room, member }) => {
                            wish_open(t, &id, room, *member, &ask, now)
                        }
                        Err(why) => {
                            tell(t, &id, Told::Refused { name: name.clone(), why: *why }, now)
                        }
                    }
                })
                .await?;
            self.bells.words.notify_one();
            if let Some(found) = found {
                self.hint(Key::Portal(PortalKey::new(user.to_owned(), found)), Class::Waiting);
            }
            again = true;
        }
        if again {
            self.hint(Key::Account(user.to_owned()), Class::Waiting);
        }
        Ok(())
    }

    /// The rooms were just looked at: whoever wants to leave one by a name that was not known then leaves it now, or is not
    /// there. Returns whether there is something to do for it.
    async fn part_named(
        &self,
        user: &UserId,
        generation: u64,
        ask: &NamedAsk,
        name: &str,
    ) -> Result<bool, ActionError> {
        let (id, ask, name, now) =
            (user.to_owned(), ask.clone(), name.to_owned(), self.clock.now());
        let left = self.state.write(move |t| {
            let Some(mut row) = t.account(&id)? else { return Ok(None) };
            if row.generation != generation || row.asks.first() != Some(&ask) {
                return Ok(None);
            }
            row.asks.remove(0);
            t.put_account(&id, &row)?;
            for (room, mut portal) in t.portals_of(&id)? {
                let key = PortalKey::new(id.clone(), room.clone());
                if t.room(&key)?.is_some_and(|room| is_called(&room, &name)) {
                    ask_part(&mut portal, ask.at);
                    t.put_portal(&key, &portal)?;
                    return Ok(Some(room));
                }
            }
            tell(t, &id, Told::Refused { name: name.clone(), why: Refusal::NotThere }, now)?;
            Ok(None)
        });
        let left = left.await?;
        self.bells.words.notify_one();
        if let Some(room) = left.clone() {
            self.hint(Key::Portal(PortalKey::new(user.to_owned(), room)), Class::Waiting);
        }
        Ok(left.is_some())
    }

    /// Gitter can't be asked: who wants the list gets the rooms last seen.
    async fn list_from_memory(
        &self,
        user: &UserId,
        account: &Account,
        portals: &Portals,
    ) -> Result<(), ActionError> {
        if !account.asks.iter().any(|ask| ask.kind == NamedKind::List) {
            return Ok(());
        }
        let known = portals.iter().filter(|(_, portal)| portal.member.last == Some(true));
        let rooms: Vec<_> = known.map(|(room, _)| (room.clone(), 0, 0)).collect();
        let (id, now) = (user.to_owned(), self.clock.now());
        self.state
            .write(move |t| {
                let Some(mut row) = t.account(&id)? else { return Ok(()) };
                row.asks.retain(|ask| ask.kind != NamedKind::List);
                t.put_account(&id, &row)?;
                tell(t, &id, Told::List { rooms: rooms.clone(), fresh: false }, now)
            })
            .await?;
        self.bells.words.notify_one();
        Ok(())
    }

    /// Makes the control room the bot owes the account; a room of an earlier try is looked for first.
    async fn open_control(
        &self,
        user: &UserId,
        attempted: Option<&Moment>,
    ) -> Result<(), ActionError> {
        let room = NewRoom::Control(user.to_owned());
        let found = match attempted {
            Some(_) => self.find_rooms(&room.marker()).await?,
            None => Vec::new(),
        };
        if let Some(since) = attempted {
            self.has_landed(since, &found)?;
        }
        let made = if let Some(room) = found.into_iter().next() {
            room
        } else {
            let (id, since) = (user.to_owned(), self.clock.moment());
            let meant = self.state.write(move |t| {
                let Some(mut row) = t.account(&id)? else { return Ok(false) };
                let meant = matches!(row.control, Control::Opening { .. });
                if meant {
                    row.control = Control::Opening { since: since.clone(), attempted: true };
                    t.put_account(&id, &row)?;
                }
                Ok(meant)
            });
            if !meant.await? {
                return Ok(());
            }
            self.homeserver(self.matrix.create(&room)).await?
        };
        let (id, at, now) = (user.to_owned(), made.clone(), self.clock.now());
        self.state
            .write(move |t| {
                let Some(mut row) = t.account(&id)? else { return Ok(()) };
                let wanted = matches!(row.control, Control::Opening { .. });
                let stage = if wanted { ChatStage::Control } else { ChatStage::Leaving };
                let account = id.clone();
                let chat = Chat { account, stage, encrypted: false, invite_due: wanted, at: now };
                t.put_chat(&at, &chat)?;
                if wanted {
                    row.control = Control::At(at.clone());
                    t.put_account(&id, &row)?;
                }
                Ok(())
            })
            .await?;
        self.hint(Key::Chat(made), Class::Waiting);
        self.bells.words.notify_one();
        Ok(())
    }
}

/// Writes one adoption down, unless the user said something newer meanwhile; returns whether it did.
fn adopt(
    t: &mut dyn Tables,
    key: &PortalKey,
    adoption: Adoption,
    before: Option<&Portal>,
    login: Option<Millis>,
    door: Door,
    now: Millis,
) -> Result<bool, TableError> {
    let row = t.portal(key)?;
    if row.as_ref().map(|p| p.member.generation) != before.map(|p| p.member.generation) {
        return Ok(false);
    }
    if let Adoption::Found { open } = adoption {
        let reason = match (login, open) {
            (Some(_), true) => Reason::Login,
            (Some(_), false) => Reason::TooMany,
            (None, _) => Reason::OnGitter,
        };
        let portal = match row {
            None => Portal::found(open, reason, now),
            Some(mut portal) => {
                portal.member.last = Some(portal.member.desired);
                portal.open.ask(open, reason, now.max(portal.open.at));
                portal.condition = None;
                portal
            }
        };
        t.put_portal(key, &portal)?;
        return Ok(true);
    }
    let Some(mut portal) = row else { return Ok(false) };
    match adoption {
        Adoption::Found { .. } => {}
        Adoption::Joined => {
            portal.member.adopt(true, Reason::OnGitter, now);
            portal.open.ask(true, Reason::OnGitter, now.max(portal.open.at));
            portal.condition = None;
            portal.ask = portal.ask.filter(|ask| *ask != Ask::Part);
        }
        Adoption::Gone => {
            portal.member.adopt(false, Reason::OnGitter, now);
            portal.ask = None;
            if portal.open.desired {
                portal.open.ask(false, Reason::OnGitter, now.max(portal.open.at));
                tell(t, &key.account, Told::GoneOnGitter(key.room.clone(), door), now)?;
            }
        }
        Adoption::Agreed => {
            portal.member.last = Some(portal.member.desired);
        }
    }
    t.put_portal(key, &portal)?;
    Ok(true)
}

/// After a login: which portals open, and which rooms stay aside.
fn tell_login(
    t: &mut dyn Tables,
    user: &OwnedUserId,
    rooms: &[RoomSeen],
    now: Millis,
) -> Result<(), TableError> {
    let (mut opened, mut aside, mut here) = (Vec::new(), Vec::new(), 0);
    for seen in rooms {
        let key = PortalKey::new(user.clone(), seen.id.clone());
        match t.portal(&key)? {
            Some(portal) if portal.open.desired && portal.joined => here += 1,
            Some(portal) if portal.open.desired => opened.push(seen.id.clone()),
            Some(portal) if portal.open.reason == Reason::TooMany => aside.push(seen.id.clone()),
            Some(_) | None => {}
        }
    }
    tell(t, user, Told::LoggedIn { opened, aside, here, rooms: rooms.len() }, now)
}

/// The room that a command wants open, among those the account is in.
fn named<'a>(ask: &NamedAsk, rooms: &'a [RoomSeen]) -> Option<&'a RoomSeen> {
    let (NamedKind::Join(name) | NamedKind::Invite(name)) = &ask.kind else { return None };
    rooms.iter().find(|seen| is_called(&seen.room, name))
}

/// Whether a command may call a room so: one-to-one rooms go by the names of people.
fn is_called(room: &GitterRoom, name: &str) -> bool {
    !room.one_to_one && room.uri.eq_ignore_ascii_case(name)
}

/// Commands for rooms that were among those just seen are words about their portals from now on, so that what the account does
/// later, here or there, is the newer word. One that comes after a `gpart` of the same name waits until that is looked up.
/// Returns those rooms.
fn open_named(
    t: &mut dyn Tables,
    user: &OwnedUserId,
    row: &mut Account,
    rooms: &[RoomSeen],
    now: Millis,
) -> Result<Vec<GitterRoomId>, TableError> {
    let (mut waiting, mut found) = (Vec::new(), Vec::new());
    for ask in std::mem::take(&mut row.asks) {
        let parts = |before: &NamedAsk, room: &GitterRoom| matches!(&before.kind, NamedKind::Part(name) if is_called(room, name));
        let parted = |seen: &RoomSeen| waiting.iter().any(|before| parts(before, &seen.room));
        match named(&ask, rooms).filter(|seen| !parted(seen)) {
            Some(seen) => {
                wish_open(t, user, seen, true, &ask, now)?;
                found.push(seen.id.clone());
            }
            None => waiting.push(ask),
        }
    }
    row.asks = waiting;
    if !found.is_empty() {
        t.put_account(user, row)?;
    }
    Ok(found)
}

/// A named room was found, with the account a `member` of it or not: it wants to be in it, there and here.
fn wish_open(
    t: &mut dyn Tables,
    user: &OwnedUserId,
    seen: &RoomSeen,
    member: bool,
    ask: &NamedAsk,
    now: Millis,
) -> Result<(), TableError> {
    let id = &seen.id;
    let key = PortalKey::new(user.clone(), id.clone());
    if t.room(&key)?.as_ref() != Some(&seen.room) {
        t.put_room(&key, &seen.room)?;
    }
    let mut portal = match t.portal(&key)? {
        Some(portal) => portal,
        None => Portal {
            member: Wish { last: Some(member), ..Wish::new(true, Reason::Asked, ask.at) },
            ..Portal::asked(ask.at)
        },
    };
    if ask_open(&mut portal, ask.at) {
        t.put_portal(&key, &portal)
    } else {
        tell(t, user, Told::AlreadyOpen(id.clone()), now)
    }
}

/// `gpart`: no member on Gitter, portal closed; the user hears when it is so.
pub fn ask_part(portal: &mut Portal, at: Millis) {
    let at = at.max(portal.open.at).max(portal.member.at);
    portal.member.ask(false, Reason::Asked, at);
    portal.open.ask(false, Reason::Asked, at);
    portal.condition = None;
    portal.ask = Some(Ask::Part);
}

/// `gjoin` and `invite`: member on Gitter, portal open; the user hears when it is so.
///
/// Returns false when it is so already and nothing was changed.
pub fn ask_open(portal: &mut Portal, at: Millis) -> bool {
    let is_so = |wish: &Wish<bool>| wish.desired && !wish.pending();
    if is_so(&portal.member) && is_so(&portal.open) && portal.condition.is_none() {
        return false;
    }
    let at = at.max(portal.open.at).max(portal.member.at);
    if !portal.member.desired {
        portal.member.ask(true, Reason::Asked, at);
    }
    portal.open.ask(true, Reason::Asked, at);
    portal.condition = None;
    portal.ask = Some(Ask::Open);
    true
}
