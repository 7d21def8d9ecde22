//! Backups: one moment of the store in a file of its own, and the way back.
//!
//! A backup says of itself that it is one. Whoever puts it in place, with [`restore`] or by hand: the store that is then opened
//! knows that the world has gone on since, and that each portal has to learn what came after.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Bound,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use reconcile::model::Millis;
use redb::{
    Database, ReadableDatabase, StorageBackend as _, TableDefinition, backends::FileBackend,
};
use serde::{Deserialize, Serialize};

use crate::{
    Store,
    disk::Disk,
    error::{Result, StoreError},
    open, schema,
    tables::{Json, Pen, Tables, Text, Writing, copy_all, count_all, decode},
    txn::META,
};

/// Memory for the pages of a file that is being written, in bytes.
const CACHE: usize = 8 << 20;

/// Row of the meta table by which a file says that it is a backup.
const BACKUP: &str = "backup";
/// Row by which a store says that it was one.
pub(crate) const RESTORED: &str = "restored";

const META_TABLE: TableDefinition<'static, Text, Json> = TableDefinition::new("meta");

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The moment it shows, by the system's clock.
    pub taken: Millis,
    /// How many rows it holds.
    pub rows: u64,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// That an older store is in the place of a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The moment the older one shows.
    pub taken: Millis,
}

impl Store {
    /// Writes the store as it is now into a new file at `to`, readable for its owner alone; one that is there is replaced.
    ///
    /// Reads from a snapshot and holds up no writer. The file is synced, opened again and checked in full before it gets its name:
    /// at `to` there is a whole backup, or what was there before. Tokens stay sealed in it.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`], [`StoreError::Disk`], [`StoreError::Mismatch`]; then nothing at `to` has changed.
    pub fn backup(&self, to: &Path) -> Result<Backup> {
        let part = beside(to, "part");
        let made = self.write_backup(&part).and_then(|made| {
            fs::rename(&part, to)
                .and_then(|()| open::sync_folder(to))
                .map_err(failing("naming", to))?;
            Ok(made)
        });
        if made.is_err() {
            // Nobody needs half a backup; if it can't be removed either, the next one replaces it.
            let _ = fs::remove_file(&part);
        }
        made
    }

    fn write_backup(&self, part: &Path) -> Result<Backup> {
        let file = private(part)?;
        let backend = FileBackend::new(file).map_err(|error| open::refuse(part, error))?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let db = builder.create_with_backend(backend).map_err(|error| open::refuse(part, error))?;
        // Before the snapshot: what happens in between is then looked for once more.
        let taken = Millis(schema::now_ms());
        let rows = self.snapshot(|tx| copy_all(tx, &db))? + 1;
        note_backup(&db, taken)?;
        drop(db);
        File::open(part).and_then(|file| file.sync_all()).map_err(failing("syncing", part))?;
        let db = open::guarded(part, || open::file(part))?;
        if count_all(&db.begin_read()?)? != rows {
            return Err(StoreError::Mismatch { path: part.to_owned() });
        }
        drop(db);
        let bytes = fs::metadata(part).map_err(failing("reading", part))?.len();
        Ok(Backup { taken, rows, bytes })
    }
}

/// Makes a backup of a database that no program uses, as [`Store::backup`] does; whatever its version, it is not brought to
/// a newer one.
///
/// # Errors
///
/// [`StoreError::Locked`] while a program uses it; whatever [`Store::open`] says of a file; [`StoreError::File`].
pub fn backup_closed(database: &Path, to: &Path) -> Result<Backup> {
    let Some(_held) = lock(database)? else {
        let source = io::ErrorKind::NotFound.into();
        return Err(StoreError::Open { path: database.to_owned(), source });
    };
    let taken = Millis(schema::now_ms());
    let part = beside(to, "new");
    copy_file(database, &part)?;
    let checked = check_copy(&part, database, taken);
    let rows = checked.inspect_err(|_| drop(fs::remove_file(&part)))?.1;
    let bytes = fs::metadata(&part).map_err(failing("reading", &part))?.len();
    fs::rename(&part, to).and_then(|()| open::sync_folder(to)).map_err(failing("naming", to))?;
    Ok(Backup { taken, rows, bytes })
}

/// Checks the copy of the file `original` in full, and has it say that it is a backup, of the moment `taken` if it says of none
/// yet. Returns that moment and how many rows there are, without those of tables that this program does not know.
fn check_copy(copy: &Path, original: &Path, taken: Millis) -> Result<(Millis, u64)> {
    open::guarded(original, || {
        let file = OpenOptions::new().read(true).write(true).open(copy);
        let backend = FileBackend::new(file.map_err(failing("opening", copy))?);
        let backend = backend.map_err(|error| open::refuse(original, error))?;
        let db = open::backend(backend, original, true)?;
        let known = schema::known(schema::MIGRATIONS);
        let path = original.to_owned();
        match schema::version(&db)? {
            Some(found) if found > known => return Err(StoreError::Newer { path, found, known }),
            Some(_) => {}
            None => {
                let source = "it holds no tables of a bridge".into();
                return Err(StoreError::Foreign { path, source });
            }
        }
        let taken = if let Some(noted) = noted_backup(&db)? {
            noted
        } else {
            note_backup(&db, taken)?;
            taken
        };
        let rows = count_all(&db.begin_read()?)?;
        Ok((taken, rows))
    })
}

/// Puts a backup in the place of a database, and the database, if there is one, at `aside`. Returns the moment the backup shows.
///
/// The backup is checked in full before anything is changed, and stays. A crash leaves the old file in place or the new one. Also
/// takes the copy of a database that no program had open; then its file's time stands for the moment.
///
/// # Errors
///
/// [`StoreError::Locked`] while a program uses the database; whatever [`Store::open`] says of the backup; [`StoreError::File`].
pub fn restore(backup: &Path, database: &Path, aside: &Path) -> Result<Restored> {
    let _held = lock(database)?;
    let modified = fs::metadata(backup).and_then(|file| file.modified());
    let modified = modified.map_err(failing("reading", backup))?;
    let modified = modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    let part = beside(database, "restoring");
    copy_file(backup, &part)?;
    let modified = Millis(u64::try_from(modified).unwrap_or(u64::MAX));
    let checked = check_copy(&part, backup, modified);
    let (taken, _) = checked.inspect_err(|_| drop(fs::remove_file(&part)))?;
    put_in_place(&part, database, aside)?;
    Ok(Restored { taken })
}

/// Puts the file `new` in the place of a database that no program uses, and that, if there is one, at `aside`; false when there is
/// none. A crash leaves the old file in place or the new one.
///
/// # Errors
///
/// [`StoreError::Locked`] while a program uses it; [`StoreError::File`].
pub fn replace(new: &Path, database: &Path, aside: &Path) -> Result<bool> {
    let _held = lock(database)?;
    put_in_place(new, database, aside)
}

fn put_in_place(new: &Path, database: &Path, aside: &Path) -> Result<bool> {
    let there = database.exists();
    if there {
        // Both names lead to it until the next step, so that there is never none.
        fs::hard_link(database, aside)
            .or_else(|_| fs::rename(database, aside))
            .map_err(failing("setting aside", database))?;
    }
    fs::rename(new, database)
        .and_then(|()| open::sync_folder(database))
        .map_err(failing("naming", database))?;
    Ok(there)
}

/// What [`restore`] leaves on a disk when `bytes`, a database as it was at `taken`, is the backup.
///
/// # Errors
///
/// Whatever [`Store::open`] says of a file.
#[doc(hidden)]
pub fn restored_disk(bytes: Vec<u8>, taken: Millis) -> Result<Disk> {
    let disk = Disk::holding(bytes);
    note_backup(&open::backend(disk.clone(), Path::new("(memory)"), false)?, taken)?;
    Ok(disk)
}

/// Holds the database's lock, whatever is in the file; `None` when there is no file.
fn lock(database: &Path) -> Result<Option<FileBackend>> {
    let file = match OpenOptions::new().read(true).write(true).open(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failing("opening", database))?,
    };
    let backend = FileBackend::new(file).map_err(|error| open::refuse(database, error))?;
    match backend.try_lock_range(Bound::Included(0), Bound::Unbounded) {
        Ok(true) | Err(redb::BackendError::Unsupported) => Ok(Some(backend)),
        Ok(false) => Err(StoreError::Locked { path: database.to_owned() }),
        Err(error) => Err(failing("locking", database)(io::Error::other(error))),
    }
}

/// `<path>.<ending>`
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Copies a file that nobody writes to; the copy is for its owner alone, synced, and whole when it has its name.
///
/// # Errors
///
/// [`StoreError::File`].
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let part = beside(to, "part");
    let mut source = File::open(from).map_err(failing("opening", from))?;
    let mut copy = private(&part)?;
    let written = io::copy(&mut source, &mut copy)
        .and_then(|_| copy.sync_all())
        .and_then(|()| fs::rename(&part, to));
    if written.is_err() {
        // A full disk would stay full, and whoever is started again and again would never get further.
        let _ = fs::remove_file(&part);
    }
    written.and_then(|()| open::sync_folder(to)).map_err(failing("writing", to))
}

/// A new file for its owner alone; a remainder of an earlier try is removed.
fn private(path: &Path) -> Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failing("replacing", path)(error));
        }
        _ => {}
    }
    let mut how = OpenOptions::new();
    how.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut how, 0o600);
    how.open(path).map_err(failing("making", path))
}

fn failing(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::File { doing, path: path.to_owned(), source }
}

fn note_backup(db: &Database, taken: Millis) -> Result<()> {
    let tx = db.begin_write()?;
    {
        let row = serde_json::to_vec(&Restored { taken })
            .map_err(|source| StoreError::Encode { table: META, source })?;
        tx.open_table(META_TABLE)?.insert(BACKUP, row.as_slice())?;
    }
    Ok(tx.commit()?)
}

fn noted_backup(db: &Database) -> Result<Option<Millis>> {
    let tx = db.begin_read()?;
    let Some(row) = tx.open_table(META_TABLE)?.get(BACKUP)? else { return Ok(None) };
    Ok(Some(decode::<Restored>(META, &BACKUP, row.value())?.taken))
}

/// A store that is opened and says that it is a backup was restored: every portal has to learn what came after.
pub(crate) fn note_restored<'t>(tables: &mut Tables<Writing<'t>>, pen: &Pen<'t>) -> Result<()> {
    let Some(restored) = tables.meta.get::<Restored>(pen, BACKUP)? else { return Ok(()) };
    let keys = tables.portals.collect(pen, .., usize::MAX, |(account, room), _| {
        Ok((account.to_owned(), room.to_owned()))
    })?;
    for (account, room) in keys {
        let key = (account.as_str(), room.as_str());
        // A store restored twice lacks what came after the older moment.
        let before = redb::ReadableTable::get(tables.relearn.open(pen)?, key)?.map(|s| s.value());
        let since = before.unwrap_or(u64::MAX).min(restored.taken.0);
        tables.relearn.open_mut(pen)?.insert(key, since)?;
    }
    tables.meta.put(pen, RESTORED, &restored)?;
    tables.meta.remove(pen, BACKUP).map(drop)
}
