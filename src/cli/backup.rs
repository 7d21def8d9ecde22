//! `matrix-gitter backup` and `matrix-gitter restore`: the database saved, and put back.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use secrecy::ExposeSecret as _;
use store::StoreError;

use crate::{
    backup::{self, Backups, Made},
    http::{self, Destination},
    settings::Settings,
    telemetry::Chain,
};

/// A large database on a slow disk.
const PATIENCE: Duration = Duration::from_secs(600);

/// The backup was not made, or not put back.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    /// The store's own reason.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody uses the database, and it is not a bridge with these settings.
    #[error(
        "the database {database} is in use, and the bridge that should be using it gives no backup: {why}; stop the program that uses it and try again"
    )]
    Asked {
        /// The file.
        database: String,
        /// What went wrong.
        why: String,
    },
    /// Restoring asks for the bridge to be stopped.
    #[error("the bridge is running; stop it first, restore, and start it again")]
    Running(#[source] StoreError),
    /// Standard output is closed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// Makes a backup in the folder, or at `to`. A running bridge makes it itself.
pub(super) async fn backup(
    settings: &Settings,
    to: Option<&Path>,
    out: &mut impl Write,
) -> Result<(), BackupError> {
    let backups = Backups::of(settings);
    let at = backup::now();
    let path = to.map_or_else(|| backups.name(at), Path::to_owned);
    if to.is_none() {
        backups.prepare()?;
    }
    let (file, bytes) = match store::backup_closed(&settings.database_path, &path) {
        Ok(made) => (path, made.bytes),
        Err(StoreError::Locked { path: database }) => {
            let database = database.display().to_string();
            let asked = ask(settings).await;
            let made = asked.map_err(|why| BackupError::Asked { database, why })?;
            match to {
                None => (made.file, made.bytes),
                Some(to) => {
                    store::copy_file(&made.file, to)?;
                    (to.to_owned(), made.bytes)
                }
            }
        }
        Err(error) => return Err(error.into()),
    };
    writeln!(
        out,
        "{} holds the database as of now ({} kB). Keep unique_secret_key as well: without it the logins in it are worthless.",
        file.display(),
        bytes.div_ceil(1000)
    )
    .map_err(BackupError::Output)
}

/// Has the running bridge make a backup.
async fn ask(settings: &Settings) -> Result<Made, String> {
    let host = match settings.matrix_appservice_bind {
        any if any.is_unspecified() && any.is_ipv6() => "[::1]".to_owned(),
        any if any.is_unspecified() => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
        std::net::IpAddr::V4(address) => address.to_string(),
    };
    let url = format!("http://{host}:{}{}", settings.matrix_appservice_port, backup::PATH);
    let http = http::client(Destination::Media).map_err(|error| Chain(&error).to_string())?;
    let request = http.post(&url).timeout(PATIENCE);
    let request = request.bearer_auth(settings.matrix_homeserver_token.expose_secret());
    let answer = request.send().await.map_err(|error| Chain(&error).to_string())?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|error| Chain(&error).to_string())?;
    if !status.is_success() {
        let said: String = String::from_utf8_lossy(&body).chars().take(500).collect();
        return Err(format!("{url} answered {status}: {said}"));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{url} answered nonsense ({error})"))
}

/// Puts a backup in the database's place, and says what that means.
pub(super) fn restore(
    settings: &Settings,
    file: &Path,
    out: &mut impl Write,
) -> Result<(), BackupError> {
    let backups = Backups::of(settings);
    let (database, aside) = (&settings.database_path, backups.aside(backup::now()));
    let restored = store::restore(file, database, &aside).map_err(|error| match error {
        error @ StoreError::Locked { .. } => BackupError::Running(error),
        other => other.into(),
    })?;
    let kept = if aside.exists() {
        format!(" What was there is kept as {}.", aside.display())
    } else {
        String::new()
    };
    writeln!(
        out,
        "{} is the backup {} again, as of {}.{kept}\n\
         Start the bridge: it reads its rooms and learns which messages it has carried since, so that none is doubled. \
         What it can't learn: logins since then (who logged in has to do so again), and rooms that people closed or opened \
         by a command since then may have to be asked for again.",
        database.display(),
        file.display(),
        backup::shown(backup::of_millis(restored.taken.0)),
    )
    .map_err(BackupError::Output)
}
