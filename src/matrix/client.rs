//! The client-server API, as far as a bridge needs it, acting as the bot or as one of its ghosts.
//!
//! One method is one call and its meaning; nothing here waits, repeats or remembers. Where the homeserver answers "already
//! so" with an error, the method looks at the room's state instead of believing the words, and returns success.
//!
//! *Guarantees*
//!
//! - Path segments are always encoded the same way: the homeserver recognises repeated transaction ids by the path
//!   (`every_segment_is_encoded_in_full`).
//! - Answers are bounded in size and time (`an_endless_answer_is_cut_off`).
//! - While the homeserver is known to be away nothing is sent to it (`nothing_is_sent_to_a_homeserver_that_is_away`).
//! - Statuses of a proxy say nothing about rooms or users (`error::tests`).

use std::{fmt::Write as _, sync::Arc, time::Duration};

use reconcile::breaker::Breaker;
use reqwest::{Method, Response, header::CONTENT_TYPE};
use ruma::{OwnedUserId, RoomVersionId, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

use super::error::{Doing, Kind, MatrixError};
use crate::{
    http::Http,
    metrics::{Destination, HttpOutcome, Metrics},
};

mod media;
mod rooms;
mod types;
mod users;

#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;

pub use types::{CreateEvent, Member, Page, PingOutcome, Profile, StateEvent, Versions, Whoami};

/// The device every sending user has: with it the homeserver remembers transaction ids for a day and over its restarts.
pub const DEVICE: &str = "BRIDGE";

const V1: &[&str] = &["_matrix", "client", "v1"];
const V3: &[&str] = &["_matrix", "client", "v3"];
/// The largest known answer is `joined_members` of a large room, some 150 bytes a member.
const ANSWER_MAX: usize = 32 << 20;
const ERROR_MAX: usize = 64 << 10;
/// Joins and invites wait for other work in the room; Synapse itself gives up after about a minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// The homeserver waits 60 s for the bridge before it answers a ping.
const PING_PATIENCE: Duration = Duration::from_secs(75);
const UPLOAD_PATIENCE: Duration = Duration::from_secs(300);

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As<'a> {
    /// The appservice's sender.
    Bot,
    /// A user of the appservice's namespace.
    Ghost(&'a UserId),
}

/// A client of one homeserver, cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    http: Http,
    homeserver: Url,
    token: SecretString,
    bot: OwnedUserId,
    appservice_id: String,
    metrics: Option<Metrics>,
    breaker: Option<Arc<Breaker>>,
}

impl Client {
    /// A client of the homeserver at `homeserver`, which may have a path prefix.
    ///
    /// `http` should follow no redirects: a redirected `PUT` is no answer. `appservice_id` is the registration's `id`.
    #[must_use]
    pub fn new(
        http: impl Into<Http>,
        homeserver: Url,
        token: SecretString,
        bot: OwnedUserId,
        appservice_id: String,
    ) -> Self {
        let (http, metrics, breaker) = (http.into(), None, None);
        let inner = Inner { http, homeserver, token, bot, appservice_id, metrics, breaker };
        Self { inner: Arc::new(inner) }
    }

    /// The same client, counting its requests in `metrics`.
    #[must_use]
    pub fn counted(mut self, metrics: Metrics) -> Self {
        Arc::make_mut(&mut self.inner).metrics = Some(metrics);
        self
    }

    /// The same client, which tells `breaker` how its calls end and makes none while that says that the homeserver is away.
    /// With `None` it is the one that finds that out.
    #[must_use]
    pub fn minding(mut self, breaker: Option<Arc<Breaker>>) -> Self {
        Arc::make_mut(&mut self.inner).breaker = breaker;
        self
    }

    /// The bot's own id.
    #[must_use]
    pub fn bot(&self) -> &UserId {
        &self.inner.bot
    }

    /// The id of the user who acts.
    fn id<'a>(&'a self, who: As<'a>) -> &'a UserId {
        match who {
            As::Bot => &self.inner.bot,
            As::Ghost(ghost) => ghost,
        }
    }

    /// Who the homeserver takes the bridge for: the cheapest test of the token.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn whoami(&self) -> Result<Whoami, MatrixError> {
        self.get("asking who the bot is", Kind::User, V3, &["account", "whoami"]).answer().await
    }

    /// What the homeserver supports; needs no token, so it also tests the address alone.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn versions(&self) -> Result<Versions, MatrixError> {
        let path = &["_matrix", "client"];
        self.get("asking for the versions", Kind::User, path, &["versions"]).answer().await
    }

    /// The room version that the homeserver uses when none is asked for.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn default_room_version(&self) -> Result<RoomVersionId, MatrixError> {
        #[derive(Deserialize)]
        struct Answer {
            capabilities: Capabilities,
        }
        #[derive(Deserialize)]
        struct Capabilities {
            #[serde(rename = "m.room_versions")]
            room_versions: RoomVersions,
        }
        #[derive(Deserialize)]
        struct RoomVersions {
            default: RoomVersionId,
        }
        let call = self.get("asking for the room versions", Kind::User, V3, &["capabilities"]);
        Ok(call.answer::<Answer>().await?.capabilities.room_versions.default)
    }

    /// Lets the homeserver call the bridge, which also makes it deliver at once what it holds back after failures.
    ///
    /// See <https://spec.matrix.org/v1.15/application-service-api/#pinging>.
    ///
    /// # Errors
    ///
    /// When the homeserver itself gave no usable answer; that it cannot reach the bridge is an *outcome*.
    pub async fn ping(&self, txn_id: &str) -> Result<PingOutcome, MatrixError> {
        let path = &["appservice", &self.inner.appservice_id, "ping"];
        let mut call = self.call("asking for a ping", Kind::User, Method::POST, V1, path);
        call.patience = PING_PATIENCE;
        let answer = call.json(&json!({"transaction_id": txn_id})).raw().await?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let word = |key: &str| -> String {
            said[key].as_str().unwrap_or_default().chars().take(300).collect()
        };
        Ok(match (answer.status.as_u16(), said["errcode"].as_str()) {
            (200, _) => match said["duration_ms"].as_u64() {
                Some(ms) => PingOutcome::Reached(Duration::from_millis(ms)),
                None => return Err(answer.doing.malformed("a ping's answer has no duration")),
            },
            (403, Some("M_FORBIDDEN")) => PingOutcome::OtherId,
            (404, Some("M_UNRECOGNIZED")) => PingOutcome::Unsupported,
            (400, Some("M_URL_NOT_SET")) => PingOutcome::NoUrl,
            (_, Some("M_BAD_STATUS")) => {
                PingOutcome::Refused { status: said["status"].as_u64(), body: word("body") }
            }
            (_, Some("M_CONNECTION_FAILED")) => PingOutcome::Unreachable(word("error")),
            (_, Some("M_CONNECTION_TIMEOUT")) => PingOutcome::TimedOut,
            _ => return Err(answer.error()),
        })
    }

    fn get<'c>(&'c self, what: &'static str, kind: Kind, root: &[&str], path: &[&str]) -> Call<'c> {
        self.call(what, kind, Method::GET, root, path)
    }

    fn call<'c>(
        &'c self,
        what: &'static str,
        kind: Kind,
        method: Method,
        root: &[&str],
        path: &[&str],
    ) -> Call<'c> {
        let mut url = self.inner.homeserver.clone();
        let mut full = url.path().trim_end_matches('/').to_owned();
        for segment in root.iter().chain(path) {
            full.push('/');
            encode(segment, &mut full);
        }
        url.set_path(&full);
        url.set_query(None);
        // `.` and `..` cannot be written in a URL in any encoding.
        let sound = !root.iter().chain(path).any(|segment| matches!(*segment, "." | ".."));
        let doing = Doing::new(what, kind, &method);
        let body = (method != Method::GET).then(|| ("application/json".to_owned(), b"{}".to_vec()));
        Call { client: self, doing, method, url, sound, body, patience: PATIENCE }
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(segment: &str, into: &mut String) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            write!(into, "%{byte:02X}").expect("writing to a string never fails");
        }
    }
}

/// One call on its way.
struct Call<'c> {
    client: &'c Client,
    doing: Doing,
    method: Method,
    url: Url,
    sound: bool,
    body: Option<(String, Vec<u8>)>,
    patience: Duration,
}

/// An answer of any status, read in full.
struct Answer {
    doing: Doing,
    status: reqwest::StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn error(&self) -> MatrixError {
        self.doing.answered(self.status, &self.headers, &self.body)
    }
}

impl Call<'_> {
    /// Acts as `who`. The bot is whom the token stands for and needs no naming.
    fn by(self, who: As<'_>) -> Self {
        match who {
            As::Bot => self,
            As::Ghost(ghost) => self.with("user_id", ghost.as_str()),
        }
    }

    /// Acts as `who` on the bridge's device, which needs naming the user, the bot too.
    fn on_device(self, who: As<'_>) -> Self {
        let id = self.client.id(who).to_owned();
        self.with("user_id", id.as_str()).with("device_id", DEVICE)
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(key, value);
        self
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = Some(("application/json".to_owned(), body.to_string().into_bytes()));
        self
    }

    /// Makes the call; success must be JSON of the shape of `T`.
    async fn answer<T: DeserializeOwned>(self) -> Result<T, MatrixError> {
        let (metrics, breaker) =
            (self.client.inner.metrics.clone(), self.client.inner.breaker.clone());
        if let Some(breaker) = &breaker {
            breaker.ask().await.map_err(|away| self.doing.not_made(away))?;
        }
        let answer = async {
            let answer = self.raw().await?;
            if !answer.status.is_success() {
                return Err(answer.error());
            }
            // Serde's words may repeat what was in the answer: only the place is told.
            serde_json::from_slice(&answer.body).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                let kind = error.classify();
                answer.doing.malformed(format!("{kind:?} error at line {line}, column {column}"))
            })
        };
        let answer = answer.await;
        let end = outcome(answer.as_ref().err());
        if let Some(metrics) = metrics {
            metrics.http(Destination::Homeserver, end);
        }
        if let Some(breaker) = breaker {
            breaker.note(!matches!(end, HttpOutcome::Unavailable | HttpOutcome::Malformed));
        }
        answer
    }

    /// Makes the call; success must be a JSON object, whatever is in it.
    async fn done(self) -> Result<(), MatrixError> {
        self.answer::<serde_json::Map<String, Value>>().await.map(drop)
    }

    async fn raw(self) -> Result<Answer, MatrixError> {
        let Self { client: Client { inner }, doing, method, url, sound, body, patience } = self;
        if !sound {
            return Err(MatrixError::Refused {
                doing: doing.what,
                status: 0,
                errcode: String::new(),
                message: "an identifier made of dots alone cannot be sent".to_owned(),
            });
        }
        let mut request = inner.http.request(method, url).timeout(patience);
        request = request.bearer_auth(inner.token.expose_secret());
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        let mut response = inner.http.send(request).await.map_err(|error| doing.lost(error))?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let max = if status.is_success() { ANSWER_MAX } else { ERROR_MAX };
        let body = match read(response, max).await {
            Ok(body) => body,
            // The status of an error is worth more than its words.
            Err(_) if !status.is_success() => Vec::new(),
            Err(ReadError::Lost(error)) => return Err(doing.unavailable(error)),
            Err(ReadError::TooLong) => {
                return Err(doing.malformed(format!("an answer of more than {max} bytes")));
            }
        };
        tracing::debug!(doing = doing.what, status = status.as_u16(), "homeserver answered");
        Ok(Answer { doing, status, headers, body })
    }
}

enum ReadError {
    Lost(reqwest::Error),
    TooLong,
}

async fn read(mut response: Response, max: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Lost)? {
        if body.len() + chunk.len() > max {
            return Err(ReadError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn outcome(error: Option<&MatrixError>) -> HttpOutcome {
    match error {
        None => HttpOutcome::Ok,
        Some(MatrixError::Limited { .. }) => HttpOutcome::Limited,
        Some(MatrixError::Unavailable { .. }) => HttpOutcome::Unavailable,
        Some(MatrixError::Malformed { .. }) => HttpOutcome::Malformed,
        Some(_) => HttpOutcome::Refused,
    }
}
