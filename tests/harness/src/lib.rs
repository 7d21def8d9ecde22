//! Real servers for stories: Synapse, the daemon, the Gitter simulator, and people with clients.
//!
//! A story starts a [`World`], lets [`Person`]s do on Matrix what people do in a client, lets the simulator's people do what
//! people do on Gitter, follows login links with a [`Browser`], and waits until each sees what they should see. Everything
//! runs on free ports of `127.0.0.1`.
//!
//! # Guarantees
//!
//! - Nothing is waited for by time: every wait names a condition and has a generous limit ([`patience`]); when it is
//!   over, the error says what was awaited and what was seen instead.
//! - No server outlives its story, however that ends, `kill -9` of the test included (`process::Process`).
//! - A story without Python is skipped with a message; where `CI=true` it fails instead ([`Synapse::venv`]).

mod bot_eyes;
mod browser;
mod daemon;
mod http;
mod person;
mod ports;
mod process;
mod proxy;
mod registration;
pub mod storm;
mod synapse;
mod transcript;
mod view;
mod world;

pub use bot_eyes::BotEyes;
pub use browser::{Browser, Carried, Carry, Consent, Field, Form, Page};
pub use daemon::{Daemon, DaemonConfig};
pub use http::Refusal;
pub use person::Person;
pub use ports::{free_port, unique};
pub use process::Process;
pub use proxy::{Hurt, Proxy};
pub use registration::Registration;
pub use synapse::{Limits, Synapse, SynapseConfig};
pub use transcript::Transcript;
pub use view::{Event, Member, Room, Standing, View};
pub use world::{Homeserver, Ways, World, WorldConfig};

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, interval};

/// How long a story waits for a condition before it gives up: 90 s, or as many as `STORY_PATIENCE` says.
#[must_use]
pub fn patience() -> Duration {
    let seconds = std::env::var("STORY_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(90))
}

/// What the portal of a Gitter room is called.
#[must_use]
pub fn titled(room: &str) -> String {
    format!("{room} (Gitter)")
}

/// Looks until there is nothing to complain of.
///
/// # Errors
/// The last complaint, when [`patience`] is over.
pub async fn until(what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + patience();
    let mut pace = interval(Duration::from_millis(200));
    loop {
        pace.tick().await;
        match look().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("waited {:?} until {what}", patience()));
            }
            Err(_) => {}
        }
    }
}

/// Whether directories with logs and databases stay after a story: `STORY_KEEP` is set.
pub(crate) fn keep_directories() -> bool {
    std::env::var_os("STORY_KEEP").is_some_and(|value| !value.is_empty())
}
