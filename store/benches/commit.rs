//! Commits to a real file: one writer, and many at once. Each prints how many writes shared a sync.
//!
//! The file is in the folder for temporary files; set `TMPDIR` to measure a certain disk (memory disks sync for free).

use std::{
    fs,
    path::PathBuf,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use divan::{Bencher, counter::ItemsCount};
use reconcile::model::{Millis, Outgoing, Payload, PortalKey};
use ruma::OwnedEventId;
use store::{Options, SealKey, Store, StoreError};

fn main() {
    divan::main();
}

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
    store: Store,
    next: AtomicU64,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("database.redb");
        let key = SealKey::new([7; 32]);
        let store = Store::open(&path, key, Options::default()).expect("opened");
        Self { _folder: folder, path, store, next: AtomicU64::new(0) }
    }

    /// What an event from the homeserver costs: it is noted as seen, and put in a lane.
    fn write(&self) -> Result<(), StoreError> {
        let n = self.next.fetch_add(1, Relaxed);
        let room = format!("{:024x}", n % 100).parse().expect("a room id");
        let portal = PortalKey::new(ruma::owned_user_id!("@alice:example.org"), room);
        let event: OwnedEventId = format!("$event{n}:example.org").parse().expect("an event id");
        let parts = vec!["words ".repeat(20)];
        let payload = Payload::say(parts, false, None);
        let row = Outgoing { event, sent: Millis(n), payload, done: 0, attempt: None, told: None };
        self.store.write(move |tx| {
            if tx.mark_seen(&row.event, Millis(n))? {
                tx.push_outgoing(&portal, &row)?;
            }
            Ok(())
        })
    }

    fn report(&self, name: &str) {
        let stats = self.store.stats();
        let size = fs::metadata(&self.path).map_or(0, |file| file.len());
        #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
        let shared = stats.writes as f64 / stats.commits.max(1) as f64;
        eprintln!(
            "\n{name}: {} writes, {} syncs, {shared:.1} writes a sync, at most {}, {} KiB",
            stats.writes,
            stats.commits,
            stats.largest,
            size / 1024
        );
    }
}

#[divan::bench(sample_count = 200, sample_size = 1)]
fn one_writer(bencher: Bencher<'_, '_>) {
    let place = Place::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| place.write().expect("written"));
    place.report("one writer");
}

const WRITERS: usize = 64;
const EACH: usize = 20;

#[divan::bench(sample_count = 5, sample_size = 1)]
fn many_writers(bencher: Bencher<'_, '_>) {
    let place = Place::new();
    bencher.counter(ItemsCount::new(WRITERS * EACH)).bench_local(|| {
        let ready = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    ready.wait();
                    for _ in 0..EACH {
                        place.write().expect("written");
                    }
                });
            }
        });
    });
    place.report("64 writers");
}
