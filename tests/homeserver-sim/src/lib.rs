//! A Matrix homeserver in memory, which behaves to an appservice as Synapse does; for the deterministic simulation.
//!
//! There are no sockets: the bridge's requests go to [`HomeserverSim::router`], and the homeserver's to a function given to
//! [`World::connect`]. Time is tokio's, which a test pauses; ids, delays and the order of everything follow from a seed. People
//! act through the [`World`], which also tells what became of everything.
//!
//! # Guarantees
//!
//! Status, error code and shape of the answers are those of Synapse 1.163: `tests/contract.rs` asks both the same. What the
//! homeserver forgets and when, how it makes rooms in steps, and how it sends, is held by `tests/synapse_ways.rs`. Not covered:
//! sync, other servers, encryption keys, presence, directory, aliases.

mod api;
mod create;
mod event;
mod fault;
mod http;
mod ids;
mod membership;
mod push;
mod refusal;
mod room;
mod rules;
mod state;
mod world;

use std::ops::RangeInclusive;

use axum::Router;

pub use event::Event;
pub use fault::{CALLS_KEPT, Call, Fault, Matcher};
pub use http::Lost;
pub use push::{Appservice, AppserviceAnswer, CallError};
pub use refusal::Refusal;
pub use world::{Person, RoomView, Shown, World};

/// What a homeserver is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, the part of ids after the colon.
    pub domain: String,
    /// Ids and delays follow from it.
    pub seed: u64,
    /// Its clock at the start, in milliseconds since 1970.
    pub epoch_ms: u64,
    /// The registration's `id`.
    pub appservice_id: String,
    /// The bot's localpart; ghosts are `<bot>_…`.
    pub bot: String,
    /// What the bridge shows to the homeserver.
    pub as_token: String,
    /// What the homeserver shows to the bridge.
    pub hs_token: String,
    /// Version of rooms when none is asked for: 1 to 12.
    pub room_version: u32,
    /// Whether private rooms are encrypted without being asked for: `encryption_enabled_by_default_for_room_type: invite`.
    pub encrypt_private: bool,
    /// How long a request takes, without faults; half of it before its effect.
    pub latency_ms: RangeInclusive<u64>,
    /// How long after an event its transaction leaves: it may overtake the answer to the request that caused it.
    pub push_delay_ms: RangeInclusive<u64>,
    /// Whether Synapse's own losses happen, too: an event stored in the moment in which the appservice is found again stays
    /// where it is until the next failure; so does a transaction under way when the homeserver ends, and what was queued behind
    /// it is lost. No bridge hears of these unless it reads the rooms.
    pub flaws: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: "localhost".to_owned(),
            seed: 1,
            epoch_ms: 1_700_000_000_000,
            appservice_id: "gitter".to_owned(),
            bot: "gitter".to_owned(),
            as_token: "as-secret".to_owned(),
            hs_token: "hs-secret".to_owned(),
            room_version: 12,
            encrypt_private: false,
            latency_ms: 5..=80,
            push_delay_ms: 1..=60,
            flaws: false,
        }
    }
}

impl Config {
    /// Whether a user is in the appservice's namespace.
    fn owns(&self, user: &str) -> bool {
        let Some((local, domain)) = user.strip_prefix('@').and_then(|user| user.split_once(':'))
        else {
            return false;
        };
        let rest = local.strip_prefix(&self.bot);
        domain == self.domain && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    }
}

/// A running homeserver. Dropping it stops it; its world lives on.
#[derive(Debug)]
pub struct HomeserverSim {
    world: World,
}

impl HomeserverSim {
    /// Starts a homeserver with an empty world, which reaches no appservice yet: see [`World::connect`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(config: Config) -> Self {
        let world = World::new(config);
        world.start();
        Self { world }
    }

    /// The client-server API. A response marked [`Lost`] is none.
    pub fn router(&self) -> Router {
        http::router(self.world.clone())
    }

    /// Handle on what is in this homeserver.
    #[must_use]
    pub fn world(&self) -> World {
        self.world.clone()
    }
}

impl Drop for HomeserverSim {
    fn drop(&mut self) {
        self.world.stop();
    }
}
