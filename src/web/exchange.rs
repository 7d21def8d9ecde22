//! The two steps of OAuth that involve Gitter: where to send the browser, and code -> token.
//!
//! Gitter's side is in section 3 of its API reference: the client's credentials go in the body,
//! `redirect_uri` is compared byte for byte, errors are told by their status alone.

use std::time::Duration;

use axum::http::{self, StatusCode};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, RedirectUrl, RequestTokenError, TokenResponse as _,
    TokenUrl, basic::BasicClient,
};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{WebConfig, link::below};
use crate::http::{Http, Unanswered};

/// Largest answer that is read, in bytes; Gitter's has about 90.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest token that is believed to be one; Gitter's have 40 characters.
const MAX_TOKEN: usize = 1024;

/// Why there is no token, by what may be done about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("Gitter refused the code")]
    CodeRefused,
    #[error(
        "Gitter refused the bridge itself with status {status}: check gitter_oauth_key, \
         gitter_oauth_secret and gitter_oauth_url"
    )]
    Misconfigured { status: u16 },
    #[error("Gitter takes no more calls for now")]
    Limited,
    #[error("Gitter took too long to answer")]
    TimedOut,
    #[error("Gitter gave no usable answer: {what}")]
    Unavailable {
        what: &'static str,
        #[source]
        source: Option<FetchError>,
    },
}

/// Why an HTTP request brought no answer worth parsing.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error("its answer is too long")]
    TooLong,
    #[error("the request failed")]
    Request(#[source] Unanswered),
    #[error("the answer broke off")]
    Body(#[source] reqwest::Error),
    #[error("the answer makes no sense")]
    Answer(#[source] http::Error),
}

type Client = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

pub(super) struct Exchange {
    client: Client,
    http: Http,
    timeout: Duration,
}

impl Exchange {
    pub(super) fn new(config: &WebConfig, http: Http) -> Self {
        let client = BasicClient::new(ClientId::new(config.oauth_key.clone()))
            .set_client_secret(ClientSecret::new(config.oauth_secret.expose_secret().to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_auth_uri(AuthUrl::from_url(below(&config.oauth_url, "authorize")))
            .set_token_uri(TokenUrl::from_url(below(&config.oauth_url, "token")))
            .set_redirect_uri(RedirectUrl::from_url(below(&config.login_url, "callback")));
        Self { client, http, timeout: config.exchange_timeout }
    }

    /// Where the browser is asked for consent.
    pub(super) fn authorize_url(&self, state: String) -> Url {
        self.client.authorize_url(|| CsrfToken::new(state)).url().0
    }

    /// The token that `code` stands for.
    pub(super) async fn exchange(&self, code: String) -> Result<SecretString, ExchangeError> {
        let fetch = |request| fetch(self.http.clone(), request, self.timeout);
        let answer =
            self.client.exchange_code(AuthorizationCode::new(code)).request_async(&fetch).await;
        let token = match answer {
            Ok(answer) => SecretString::from(answer.access_token().secret().as_str()),
            Err(RequestTokenError::Request(error)) => return Err(classified(error)),
            // Their causes quote the answer, and that may have a token in it.
            Err(
                RequestTokenError::ServerResponse(_)
                | RequestTokenError::Parse(..)
                | RequestTokenError::Other(_),
            ) => return Err(unusable("it is not what OAuth says")),
        };
        let sane = |token: &str| {
            (1..=MAX_TOKEN).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if sane(token.expose_secret()) { Ok(token) } else { Err(unusable("it has no sane token")) }
    }
}

fn unusable(what: &'static str) -> ExchangeError {
    ExchangeError::Unavailable { what, source: None }
}

fn classified(error: FetchError) -> ExchangeError {
    match &error {
        FetchError::Status(StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN) => {
            ExchangeError::CodeRefused
        }
        FetchError::Status(StatusCode::TOO_MANY_REQUESTS) => ExchangeError::Limited,
        // Unknown key or wrong secret; or an address where Gitter isn't.
        FetchError::Status(
            status @ (StatusCode::UNAUTHORIZED
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED),
        ) => ExchangeError::Misconfigured { status: status.as_u16() },
        FetchError::Request(source) if source.timed_out() => ExchangeError::TimedOut,
        FetchError::Status(_)
        | FetchError::TooLong
        | FetchError::Request(_)
        | FetchError::Body(_)
        | FetchError::Answer(_) => {
            ExchangeError::Unavailable { what: "the exchange failed", source: Some(error) }
        }
    }
}

/// One request, with a length and a time limit; any status but 200 is an error.
async fn fetch(
    http: Http,
    request: HttpRequest,
    timeout: Duration,
) -> Result<HttpResponse, FetchError> {
    let mut request =
        reqwest::Request::try_from(request).map_err(|error| FetchError::Request(error.into()))?;
    *request.timeout_mut() = Some(timeout);
    let mut response = http.execute(request).await.map_err(FetchError::Request)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let mut answer = http::Response::builder().status(StatusCode::OK);
    if let Some(kind) = response.headers().get(http::header::CONTENT_TYPE) {
        answer = answer.header(http::header::CONTENT_TYPE, kind);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(FetchError::Body)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(FetchError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    answer.body(body).map_err(FetchError::Answer)
}
