//! Calls whose end nobody has heard of: how long they may still land.
//!
//! # Guarantees
//!
//! - No room is made while one may still appear that was asked for before (`a_room_that_comes_late_is_not_made_twice`).
//! - What an account wants now is not believed to be so while a call for what it wanted before may still undo it
//!   (`a_join_that_lands_after_a_gpart_is_taken_back`).

use std::time::Duration;

use ruma::OwnedRoomId;
use tokio::time::Instant;

use super::{Driver, lock};
use crate::{
    model::{Millis, Moment, PortalKey, Wish},
    port::{ActionError, Clock, Gitter, Matrix, State},
};

/// Times noticed that are kept in memory at most.
const NOTICED: usize = 10_000;

/// A homeserver makes a room in about a second, and goes on with it when whoever asked for it is gone. A busy one may take
/// longer than the minute after which it is no longer waited for: then a second room would be made too soon.
const LANDS: Duration = Duration::from_secs(75);

/// A room that is there is soon complete.
const COMPLETES: Duration = Duration::from_secs(3);

/// What a call for a portal does, perhaps when nobody waits for it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    /// Brings the account in, there or here.
    In,
    /// Puts it out.
    Out,
    /// Brings a ghost in.
    Ghost,
}

impl<M: Matrix, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    /// Whether what was `found` of a room asked for at `since` is all that will ever be found.
    ///
    /// A room that appears after it was looked for would be made twice; one that was found while it is still being made has
    /// no name yet, and whoever is invited to it would not learn what for.
    pub(super) fn has_landed(
        &self,
        since: &Moment,
        found: &[OwnedRoomId],
    ) -> Result<(), ActionError> {
        let whole = if found.is_empty() { LANDS } else { COMPLETES };
        let left = whole.saturating_sub(self.waited(since));
        if left.is_zero() {
            return Ok(());
        }
        let source = "the homeserver may still be at it".into();
        Err(ActionError::Later { doing: "making a room", retry_after: Some(left), source })
    }

    /// A call for a portal has failed: without an answer it may still land.
    pub(super) fn may_land(&self, key: &PortalKey, late: Late, error: &ActionError) {
        if matches!(error, ActionError::Later { retry_after: None, .. }) {
            let mut unanswered = lock(&self.unanswered);
            unanswered.retain(|_, at| at.elapsed() < LANDS);
            unanswered.insert((key.clone(), late), Instant::now());
        }
    }

    /// For how long such a call of this run may still land.
    pub(super) fn unanswered(&self, key: &PortalKey, late: Late) -> Duration {
        let failed = lock(&self.unanswered).get(&(key.clone(), late)).copied();
        failed.map_or(Duration::ZERO, |at| LANDS.saturating_sub(at.elapsed()))
    }

    /// For how long a call that moves the account away from what is wished now may still land: one of this run, or of the run before
    /// if the row tells of one.
    pub(super) fn landing(&self, key: &PortalKey, wish: &Wish<bool>) -> Duration {
        let late = if wish.desired { Late::Out } else { Late::In };
        let before = LANDS.saturating_sub(self.began.elapsed());
        let before = if wish.overtakes { before } else { Duration::ZERO };
        before.max(self.unanswered(key, late))
    }

    /// The time since a call was begun or given up, perhaps by a run before this one; never more, whatever the clock on the wall
    /// was set to meanwhile.
    pub fn waited(&self, since: &Moment) -> Duration {
        let up = self.clock.uptime();
        // Whoever began it ended before this run of the machine began.
        let at_most = || self.passed(since.at).min(Duration::from_millis(up.ms));
        since.until(&up).unwrap_or_else(at_most)
    }

    /// The time since then, which is measured from the first call on: whatever the clock is set to after that, it does not tell. None
    /// at first, if it is still to come, because the clock was put back before or is behind the homeserver's.
    pub(super) fn passed(&self, since: Millis) -> Duration {
        let mut noticed = lock(&self.noticed);
        if noticed.len() >= NOTICED {
            noticed.clear();
        }
        let now = || (Instant::now(), self.clock.now().since(since));
        let (at, before) = *noticed.entry(since).or_insert_with(now);
        before.saturating_add(at.elapsed())
    }
}
