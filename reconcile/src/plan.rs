//! `(desired, observed, now) -> actions`, purely.
//!
//! A plan says what is to be adopted into the rows and what is to be done outside. Nothing here knows a clock, a network or
//! a store; `tests/laws.rs` holds what it promises.

mod membership;
mod room;
mod upgrade;

pub use membership::{AccountPlan, AccountView, Adoption, MemberAction, plan_account};
pub use room::{Note, PortalPlan, PortalView, RoomAction, RoomReading, plan_portal};
pub use upgrade::{INVITED_WITHIN_MS, Successor, Unfit, judge, ruled_out};

use crate::model::PortalKey;

/// Everything there is to do for many portals, each by its own plan.
///
/// The whole of it is what the benchmark measures: one pass over the views, nothing looked up twice.
#[must_use]
pub fn plan<'a>(
    views: impl IntoIterator<Item = (&'a PortalKey, PortalView<'a>)>,
) -> Vec<(&'a PortalKey, PortalPlan)> {
    views
        .into_iter()
        .filter_map(|(key, view)| {
            let plan = plan_portal(&view);
            (!plan.is_empty()).then_some((key, plan))
        })
        .collect()
}
