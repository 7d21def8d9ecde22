//! A disk in memory that loses power or runs full when told to: for tests of the store and of what stands on it.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What is written at once or not at all, in bytes.
const SECTOR: usize = 512;

/// A disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// As it looks to the running program.
    now: Vec<u8>,
    /// As it surely is on the medium: everything up to the last sync.
    safe: Vec<u8>,
    /// What happened since, in order.
    pending: Vec<Change>,
    syncs: u64,
    dies_at: Option<u64>,
    room: Option<u64>,
    dead: bool,
}

enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What becomes of that which was written but not synced when the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing of it reached the medium.
    All,
    /// All of it did.
    Nothing,
    /// Each sector of 512 bytes did or did not, by this seed.
    Some(u64),
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk with these bytes on it, as of a backup.
    #[must_use]
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { safe: bytes.clone(), now: bytes, ..State::default() })))
    }

    /// How often it was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The power fails at the sync with this number, counted from 1 since the disk was made: that sync and all that follows fail.
    pub fn fail_at_sync(&self, number: u64) {
        self.state().dies_at = Some(number);
    }

    /// The power fails now.
    pub fn fail(&self) {
        self.state().dead = true;
    }

    /// The disk never grows beyond this many bytes: it is full.
    pub fn limit(&self, bytes: u64) {
        self.state().room = Some(bytes);
    }

    /// What the running program sees: every byte.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.state().now.clone()
    }

    /// The disk after the power came back.
    #[must_use]
    pub fn after_crash(&self, loss: Loss) -> Self {
        let state = self.state();
        let mut bytes = state.safe.clone();
        let mut dice = StdRng::seed_from_u64(if let Loss::Some(seed) = loss { seed } else { 0 });
        let mut kept = || match loss {
            Loss::All => false,
            Loss::Nothing => true,
            Loss::Some(_) => dice.random_bool(0.5),
        };
        for change in &state.pending {
            match change {
                Change::Length(length) if kept() => bytes.resize(*length, 0),
                Change::Length(_) => {}
                Change::Write(at, data) => {
                    let mut done = 0;
                    while done < data.len() {
                        let from = at + done;
                        let size = (SECTOR - from % SECTOR).min(data.len() - done);
                        if kept() {
                            let end = from + size;
                            bytes.resize(bytes.len().max(end), 0);
                            bytes[from..end].copy_from_slice(&data[done..done + size]);
                        }
                        done += size;
                    }
                }
            }
        }
        let now = bytes.clone();
        Self(Arc::new(Mutex::new(State { now, safe: bytes, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.dead { Err(io::Error::other("the power is off")) } else { Ok(state) }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({} bytes)", self.state().now.len())
    }
}

fn place(at: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
    let at = usize::try_from(at).map_err(io::Error::other)?;
    let end = at.checked_add(length).ok_or_else(|| io::Error::other("beyond all bounds"))?;
    Ok(at..end)
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.alive()?;
        let found = state.now.get(place(offset, out.len())?);
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        if state.room.is_some_and(|room| len > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = place(len, 0)?.start;
        state.now.resize(length, 0);
        state.pending.push(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.syncs += 1;
        if state.dies_at.is_some_and(|number| state.syncs >= number) {
            state.dead = true;
            return Err(io::Error::other("the power failed"));
        }
        let State { now, safe, pending, .. } = &mut *state;
        for change in pending.drain(..) {
            match change {
                Change::Length(length) => safe.resize(length, 0),
                Change::Write(at, data) => {
                    let end = at + data.len();
                    safe.resize(safe.len().max(end), 0);
                    safe[at..end].copy_from_slice(&data);
                }
            }
        }
        debug_assert!(now == safe, "everything is safe after a sync");
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let place = place(offset, data.len())?;
        if state.room.is_some_and(|room| place.end as u64 > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = state.now.len().max(place.end);
        state.now.resize(length, 0);
        state.now[place.clone()].copy_from_slice(data);
        state.pending.push(Change::Write(place.start, data.to_vec()));
        Ok(())
    }
}
