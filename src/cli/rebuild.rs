//! `matrix-gitter rebuild-from-matrix`: a new database from what the rooms on the homeserver say.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use reconcile::{
    model::Millis,
    port::{ActionError, Clock as _, Matrix as _},
};
use store::{Options, Store, StoreError};

use crate::{
    app,
    backup::{self, Backups},
    db::Db,
    matrix::MatrixError,
    metrics::Metrics,
    recover,
    settings::Settings,
};

/// The database was not made.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A database is there, which may be better than what the rooms know.
    #[error(
        "{} exists; with --replace it is kept beside the new one. {way_out}",
        path.display()
    )]
    Exists {
        /// The database.
        path: PathBuf,
        /// What else can be done.
        way_out: String,
    },
    /// The store's own reason.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The homeserver does not answer, or not all rooms could be read.
    #[error("the rooms can't be read from the homeserver, and nothing was changed")]
    Rooms(#[source] ActionError),
    /// Likewise, while reading who spoke.
    #[error("a room can't be read from the homeserver, and nothing was changed")]
    Room(#[source] MatrixError),
    /// Settings that no client can be made of.
    #[error("the homeserver can't be asked")]
    Client(#[source] crate::appservice::BoxError),
    /// A file can't be moved.
    #[error("{} can't be written", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Standard output is closed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// Makes the database beside the old one, and puts it in place when it is complete.
pub(super) async fn rebuild(
    settings: &Settings,
    replace: bool,
    out: &mut impl Write,
) -> Result<(), RebuildError> {
    let path = &settings.database_path;
    let backups = Backups::of(settings);
    if path.exists() && !replace {
        return Err(RebuildError::Exists { path: path.clone(), way_out: backups.way_out() });
    }
    let new = PathBuf::from(format!("{}.rebuilt", path.display()));
    remove(&new)?;
    let store = Store::open(&new, app::seal_key(settings), Options::default())?;
    let made = fill(settings, &app::Surroundings::real(), Db::new(store)).await;
    let told = match made {
        Ok(told) => told,
        Err(error) => {
            remove(&new)?;
            return Err(error);
        }
    };
    let aside = backups.aside(backup::now());
    let kept = match store::replace(&new, path, &aside) {
        Ok(true) => format!(" What was there is kept as {}.", aside.display()),
        Ok(false) => String::new(),
        Err(error) => {
            remove(&new)?;
            return Err(error.into());
        }
    };
    writeln!(out, "{} is new.{kept}\n{told}", path.display()).map_err(RebuildError::Output)
}

fn remove(path: &PathBuf) -> Result<(), RebuildError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RebuildError::File(path.clone(), error))
        }
        _ => Ok(()),
    }
}

/// Asks the homeserver, and writes down in an empty database what it says. Returns what people should know.
///
/// # Errors
///
/// When not all could be read or written; then the database is of no use.
pub async fn fill(
    settings: &Settings,
    around: &app::Surroundings,
    db: Db,
) -> Result<String, RebuildError> {
    let home = app::homeserver(settings, around, &db, &Metrics::new(), None)
        .map_err(|error| RebuildError::Client(error.into()))?;
    let rooms = home.rooms().await.map_err(RebuildError::Rooms)?;
    let found = recover::survey(&home, rooms).await.map_err(RebuildError::Rooms)?;
    let mut ghosts = std::collections::BTreeMap::new();
    for (room, _) in found.portals.values() {
        let here = recover::ghosts(home.client(), room).await.map_err(RebuildError::Room)?;
        ghosts.extend(here);
    }
    let now = around.clock.now();
    let (survey, count) = (found.clone(), ghosts.len());
    let adopted = db.change(move |t| {
        recover::keep_ghosts(t, &ghosts, |user| home.is_ghost(user))?;
        t.put_obeyed_until(now)?;
        survey.adopt(t, Millis(0), now)
    });
    let without = adopted.await?;
    Ok(format!(
        "Found {} portals and {} chats with the bot ({} people; {count} ghosts by their messages); {} other rooms are left alone.\n\
         Start the bridge. The logins are lost: the bot asks each of {} people to log in once more. Then their rooms go on, and \
         what was carried before is not repeated.",
        found.portals.len(),
        found.controls.len(),
        found
            .portals
            .keys()
            .map(|key| &key.account)
            .chain(found.controls.keys())
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        found.others,
        without.len(),
    ))
}
