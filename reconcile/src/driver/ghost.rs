//! Ghosts: who is in a Gitter room, bringing a ghost into a portal, and their profiles.

use std::{collections::BTreeSet, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::time::Instant;

use super::{After, Driver, Key, late::Late, lock, upgrade::empty};
use crate::{
    brake::Brake,
    model::{Ghost, GitterRoomId, GitterUserId, PortalKey, Profile, Refusal, alike},
    port::{ActionError, Clock, Gitter, Matrix, PersonSeen, Rows, State, TableError, Tables, Who},
    queue::Class,
};

/// How many ghosts are brought in, or leave, before other keys get a turn.
const BATCH: usize = 10;
/// How long a list of members is good enough when nothing is said to have changed.
const PEOPLE_FRESH: Duration = Duration::from_secs(3600);
/// The same, after something may have been missed.
const PEOPLE_DOUBTED: Duration = Duration::from_secs(600);
/// Joins and leaves come in bursts: the shortest time between two readings.
const PEOPLE_APART: Duration = Duration::from_secs(10);
/// How long a reading says who has left.
const PEOPLE_BELIEVED: Duration = Duration::from_secs(300);
/// How many people are asked after, one by one, at a reading that does not tell who has left.
const ASKED_AFTER: usize = 5;
/// So many people who are said to have left a room wait to be asked after.
const LEAVERS: usize = 100;
/// How many of whom something was heard are asked after at a reading.
const TOLD: usize = 20;
/// When a picture that could not be had is tried again.
const DRESS_AGAIN: Duration = Duration::from_secs(3600);
/// So many comings are remembered, if they are not longer ago than a reading is believed.
const COMINGS: usize = 10_000;

/// What the last reading of a room's people told.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// When it began.
    at: Instant,
    /// Whether the list held everybody.
    all: bool,
    /// If it did not: who was asked after and is not in the room any more.
    left: BTreeSet<GitterUserId>,
    /// Up to whom ghosts were asked after, in order of their ids.
    asked: Option<GitterUserId>,
}

/// A ghost as it is known now, and whose profile on the homeserver is out of date: its own, or that of somebody who is called
/// the same, or was.
#[derive(Debug, Clone)]
pub struct Learned {
    /// The ghost.
    pub ghost: Ghost,
    /// To be dressed anew.
    pub outdated: Vec<GitterUserId>,
}

/// Writes down what was seen of a Gitter user; the Matrix id is fixed at first sight.
///
/// # Errors
///
/// When the rows can't be read or written.
pub fn learn(
    t: &mut dyn Tables,
    matrix: &impl Matrix,
    seen: &PersonSeen,
) -> Result<Learned, TableError> {
    let old = t.ghost(&seen.id)?;
    let mut doubtful = vec![seen.id.clone()];
    let ghost = match &old {
        Some(old) if is_as_seen(old, seen) => old.clone(),
        Some(old) => {
            let (username, profile) = (seen.username.clone(), seen.profile.clone());
            Ghost { username, profile, ..old.clone() }
        }
        None => {
            let mut user = matrix.ghost_id(&seen.username, &seen.id, false);
            if t.ghost_named(&user)?.is_some() {
                user = matrix.ghost_id(&seen.username, &seen.id, true);
            }
            let (username, profile) = (seen.username.clone(), seen.profile.clone());
            Ghost { user, username, profile, dressed: None }
        }
    };
    let name = |ghost: &Ghost| alike(&ghost.profile.display_name);
    if old.as_ref().map(name) != Some(name(&ghost)) {
        t.put_ghost(&seen.id, &ghost)?;
        // The second of a name changes the first, and the last but one to leave it the last: with more nothing changes.
        let now_called = [old.as_ref(), Some(&ghost)].into_iter().flatten();
        for called in now_called.map(|ghost| &ghost.profile.display_name) {
            let others = t.namesakes(called, 3)?.into_iter().filter(|id| *id != seen.id);
            let others: Vec<GitterUserId> = others.collect();
            if let [other] = others.as_slice() {
                doubtful.push(other.clone());
            }
        }
    } else if old.as_ref() != Some(&ghost) {
        t.put_ghost(&seen.id, &ghost)?;
    }
    let mut outdated = Vec::new();
    for id in doubtful {
        if let Some(row) = t.ghost(&id)?
            && is_outdated(t, &row)?
        {
            outdated.push(id);
        }
    }
    Ok(Learned { ghost, outdated })
}

fn is_as_seen(row: &Ghost, seen: &PersonSeen) -> bool {
    row.username == seen.username && row.profile == seen.profile
}

/// What a ghost is to show, given who else is known.
fn to_show(t: &(impl Rows + ?Sized), row: &Ghost) -> Result<Profile, TableError> {
    Ok(row.to_show(t.namesakes(&row.profile.display_name, 2)?.len() > 1))
}

/// A ghost together with what it is to show.
fn with_look(
    t: &(impl Rows + ?Sized),
    row: Option<Ghost>,
) -> Result<Option<(Profile, Ghost)>, TableError> {
    row.map(|row| Ok((to_show(t, &row)?, row))).transpose()
}

fn is_outdated(t: &(impl Rows + ?Sized), row: &Ghost) -> Result<bool, TableError> {
    Ok(match &row.dressed {
        Some(dressed) => *dressed != to_show(t, row)?,
        None => false,
    })
}

/// Where the portals of a room are.
fn places(t: &(impl Rows + ?Sized), room: &GitterRoomId) -> Result<Vec<OwnedRoomId>, TableError> {
    let mut places = Vec::new();
    for key in t.portals_for(room)? {
        places.extend(t.portal(&key)?.and_then(|portal| portal.place.room().cloned()));
    }
    Ok(places)
}

/// Whether a ghost is in one of these places and nobody knows how it looks there: it was found there by a store made anew, or
/// put back. Who is not there yet is dressed before coming in.
fn is_bare(
    t: &(impl Rows + ?Sized),
    places: &[OwnedRoomId],
    row: &Ghost,
) -> Result<bool, TableError> {
    for place in places.iter().filter(|_| row.dressed.is_none()) {
        if t.is_inside(place, &row.user)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The ghosts in the portals of a room, by who they are.
fn ghosts_in(t: &dyn Rows, room: &GitterRoomId) -> Result<BTreeSet<GitterUserId>, TableError> {
    let mut ghosts = BTreeSet::new();
    for place in places(t, room)? {
        for ghost in t.inside(&place)? {
            ghosts.extend(t.ghost_named(&ghost)?.filter(GitterUserId::is_person));
        }
    }
    Ok(ghosts)
}

/// Who is in a portal, and who should be.
struct Crowd {
    room: OwnedRoomId,
    /// Should be, and are not.
    missing: Vec<GitterUserId>,
    /// Are, and are not on the list.
    others: Vec<(GitterUserId, OwnedUserId)>,
    /// How many are.
    inside: usize,
    /// Whether the room is still being filled with what was said before.
    filling: bool,
}

/// The crowd of an open portal, when the list of people says who the first `limit` should be.
fn crowd(t: &dyn Rows, key: &PortalKey, limit: usize) -> Result<Option<Crowd>, TableError> {
    let Some(portal) = t.portal(key)?.filter(|portal| portal.open.desired) else { return Ok(None) };
    let Some(room) = portal.place.room().cloned() else { return Ok(None) };
    let account = t.account(&key.account)?.unwrap_or_default();
    let own = account.session.person().map(|person| &person.id);
    let inside = t.inside(&room)?;
    let listed: Vec<GitterUserId> = t.people(&key.room)?.into_iter().take(limit).collect();
    let mut missing = Vec::new();
    for person in &listed {
        let Some(ghost) = t.ghost(person)? else { continue };
        // The account itself is in the portal: its ghost comes in only if it speaks elsewhere.
        if Some(person) != own && !inside.contains(&ghost.user) {
            missing.push(person.clone());
        }
    }
    let mut others = Vec::new();
    for ghost in &inside {
        // Whom another bridge speaks for is never a member.
        let person = t.ghost_named(ghost)?.filter(GitterUserId::is_person);
        if let Some(person) = person.filter(|person| !listed.contains(person)) {
            others.push((person, ghost.clone()));
        }
    }
    let (inside, filling) = (inside.len(), portal.history.is_some());
    Ok(Some(Crowd { room, missing, others, inside, filling }))
}

impl<M: Matrix + Clone + 'static, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    /// Somebody is said to have joined a Gitter room.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn said_to_join(&self, room: &GitterRoomId) -> Result<(), TableError> {
        let id = room.clone();
        // A full room takes in only who speaks.
        if self.state.read(move |t| t.people(&id)).await?.len() < self.limits.portal_ghosts {
            self.hint(Key::Room(room.clone()), Class::Soon);
        }
        Ok(())
    }

    /// Somebody is said to have left a Gitter room; of no interest when no portal of it has their ghost.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn said_to_leave(
        &self,
        room: &GitterRoomId,
        person: &GitterUserId,
    ) -> Result<(), TableError> {
        let (id, who) = (room.clone(), person.clone());
        let here = self.state.read(move |t| {
            let Some(ghost) = t.ghost(&who)? else { return Ok(false) };
            for key in t.portals_for(&id)? {
                let portal = t.portal(&key)?;
                if let Some(at) = portal.as_ref().and_then(|portal| portal.place.room())
                    && t.is_inside(at, &ghost.user)?
                {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        if here.await? {
            let mut said = lock(&self.said_to_leave);
            let said = said.entry(room.clone()).or_default();
            if said.len() < LEAVERS {
                said.insert(person.clone());
            }
            self.hint(Key::Room(room.clone()), Class::Soon);
        }
        Ok(())
    }

    /// Reads who is in a Gitter room, when that was not done lately, and has its portals populated.
    pub(super) async fn pass_room(
        &self,
        room: &GitterRoomId,
        class: Class,
    ) -> Result<After, ActionError> {
        let last = lock(&self.people_read).get(room).cloned();
        let enough = match class {
            Class::Waiting | Class::Soon => PEOPLE_APART,
            Class::Members => PEOPLE_DOUBTED,
            Class::Looks => PEOPLE_FRESH,
        };
        let age = last.as_ref().map_or(enough, |last| last.at.elapsed());
        if age < enough {
            if class > Class::Soon {
                return Ok(After::Done);
            }
            // A portal that was just made need not wait for what is known.
            let id = room.clone();
            for portal in self.state.read(move |t| t.portals_for(&id)).await? {
                self.hint(Key::Populate(portal), Class::Members);
            }
            return Ok(After::In(enough.saturating_sub(age)));
        }
        let id = room.clone();
        let reader = self
            .state
            .read(move |t| {
                for key in t.portals_for(&id)? {
                    let member = t.portal(&key)?.is_some_and(|p| p.member.last == Some(true));
                    if member
                        && let Some(account) = t.account(&key.account)?
                        && account.session.is_active()
                    {
                        return Ok(Some((key.account, account.generation)));
                    }
                }
                Ok(None)
            })
            .await?;
        let Some((account, generation)) = reader else { return Ok(After::Done) };
        match self.read_people(&account, room, last).await {
            Err(ActionError::TokenRejected { .. }) => {
                self.token_rejected(&account, generation).await?;
                Ok(After::Again)
            }
            Err(ActionError::Refused { .. }) => {
                // The account lost the room: its own pass finds out.
                self.hint(Key::Account(account), Class::Soon);
                Ok(After::Done)
            }
            read => read.map(|()| After::Done),
        }
    }

    async fn read_people(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        last: Option<Reading>,
    ) -> Result<(), ActionError> {
        let (asked, gone) = last.map(|last| (last.asked, last.left)).unwrap_or_default();
        let (at, left) = (Instant::now(), BTreeSet::new());
        let mut reading = Reading { at, all: false, left, asked };
        let mut people = Vec::new();
        let limit = self.limits.portal_ghosts;
        if limit > 0 {
            let seen = self.gitter.people(account, room, limit).await?;
            (people, reading.all) = (seen.people, seen.all);
        }
        if reading.all {
            lock(&self.said_to_leave).remove(room);
        } else {
            // Who spoke lately is on the list although they may have left.
            let listed: BTreeSet<GitterUserId> = people.iter().map(|p| p.id.clone()).collect();
            let gone = gone.intersection(&listed).cloned().collect();
            self.ask_after(account, room, (gone, listed), &mut reading).await?;
            people.retain(|person| !reading.left.contains(&person.id));
        }
        let (outdated, portals) = self.learn_people(room, people).await?;
        lock(&self.people_read).insert(room.clone(), reading);
        for ghost in outdated {
            self.hint(Key::Ghost(ghost), Class::Looks);
        }
        for portal in portals {
            self.hint(Key::Populate(portal), Class::Members);
        }
        Ok(())
    }

    /// Asks after some people of a room whose list does not tell: those said to have left, those known to have been `gone`, and
    /// all who are in its portals in turns, those first who are not `listed`.
    async fn ask_after(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        (gone, listed): (BTreeSet<GitterUserId>, BTreeSet<GitterUserId>),
        reading: &mut Reading,
    ) -> Result<(), ActionError> {
        let said = lock(&self.said_to_leave).get(room).cloned().unwrap_or_default();
        let (id, last) = (room.clone(), reading.asked.clone());
        let whom = self.state.read(move |t| {
            let here = ghosts_in(t, &id)?;
            let told = said.iter().filter(|person| here.contains(*person)).chain(&gone);
            let told: BTreeSet<GitterUserId> = told.take(TOLD).cloned().collect();
            let mut turns: Vec<_> = here.iter().filter(|person| !told.contains(*person)).collect();
            turns.sort_by_key(|p| (listed.contains(*p), Some(*p) <= last.as_ref(), *p));
            let turns = turns.into_iter().take(ASKED_AFTER);
            let mut whom = Vec::new();
            for (told, person) in told.iter().map(|p| (true, p)).chain(turns.map(|p| (false, p))) {
                if let Some(ghost) = t.ghost(person)? {
                    whom.push((told, person.clone(), ghost.username));
                }
            }
            Ok((whom, here))
        });
        let (whom, here) = whom.await?;
        for (told, person, username) in whom {
            let member = self.gitter.is_member(account, room, &person, &username).await?;
            if member == Some(false) {
                reading.left.insert(person.clone());
            }
            if told {
                let mut said = lock(&self.said_to_leave);
                if let Some(people) = said.get_mut(room) {
                    people.remove(&person);
                }
            } else {
                reading.asked = Some(person);
            }
        }
        let mut said = lock(&self.said_to_leave);
        if let Some(people) = said.get_mut(room) {
            people.retain(|person| here.contains(person));
            if people.is_empty() {
                said.remove(room);
            } else {
                self.hint(Key::Room(room.clone()), Class::Soon);
            }
        }
        Ok(())
    }

    /// Writes down who is in a room, if that is not known already.
    ///
    /// Returns the ghosts whose profile is out of date, and the portals that show the room.
    async fn learn_people(
        &self,
        room: &GitterRoomId,
        seen: Vec<PersonSeen>,
    ) -> Result<(Vec<GitterUserId>, Vec<PortalKey>), ActionError> {
        let people: Vec<GitterUserId> = seen.iter().map(|p| p.id.clone()).collect();
        let (id, known) = (room.clone(), seen.clone());
        let unchanged = self
            .state
            .read(move |t| {
                if t.people(&id)? != people {
                    return Ok(None);
                }
                let (mut outdated, places) = (Vec::new(), places(t, &id)?);
                for person in &known {
                    match t.ghost(&person.id)?.filter(|row| is_as_seen(row, person)) {
                        None => return Ok(None),
                        Some(row) if is_bare(t, &places, &row)? => return Ok(None),
                        Some(row) if is_outdated(t, &row)? => outdated.push(person.id.clone()),
                        Some(_) => {}
                    }
                }
                Ok(Some((outdated, t.portals_for(&id)?)))
            })
            .await?;
        if let Some(unchanged) = unchanged {
            return Ok(unchanged);
        }
        let (id, matrix) = (room.clone(), self.matrix.clone());
        let learned = self.state.write(move |t| {
            let (mut outdated, places) = (Vec::new(), places(t, &id)?);
            for person in &seen {
                let learned = learn(t, &matrix, person)?;
                outdated.extend(learned.outdated);
                if is_bare(t, &places, &learned.ghost)? {
                    let unknown = Profile { display_name: String::new(), avatar_url: None };
                    t.put_ghost(&person.id, &Ghost { dressed: Some(unknown), ..learned.ghost })?;
                    outdated.push(person.id.clone());
                }
            }
            let people: Vec<GitterUserId> = seen.iter().map(|p| p.id.clone()).collect();
            t.put_people(&id, &people)?;
            Ok((outdated, t.portals_for(&id)?))
        });
        Ok(learned.await?)
    }

    /// Brings in those who should be in a portal and are not, and has those leave who have left on Gitter, some at a time.
    pub(super) async fn pass_populate(&self, key: &PortalKey) -> Result<After, ActionError> {
        let (id, limit) = (key.clone(), self.limits.portal_ghosts);
        let found = self.state.read(move |t| crowd(t, &id, limit)).await?;
        let Some(Crowd { room, missing, others, inside, filling }) = found else {
            return Ok(After::Done);
        };
        let (mut brought, mut failures, mut failed) = (0, 0, None);
        for ghost in &missing {
            match self.bring(key, ghost, false).await {
                Ok(()) => brought += 1,
                Err(ActionError::Refused { source, .. }) => {
                    tracing::warn!(portal = %key, ghost = %ghost, error = %source, "ghost not joined");
                }
                Err(error) => {
                    failures += 1;
                    failed = failed.or(Some(error));
                }
            }
            if brought == BATCH || failures == BATCH {
                return failed.map_or(Ok(After::Again), Err);
            }
        }
        // Who said what the room is being filled with may be gone by now, and comes for each of their messages.
        let after =
            if filling { After::Done } else { self.see_off(key, &room, others, inside).await? };
        failed.map_or(Ok(after), Err)
    }

    /// Has ghosts leave of whom a reading just made says that they are not in the Gitter room; `others` are not on its list.
    async fn see_off(
        &self,
        key: &PortalKey,
        room: &OwnedRoomId,
        others: Vec<(GitterUserId, OwnedUserId)>,
        inside: usize,
    ) -> Result<After, ActionError> {
        let Some(reading) = lock(&self.people_read).get(&key.room).cloned() else {
            return Ok(After::Done);
        };
        let gone = |(person, ghost): &(GitterUserId, OwnedUserId)| {
            let came = lock(&self.came).get(&(room.clone(), ghost.clone())).copied();
            // Who came since is in the room as far as anybody knows.
            let before = came.is_none_or(|came| came < reading.at);
            before && (reading.all || reading.left.contains(person))
        };
        let (gone, others): (Vec<_>, Vec<_>) = others.into_iter().partition(gone);
        let scope = format!("ghosts of {key}");
        for (_, ghost) in &others {
            lock(&self.held).seen(&scope, ghost.as_str());
        }
        if gone.is_empty() {
            return Ok(After::Done);
        }
        if reading.at.elapsed() > PEOPLE_BELIEVED {
            // Nobody is sent away on old news.
            self.hint(Key::Room(key.room.clone()), Class::Soon);
            return Ok(After::Done);
        }
        let names = gone.iter().map(|(_, ghost)| ghost.as_str());
        let now = self.clock.now();
        let verdict = lock(&self.held).judge(&self.limits.brake, &scope, names, inside, now);
        if verdict == Brake::Holds {
            tracing::warn!(portal = %key, ghosts = gone.len(), "removal held back: too many people seem to have left at once");
            return Ok(self.after_brake(true));
        }
        let more = gone.len() > BATCH;
        for (_, ghost) in gone.into_iter().take(BATCH) {
            self.limiter.take().await;
            self.take_out(room, ghost).await?;
        }
        Ok(if more { After::Again } else { After::Done })
    }

    /// A ghost leaves a room, which then is noted.
    pub(super) async fn take_out(
        &self,
        room: &RoomId,
        ghost: OwnedUserId,
    ) -> Result<(), ActionError> {
        self.heed(self.matrix.leave(room, Who::Ghost(&ghost))).await?;
        let room = room.to_owned();
        Ok(self.state.write(move |t| t.put_inside(&room, &ghost, false)).await?)
    }

    /// Sets a registered ghost's profile when it is out of date.
    pub(super) async fn pass_ghost(&self, ghost: &GitterUserId) -> Result<After, ActionError> {
        let id = ghost.clone();
        let row = self
            .state
            .read(move |t| with_look(t, t.ghost(&id)?.filter(|row| row.dressed.is_some())));
        match row.await? {
            Some((shown, row)) if !self.dress(ghost, &row, &shown).await? => {
                Ok(After::In(DRESS_AGAIN))
            }
            _ => Ok(After::Done),
        }
    }

    /// Sets what differs of a ghost's profile; false when not all of it could be had.
    async fn dress(
        &self,
        id: &GitterUserId,
        row: &Ghost,
        shown: &Profile,
    ) -> Result<bool, ActionError> {
        if row.dressed.as_ref() == Some(shown) {
            return Ok(true);
        }
        let old = row.dressed.as_ref();
        let before = old.and_then(|old| old.avatar_url.as_ref());
        let avatar_url = self.picture(shown.avatar_url.as_ref(), before).await;
        let dressed = Profile { avatar_url, ..shown.clone() };
        if old == Some(&dressed) {
            return Ok(false);
        }
        self.homeserver(self.matrix.dress(&row.user, &dressed, old)).await?;
        let (key, all, meant) = (id.clone(), dressed == *shown, shown.clone());
        let overtaken = self.state.write(move |t| {
            let Some(mut row) = t.ghost(&key)? else { return Ok(false) };
            row.dressed = Some(dressed.clone());
            t.put_ghost(&key, &row)?;
            Ok(to_show(t, &row)? != meant)
        });
        if overtaken.await? {
            // They have changed meanwhile, and whoever saw that saw a ghost that was not dressed yet.
            self.hint(Key::Ghost(id.clone()), Class::Looks);
        }
        Ok(all)
    }

    /// Notes that a ghost comes into a room although no list says that it should.
    fn came(&self, room: &OwnedRoomId, ghost: &OwnedUserId) {
        let mut came = lock(&self.came);
        if came.len() >= COMINGS {
            came.retain(|_, at| at.elapsed() < PEOPLE_BELIEVED);
        }
        came.insert((room.clone(), ghost.clone()), Instant::now());
    }

    /// Makes sure that a ghost is there for people to be led to, whether or not it is in any room; returns its Matrix id.
    ///
    /// # Errors
    ///
    /// [`ActionError::Refused`] when the ghost is not known, or the homeserver will not have it.
    pub async fn introduce(&self, ghost: &GitterUserId) -> Result<OwnedUserId, ActionError> {
        let id = ghost.clone();
        let row = self.state.read(move |t| with_look(t, t.ghost(&id)?));
        let Some((shown, row)) = row.await? else {
            return Err(ActionError::Refused {
                doing: "introducing a ghost",
                why: Refusal::Homeserver,
                source: "the ghost is not known".into(),
            });
        };
        if row.dressed.is_none() && !self.dress(ghost, &row, &shown).await? {
            self.hint(Key::Ghost(ghost.clone()), Class::Looks);
        }
        Ok(row.user)
    }

    /// Makes sure that a ghost is in an open portal; costs nothing when it is.
    ///
    /// # Errors
    ///
    /// [`ActionError::Refused`] when the portal is not open, or the homeserver will not let the ghost in.
    pub async fn bring_in(&self, key: &PortalKey, ghost: &GitterUserId) -> Result<(), ActionError> {
        self.bring(key, ghost, true).await
    }

    async fn bring(
        &self,
        key: &PortalKey,
        ghost: &GitterUserId,
        to_speak: bool,
    ) -> Result<(), ActionError> {
        const DOING: &str = "bringing a ghost into a portal";
        let refused = |text: &str| ActionError::Refused {
            doing: DOING,
            why: Refusal::Homeserver,
            source: text.into(),
        };
        let (portal, id) = (key.clone(), ghost.clone());
        let (portal, row, inside) = self
            .state
            .read(move |t| {
                let portal = t.portal(&portal)?;
                let row = t.ghost(&id)?;
                let inside = match (portal.as_ref().and_then(|p| p.place.room()), &row) {
                    (Some(room), Some(row)) => t.is_inside(room, &row.user)?,
                    _ => false,
                };
                Ok((portal, with_look(t, row)?, inside))
            })
            .await?;
        if inside {
            return Ok(());
        }
        let portal = portal.filter(|portal| portal.open.desired);
        let room = portal.as_ref().and_then(|portal| portal.place.room());
        let (Some(room), Some((shown, row))) = (room, row) else {
            return Err(refused("the portal is not open, or the ghost is not known"));
        };
        // The profile first: set later, it would cost an event in every room the ghost is in.
        if !self.dress(ghost, &row, &shown).await? {
            self.hint(Key::Ghost(ghost.clone()), Class::Looks);
        }
        if to_speak {
            self.came(room, &row.user);
        }
        self.homeserver(self.matrix.invite(room, &row.user)).await?;
        let entered = self.homeserver(self.matrix.enter(room, Who::Ghost(&row.user))).await;
        if let Err(error) = &entered {
            self.may_land(key, Late::Ghost, error);
        }
        let came = entered.is_ok();
        let (at, user, id) = (room.clone(), row.user.clone(), key.clone());
        let (who, shown, now) = (ghost.clone(), shown, self.clock.now());
        let still_open = self.state.write(move |t| {
            let portal = t.portal(&id)?.filter(|portal| portal.place.room() == Some(&at));
            let still_open = portal.as_ref().is_some_and(|portal| portal.open.desired);
            let mut changed = false;
            if still_open && came {
                t.put_inside(&at, &user, true)?;
                if let Some(mut row) = t.ghost(&who)?
                    && to_show(t, &row)? != shown
                {
                    // The homeserver may have let it in as it was, and have changed it only where it was already.
                    row.dressed = Some(shown.clone());
                    t.put_ghost(&who, &row)?;
                    changed = true;
                }
            }
            if !still_open {
                // Closed meanwhile: whoever empties it may have looked before the ghost came. One of which nothing was heard
                // may have come, too.
                t.put_inside(&at, &user, true)?;
                if portal.is_none() {
                    empty(t, &at, &id.account, now)?;
                }
            }
            Ok((still_open, changed))
        });
        let (still_open, changed) = still_open.await?;
        if changed {
            self.hint(Key::Ghost(ghost.clone()), Class::Looks);
        }
        if !still_open {
            self.hint(Key::Portal(key.clone()), Class::Members);
            self.hint(Key::Chat(room.clone()), Class::Members);
            return Err(refused("the portal was closed meanwhile"));
        }
        entered
    }
}
