//! A server as a child process: logged to a file, stopped in bounded time, never left behind.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Kills a process once the pipe to this script closes, which it does whenever we end, `kill -9` included.
/// Deaf to Ctrl-C, which a terminal sends to the whole group.
const GUARD: &str = r#"trap "" INT TERM HUP; cat >/dev/null; kill -9 "$1" 2>/dev/null
[ -z "$2" ] || rm -rf "$2""#;

/// A running server of ours.
///
/// Dropping it kills it. A guard beside it kills it also when this program dies without a chance to clean up.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Option<Child>,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to the file `log`.
    ///
    /// `sweep` names a directory that the guard removes when this program ends without dropping the process (one
    /// kept in a `static` never is).
    ///
    /// # Errors
    /// When the log can't be opened or the program can't be started.
    pub fn spawn(
        name: &str,
        mut command: Command,
        log: &Path,
        sweep: Option<&Path>,
    ) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A group of its own: Ctrl-C at the terminal is for this program, which then ends the server in good order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        let mut process =
            Self { name: name.to_owned(), child, guard: None, log: log.to_owned(), ended: None };
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &process.child.id().to_string()])
            .arg(sweep.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the guard of a server")?;
        process.guard = Some(guard);
        Ok(process)
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                self.dismiss_guard(); // its process id may soon be somebody else's
            }
        }
        Ok(self.ended)
    }

    /// An error with the log's tail when the process has ended.
    ///
    /// # Errors
    /// When it has ended, or the system can't tell.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.status()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended with {status}; its log ends:\n{}", self.name, self.log_tail(40))
            }
        }
    }

    /// Waits until it has ended by itself, at most `limit`.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "{} still runs after {limit:?}; its log ends:\n{}",
                    self.name,
                    self.log_tail(40)
                );
            }
        }
    }

    /// Asks it to stop (`SIGTERM`) and waits, at most `limit`; then it is killed and that is an error.
    ///
    /// # Errors
    /// When it did not stop in time.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status()? {
            return Ok(status);
        }
        self.signal("TERM").await?;
        let ended = self.wait(limit).await;
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// Sends a signal by its name, such as `TERM`, `STOP` or `CONT`.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let status = tokio::process::Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "kill", signal, &self.id().to_string()])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "{} could not be sent SIG{signal}", self.name);
        Ok(())
    }

    /// Ends it at once (`SIGKILL`) and waits for that. Killing it twice is fine.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status()? {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        self.dismiss_guard();
        Ok(status)
    }

    /// The file its output goes to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `lines` lines of its output.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn dismiss_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The last `lines` lines of a file, from its last 4 MiB; the reason in brackets when it can't be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(4 << 20);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; exec sleep 600"]);
        Process::spawn("sleeper", command, &dir.join("log"), None).expect("sh starts")
    }

    #[tokio::test]
    async fn a_process_is_asked_to_stop_and_then_it_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut process = sleeper(dir.path());
        process.check_alive().expect("it runs");
        let status = process.terminate(Duration::from_secs(10)).await.expect("it stops");
        assert!(!status.success(), "ended by a signal");
        assert!(process.check_alive().is_err());
        assert!(process.kill().is_ok(), "killing what is gone is fine");
    }

    #[tokio::test]
    async fn a_process_whose_owner_is_gone_is_killed_and_its_directory_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let swept = dir.path().join("swept");
        std::fs::create_dir(&swept).expect("a directory inside");
        let mut command = Command::new("sleep");
        command.arg("600");
        let log = dir.path().join("log");
        let mut process = Process::spawn("owned", command, &log, Some(&swept)).expect("it starts");
        let mut guard = process.guard.take().expect("a guard");
        drop(guard.stdin.take()); // as when we die
        guard.wait().expect("the guard ends");
        assert!(!swept.exists());
        process.wait(Duration::from_secs(10)).await.expect("killed by its guard");
    }
}
