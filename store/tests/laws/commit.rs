//! Group commit: who shares a sync, who fails, who is told what.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use reconcile::model::{Millis, Target};
use store::{
    Options, Store, StoreError, WriteTxn,
    disk::{Disk, Loss},
};

use super::{account, event, key, outgoing, portal, user};

/// Keeps the committer busy until the sender is dropped; returns when it is.
fn hold(store: &Store) -> Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (begun, began) = mpsc::channel();
    let released = Mutex::new(released);
    store.submit(
        move |_| {
            let _ = begun.send(());
            let _ = released.lock().expect("not poisoned").recv();
            Ok(())
        },
        |_| {},
    );
    began.recv().expect("begun");
    release
}

type Ends = Receiver<(usize, Result<(), StoreError>)>;

/// Submits writes behind a held committer, so that they meet in one batch, and returns their ends in the order in which they are told.
fn together<F>(store: &Store, writes: impl IntoIterator<Item = F>) -> Ends
where
    F: Fn(&mut store::WriteTxn<'_>) -> Result<(), StoreError> + Send + 'static,
{
    let held = hold(store);
    let (told, ends) = mpsc::channel();
    for (n, write) in writes.into_iter().enumerate() {
        let told = told.clone();
        store.submit(write, move |end| told.send((n, end)).expect("the test listens"));
    }
    drop(held);
    ends
}

#[test]
fn many_writers_share_few_commits() {
    let disk = Disk::new();
    let store = Store::on_disk(disk.clone(), key(), Options::default()).expect("opened");
    let syncs = disk.syncs();
    let held = hold(&store);
    let (told, ends) = mpsc::channel();
    thread::scope(|scope| {
        for n in 0..64 {
            let (store, told) = (&store, told.clone());
            scope.spawn(move || {
                let write = move |tx: &mut store::WriteTxn<'_>| tx.mark_seen(&event(n), Millis(1));
                store.submit(write, move |end| told.send(end).expect("the test listens"));
            });
        }
    });
    drop((held, told));
    assert_eq!(ends.iter().filter(|end| matches!(end, Ok(true))).count(), 64);
    let stats = store.stats();
    assert_eq!((stats.commits, stats.writes, stats.largest, stats.failed), (1, 65, 64, 0));
    assert_eq!(stats.sizes.iter().sum::<u64>(), 1);
    assert_eq!(stats.sizes[6], 1, "64 is in the class from 64: {stats:?}");
    assert_eq!(disk.syncs() - syncs, 1, "one sync for all");
}

#[test]
fn a_batch_is_never_larger_than_allowed() {
    let options = Options { max_batch: 5, ..Options::default() };
    let store = Store::on_disk(Disk::new(), key(), options).expect("opened");
    let ends = together(
        &store,
        (0..23).map(|n| move |tx: &mut store::WriteTxn<'_>| tx.put_account(&user(n), &account(1))),
    );
    assert!(ends.iter().all(|(_, end)| end.is_ok()));
    let stats = store.stats();
    assert_eq!((stats.largest, stats.commits), (5, 5));
}

#[test]
fn a_failing_write_among_good_ones_fails_alone() {
    let store = Store::in_memory(key()).expect("opened");
    let ends = together(
        &store,
        (0..12).map(|n| {
            move |tx: &mut store::WriteTxn<'_>| {
                if n == 8 {
                    return Err(StoreError::given_up("before it wrote"));
                }
                tx.put_account(&user(n), &account(1))?;
                tx.push_outgoing(&portal(0, 0), &outgoing(n))?;
                match n {
                    3 => Err(StoreError::given_up("after it wrote")),
                    5 => panic!("at {n}"),
                    _ => Ok(()),
                }
            }
        }),
    );
    let ends: Vec<_> = ends.iter().collect();
    assert_eq!(ends.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    for (n, end) in ends {
        match n {
            3 | 8 => assert!(matches!(end, Err(StoreError::GivenUp(_))), "{n}: {end:?}"),
            5 => assert!(matches!(end, Err(StoreError::Panicked(text)) if text == "at 5")),
            _ => assert!(end.is_ok(), "{n}: {end:?}"),
        }
    }
    let good = [0, 1, 2, 4, 6, 7, 9, 10, 11];
    let accounts = store.read(store::Txn::accounts).expect("read");
    assert_eq!(accounts.len(), good.len());
    assert!(good.iter().all(|n| accounts.iter().any(|(id, _)| *id == user(*n))));
    let lane = store.read(|tx| tx.outgoing(&portal(0, 0), 99)).expect("read");
    let lane: Vec<_> = lane.into_iter().map(|(_, row)| row).collect();
    assert_eq!(lane, good.map(outgoing), "each once, in order, however often it was run");
    let stats = store.stats();
    assert_eq!((stats.commits, stats.replays, stats.failed), (1, 2, 3));
}

#[test]
fn what_changes_nothing_is_not_synced() {
    let store = Store::in_memory(key()).expect("opened");
    let write = |tx: &mut store::WriteTxn<'_>| {
        tx.put_account(&user(1), &account(1))?;
        tx.put_media("https://example.org/a", "mxc://example.org/a")?;
        tx.put_inside(ruma::room_id!("!a:b"), &user(2), true)?;
        tx.put_inside(ruma::room_id!("!a:b"), &user(3), false)?;
        tx.wipe_token(&user(1))?;
        tx.remove_portal(&portal(1, 1))?;
        tx.mark_seen(&event(1), Millis(1))
    };
    assert!(store.write(write).expect("written"));
    assert!(!store.write(write).expect("nothing to write"));
    assert_eq!((store.stats().commits, store.stats().writes), (1, 2));
}

#[test]
fn a_lone_writer_never_waits_for_company() {
    let options = Options { window: Duration::from_secs(3600), ..Options::default() };
    let store = Store::on_disk(Disk::new(), key(), options).expect("opened");
    for n in 0..5 {
        store.write(move |tx| tx.put_account(&user(n), &account(1))).expect("written");
    }
    assert_eq!(store.stats().commits, 5);
}

#[test]
fn a_commit_waits_for_as_much_company_as_the_last_one_had() {
    let options = Options { window: Duration::from_secs(3600), ..Options::default() };
    let store = Store::on_disk(Disk::new(), key(), options).expect("opened");
    let put = |n: u64| move |tx: &mut store::WriteTxn<'_>| tx.put_account(&user(1), &account(n));
    assert_eq!(together(&store, (0..3).map(put)).iter().count(), 3);
    let (told, ends) = mpsc::channel();
    for n in 3..6 {
        let told = told.clone();
        store.submit(put(n), move |end| told.send(end).expect("the test listens"));
        while store.stats().waiting > 0 {
            thread::yield_now();
        }
    }
    drop(told);
    assert!(ends.iter().all(|end| end.is_ok()));
    assert_eq!((store.stats().commits, store.stats().largest), (2, 3));
}

#[test]
fn a_reader_sees_one_state_and_holds_nobody_up() {
    let store = Store::in_memory(key()).expect("opened");
    let seen = store.read(|tx| {
        let before = tx.account(&user(1))?;
        store.write(|tx| tx.put_account(&user(1), &account(1)))?;
        Ok((before, tx.account(&user(1))?))
    });
    assert_eq!(seen.expect("read"), (None, None));
    let after = store.read(|tx| tx.account(&user(1))).expect("read");
    assert_eq!(after, Some(account(1)));
}

#[test]
fn dropping_the_last_handle_writes_what_waits() {
    let disk = Disk::new();
    let store = Store::on_disk(disk.clone(), key(), Options::default()).expect("opened");
    let held = hold(&store);
    for n in 0..10 {
        store.submit(move |tx| tx.put_account(&user(n), &account(1)), |end| end.expect("written"));
    }
    let dropping = thread::spawn(move || drop(store));
    drop(held);
    dropping.join().expect("dropped");
    let store = Store::on_disk(disk, key(), Options::default()).expect("opened again");
    assert_eq!(store.read(store::Txn::accounts).expect("read").len(), 10);
}

#[test]
fn a_write_within_a_write_is_refused_instead_of_waiting_for_itself() {
    let store = Store::in_memory(key()).expect("opened");
    let inner = store.clone();
    let end = store.write(move |_| inner.write(|tx| tx.put_account(&user(1), &account(1))));
    assert!(matches!(end, Err(StoreError::Nested)), "{end:?}");
    let (told, told_inner) = mpsc::channel();
    let inner = store.clone();
    store
        .submit(|_| Ok(()), move |_| told.send(inner.write(|_| Ok(()))).expect("the test listens"));
    assert!(matches!(told_inner.recv(), Ok(Err(StoreError::Nested))));
}

#[test]
fn the_last_handle_may_be_dropped_by_a_callback() {
    let store = Store::in_memory(key()).expect("opened");
    let last = store.clone();
    let (told, end) = mpsc::channel();
    let held = hold(&store);
    store.submit(
        |tx| tx.mark_seen(&event(1), Millis(1)),
        move |_| {
            drop(last);
            told.send(()).expect("the test listens");
        },
    );
    drop(store);
    drop(held);
    end.recv().expect("the committer did not wait for itself");
}

#[test]
fn a_panicking_callback_hurts_nobody_else() {
    let store = Store::in_memory(key()).expect("opened");
    store.submit(|tx| tx.mark_seen(&event(1), Millis(1)), |_| panic!("in a callback"));
    assert!(!store.write(|tx| tx.mark_seen(&event(1), Millis(2))).expect("written"));
}

#[test]
fn a_full_disk_is_told_to_everybody_and_nothing_is_lost() {
    let disk = Disk::new();
    let store = Store::on_disk(disk.clone(), key(), Options::default()).expect("opened");
    disk.limit(disk.bytes().len() as u64 + (1 << 17));
    let big = |n: usize| {
        move |tx: &mut store::WriteTxn<'_>| {
            tx.put_media(&format!("{n}{}", "x".repeat(20_000)), "mxc://example.org/x")
        }
    };
    let good = (0..1000).take_while(|n| store.write(big(*n)).is_ok()).count();
    assert!(good > 0, "some fitted");
    assert!(store.is_broken());
    let ends = [
        store.write(|tx| tx.put_account(&user(1), &account(1))).err(),
        store.read(|tx| tx.account(&user(1))).err(),
    ];
    for end in ends {
        assert!(matches!(end, Some(StoreError::Broken(_))), "{end:?}");
    }
    drop(store);
    let disk = disk.after_crash(Loss::Nothing);
    let store = Store::on_disk(disk, key(), Options::default()).expect("opened again");
    for n in 0..good {
        let url = format!("{n}{}", "x".repeat(20_000));
        assert!(store.read(|tx| tx.media(&url)).expect("read").is_some(), "{n} was promised");
    }
    store.write(big(good)).expect("there is room again");
}

#[test]
fn a_failed_sync_is_told_to_the_whole_batch() {
    let disk = Disk::new();
    let store = Store::on_disk(disk.clone(), key(), Options::default()).expect("opened");
    disk.fail_at_sync(disk.syncs() + 1);
    let ends = together(
        &store,
        (0..8).map(|n| move |tx: &mut store::WriteTxn<'_>| tx.put_account(&user(n), &account(1))),
    );
    assert_eq!(ends.iter().filter(|(_, end)| matches!(end, Err(StoreError::Broken(_)))).count(), 8);
    assert_eq!(store.stats().commits, 0);
}

#[test]
fn numbers_are_never_given_twice() {
    let store = Store::in_memory(key()).expect("opened");
    let push = |tx: &mut store::WriteTxn<'_>| tx.push_outgoing(&portal(1, 1), &outgoing(1));
    let first = store.write(push).expect("written");
    assert!(store.write(move |tx| tx.remove_outgoing(&portal(1, 1), first)).expect("removed"));
    let second = store.write(push).expect("written");
    assert!(second > first);
    let stale = store.write(move |tx| tx.put_outgoing(&portal(1, 1), first, &outgoing(1)));
    assert!(!stale.expect("no error"), "a removed row does not come back");
    assert_eq!(store.read(|tx| tx.outgoing_count(&portal(1, 1))).expect("read"), 1);
    assert!(!store.read(|tx| tx.has_notices(&Target::Account(user(1)))).expect("read"));
}

#[test]
fn a_store_driven_by_hand_writes_when_it_is_told_to() {
    let (calls, disk) = (Arc::new(AtomicUsize::new(0)), Disk::new());
    let woken = calls.clone();
    let wake = move || {
        woken.fetch_add(1, Ordering::SeqCst);
    };
    let (store, hand) = Store::by_hand(disk.clone(), key(), wake).expect("opened");
    let (told, ends) = mpsc::channel();
    for n in 0..3 {
        let told = told.clone();
        let write = move |tx: &mut WriteTxn<'_>| tx.put_account(&user(n), &account(1));
        store.submit(write, move |end| told.send(end.is_ok()).expect("waited for"));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert!(ends.try_recv().is_err(), "nothing happens by itself");
    let syncs = disk.syncs();
    hand.step();
    assert_eq!(ends.try_iter().collect::<Vec<_>>(), [true; 3]);
    assert_eq!(disk.syncs(), syncs + 1, "one commit for all");
    assert!(store.read(|tx| tx.account(&user(2))).expect("readable").is_some());
}

#[test]
fn every_commit_is_told_how_long_it_took() {
    let store = Store::in_memory(key()).expect("opened");
    let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = told.clone();
    store.on_commit(move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    });
    for n in 0..5 {
        store.write(move |t| t.mark_seen(&event(n), Millis(1))).expect("written");
    }
    store.write(|_| Ok(())).expect("nothing to write");
    assert_eq!(told.load(std::sync::atomic::Ordering::SeqCst), 5);
    assert_eq!(store.stats().commits, 5);
}
