//! What the homeserver calls: transactions, queries, pings; and beside them health and metrics.
//!
//! See <https://spec.matrix.org/v1.15/application-service-api/>. Paths without `/_matrix/app/v1`, which homeservers used
//! long ago, are not served.
//!
//! *Guarantees*
//!
//! - A transaction is answered 200 only after [`Intake::transaction`] has returned
//!   (`a_transaction_that_was_not_stored_is_asked_for_again`).
//! - One bad event never fails the others (`one_bad_event_does_not_fail_the_others`).
//! - Without the homeserver's token not a byte of a body is read (`a_stranger_cannot_make_us_read_a_body`).
//! - A query is answered from memory: an unanswered one holds back all events of the appservice.

use std::{
    any::Any, collections::BTreeMap, error::Error, future::Future, sync::Arc, time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest as _, Path, Request, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::header::CONTENT_TYPE,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use reconcile::panics::words;
use ruma::UserId;
use secrecy::SecretString;
use serde::{Serialize, de::IgnoredAny};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use crate::metrics::{self, EventOutcome, Metrics, TransactionOutcome};
use crate::telemetry::Chain;

mod auth;
mod error;
mod transaction;

#[cfg(test)]
mod tests;

pub(crate) use auth::bears;
pub use transaction::Incoming;

use error::ApiError;

/// An intake's reason for not storing a transaction.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// 100 events of 64 KiB, twice over for the copies that `unsigned` holds, and ephemeral data beside them.
const BODY_MAX: usize = 32 << 20;
/// The homeserver gives up after 60 s; what is slower than this is better asked for again.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
const STORE_PATIENCE: Duration = Duration::from_secs(35);
/// Homeservers count, or use a short hash.
const TXN_ID_MAX: usize = 255;
/// The `protocols` entry of the registration.
const PROTOCOL: &str = "gitter";

/// Where everything the homeserver says goes.
pub trait Intake: Clone + Send + Sync + 'static {
    /// Returns when everything is on disk; dropped half-way when that takes too long.
    ///
    /// The homeserver repeats transactions, and some start their ids anew: recognise events by their own ids.
    ///
    /// # Errors
    ///
    /// When not everything could be stored: the homeserver then sends the transaction again.
    fn transaction(
        &self,
        txn_id: String,
        events: Vec<Incoming>,
        ephemeral: Vec<Value>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Whether a user of the namespace is registered already; from memory, at once.
    fn knows_user(&self, user: &UserId) -> bool;

    /// How the bridge's parts are.
    fn ready(&self) -> Readiness;

    /// Brings the metrics that are read off the moment up to date; called before they are shown.
    fn sample(&self, metrics: &Metrics);
}

/// Whether the bridge does its work, part by part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The parts by name; the bridge is ready when all are.
    pub parts: BTreeMap<&'static str, Part>,
}

/// How one part of the bridge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Whether it does its work.
    pub ready: bool,
    /// For an admin, without secrets: what it is doing, or why it cannot.
    pub detail: String,
}

impl Readiness {
    /// Whether all parts are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts.values().all(|part| part.ready)
    }
}

#[derive(Debug, Clone)]
struct App<I> {
    intake: I,
    token: Arc<SecretString>,
    metrics: Metrics,
}

/// All routes of the listener that the homeserver calls. `hs_token` is the registration's.
pub fn router<I: Intake>(intake: I, hs_token: SecretString, metrics: Metrics) -> Router {
    let app = App { intake, token: Arc::new(hs_token), metrics };
    let panics = app.metrics.clone();
    let homeserver = Router::new()
        .route("/transactions/{txn_id}", put(transaction))
        .route("/users/{user_id}", get(user))
        .route("/rooms/{alias}", get(alias))
        .route("/ping", post(ping))
        .route("/thirdparty/protocol/{protocol}", get(protocol))
        .route("/thirdparty/user", get(nothing))
        .route("/thirdparty/user/{protocol}", get(nothing))
        .route("/thirdparty/location", get(nothing))
        .route("/thirdparty/location/{protocol}", get(nothing))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(from_fn_with_state(app.clone(), auth::homeserver_only))
        .layer(DefaultBodyLimit::max(BODY_MAX));
    Router::new()
        .nest("/_matrix/app/v1", homeserver)
        .route("/health/live", get(async || Json(json!({"status": "alive"}))))
        .route("/health/ready", get(ready))
        .route("/metrics", get(scrape))
        .method_not_allowed_fallback(wrong_method)
        .fallback(async || ApiError::Unrecognized)
        .layer(CatchPanicLayer::custom(move |cause: Box<dyn Any + Send>| {
            panics.panic();
            tracing::error!(panic = words(&*cause), "a request panicked");
            ApiError::Internal.into_response()
        }))
        .with_state(app)
}

async fn wrong_method() -> ApiError {
    ApiError::WrongMethod
}

async fn transaction<I: Intake>(
    State(app): State<App<I>>,
    txn_id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let stored = store(&app, txn_id, request).await;
    app.metrics.transaction(match &stored {
        Ok(()) => TransactionOutcome::Stored,
        Err(ApiError::Internal) => TransactionOutcome::Failed,
        Err(_) => TransactionOutcome::Refused,
    });
    stored.map(|()| Json(json!({})))
}

async fn store<I: Intake>(
    app: &App<I>,
    txn_id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<(), ApiError> {
    let Path(txn_id) = txn_id.map_err(|_| ApiError::BadPath)?;
    if txn_id.len() > TXN_ID_MAX {
        return Err(ApiError::BadPath);
    }
    let body = body(request).await?;
    let batch = transaction::parse(&body).inspect_err(|error| {
        tracing::warn!(txn = txn_id, %error, "transaction not understood");
    })?;
    for bad in &batch.bad {
        tracing::warn!(
            txn = txn_id,
            index = bad.index,
            event = bad.event_id.as_deref(),
            error = bad.reason,
            "event left out"
        );
    }
    let (good, bad) = (batch.events.len(), batch.bad.len());
    let stored = app.intake.transaction(txn_id.clone(), batch.events, batch.ephemeral);
    match tokio::time::timeout(STORE_PATIENCE, stored).await {
        Ok(Ok(())) => {
            app.metrics.events(EventOutcome::Accepted, good);
            app.metrics.events(EventOutcome::Malformed, bad);
            Ok(())
        }
        Ok(Err(error)) => {
            tracing::error!(txn = txn_id, error = %Chain(&*error), "transaction not stored");
            Err(ApiError::Internal)
        }
        Err(_) => {
            tracing::error!(txn = txn_id, "storing a transaction took too long");
            Err(ApiError::Internal)
        }
    }
}

/// The whole body, within its bounds of size and time.
async fn body(request: Request) -> Result<Bytes, ApiError> {
    let bytes = Bytes::from_request(request, &());
    match tokio::time::timeout(BODY_PATIENCE, bytes).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BytesRejection::FailedToBufferBody(error)))
            if error.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE =>
        {
            Err(ApiError::TooLarge)
        }
        Ok(Err(_)) => Err(ApiError::Unreadable),
        Err(_) => Err(ApiError::TooSlow),
    }
}

async fn user<I: Intake>(
    State(app): State<App<I>>,
    user: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(user) = user.map_err(|_| ApiError::BadPath)?;
    let known = <&UserId>::try_from(&*user).is_ok_and(|user| app.intake.knows_user(user));
    if known { Ok(Json(json!({}))) } else { Err(ApiError::NotFound) }
}

/// The bridge has no aliases: portals are private.
async fn alias() -> ApiError {
    ApiError::NotFound
}

async fn ping(request: Request) -> Result<Json<Value>, ApiError> {
    let body = body(request).await?;
    if !body.is_empty() && serde_json::from_slice::<IgnoredAny>(&body).is_err() {
        return Err(ApiError::NotJson);
    }
    Ok(Json(json!({})))
}

/// Clients offer this for searching; Gitter rooms are opened by talking to the bot instead, so there are no instances.
async fn protocol(protocol: Result<Path<String>, PathRejection>) -> Result<Json<Value>, ApiError> {
    let Path(protocol) = protocol.map_err(|_| ApiError::BadPath)?;
    if protocol != PROTOCOL {
        return Err(ApiError::NotFound);
    }
    let field = |about: &str| json!({"regexp": "[^\\s]+", "placeholder": about});
    Ok(Json(json!({
        "user_fields": ["username"],
        "location_fields": ["room"],
        "icon": "",
        "field_types": {"username": field("username"), "room": field("community/room")},
        "instances": [],
    })))
}

async fn nothing() -> Json<Value> {
    Json(json!([]))
}

async fn ready<I: Intake>(State(app): State<App<I>>) -> Response {
    let readiness = app.intake.ready();
    let status = if readiness.is_ready() { 200 } else { 503 };
    let status = axum::http::StatusCode::from_u16(status).expect("both are statuses");
    let body = json!({"ready": readiness.is_ready(), "parts": readiness.parts});
    (status, Json(body)).into_response()
}

async fn scrape<I: Intake>(State(app): State<App<I>>) -> Response {
    app.intake.sample(&app.metrics);
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.text()).into_response()
}
