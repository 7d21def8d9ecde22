//! The pages through which people log in to Gitter.
//!
//! | Request | Does |
//! | --- | --- |
//! | `GET /` | says what this is |
//! | `GET /login?link=…` | shows which Matrix id is about to be linked; changes nothing, since Matrix clients and homeservers fetch links to preview them |
//! | `POST /login` | burns the link, then sends the browser to Gitter |
//! | `GET /callback` | Gitter sends the browser back here, with a code or a refusal |
//! | `GET /style.css` | the pages' style |
//! | `GET /media/…` | a file sent on Matrix: see [`media`], a router of its own |
//!
//! The routes are at the root of the listener; addresses in links, forms and redirects begin with
//! [`WebConfig::login_url`], its path included. A reverse proxy that serves the pages under a path
//! strips that path (nginx: `location /gitter/ { proxy_pass http://127.0.0.1:29351/; }`). The
//! address to register with Gitter is `login_url` followed by `/callback`, byte for byte.
//!
//! # Guarantees
//!
//! - A link works once, for ten minutes, for the Matrix id it was made for
//!   (`tests::a_link_is_used_once`, `tests::a_link_expires`, `link::tests`).
//! - Only a browser that was shown the confirmation can use it: another site can't make somebody's
//!   browser link *their* Gitter account to an attacker's Matrix id
//!   (`tests::another_site_cannot_press_continue`).
//! - An answer from Gitter counts once, and only in the browser that left for it
//!   (`tests::an_answer_counts_once_and_only_in_its_browser`).
//! - Codes, tokens, links and cookies are in no log line.

mod cookie;
mod exchange;
mod headers;
pub mod link;
pub mod media;
mod pages;

use std::{any::Any, error::Error, fmt, sync::Arc, time::Duration};

use axum::{
    Form, Router,
    extract::{
        DefaultBodyLimit, Query, State,
        rejection::{FormRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rand::TryRngCore as _;
use reconcile::panics::words;
use ruma::{OwnedUserId, UserId};
use secrecy::SecretString;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tower_http::catch_panic::CatchPanicLayer;
use url::Url;

use crate::metrics::Metrics;

use self::{
    exchange::{Exchange, ExchangeError},
    link::{LIFETIME, Purpose, Ticket, TicketError},
    pages::{Outcome, Pages},
};

pub use self::link::{LinkKey, login_link};
use crate::http::Http;

/// Any failure, for a log.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Wall time in milliseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Largest body a form of ours can have, in bytes.
const MAX_BODY: usize = 4096;
/// Longest authorization code that is passed on; Gitter's have 40 characters.
const MAX_CODE: usize = 512;

/// What the pages need to have done for them.
pub trait Login: Clone + Send + Sync + 'static {
    /// Burns a nonce: `true` the first time, `false` when it was used before. Durable, and may be
    /// forgotten after `expires_ms` (milliseconds since the epoch).
    fn burn(
        &self,
        nonce: &str,
        expires_ms: i64,
    ) -> impl Future<Output = Result<bool, BoxError>> + Send;

    /// Asks Gitter whose `token` this is, and writes credentials and desired state for `account`.
    ///
    /// Dropped midway, when the browser goes away, it leaves either nothing or all of it.
    fn finish(
        &self,
        account: &UserId,
        token: SecretString,
    ) -> impl Future<Output = Result<LoggedIn, LoginError>> + Send;
}

/// Who somebody is on Gitter, now that they are logged in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggedIn {
    /// Gitter's user name, without `@`.
    pub username: String,
    /// The shown name.
    pub name: String,
    /// User name of *another* Gitter account this Matrix id was linked to until now.
    pub previous: Option<String>,
    /// Another Matrix id is linked to the same Gitter account; both go on working.
    pub shared: bool,
}

/// Why a login could not be finished, by what may be done about it.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Gitter refuses the token it has just given out.
    #[error("Gitter refused the new token")]
    Refused,
    /// Gitter takes no more calls for now.
    #[error("Gitter takes no more calls for now")]
    Limited,
    /// Gitter does not answer, or not sensibly.
    #[error("Gitter could not be asked whose token it is")]
    Unavailable(#[source] BoxError),
    /// The fault is ours.
    #[error("the login could not be written down")]
    Internal(#[source] BoxError),
}

/// What the pages have to know.
#[derive(Clone)]
pub struct WebConfig {
    /// Where browsers reach `/`; may have a path, see the module's first lines.
    pub login_url: Url,
    /// Where Gitter's OAuth pages are, `https://gitter.im/login/oauth`: `/authorize` and `/token`
    /// are appended.
    pub oauth_url: Url,
    /// Key of the application registered with Gitter.
    pub oauth_key: String,
    /// Its secret.
    pub oauth_secret: SecretString,
    /// The bot, to be linked to.
    pub bot: OwnedUserId,
    /// Signs links and cookies; also given to [`login_link`].
    pub link_key: LinkKey,
    /// Longest wait for Gitter's answer to a code.
    pub exchange_timeout: Duration,
    /// Tells what has expired.
    pub clock: Clock,
}

impl fmt::Debug for WebConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { login_url, oauth_url, oauth_key, bot, exchange_timeout, .. } = self;
        f.debug_struct("WebConfig")
            .field("login_url", &login_url.as_str())
            .field("oauth_url", &oauth_url.as_str())
            .field("oauth_key", oauth_key)
            .field("bot", bot)
            .field("exchange_timeout", exchange_timeout)
            .finish_non_exhaustive()
    }
}

struct Web<L> {
    login: L,
    exchange: Exchange,
    pages: Pages,
    key: LinkKey,
    clock: Clock,
    /// Browsers keep `Secure` cookies from http, so these are only used where they can be.
    secure: bool,
}

type Shared<L> = State<Arc<Web<L>>>;

/// The pages, to be served at the root of a listener.
///
/// `http` must follow no redirects (a redirect would be given the application's secret).
pub fn router(config: WebConfig, login: impl Login, http: impl Into<Http>) -> Router {
    let headers = headers::strict(&config.login_url, &config.oauth_url);
    let web = Arc::new(Web {
        login,
        pages: Pages::new(&config.login_url, &config.bot),
        exchange: Exchange::new(&config, http.into()),
        key: config.link_key,
        clock: config.clock,
        secure: config.login_url.scheme() == "https",
    });
    Router::new()
        .route("/", get(index))
        .route("/login", get(confirm).post(begin))
        .route("/callback", get(callback))
        .route("/style.css", get(pages::style))
        .fallback(async |State(web): Shared<_>| web.pages.outcome(&Outcome::NotFound))
        .method_not_allowed_fallback(async |State(web): Shared<_>| {
            web.pages.outcome(&Outcome::BadRequest(StatusCode::METHOD_NOT_ALLOWED))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::map_response_with_state(Arc::new(headers), headers::add))
        .with_state(web)
}

/// The same pages, of which one that panics is answered with an error, and counted.
pub fn unharmed(pages: Router, metrics: &Metrics) -> Router {
    let metrics = metrics.clone();
    pages.layer(CatchPanicLayer::custom(move |panic: Box<dyn Any + Send>| {
        metrics.panic();
        tracing::error!(panic = words(&*panic), "a page panicked");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }))
}

#[derive(Deserialize)]
struct LinkQuery {
    link: String,
}

#[derive(Deserialize)]
struct LinkForm {
    link: String,
    page: String,
}

#[derive(Deserialize)]
struct CallbackQuery {
    state: String,
    code: Option<String>,
    error: Option<String>,
}

async fn index<L: Login>(State(web): Shared<L>) -> Response {
    web.pages.index()
}

/// Shows whose link this is. A preview may ask as often as it likes.
async fn confirm<L: Login>(
    State(web): Shared<L>,
    headers: HeaderMap,
    query: Result<Query<LinkQuery>, QueryRejection>,
) -> Response {
    match web.confirm(&headers, query) {
        Ok(response) => response,
        Err(outcome) => web.pages.outcome(&outcome),
    }
}

async fn begin<L: Login>(
    State(web): Shared<L>,
    headers: HeaderMap,
    form: Result<Form<LinkForm>, FormRejection>,
) -> Response {
    match web.begin(&headers, form).await {
        Ok(response) => response,
        Err(outcome) => web.pages.outcome(&outcome),
    }
}

async fn callback<L: Login>(
    State(web): Shared<L>,
    headers: HeaderMap,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Response {
    let (ticket, query) = match web.returning(&headers, query) {
        Ok(known) => known,
        Err(outcome) => return web.pages.outcome(&outcome),
    };
    let outcome = match web.finish(&ticket, query).await {
        Ok(logged_in) => Outcome::LoggedIn { account: ticket.subject, logged_in },
        Err(outcome) => outcome,
    };
    let forget = cookie::forget(Purpose::State, web.secure);
    ([(header::SET_COOKIE, forget)], web.pages.outcome(&outcome)).into_response()
}

impl<L: Login> Web<L> {
    fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    fn open_link(&self, token: &str) -> Result<Ticket, Outcome> {
        self.key.open(Purpose::Link, token, self.now_ms()).map_err(|error| match error {
            TicketError::Forged => Outcome::Forged,
            TicketError::Expired => Outcome::Expired,
        })
    }

    /// The ticket in this browser's cookie, if it has one that is still good.
    fn cookie(&self, headers: &HeaderMap, purpose: Purpose) -> Option<Ticket> {
        cookie::all(headers, purpose, self.secure)
            .find_map(|token| self.key.open(purpose, token, self.now_ms()).ok())
    }

    fn confirm(
        &self,
        headers: &HeaderMap,
        query: Result<Query<LinkQuery>, QueryRejection>,
    ) -> Result<Response, Outcome> {
        let Query(LinkQuery { link }) = query.map_err(|_| Outcome::Forged)?;
        let ticket = self.open_link(&link)?;
        // Several tabs share the nonce of the first, or only the last one opened would work.
        let nonce = match self.cookie(headers, Purpose::Page) {
            Some(page) => page.nonce,
            None => fresh_nonce()?,
        };
        let page = Ticket {
            nonce,
            expires_ms: self.now_ms().saturating_add(LIFETIME_MS),
            subject: String::new(),
        };
        let page = self.key.seal(Purpose::Page, &page);
        let set = cookie::set(Purpose::Page, &page, self.secure);
        let shown = self.pages.confirm(&ticket.subject, &link, &page);
        Ok(([(header::SET_COOKIE, set)], shown).into_response())
    }

    async fn begin(
        &self,
        headers: &HeaderMap,
        form: Result<Form<LinkForm>, FormRejection>,
    ) -> Result<Response, Outcome> {
        let Form(LinkForm { link, page }) =
            form.map_err(|error| Outcome::BadRequest(error.status()))?;
        let link = self.open_link(&link)?;
        // First of all: whoever can't prove to have been shown the page must not burn the link.
        let shown = self.key.open(Purpose::Page, &page, self.now_ms()).ok();
        let nonce = match (shown, self.cookie(headers, Purpose::Page)) {
            (Some(shown), Some(kept)) if bool::from(shown.nonce.ct_eq(&kept.nonce)) => kept.nonce,
            _ => return Err(Outcome::OtherBrowser),
        };
        let state = Ticket {
            nonce: self.key.derive(&link.nonce, &nonce),
            expires_ms: self.now_ms().saturating_add(LIFETIME_MS),
            subject: link.subject.clone(),
        };
        let burnt = self.login.burn(&link.nonce_text(), link.expires_ms).await;
        if !burnt.map_err(|error| internal("link not burnt", &*error))? {
            // Going back from Gitter and pressing the button again is no replay: this browser has
            // the state that was made of this very link.
            let kept = self.cookie(headers, Purpose::State);
            if !kept.is_some_and(|kept| bool::from(kept.nonce.ct_eq(&state.nonce))) {
                return Err(Outcome::Replayed);
            }
        }
        let authorize = self.exchange.authorize_url(state.nonce_text());
        let state = self.key.seal(Purpose::State, &state);
        let set = cookie::set(Purpose::State, &state, self.secure);
        let to = [(header::SET_COOKIE, set), (header::LOCATION, authorize.into())];
        Ok((StatusCode::SEE_OTHER, to).into_response())
    }

    /// Makes sure that the browser which comes back is the one that left, on the same errand.
    fn returning(
        &self,
        headers: &HeaderMap,
        query: Result<Query<CallbackQuery>, QueryRejection>,
    ) -> Result<(Ticket, CallbackQuery), Outcome> {
        let Query(query) = query.map_err(|_| Outcome::BadRequest(StatusCode::BAD_REQUEST))?;
        let ticket = self.cookie(headers, Purpose::State).ok_or(Outcome::OtherBrowser)?;
        if !bool::from(ticket.nonce_text().as_bytes().ct_eq(query.state.as_bytes())) {
            return Err(Outcome::OtherBrowser);
        }
        Ok((ticket, query))
    }

    async fn finish(&self, ticket: &Ticket, query: CallbackQuery) -> Result<LoggedIn, Outcome> {
        let account = UserId::parse(&ticket.subject)
            .map_err(|error| internal("signed state without a Matrix id", &error))?;
        let first = self.login.burn(&ticket.nonce_text(), ticket.expires_ms).await;
        if !first.map_err(|error| internal("state not burnt", &*error))? {
            return Err(Outcome::Replayed);
        }
        match (query.error.as_deref(), query.code) {
            (Some("access_denied"), _) => Err(Outcome::Denied),
            (Some(_), _) => {
                tracing::warn!(%account, "gitter answered a login with an error");
                Err(Outcome::GitterDown(StatusCode::BAD_GATEWAY))
            }
            (None, Some(code)) if (1..=MAX_CODE).contains(&code.len()) => {
                let token = self.exchange.exchange(code).await.map_err(|error| {
                    tracing::warn!(%account, error = &error as &dyn Error, "code not exchanged");
                    Outcome::from(&error)
                })?;
                self.login.finish(&account, token).await.map_err(|error| {
                    tracing::warn!(%account, error = &error as &dyn Error, "login not finished");
                    Outcome::from(&error)
                })
            }
            (None, _) => Err(Outcome::CodeRefused),
        }
    }
}

const LIFETIME_MS: i64 = LIFETIME.as_secs().cast_signed() * 1000;

fn fresh_nonce() -> Result<[u8; 16], Outcome> {
    let mut nonce = [0; 16];
    rand::rngs::OsRng
        .try_fill_bytes(&mut nonce)
        .map_err(|error| internal("no random numbers", &error))?;
    Ok(nonce)
}

fn internal(what: &'static str, error: &(dyn Error + 'static)) -> Outcome {
    tracing::error!(error, what, "login page failed");
    Outcome::Internal
}

impl From<&ExchangeError> for Outcome {
    fn from(error: &ExchangeError) -> Self {
        match error {
            ExchangeError::CodeRefused => Self::CodeRefused,
            ExchangeError::Misconfigured { .. } => Self::Misconfigured,
            ExchangeError::Limited => Self::GitterBusy,
            ExchangeError::TimedOut => Self::GitterDown(StatusCode::GATEWAY_TIMEOUT),
            ExchangeError::Unavailable { .. } => Self::GitterDown(StatusCode::BAD_GATEWAY),
        }
    }
}

impl From<&LoginError> for Outcome {
    fn from(error: &LoginError) -> Self {
        match error {
            LoginError::Refused => Self::CodeRefused,
            LoginError::Limited => Self::GitterBusy,
            LoginError::Unavailable(_) => Self::GitterDown(StatusCode::BAD_GATEWAY),
            LoginError::Internal(_) => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests;
