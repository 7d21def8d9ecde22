//! Adopt or enforce: the three-way comparison of a fact that the user owns.

use crate::model::Seen;

/// What a reading of a user-owned fact means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was read: look again, do nothing.
    Wait,
    /// It is as desired.
    Agreed,
    /// The user acted on that side: desired follows.
    Adopt,
    /// The user told the bridge: act.
    Enforce,
}

/// Compares `desired`, the value `last` observed, and the value observed `now`.
///
/// A fact never observed (`last` is `None`) is pending: the user's word counts.
pub fn settle<T: PartialEq>(desired: &T, last: Option<&T>, now: &Seen<T>) -> Verdict {
    match now.fresh() {
        None => Verdict::Wait,
        Some(now) if now == desired => Verdict::Agreed,
        Some(_) if Some(desired) == last => Verdict::Adopt,
        Some(_) => Verdict::Enforce,
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict::*, *};

    #[test]
    fn the_three_way_table_holds_row_by_row() {
        //         desired  last         now                     verdict
        let rows = [
            ("steady", true, Some(true), Seen::Fresh(true), Agreed),
            ("left over there", true, Some(true), Seen::Fresh(false), Adopt),
            ("joined over there", false, Some(false), Seen::Fresh(true), Adopt),
            ("commanded", true, Some(false), Seen::Fresh(false), Enforce),
            ("commanded away", false, Some(true), Seen::Fresh(true), Enforce),
            ("the user was quicker", true, Some(false), Seen::Fresh(true), Agreed),
            ("first look", true, None, Seen::Fresh(false), Enforce),
            ("call failed", true, Some(false), Seen::Unknown, Wait),
            ("old reading", true, Some(true), Seen::Stale(false), Wait),
        ];
        for (name, desired, last, now, expected) in rows {
            assert_eq!(settle(&desired, last.as_ref(), &now), expected, "row: {name}");
        }
    }
}
