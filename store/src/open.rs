//! Opening and making files.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{Database, DatabaseError, StorageBackend, StorageError, backends::FileBackend};

use crate::{
    disk::Disk,
    error::{Result, StoreError},
};

/// Memory for pages, in bytes: a bridge's whole working set, while redb's own default is a gigabyte.
const CACHE: usize = 64 << 20;

/// An unfinished file is at most this long, in bytes.
const UNFINISHED: u64 = 16 << 20;

/// The header and what fills up its page, in bytes.
const HEADER: usize = 4096;

pub(crate) fn file(path: &Path) -> Result<Database> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let made = !path.exists();
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut how, 0o600);
    let file = how.open(path).map_err(fail)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(fail)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "database can be read by other users of this machine");
        }
    }
    let db = backend(FileBackend::new(file).map_err(|error| refuse(path, error))?, path, true)?;
    if made {
        // The file's name must survive a crash as well.
        sync_folder(path).map_err(fail)?;
    }
    Ok(db)
}

/// Makes what was done to the name of a file survive a crash.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Runs what opens a file; a panic over damage that the checks did not foresee is an error like the others.
pub(crate) fn guarded<T>(path: &Path, open: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let source = StoreError::Panicked(crate::commit::words(&*panic)).into();
        Err(StoreError::Corrupt { path: path.to_owned(), source })
    })
}

/// Opens what is in `backend`; with `check`, all of it is read and compared with its checksums first.
pub(crate) fn backend(backend: impl StorageBackend, path: &Path, check: bool) -> Result<Database> {
    forget_unfinished(&backend)
        .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(check).set_repair_callback(
        |session| {
            tracing::debug!(progress = session.progress(), "database being checked");
        },
    );
    builder.create_with_backend(backend).map_err(|error| refuse(path, error))
}

/// Whether nothing was ever kept in a file: there is none, it is empty, or its making was cut off.
///
/// # Errors
///
/// [`StoreError::Open`] when it can't be read.
pub fn holds_nothing(path: &Path) -> Result<bool> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.map_err(fail)?,
    };
    let file = FileBackend::new(file).map_err(|error| refuse(path, error))?;
    is_unfinished(&file).map_err(fail)
}

/// A crash while redb made the file leaves one that it then refuses: all zeros, or all zeros but for a first header without
/// its first bytes. Nothing can be in it, so it is emptied. Any other header without them is damage, with all that was there.
fn forget_unfinished(backend: &impl StorageBackend) -> io::Result<()> {
    if backend.len()? == 0 || !is_unfinished(backend)? {
        return Ok(());
    }
    // Another process may be making it just now: then it has the lock, and the opening below says so.
    let whole = (Bound::Included(0), Bound::Unbounded);
    let locked = match backend.try_lock_range(whole.0, whole.1) {
        Ok(locked) => locked,
        Err(redb::BackendError::Unsupported) => return backend.set_len(0),
        Err(error) => return Err(io::Error::other(error)),
    };
    if locked {
        let still = is_unfinished(backend);
        let emptied = still.and_then(|still| if still { backend.set_len(0) } else { Ok(()) });
        backend.unlock_range(whole.0, whole.1).map_err(io::Error::other)?;
        emptied?;
    }
    Ok(())
}

fn is_unfinished(backend: &impl StorageBackend) -> io::Result<bool> {
    let length = backend.len()?;
    if length > UNFINISHED {
        return Ok(false);
    }
    let size = usize::try_from(length).map_err(io::Error::other)?;
    let mut head = vec![0; size.min(HEADER)];
    backend.read(0, &mut head)?;
    let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if !zeros(&head) && !first_header().starts_with(&head) {
        return Ok(false);
    }
    let mut rest = vec![0; size - head.len()];
    backend.read(head.len() as u64, &mut rest)?;
    Ok(zeros(&rest))
}

/// What redb writes at the head of a new file before it makes the file a database by the first bytes.
fn first_header() -> Vec<u8> {
    let disk = Disk::new();
    disk.fail_at_sync(1);
    // Its error is the failure that was just ordered.
    let _ = Database::builder().create_with_backend(disk.clone());
    let mut bytes = disk.bytes();
    bytes.truncate(HEADER);
    bytes
}

pub(crate) fn refuse(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::Locked { path }
        }
        DatabaseError::Storage(StorageError::Io(source)) => match source.kind() {
            // It does not begin as such a file does.
            io::ErrorKind::InvalidData => StoreError::Foreign { path, source: source.into() },
            io::ErrorKind::UnexpectedEof => StoreError::Corrupt { path, source: source.into() },
            _ => StoreError::Open { path, source },
        },
        DatabaseError::Storage(source) => StoreError::Corrupt { path, source: source.into() },
        other => StoreError::Foreign { path, source: Box::new(other) },
    }
}
