//! Backups: one moment, whole, private, and the way back.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use reconcile::model::{Millis, Portal, Reason};
use secrecy::{ExposeSecret, SecretString};
use store::{Options, Store, StoreError, Txn, backup_closed, replace, restore};
use tempfile::TempDir;

use super::{account, event, key, link, message, outgoing, portal, user};

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<String> = names
            .map(|name| name.expect("a name").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, key(), Options::default()).expect("opened")
}

/// Rows that belong together: all of `n`, or none.
fn write(store: &Store, n: usize) {
    let written = store.write(move |tx| {
        tx.put_account(&user(1), &account(n as u64))?;
        tx.push_outgoing(&portal(1, 1), &outgoing(n))?;
        tx.put_link(&link(portal(1, 1), n, n, 0))?;
        tx.mark_seen(&event(n), Millis(n as u64)).map(drop)
    });
    written.expect("written");
}

/// How far the rows of a store go; they must agree.
fn extent(store: &Store) -> usize {
    let extent = store.read(|tx| {
        let count = tx.outgoing(&portal(1, 1), usize::MAX)?.len();
        let generation = tx.account(&user(1))?.map_or(0, |account| account.generation);
        assert_eq!(generation, count as u64);
        for n in 1..=count + 1 {
            let there = n <= count;
            assert_eq!(tx.link_of_message(&portal(1, 1), &message(n))?.is_some(), there, "{n}");
            assert_eq!(tx.seen_at(&event(n))?.is_some(), there, "{n}");
            assert_eq!(tx.links_of_event(&event(n))?.len(), usize::from(there), "{n}");
        }
        Ok(count)
    });
    extent.expect("read")
}

#[test]
fn a_backup_made_while_writers_write_is_one_moment_and_holds_nobody_up() {
    let place = Place::new();
    let store = open(&place.at("database.redb"));
    write(&store, 1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 1;
            while !stop.load(Ordering::SeqCst) || n < 20 {
                n += 1;
                write(&store, n);
            }
            n
        });
        for n in 0..5 {
            let to = place.at(&format!("{n}.backup"));
            let before = extent(&store);
            let made = store.backup(&to).expect("made");
            let after = extent(&store);
            assert_eq!(made.bytes, fs::metadata(&to).expect("there").len());
            let copy = place.at("copy.redb");
            fs::copy(&to, &copy).expect("copied");
            let shown = extent(&open(&copy));
            assert!((before..=after).contains(&shown), "{before} ≤ {shown} ≤ {after}");
        }
        stop.store(true, Ordering::SeqCst);
        assert!(writer.join().expect("no panic") >= 20);
    });
}

#[cfg(unix)]
#[test]
fn a_backup_is_for_its_owner_alone_holds_no_token_in_plain_and_leaves_nothing_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let store = open(&place.at("database.redb"));
    let secret = "0123456789abcdef-a-gitter-token";
    let token = SecretString::from(secret);
    store.write(move |tx| tx.put_token(&user(1), &token)).expect("written");
    let to = place.at("a.backup");
    fs::write(place.at("a.backup.part"), b"of a try that was cut off").expect("written");
    store.backup(&to).expect("made");
    store.backup(&to).expect("made again");
    assert_eq!(fs::metadata(&to).expect("there").permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&to).expect("read");
    assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
    assert_eq!(place.names(), ["a.backup", "database.redb"]);
    let restored = place.at("restored.redb");
    restore(&to, &restored, &place.at("none")).expect("restored");
    let token = open(&restored).read(|tx| tx.token(&user(1))).expect("read").expect("there");
    assert_eq!(token.expose_secret(), secret);
}

#[test]
fn a_backup_that_cannot_be_written_is_an_error_and_the_store_goes_on() {
    let place = Place::new();
    let store = open(&place.at("database.redb"));
    let error = store.backup(&place.at("none/a.backup")).expect_err("no folder");
    assert!(error.to_string().contains("none/a.backup"), "{error}");
    write(&store, 1);
}

#[test]
fn a_restored_store_knows_that_it_is_older_and_what_has_to_be_learned() {
    let place = Place::new();
    let path = place.at("database.redb");
    let store = open(&path);
    let row = Portal::found(true, Reason::Login, Millis(1));
    store.write(move |tx| tx.put_portal(&portal(1, 1), &row)).expect("written");
    write(&store, 1);
    let first = store.backup(&place.at("a.backup")).expect("made");
    write(&store, 2);
    assert_eq!(store.read(Txn::restored).expect("read"), None);
    let error = restore(&place.at("a.backup"), &path, &place.at("aside")).expect_err("in use");
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    drop(store);

    let restored = restore(&place.at("a.backup"), &path, &place.at("aside")).expect("restored");
    assert_eq!(restored.taken, first.taken);
    assert_eq!(extent(&open(&place.at("aside"))), 2, "the newer one is kept");
    let store = open(&path);
    assert_eq!(extent(&store), 1);
    let due = |store: &Store| {
        let due = store
            .read(|tx| Ok((tx.restored()?, tx.relearn_keys()?, tx.relearn_since(&portal(1, 1))?)));
        due.expect("read")
    };
    let since = Some(first.taken);
    assert_eq!(due(&store), (Some(restored.clone()), vec![portal(1, 1)], since));
    // What is not learned yet stays so, in a backup of this one too.
    store.backup(&place.at("b.backup")).expect("made");
    drop(store);
    restore(&place.at("b.backup"), &path, &place.at("aside2")).expect("restored");
    let store = open(&path);
    assert_eq!(due(&store).2, since, "since the older moment");
    let settle = store.write(|tx| {
        tx.clear_restored()?;
        tx.put_relearn(&portal(1, 1), None)
    });
    settle.expect("written");
    drop(store);
    assert_eq!(due(&open(&path)), (None, Vec::new(), None), "once");
}

#[test]
fn a_backup_put_in_place_by_hand_and_a_bare_copy_are_known_as_restored_too() {
    let place = Place::new();
    let path = place.at("database.redb");
    let store = open(&path);
    let taken = store.backup(&place.at("a.backup")).expect("made").taken;
    drop(store);
    let by_hand = place.at("by-hand.redb");
    fs::copy(place.at("a.backup"), &by_hand).expect("copied");
    let restored = open(&by_hand).read(Txn::restored).expect("read").expect("noted");
    assert_eq!(restored.taken, taken);
    fs::copy(&path, place.at("bare")).expect("copied");
    restore(&place.at("bare"), &path, &place.at("aside")).expect("restored");
    let noted = open(&path).read(Txn::restored).expect("read").expect("noted");
    assert!(noted.taken >= taken, "the file's time");
}

#[test]
fn a_closed_database_is_backed_up_as_an_open_one_is() {
    let place = Place::new();
    let path = place.at("database.redb");
    let error = backup_closed(&path, &place.at("a.backup")).expect_err("there is none");
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    let store = open(&path);
    write(&store, 1);
    let error = backup_closed(&path, &place.at("a.backup")).expect_err("in use");
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    drop(store);
    let made = backup_closed(&path, &place.at("a.backup")).expect("made");
    assert_eq!(place.names(), ["a.backup", "database.redb"]);
    assert_eq!(open(&path).read(Txn::restored).expect("read"), None, "the original is none");
    restore(&place.at("a.backup"), &path, &place.at("aside")).expect("restored");
    let store = open(&path);
    assert_eq!(extent(&store), 1);
    assert_eq!(store.read(Txn::restored).expect("read").map(|r| r.taken), Some(made.taken));
}

#[test]
fn what_is_no_good_backup_is_refused_and_nothing_changes() {
    let place = Place::new();
    let path = place.at("database.redb");
    let store = open(&path);
    write(&store, 1);
    store.backup(&place.at("good")).expect("made");
    write(&store, 2);
    drop(store);
    let good = fs::read(place.at("good")).expect("read");
    let mut bent = good.clone();
    // Rows, wherever they are: some page of the tree is hit.
    for at in (0..bent.len()).filter(|at| good[*at..].starts_with(b"{\"event\"")) {
        bent[at] ^= 0x20;
    }
    assert!(bent != good);
    let cases: [(&str, &[u8]); 4] = [
        ("text", b"settings: x"),
        ("empty", b""),
        ("cut", &good[..good.len() / 2]),
        ("bent", &bent),
    ];
    let before = place.names().len();
    for (name, bytes) in cases {
        fs::write(place.at(name), bytes).expect("written");
        let error = restore(&place.at(name), &path, &place.at("aside")).expect_err(name);
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert_eq!(extent(&open(&path)), 2, "{name}");
        fs::remove_file(place.at(name)).expect("removed");
        assert_eq!(place.names().len(), before, "{name}: {:?}", place.names());
    }
    let error = restore(&place.at("none"), &path, &place.at("aside")).expect_err("none");
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_damaged_database_can_be_replaced_while_one_in_use_cannot() {
    let place = Place::new();
    let path = place.at("database.redb");
    let two = || {
        let store = open(&place.at("new"));
        write(&store, 1);
        write(&store, 2);
    };
    two();
    assert!(!replace(&place.at("new"), &path, &place.at("aside")).expect("there is none"));
    assert_eq!(extent(&open(&path)), 2);
    fs::remove_file(&path).expect("removed");
    let store = open(&path);
    write(&store, 1);
    store.backup(&place.at("good")).expect("made");
    two();
    let error = replace(&place.at("new"), &path, &place.at("aside")).expect_err("in use");
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    drop(store);
    let length = fs::metadata(&path).expect("there").len();
    let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
    file.set_len(length / 2).expect("cut");
    restore(&place.at("good"), &path, &place.at("aside")).expect("restored");
    assert_eq!(extent(&open(&path)), 1);
    assert_eq!(fs::metadata(place.at("aside")).expect("there").len(), length / 2);
    assert!(replace(&place.at("new"), &path, &place.at("aside2")).expect("replaced"));
    assert_eq!((extent(&open(&path)), extent(&open(&place.at("aside2")))), (2, 1));
}
