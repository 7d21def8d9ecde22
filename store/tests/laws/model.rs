//! The tables against maps: random writes, with the file opened again in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use reconcile::model::{
    Account, Chat, ChatStage, Cursor, Ghost, GitterRoom, GitterRoomId, GitterUserId, Link, Millis,
    Notice, Outgoing, Place, Portal, PortalKey, Profile, Reason, Say, Target,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use secrecy::{ExposeSecret, SecretString};
use store::{Options, ReadTxn, Store, StoreError, WriteTxn, disk::Disk};

use super::{account, event, key, link, message, outgoing, portal, user};

/// A write; numbers choose among few ids, so that they meet.
#[derive(Debug, Clone)]
enum Op {
    PutAccount(usize, u64),
    PutToken(usize, u8),
    WipeToken(usize),
    PutPortal(usize, usize, Option<usize>),
    RemovePortal(usize, usize),
    PutRoom(usize, usize, u8),
    PutPeople(usize, Vec<usize>),
    PutGhost(usize, usize),
    PutInside(usize, usize, bool),
    PutChat(usize, usize),
    RemoveChat(usize),
    PushNotice(bool, usize, u64),
    RemoveNotice(bool, usize),
    PushOutgoing(usize, usize, usize),
    PutFirstOutgoing(usize, usize, u32),
    RemoveFirstOutgoing(usize, usize),
    PutCursor(usize, usize, usize),
    PutLink(usize, usize, usize, usize, u32),
    RemoveLink(usize, usize, usize),
    PruneLinks(usize, usize, usize, usize),
    PutUnconfirmed(usize, usize, usize),
    ConfirmUntil(usize, usize, usize),
    MarkSeen(usize, u64),
    PruneSeen(u64, usize),
    BurnNonce(u8, u64),
    PruneNonces(u64, usize),
    PutMedia(u8, u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    use Op::{
        BurnNonce, ConfirmUntil, MarkSeen, PruneLinks, PruneNonces, PruneSeen, PushNotice,
        PushOutgoing, PutAccount, PutChat, PutCursor, PutFirstOutgoing, PutGhost, PutInside,
        PutLink, PutMedia, PutPeople, PutPortal, PutRoom, PutToken, PutUnconfirmed, RemoveChat,
        RemoveFirstOutgoing, RemoveLink, RemoveNotice, RemovePortal, Reopen, WipeToken,
    };
    // The id of user 11 begins as that of user 1 does.
    let a = || prop_oneof![Just(1_usize), Just(11), Just(2)];
    let r = || 0..3_usize;
    let m = || 0..6_usize;
    let t = || 0..8_u64;
    prop_oneof![
        1 => (a(), t()).prop_map(|(a, g)| PutAccount(a, g)),
        1 => (a(), 0..3_u8).prop_map(|(a, n)| PutToken(a, n)),
        1 => a().prop_map(WipeToken),
        4 => (a(), r(), prop::option::of(0..3_usize)).prop_map(|(a, r, p)| PutPortal(a, r, p)),
        2 => (a(), r()).prop_map(|(a, r)| RemovePortal(a, r)),
        1 => (a(), r(), 0..3_u8).prop_map(|(a, r, n)| PutRoom(a, r, n)),
        1 => (r(), prop::collection::vec(r(), 0..3)).prop_map(|(r, p)| PutPeople(r, p)),
        2 => (r(), r()).prop_map(|(g, u)| PutGhost(g, u)),
        3 => (0..3_usize, r(), any::<bool>()).prop_map(|(p, g, i)| PutInside(p, g, i)),
        1 => (r(), a()).prop_map(|(r, a)| PutChat(r, a)),
        1 => r().prop_map(RemoveChat),
        2 => (any::<bool>(), a(), t()).prop_map(|(k, a, t)| PushNotice(k, a, t)),
        1 => (any::<bool>(), a()).prop_map(|(k, a)| RemoveNotice(k, a)),
        4 => (a(), r(), m()).prop_map(|(a, r, n)| PushOutgoing(a, r, n)),
        1 => (a(), r(), 0..3_u32).prop_map(|(a, r, d)| PutFirstOutgoing(a, r, d)),
        1 => (a(), r()).prop_map(|(a, r)| RemoveFirstOutgoing(a, r)),
        1 => (a(), r(), m()).prop_map(|(a, r, n)| PutCursor(a, r, n)),
        6 => (a(), r(), m(), m(), 0..2_u32).prop_map(|(a, r, m, e, p)| PutLink(a, r, m, e, p)),
        1 => (a(), r(), m()).prop_map(|(a, r, n)| RemoveLink(a, r, n)),
        1 => (a(), r(), m(), 0..4_usize).prop_map(|(a, r, m, n)| PruneLinks(a, r, m, n)),
        3 => (a(), r(), m()).prop_map(|(a, r, m)| PutUnconfirmed(a, r, m)),
        1 => (a(), r(), m()).prop_map(|(a, r, m)| ConfirmUntil(a, r, m)),
        3 => (m(), t()).prop_map(|(e, t)| MarkSeen(e, t)),
        1 => (t(), 0..4_usize).prop_map(|(t, n)| PruneSeen(t, n)),
        2 => (0..4_u8, t()).prop_map(|(n, t)| BurnNonce(n, t)),
        1 => (t(), 0..4_usize).prop_map(|(t, n)| PruneNonces(t, n)),
        1 => (0..3_u8, 0..3_u8).prop_map(|(s, m)| PutMedia(s, m)),
        1 => Just(Reopen),
    ]
}

fn gitter_room(n: usize) -> GitterRoomId {
    portal(0, n).room
}

fn matrix_room(n: usize) -> OwnedRoomId {
    format!("!room{n}:example.org").parse().expect("a room id")
}

fn gitter_user(n: usize) -> GitterUserId {
    format!("person{n}").parse().expect("a user id")
}

fn ghost_id(n: usize) -> OwnedUserId {
    format!("@gitter_{n}:example.org").parse().expect("a user id")
}

fn room(r: usize, n: u8) -> GitterRoom {
    let (uri, one_to_one) = (format!("org/{n}"), r == 2);
    GitterRoom { name: uri.clone(), uri, topic: String::new(), avatar_url: None, one_to_one }
}

fn ghost(n: usize) -> Ghost {
    let profile = Profile { display_name: "Ghost".to_owned(), avatar_url: None };
    Ghost { user: ghost_id(n), username: format!("Ghost{n}"), profile, dressed: None }
}

fn portal_row(at: Option<usize>) -> Portal {
    let mut row = Portal::found(true, Reason::Login, Millis(1));
    row.place = at.map_or(Place::Nowhere, |at| Place::At(matrix_room(at)));
    row
}

fn target(account: bool, n: usize) -> Target {
    if account { Target::Account(user(n)) } else { Target::Room(matrix_room(n)) }
}

fn notice(to: Target, at: u64) -> Notice {
    let say = Say::Text { body: format!("at {at}"), html: String::new() };
    Notice { to, say, at: Millis(at) }
}

fn chat(of: usize) -> Chat {
    Chat {
        account: user(of),
        stage: ChatStage::Control,
        encrypted: false,
        invite_due: false,
        at: Millis(1),
    }
}

fn cursor(n: usize) -> Cursor {
    Cursor { begin: message(0), last: message(n), gap: None }
}

#[derive(Debug, Default)]
struct Maps {
    accounts: BTreeMap<OwnedUserId, Account>,
    tokens: BTreeMap<OwnedUserId, String>,
    portals: BTreeMap<PortalKey, Portal>,
    /// Who was put at a Matrix room last and has not left it.
    places: BTreeMap<OwnedRoomId, PortalKey>,
    /// By who saw them, where that makes a difference.
    rooms: BTreeMap<(Option<usize>, usize), GitterRoom>,
    people: BTreeMap<GitterRoomId, Vec<GitterUserId>>,
    ghosts: BTreeMap<GitterUserId, Ghost>,
    /// Who took a ghost's name last and has not taken another.
    names: BTreeMap<OwnedUserId, GitterUserId>,
    inside: BTreeSet<(OwnedRoomId, OwnedUserId)>,
    chats: BTreeMap<OwnedRoomId, Chat>,
    notices: BTreeMap<Target, Vec<Notice>>,
    outbox: BTreeMap<PortalKey, Vec<Outgoing>>,
    cursors: BTreeMap<PortalKey, Cursor>,
    links: BTreeMap<(PortalKey, reconcile::model::MessageId), Link>,
    unconfirmed: BTreeSet<(PortalKey, reconcile::model::MessageId)>,
    seen: BTreeMap<OwnedEventId, u64>,
    nonces: BTreeMap<String, u64>,
    media: BTreeMap<String, String>,
}

impl Maps {
    fn leave(&mut self, key: &PortalKey) {
        let Some(at) = self.portals.get(key).and_then(|row| row.place.room()).cloned() else {
            return;
        };
        if self.places.get(&at) == Some(key) {
            self.places.remove(&at);
            self.inside.retain(|(room, _)| *room != at);
        }
    }

    /// Does to the maps what is done to the store; returns what the store is to answer.
    fn apply(&mut self, op: &Op) -> u64 {
        match *op {
            Op::PutAccount(a, g) => drop(self.accounts.insert(user(a), account(g))),
            Op::PutToken(a, n) => drop(self.tokens.insert(user(a), format!("token {n}"))),
            Op::WipeToken(a) => drop(self.tokens.remove(&user(a))),
            Op::PutPortal(a, r, at) => {
                let (key, row) = (portal(a, r), portal_row(at));
                if self.portals.get(&key).is_some_and(|old| old.place != row.place) {
                    self.leave(&key);
                }
                if let Some(at) = row.place.room() {
                    self.places.insert(at.clone(), key.clone());
                }
                self.portals.insert(key, row);
            }
            Op::RemovePortal(a, r) => {
                let key = portal(a, r);
                self.leave(&key);
                self.portals.remove(&key);
                self.cursors.remove(&key);
                self.links.retain(|(portal, _), _| *portal != key);
                self.unconfirmed.retain(|(portal, _)| *portal != key);
            }
            Op::PutRoom(a, r, n) => {
                let row = room(r, n);
                self.rooms.insert((row.one_to_one.then_some(a), r), row);
            }
            Op::PutPeople(r, ref people) => {
                let people = people.iter().copied().map(gitter_user).collect();
                self.people.insert(gitter_room(r), people);
            }
            Op::PutGhost(g, u) => {
                let old = self.ghosts.insert(gitter_user(g), ghost(u));
                if let Some(old) = old
                    && self.names.get(&old.user) == Some(&gitter_user(g))
                {
                    self.names.remove(&old.user);
                }
                self.names.insert(ghost_id(u), gitter_user(g));
            }
            Op::PutInside(p, g, true) => drop(self.inside.insert((matrix_room(p), ghost_id(g)))),
            Op::PutInside(p, g, false) => drop(self.inside.remove(&(matrix_room(p), ghost_id(g)))),
            Op::PutChat(r, a) => drop(self.chats.insert(matrix_room(r), chat(a))),
            Op::RemoveChat(r) => drop(self.chats.remove(&matrix_room(r))),
            Op::PushNotice(k, a, t) => {
                self.notices.entry(target(k, a)).or_default().push(notice(target(k, a), t));
            }
            Op::RemoveNotice(k, a) => return u64::from(pop(&mut self.notices, &target(k, a))),
            Op::PushOutgoing(a, r, n) => {
                self.outbox.entry(portal(a, r)).or_default().push(outgoing(n));
            }
            Op::PutFirstOutgoing(a, r, done) => {
                let first = self.outbox.get_mut(&portal(a, r)).and_then(|lane| lane.first_mut());
                return u64::from(first.map(|row| row.done = done).is_some());
            }
            Op::RemoveFirstOutgoing(a, r) => {
                return u64::from(pop(&mut self.outbox, &portal(a, r)));
            }
            Op::PutCursor(a, r, n) => drop(self.cursors.insert(portal(a, r), cursor(n))),
            Op::PutLink(a, r, m, e, part) => {
                self.links.insert((portal(a, r), message(m)), link(portal(a, r), m, e, part));
            }
            Op::RemoveLink(a, r, m) => {
                return u64::from(self.links.remove(&(portal(a, r), message(m))).is_some());
            }
            Op::PruneLinks(a, r, m, n) => {
                let all = self.links.keys();
                let old = all.filter(|(p, at)| *p == portal(a, r) && *at < message(m));
                let old: Vec<_> = old.take(n).cloned().collect();
                self.links.retain(|key, _| !old.contains(key));
                return old.len() as u64;
            }
            Op::PutUnconfirmed(a, r, m) => {
                self.unconfirmed.insert((portal(a, r), message(m)));
            }
            Op::ConfirmUntil(a, r, m) => {
                let until = (portal(a, r), message(m));
                self.unconfirmed.retain(|row| row.0 != until.0 || row.1 > until.1);
            }
            Op::MarkSeen(e, t) => return u64::from(first_time(&mut self.seen, event(e), t)),
            Op::PruneSeen(t, n) => return prune(&mut self.seen, t, n),
            Op::BurnNonce(n, t) => {
                return u64::from(first_time(&mut self.nonces, n.to_string(), t));
            }
            Op::PruneNonces(t, n) => return prune(&mut self.nonces, t, n),
            Op::PutMedia(s, m) => drop(self.media.insert(s.to_string(), m.to_string())),
            Op::Reopen => {}
        }
        0
    }
}

fn pop<K: Ord, V>(lanes: &mut BTreeMap<K, Vec<V>>, key: &K) -> bool {
    let Some(lane) = lanes.get_mut(key) else {
        return false;
    };
    lane.remove(0);
    if lane.is_empty() {
        lanes.remove(key);
    }
    true
}

fn first_time<K: Ord>(times: &mut BTreeMap<K, u64>, key: K, at: u64) -> bool {
    let first = !times.contains_key(&key);
    times.entry(key).or_insert(at);
    first
}

fn prune<K: Ord + Clone>(times: &mut BTreeMap<K, u64>, before: u64, limit: usize) -> u64 {
    let mut old: Vec<_> = times.iter().filter(|(_, at)| **at < before).collect();
    old.sort_by_key(|(key, at)| (**at, (*key).clone()));
    let old: Vec<K> = old.into_iter().take(limit).map(|(key, _)| key.clone()).collect();
    times.retain(|key, _| !old.contains(key));
    old.len() as u64
}

fn run(tx: &mut WriteTxn<'_>, op: &Op) -> Result<u64, StoreError> {
    match *op {
        Op::PutAccount(a, g) => tx.put_account(&user(a), &account(g))?,
        Op::PutToken(a, n) => {
            tx.put_token(&user(a), &SecretString::from(format!("token {n}")))?;
        }
        Op::WipeToken(a) => tx.wipe_token(&user(a))?,
        Op::PutPortal(a, r, at) => tx.put_portal(&portal(a, r), &portal_row(at))?,
        Op::RemovePortal(a, r) => tx.remove_portal(&portal(a, r))?,
        Op::PutRoom(a, r, n) => tx.put_room(&portal(a, r), &room(r, n))?,
        Op::PutPeople(r, ref people) => {
            let people: Vec<_> = people.iter().copied().map(gitter_user).collect();
            tx.put_people(&gitter_room(r), &people)?;
        }
        Op::PutGhost(g, u) => tx.put_ghost(&gitter_user(g), &ghost(u))?,
        Op::PutInside(p, g, is) => tx.put_inside(&matrix_room(p), &ghost_id(g), is)?,
        Op::PutChat(r, a) => tx.put_chat(&matrix_room(r), &chat(a))?,
        Op::RemoveChat(r) => tx.remove_chat(&matrix_room(r))?,
        Op::PushNotice(k, a, t) => drop(tx.push_notice(&notice(target(k, a), t))?),
        Op::RemoveNotice(k, a) => match tx.first_notice(&target(k, a))? {
            Some((number, _)) => return tx.remove_notice(&target(k, a), number).map(u64::from),
            None => return Ok(0),
        },
        Op::PushOutgoing(a, r, n) => drop(tx.push_outgoing(&portal(a, r), &outgoing(n))?),
        Op::PutFirstOutgoing(a, r, done) => match tx.first_outgoing(&portal(a, r))? {
            Some((number, row)) => {
                let row = Outgoing { done, ..row };
                return tx.put_outgoing(&portal(a, r), number, &row).map(u64::from);
            }
            None => return Ok(0),
        },
        Op::RemoveFirstOutgoing(a, r) => match tx.first_outgoing(&portal(a, r))? {
            Some((number, _)) => return tx.remove_outgoing(&portal(a, r), number).map(u64::from),
            None => return Ok(0),
        },
        Op::PutCursor(a, r, n) => tx.put_cursor(&portal(a, r), &cursor(n))?,
        Op::PutLink(a, r, m, e, part) => tx.put_link(&link(portal(a, r), m, e, part))?,
        Op::RemoveLink(a, r, m) => {
            return tx.remove_link(&portal(a, r), &message(m)).map(u64::from);
        }
        Op::PruneLinks(a, r, m, n) => {
            return tx.prune_links(&portal(a, r), &message(m), n).map(|n| n as u64);
        }
        Op::PutUnconfirmed(a, r, m) => tx.put_unconfirmed(&portal(a, r), &message(m))?,
        Op::ConfirmUntil(a, r, m) => tx.confirm_until(&portal(a, r), &message(m))?,
        Op::MarkSeen(e, t) => return tx.mark_seen(&event(e), Millis(t)).map(u64::from),
        Op::PruneSeen(t, n) => return tx.prune_seen(Millis(t), n).map(|n| n as u64),
        Op::BurnNonce(n, t) => {
            return tx.burn_nonce(&n.to_string(), Millis(t)).map(u64::from);
        }
        Op::PruneNonces(t, n) => return tx.prune_nonces(Millis(t), n).map(|n| n as u64),
        Op::PutMedia(s, m) => tx.put_media(&s.to_string(), &m.to_string())?,
        Op::Reopen => {}
    }
    Ok(0)
}

fn compare(tx: &ReadTxn, maps: &Maps) -> Result<(), StoreError> {
    assert_eq!(tx.accounts()?, maps.accounts.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(tx.portal_keys()?, maps.portals.keys().cloned().collect::<Vec<_>>());
    for n in 0..8 {
        let nonce = n.to_string();
        assert_eq!(tx.is_burnt(&nonce)?, maps.nonces.contains_key(&nonce));
    }
    assert_eq!(tx.chats()?, maps.chats.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(tx.outbox_waiting()?, maps.outbox.keys().cloned().collect::<Vec<_>>());
    let unconfirmed: BTreeSet<_> = maps.unconfirmed.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(tx.unconfirmed_keys()?, unconfirmed.into_iter().collect::<Vec<_>>());
    assert_eq!(tx.notices_waiting()?, maps.notices.keys().cloned().collect::<Vec<_>>());
    for a in [1, 2, 11] {
        let id = user(a);
        assert_eq!(tx.account(&id)?.as_ref(), maps.accounts.get(&id));
        let token = tx.token(&id)?.map(|token| token.expose_secret().to_owned());
        assert_eq!(token.as_ref(), maps.tokens.get(&id));
        assert_eq!(tx.has_token(&id)?, token.is_some());
        let mine = maps.portals.iter().filter(|(key, _)| key.account == id);
        let mine: Vec<_> = mine.map(|(key, row)| (key.room.clone(), row.clone())).collect();
        assert_eq!(tx.portals_of(&id)?, mine);
        for kind in [true, false] {
            let target = target(kind, a);
            let waiting = maps.notices.get(&target).and_then(|lane| lane.first());
            assert_eq!(tx.first_notice(&target)?.map(|(_, row)| row).as_ref(), waiting);
            assert_eq!(tx.has_notices(&target)?, waiting.is_some());
        }
        for r in 0..3 {
            compare_portal(tx, maps, &portal(a, r))?;
            let seen_by = room(r, 0).one_to_one.then_some(a);
            assert_eq!(tx.room(&portal(a, r))?.as_ref(), maps.rooms.get(&(seen_by, r)));
        }
    }
    for n in 0..3 {
        let (there, at) = (gitter_room(n), matrix_room(n));
        let showing = maps.portals.keys().filter(|key| key.room == there);
        assert_eq!(tx.portals_for(&there)?, showing.cloned().collect::<Vec<_>>());
        assert_eq!(tx.portal_at(&at)?.as_ref(), maps.places.get(&at));
        assert_eq!(tx.people(&there)?, maps.people.get(&there).cloned().unwrap_or_default());
        assert_eq!(tx.ghost(&gitter_user(n))?.as_ref(), maps.ghosts.get(&gitter_user(n)));
        assert_eq!(tx.ghost_named(&ghost_id(n))?.as_ref(), maps.names.get(&ghost_id(n)));
        assert_eq!(tx.chat(&at)?.as_ref(), maps.chats.get(&at));
        let inside = maps.inside.iter().filter(|(room, _)| *room == at);
        let inside: Vec<_> = inside.map(|(_, ghost)| ghost.clone()).collect();
        assert_eq!(tx.inside(&at)?, inside);
        for g in 0..3 {
            assert_eq!(tx.is_inside(&at, &ghost_id(g))?, inside.contains(&ghost_id(g)));
        }
        let media = n.to_string();
        assert_eq!(tx.media(&media)?.as_ref(), maps.media.get(&media));
    }
    for e in 0..6 {
        assert_eq!(tx.seen_at(&event(e))?.map(|at| at.0).as_ref(), maps.seen.get(&event(e)));
        let mut of_event: Vec<_> =
            maps.links.values().filter(|link| link.event == event(e)).cloned().collect();
        of_event.sort_by_key(|link| link.part);
        assert_eq!(tx.links_of_event(&event(e))?, of_event);
    }
    Ok(())
}

fn compare_portal(tx: &ReadTxn, maps: &Maps, key: &PortalKey) -> Result<(), StoreError> {
    assert_eq!(tx.portal(key)?.as_ref(), maps.portals.get(key));
    assert_eq!(tx.cursor(key)?.as_ref(), maps.cursors.get(key));
    let lane: Vec<_> = tx.outgoing(key, 99)?.into_iter().map(|(_, row)| row).collect();
    assert_eq!(lane, maps.outbox.get(key).cloned().unwrap_or_default());
    assert_eq!(tx.outgoing_count(key)?, lane.len());
    assert_eq!(tx.first_outgoing(key)?.map(|(_, row)| row).as_ref(), lane.first());
    let unconfirmed = maps.unconfirmed.iter().filter(|(portal, _)| portal == key);
    let unconfirmed: Vec<_> = unconfirmed.map(|(_, message)| message.clone()).collect();
    assert_eq!(tx.unconfirmed(key)?, unconfirmed);
    let links: Vec<_> = maps.links.values().filter(|link| link.portal == *key).cloned().collect();
    assert_eq!(tx.last_links(key, 99)?, links);
    assert_eq!(tx.last_links(key, 2)?, links[links.len().saturating_sub(2)..]);
    for m in 0..6 {
        let at = message(m);
        let of_message = links.iter().find(|link| link.message == at);
        assert_eq!(tx.link_of_message(key, &at)?.as_ref(), of_message);
        let later: Vec<_> = links.iter().filter(|link| link.message > at).cloned().collect();
        assert_eq!(tx.links_after(key, &at, 99)?, later);
        assert_eq!(tx.links_after(key, &at, 1)?, later[..later.len().min(1)]);
        let to = message(4);
        let between = links.iter().filter(|link| link.message >= at && link.message <= to);
        let between: Vec<_> = between.cloned().collect();
        assert_eq!(tx.links_between(key, &at, &to, 99)?, between);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_are_maps(ops in prop::collection::vec(op(), 1..60)) {
        let disk = Disk::new();
        let open = || Store::on_disk(disk.clone(), key(), Options::default()).expect("opened");
        let mut store = open();
        let mut maps = Maps::default();
        for op in ops {
            if let Op::Reopen = op {
                drop(store);
                store = open();
                store.read(|tx| compare(tx, &maps)).expect("readable");
            }
            let expected = maps.apply(&op);
            let shown = format!("{op:?}");
            let answer = store.write(move |tx| run(tx, &op)).expect("written");
            prop_assert_eq!(answer, expected, "{}", shown);
        }
        store.read(|tx| compare(tx, &maps)).expect("readable");
        drop(store);
        store = open();
        store.read(|tx| compare(tx, &maps)).expect("readable again");
        // Nothing may be left behind that no row of the maps accounts for.
        let keys: Vec<_> = maps.portals.keys().cloned().collect();
        store
            .write(move |tx| keys.iter().try_for_each(|key| tx.remove_portal(key)))
            .expect("removed");
        store.read(|tx| {
            assert!(tx.portal_keys()?.is_empty());
            for n in 0..3 {
                assert!(tx.portals_for(&gitter_room(n))?.is_empty());
                assert_eq!(tx.portal_at(&matrix_room(n))?, None);
            }
            Ok(())
        }).expect("readable");
    }
}

#[test]
fn a_portal_that_moves_keeps_its_links_cursor_and_outbox_and_is_known_by_its_old_room() {
    let store = Store::in_memory(key()).expect("in memory");
    let (of, old, new) = (portal(0, 1), matrix_room(0), matrix_room(1));
    let moved = of.clone();
    store
        .write(move |tx| {
            let of = &moved;
            tx.put_portal(of, &portal_row(Some(0)))?;
            tx.put_link(&link(of.clone(), 1, 1, 0))?;
            tx.put_cursor(of, &cursor(1))?;
            tx.push_outgoing(of, &outgoing(2))?;
            tx.put_inside(&matrix_room(0), &ghost_id(1), true)?;
            tx.put_chat(&matrix_room(0), &chat(0))?;
            let row = portal_row(Some(1));
            tx.put_portal(of, &Portal { before: Some(matrix_room(0)), ..row })
        })
        .expect("written");
    store
        .read(|tx| {
            assert_eq!(tx.portal_at(&old)?, None);
            assert_eq!(tx.portal_at(&new)?.as_ref(), Some(&of));
            assert_eq!(tx.portal_before(&old)?.as_ref(), Some(&of));
            assert_eq!(tx.portal_before(&new)?, None);
            assert_eq!(tx.links_of_event(&event(1))?.len(), 1);
            assert_eq!(tx.cursor(&of)?, Some(cursor(1)));
            assert_eq!(tx.outgoing_count(&of)?, 1);
            assert!(tx.inside(&old)?.is_empty() && tx.inside(&new)?.is_empty());
            Ok(())
        })
        .expect("read");
}
