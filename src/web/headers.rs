//! Headers that keep browsers from doing more with the pages than showing them.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use url::Url;

/// The headers of every answer.
pub(super) fn strict(login_url: &Url, oauth_url: &Url) -> HeaderMap {
    // The form's answer redirects to Gitter, and Chromium holds redirects to `form-action`, too:
    // <https://github.com/w3c/webappsec-csp/issues/8>.
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self' {}; frame-ancestors 'none'; \
         base-uri 'none'",
        oauth_url.origin().ascii_serialization()
    );
    let policy = HeaderValue::from_str(&policy).expect("an origin is ASCII without controls");
    let mut headers = HeaderMap::from_iter([
        (header::CONTENT_SECURITY_POLICY, policy),
        // The addresses have links and codes in them.
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex, nofollow")),
    ]);
    if login_url.scheme() == "https" {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    headers
}

/// Adds them to a response; a `Cache-Control` of its own stays.
pub(super) async fn add(State(strict): State<Arc<HeaderMap>>, mut response: Response) -> Response {
    for (name, value) in strict.iter() {
        response.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    response
}
