//! What the homeserver sends to the appservice: transactions, queries, pings.
//!
//! One transaction at a time, up to 100 events each; one that fails makes the appservice "down", and from then on every batch is
//! stored and repeated after 2, 4, 8, … 512 seconds until it is taken. Synapse's `appservice/scheduler.py`.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::World;
use crate::http::{Reply, encode};
use crate::state::State;

const BATCH: usize = 100;
/// How long the homeserver waits for the appservice.
const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_BACKOFF: u32 = 9;
const ANSWER_MAX: usize = 1 << 20;

/// Why the appservice gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// Nobody listens.
    Refused,
    /// The connection was lost.
    Reset,
}

/// An answer of the appservice to come; one that never comes is given up after 60 seconds.
pub type AppserviceAnswer = Pin<Box<dyn Future<Output = Result<Response<Body>, CallError>> + Send>>;

/// How the homeserver reaches the appservice.
pub type Appservice = Arc<dyn Fn(Request<Body>) -> AppserviceAnswer + Send + Sync>;

/// A connection to the appservice, until it is cut.
#[derive(Clone)]
struct Link {
    service: Appservice,
    cut: CancellationToken,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

/// What an event is found by: its room and id.
type Place = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Push {
    link: Option<Link>,
    /// There are events to look at.
    pub(crate) news: Arc<Notify>,
    /// There is something to send.
    kick: Arc<Notify>,
    /// A transaction has failed.
    failed: Arc<Notify>,
    /// The appservice is there again.
    retry: Arc<Notify>,
    /// Taken from the stream, not in the queue yet.
    looking: VecDeque<Place>,
    queue: VecDeque<Place>,
    ephemeral: VecDeque<Value>,
    /// On disk: transactions not taken yet.
    stored: BTreeMap<u64, Vec<Place>>,
    last_txn: u64,
    /// On disk: whether the appservice is taken to be down.
    down: bool,
    /// Whether this process has seen an event for the appservice; before, it repeats nothing.
    awake: bool,
    /// Transactions taken, in order: id and events.
    pub(crate) taken: u64,
}

impl Push {
    /// A new process: transaction ids go on from what is stored, on `SQLite`; only what is on disk is left.
    pub(crate) fn reboot(&mut self) {
        self.last_txn = self.stored.keys().next_back().copied().unwrap_or(0);
        self.looking.clear();
        self.queue.clear();
        self.ephemeral.clear();
        self.awake = false;
    }

    /// What was not handed over to the appservice.
    pub(crate) fn pending(&self) -> usize {
        let stored: usize = self.stored.values().map(Vec::len).sum();
        self.looking.len() + self.queue.len() + stored
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down
    }

    pub(crate) fn connect(&mut self, service: Option<Appservice>) {
        if let Some(link) = self.link.take() {
            link.cut.cancel();
        }
        self.link = service.map(|service| Link { service, cut: CancellationToken::new() });
    }

    pub(crate) fn tell(&mut self, ephemeral: Value) {
        self.ephemeral.push_back(ephemeral);
        self.kick.notify_one();
    }
}

impl State {
    /// Spares what this process had in memory: without Synapse's flaws a restart loses nothing.
    pub(crate) fn requeue(&mut self) {
        let looking = std::mem::take(&mut self.push.looking);
        let queue = std::mem::take(&mut self.push.queue);
        for place in looking.into_iter().rev().chain(queue.into_iter().rev()) {
            self.stream.push_front(place);
        }
        // The one under way is repeated as after a failure.
        self.push.down |= !self.push.stored.is_empty();
    }

    fn sent_event(&self, (room, id): &Place) -> Option<&crate::Event> {
        self.rooms.get(room).or_else(|| self.purged.get(room))?.event(id)
    }

    /// Whether the appservice is told of an event: it has a user in the room now, or is its sender or subject.
    fn concerns(&self, place: &Place) -> bool {
        let Some(event) = self.sent_event(place) else { return false };
        let inside = self.rooms.get(&place.0);
        if inside.is_some_and(|room| !room.is_shown(event)) {
            return false;
        }
        self.owns(&event.sender)
            || event.kind == "m.room.member"
                && event.state_key.as_deref().is_some_and(|user| self.owns(user))
            || inside.is_some_and(|room| room.joined().any(|user| self.owns(user)))
    }

    /// Users of the namespace named by an event that nobody has registered.
    fn unknown_users(&self, place: &Place) -> Vec<String> {
        let Some(event) = self.sent_event(place) else { return Vec::new() };
        let target = event.state_key.clone().filter(|_| event.kind == "m.room.member");
        let named = [Some(event.sender.clone()), target].into_iter().flatten();
        let known = |user: &String| self.users.get(user).is_some_and(|user| user.registered);
        named.filter(|user| self.owns(user) && *user != self.bot() && !known(user)).collect()
    }

    fn transaction(&self, places: &[Place], ephemeral: &[Value]) -> Value {
        let events: Vec<Value> = places
            .iter()
            .filter_map(|place| {
                let event = self.sent_event(place)?;
                let room = self.rooms.get(&place.0).or_else(|| self.purged.get(&place.0))?;
                let redaction = event.redacted_by.as_ref().and_then(|id| room.event(id));
                Some(event.pushed(self.now(), redaction))
            })
            .collect();
        json!({"events": events, "ephemeral": ephemeral, "de.sorunome.msc2409.to_device": []})
    }
}

/// Looks at new events, sends, and repeats, until it is aborted.
pub(crate) async fn run(world: World) {
    tokio::join!(look(&world), deliver(&world), recover(&world));
}

/// Reads the stream of events and queues what concerns the appservice.
async fn look(world: &World) {
    let news = world.lock().push.news.clone();
    loop {
        news.notified().await;
        loop {
            let delay = {
                let mut state = world.lock();
                let range = state.cfg.push_delay_ms.clone();
                state.ids.delay(&range)
            };
            sleep(Duration::from_millis(delay)).await;
            {
                let mut state = world.lock();
                let count = state.stream.len().min(BATCH);
                let chunk: Vec<Place> = state.stream.drain(..count).collect();
                // Synapse goes room by room.
                let mut order: Vec<String> = Vec::new();
                for (room, _) in &chunk {
                    if !order.contains(room) {
                        order.push(room.clone());
                    }
                }
                for room in order {
                    let of_room = chunk.iter().filter(|place| place.0 == room).cloned();
                    state.push.looking.extend(of_room);
                }
                if state.push.looking.is_empty() {
                    break;
                }
            }
            while queue_next(world).await {}
        }
    }
}

/// Queues the next event that was looked at; false when there is none.
async fn queue_next(world: &World) -> bool {
    let unknown = {
        let mut state = world.lock();
        let Some(place) = state.push.looking.front().cloned() else { return false };
        if !state.concerns(&place) {
            state.push.looking.pop_front();
            return true;
        }
        state.unknown_users(&place)
    };
    for user in unknown {
        let path = format!("/_matrix/app/v1/users/{}", encode(&user));
        // Whatever the answer, the event goes out; only waiting for it holds everything up.
        let _ = call(world, Method::GET, &path, None).await;
    }
    let mut state = world.lock();
    let push = &mut state.push;
    if !push.awake {
        push.awake = true;
        if push.down {
            push.failed.notify_one();
        }
    }
    if let Some(place) = push.looking.pop_front() {
        push.queue.push_back(place);
        push.kick.notify_one();
    }
    true
}

/// Sends what is queued, or stores it while the appservice is down.
async fn deliver(world: &World) {
    let kick = world.lock().push.kick.clone();
    loop {
        kick.notified().await;
        loop {
            let (events, ephemeral, was_down, flaws) = {
                let mut state = world.lock();
                let flaws = state.cfg.flaws;
                let push = &mut state.push;
                let count = push.queue.len().min(BATCH);
                let events: Vec<Place> = push.queue.drain(..count).collect();
                let count = push.ephemeral.len().min(BATCH);
                let ephemeral: Vec<Value> = push.ephemeral.drain(..count).collect();
                (events, ephemeral, push.down, flaws)
            };
            if events.is_empty() && ephemeral.is_empty() {
                break;
            }
            if was_down && events.is_empty() {
                continue;
            }
            if flaws {
                // Between reading that it is down and storing, it may come up: what is stored then is forgotten until the
                // next failure.
                sleep(Duration::from_millis(2)).await;
            }
            let txn = {
                let push = &mut world.lock().push;
                push.last_txn += 1;
                push.stored.insert(push.last_txn, events.clone());
                push.last_txn
            };
            if was_down {
                continue;
            }
            if send(world, txn, &events, &ephemeral).await {
                world.lock().push.stored.remove(&txn);
            } else {
                let push = &mut world.lock().push;
                if !push.down {
                    push.down = true;
                    push.failed.notify_one();
                }
            }
        }
    }
}

/// Repeats what is stored, with growing pauses, until nothing is left.
async fn recover(world: &World) {
    let (failed, retry) = {
        let push = &world.lock().push;
        (push.failed.clone(), push.retry.clone())
    };
    loop {
        failed.notified().await;
        let mut backoff = 1;
        while world.lock().push.down {
            tokio::select! {
                biased;
                () = retry.notified() => {}
                () = sleep(Duration::from_secs(1 << backoff)) => {}
            }
            loop {
                let oldest = {
                    let push = &mut world.lock().push;
                    let oldest = push.stored.first_key_value().map(|(id, e)| (*id, e.clone()));
                    push.down = oldest.is_some();
                    oldest
                };
                let Some((txn, events)) = oldest else { break };
                // A ping does not wait for an attempt that hangs: Synapse begins another beside it.
                let sent = loop {
                    tokio::select! {
                        biased;
                        () = retry.notified() => {}
                        sent = send(world, txn, &events, &[]) => break sent,
                    }
                };
                if !sent {
                    backoff = (backoff + 1).min(LONGEST_BACKOFF);
                    break;
                }
                world.lock().push.stored.remove(&txn);
                backoff = 1;
            }
        }
    }
}

/// Sends one transaction; true when it was taken.
async fn send(world: &World, txn: u64, events: &[Place], ephemeral: &[Value]) -> bool {
    let body = world.lock().transaction(events, ephemeral);
    let path = format!("/_matrix/app/v1/transactions/{txn}");
    let answer = call(world, Method::PUT, &path, Some(&body)).await;
    let taken = matches!(&answer, Answer::Given(200..300, body)
        if serde_json::from_slice::<Value>(body).is_ok());
    tracing::trace!(txn, events = events.len(), taken, "transaction");
    world.lock().push.taken += u64::from(taken);
    taken
}

enum Answer {
    Given(u16, Vec<u8>),
    Failed(CallError),
    Late,
}

/// Calls the appservice over the connection there is.
async fn call(world: &World, method: Method, path: &str, body: Option<&Value>) -> Answer {
    let (link, token) = {
        let state = world.lock();
        (state.push.link.clone(), state.cfg.hs_token.clone())
    };
    let Some(Link { service, cut }) = link else { return Answer::Failed(CallError::Refused) };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://appservice{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::USER_AGENT, "Synapse/1.163.2")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
    let Ok(request) = request else { return Answer::Failed(CallError::Reset) };
    let answer = async {
        let response = service(request).await?;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), ANSWER_MAX).await;
        Ok((status, body.map_err(|_| CallError::Reset)?.to_vec()))
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => Answer::Failed(CallError::Reset),
        answer = timeout(PATIENCE, answer) => match answer {
            Ok(Ok((status, body))) => Answer::Given(status, body),
            Ok(Err(error)) => Answer::Failed(error),
            Err(_) => Answer::Late,
        },
    }
}

/// Calls the appservice's ping; success makes what is stored be sent at once.
pub(crate) async fn ping(world: &World, txn: Value) -> Reply {
    let began = Instant::now();
    let body = if txn.is_null() { json!({}) } else { json!({"transaction_id": txn}) };
    let refused = |status, code: &str, words: String| {
        Reply::json(status, &json!({"errcode": code, "error": words}))
    };
    match call(world, Method::POST, "/_matrix/app/v1/ping", Some(&body)).await {
        Answer::Given(200..300, body) if serde_json::from_slice::<Value>(&body).is_ok() => {
            world.lock().push.retry.notify_waiters();
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            Reply::ok(&json!({"duration_ms": took}))
        }
        Answer::Given(status, body) => Reply::json(
            502,
            &json!({"errcode": "M_BAD_STATUS", "error": format!("HTTP {status}"),
                "status": status, "body": String::from_utf8_lossy(&body)}),
        ),
        Answer::Failed(error) => {
            let words = match error {
                CallError::Refused => "ConnectionRefusedError: Connection refused",
                CallError::Reset => "ResponseNeverReceived: connection lost",
            };
            refused(502, "M_CONNECTION_FAILED", words.to_owned())
        }
        Answer::Late => refused(504, "M_CONNECTION_TIMEOUT", "Timed out".to_owned()),
    }
}
