//! One portal's room on Matrix: is it there, is the account in it, is anybody else.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId};

use super::{INVITED_WITHIN_MS, Successor};
use crate::{
    model::{Ask, GitterRoom, Millis, Place, Portal, Refusal, Seen, Wish},
    port::Presence,
    settle::{Verdict, settle},
};

/// What was read of a portal's room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomReading {
    /// The bot is not in it: it is gone, or the bot was thrown out.
    Gone,
    /// The bot is in it.
    There {
        /// Whether the account is.
        account: Presence,
        /// The ghosts that are.
        ghosts: BTreeSet<OwnedUserId>,
        /// Joined members who are neither account, ghost nor bot.
        strangers: BTreeSet<OwnedUserId>,
        /// Set when the room was upgraded: where it goes on.
        successor: Option<Successor>,
    },
}

/// A portal's row and what was read about it.
#[derive(Debug)]
pub struct PortalView<'a> {
    /// The row.
    pub portal: &'a Portal,
    /// What its room looks like on Gitter, as last seen.
    pub shows: Option<&'a GitterRoom>,
    /// The room on Matrix. Without a room there is nothing to read: `Unknown`.
    pub room: Seen<RoomReading>,
    /// Whether the account still has a login, working or not. Without one the row is kept for nothing.
    pub logged_in: bool,
    /// The mark of what is to be announced in the room as what can be done there.
    pub features: u64,
    /// The time of the pass.
    pub now: Millis,
    /// How far apart in time a room must be found gone twice before it is believed, in milliseconds.
    pub apart_ms: u64,
    /// Whether a call for what was desired before may still land.
    pub landing: bool,
}

/// What to write down, before acting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The account is, or is not, in its portal; this was not known. If it is, nothing is refused any more.
    Open(bool),
    /// The account has accepted its invite, or has not any more.
    Joined(bool),
    /// The account left, declined or was removed: closed.
    Left,
    /// The room was found gone, or replaced by one that can't be followed, for the first time.
    Missing,
    /// The room is there after all.
    Found,
    /// The room is gone for good; the portal has none.
    Lost,
    /// The room was replaced, and the portal can't follow; it has none.
    Dead,
    /// The account is banned from its portal.
    Banned,
    /// What was asked is true: tell.
    Tell,
    /// The account is out of the room as asked, there and here: tell.
    Parted,
    /// What was asked is not wanted any more: nobody waits for it.
    Moot,
    /// Nobody needs the row any more.
    Drop,
}

impl Note {
    /// Whether it takes a portal away that nobody told the bridge to close.
    #[must_use]
    pub fn removes(&self) -> bool {
        matches!(self, Self::Left | Self::Lost | Self::Dead)
    }
}

/// A call to the homeserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomAction {
    /// Look for the room of an earlier attempt, else make one.
    Create,
    /// Look for the room of an earlier attempt; if there is none, forget the intent.
    FindOrForget,
    /// Invite the account.
    Invite(OwnedRoomId),
    /// Remove the account: its portal is closed.
    RemoveAccount(OwnedRoomId),
    /// Remove somebody who has no business in the portal.
    RemoveStranger(OwnedRoomId, OwnedUserId),
    /// Set name, topic and picture.
    Show(OwnedRoomId),
    /// Say in the room what can be done in it.
    Announce(OwnedRoomId),
    /// A ghost leaves the closed portal.
    TakeOut(OwnedRoomId, OwnedUserId),
    /// The bot leaves the empty portal and forgets it.
    Abandon(OwnedRoomId),
    /// The portal moves to the room that replaces its own, and the old one is emptied.
    Follow(OwnedRoomId),
}

/// What is to be done for a portal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PortalPlan {
    /// What to write down.
    pub notes: Vec<Note>,
    /// What to do, in this order.
    pub act: Vec<RoomAction>,
}

impl PortalPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.act.is_empty()
    }

    /// Whether the plan takes a portal away that nobody told the bridge to close: what the removal brake counts.
    #[must_use]
    pub fn removes(&self) -> bool {
        self.notes.iter().any(Note::removes)
    }
}

/// Compares one portal's row with its room.
#[must_use]
pub fn plan_portal(view: &PortalView<'_>) -> PortalPlan {
    let portal = view.portal;
    let mut plan = PortalPlan::default();
    if !portal.open.desired && portal.ask == Some(Ask::Open) {
        plan.notes.push(Note::Moot);
    }
    if portal.ask == Some(Ask::Part) && is_parted(view) {
        plan.notes.push(Note::Parted);
    }
    match &portal.place {
        Place::Nowhere => nowhere(view, &mut plan),
        Place::Intended { .. } => {
            let wanted = portal.open.desired && portal.condition.is_none();
            plan.act.push(if wanted { RoomAction::Create } else { RoomAction::FindOrForget });
        }
        Place::At(room) => match view.room.fresh() {
            None => {}
            Some(RoomReading::Gone) => gone(view, &mut plan),
            Some(RoomReading::There { account, ghosts, strangers, successor }) => {
                for stranger in strangers {
                    plan.act.push(RoomAction::RemoveStranger(room.clone(), stranger.clone()));
                }
                if let Some(successor) = successor
                    && portal.open.desired
                {
                    replaced(view, successor, &mut plan);
                    return plan;
                }
                if portal.missing_since.is_some() {
                    plan.notes.push(Note::Found);
                }
                there(view, room, *account, ghosts, &mut plan);
                // Last, and only from a room just seen empty: as long as the bot is in it, the room can be found and tidied
                // up. A room that goes on elsewhere is closed there, so that nobody is left behind in it.
                if plan.act.is_empty() && !portal.open.desired && !is_doubtful(view) {
                    plan.act.push(match successor {
                        Some(Successor::Fit(next)) => RoomAction::Follow(next.clone()),
                        Some(Successor::Shut | Successor::Unfit(_)) | None => {
                            RoomAction::Abandon(room.clone())
                        }
                    });
                }
            }
        },
    }
    plan
}

/// Whether the account has changed its mind while a call for what it wanted before may still land: then what is seen may not stay.
fn is_doubtful(view: &PortalView<'_>) -> bool {
    view.portal.open.last.is_none() && view.landing
}

/// Whether the account is out of the room there and here, or can't be brought out.
fn is_parted(view: &PortalView<'_>) -> bool {
    let portal = view.portal;
    let is_out = |wish: &Wish<bool>| !wish.desired && wish.last == Some(false);
    let came_back = match view.room.fresh() {
        Some(RoomReading::There { account: Presence::In | Presence::Invited, .. }) => {
            !is_immovable(portal)
        }
        Some(RoomReading::There { .. } | RoomReading::Gone) | None => false,
    };
    is_out(&portal.member) && is_out(&portal.open) && !came_back
}

/// Whether the account has too much power to be removed from its portal.
fn is_immovable(portal: &Portal) -> bool {
    portal.condition.as_ref().is_some_and(|condition| condition.why == Refusal::CannotRemove)
}

fn nowhere(view: &PortalView<'_>, plan: &mut PortalPlan) {
    let portal = view.portal;
    if portal.open.last != Some(false) {
        plan.notes.push(Note::Open(false));
    }
    // A room for somebody who may not be let in on Gitter would be made for nothing: membership comes first.
    let member = portal.member.last == Some(true) && portal.member.desired;
    if portal.open.desired && member && portal.condition.is_none() && view.logged_in {
        plan.act.push(RoomAction::Create);
        return;
    }
    let no_member = !portal.member.desired && portal.member.last == Some(false);
    // Without a login nobody waits for an answer any more.
    let useless = (no_member && portal.ask.is_none()) || !view.logged_in;
    if !portal.open.desired && useless {
        plan.notes.push(Note::Drop);
    }
}

/// Whether history is waited for until then. By a clock that was put back, nobody waits for longer than a minute.
fn awaited(until: Millis, now: Millis) -> bool {
    const MINUTE_MS: u64 = 60_000;
    now < until && until.0 - now.0 <= MINUTE_MS
}

fn gone(view: &PortalView<'_>, plan: &mut PortalPlan) {
    let portal = view.portal;
    if !portal.open.desired {
        plan.notes.push(Note::Lost);
        return;
    }
    match portal.missing_since {
        None => plan.notes.push(Note::Missing),
        // The clock was put back: counted from now, or it would take until the clock has come round again.
        Some(since) if since > view.now => plan.notes.push(Note::Missing),
        Some(since) if view.now.0.saturating_sub(since.0) >= view.apart_ms => {
            plan.notes.push(Note::Lost);
        }
        Some(_) => {}
    }
}

/// The room was upgraded. Whoever leaves the old one now has not left the portal.
fn replaced(view: &PortalView<'_>, successor: &Successor, plan: &mut PortalPlan) {
    let wait = match successor {
        Successor::Fit(next) => return plan.act.push(RoomAction::Follow(next.clone())),
        Successor::Shut => INVITED_WITHIN_MS.max(view.apart_ms),
        Successor::Unfit(_) => view.apart_ms,
    };
    match view.portal.missing_since {
        None => plan.notes.push(Note::Missing),
        // The clock was put back: counted from now, or it would take until the clock has come round again.
        Some(since) if since > view.now => plan.notes.push(Note::Missing),
        Some(since) if view.now.0.saturating_sub(since.0) >= wait => {
            // Nothing more is done in it.
            plan.act.clear();
            plan.notes.push(Note::Dead);
        }
        Some(_) => {}
    }
}

fn there(
    view: &PortalView<'_>,
    room: &OwnedRoomId,
    account: Presence,
    ghosts: &BTreeSet<OwnedUserId>,
    plan: &mut PortalPlan,
) {
    let portal = view.portal;
    let wish = &portal.open;
    let now = matches!(account, Presence::Invited | Presence::In);
    if portal.joined != (account == Presence::In) {
        plan.notes.push(Note::Joined(account == Presence::In));
    }
    let immovable = is_immovable(portal);
    let outdated = view.shows.is_some() && view.shows != portal.shown.as_ref();
    match settle(&wish.desired, wish.last.as_ref(), &Seen::Fresh(now)) {
        Verdict::Agreed => {
            if (wish.pending() && !is_doubtful(view)) || (now && portal.condition.is_some()) {
                plan.notes.push(Note::Open(now));
            }
        }
        // The room is left to who can't be removed from it.
        Verdict::Adopt | Verdict::Enforce if now && !wish.desired && immovable => {}
        // Nobody can come back into a closed portal on their own; who is in it is a remainder of it.
        Verdict::Adopt if now => plan.act.push(RoomAction::RemoveAccount(room.clone())),
        Verdict::Adopt => {
            plan.notes.push(Note::Left);
            return;
        }
        Verdict::Enforce if !wish.desired => {
            plan.act.push(RoomAction::RemoveAccount(room.clone()));
        }
        Verdict::Enforce if account == Presence::Banned => {
            if portal.condition.is_none() {
                plan.notes.push(Note::Banned);
            }
        }
        // Whoever is invited sees the end of the history at once, and is not notified of each line of it.
        Verdict::Enforce if portal.history.is_some_and(|until| awaited(until, view.now)) => {}
        Verdict::Enforce if portal.condition.is_none() => {
            if outdated && portal.shown.is_none() {
                // Perhaps half made: an invite to a room without a name says nothing.
                plan.act.push(RoomAction::Show(room.clone()));
            }
            plan.act.push(RoomAction::Invite(room.clone()));
        }
        Verdict::Enforce | Verdict::Wait => {}
    }
    if wish.desired {
        let show = RoomAction::Show(room.clone());
        if outdated && !plan.act.contains(&show) {
            plan.act.push(show);
        }
        if portal.features != view.features {
            plan.act.push(RoomAction::Announce(room.clone()));
        }
        if now && portal.ask == Some(Ask::Open) {
            plan.notes.push(Note::Tell);
        }
        return;
    }
    for ghost in ghosts {
        plan.act.push(RoomAction::TakeOut(room.clone(), ghost.clone()));
    }
}
