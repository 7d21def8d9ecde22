//! A disk so small that it can be filled.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// Room for a database of some rooms, and little else.
const SIZE: &str = "64m";
const FILLER: &str = "filler";

/// A file system of its own in memory, unmounted when dropped.
#[derive(Debug)]
pub struct Disk(TempDir);

impl Disk {
    /// Mounts one, which takes the rights to do so.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn mount() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("story-disk-").tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={SIZE},mode=0700"), "tmpfs"]);
        let done = mount.arg(dir.path()).output().context("running mount")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(Self(dir))
    }

    /// Where the bridge's database goes: `database_path`.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path().join("database.redb")
    }

    /// Fills it to the last byte.
    pub(super) fn fill(&self) -> Result<()> {
        let mut filler = fs::File::create(self.path().join(FILLER))?;
        for size in [1 << 20, 4096, 1] {
            let piece = vec![b'.'; size];
            while filler.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn free(&self) -> Result<()> {
        fs::remove_file(self.path().join(FILLER)).context("freeing the disk")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has a file open there keeps it until they end.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
