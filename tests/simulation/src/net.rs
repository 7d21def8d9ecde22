//! The network between the bridge, the homeserver and Gitter: it delays, loses, refuses, and tells the history.
//!
//! A request runs in a task of its own at the side of who is asked: that the asker gives up, or dies, does not stop it.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{self, HeaderMap, HeaderValue, Method, StatusCode},
};
use futures_util::future::BoxFuture;
use matrix_gitter::{
    gitter::faye::{Dial, Line},
    http::{Transport, Unanswered},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use crate::{history::History, life::Life, time::Time};

/// By so much answers may differ in when a window of Gitter's limit ends.
const SAME_WINDOW: Duration = Duration::from_secs(2);
/// Patience of a request that says nothing of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Who is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The bridge calls the homeserver.
    Homeserver,
    /// The bridge calls Gitter.
    Gitter,
    /// The homeserver calls the bridge.
    Bridge,
}

impl Side {
    const ALL: [Self; 3] = [Self::Homeserver, Self::Gitter, Self::Bridge];

    fn name(self) -> &'static str {
        match self {
            Self::Homeserver => "homeserver",
            Self::Gitter => "gitter",
            Self::Bridge => "bridge",
        }
    }
}

/// How a side cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Connections are refused.
    Refused,
    /// Nothing is answered.
    Silent,
    /// A proxy says that nobody is there.
    Proxy,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is lost on the way there.
    ResetBefore,
    /// The connection is lost on the way back.
    ResetAfter,
    /// No answer, and no effect.
    SilentBefore,
    /// No answer, but the effect.
    SilentAfter,
    /// Up to twelve seconds pass before the effect.
    Slow,
    /// The effect comes after the asker gave up.
    Late,
    /// The connection is lost on the way there, and the effect comes all the same, at any time before an asker would have given up.
    Adrift,
    /// 429, with a hint of any kind or none.
    Limited,
    /// This status, and no effect.
    Status(u16),
    /// This status, but the effect.
    StatusAfter(u16),
    /// A proxy's page.
    Html,
    /// The answer breaks off.
    HalfBody,
    /// The request comes twice.
    Twice,
}

impl Trouble {
    /// What any request may meet with.
    pub(crate) fn kinds(status: u16) -> [Self; 13] {
        [
            Self::ResetBefore,
            Self::ResetAfter,
            Self::SilentBefore,
            Self::SilentAfter,
            Self::Slow,
            Self::Slow,
            Self::Late,
            Self::Adrift,
            Self::Limited,
            Self::Status(status),
            Self::StatusAfter(status),
            Self::Html,
            Self::HalfBody,
        ]
    }

    fn name(self) -> &'static str {
        match self {
            Self::ResetBefore => "reset before the effect",
            Self::ResetAfter => "reset after the effect",
            Self::SilentBefore => "no answer, no effect",
            Self::SilentAfter => "no answer, but the effect",
            Self::Slow => "slow answer",
            Self::Late => "effect after the asker gave up",
            Self::Adrift => "reset, and the effect later",
            Self::Limited => "429",
            Self::Status(_) => "5xx",
            Self::StatusAfter(_) => "5xx after the effect",
            Self::Html => "a proxy's page",
            Self::HalfBody => "half an answer",
            Self::Twice => "request carried twice",
        }
    }
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    time: Time,
    history: History,
    homeserver: Router,
    gitter: gitter_sim::World,
    door: gitter_sim::Door,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    /// Share of requests that go wrong, by side, in thousandths.
    trouble: [u32; 3],
    /// What goes wrong then; `None` for anything.
    only: [Option<Trouble>; 3],
    /// It goes wrong only with what would change something.
    looks_well: [bool; 3],
    outage: [Option<Outage>; 3],
    life: Option<Life>,
    /// Calls of the bridge that changed something or tried to, by side.
    changes: [u64; 3],
    calls: [u64; 3],
    /// How often another bridge, or none, was put in place.
    lives: u64,
    /// The homeserver has told the bridge that lives now that it reaches it.
    pinged: bool,
    /// Connections to Gitter's live interface that were asked for.
    dialled: u64,
    /// Refusals by Gitter's own limit since the bridge that lives now began.
    limited: u64,
    /// Until when Gitter wants no more calls with a token, and since when the bridge knows.
    told_to_wait: BTreeMap<Vec<u8>, (Instant, Instant)>,
    /// When the bridge first took each event.
    delivered: BTreeMap<String, u64>,
    /// What it began to do to memberships, and when.
    deeds: Vec<(u64, Deed)>,
}

/// A call of the bridge about who is where.
#[derive(Debug, Clone)]
pub enum Deed {
    /// Somebody is invited to a Matrix room.
    Invite {
        /// Which.
        room: String,
        /// Who.
        user: String,
    },
    /// Somebody leaves a room on Gitter.
    Leave {
        /// Which.
        room: String,
        /// Who, by id.
        user: String,
    },
}

impl Deed {
    fn of(request: &http::Request<Bytes>) -> Option<Self> {
        let path = request.uri().path();
        let path = path.replace("%40", "@").replace("%3A", ":").replace("%21", "!");
        let parts: Vec<&str> = path.split('/').collect();
        match (request.method().as_str(), &*parts) {
            ("POST", [.., "rooms", room, "invite"]) => {
                let body: serde_json::Value = serde_json::from_slice(request.body()).ok()?;
                let user = body["user_id"].as_str()?.to_owned();
                Some(Self::Invite { room: (*room).to_owned(), user })
            }
            ("DELETE", [.., "rooms", room, "users", user]) => {
                Some(Self::Leave { room: (*room).to_owned(), user: (*user).to_owned() })
            }
            _ => None,
        }
    }
}

impl Net {
    /// A network in which nothing goes wrong yet.
    #[must_use]
    pub fn new(
        time: Time,
        history: History,
        homeserver: Router,
        gitter: gitter_sim::World,
        door: gitter_sim::Door,
        seed: u64,
    ) -> Self {
        let state = Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            trouble: [0; 3],
            only: [None; 3],
            looks_well: [false; 3],
            outage: [None; 3],
            life: None,
            changes: [0; 3],
            calls: [0; 3],
            lives: 0,
            pinged: false,
            dialled: 0,
            limited: 0,
            told_to_wait: BTreeMap::new(),
            delivered: BTreeMap::new(),
            deeds: Vec::new(),
        });
        Self(Arc::new(Inner { time, history, homeserver, gitter, door, state }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge that is reached from now on.
    pub fn set_life(&self, life: Option<Life>) {
        let mut state = self.lock();
        // Who begins to live knows of no earlier refusal.
        state.told_to_wait.clear();
        (state.limited, state.pinged) = (0, false);
        state.lives += 1;
        state.life = life;
    }

    /// Share of requests to a side that go wrong, in thousandths.
    pub fn set_trouble(&self, side: Side, thousandths: u32) {
        let mut state = self.lock();
        let n = side as usize;
        (state.trouble[n], state.only[n], state.looks_well[n]) = (thousandths, None, false);
    }

    /// As [`Self::set_trouble`], with the same trouble each time.
    pub fn set_plague(&self, side: Side, trouble: Trouble, thousandths: u32) {
        let mut state = self.lock();
        let n = side as usize;
        (state.trouble[n], state.only[n], state.looks_well[n]) =
            (thousandths, Some(trouble), false);
    }

    /// From now on a side can be asked for anything, and each call that would change something meets with this.
    pub fn set_paralysis(&self, side: Side, trouble: Trouble) {
        self.set_plague(side, trouble, 1000);
        self.lock().looks_well[side as usize] = true;
    }

    /// Begins or ends an outage of a side.
    pub fn set_outage(&self, side: Side, outage: Option<Outage>) {
        self.lock().outage[side as usize] = outage;
    }

    /// Ends all trouble.
    pub fn heal(&self) {
        let mut state = self.lock();
        (state.trouble, state.only, state.outage) = ([0; 3], [None; 3], [None; 3]);
        state.looks_well = [false; 3];
    }

    /// How many calls of the bridge so far were to change something.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let state = self.lock();
        Side::ALL[..2].iter().map(|side| state.changes[*side as usize]).sum()
    }

    /// All calls so far, of all sides.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls.iter().sum()
    }

    /// Calls of the bridge so far, to the homeserver and to Gitter.
    #[must_use]
    pub fn calls_made(&self) -> [u64; 2] {
        let calls = self.lock().calls;
        [Side::Homeserver, Side::Gitter].map(|side| calls[side as usize])
    }

    /// How often the bridge so far asked for something without changing it, or for a live connection.
    #[must_use]
    pub fn looks(&self) -> u64 {
        let state = self.lock();
        let made = |side: &Side| state.calls[*side as usize] - state.changes[*side as usize];
        Side::ALL[..2].iter().map(made).sum::<u64>() + state.dialled
    }

    /// How often Gitter's own limit has refused a call of the bridge that lives now.
    #[must_use]
    pub fn limited(&self) -> u64 {
        self.lock().limited
    }

    /// Whether the homeserver has told the bridge that lives now that it reaches it.
    #[must_use]
    pub fn is_pinged(&self) -> bool {
        self.lock().pinged
    }

    /// When the bridge took an event; `None` when it did not.
    #[must_use]
    pub fn delivered(&self, event: &str) -> Option<u64> {
        self.lock().delivered.get(event).copied()
    }

    /// What the bridge began to do to memberships, and when.
    #[must_use]
    pub fn deeds(&self) -> Vec<(u64, Deed)> {
        self.lock().deeds.clone()
    }

    fn wait(&self, ms: Range<u64>) -> BoxFuture<'static, ()> {
        let ms = self.lock().rng.random_range(ms);
        Box::pin(sleep(Duration::from_millis(ms)))
    }

    /// What goes wrong with the next request to a side.
    fn draw(&self, side: Side, method: &Method) -> Option<Trouble> {
        let mut state = self.lock();
        let thousandths = state.trouble[side as usize];
        if state.looks_well[side as usize] && *method == Method::GET {
            return None;
        }
        if state.rng.random_range(0..1000) >= thousandths {
            return None;
        }
        if let Some(trouble) = state.only[side as usize] {
            return Some(trouble);
        }
        let status = [500, 502, 503, 504][state.rng.random_range(0..4)];
        let mut kinds = Trouble::kinds(status).to_vec();
        // What a proxy may repeat; and the homeserver's transactions, which it repeats itself.
        if side == Side::Bridge || matches!(*method, Method::GET | Method::PUT | Method::DELETE) {
            kinds.push(Trouble::Twice);
        }
        Some(kinds[state.rng.random_range(0..kinds.len())])
    }

    /// Carries a request to `side` and its answer back.
    async fn carry_to(
        &self,
        side: Side,
        request: http::Request<Bytes>,
        patience: Duration,
    ) -> Result<http::Response<Bytes>, Unanswered> {
        let what = format!("{} {}", request.method(), shown_path(request.uri()));
        let lives = {
            let mut state = self.lock();
            state.calls[side as usize] += 1;
            if *request.method() != Method::GET {
                state.changes[side as usize] += 1;
            }
            let deed = Deed::of(&request).filter(|_| side != Side::Bridge);
            state.deeds.extend(deed.map(|deed| (self.0.time.now(), deed)));
            state.lives
        };
        let is_ping = side == Side::Homeserver && request.uri().path().ends_with("/ping");
        let token = request.headers().get(http::header::AUTHORIZATION).cloned();
        // A login learns only by its call who it is that it logs in.
        let token = token.filter(|_| side == Side::Gitter && request.uri().path() != "/v1/user/me");
        if let Some(token) = &token {
            self.check_wait(token, &what);
        }
        let trouble = self.draw(side, request.method());
        let net = self.clone();
        // At the other side.
        let work = tokio::spawn(async move { net.serve(side, request, trouble, &what).await });
        match timeout(patience, work).await {
            Ok(Ok(end)) => {
                let reached = end.as_ref().is_ok_and(|answer| answer.status() == StatusCode::OK);
                let mut state = self.lock();
                state.pinged |= is_ping && reached && state.lives == lives;
                drop(state);
                if let (Some(token), Ok(answer)) = (&token, &end)
                    && self.lock().lives == lives
                {
                    self.note_wait(token, answer);
                }
                end
            }
            // The task is never ended before the simulation is.
            Ok(Err(_)) => Err(lost("the connection broke", true, false)),
            Err(_) => Err(lost("no answer in time", true, true)),
        }
    }

    /// Carries a request of the bridge to where it wants to go.
    async fn carry_out(
        &self,
        request: &reqwest::Request,
    ) -> Result<http::Response<Bytes>, Unanswered> {
        let patience = request.timeout().copied().unwrap_or(PATIENCE);
        let side = match request.url().host_str() {
            Some(crate::life::HOMESERVER_HOST) => Side::Homeserver,
            _ => Side::Gitter,
        };
        self.carry_to(side, http_request(request), patience).await
    }

    /// After a refusal that says how long to wait, and after the last call that was allowed, nothing may come before that is over.
    fn check_wait(&self, token: &HeaderValue, what: &str) {
        let now = Instant::now();
        let told = self.lock().told_to_wait.get(token.as_bytes()).copied();
        // What goes out in the moment of the refusal can't know of it.
        if let Some((since, until)) = told.filter(|(since, until)| *since < now && now < *until) {
            let (early, after) = (until - now, now - since);
            let (early, after) = (early.as_millis(), after.as_millis());
            self.0.history.violation(format!(
                "{what} comes {early} ms before Gitter wants to hear of it, {after} ms after it said so"
            ));
        }
    }

    fn note_wait(&self, token: &HeaderValue, answer: &http::Response<Bytes>) {
        let number = |name: &str| answer.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
        let refused = answer.status() == StatusCode::TOO_MANY_REQUESTS;
        if !refused && number("x-ratelimit-remaining") != Some(0) {
            return;
        }
        let left = |reset: u64| Duration::from_millis(reset.saturating_sub(self.0.time.now()));
        let asked = number("retry-after").map(Duration::from_secs).filter(|_| refused);
        let Some(wait) = asked.or_else(|| number("x-ratelimit-reset").map(left)) else { return };
        let now = Instant::now();
        let told = &mut self.lock().told_to_wait;
        if refused {
            told.insert(token.as_bytes().to_vec(), (now, now + wait));
        } else {
            // The last call of a window: the end of it is known to the second only, and earlier answers may have told another.
            let until = now + wait.saturating_sub(SAME_WINDOW);
            let known = told.entry(token.as_bytes().to_vec()).or_insert((now, until));
            if known.1 < until {
                *known = (now, until);
            }
        }
    }

    async fn serve(
        &self,
        side: Side,
        request: http::Request<Bytes>,
        trouble: Option<Trouble>,
        what: &str,
    ) -> Result<http::Response<Bytes>, Unanswered> {
        let history = &self.0.history;
        let name = side.name();
        self.wait(1..20).await;
        let outage = self.lock().outage[side as usize];
        match outage {
            None => {}
            Some(Outage::Refused) => return Err(lost("connection refused", false, false)),
            Some(Outage::Silent) => return std::future::pending().await,
            Some(Outage::Proxy) => return Ok(page(StatusCode::BAD_GATEWAY)),
        }
        if let Some(trouble) = trouble {
            history.fault(trouble.name(), format!("to the {name}: {what}"));
        }
        // Just after the asker gave up: of what lands much later nobody could know.
        let late = if side == Side::Gitter { 30_000..34_000 } else { 60_000..64_000 };
        match trouble {
            Some(Trouble::ResetBefore) => return Err(lost("connection reset", true, false)),
            Some(Trouble::SilentBefore) => return std::future::pending().await,
            Some(Trouble::Limited) => return Ok(self.limit(side)),
            Some(Trouble::Status(status)) => return Ok(error(status)),
            Some(Trouble::Html) => return Ok(page(StatusCode::BAD_GATEWAY)),
            Some(Trouble::Slow) => self.wait(50..12_000).await,
            Some(Trouble::Late) => self.wait(late).await,
            Some(Trouble::Adrift) => {
                let (net, what) = (self.clone(), what.to_owned());
                tokio::spawn(async move {
                    net.wait(0..late.start).await;
                    let _ = net.answer(side, request, &what).await;
                });
                return Err(lost("connection reset", true, false));
            }
            Some(Trouble::Twice) => {
                let _ = self.answer(side, request.clone(), what).await;
                self.wait(1..500).await;
            }
            _ => {}
        }
        let answer = self.answer(side, request, what).await;
        match trouble {
            Some(Trouble::ResetAfter) => Err(lost("connection reset", true, false)),
            Some(Trouble::SilentAfter) => std::future::pending().await,
            Some(Trouble::StatusAfter(status)) => Ok(error(status)),
            Some(Trouble::HalfBody) => {
                let mut answer = answer?;
                let half = answer.body().len() / 2;
                answer.headers_mut().remove(http::header::CONTENT_LENGTH);
                *answer.body_mut() = answer.body().slice(..half);
                answer.extensions_mut().insert(BreaksOff);
                Ok(answer)
            }
            _ => {
                self.wait(1..20).await;
                answer
            }
        }
    }

    /// What the side itself makes of a request.
    async fn answer(
        &self,
        side: Side,
        request: http::Request<Bytes>,
        what: &str,
    ) -> Result<http::Response<Bytes>, Unanswered> {
        let sent = (side == Side::Bridge).then(|| request.body().clone());
        let said = said(request.body());
        let request = request.map(Body::from);
        let answer = match side {
            Side::Homeserver => {
                let answer = self.0.homeserver.clone().oneshot(request).await;
                let answer = answer.unwrap_or_else(|never| match never {});
                if let Some(gone) = homeserver_sim::Lost::of(&answer) {
                    return Err(lost("connection reset", !gone.never_arrived, false));
                }
                answer
            }
            Side::Gitter => self.0.gitter.call(request).await.map_err(|why| match why {
                gitter_sim::NoAnswer::Down => lost("connection refused", false, false),
                gitter_sim::NoAnswer::Cut => lost("connection reset", true, false),
            })?,
            Side::Bridge => {
                let life = self.lock().life.clone();
                let Some(life) = life else {
                    return Err(lost("connection refused", false, false));
                };
                life.hear(request).await.ok_or_else(|| lost("connection reset", true, false))?
            }
        };
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await;
        let body = body.map_err(|_| lost("the answer broke off", true, false))?;
        let status = parts.status.as_u16();
        if let Some(sent) = sent.filter(|_| status == 200) {
            let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap_or_default();
            let now = self.0.time.now();
            for event in sent["events"].as_array().into_iter().flatten() {
                let id = event["event_id"].as_str().unwrap_or_default().to_owned();
                self.lock().delivered.entry(id).or_insert(now);
            }
        }
        if side == Side::Gitter && status == 429 {
            self.lock().limited += 1;
        }
        let words = if parts.status.is_client_error() {
            String::from_utf8_lossy(&body[..body.len().min(160)]).into_owned()
        } else {
            String::new()
        };
        self.0.history.note(format!("{} <- {what}{said} = {status} {words}", side.name()));
        Ok(http::Response::from_parts(parts, body))
    }

    /// A limit, with a hint of any kind or none.
    fn limit(&self, side: Side) -> http::Response<Bytes> {
        let mut state = self.lock();
        let wait: u64 = state.rng.random_range(1..30);
        let hint = state.rng.random_range(0..4);
        let mut answer = error(429);
        let now = self.0.time.now();
        let headers = answer.headers_mut();
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        };
        match (side, hint) {
            (_, 0) => set("retry-after", wait.to_string()),
            (Side::Gitter, 1) => {
                set("x-ratelimit-remaining", "0".to_owned());
                set("x-ratelimit-reset", (now + wait * 1000).to_string());
                set("date", date(now));
            }
            (_, 1) => {
                let ms = wait * 1000;
                let body = format!(
                    r#"{{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":{ms}}}"#
                );
                *answer.body_mut() = body.into();
            }
            (_, 2) => set("retry-after", "soon".to_owned()),
            _ => {}
        }
        answer
    }

    /// How the homeserver reaches the bridge.
    #[must_use]
    pub fn to_bridge(&self) -> homeserver_sim::Appservice {
        let net = self.clone();
        Arc::new(move |request| {
            let net = net.clone();
            Box::pin(async move {
                let request = read(request).await;
                let end = net.carry_to(Side::Bridge, request, PATIENCE).await;
                end.map(|answer| answer.map(Body::from)).map_err(|why| {
                    if why.maybe_done() {
                        homeserver_sim::CallError::Reset
                    } else {
                        homeserver_sim::CallError::Refused
                    }
                })
            })
        })
    }

    /// How a person's browser reaches the bridge and Gitter.
    pub async fn browse(&self, request: http::Request<Bytes>) -> Option<http::Response<Bytes>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let what = format!("browser {} {}", request.method(), shown_path(request.uri()));
        let request = request.map(Body::from);
        let answer = if host == crate::life::LOGIN_HOST {
            let life = self.lock().life.clone()?;
            life.browse(request).await?
        } else {
            self.0.gitter.call(request).await.ok()?
        };
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.ok()?;
        self.0.history.note(format!("{what} = {}", parts.status.as_u16()));
        Some(http::Response::from_parts(parts, body))
    }
}

/// What one life of the bridge has of the network: it ends with it.
pub struct Outlet {
    /// The network.
    pub net: Net,
    /// Whose.
    pub life: Life,
}

impl Transport for Outlet {
    fn carry(
        &self,
        request: reqwest::Request,
    ) -> BoxFuture<'static, Result<reqwest::Response, Unanswered>> {
        let (net, life) = (self.net.clone(), self.life.clone());
        Box::pin(async move {
            life.point("before a call").await;
            let end = net.carry_out(&request).await;
            life.point("after a call").await;
            let answer = end?;
            let breaks_off = answer.extensions().get::<BreaksOff>().is_some();
            Ok(reqwest::Response::from(answer.map(|bytes| {
                if !breaks_off {
                    return reqwest::Body::from(bytes);
                }
                let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                let parts = [Ok(bytes), Err(broken)];
                reqwest::Body::wrap_stream(futures_util::stream::iter(parts))
            })))
        })
    }
}

/// What a command beside the bridge has of the network.
pub struct Errand(pub Net);

impl Transport for Errand {
    fn carry(
        &self,
        request: reqwest::Request,
    ) -> BoxFuture<'static, Result<reqwest::Response, Unanswered>> {
        let net = self.0.clone();
        Box::pin(async move {
            let answer = net.carry_out(&request).await?;
            Ok(reqwest::Response::from(answer.map(reqwest::Body::from)))
        })
    }
}

impl Dial for Outlet {
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Box<dyn Line>>> {
        let (net, life) = (self.net.clone(), self.life.clone());
        Box::pin(async move {
            life.point("before dialling").await;
            net.lock().dialled += 1;
            net.wait(1..50).await;
            let outage = net.lock().outage[Side::Gitter as usize];
            match outage {
                Some(Outage::Silent) => std::future::pending().await,
                Some(_) => Err(std::io::ErrorKind::ConnectionRefused.into()),
                None => {
                    let line = net.0.door.connect()?;
                    Ok(Box::new(life.until_death(line)) as Box<dyn Line>)
                }
            }
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct BreaksOff;

fn lost(what: &'static str, maybe_done: bool, timed_out: bool) -> Unanswered {
    Unanswered::Other { what, maybe_done, timed_out }
}

/// What a request says in words, for the history: up to a link, which is another each time.
fn said(body: &Bytes) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = ["text", "body"].iter().find_map(|key| body[key].as_str());
    text.map_or_else(String::new, |text| {
        let text = text.split("?link=").next().unwrap_or_default();
        format!(" {:?}", text.chars().take(100).collect::<String>())
    })
}

fn error(status: u16) -> http::Response<Bytes> {
    let mut answer = http::Response::new(Bytes::from_static(b"{}"));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    answer
}

fn page(status: StatusCode) -> http::Response<Bytes> {
    let mut answer = error(status.as_u16());
    *answer.body_mut() = Bytes::from_static(b"<html><h1>502 Bad Gateway</h1></html>");
    answer
}

fn date(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(0);
    let now = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The path and what of the query matters to a reader; no tokens.
fn shown_path(uri: &http::Uri) -> String {
    let path = uri.path();
    let path = path.strip_prefix("/_matrix/client/v3").unwrap_or(path);
    let mut text = path.replace("%40", "@").replace("%3A", ":").replace("%21", "!");
    let told = ["user_id=", "afterId=", "beforeId=", "from=", "skip="];
    for part in uri.query().unwrap_or_default().split('&') {
        if told.iter().any(|name| part.starts_with(name)) {
            text += " ";
            text += &part.replace("%40", "@").replace("%3A", ":");
        }
    }
    text
}

pub(crate) fn http_request(request: &reqwest::Request) -> http::Request<Bytes> {
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let mut made = http::Request::new(Bytes::copy_from_slice(body));
    *made.method_mut() = request.method().clone();
    if let Ok(uri) = request.url().as_str().parse() {
        *made.uri_mut() = uri;
    }
    *made.headers_mut() = headers(request.headers());
    made
}

fn headers(from: &HeaderMap) -> HeaderMap {
    from.clone()
}

async fn read(request: http::Request<Body>) -> http::Request<Bytes> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    http::Request::from_parts(parts, body)
}
