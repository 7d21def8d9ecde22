//! The REST client: one [`Rest`] for the program, one [`Account`] for each person on Gitter.
//!
//! Statuses alone say what went wrong: Gitter's error bodies hold nothing but the reason phrase. Bodies are sent with their
//! length, as Gitter refuses chunked requests with 406. Every call of an account goes through its [`Budget`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use reconcile::breaker::{Away, Breaker};
use reconcile::queue;
use reconcile::turns::Turns;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::budget::{Budget, Class, MAX_PAUSE};
use crate::http::{Http, Unanswered};

use super::types::{Message, Room, UnreadItems, User, usable_list, whole_list};
use crate::metrics::{Destination, HttpOutcome, Metrics};

/// Longest text of a message, in UTF-16 units.
pub const MAX_UNITS: usize = 4096;
/// Most messages, and most members, that Gitter gives in one answer.
pub const PAGE: usize = 100;
/// Most messages that can be left out at the end of a room.
pub const MAX_SKIP: usize = 5_000;
/// How far pages of members overlap: they aren't ordered, and people come and go meanwhile.
const OVERLAP: usize = 5;
/// Most rooms that one account can be in.
const MAX_ROOMS: usize = 10_000;
/// Longest answer that is read: 100 long messages rendered with many tags stay below it.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// A call that takes longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A Gitter that takes longer to say that it is there is as good as away.
const PROBE: Duration = Duration::from_secs(10);
/// Calls under way at a time, of all accounts.
const AT_A_TIME: usize = 16;
/// So long an impatient account waits for its budget.
const IMPATIENT: Duration = Duration::from_secs(2);
/// A window of Gitter's rate limit.
const WINDOW: Duration = Duration::from_secs(60);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call to Gitter did not work, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum GitterError {
    /// The token is no longer good, and won't be again: the person has to log in anew.
    #[error("Gitter refused the token")]
    TokenRejected,
    /// The account may not do that: no access, banned, not the author, not an admin.
    #[error("Gitter does not allow this")]
    Forbidden,
    /// No such room, message or member, or none that this account may know of.
    #[error("Gitter knows no such thing")]
    NotFound,
    /// The room has been renamed; Gitter doesn't say to what. Its id is still good.
    #[error("it has moved on Gitter")]
    Moved,
    /// The request itself is wrong, so repeating it is pointless: too long, too late, malformed. `status` is absent if it
    /// wasn't even sent.
    #[error("Gitter would not accept the request{}", .status.map(|status| format!(" (status {status})")).unwrap_or_default())]
    Invalid {
        /// The HTTP status of the answer.
        status: Option<u16>,
    },
    /// Too many calls. The account's budget already waits; nothing was done.
    #[error("too many calls to Gitter")]
    Limited {
        /// How long until calls are accepted again; at most two minutes.
        retry_after: Duration,
    },
    /// Gitter can't be reached, didn't answer in time or is broken: worth trying again.
    #[error("Gitter is not available{}", .status.map(|status| format!(" (status {status})")).unwrap_or_default())]
    Unavailable {
        /// The request may have been carried out nevertheless: look before sending a message again.
        maybe_done: bool,
        /// The HTTP status, if there was an answer.
        status: Option<u16>,
        /// What happened to the connection.
        #[source]
        source: Option<BoxError>,
    },
    /// A good status, but an answer that makes no sense. What was asked for has probably been done.
    #[error("Gitter's answer makes no sense")]
    Malformed(#[source] BoxError),
}

impl GitterError {
    /// Whether the request may have been carried out all the same.
    #[must_use]
    pub fn maybe_done(&self) -> bool {
        matches!(self, Self::Unavailable { maybe_done: true, .. } | Self::Malformed(_))
    }

    /// Whether there was an answer, if only of a proxy: whoever gives one soon has done with the request.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        !matches!(self, Self::Unavailable { status: None, .. })
    }

    fn by_status(status: StatusCode, pause: Duration) -> Self {
        match status.as_u16() {
            401 => Self::TokenRejected,
            403 => Self::Forbidden,
            404 | 410 => Self::NotFound,
            429 => Self::Limited { retry_after: pause },
            300..400 => Self::Moved,
            status @ (408 | 425) => {
                Self::Unavailable { maybe_done: false, status: Some(status), source: None }
            }
            status @ 400..500 => Self::Invalid { status: Some(status) },
            status => Self::Unavailable { maybe_done: true, status: Some(status), source: None },
        }
    }

    fn broken(error: Unanswered) -> Self {
        let maybe_done = error.maybe_done();
        let source = Some(error.without_url().into());
        Self::Unavailable { maybe_done, status: None, source }
    }
}

/// A message to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewMessage {
    /// Markdown; not empty, at most 4096 UTF-16 units.
    pub text: String,
    /// An action, as by `/me`; `text` then has to start with `@` and the sender's own name.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub status: bool,
    /// The message to answer in a thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
}

/// Which messages of a room: at most the given number, bounded to 1 to 100, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page<'a> {
    /// The newest ones.
    Newest(usize),
    /// The oldest ones after this message, without it.
    After(&'a str, usize),
    /// The newest ones before this message, without it.
    Before(&'a str, usize),
    /// The newest ones but for so many, at most [`MAX_SKIP`]: first how many are left out, then how many are given.
    Skipping(usize, usize),
}

/// Unread messages of one of the account's rooms, counted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadCount {
    /// The room.
    pub id: String,
    /// Unread messages, counted to 100.
    #[serde(default)]
    pub unread_items: u64,
    /// Unread mentions.
    #[serde(default)]
    pub mentions: u64,
}

/// Gitter's REST interface. Clones share connections and budgets.
#[derive(Debug, Clone)]
pub struct Rest {
    http: Http,
    api_url: Url,
    per_minute: NonZeroU32,
    budgets: Arc<Mutex<BTreeMap<String, Arc<Budget>>>>,
    turns: Turns<String>,
    metrics: Option<Metrics>,
    breaker: Option<Arc<Breaker>>,
}

impl Rest {
    /// A client for the interface at `api_url`, up to and including the version: `https://api.gitter.im/v1/`. Each
    /// account may make `per_minute` calls (at least one). `http` should follow no redirects.
    #[must_use]
    pub fn new(http: impl Into<Http>, api_url: Url, per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let (budgets, turns) = (Arc::default(), Turns::new(AT_A_TIME));
        let http = http.into();
        Self { http, api_url, per_minute, budgets, turns, metrics: None, breaker: None }
    }

    /// The same, counting its requests in `metrics`.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The same, which tells `breaker` how its calls end and makes none while that says that Gitter is away. A refusal, of
    /// whatever kind, is no sign of that.
    #[must_use]
    pub fn minding(self, breaker: Arc<Breaker>) -> Self {
        Self { breaker: Some(breaker), ..self }
    }

    /// Asks whether Gitter is there; without a token, so any refusal is a yes.
    ///
    /// # Errors
    ///
    /// When there is no answer within 10 s, or a server error.
    pub async fn probe(&self) -> Result<(), GitterError> {
        let mut url = self.api_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["user", "me"]);
        }
        let asked = self.http.request(Method::GET, url);
        let asked = asked.header(ACCEPT, "application/json").timeout(PROBE);
        let status = self.http.send(asked).await.map_err(GitterError::broken)?.status();
        if status.is_server_error() {
            return Err(GitterError::by_status(status, Duration::ZERO));
        }
        Ok(())
    }

    /// Waits out a doubt.
    async fn ask(&self) -> Result<(), GitterError> {
        let Some(breaker) = &self.breaker else { return Ok(()) };
        breaker.ask().await.map_err(|away: Away| GitterError::Unavailable {
            maybe_done: false,
            status: None,
            source: Some(away.into()),
        })
    }

    fn note(&self, end: Option<&GitterError>) {
        let end = match end {
            None => HttpOutcome::Ok,
            Some(GitterError::Limited { .. }) => HttpOutcome::Limited,
            Some(GitterError::Unavailable { .. }) => HttpOutcome::Unavailable,
            Some(GitterError::Malformed(_)) => HttpOutcome::Malformed,
            Some(_) => HttpOutcome::Refused,
        };
        if let Some(metrics) = &self.metrics {
            metrics.http(Destination::Gitter, end);
        }
        if let Some(breaker) = &self.breaker {
            breaker.note(end != HttpOutcome::Unavailable);
        }
    }

    /// Acts as the owner of `token`. All accounts of one `key` share a budget: use the Gitter user id, since that is
    /// what Gitter counts by.
    #[must_use]
    pub fn account(&self, key: &str, token: SecretString) -> Account {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.retain(|_, budget| Arc::strong_count(budget) > 1 || !budget.is_idle());
        let budget = Arc::clone(
            budgets.entry(key.to_owned()).or_insert_with(|| Arc::new(Budget::new(self.per_minute))),
        );
        let owner = key.to_owned();
        Account { rest: self.clone(), token, owner, budget, class: None, impatient: false }
    }
}

/// One account on Gitter.
///
/// Each call waits for the account's budget first. Calls that change something or that somebody asks for take precedence
/// over lists; [`Account::for_person`] gives all of them precedence.
///
/// # Errors
///
/// Every call may fail with any [`GitterError`]; only what is special is said at each.
#[derive(Debug, Clone)]
pub struct Account {
    rest: Rest,
    token: SecretString,
    /// Who takes turns with others.
    owner: String,
    budget: Arc<Budget>,
    class: Option<Class>,
    impatient: bool,
}

#[expect(clippy::missing_errors_doc, reason = "said once, at the type")]
impl Account {
    /// The same account, for calls of any kind that a person waits for.
    #[must_use]
    pub fn for_person(&self) -> Self {
        Self { class: Some(Class::Person), ..self.clone() }
    }

    /// The same account, for one who has others to serve: a call whose turn does not come soon fails with
    /// [`GitterError::Limited`].
    #[must_use]
    pub fn impatient(self) -> Self {
        Self { impatient: true, ..self }
    }

    /// Who this account is: `GET /user/me`.
    pub async fn me(&self) -> Result<User, GitterError> {
        self.get(Class::Person, &["user", "me"], &[]).await
    }

    /// All rooms the account is in, and those it was mentioned in without being a member: see [`Room::is_member`].
    /// `GET /user/me/rooms`. An error is never half a list.
    pub async fn rooms(&self) -> Result<Vec<Room>, GitterError> {
        let call = Call::new(Method::GET, Class::Background, &["user", "me", "rooms"]);
        whole_list(&self.call(call).await?, MAX_ROOMS).map_err(malformed)
    }

    /// A room: `GET /rooms/:id`.
    pub async fn room(&self, id: &str) -> Result<Room, GitterError> {
        self.get(Class::Background, &["rooms", checked(id)?], &[]).await
    }

    /// The room of a uri, in any letter case; joins nothing. A login name gives the one-to-one chat with that person,
    /// which is **made if there was none**. `POST /rooms`.
    ///
    /// # Errors
    ///
    /// [`GitterError::NotFound`] also for private rooms and bans; [`GitterError::Moved`] for the old uri of a renamed room.
    pub async fn resolve(&self, uri: &str) -> Result<Room, GitterError> {
        let body = serde_json::json!({ "uri": uri });
        self.send_json(Method::POST, &["rooms"], &body).await
    }

    /// Whether a Gitter user is called so, in any letter case, as far as Gitter's search finds them. `GET /user?q=`.
    ///
    /// # Errors
    ///
    /// See [`GitterError`].
    pub async fn knows_person(&self, name: &str) -> Result<bool, GitterError> {
        #[derive(serde::Deserialize)]
        struct Found {
            results: Vec<Named>,
        }
        #[derive(serde::Deserialize)]
        struct Named {
            username: Option<String>,
        }
        let query =
            [("q", name.to_owned()), ("type", "gitter".to_owned()), ("limit", PAGE.to_string())];
        let found: Found = self.get(Class::Background, &["user"], &query).await?;
        let mut names = found.results.into_iter().take(PAGE).filter_map(|person| person.username);
        Ok(names.any(|username| username.to_lowercase() == name.to_lowercase()))
    }

    /// Joins a room; joining twice changes nothing. `POST /user/me/rooms`.
    ///
    /// # Errors
    ///
    /// Gitter answers 500, here [`GitterError::Unavailable`], if there is no such room: look with
    /// [`Account::room`] or [`Account::resolve`] first.
    pub async fn join(&self, id: &str) -> Result<Room, GitterError> {
        let body = serde_json::json!({ "id": checked(id)? });
        self.send_json(Method::POST, &["user", "me", "rooms"], &body).await
    }

    /// Leaves a room; `user` is the account's own Gitter user id (Gitter doesn't know `me` here). Having left already is
    /// fine. `DELETE /rooms/:id/users/:userId`.
    ///
    /// # Errors
    ///
    /// [`GitterError::Invalid`] for one-to-one chats, which can't be left.
    pub async fn leave(&self, room: &str, user: &str) -> Result<(), GitterError> {
        let path = ["rooms", checked(room)?, "users", checked(user)?];
        match self.call(Call::new(Method::DELETE, Class::Person, &path)).await {
            Ok(_) | Err(GitterError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Members of a room, each once, in no order: all of them, or `at_most` if there are more. People who come or go
    /// meanwhile may be missed. `GET /rooms/:id/users`, in pages.
    pub async fn members(&self, room: &str, at_most: usize) -> Result<Vec<User>, GitterError> {
        let path = ["rooms", checked(room)?, "users"];
        let (mut members, mut seen, mut skip) = (Vec::new(), BTreeSet::new(), 0_usize);
        while members.len() < at_most {
            let limit = at_most.min(PAGE);
            let query = [("limit", limit.to_string()), ("skip", skip.to_string())];
            let call = Call { query: &query, ..Call::new(Method::GET, Class::Background, &path) };
            let page: Vec<User> =
                whole_list(&self.call(call).await?, MAX_ROOMS).map_err(malformed)?;
            let (before, full) = (members.len(), page.len() >= limit);
            members.extend(page.into_iter().filter(|user| seen.insert(user.id.clone())));
            if !full || members.len() == before {
                break;
            }
            skip += PAGE - OVERLAP;
        }
        members.truncate(at_most);
        Ok(members)
    }

    /// Members of a room whose names begin with `name`, at most 100. `GET /rooms/:id/users?q=`.
    ///
    /// # Errors
    ///
    /// See [`GitterError`].
    pub async fn members_named(&self, room: &str, name: &str) -> Result<Vec<User>, GitterError> {
        let path = ["rooms", checked(room)?, "users"];
        let query = [("q", name.to_owned()), ("limit", PAGE.to_string())];
        let call = Call { query: &query, ..Call::new(Method::GET, Class::Background, &path) };
        whole_list(&self.call(call).await?, MAX_ROOMS).map_err(malformed)
    }

    /// Messages of a room, those of threads included, oldest first. A page shorter than asked for isn't the end; an empty
    /// one is. `GET /rooms/:id/chatMessages`.
    pub async fn messages(&self, room: &str, page: Page<'_>) -> Result<Vec<Message>, GitterError> {
        let path = ["rooms", checked(room)?, "chatMessages"];
        let (marker, limit) = match page {
            Page::Newest(limit) => (None, limit),
            Page::After(id, limit) => (Some(("afterId", checked(id)?.to_owned())), limit),
            Page::Before(id, limit) => (Some(("beforeId", checked(id)?.to_owned())), limit),
            Page::Skipping(skip, limit) => (Some(("skip", skip.min(MAX_SKIP).to_string())), limit),
        };
        let limit = limit.clamp(1, PAGE).to_string();
        let query: Vec<_> = [("limit", limit), ("includeThreads", "true".to_owned())]
            .into_iter()
            .chain(marker)
            .collect();
        let call = Call { query: &query, ..Call::new(Method::GET, Class::Background, &path) };
        usable_list(&self.call(call).await?, MAX_ROOMS).map_err(malformed)
    }

    /// A message, or `None` if there is none of that id (any more) in that room. `GET /rooms/:id/chatMessages/:id`.
    pub async fn message(&self, room: &str, id: &str) -> Result<Option<Message>, GitterError> {
        let path = ["rooms", checked(room)?, "chatMessages", checked(id)?];
        match self.get(Class::Background, &path, &[]).await {
            Ok(message) => Ok(Some(message)),
            Err(GitterError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a message. There is no way to make this safe to repeat: when [`GitterError::maybe_done`], look for the message
    /// among the newest ones before sending again. In the answer, a missing `v` means that Gitter threw it away as spam
    /// without saying so. `POST /rooms/:id/chatMessages`.
    ///
    /// # Errors
    ///
    /// [`GitterError::Invalid`] if the text is empty or too long, or its parent isn't in that room.
    pub async fn send(&self, room: &str, message: &NewMessage) -> Result<Message, GitterError> {
        if message.text.is_empty() || message.text.encode_utf16().count() > MAX_UNITS {
            return Err(GitterError::Invalid { status: None });
        }
        if let Some(parent) = &message.parent_id {
            checked(parent)?;
        }
        let path = ["rooms", checked(room)?, "chatMessages"];
        self.send_json(Method::POST, &path, message).await
    }

    /// Changes the text of an own message; an empty text blanks it. `PUT /rooms/:id/chatMessages/:id`.
    ///
    /// # Errors
    ///
    /// [`GitterError::Invalid`] if the message is older than ten minutes, or the text too long;
    /// [`GitterError::Forbidden`] if it is somebody else's.
    pub async fn edit(&self, room: &str, id: &str, text: &str) -> Result<Message, GitterError> {
        if text.encode_utf16().count() > MAX_UNITS {
            return Err(GitterError::Invalid { status: None });
        }
        let path = ["rooms", checked(room)?, "chatMessages", checked(id)?];
        self.send_json(Method::PUT, &path, &serde_json::json!({ "text": text })).await
    }

    /// Deletes a message; that it is gone already is fine. One with replies is blanked instead.
    /// `DELETE /rooms/:id/chatMessages/:id`.
    pub async fn delete(&self, room: &str, id: &str) -> Result<(), GitterError> {
        let path = ["rooms", checked(room)?, "chatMessages", checked(id)?];
        match self.call(Call::new(Method::DELETE, Class::Person, &path)).await {
            Ok(_) | Err(GitterError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Marks messages as read, 100 per call. `POST /user/me/rooms/:id/unreadItems`.
    pub async fn mark_read(&self, room: &str, ids: &[String]) -> Result<(), GitterError> {
        let path = ["user", "me", "rooms", checked(room)?, "unreadItems"];
        for ids in ids.chunks(PAGE) {
            let body = serde_json::json!({ "chat": ids }).to_string();
            let call = Call::new(Method::POST, Class::Background, &path);
            self.call(Call { body: Some(body), ..call }).await?;
        }
        Ok(())
    }

    /// Unread messages of a room. `GET /user/me/rooms/:id/unreadItems`.
    pub async fn unread_items(&self, room: &str) -> Result<UnreadItems, GitterError> {
        let path = ["user", "me", "rooms", checked(room)?, "unreadItems"];
        self.get(Class::Background, &path, &[]).await
    }

    /// The rooms with unread messages. `GET /user/me/unreadItems`.
    pub async fn unread(&self) -> Result<Vec<UnreadCount>, GitterError> {
        let call = Call::new(Method::GET, Class::Background, &["user", "me", "unreadItems"]);
        usable_list(&self.call(call).await?, MAX_ROOMS).map_err(malformed)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        class: Class,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, GitterError> {
        let call = Call { query, ..Call::new(Method::GET, class, path) };
        serde_json::from_slice(&self.call(call).await?).map_err(malformed)
    }

    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, GitterError> {
        let body =
            serde_json::to_string(body).map_err(|_| GitterError::Invalid { status: None })?;
        let call = Call { body: Some(body), ..Call::new(method, Class::Person, path) };
        serde_json::from_slice(&self.call(call).await?).map_err(malformed)
    }

    /// Makes a call when the budget allows it, and returns the body of a good answer.
    async fn call(&self, call: Call<'_>) -> Result<Vec<u8>, GitterError> {
        let unsendable = || GitterError::Invalid { status: None };
        let mut url = self.rest.api_url.clone();
        url.path_segments_mut().map_err(|()| unsendable())?.pop_if_empty().extend(call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let token = format!("Bearer {}", self.token.expose_secret());
        let mut token = HeaderValue::from_str(&token).map_err(|_| GitterError::TokenRejected)?;
        token.set_sensitive(true);
        let mut request = self
            .rest
            .http
            .request(call.method, url)
            .header(AUTHORIZATION, token)
            .header(ACCEPT, "application/json")
            .timeout(PATIENCE);
        if let Some(body) = call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        self.rest.ask().await?;
        let class = self.class.unwrap_or(call.class);
        if self.impatient {
            let taken = self.budget.take_within(class, IMPATIENT).await;
            taken.map_err(|retry_after| GitterError::Limited { retry_after })?;
        } else {
            self.budget.take(class).await;
        }
        let service = match class {
            Class::Person => queue::Class::Waiting,
            Class::Background => queue::Class::Members,
        };
        let _turn = self.rest.turns.take(self.owner.clone(), service).await;
        // The waits may have been long, and another call refused meanwhile.
        self.rest.ask().await?;
        if let Some(retry_after) = self.budget.pause() {
            return Err(GitterError::Limited { retry_after });
        }
        let answer = self.send_request(request).await;
        self.rest.note(answer.as_ref().err());
        answer
    }

    async fn send_request(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, GitterError> {
        let answer = self.rest.http.send(request).await.map_err(GitterError::broken)?;
        let (status, left) = (answer.status(), window_left(answer.headers()));
        if status == StatusCode::TOO_MANY_REQUESTS {
            let pause = pause(left, answer.headers());
            self.budget.refused(pause);
            return Err(GitterError::by_status(status, pause));
        }
        if let (Some(left), Some(remaining)) = (left, number(answer.headers(), &REMAINING)) {
            self.budget.note(remaining.clamp(0, i64::from(u32::MAX)).try_into().unwrap_or(0), left);
        }
        if !status.is_success() {
            return Err(GitterError::by_status(status, Duration::ZERO));
        }
        read(answer).await
    }
}

/// What to ask.
struct Call<'a> {
    method: Method,
    class: Class,
    path: &'a [&'a str],
    query: &'a [(&'a str, String)],
    body: Option<String>,
}

impl<'a> Call<'a> {
    fn new(method: Method, class: Class, path: &'a [&'a str]) -> Self {
        Self { method, class, path, query: &[], body: None }
    }
}

/// Reads a body as far as it is reasonable.
async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, GitterError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| GitterError::Unavailable {
        // The status was good: whatever was asked for has been done.
        maybe_done: true,
        status: None,
        source: Some(error.without_url().into()),
    })? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(GitterError::Malformed("an answer of over 16 MiB".into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn malformed(error: serde_json::Error) -> GitterError {
    GitterError::Malformed(error.into())
}

/// Gitter's ids are hex digits. Nothing else gets into a path: `..` would be another place.
fn checked(id: &str) -> Result<&str, GitterError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=64).contains(&id.len()) && id.bytes().all(good) {
        Ok(id)
    } else {
        Err(GitterError::Invalid { status: None })
    }
}

const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// How long the present window lasts, by the server's own clock (`Date`), so that ours doesn't matter; `None` if the headers
/// don't make sense. The reset is in milliseconds since 1970 and up to a second wrong: a bit is added.
fn window_left(headers: &HeaderMap) -> Option<Duration> {
    let now = DateTimeParser::new().parse_timestamp(headers.get(DATE)?.as_bytes()).ok()?;
    let left = number(headers, &RESET)?.checked_sub(now.as_millisecond())?;
    let left = (left > -5_000).then(|| left.max(500))?;
    let left = Duration::from_millis(left.unsigned_abs()) + Duration::from_millis(500);
    (left <= MAX_PAUSE).then_some(left)
}

/// How long to wait after a refusal: until the reset, or as a proxy's `Retry-After` has it, or for a whole window.
fn pause(left: Option<Duration>, headers: &HeaderMap) -> Duration {
    let asked = || number(headers, &RETRY_AFTER).and_then(|seconds| u64::try_from(seconds).ok());
    left.or_else(|| asked().map(|seconds| Duration::from_secs(seconds.max(1))))
        .unwrap_or(WINDOW)
        .min(MAX_PAUSE)
}

#[cfg(test)]
mod tests;
