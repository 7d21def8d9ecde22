//! Which Gitter rooms an account is in: all of them are seen in one reading, so they are planned together.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{GitterRoomId, Portal, Reason, Seen},
    settle::{Verdict, settle},
};

/// The rows of an account's portals, and the rooms Gitter says it is in.
#[derive(Debug)]
pub struct AccountView<'a> {
    /// The account's portals.
    pub portals: &'a BTreeMap<GitterRoomId, Portal>,
    /// The rooms it is in, most recently active first.
    pub rooms: Seen<Vec<GitterRoomId>>,
    /// The first look after a login: at most so many portals are opened by it.
    pub login: Option<usize>,
}

/// What the user did on Gitter itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// A member, as found; not known before, or since a logout. The portal is to be opened, or left aside.
    Found {
        /// Whether its portal opens.
        open: bool,
    },
    /// Joined elsewhere: member, portal open.
    Joined,
    /// Left, removed or banned elsewhere: no member, portal closed.
    Gone,
    /// As desired: what was pending is done.
    Agreed,
}

/// A call to Gitter that changes what the account is a member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberAction {
    /// Join the room.
    Join,
    /// Leave the room.
    Leave,
}

/// What is to be done for an account, room by room.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AccountPlan {
    /// What to take over into the rows.
    pub adopt: BTreeMap<GitterRoomId, Adoption>,
    /// What to do on Gitter.
    pub act: BTreeMap<GitterRoomId, MemberAction>,
}

impl AccountPlan {
    /// Rooms that nobody told the bridge about and that seem to be lost: what the removal brake counts.
    pub fn removals(&self) -> impl Iterator<Item = &GitterRoomId> {
        self.adopt.iter().filter(|(_, a)| **a == Adoption::Gone).map(|(room, _)| room)
    }

    /// Takes out that a room is as desired, while a call for what was desired before may still change that.
    pub fn doubt(&mut self, room: &GitterRoomId) {
        if self.adopt.get(room) == Some(&Adoption::Agreed) {
            self.adopt.remove(room);
        }
    }

    /// Takes the removals out, for a later pass.
    pub fn hold_removals(&mut self) {
        self.adopt.retain(|_, adoption| *adoption != Adoption::Gone);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.adopt.is_empty() && self.act.is_empty()
    }
}

/// Compares what an account should be a member of with what it is a member of.
#[must_use]
pub fn plan_account(view: &AccountView<'_>) -> AccountPlan {
    let mut plan = AccountPlan::default();
    let Some(rooms) = view.rooms.fresh() else { return plan };
    let is_in: BTreeSet<&GitterRoomId> = rooms.iter().collect();

    for (room, portal) in view.portals {
        let now = is_in.contains(room);
        let wish = &portal.member;
        match settle(&wish.desired, wish.last.as_ref(), &Seen::Fresh(now)) {
            Verdict::Wait => {}
            Verdict::Agreed => {
                if wish.pending() {
                    plan.adopt.insert(room.clone(), Adoption::Agreed);
                }
            }
            Verdict::Adopt => {
                let adoption = if now { Adoption::Joined } else { Adoption::Gone };
                plan.adopt.insert(room.clone(), adoption);
            }
            Verdict::Enforce => {
                let action = if wish.desired { MemberAction::Join } else { MemberAction::Leave };
                plan.act.insert(room.clone(), action);
            }
        }
    }

    let already = rooms.iter().filter(|r| view.portals.get(*r).is_some_and(|p| p.open.desired));
    let mut left = view.login.map(|limit| limit.saturating_sub(already.count()));
    // What a logout closed is opened by the next login, as if it were new; what the user closed is not.
    let closed = |portal: &Portal| {
        view.login.is_some()
            && !portal.open.desired
            && portal.open.reason == Reason::Logout
            && portal.member.desired
    };
    for room in rooms.iter().filter(|room| view.portals.get(*room).is_none_or(closed)) {
        let open = left.is_none_or(|left| left > 0);
        left = left.map(|left| left.saturating_sub(1));
        plan.adopt.insert(room.clone(), Adoption::Found { open });
    }
    plan
}
