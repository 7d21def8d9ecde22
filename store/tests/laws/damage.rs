//! Files that were hurt: what is opened is what was written.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::LazyLock,
};

use proptest::prelude::*;
use reconcile::model::Millis;
use store::{Options, Store, StoreError};

use super::{account, event, key, link, message, outgoing, portal, user};

const COMMITS: usize = 60;

/// A file in which every commit has put rows into several tables.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("database.redb");
    let store = open(&path).expect("made");
    for n in 1..=COMMITS {
        let written = store.write(move |tx| {
            tx.put_account(&user(1), &account(n as u64))?;
            tx.mark_seen(&event(n), Millis(n as u64))?;
            tx.push_outgoing(&portal(1, 1), &outgoing(n))?;
            tx.put_link(&link(portal(1, 1), n, n, 0))
        });
        written.expect("written");
    }
    drop(store);
    fs::read(&path).expect("read")
});

fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(path, key(), Options::default())
}

/// The commit that the store shows; every row of all commits is looked at.
fn shows(store: &Store) -> Result<usize, StoreError> {
    store.read(|tx| {
        let generation = tx.account(&user(1))?.map_or(0, |account| account.generation);
        let commit = usize::try_from(generation).expect("small");
        let lane = tx.outgoing(&portal(1, 1), usize::MAX)?;
        let lane: Vec<_> = lane.into_iter().map(|(_, row)| row).collect();
        assert_eq!(lane, (1..=commit).map(outgoing).collect::<Vec<_>>());
        for n in 1..=COMMITS {
            let expected = (n <= commit).then(|| link(portal(1, 1), n, n, 0));
            assert_eq!(tx.link_of_message(&portal(1, 1), &message(n))?, expected);
            assert_eq!(tx.seen_at(&event(n))?, (n <= commit).then_some(Millis(n as u64)));
        }
        Ok(commit)
    })
}

#[derive(Debug, Clone)]
enum Harm {
    Flip(usize, u8),
    Zero(usize, usize),
    Cut(usize),
    Grow(usize),
    Repeat(usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    // Most of a file is room for more; what matters is near its beginning.
    let at = || prop_oneof![2 => 0..4096_usize, 6 => 0..400_000_usize, 2 => any::<usize>()];
    prop_oneof![
        6 => (at(), 1..=255_u8).prop_map(|(at, bits)| Harm::Flip(at, bits)),
        2 => (at(), 1..8192_usize).prop_map(|(at, length)| Harm::Zero(at, length)),
        2 => at().prop_map(Harm::Cut),
        1 => (1..100_000_usize).prop_map(Harm::Grow),
        1 => (at(), at()).prop_map(|(from, to)| Harm::Repeat(from, to)),
    ]
}

fn hurt(bytes: &mut Vec<u8>, harm: &Harm) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match *harm {
        Harm::Flip(at, bits) => bytes[at % length] ^= bits,
        Harm::Zero(at, size) => {
            let from = at % length;
            let end = (from + size).min(length);
            bytes[from..end].fill(0);
        }
        Harm::Cut(at) => bytes.truncate(at % length),
        Harm::Grow(size) => bytes.resize(length + size, 0xa5),
        // A sector that was written to a wrong place.
        Harm::Repeat(from, to) => {
            let (from, to) = (from % length / 512 * 512, to % length / 512 * 512);
            let size = 512.min(length - from.max(to));
            bytes.copy_within(from..from + size, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_refused_or_as_it_was_at_a_commit(
        harms in prop::collection::vec(harm(), 1..6),
    ) {
        let mut bytes = WHOLE.clone();
        for harm in &harms {
            hurt(&mut bytes, harm);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("database.redb");
        fs::write(&path, &bytes).expect("written");
        let opened = catch_unwind(AssertUnwindSafe(|| open(&path).and_then(|store| shows(&store))));
        match opened {
            Ok(Ok(commit)) => {
                // Damage in the last commit looks like one that was cut off; an emptied file, like none.
                let fine = commit + 1 >= COMMITS || (commit == 0 && bytes.iter().all(|b| *b == 0));
                prop_assert!(fine, "shows {commit} of {COMMITS}");
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                let path = path.display().to_string();
                prop_assert!(text.contains(&path), "no name in: {text}");
            }
            Err(_) => prop_assert!(false, "a panic"),
        }
    }
}
