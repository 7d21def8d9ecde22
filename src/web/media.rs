//! Files sent on Matrix, for people on Gitter: `GET /media/<token>/<name>`.
//!
//! Homeservers show files to their users only, so the bridge fetches them with its own token and passes them on as they
//! arrive, never keeping one. Who may see a file is decided by the link alone: see [`MediaLinks`].
//!
//! # Guarantees
//!
//! - A link leads to one file, until it expires or its message is deleted; no other link leads anywhere
//!   (`token::tests`, `tests::a_deleted_message_takes_its_file_along`).
//! - No file can act as a page of this address: what is no plain picture, sound or film is only ever saved, and what is
//!   shown is sandboxed (`tests::only_pictures_sounds_and_films_are_shown`).
//! - No more than the set size is passed on, whatever was announced, nor many files at once
//!   (`tests::what_is_too_large_is_not_passed_on`).
//! - What breaks off here breaks off there: nobody takes half a file for a whole
//!   (`tests::half_a_file_is_no_file`).

mod range;
#[cfg(test)]
mod tests;
mod token;

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use ruma::EventId;
use store::StoreError;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{error::Elapsed, timeout},
};

use self::range::{Part, Wanted};
pub use self::token::MediaLinks;
use super::{
    Clock, WebConfig, headers,
    link::TicketError,
    pages::{NoFile, Outcome, Pages},
};
use crate::{db::Db, http::Unanswered, matrix::Client, matrix::MatrixError, telemetry::Chain};

/// Files passed on at the same time; each holds a connection to the homeserver.
const AT_ONCE: usize = 32;
/// How long a request may wait for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Browsers may keep a file for so long, even when its message is deleted meanwhile.
const KEPT_SECONDS: i64 = 300;
/// Seconds after which to try again.
const AGAIN: &str = "30";

/// Types that a browser shows without running anything of them: no SVG, no HTML, no PDF.
const SHOWN: [&str; 20] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/apng",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mpeg",
    "audio/mp4",
    "audio/aac",
    "audio/ogg",
    "audio/webm",
    "audio/wav",
    "audio/wave",
    "audio/x-wav",
    "audio/flac",
    "audio/x-flac",
];

/// The route, to be merged into the login pages' router. `links` is `None` when no files are shown.
///
/// `client` should be made for [`Media`](crate::http::Destination::Media): see [`Client::download`].
pub fn router(config: &WebConfig, links: Option<MediaLinks>, client: Client, db: Db) -> Router {
    let strict = headers::strict(&config.login_url, &config.oauth_url);
    let pages = Pages::new(&config.login_url, &config.bot);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let shelf = Shelf { links, client, db, pages, turns, clock: config.clock.clone() };
    Router::new()
        .route("/media/{token}/{name}", get(file))
        .method_not_allowed_fallback(async |State(shelf): State<Arc<Shelf>>| {
            shelf.pages.outcome(&Outcome::BadRequest(StatusCode::METHOD_NOT_ALLOWED))
        })
        .layer(axum::middleware::map_response_with_state(Arc::new(strict), headers::add))
        .with_state(Arc::new(shelf))
}

/// The nonce that is burnt when an event is deleted: all links to its files end with it.
#[must_use]
pub fn revocation(event: &EventId) -> String {
    format!("media {event}")
}

struct Shelf {
    links: Option<MediaLinks>,
    client: Client,
    db: Db,
    pages: Pages,
    turns: Arc<Semaphore>,
    clock: Clock,
}

/// What was asked for besides the file.
struct Asked {
    wanted: Option<Wanted>,
    /// The range is meant for this version only.
    if_range: Option<HeaderValue>,
    if_none_match: Option<HeaderValue>,
}

type FilePath = Result<Path<(String, String)>, PathRejection>;

async fn file(
    State(shelf): State<Arc<Shelf>>,
    method: Method,
    headers: HeaderMap,
    path: FilePath,
) -> Response {
    let asked = Asked::new(&method, &headers);
    let why = match shelf.file(&asked, path).await {
        Ok(response) => return response,
        Err(why) => why,
    };
    let mut response = shelf.pages.outcome(&why);
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
    }
    response
}

impl Asked {
    fn new(method: &Method, headers: &HeaderMap) -> Self {
        let range = headers.get(header::RANGE).filter(|_| *method == Method::GET);
        Self {
            wanted: range.and_then(|range| range.to_str().ok()).and_then(Wanted::parse),
            if_range: headers.get(header::IF_RANGE).cloned(),
            if_none_match: headers.get(header::IF_NONE_MATCH).cloned(),
        }
    }
}

impl Shelf {
    async fn file(&self, asked: &Asked, path: FilePath) -> Result<Response, Outcome> {
        let links = self.links.as_ref().ok_or(NoFile::Off)?;
        let Path((token, name)) = path.map_err(|_| NoFile::Unknown)?;
        let now_ms = (self.clock)();
        let file = links.open(&token, &name, now_ms).map_err(|error| match error {
            TicketError::Forged => NoFile::Unknown,
            TicketError::Expired => NoFile::Expired,
        })?;
        let event = file.event.clone();
        let revoked = self.db.look(move |t| is_revoked(t, &event)).await;
        if revoked.map_err(|error| super::internal("store not read", &error))? {
            return Err(NoFile::Revoked.into());
        }
        let turn = timeout(TURN, self.turns.clone().acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(NoFile::Busy)?;
        // With a condition on it the range is cut out here, once the version is known.
        let range = asked.wanted.filter(|_| asked.if_range.is_none()).map(Wanted::header);
        let got = self.client.download(&file.mxc, range.as_deref()).await.map_err(|error| {
            tracing::warn!(event = %file.event, error = %Chain(&error), "file not fetched");
            no_file(&error)
        })?;
        let found = Found::new(got, range.is_some(), links.largest())?;
        let kept = (file.expires_ms.saturating_sub(now_ms) / 1000).min(KEPT_SECONDS);
        let mut response = found.answer(asked, &name, turn);
        let kept = HeaderValue::try_from(format!("private, max-age={kept}"));
        let kept = kept.map_err(|error| super::internal("header not made", &error))?;
        response.headers_mut().insert(header::CACHE_CONTROL, kept);
        Ok(response)
    }
}

/// Whether the message was deleted: on Matrix, or, as far as the link is still known, on Gitter.
fn is_revoked(t: &store::ReadTxn, event: &EventId) -> Result<bool, StoreError> {
    if t.is_burnt(&revocation(event))? {
        return Ok(true);
    }
    let links = t.links_of_event(event)?;
    Ok(!links.is_empty() && links.iter().all(|link| link.gone))
}

fn no_file(error: &MatrixError) -> NoFile {
    match error {
        MatrixError::NotFound { .. } => NoFile::Gone,
        MatrixError::Refused { status: 413, .. } => NoFile::TooLarge,
        MatrixError::Limited { .. } => NoFile::Busy,
        MatrixError::Unavailable { source, .. }
            if source.is::<Elapsed>()
                || source.downcast_ref().is_some_and(Unanswered::timed_out) =>
        {
            NoFile::HomeserverDown(StatusCode::GATEWAY_TIMEOUT)
        }
        _ => NoFile::HomeserverDown(StatusCode::BAD_GATEWAY),
    }
}

impl From<NoFile> for Outcome {
    fn from(why: NoFile) -> Self {
        Self::File(why)
    }
}

/// A file, or the part of it that was asked for, about to arrive.
struct Found {
    from: reqwest::Response,
    /// What arrives, when it is a part.
    part: Option<Part>,
    /// Length of the whole, if it was announced.
    total: Option<u64>,
    /// There is nothing of it in the range.
    outside: bool,
    largest: u64,
}

impl Found {
    /// Believes an answer as far as it makes sense for a file of at most `largest` bytes.
    fn new(from: reqwest::Response, ranged: bool, largest: u64) -> Result<Self, NoFile> {
        let senseless = NoFile::HomeserverDown(StatusCode::BAD_GATEWAY);
        let length = from.content_length();
        let content_range = from.headers().get(header::CONTENT_RANGE);
        let content_range = content_range.and_then(|range| range.to_str().ok());
        let (part, total, outside) = match from.status() {
            StatusCode::OK => (None, length, false),
            _ if !ranged => return Err(senseless),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = content_range.and_then(|range| range.strip_prefix("bytes */"));
                (None, total.and_then(|total| total.parse().ok()), true)
            }
            _ => {
                let part = content_range.and_then(Part::parse).ok_or(senseless)?;
                if length.is_some_and(|length| length != part.length()) {
                    return Err(senseless);
                }
                (Some(part), Some(part.total), false)
            }
        };
        if total.is_some_and(|total| total > largest) {
            return Err(NoFile::TooLarge);
        }
        Ok(Self { from, part, total, outside, largest })
    }

    fn answer(mut self, asked: &Asked, name: &str, turn: OwnedSemaphorePermit) -> Response {
        let mut headers = self.headers(name);
        let etag = headers.get(header::ETAG);
        if etag.is_some_and(|etag| matches_any(asked.if_none_match.as_ref(), etag)) {
            headers.remove(header::CONTENT_TYPE);
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        // The homeserver may know no ranges, or was not asked for one; a weak version is never the same.
        let same = asked
            .if_range
            .as_ref()
            .is_none_or(|version| Some(version) == etag && !version.as_bytes().starts_with(b"W/"));
        let mut skip = 0;
        if let (None, false, Some(total), Some(wanted), true) =
            (self.part, self.outside, self.total, asked.wanted, same)
        {
            self.part = wanted.of(total);
            self.outside = self.part.is_none();
            skip = self.part.map_or(0, |part| part.first);
        }
        if self.outside {
            let total = self.total.map_or("*".to_owned(), |total| total.to_string());
            let range = [(header::CONTENT_RANGE, format!("bytes */{total}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
        let length = self.part.map(Part::length).or(self.total);
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        let range = self.part.map(|part| [(header::CONTENT_RANGE, part.header())]);
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let (left, exact) = (length.unwrap_or(self.largest), length.is_some());
        let flow = Flow { from: self.from, skip, left, exact, _turn: turn };
        let body = stream::try_unfold(flow, async |mut flow| {
            let next = flow.next().await.inspect_err(|error| {
                tracing::warn!(error = %Chain(error), "file broke off");
            });
            Ok::<_, io::Error>(next?.map(|bytes| (bytes, flow)))
        });
        (status, range, headers, Body::from_stream(body)).into_response()
    }

    /// What the browser is to do with the file.
    fn headers(&self, name: &str) -> HeaderMap {
        let given = self.from.headers().get(header::CONTENT_TYPE);
        let given = given.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let given = given.split(';').next().unwrap_or_default().trim();
        let shown = SHOWN.into_iter().find(|shown| shown.eq_ignore_ascii_case(given));
        let fixed = |text| HeaderValue::from_static(text);
        let mut headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, fixed(shown.unwrap_or("application/octet-stream"))),
            (header::CONTENT_DISPOSITION, disposition(shown.is_some(), name)),
            // Browsers make a page of their own around what they show; it has a style, and no more.
            (
                header::CONTENT_SECURITY_POLICY,
                fixed(
                    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; \
                     style-src 'unsafe-inline'; frame-ancestors 'none'",
                ),
            ),
            // To be shown within Gitter's pages.
            (HeaderName::from_static("cross-origin-resource-policy"), fixed("cross-origin")),
        ]);
        let etag = self.from.headers().get(header::ETAG);
        if let Some(etag) = etag.filter(|etag| is_etag(etag.as_bytes())) {
            headers.insert(header::ETAG, etag.clone());
        }
        headers
    }
}

/// `Content-Disposition` with the name twice: in full, and for who can't read that.
///
/// <https://www.rfc-editor.org/rfc/rfc6266#section-4.3>
fn disposition(shown: bool, name: &str) -> HeaderValue {
    let kind = if shown { "inline" } else { "attachment" };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_ ()".contains(c);
    let ascii: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut full = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            full.push(char::from(byte));
        } else {
            write!(full, "%{byte:02X}").expect("writing to a string never fails");
        }
    }
    HeaderValue::try_from(format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{full}"))
        .unwrap_or_else(|_| HeaderValue::from_static("attachment"))
}

/// <https://www.rfc-editor.org/rfc/rfc9110.html#name-etag>
fn is_etag(etag: &[u8]) -> bool {
    let opaque = etag.strip_prefix(b"W/").unwrap_or(etag);
    opaque.len() >= 2 && opaque.len() < 256 && opaque.starts_with(b"\"") && opaque.ends_with(b"\"")
}

/// Whether a list of versions, or `*`, names `etag`; weak ones are as good here.
fn matches_any(list: Option<&HeaderValue>, etag: &HeaderValue) -> bool {
    let strong = |etag: &[u8]| etag.strip_prefix(b"W/").unwrap_or(etag).to_vec();
    let list = list.map_or(&b""[..], HeaderValue::as_bytes);
    list.split(|byte| *byte == b',').any(|one| {
        let one = one.trim_ascii();
        one == b"*" || strong(one) == strong(etag.as_bytes())
    })
}

/// A file on its way.
struct Flow {
    from: reqwest::Response,
    /// Bytes that come first and were not asked for.
    skip: u64,
    /// Bytes still to come; at most so many, when it is not `exact`.
    left: u64,
    exact: bool,
    _turn: OwnedSemaphorePermit,
}

impl Flow {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.exact && self.left == 0 {
                return Ok(None);
            }
            let chunk = self.from.chunk().await;
            let chunk = chunk.map_err(|error| io::Error::other(error.without_url()))?;
            let Some(mut chunk) = chunk else {
                return if self.exact {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(None)
                };
            };
            let skipped = chunk.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            let mut chunk = chunk.split_off(skipped);
            if chunk.len() as u64 > self.left {
                if !self.exact {
                    return Err(io::Error::other("larger than what is passed on"));
                }
                chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            }
            self.left -= chunk.len() as u64;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}
