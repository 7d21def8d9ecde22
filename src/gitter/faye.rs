//! Live events over Faye: one websocket per account, however many rooms it carries.
//!
//! [`run`] keeps a connection up and its subscriptions equal to what is wanted. What it tells is complete only between two
//! events that say otherwise: after [`Event::Connected`], [`Event::Subscribed`] and [`Event::Gap`] something may have been
//! missed, and has to be fetched by REST before what follows is used.
//!
//! *Guarantees*: a connection that is up has carried data or an answered ping within the last 90 seconds
//! (`a_server_that_stops_answering_pings_is_left`); a refused token ends it for good
//! (`a_refused_token_is_never_tried_again`); a reader that is slow loses nothing (`a_slow_reader_loses_nothing`).
//!
//! Bayeux: <https://docs.cometd.org/current/reference/#_bayeux>.

mod frame;
mod session;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::Rng;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::types::{Message, MessagePatch, Room, RoomPatch, User};
use session::{End, Session};

/// Largest websocket frame, and message, that is accepted: many times the largest message of Gitter.
pub const MAX_FRAME: usize = 1024 * 1024;
/// Longest wait that a server's advice can impose.
const MAX_ADVICE: Duration = Duration::from_secs(120);

/// Where and as whom to listen.
#[derive(Debug, Clone)]
pub struct FayeConfig {
    /// The Faye server, such as `https://ws.gitter.im/bayeux`; `http` and `https` are taken as `ws` and `wss`.
    pub url: Url,
    /// The account's token.
    pub token: SecretString,
    /// The account's Gitter user id.
    pub user_id: String,
    /// How long anything may take.
    pub timing: Timing,
}

/// Times of a connection.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For the connection to be made, TLS and upgrade included.
    pub connect: Duration,
    /// For an answer to a handshake, subscription or ping.
    pub answer: Duration,
    /// Shortest time between pings; the longest is twice that.
    pub ping: Duration,
    /// First wait after a lost connection; it doubles each time.
    pub retry_first: Duration,
    /// Longest wait between attempts, without jitter.
    pub retry_most: Duration,
    /// A connection that lasted this long was good: the next wait is the first again.
    pub good_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let [connect, answer, ping, good_after] = [20, 30, 30, 60].map(Duration::from_secs);
        let [retry_first, retry_most] = [1, 120].map(Duration::from_secs);
        Self { connect, answer, ping, retry_first, retry_most, good_after }
    }
}

/// What happened to a message. Live messages have no unread state; replies in threads are among them, after an update of their
/// parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// It was sent; possibly known already.
    Create(Box<Message>),
    /// It has a new version, which need not be an edit: compare `edited_at`, and ignore what isn't newer by `v`.
    Update(Box<Message>),
    /// A detail changed.
    Patch(MessagePatch),
    /// It was deleted.
    Remove(String),
}

/// What happened to the account's list of rooms. Hints only: ask by REST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomsOperation {
    /// Joined, or mentioned without being a member: see [`Room::is_member`].
    Create(Box<Room>),
    /// Settings changed; doesn't say whether one is a member.
    Update(Box<Room>),
    /// Topic, unread counts and the like changed.
    Patch(RoomPatch),
    /// Left, thrown out, banned, hidden or deleted.
    Remove(String),
}

/// What happened to a room's members. Hints only: who joins a room of more than 100 is not told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeopleOperation {
    /// Joined.
    Create(Box<User>),
    /// Their profile changed.
    Update(Box<User>),
    /// Left, was thrown out or banned.
    Remove(String),
}

/// What a connection tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Up and known to the server. Anything may have been missed before. Subscriptions follow.
    Connected,
    /// From here on the room's messages come; those before may have been missed. Comes again when the subscription was renewed.
    Subscribed {
        /// The room.
        room: String,
    },
    /// The server won't let this account read the room. Not asked again until the room was unwanted in between, the account
    /// joins or leaves it, or the connection is made anew.
    Refused {
        /// The room.
        room: String,
        /// As in HTTP: 403 no access, 404 no such room, 400 no id; 0 if the server gave none.
        status: u16,
        /// The server's words, at most 200 characters.
        message: String,
    },
    /// Something happened to a message.
    Chat {
        /// The room.
        room: String,
        /// What happened.
        operation: Operation,
    },
    /// Something happened to a room's members.
    People {
        /// The room.
        room: String,
        /// What happened.
        operation: PeopleOperation,
    },
    /// Something happened to the account's list of rooms.
    Rooms(RoomsOperation),
    /// Something was missed, or could not be understood, just before this.
    Gap {
        /// Where; in any of the rooms if absent.
        room: Option<String>,
    },
    /// Down, or still not up. Another attempt follows by itself.
    Disconnected {
        /// Why, for the log and for people who look after the bridge.
        reason: String,
    },
    /// The token is not good (any more). This was the last event.
    TokenRejected,
}

/// What a websocket runs over.
pub trait Line: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// Connects to the Faye server instead of the network: a simulation.
pub trait Dial: Send + Sync {
    /// A line to the server, on which nothing was said yet.
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn Line>>>;
}

/// How the Faye server is reached.
#[derive(Clone, Default)]
pub enum Dialler {
    /// By TCP, and TLS where the address says so.
    #[default]
    Network,
    /// As somebody else has it.
    Other(Arc<dyn Dial>),
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Network => "Network",
            Self::Other(_) => "Other",
        })
    }
}

/// Listens until `stop` is cancelled, `wanted` has no sender or `events` no receiver, or the token is refused.
///
/// The messages of all `wanted` rooms (Gitter room ids) are subscribed to, and always the account's list of rooms. When `events`
/// is full the connection waits, and so does the server. `rng` is for jitter.
pub async fn run<R: Rng + Send>(
    config: FayeConfig,
    wanted: watch::Receiver<BTreeSet<String>>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    rng: R,
    dialler: Dialler,
) {
    let mut url = config.url.clone();
    let scheme = if matches!(url.scheme(), "https" | "wss") { "wss" } else { "ws" };
    // Fails only for schemes that can't be dialled either; dialling then says so.
    let _ = url.set_scheme(scheme);
    let url = url.as_str();
    match dialler {
        Dialler::Network => {
            let dial = || async {
                let dialled =
                    tokio_tungstenite::connect_async_with_config(url, Some(bounds()), true);
                dialled.await.map(|(socket, _)| socket).map_err(|error| error.to_string())
            };
            run_on(&config, wanted, &events, &stop, rng, dial).await;
        }
        Dialler::Other(other) => {
            let dial = || async {
                let line = other.dial().await.map_err(|error| error.to_string())?;
                let met =
                    tokio_tungstenite::client_async_with_config(url, line, Some(bounds())).await;
                met.map(|(socket, _)| socket).map_err(|error| error.to_string())
            };
            run_on(&config, wanted, &events, &stop, rng, dial).await;
        }
    }
}

/// Each account has a connection, on which little is said: what is kept for it all the time is small. Messages may be longer.
const BUFFER: usize = 4 * 1024;

/// What the websocket layer accepts.
fn bounds() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .max_write_buffer_size(MAX_FRAME)
}

/// [`run`], over whatever `dial` connects to.
async fn run_on<S, D, F>(
    config: &FayeConfig,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
    mut rng: impl Rng + Send,
    dial: D,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Fn() -> F,
    F: Future<Output = Result<WebSocketStream<S>, String>>,
{
    let mut failures = 0_u32;
    loop {
        let began = Instant::now();
        let dialled = tokio::select! {
        biased;
            () = stop.cancelled() => return,
            () = events.closed() => return,
            dialled = tokio::time::timeout(config.timing.connect, dial()) => dialled,
        };
        let end = match dialled {
            Ok(Ok(socket)) => {
                Session::new(config, socket, events, stop, &mut rng).live(&mut wanted).await
            }
            Ok(Err(error)) => End::lost(format!("not connected: {error}")),
            Err(_) => End::lost("not connected in time"),
        };
        let (reason, advised) = match end {
            End::Stopped => return,
            End::TokenRejected => {
                tell(events, stop, Event::TokenRejected).await;
                return;
            }
            End::Lost { reason, advised } => (reason, advised),
        };
        failures = if began.elapsed() >= config.timing.good_after { 0 } else { failures + 1 };
        let wait = backoff(&config.timing, failures, &mut rng).max(advised.min(MAX_ADVICE));
        tracing::debug!(reason, wait_ms = wait.as_millis(), "live events interrupted");
        if !tell(events, stop, Event::Disconnected { reason }).await {
            return;
        }
        tokio::select! {
        biased;
            () = stop.cancelled() => return,
            () = events.closed() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Tells an event when there is room for it; false if nobody listens (any more).
async fn tell(events: &mpsc::Sender<Event>, stop: &CancellationToken, event: Event) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        sent = events.send(event) => sent.is_ok(),
    }
}

/// Doubling from the first wait to the longest, each half to one and a half times as long.
fn backoff(timing: &Timing, failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = timing.retry_first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(timing.retry_most).mul_f64(rng.random_range(0.5..1.5))
}

#[cfg(test)]
mod tests;
