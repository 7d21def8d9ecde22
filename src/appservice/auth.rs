//! Only the homeserver may speak here, and it shows its token in the header.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{App, error::ApiError};

/// Lets a request pass that carries the homeserver's token as `Authorization: Bearer …`.
///
/// The query parameter of old homeservers is not accepted: addresses end up in logs.
pub(super) async fn homeserver_only<I: Clone + Send + Sync + 'static>(
    State(app): State<App<I>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    judge(request.headers(), &app.token)?;
    Ok(next.run(request).await)
}

/// Whether a request carries `token`, as [`homeserver_only`] wants it.
pub(crate) fn bears(headers: &HeaderMap, token: &SecretString) -> bool {
    judge(headers, token).is_ok()
}

fn judge(headers: &HeaderMap, right: &SecretString) -> Result<(), ApiError> {
    let header = headers.get(AUTHORIZATION).ok_or(ApiError::MissingToken)?;
    let (scheme, token) = split(header.as_bytes()).ok_or(ApiError::MissingToken)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(ApiError::MissingToken);
    }
    // Hashes have one length, so that not even the token's length can be timed.
    let [given, right] = [token, right.expose_secret().as_bytes()].map(Sha256::digest);
    if !bool::from(given.as_slice().ct_eq(right.as_slice())) {
        tracing::warn!("somebody called with another token than the homeserver's");
        return Err(ApiError::WrongToken);
    }
    Ok(())
}

fn split(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = header.iter().position(|&byte| byte == b' ')?;
    Some((&header[..at], header[at..].trim_ascii()))
}
