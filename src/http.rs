//! The only place that makes HTTP clients: every one has timeouts, a bounded pool, no redirects,
//! and TLS that also starts on a machine without CA certificates.

pub mod guarded;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{
    Certificate, Client, ClientBuilder, IntoUrl, Method, Request, RequestBuilder, Response,
    redirect::Policy,
};

const USER_AGENT: &str = concat!("matrix-gitter/", env!("CARGO_PKG_VERSION"));
const CONNECT: Duration = Duration::from_secs(10);
/// Shorter than the 60 s and more after which proxies close quiet connections: a request is not
/// sent into one just closed.
const POOL_IDLE: Duration = Duration::from_secs(45);

/// Whom a client talks to; each has its own patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The homeserver. Answers may take long: it waits up to 60 s itself for other servers.
    Homeserver,
    /// Gitter's REST API and OAuth pages.
    Gitter,
    /// Avatars and other files: quiet for no longer than others, but as long in all as a large file
    /// needs.
    Media,
    /// A check that a person waits for.
    Probe,
}

impl Destination {
    /// Longest silence, longest time for the whole of a request, and idle connections kept for each
    /// host.
    fn limits(self) -> (Duration, Duration, usize) {
        let (read, total, pool) = match self {
            Self::Homeserver => (75, 90, 32),
            Self::Gitter => (30, 60, 16),
            Self::Media => (30, 600, 4),
            Self::Probe => (10, 15, 2),
        };
        (Duration::from_secs(read), Duration::from_secs(total), pool)
    }
}

/// A client could not be made, or an answer not be read.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// TLS or the system's resolver can't be set up.
    #[error("an HTTP client cannot be made")]
    Build(#[source] reqwest::Error),
    /// The body did not arrive in full.
    #[error("the answer's body could not be read")]
    Body(#[source] reqwest::Error),
    /// The body is longer than the caller allows.
    #[error("the answer's body is longer than {0} bytes")]
    TooLong(usize),
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// What the network says.
    #[error(transparent)]
    Network(#[from] reqwest::Error),
    /// What another [`Transport`] says.
    #[error("{what}")]
    Other {
        /// What happened.
        what: &'static str,
        /// The request may have arrived.
        maybe_done: bool,
        /// It took too long.
        timed_out: bool,
    },
}

impl Unanswered {
    /// Whether the request may have been carried out: only a connection that was never made is known not to have done anything.
    #[must_use]
    pub fn maybe_done(&self) -> bool {
        match self {
            Self::Network(error) => !(error.is_connect() || error.is_builder()),
            Self::Other { maybe_done, .. } => *maybe_done,
        }
    }

    /// Whether nobody answered in time.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        match self {
            Self::Network(error) => error.is_timeout(),
            Self::Other { timed_out, .. } => *timed_out,
        }
    }

    /// The same, without the address in its words.
    #[must_use]
    pub fn without_url(self) -> Self {
        match self {
            Self::Network(error) => Self::Network(error.without_url()),
            other @ Self::Other { .. } => other,
        }
    }
}

/// What carries requests instead of the network: a simulation.
pub trait Transport: Send + Sync {
    /// Carries a request there and its answer back, within the request's own timeout.
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Unanswered>>;
}

/// Makes requests. Clones share connections.
#[derive(Clone)]
pub struct Http {
    client: Client,
    /// Instead of the network.
    transport: Option<Arc<dyn Transport>>,
}

impl Http {
    /// Requests made with `client` and carried by `transport`.
    pub fn over(client: Client, transport: Arc<dyn Transport>) -> Self {
        Self { client, transport: Some(transport) }
    }

    /// Whether something else carries its requests than the network.
    #[must_use]
    pub fn is_carried(&self) -> bool {
        self.transport.is_some()
    }

    /// Begins a request; [`Http::send`] makes it.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Makes a request and waits for the head of its answer.
    ///
    /// # Errors
    ///
    /// When it can't be built or isn't answered.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Unanswered> {
        self.execute(request.build()?).await
    }

    /// As [`Http::send`], for a request that is built.
    ///
    /// # Errors
    ///
    /// When it isn't answered.
    pub async fn execute(&self, request: Request) -> Result<Response, Unanswered> {
        match &self.transport {
            None => Ok(self.client.execute(request).await?),
            Some(transport) => transport.carry(request).await,
        }
    }
}

impl From<Client> for Http {
    fn from(client: Client) -> Self {
        Self { client, transport: None }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("network", &self.transport.is_none()).finish_non_exhaustive()
    }
}

/// Makes a client. Call it once for each destination and share the client: its connections are
/// reused.
///
/// # Errors
///
/// When TLS can't be set up at all. A machine without CA certificates is no error: plain `http`
/// works, `https` is refused with a warning now and an error at each request.
pub fn client(destination: Destination) -> Result<Client, HttpError> {
    built(destination, || builder(destination))
}

fn built(destination: Destination, begun: impl Fn() -> ClientBuilder) -> Result<Client, HttpError> {
    begun().build().or_else(|error| {
        let client = begun().tls_certs_only(std::iter::empty::<Certificate>()).build().map_err(|_| HttpError::Build(error))?;
        tracing::warn!(?destination, "no CA certificates on this machine: https will fail; install the package ca-certificates");
        Ok(client)
    })
}

fn builder(destination: Destination) -> ClientBuilder {
    let (read, total, pool) = destination.limits();
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .connect_timeout(if destination == Destination::Probe { read } else { CONNECT })
        .read_timeout(read)
        .timeout(total)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(pool)
}

/// Reads a body of at most `longest` bytes.
///
/// # Errors
///
/// When it is longer, or breaks off.
pub async fn body(mut response: Response, longest: usize) -> Result<Vec<u8>, HttpError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > longest as u64 {
        return Err(HttpError::TooLong(longest));
    }
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(chunk) = response.chunk().await.map_err(HttpError::Body)? {
        if body.len() + chunk.len() > longest {
            return Err(HttpError::TooLong(longest));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

    use super::*;

    async fn answering(answer: ResponseTemplate) -> (MockServer, Response) {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let client = client(Destination::Probe).expect("a client can be made");
        let response = client.get(server.uri()).send().await.expect("the server answers");
        (server, response)
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let answer = ResponseTemplate::new(302).insert_header("Location", "http://127.0.0.1:9/");
        let (server, response) = answering(answer).await;
        assert_eq!(response.status(), 302);
        let requests = server.received_requests().await.expect("requests are recorded");
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].headers["user-agent"], USER_AGENT);
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        for (length, longest, fits) in
            [(0, 0, true), (10, 10, true), (11, 10, false), (100_000, 10, false)]
        {
            let (_server, response) =
                answering(ResponseTemplate::new(200).set_body_bytes(vec![b'x'; length])).await;
            assert_eq!(
                body(response, longest).await.is_ok(),
                fits,
                "{length} bytes, at most {longest}"
            );
        }
    }

    #[test]
    fn a_client_without_certificates_can_be_made() {
        let built =
            builder(Destination::Gitter).tls_certs_only(std::iter::empty::<Certificate>()).build();
        assert!(built.is_ok(), "{built:?}");
    }
}
