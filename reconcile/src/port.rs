//! The outside, as this crate sees it: rows, the homeserver, Gitter and a clock, each a small trait.

mod gitter;
mod matrix;
mod tables;

use std::{future::Future, time::Duration};

pub use gitter::{Gitter, PeopleSeen, PersonSeen, Resolved, RoomSeen};
pub use matrix::{Matrix, NewRoom, Origin, Presence, Tombstone, Who};
pub use tables::{Rows, TableError, Tables};

use crate::model::{Millis, Moment, Refusal, Uptime};

/// Any error of a client below.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How an action failed, by what may be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// Worth trying again: limits, timeouts, 5xx, lost connections.
    #[error("{doing} did not work yet")]
    Later {
        /// What was being done.
        doing: &'static str,
        /// When the other side says that it may be tried again.
        retry_after: Option<Duration>,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// Pointless to repeat until somebody changes something.
    #[error("{doing} was refused")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Why, as far as it matters to people.
        why: Refusal,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// Gitter does not take the account's token any more.
    #[error("{doing} was refused because the token is not valid")]
    TokenRejected {
        /// What was being done.
        doing: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl ActionError {
    /// How long the other side wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Later { retry_after, .. } => *retry_after,
            Self::Refused { .. } | Self::TokenRejected { .. } | Self::Table(_) => None,
        }
    }
}

/// The clocks there are.
pub trait Clock: Send + Sync {
    /// The wall's: milliseconds since the epoch. It can be set to anything at any time.
    fn now(&self) -> Millis;

    /// The machine's own, which goes on by itself whatever becomes of the program.
    fn uptime(&self) -> Uptime;

    /// Now, by both.
    fn moment(&self) -> Moment {
        Moment { at: self.now(), up: Some(self.uptime()) }
    }
}

/// Where the rows are. Implemented by the daemon over its store, by tests over maps.
pub trait State: Send + Sync {
    /// Runs `f` on the rows as they are now; it sees no half transaction.
    ///
    /// # Errors
    ///
    /// When the store fails, or `f` does.
    fn read<R: Send + 'static>(
        &self,
        f: impl FnOnce(&dyn Rows) -> Result<R, TableError> + Send + 'static,
    ) -> impl Future<Output = Result<R, TableError>> + Send;

    /// Runs `f` in one transaction and returns when it is on disk. `f` may be run more than once; only its last run counts.
    ///
    /// # Errors
    ///
    /// When the store fails, or `f` does; then nothing of it has happened.
    fn write<R: Send + 'static>(
        &self,
        f: impl Fn(&mut dyn Tables) -> Result<R, TableError> + Send + 'static,
    ) -> impl Future<Output = Result<R, TableError>> + Send;
}
