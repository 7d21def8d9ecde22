//! The power fails at every sync there is.

use std::thread;

use reconcile::model::Millis;
use store::{
    Options, Store, StoreError,
    disk::{Disk, Loss},
};

use super::{account, event, key, link, message, outgoing, portal, user};

const WRITERS: usize = 3;
const EACH: usize = 6;

fn number(writer: usize, n: usize) -> usize {
    writer * 100 + n
}

/// Rows in several tables that belong together.
fn write(store: &Store, writer: usize, n: usize) -> Result<(), StoreError> {
    store.write(move |tx| {
        let (portal, id) = (portal(writer, 1), number(writer, n));
        tx.put_account(&user(writer), &account(n as u64 + 1))?;
        tx.mark_seen(&event(id), Millis(id as u64))?;
        tx.push_outgoing(&portal, &outgoing(id))?;
        tx.put_link(&link(portal, id, id, 0))
    })
}

/// Runs the writers until they are done or the power fails; returns how many writes of each were promised.
fn work(store: &Store) -> Vec<usize> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    (0..EACH).take_while(|n| write(store, writer, *n).is_ok()).count()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    })
}

/// Every write is there wholly or not at all; those promised are there; nobody's later write is there without the earlier.
fn check(store: &Store, promised: &[usize], when: &str) {
    let read = store.read(|tx| {
        for (writer, promised) in promised.iter().enumerate() {
            let generation = tx.account(&user(writer))?.map_or(0, |account| account.generation);
            let kept = usize::try_from(generation).expect("small");
            // At most one write was under way.
            assert!((*promised..=promised + 1).contains(&kept), "{when}: {kept} of {promised}");
            let portal = portal(writer, 1);
            let lane: Vec<_> =
                tx.outgoing(&portal, 99)?.into_iter().map(|(_, row)| row.event).collect();
            let expected: Vec<_> = (0..kept).map(|n| event(number(writer, n))).collect();
            assert_eq!(lane, expected, "{when}: outbox");
            for n in 0..EACH {
                let id = number(writer, n);
                assert_eq!(tx.seen_at(&event(id))?.is_some(), n < kept, "{when}: seen {n}");
                let there = tx.link_of_message(&portal, &message(id))?.is_some();
                assert_eq!(there, n < kept, "{when}: link {n}");
                assert_eq!(tx.links_of_event(&event(id))?.len(), usize::from(n < kept), "{when}");
            }
        }
        Ok(())
    });
    read.expect("readable");
}

fn open(disk: &Disk) -> Result<Store, StoreError> {
    Store::on_disk(disk.clone(), key(), Options::default())
}

#[test]
fn a_crash_at_any_sync_keeps_what_was_promised_and_halves_nothing() {
    let quiet = Disk::new();
    let store = open(&quiet).expect("opened");
    assert_eq!(work(&store), [EACH; WRITERS]);
    drop(store);
    // Writers may meet differently in each run: look a little further than one run went.
    let last = quiet.syncs() + 3;
    let mut cut_short = 0;
    for at in 1..=last {
        let disk = Disk::new();
        disk.fail_at_sync(at);
        let promised = match open(&disk) {
            Ok(store) => work(&store),
            Err(_) => vec![0; WRITERS],
        };
        cut_short += usize::from(promised != [EACH; WRITERS]);
        for loss in [Loss::All, Loss::Nothing].into_iter().chain((0..6).map(Loss::Some)) {
            let when = format!("sync {at}, {loss:?} lost");
            let after = disk.after_crash(loss);
            // Again, while it recovers.
            after.fail_at_sync(1);
            assert!(open(&after).is_err(), "{when}: opening a crashed file syncs");
            let after = after.after_crash(loss);
            let store = open(&after).unwrap_or_else(|error| panic!("{when}: {error:?}"));
            check(&store, &promised, &when);
            store.write(|tx| tx.put_account(&user(9), &account(1))).expect("goes on");
        }
    }
    assert!(cut_short >= 10, "only {cut_short} crashes were in time to hurt");
}
