//! A room that was upgraded: whether it goes on in the room that its tombstone names.
//!
//! Whoever may end a room decides where it goes on; that is the homeserver's rule, and checked once more here. But a room that
//! does not say itself that it goes on for the old one was named by mistake, or belongs to somebody else.

use ruma::{OwnedRoomId, RoomId};

use crate::port::{Origin, Tombstone};

/// Whoever upgrades a room may need a while to invite the bot to the new one, in milliseconds.
pub const INVITED_WITHIN_MS: u64 = 600_000;

/// Where a room goes on that has a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Successor {
    /// In this room, in which the bot is.
    Fit(OwnedRoomId),
    /// In a room that the bot is not let into; perhaps it is still to be invited.
    Shut,
    /// Nowhere.
    Unfit(Unfit),
}

/// Why a room does not go on in the one that its tombstone names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It names none, or itself.
    NoReplacement,
    /// Its sender had no right to it.
    NotEntitled,
    /// That room is another portal, or a control room.
    Taken,
    /// That room does not say that it replaces this one, or says so of another tombstone.
    NoPredecessor,
    /// The bot has not the power there to keep a portal.
    Powerless,
}

/// Why the room that a tombstone names is none to follow into, as far as that is known without being in it.
#[must_use]
pub fn ruled_out(room: &RoomId, tombstone: &Tombstone, taken: bool) -> Option<Unfit> {
    match &tombstone.replacement {
        None => Some(Unfit::NoReplacement),
        Some(next) if next == room => Some(Unfit::NoReplacement),
        Some(_) if !tombstone.entitled => Some(Unfit::NotEntitled),
        Some(_) if taken => Some(Unfit::Taken),
        Some(_) => None,
    }
}

/// What a tombstone means for `room`. `taken` says that the room it names is known as something else; `origin` is that room's,
/// if the bot is in it. A `portal` takes power in it.
#[must_use]
pub fn judge(
    room: &RoomId,
    tombstone: &Tombstone,
    taken: bool,
    origin: Option<&Origin>,
    portal: bool,
) -> Successor {
    if let Some(unfit) = ruled_out(room, tombstone, taken) {
        return Successor::Unfit(unfit);
    }
    let (Some(next), Some(origin)) = (&tombstone.replacement, origin) else {
        return Successor::Shut;
    };
    let follows = origin.predecessor.as_ref().is_some_and(|(before, event)| {
        before == room && event.as_ref().is_none_or(|event| *event == tombstone.event)
    });
    if !follows {
        return Successor::Unfit(Unfit::NoPredecessor);
    }
    if portal && !origin.able {
        return Successor::Unfit(Unfit::Powerless);
    }
    Successor::Fit(next.clone())
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id, room_id};

    use super::*;
    use crate::model::Millis;

    #[test]
    fn a_room_goes_on_only_where_both_rooms_say_so() {
        let (old, new) = (room_id!("!old:hs"), owned_room_id!("!new:hs"));
        let event = owned_event_id!("$end");
        let stone = |entitled, replacement| Tombstone {
            event: event.clone(),
            since: Millis(1),
            entitled,
            replacement,
        };
        let origin = |predecessor, able| Some(Origin { predecessor, able });
        let to_new = stone(true, Some(new.clone()));
        let from_old = |event| Some((old.to_owned(), event));
        let other = || Some(owned_event_id!("$other"));
        let fit = Successor::Fit(new.clone());
        let unfit = Successor::Unfit;
        let rows = [
            ("version 12", &to_new, false, origin(from_old(None), true), fit.clone()),
            ("version 11", &to_new, false, origin(from_old(Some(event.clone())), true), fit),
            (
                "another end",
                &to_new,
                false,
                origin(from_old(other()), true),
                unfit(Unfit::NoPredecessor),
            ),
            ("no predecessor", &to_new, false, origin(None, true), unfit(Unfit::NoPredecessor)),
            (
                "another predecessor",
                &to_new,
                false,
                origin(Some((new.clone(), None)), true),
                unfit(Unfit::NoPredecessor),
            ),
            ("not let in", &to_new, false, None, Successor::Shut),
            ("no power", &to_new, false, origin(from_old(None), false), unfit(Unfit::Powerless)),
            ("taken", &to_new, true, origin(from_old(None), true), unfit(Unfit::Taken)),
            (
                "no right",
                &stone(false, Some(new.clone())),
                false,
                origin(from_old(None), true),
                unfit(Unfit::NotEntitled),
            ),
            ("nowhere", &stone(true, None), false, None, unfit(Unfit::NoReplacement)),
            (
                "itself",
                &stone(true, Some(old.to_owned())),
                false,
                origin(from_old(None), true),
                unfit(Unfit::NoReplacement),
            ),
        ];
        for (name, stone, taken, origin, expected) in rows {
            assert_eq!(judge(old, stone, taken, origin.as_ref(), true), expected, "row: {name}");
        }
        let powerless = origin(from_old(None), false);
        let control = judge(old, &to_new, false, powerless.as_ref(), false);
        assert_eq!(control, Successor::Fit(new), "a control room takes no power");
    }
}
