//! A faithful Gitter server for tests, benchmarks and the demo: REST, `OAuth` pages, and Faye
//! over websocket, on one loopback port.
//!
//! What is in the [`World`] (people, rooms, messages, faults) can be read and changed at any time,
//! synchronously, while the server runs; the world outlives the server, so that a Gitter can go
//! away and come back.
//!
//! # Guarantees
//!
//! Status and shape of the answers are those of the recordings in `recordings/`, held by the
//! tests in `tests/`. Not covered: the streaming API, Gitter's search, avatars of providers.

mod control;
mod fault;
mod faye;
mod http;
mod ids;
mod in_process;
mod limits;
mod markdown;
mod model;
mod oauth;
mod page;
mod rest;
mod server;
mod state;
mod view;
mod wire;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use fault::{CALLS_KEPT, Call, Fault, Matcher};
pub use in_process::{Door, NoAnswer};
pub use world::{RoomSpec, SimMessage, World};

/// A clock that somebody else keeps, in epoch ms.
#[derive(Clone)]
pub struct SimClock(pub Arc<dyn Fn() -> i64 + Send + Sync>);

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimClock({})", (self.0)())
    }
}

/// How the simulated Gitter behaves.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Ids, tokens and codes follow from it.
    pub seed: u64,
    /// Calls per window, user and `OAuth` client; `None` never refuses.
    pub rate_limit: Option<u64>,
    /// Length of the window by the simulator's clock.
    pub rate_window_ms: i64,
    /// A clock that only [`World::advance_clock`] moves; `None` follows the wall clock.
    pub frozen_clock_ms: Option<i64>,
    /// Time where everything is simulated; before all other clocks.
    pub clock: Option<SimClock>,
    /// How old accounts are when added: the spam block is for those under 14 days.
    pub account_age_ms: i64,
    /// Whether repeating a text silences a young account.
    pub spam_block: bool,
    /// Whether what is thrown away as spam looks as if it had been stored, by its version, too.
    pub spam_with_version: bool,
    /// How long a `/meta/connect` is held on `/bayeux`; 2.5 times as long on `/faye`.
    pub faye_timeout_ms: u64,
    /// Time between websocket pings.
    pub faye_ping_ms: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            port: 0,
            seed: 1,
            rate_limit: Some(100),
            rate_window_ms: 60_000,
            frozen_clock_ms: None,
            clock: None,
            account_age_ms: 400 * 86_400_000,
            spam_block: true,
            spam_with_version: false,
            faye_timeout_ms: 120_000,
            faye_ping_ms: 40_000,
        }
    }
}

/// A running server. Dropping it stops it and cuts its connections; its world lives on.
#[derive(Debug)]
pub struct GitterSim {
    address: SocketAddr,
    world: World,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl GitterSim {
    /// Starts a Gitter with an empty world.
    ///
    /// # Errors
    ///
    /// When the port cannot be had.
    pub async fn start(config: SimConfig) -> io::Result<Self> {
        let world = World::new(config.clone());
        Self::start_with_world(config, world).await
    }

    /// Starts a server for a world that exists: a restart, when `config.port` is the port it had.
    /// The rest of `config` holds from now on, but for the seed.
    ///
    /// # Errors
    ///
    /// When the port cannot be had.
    pub async fn start_with_world(config: SimConfig, world: World) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", config.port)).await?;
        let address = listener.local_addr()?;
        world.serve_at(&format!("http://{address}"), config);
        let stop = CancellationToken::new();
        let wire = wire::Wire { listener, world: world.clone(), stop: stop.clone() };
        let task = tokio::spawn(server::run(wire, world.clone(), stop.clone()));
        Ok(Self { address, world, stop, task })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// REST base: `http://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("{}/v1", self.web_url())
    }

    /// The page, and what rooms' `url`s are relative to: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn web_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `OAuth` base, without `/authorize` and `/token`: `http://127.0.0.1:PORT/login/oauth`.
    #[must_use]
    pub fn oauth_url(&self) -> String {
        format!("{}/login/oauth", self.web_url())
    }

    /// Faye over websocket: `ws://127.0.0.1:PORT/bayeux`.
    #[must_use]
    pub fn faye_url(&self) -> String {
        format!("ws://{}/bayeux", self.address)
    }

    /// Handle on what is in this Gitter.
    #[must_use]
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// Stops: the port is free and every connection is cut when this returns.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for GitterSim {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}
