//! A pass over one portal's room on Matrix.

use std::{collections::BTreeSet, time::Duration};

use ruma::OwnedRoomId;

use super::{
    After, Driver, Key,
    late::Late,
    lock, tell,
    upgrade::{LAST_WORDS, empty, part_from_room, shun},
};
use crate::{
    brake::Brake,
    model::{
        Ask, Chat, ChatStage, Condition, GitterRoom, Millis, Place, Portal, PortalKey, Reason,
        Refusal, Seen, Session, Target, Told,
    },
    plan::{Note, PortalPlan, PortalView, RoomAction, RoomReading, plan_portal},
    port::{
        ActionError, Clock, Gitter, Matrix, NewRoom, Presence, Rows, State, TableError, Tables, Who,
    },
    queue::Class,
};

/// The scope of the removal brake under which portals are counted.
const SCOPE: &str = "portals";
/// For so long at most a closed portal's room is kept for what the homeserver may have kept back.
const UNHEARD: Duration = Duration::from_secs(3_600);
/// How often is looked whether it was read.
const UNHEARD_AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Facts {
    pub(super) portal: Portal,
    pub(super) shows: Option<GitterRoom>,
    logged_in: bool,
    total: usize,
    unheard: bool,
}

impl<M: Matrix + Clone + 'static, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    pub(super) async fn pass_portal(&self, key: &PortalKey) -> Result<After, ActionError> {
        let id = key.clone();
        let facts = self.state.read(move |t| facts(t, &id)).await?;
        let Some(facts) = facts else { return Ok(After::Done) };
        let room = match facts.portal.place.room() {
            Some(room) => Seen::Fresh(self.look(key, room).await?),
            None => Seen::Unknown,
        };
        let now = self.clock.now();
        let landing = self.landing(key, &facts.portal.open);
        let view = PortalView {
            portal: &facts.portal,
            shows: facts.shows.as_ref(),
            room,
            logged_in: facts.logged_in,
            features: facts.portal.place.room().map_or(0, |room| self.matrix.features(room)),
            now,
            landing: !landing.is_zero(),
            apart_ms: u64::try_from(self.limits.gone_apart.as_millis()).unwrap_or(u64::MAX),
        };
        let mut plan = plan_portal(&view);
        let named = key.to_string();
        let mut held_back = false;
        if plan.removes() && facts.portal.open.desired {
            let verdict = lock(&self.held).judge(
                &self.limits.brake,
                SCOPE,
                [named.as_str()],
                facts.total,
                now,
            );
            if verdict == Brake::Holds {
                tracing::warn!(portal = %key, "removal held back: too many portals seem lost at once");
                plan.notes.retain(|note| !note.removes());
                held_back = true;
            }
        } else {
            lock(&self.held).seen(SCOPE, &named);
        }
        if plan.is_empty() {
            if facts.portal.open.last.is_none() && !landing.is_zero() {
                return Ok(After::In(landing));
            }
            if let Some(until) = facts.portal.history.filter(|until| *until > now) {
                // No longer than that, even when the clock was put back.
                return Ok(After::In(until.since(now).min(self.limits.history)));
            }
            return Ok(match facts.portal.missing_since {
                Some(_) if !held_back => After::In(self.limits.gone_apart),
                Some(_) | None => self.after_brake(held_back),
            });
        }
        let noted = !plan.notes.is_empty();
        if noted {
            self.note(key, &facts.portal, &plan, now).await?;
        }
        let leaves = plan.act.iter().any(|action| matches!(action, RoomAction::Abandon(_)));
        if leaves && facts.unheard && now.since(facts.portal.open.at) < UNHEARD {
            // Once out, the bot can't read what the homeserver kept back.
            return Ok(After::In(UNHEARD_AGAIN));
        }
        let unanswered = self.unanswered(key, Late::Ghost).max(self.unanswered(key, Late::In));
        if leaves && !unanswered.is_zero() {
            // Once out, nobody sees off who comes in late.
            return Ok(After::In(unanswered));
        }
        let empties = |action: &RoomAction| {
            matches!(action, RoomAction::RemoveAccount(_) | RoomAction::TakeOut(..))
        };
        // The bot leaves when the next look finds nobody else: a ghost may have come in meanwhile.
        let again = noted || plan.act.iter().any(empties);
        let finished = self.act(key, &facts, plan.act).await?;
        Ok(if again || !finished { After::Again } else { self.after_brake(held_back) })
    }

    async fn look(&self, key: &PortalKey, room: &OwnedRoomId) -> Result<RoomReading, ActionError> {
        let id = room.clone();
        // Before the look: who comes or goes meanwhile is the newer news.
        let known = self.state.read(move |t| t.inside(&id)).await?;
        let Some(members) = self.matrix.members(room).await? else { return Ok(RoomReading::Gone) };
        let account = if members.contains(&key.account) {
            Presence::In
        } else {
            self.matrix.presence(room, &key.account).await?
        };
        let others = members.into_iter().filter(|m| *m != key.account && m != self.matrix.bot());
        let (ghosts, strangers): (BTreeSet<_>, BTreeSet<_>) =
            others.partition(|member| self.matrix.is_ghost(member));
        let successor = match self.matrix.tombstone(room).await? {
            Some(tombstone) => Some(self.successor(room, &tombstone, Some(key)).await?),
            None => None,
        };
        let known = BTreeSet::from_iter(known);
        let moved = known.symmetric_difference(&ghosts);
        let moved: Vec<_> = moved.map(|ghost| (ghost.clone(), ghosts.contains(ghost))).collect();
        if !moved.is_empty() {
            let id = room.clone();
            let write = self.state.write(move |t| {
                for (ghost, inside) in &moved {
                    t.put_inside(&id, ghost, *inside)?;
                }
                Ok(())
            });
            write.await?;
        }
        Ok(RoomReading::There { account, ghosts, strangers, successor })
    }

    async fn note(
        &self,
        key: &PortalKey,
        seen: &Portal,
        plan: &PortalPlan,
        now: Millis,
    ) -> Result<(), ActionError> {
        let (id, notes) = (key.clone(), plan.notes.clone());
        let seen = seen.clone();
        let next = self
            .state
            .write(move |t| {
                let Some(mut portal) = t.portal(&id)? else { return Ok(None) };
                // A newer word came in meanwhile: what was planned is about an older one. The next pass plans anew.
                if portal.open.generation != seen.open.generation || portal.place != seen.place {
                    return Ok(None);
                }
                let mut next = None;
                for note in &notes {
                    if *note == Note::Drop {
                        t.remove_portal(&id)?;
                        all_gone(t, &id, now)?;
                        return Ok(None);
                    }
                    if matches!(note, Note::Lost | Note::Dead)
                        && let Some(astray) = portal.successor.take()
                        && shun(t, &astray, &id.account, now)?
                    {
                        next = Some(astray);
                    }
                    apply(t, &id, &mut portal, note, now)?;
                }
                t.put_portal(&id, &portal)?;
                Ok(next)
            })
            .await?;
        self.bells.words.notify_one();
        self.bells.portals.notify_one();
        if let Some(next) = next {
            self.hint(Key::Chat(next), Class::Members);
        }
        Ok(())
    }

    /// Does what was planned, one by one; false when a newer word has overtaken the plan.
    async fn act(
        &self,
        key: &PortalKey,
        facts: &Facts,
        actions: Vec<RoomAction>,
    ) -> Result<bool, ActionError> {
        let mut failed = None;
        for action in actions {
            // The wait for a turn may be long: it comes before the look, not between the look and the call.
            self.limiter.take().await;
            let late = match action {
                RoomAction::Invite(_) => Some(Late::In),
                RoomAction::RemoveAccount(_) => Some(Late::Out),
                _ => None,
            };
            if !self.still_planned(key, &facts.portal, late == Some(Late::In)).await? {
                return failed.map_or(Ok(false), Err);
            }
            if let Err(error) = self.act_one(key, facts, action).await {
                if let Some(late) = late {
                    self.may_land(key, late, &error);
                }
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(true), Err)
    }

    /// Whether nobody has said a newer word since the plan was made, so that what it says is still wanted. If so, and if the account
    /// is invited now, that is noted.
    async fn still_planned(
        &self,
        key: &PortalKey,
        seen: &Portal,
        invites: bool,
    ) -> Result<bool, ActionError> {
        let (id, generation, place) = (key.clone(), seen.open.generation, seen.place.clone());
        let same = move |p: &Portal| p.open.generation == generation && p.place == place;
        if !invites || seen.open.tried {
            let row = self.state.read(move |t| t.portal(&id)).await?;
            return Ok(row.as_ref().is_some_and(same));
        }
        let noted = self.state.write(move |t| {
            let Some(mut portal) = t.portal(&id)?.filter(&same) else { return Ok(false) };
            portal.open.tried = true;
            t.put_portal(&id, &portal)?;
            Ok(true)
        });
        Ok(noted.await?)
    }

    async fn act_one(
        &self,
        key: &PortalKey,
        facts: &Facts,
        action: RoomAction,
    ) -> Result<(), ActionError> {
        match action {
            RoomAction::Create => self.create(key, facts).await,
            RoomAction::FindOrForget => {
                let found = self.find_rooms(&key.to_string()).await?;
                if let Place::Intended { since } = &facts.portal.place {
                    self.has_landed(since, &found)?;
                }
                self.record(key, found).await
            }
            RoomAction::Invite(room) => {
                let invited = self.heed(self.matrix.invite(&room, &key.account)).await;
                self.refusable(key, invited).await?;
                self.change(key, move |t, id, portal, now| {
                    if portal.condition.is_none() {
                        portal.history = None;
                        portal.open.last = Some(true);
                        if portal.open.desired && portal.ask == Some(Ask::Open) {
                            portal.ask = None;
                            tell(t, &id.account, Told::Opened(id.room.clone()), now)?;
                        }
                    }
                    Ok(())
                })
                .await
            }
            RoomAction::RemoveAccount(room) => {
                if !self.show_out(key, &room).await? {
                    return Ok(());
                }
                let reason = "this portal is closed";
                let removed = self.heed(self.matrix.remove(&room, &key.account, reason)).await;
                let immovable = match removed {
                    Err(ActionError::Refused { source, .. }) => Some(source.to_string()),
                    other => other.map(|()| None)?,
                };
                self.change(key, move |_, _, portal, now| {
                    portal.open.last = Some(false);
                    if let Some(detail) = &immovable
                        && !portal.open.desired
                    {
                        let (why, detail) = (Refusal::CannotRemove, detail.clone());
                        portal.condition = Some(Condition { why, detail, since: now });
                    }
                    Ok(())
                })
                .await
            }
            RoomAction::RemoveStranger(room, stranger) => {
                let reason = "this room shows somebody's private Gitter account";
                self.heed(self.matrix.remove(&room, &stranger, reason)).await
            }
            RoomAction::Show(room) => self.show(key, facts, &room).await,
            RoomAction::Announce(room) => {
                let features = self.matrix.features(&room);
                self.heed(self.matrix.announce(&room, key)).await?;
                let strayed = facts.portal.strayed;
                self.change(key, move |_, _, portal, _| {
                    if portal.strayed == strayed {
                        portal.features = features;
                    }
                    Ok(())
                })
                .await
            }
            RoomAction::TakeOut(room, ghost) => self.take_out(&room, ghost).await,
            RoomAction::Abandon(room) => {
                self.last_words(&room).await?;
                self.leave_next(&room, &key.account).await?;
                // Since the look that the plan is made of, a ghost may have come that was on its way when the portal was closed.
                let members = self.matrix.members(&room).await?.unwrap_or_default();
                if members.iter().any(|member| self.matrix.is_ghost(member)) {
                    self.hint(Key::Portal(key.clone()), Class::Soon);
                    return Ok(());
                }
                self.heed(self.matrix.leave(&room, Who::Bot)).await?;
                // Opened again meanwhile, ghosts may have come; once the place is forgotten, nobody knows of them.
                while !self.forget_place(key, &room).await? {
                    self.last_words(&room).await?;
                    let at = room.clone();
                    for ghost in self.state.read(move |t| t.inside(&at)).await? {
                        self.take_out(&room, ghost).await?;
                    }
                }
                self.hint(Key::Portal(key.clone()), Class::Soon);
                Ok(())
            }
            RoomAction::Follow(next) => self.follow(key, facts, next).await,
        }
    }

    async fn show(
        &self,
        key: &PortalKey,
        facts: &Facts,
        room: &OwnedRoomId,
    ) -> Result<(), ActionError> {
        let Some(new) = &facts.shows else { return Ok(()) };
        let old = facts.portal.shown.as_ref();
        let new = self.with_picture(new, old).await;
        if old == Some(&new) {
            return Ok(());
        }
        self.heed(self.matrix.show(room, &new, old)).await?;
        if old.is_none_or(|old| old.uri != new.uri) {
            // Clients show from here where a room leads to.
            let is = NewRoom::Portal { key: key.clone(), shows: new.clone() };
            self.heed(self.matrix.mark(room, &is)).await?;
        }
        let strayed = facts.portal.strayed;
        self.change(key, move |_, _, portal, _| {
            if portal.strayed == strayed {
                portal.shown = Some(new.clone());
            }
            Ok(())
        })
        .await
    }

    /// Notes that the account is about to be put out of its closed portal. Outside it hears nothing of what became of its messages:
    /// what waits to be said is said first, and whatever comes after this write is told in its chat. False when it is open again.
    async fn show_out(&self, key: &PortalKey, room: &OwnedRoomId) -> Result<bool, ActionError> {
        let (id, target) = (key.clone(), Target::Room(room.clone()));
        let shown = self.state.write(move |t| {
            let Some(mut portal) = t.portal(&id)?.filter(|portal| !portal.open.desired) else {
                return Ok(Some(false));
            };
            if t.has_notices(&target)? {
                return Ok(None);
            }
            if portal.open.last.take().is_some() || !portal.open.tried {
                portal.open.tried = true;
                t.put_portal(&id, &portal)?;
            }
            Ok(Some(true))
        });
        shown.await?.ok_or_else(|| self.unsaid())
    }

    /// What is still to be said in a room is said before it is left, or found to belong elsewhere before its portal forgets it.
    async fn last_words(&self, room: &OwnedRoomId) -> Result<(), ActionError> {
        let target = Target::Room(room.clone());
        let waits = self.state.read(move |t| t.has_notices(&target)).await?;
        if waits { Err(self.unsaid()) } else { Ok(()) }
    }

    fn unsaid(&self) -> ActionError {
        self.bells.words.notify_one();
        let source = "the bot's last words there are not said yet".into();
        ActionError::Later { doing: "leaving a room", retry_after: Some(LAST_WORDS), source }
    }

    /// The bot has left a portal's room: the portal has none any more. False when there are ghosts in it, or words for it.
    async fn forget_place(&self, key: &PortalKey, room: &OwnedRoomId) -> Result<bool, ActionError> {
        let (id, at, now) = (key.clone(), room.clone(), self.clock.now());
        let forgotten = self.state.write(move |t| {
            let Some(mut portal) = t.portal(&id)? else { return Ok((true, None)) };
            if !t.inside(&at)?.is_empty() || t.has_notices(&Target::Room(at.clone()))? {
                return Ok((false, None));
            }
            // Of an upgrade just before the bot left: where the room goes on it may be already, for nothing.
            let next = match portal.successor.take() {
                Some(next) => shun(t, &next, &id.account, now)?.then_some(next),
                None => None,
            };
            portal.place = Place::Nowhere;
            portal.missing_since = None;
            portal.shown = None;
            portal.joined = false;
            t.put_portal(&id, &portal)?;
            Ok((true, next))
        });
        let (forgotten, next) = forgotten.await?;
        self.bells.words.notify_one();
        self.bells.portals.notify_one();
        if let Some(next) = next {
            self.hint(Key::Chat(next), Class::Members);
        }
        Ok(forgotten)
    }

    async fn create(&self, key: &PortalKey, facts: &Facts) -> Result<(), ActionError> {
        let Some(shows) = facts.shows.clone() else {
            // The account's next pass learns what the room looks like.
            self.hint(Key::Account(key.account.clone()), Class::Soon);
            return Ok(());
        };
        // The wait for it comes before the intent, whose time tells from when on the room may be there.
        let shows = self.with_picture(&shows, None).await;
        // Without an intent too: a store that was lost, or is older than the room, knows of none.
        let found = self.find_rooms(&key.to_string()).await?;
        if let Place::Intended { since } = &facts.portal.place {
            self.has_landed(since, &found)?;
        }
        if !found.is_empty() {
            return self.record(key, found).await;
        }
        // From here on a crash leaves an intent, and the room is looked for before another is made.
        let since = self.clock.moment();
        let meant = self
            .state
            .write({
                let (id, before) = (key.clone(), facts.portal.place.clone());
                move |t| {
                    let Some(mut portal) = t.portal(&id)? else { return Ok(false) };
                    if portal.place != before || !portal.open.desired {
                        return Ok(false);
                    }
                    portal.place = Place::Intended { since: since.clone() };
                    t.put_portal(&id, &portal)?;
                    Ok(true)
                }
            })
            .await?;
        if !meant {
            return Ok(());
        }
        let room = NewRoom::Portal { key: key.clone(), shows: shows.clone() };
        let made = self.heed(self.matrix.create(&room)).await;
        let made = match made {
            // A failure may leave a room behind: the intent stays, and the next try looks for it.
            Err(ActionError::Refused { source, .. }) => {
                return self.refuse(key, Refusal::Homeserver, &source.to_string()).await;
            }
            other => other?,
        };
        let (patience, features) = (self.limits.history, self.matrix.features(&made));
        self.change(key, move |_, _, portal, now| {
            portal.history = filled_until(patience, now);
            portal.place = Place::At(made.clone());
            portal.shown = Some(shows.clone());
            portal.features = features;
            portal.missing_since = None;
            Ok(())
        })
        .await?;
        tracing::info!(portal = %key, "portal made");
        self.hint(Key::Portal(key.clone()), Class::Waiting);
        self.hint(Key::Room(key.room.clone()), Class::Soon);
        Ok(())
    }

    /// What can be shown of a room now.
    async fn with_picture(&self, new: &GitterRoom, old: Option<&GitterRoom>) -> GitterRoom {
        let before = old.and_then(|old| old.avatar_url.as_ref());
        let avatar_url = self.picture(new.avatar_url.as_ref(), before).await;
        GitterRoom { avatar_url, ..new.clone() }
    }

    /// The picture that can be shown now: the one `before` when the new one can't be had.
    pub(super) async fn picture(
        &self,
        new: Option<&String>,
        before: Option<&String>,
    ) -> Option<String> {
        match new {
            Some(address) if new != before && !self.matrix.has_picture(address).await => before,
            _ => new,
        }
        .cloned()
    }

    /// An intent is settled: the first room found is the portal, others are left; with none there is no room.
    async fn record(&self, key: &PortalKey, found: Vec<OwnedRoomId>) -> Result<(), ActionError> {
        let patience = self.limits.history;
        self.change(key, move |t, id, portal, now| {
            let mut found = found.iter();
            portal.place = found.next().map_or(Place::Nowhere, |room| Place::At(room.clone()));
            // The room may be half made: everything it shows is set again.
            portal.shown = None;
            if portal.place.room().is_some() {
                portal.history = filled_until(patience, now);
                t.relearn_all(id)?;
            }
            for room in found {
                t.put_chat(room, &Chat::new(id.account.clone(), ChatStage::Leaving, now))?;
            }
            Ok(())
        })
        .await?;
        self.hint(Key::Portal(key.clone()), Class::Waiting);
        self.hint(Key::Room(key.room.clone()), Class::Soon);
        Ok(())
    }

    async fn refusable(
        &self,
        key: &PortalKey,
        result: Result<(), ActionError>,
    ) -> Result<(), ActionError> {
        match result {
            Err(ActionError::Refused { why, source, .. }) => {
                self.refuse(key, why, &source.to_string()).await
            }
            other => other,
        }
    }

    /// Refused for good: a condition on the portal, told once, not tried again before somebody changes something.
    pub(super) async fn refuse(
        &self,
        key: &PortalKey,
        why: Refusal,
        detail: &str,
    ) -> Result<(), ActionError> {
        tracing::warn!(portal = %key, why = ?why, detail, "refused for good");
        let detail: String = detail.chars().take(500).collect();
        self.change(key, move |t, id, portal, now| {
            if portal.condition.is_none() {
                tell_refused(t, id, why, now)?;
            }
            portal.condition = Some(Condition { why, detail: detail.clone(), since: now });
            portal.ask = None;
            Ok(())
        })
        .await
    }

    /// Changes a portal's row as it is now, if it is still there, and tells those who wait.
    pub(super) async fn change(
        &self,
        key: &PortalKey,
        f: impl Fn(&mut dyn Tables, &PortalKey, &mut Portal, Millis) -> Result<(), TableError>
        + Send
        + 'static,
    ) -> Result<(), ActionError> {
        let (id, now) = (key.clone(), self.clock.now());
        self.state
            .write(move |t| {
                let Some(mut portal) = t.portal(&id)? else { return Ok(()) };
                f(t, &id, &mut portal, now)?;
                t.put_portal(&id, &portal)
            })
            .await?;
        self.bells.words.notify_one();
        self.bells.portals.notify_one();
        Ok(())
    }
}

/// Until when at most a room is filled with what was said before, ahead of the invite.
fn filled_until(patience: Duration, now: Millis) -> Option<Millis> {
    let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    (patience > 0).then(|| Millis(now.0.saturating_add(patience)))
}

fn facts(t: &dyn Rows, key: &PortalKey) -> Result<Option<Facts>, TableError> {
    let Some(portal) = t.portal(key)? else { return Ok(None) };
    let account = t.account(&key.account)?.unwrap_or_default();
    let logged_in = account.session != Session::LoggedOut;
    let (shows, total, unheard) = (t.room(key)?, t.portal_count()?, t.is_unheard()?);
    Ok(Some(Facts { portal, shows, logged_in, total, unheard }))
}

fn apply(
    t: &mut dyn Tables,
    key: &PortalKey,
    portal: &mut Portal,
    note: &Note,
    now: Millis,
) -> Result<(), TableError> {
    match note {
        Note::Open(open) => {
            portal.open.last = Some(*open);
            if *open {
                portal.condition = None;
            }
        }
        Note::Joined(joined) => portal.joined = *joined,
        Note::Left => portal.open.adopt(false, Reason::LeftPortal, now),
        Note::Missing => portal.missing_since = Some(now),
        Note::Found => portal.missing_since = None,
        Note::Lost => {
            if let Some(old) = part_from_room(portal, Place::Nowhere)
                && !t.inside(&old)?.is_empty()
            {
                empty(t, &old, &key.account, now)?;
            }
        }
        Note::Dead => {
            if let Some(old) = part_from_room(portal, Place::Nowhere) {
                empty(t, &old, &key.account, now)?;
            }
            tell(t, &key.account, Told::NotFollowed(key.room.clone()), now)?;
        }
        Note::Banned => {
            let (why, detail) = (Refusal::BannedFromPortal, "banned from the portal".to_owned());
            portal.condition = Some(Condition { why, detail, since: now });
            portal.ask = None;
            tell_refused(t, key, why, now)?;
        }
        Note::Tell => {
            portal.ask = None;
            tell(t, &key.account, Told::Opened(key.room.clone()), now)?;
        }
        Note::Parted => {
            portal.ask = None;
            match &portal.condition {
                Some(condition) if condition.why == Refusal::CannotRemove => {
                    tell_refused(t, key, condition.why, now)?;
                }
                Some(_) | None => tell(t, &key.account, Told::Parted(key.room.clone()), now)?,
            }
        }
        Note::Moot => portal.ask = None,
        Note::Drop => {}
    }
    Ok(())
}

pub(super) fn tell_refused(
    t: &mut dyn Tables,
    key: &PortalKey,
    why: Refusal,
    now: Millis,
) -> Result<(), TableError> {
    let name = t.room(key)?.map_or_else(|| key.room.to_string(), |room| room.uri);
    tell(t, &key.account, Told::Refused { name, why }, now)
}

/// After the last portal of a logged-out account is gone: say so.
fn all_gone(t: &mut dyn Tables, key: &PortalKey, now: Millis) -> Result<(), TableError> {
    let account = t.account(&key.account)?.unwrap_or_default();
    if account.session == Session::LoggedOut && t.portals_of(&key.account)?.is_empty() {
        tell(t, &key.account, Told::LoggedOut, now)?;
    }
    Ok(())
}
