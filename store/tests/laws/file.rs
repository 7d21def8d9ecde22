//! The file: who may have it, which files are refused, what is in it in plain.

use std::{
    fs,
    path::{Path, PathBuf},
};

use reconcile::model::{Ghost, GitterUserId, Image, Link, Person, Profile, Session};
use redb::{Database, TableDefinition};
use secrecy::{ExposeSecret, SecretString};
use store::{Options, SealKey, Store, StoreError, disk::Disk};
use tempfile::TempDir;

use super::{account, event, key, link, message, portal, user};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("database.redb");
    (folder, path)
}

fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(path, key(), Options::default())
}

/// Writes a row behind the store's back.
fn tamper(path: &Path, table: &str, row: &str, bytes: &[u8]) {
    let db = Database::open(path).expect("a database");
    let tx = db.begin_write().expect("begin");
    let table = TableDefinition::<&str, &[u8]>::new(table);
    tx.open_table(table).expect("open").insert(row, bytes).expect("insert");
    tx.commit().expect("commit");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[cfg(unix)]
#[test]
fn a_new_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = folder();
    let store = open(&path).expect("made");
    let meta = store.read(store::Txn::meta).expect("read");
    assert_eq!((meta.schema, meta.id.len()), (2, 32));
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
    let again = open(&path).expect("opened").read(store::Txn::meta).expect("read");
    assert_eq!(again, meta);
}

#[test]
fn a_file_of_version_1_learns_who_is_called_how() {
    let (_folder, path) = folder();
    let ghost = |name: &str, display_name: &str| Ghost {
        user: format!("@gitter_{name}:example.org").try_into().expect("a user id"),
        username: name.to_owned(),
        profile: Profile { display_name: display_name.to_owned(), avatar_url: None },
        dressed: None,
    };
    let id = |n: u8| format!("5f00000000000000000000{n:02x}").parse().expect("an id");
    let store = open(&path).expect("made");
    let write = move |tx: &mut store::WriteTxn<'_>| {
        tx.put_ghost(&id(1), &ghost("bob", "Bob"))?;
        tx.put_ghost(&id(2), &ghost("rob", "BOB "))?;
        tx.put_ghost(&id(3), &ghost("ann", "Bobby"))
    };
    store.write(write).expect("written");
    let mut meta = store.read(store::Txn::meta).expect("read");
    drop(store);
    // As the first version left it.
    meta.schema = 1;
    tamper(&path, "meta", "meta", &serde_json::to_vec(&meta).expect("json"));
    let db = Database::open(&path).expect("a database");
    let tx = db.begin_write().expect("begin");
    let table = TableDefinition::<(&str, &str), ()>::new("ghost_shown");
    assert!(tx.delete_table(table).expect("deleted"));
    tx.commit().expect("commit");
    drop(db);

    let store = open(&path).expect("brought up");
    assert_eq!(store.read(store::Txn::meta).expect("read").schema, 2);
    let called = |name: &'static str| store.read(move |tx| tx.namesakes(name, 9)).expect("read");
    assert_eq!(called("bob"), [id(1), id(2)]);
    assert_eq!(called("Bobby"), [id(3)]);
    let renamed = move |tx: &mut store::WriteTxn<'_>| tx.put_ghost(&id(2), &ghost("rob", "Rob"));
    store.write(renamed).expect("written");
    assert_eq!((called("Bob"), called("ROB")), (vec![id(1)], vec![id(2)]));
}

#[test]
fn a_picture_leads_to_its_message_until_that_is_forgotten() {
    let store = Store::in_memory(key()).expect("in memory");
    let image = |n| Image { source: n as u64, event: event(n) };
    let with = move |images: &[usize]| Link {
        images: images.iter().copied().map(image).collect(),
        ..link(portal(1, 1), 5, 1, 0)
    };
    let leads = |n| {
        let links = store.read(move |tx| tx.links_of_event(&event(n))).expect("read");
        links.into_iter().map(|link| link.message).collect::<Vec<_>>()
    };
    let put = |images: &'static [usize]| {
        store.write(move |tx| tx.put_link(&with(images))).expect("written");
    };
    put(&[2, 3]);
    assert_eq!([leads(1), leads(2), leads(3)], [[message(5)], [message(5)], [message(5)]]);
    put(&[3]);
    assert!(leads(2).is_empty(), "taken away by an edit");
    assert_eq!([leads(1), leads(3)], [[message(5)], [message(5)]]);
    store
        .write(|tx| {
            tx.put_media(&format!("{} 1", message(5)), "a picture")?;
            tx.put_media(&format!("{} 1", message(9)), "a newer one")?;
            tx.put_media("https://a.example/face.png", "mxc://a/face")?;
            assert_eq!(tx.prune_media(&message(7), 9)?, 1);
            tx.remove_link(&portal(1, 1), &message(5))
        })
        .expect("forgotten");
    assert!([1, 2, 3].into_iter().all(|n| leads(n).is_empty()));
    let media = |of: String| store.read(move |tx| tx.media(&of)).expect("read");
    assert_eq!(media(format!("{} 1", message(5))), None);
    assert!(media(format!("{} 1", message(9))).is_some());
    assert!(media("https://a.example/face.png".to_owned()).is_some());
}

#[test]
fn a_token_is_nowhere_in_the_file() {
    let disk = Disk::new();
    let store = Store::on_disk(disk.clone(), key(), Options::default()).expect("opened");
    let secret = "0123456789abcdef-a-gitter-token-fedcba9876543210";
    let token = SecretString::from(secret);
    store
        .write(move |tx| {
            tx.put_account(&user(1), &account(1))?;
            tx.put_token(&user(1), &token)
        })
        .expect("written");
    let bytes = disk.bytes();
    assert!(contains(&bytes, user(1).as_str()), "rows can be found like this");
    for part in [secret, &secret[..12], &secret[12..24], &secret[24..36], &secret[36..]] {
        assert!(!contains(&bytes, part), "{part} is in the file");
    }
    let read = store.read(|tx| tx.token(&user(1))).expect("read").expect("there");
    assert_eq!(read.expose_secret(), secret);
    store.write(|tx| tx.wipe_token(&user(1))).expect("wiped");
    assert!(store.read(|tx| tx.token(&user(1))).expect("read").is_none());
    assert!(!store.read(|tx| tx.has_token(&user(1))).expect("read"));
}

#[test]
fn another_key_is_told_from_no_token_and_can_be_recovered_from() {
    let (_folder, path) = folder();
    let store = open(&path).expect("made");
    store.write(|tx| tx.put_token(&user(1), &SecretString::from("old"))).expect("written");
    drop(store);
    let store = Store::open(&path, SealKey::new([8; 32]), Options::default()).expect("opened");
    let error = store.read(|tx| tx.token(&user(1))).expect_err("sealed");
    let text = error.to_string();
    for part in ["tokens/@user1:example.org", "unique_secret_key", "log in anew"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(store.read(|tx| tx.has_token(&user(1))).expect("read"));
    store.write(|tx| tx.put_token(&user(1), &SecretString::from("new"))).expect("written");
    let token = store.read(|tx| tx.token(&user(1))).expect("read").expect("there");
    assert_eq!(token.expose_secret(), "new");
}

#[test]
fn a_sealed_row_cannot_be_moved_to_another_account() {
    let (_folder, path) = folder();
    let store = open(&path).expect("made");
    store.write(|tx| tx.put_token(&user(1), &SecretString::from("hers"))).expect("written");
    drop(store);
    let sealed = {
        use redb::{ReadableDatabase, ReadableTable};
        let db = Database::open(&path).expect("a database");
        let table = TableDefinition::<&str, &[u8]>::new("tokens");
        let table = db.begin_read().expect("begin").open_table(table).expect("open");
        let row = ReadableTable::get(&table, user(1).as_str()).expect("get").expect("there");
        row.value().to_vec()
    };
    tamper(&path, "tokens", user(2).as_str(), &sealed);
    tamper(&path, "tokens", user(3).as_str(), &sealed[..10]);
    let store = open(&path).expect("opened");
    let moved = store.read(|tx| tx.token(&user(2)));
    assert!(matches!(moved, Err(StoreError::Sealed { .. })));
    let cut = store.read(|tx| tx.token(&user(3)));
    assert!(matches!(cut, Err(StoreError::Damaged { .. })));
}

#[test]
fn a_damaged_row_is_named_without_its_words_and_hurts_no_other() {
    let (_folder, path) = folder();
    let store = open(&path).expect("made");
    let id: GitterUserId = "5f0000000000000000000001".parse().expect("an id");
    let person = Person { id, username: "ann".to_owned(), display_name: "Ann".to_owned() };
    let row = store_account(person);
    let good = row.clone();
    store.write(move |tx| tx.put_account(&user(1), &row)).expect("written");
    drop(store);
    let rows: [&[u8]; 3] = [b"{\"control\": \"private words\"}", b"\xff\xfe", b""];
    for bytes in rows {
        tamper(&path, "accounts", user(2).as_str(), bytes);
        let store = open(&path).expect("opened");
        let error = store.read(|tx| tx.account(&user(2))).expect_err("damaged");
        let text = error.to_string();
        assert!(matches!(error, StoreError::Damaged { table: "accounts", .. }), "{text}");
        assert!(text.contains(user(2).as_str()), "{text}");
        assert!(!text.contains("private"), "{text}");
        assert_eq!(store.read(|tx| tx.account(&user(1))).expect("read"), Some(good.clone()));
        store.write(|tx| tx.put_account(&user(2), &account(1))).expect("overwritten");
        assert_eq!(store.read(|tx| tx.account(&user(2))).expect("read"), Some(account(1)));
    }
    tamper(&path, "portal_rooms", "!a:b", b"7");
    tamper(&path, "accounts", "no user id", b"{}");
    let store = open(&path).expect("opened");
    let at = store.read(|tx| tx.portal_at(ruma::room_id!("!a:b")));
    assert!(matches!(at, Err(StoreError::Damaged { table: "portal_rooms", .. })));
    let all = store.read(store::Txn::accounts);
    assert!(matches!(all, Err(StoreError::Damaged { table: "accounts", .. })), "{all:?}");
}

fn store_account(person: Person) -> reconcile::model::Account {
    reconcile::model::Account { session: Session::Active(person), ..account(4) }
}

#[test]
fn a_file_of_a_newer_version_is_refused_by_name() {
    let (_folder, path) = folder();
    drop(open(&path).expect("made"));
    tamper(&path, "meta", "meta", br#"{"schema":7,"created":0,"id":"x","more":true}"#);
    let error = open(&path).expect_err("newer");
    let text = error.to_string();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 2, .. }), "{text}");
    assert!(text.contains(&path.display().to_string()), "{text}");
}

#[test]
fn a_file_in_use_is_refused() {
    let (_folder, path) = folder();
    let first = open(&path).expect("made");
    let error = open(&path).expect_err("locked");
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    drop(first);
    open(&path).expect("free again");
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let (_folder, path) = folder();
    let mut zeros = vec![0; 10_000];
    zeros[9000] = 1;
    // A database that lost its beginning and most of its end, but not the heads of its commits.
    drop(open(&path).expect("made"));
    let mut beheaded = fs::read(&path).expect("read");
    beheaded.truncate(2156);
    beheaded[..108].fill(0);
    let text = b"matrix_homeserver_url: x\n".repeat(500);
    for bytes in [text, b"x".to_vec(), zeros, beheaded] {
        fs::write(&path, &bytes).expect("written");
        let error = open(&path).expect_err("foreign");
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
        let text = error.to_string();
        for part in ["database_path", "matrix-gitter restore", &path.display().to_string()] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert!(fs::read(&path).expect("read") == bytes, "left as it was");
    }
}

#[test]
fn a_file_whose_making_was_cut_off_is_made_anew() {
    let (_folder, path) = folder();
    // Everything before the first sync, and the header alone, as when the new length was lost.
    let disk = Disk::new();
    disk.fail_at_sync(1);
    Store::on_disk(disk.clone(), key(), Options::default()).expect_err("cut off");
    let cut_off = disk.bytes();
    let header = cut_off[..320].to_vec();
    assert!(header.iter().any(|byte| *byte != 0), "there is a header");
    for bytes in [vec![0; 73_728], cut_off, header, Vec::new()] {
        fs::write(&path, &bytes).expect("written");
        open(&path).expect("made anew");
    }
}

#[cfg(unix)]
#[test]
fn a_folder_in_the_files_place_is_named() {
    let (_folder, path) = folder();
    fs::create_dir(&path).expect("made");
    let error = open(&path).expect_err("a folder");
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("database_path"), "{error}");
    // Whoever may do everything is refused nothing.
    let closed = path.join("closed.redb");
    fs::write(&closed, b"").expect("written");
    let none = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(&closed, none).expect("closed");
    if fs::read(&closed).is_err() {
        let error = open(&closed).expect_err("no permission");
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (folder, _) = folder();
    let path = folder.path().join("none/database.redb");
    let error = open(&path).expect_err("no folder");
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("none/database.redb"));
}
