//! Who reads which Gitter room: one subscription serves a room for all its portals.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::model::GitterRoomId;
use ruma::OwnedUserId;

/// Which rooms each account carries.
pub type Carriers = BTreeMap<OwnedUserId, BTreeSet<GitterRoomId>>;

/// Assigns every room to one of its readers.
///
/// `readers` says who may read each room; `now` is the assignment so far, which is kept wherever it still holds, so that a
/// change for one room moves no other. A room whose carrier can't read it any more goes to the reader with the fewest rooms
/// whose connection is `up`, or to one whose connection is not, if there is no better.
#[must_use]
pub fn assign(
    readers: &BTreeMap<GitterRoomId, BTreeSet<OwnedUserId>>,
    now: &Carriers,
    up: &BTreeSet<OwnedUserId>,
) -> Carriers {
    let mut next = Carriers::new();
    let mut left = Vec::new();
    let mut carried_by: BTreeMap<&GitterRoomId, &OwnedUserId> = BTreeMap::new();
    for (account, rooms) in now {
        carried_by.extend(rooms.iter().map(|room| (room, account)));
    }
    for (room, may) in readers {
        let keeps = carried_by.get(room).filter(|account| may.contains(**account));
        // A reader that is up is better than a carrier that is down, but only if there is one.
        let keeps = keeps.filter(|account| up.contains(**account) || may.is_disjoint(up));
        match keeps {
            Some(account) => {
                next.entry((*account).clone()).or_default().insert(room.clone());
            }
            None => left.push((room, may)),
        }
    }
    for (room, may) in left {
        let load = |account: &OwnedUserId| next.get(account).map_or(0, BTreeSet::len);
        let best = may.iter().min_by_key(|account| (!up.contains(*account), load(account)));
        if let Some(account) = best.cloned() {
            next.entry(account).or_default().insert(room.clone());
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(n: u8) -> GitterRoomId {
        format!("5f00000000000000000000{n:02x}").parse().expect("a valid id")
    }

    fn user(name: &str) -> OwnedUserId {
        format!("@{name}:example.com").try_into().expect("a valid id")
    }

    fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
        items.into_iter().collect()
    }

    #[test]
    fn every_room_has_one_carrier_that_may_read_it() {
        let (a, b) = (user("a"), user("b"));
        let readers: BTreeMap<_, _> =
            (0..10).map(|n| (room(n), set([a.clone(), b.clone()]))).collect();
        let both_up = set([a.clone(), b.clone()]);
        let first = assign(&readers, &Carriers::new(), &both_up);
        assert_eq!(first[&a].len() + first[&b].len(), 10, "each room once");
        assert_eq!(first[&a].len(), 5, "the load is shared");
        assert_eq!(assign(&readers, &first, &both_up), first, "nothing moves without need");

        let mut fewer = readers.clone();
        fewer.insert(first[&a].first().expect("five").clone(), set([b.clone()]));
        let moved = assign(&fewer, &first, &both_up);
        assert_eq!(moved[&b].len(), 6, "only the room that lost its carrier moves");
        assert_eq!(moved[&a].len(), 4);

        let only_b = assign(&readers, &first, &set([b.clone()]));
        assert_eq!(only_b[&b].len(), 10, "who is down hands over to who is up");
        assert_eq!(assign(&readers, &first, &set([])), first, "with nobody up, nothing moves");
        assert!(assign(&BTreeMap::new(), &first, &both_up).is_empty());
    }
}
