//! Backups of the database: on a schedule, when asked for, and what to do when the database can't be used.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use jiff::{Timestamp, tz::TimeZone};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use store::{Backup, Store, StoreError};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{appservice, db::Db, metrics::Metrics, settings::Settings, telemetry::Chain};

/// Where a running bridge is asked for a backup, on the port for the homeserver and with its token.
pub const PATH: &str = "/backup";

/// A start is busy enough, and whoever tries a start again and again needs no backup of each.
const SETTLED: Duration = Duration::from_secs(60);
/// A backup that failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(600);
/// The clock may be set: the plan is made anew at least so often.
const LOOK: Duration = Duration::from_secs(3600);
/// How a backup's time stands in its name: sorted by name is sorted by time.
const STAMP: &str = "%Y%m%dT%H%M%SZ";
const ENDING: &str = ".redb";
/// How the name of one ends that is being made.
const UNFINISHED: &str = ".redb.part";

/// The backups of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backups {
    database: PathBuf,
    folder: PathBuf,
    interval: Duration,
    keep: usize,
}

/// What a running bridge answers to [`PATH`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The backup's file, in full.
    pub file: PathBuf,
    /// Its size, in bytes.
    pub bytes: u64,
    /// The moment it shows, in milliseconds since the Unix epoch.
    pub taken: u64,
}

impl Backups {
    /// Those that the settings ask for.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let database = settings.database_path.clone();
        let beside = || database.parent().unwrap_or(Path::new("")).join("backups");
        Self {
            folder: settings.backup_folder.clone().unwrap_or_else(beside),
            interval: settings.backup_interval,
            keep: usize::try_from(settings.backup_keep).unwrap_or(usize::MAX),
            database,
        }
    }

    /// A name in the folder for a backup of this moment.
    #[must_use]
    pub fn name(&self, at: Timestamp) -> PathBuf {
        self.folder.join(format!("{}{}{ENDING}", self.stem(), stamp(at)))
    }

    /// Where the database goes when another takes its place at this moment.
    #[must_use]
    pub fn aside(&self, at: Timestamp) -> PathBuf {
        let mut name = self.database.clone().into_os_string();
        name.push(format!(".aside-{}", stamp(at)));
        name.into()
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn stem(&self) -> String {
        let stem = self.database.file_stem().unwrap_or_default();
        format!("{}-", stem.to_string_lossy())
    }

    /// All of them, oldest first; files of other names are none. No folder: none.
    ///
    /// # Errors
    ///
    /// When the folder can't be read.
    pub fn list(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        self.found(ENDING)
    }

    fn found(&self, ending: &str) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let stamp = name.and_then(|name| name.strip_prefix(&self.stem())?.strip_suffix(ending));
            if let Some(at) = stamp.and_then(read_stamp) {
                found.push((at, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes one, and removes those that are too many. Blocks.
    ///
    /// # Errors
    ///
    /// When it can't be written. That old ones can't be removed is only logged.
    pub fn make(&self, store: &Store, at: Timestamp) -> Result<(PathBuf, Backup), StoreError> {
        self.prepare()?;
        let path = self.name(at);
        let made = store.backup(&path)?;
        tracing::info!(path = %path.display(), rows = made.rows, bytes = made.bytes, "backup made");
        if let Err(error) = self.prune(&path) {
            tracing::warn!(folder = %self.folder.display(), %error, "old backups not removed");
        }
        Ok((path, made))
    }

    /// Makes the folder, for its owner alone.
    ///
    /// # Errors
    ///
    /// When it can't.
    pub fn prepare(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|source| StoreError::File {
            doing: "making the folder",
            path: self.folder.clone(),
            source,
        })
    }

    /// Removes those that are too many, but never `made`, however the clock went, and what is left of one that was cut off.
    fn prune(&self, made: &Path) -> io::Result<()> {
        for path in self.found(UNFINISHED)?.into_iter().map(|(_, path)| path) {
            fs::remove_file(path)?;
        }
        let all = self.list()?;
        // With none kept on a schedule, those made by hand are the admin's to remove.
        let keep = if self.keep == 0 { usize::MAX } else { self.keep };
        let too_many = all.len().saturating_sub(keep);
        for (_, path) in all.iter().filter(|(_, path)| path != made).take(too_many) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// What an admin can do about a database that can't be used.
    #[must_use]
    pub fn way_out(&self) -> String {
        let newest = newest(&self.list().unwrap_or_default(), now()).cloned();
        let (database, folder) = (self.database.display(), self.folder.display());
        match newest {
            Some((at, path)) => format!(
                "to go on from the newest backup, made at {}, run: matrix-gitter restore {}",
                shown(at),
                path.display()
            ),
            None => format!(
                "there is no backup in {folder}; to make a new database from the rooms on the homeserver, run: matrix-gitter rebuild-from-matrix --replace ({database} is kept beside it)"
            ),
        }
    }

    /// How long to wait for the next one, at a moment and with those that there are.
    fn due(&self, all: &[(Timestamp, PathBuf)], now: Timestamp) -> Duration {
        match newest(all, now) {
            Some((at, _)) if *at <= now => {
                self.interval.saturating_sub(now.duration_since(*at).unsigned_abs())
            }
            _ => Duration::ZERO,
        }
    }
}

/// The newest at a moment: one of the future is of a clock that was wrong, and counts only where there is no other.
fn newest(all: &[(Timestamp, PathBuf)], now: Timestamp) -> Option<&(Timestamp, PathBuf)> {
    all.iter().rfind(|(at, _)| *at <= now).or_else(|| all.last())
}

/// Makes backups as often as the settings say, until stopped.
pub async fn on_schedule(
    db: Db,
    backups: Backups,
    making: Arc<Mutex<()>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    if backups.keep == 0 {
        return;
    }
    let mut wait = SETTLED;
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        let all = backups.list().unwrap_or_else(|error| {
            tracing::warn!(folder = %backups.folder.display(), %error, "backups not listed");
            Vec::new()
        });
        wait = backups.due(&all, now()).min(LOOK);
        if !wait.is_zero() {
            continue;
        }
        wait = match make(&db, &backups, &making, &metrics).await {
            Ok(_) => backups.interval.min(LOOK),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "no backup made");
                AGAIN
            }
        };
    }
}

async fn make(
    db: &Db,
    backups: &Backups,
    making: &Mutex<()>,
    metrics: &Metrics,
) -> Result<Made, StoreError> {
    // One at a time: two of the same second would be one file.
    let _one = making.lock().await;
    let (store, backups) = (db.store().clone(), backups.clone());
    let made = tokio::task::spawn_blocking(move || {
        let (path, made) = backups.make(&store, now())?;
        let file = fs::canonicalize(&path).unwrap_or(path);
        Ok(Made { file, bytes: made.bytes, taken: made.taken.0 })
    });
    let made = made.await.unwrap_or_else(|error| {
        if error.is_panic() {
            metrics.panic();
        }
        Err(StoreError::given_up(error))
    });
    metrics.backup(made.is_ok());
    made
}

#[derive(Clone)]
struct Asked {
    db: Db,
    backups: Backups,
    making: Arc<Mutex<()>>,
    metrics: Metrics,
    token: SecretString,
}

/// The route by which a running bridge is asked for a backup. It takes no path: whoever has the token can have a backup
/// written to where backups go, and nothing else.
pub fn router(
    db: Db,
    backups: Backups,
    making: Arc<Mutex<()>>,
    metrics: Metrics,
    token: SecretString,
) -> Router {
    Router::new().route(PATH, post(asked)).with_state(Asked { db, backups, making, metrics, token })
}

async fn asked(
    State(asked): State<Asked>,
    headers: HeaderMap,
) -> Result<Json<Made>, (StatusCode, String)> {
    if !appservice::bears(&headers, &asked.token) {
        return Err((StatusCode::FORBIDDEN, "another matrix_homeserver_token".to_owned()));
    }
    let made = make(&asked.db, &asked.backups, &asked.making, &asked.metrics).await;
    made.map(Json).map_err(|error| {
        tracing::error!(error = %Chain(&error), "no backup made");
        (StatusCode::INTERNAL_SERVER_ERROR, Chain(&error).to_string())
    })
}

/// The time by the system's clock.
#[must_use]
pub fn now() -> Timestamp {
    use reconcile::port::Clock as _;
    of_millis(crate::clock::Clocks::system().now().0)
}

/// Milliseconds since the epoch as a time; nonsense is the epoch.
#[must_use]
pub fn of_millis(millis: u64) -> Timestamp {
    let millis = i64::try_from(millis).unwrap_or(0);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A time for admins.
#[must_use]
pub fn shown(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn stamp(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime(STAMP).to_string()
}

fn read_stamp(text: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime(STAMP, text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use store::{Options, SealKey};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn backups(folder: &Path) -> Backups {
        Backups {
            database: folder.join("database.redb"),
            folder: folder.join("backups"),
            interval: Duration::from_secs(3600),
            keep: 2,
        }
    }

    #[test]
    fn the_newest_are_kept_and_what_is_no_backup_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let backups = backups(folder.path());
        let key = SealKey::new([1; 32]);
        let store = Store::open(&backups.database, key, Options::default()).expect("opened");
        assert_eq!(backups.list().expect("no folder"), []);
        assert!(backups.way_out().contains("rebuild-from-matrix"), "{}", backups.way_out());
        let times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-10T05:06:07Z"];
        for time in [times[1], times[0], times[2]] {
            backups.make(&store, at(time)).expect("made");
            let other = backups.folder.join("database-old.redb");
            fs::write(other, b"the admin's own").expect("written");
        }
        let found: Vec<Timestamp> =
            backups.list().expect("listed").into_iter().map(|(time, _)| time).collect();
        assert_eq!(found, [at(times[1]), at(times[2])]);
        assert_eq!(fs::read_dir(&backups.folder).expect("a folder").count(), 3);
        let mode = fs::metadata(&backups.folder).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let out = backups.way_out();
        for part in ["2026-01-10 05:06:07 UTC", "restore", "database-20260110T050607Z.redb"] {
            assert!(out.contains(part), "{part} is not in: {out}");
        }
    }

    #[tokio::test]
    async fn a_backup_that_fails_shows_until_one_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let backups = backups(folder.path());
        let db = Db::new(Store::in_memory(SealKey::new([7; 32])).expect("in memory"));
        let (metrics, making) = (Metrics::new(), Mutex::default());
        // In place of the folder there is a file.
        fs::write(&backups.folder, "").expect("written");
        make(&db, &backups, &making, &metrics).await.expect_err("no place");
        assert!(metrics.text().contains("matrix_gitter_backup_failing 1"));
        fs::remove_file(&backups.folder).expect("removed");
        make(&db, &backups, &making, &metrics).await.expect("made");
        assert!(metrics.text().contains("matrix_gitter_backup_failing 0"));
    }

    #[test]
    fn the_next_backup_is_due_an_interval_after_the_newest() {
        let backups = backups(Path::new("/x"));
        let noon = at("2026-01-01T12:00:00Z");
        let (just, half, long) = (noon, at("2026-01-01T11:30:00Z"), at("2025-01-01T00:00:00Z"));
        // Of a clock that was wrong.
        let ahead = at("2027-01-01T00:00:00Z");
        let rows: [(&str, &[Timestamp], u64); 6] = [
            ("none yet", &[], 0),
            ("just made", &[long, just], 3600),
            ("half an hour ago", &[half], 1800),
            ("long ago", &[long], 0),
            ("only one of the future", &[ahead], 0),
            ("half an hour ago, and one of the future", &[half, ahead], 1800),
        ];
        for (name, times, seconds) in rows {
            let all: Vec<_> = times.iter().map(|at| (*at, backups.name(*at))).collect();
            assert_eq!(backups.due(&all, noon), Duration::from_secs(seconds), "row: {name}");
        }
    }

    #[test]
    fn a_backup_just_made_is_kept_among_those_of_a_clock_that_was_ahead() {
        let folder = tempfile::tempdir().expect("a folder");
        let backups = backups(folder.path());
        backups.prepare().expect("a folder");
        let ahead =
            ["2199-01-01T00:00:00Z", "2199-01-02T00:00:00Z"].map(|text| backups.name(at(text)));
        for path in &ahead {
            fs::write(path, "").expect("written");
        }
        let store = Store::in_memory(SealKey::new([1; 32])).expect("in memory");
        let (made, _) = backups.make(&store, at("2026-01-01T00:00:00Z")).expect("made");
        let left: Vec<_> =
            backups.list().expect("listed").into_iter().map(|(_, path)| path).collect();
        assert_eq!(left, [made, ahead[1].clone()]);
        let out = backups.way_out();
        assert!(out.contains("database-20260101T000000Z"), "{out}");
    }

    #[test]
    fn what_a_crash_left_of_a_backup_is_removed_with_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let backups = backups(folder.path());
        backups.prepare().expect("a folder");
        let mut cut_off = backups.name(at("2026-01-01T00:00:00Z")).into_os_string();
        cut_off.push(".part");
        fs::write(&cut_off, "half").expect("written");
        let store = Store::in_memory(SealKey::new([1; 32])).expect("in memory");
        let (made, _) = backups.make(&store, at("2026-01-02T00:00:00Z")).expect("made");
        let left: Vec<_> = fs::read_dir(&backups.folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        assert_eq!(left, [made]);
    }

    #[tokio::test(start_paused = true)]
    async fn backups_are_made_on_a_schedule_whatever_the_clock_was_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let backups = backups(folder.path());
        backups.prepare().expect("a folder");
        fs::write(backups.name(at("2199-01-01T00:00:00Z")), "").expect("written");
        let db = Db::new(Store::in_memory(SealKey::new([7; 32])).expect("in memory"));
        let (making, stop) = (Arc::<Mutex<()>>::default(), CancellationToken::new());
        let (on, one_at_a_time) = (backups.clone(), making.clone());
        tokio::spawn(on_schedule(db, on, one_at_a_time, Metrics::new(), stop.clone()));
        let next = async || {
            let began = tokio::time::Instant::now();
            loop {
                let all = backups.list().expect("listed");
                if let Some((_, path)) = all.into_iter().find(|(at, _)| *at <= now()) {
                    break path;
                }
                assert!(began.elapsed() < 2 * backups.interval, "none is made");
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
        };
        let began = tokio::time::Instant::now();
        fs::remove_file(next().await).expect("removed");
        assert!(began.elapsed() >= SETTLED, "not with the start");
        // Whoever is in a hurry waits here for its turn, and time goes on.
        let turn = making.lock().await;
        tokio::time::sleep(backups.interval / 2).await;
        drop(turn);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(backups.list().expect("listed").len(), 1, "none is made before its time");
        next().await;
        stop.cancel();
    }
}
