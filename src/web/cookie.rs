//! The cookies of a login: signed, for this host alone, out of reach of scripts.
//!
//! `__Host-` makes browsers refuse them from anything but https and this very host, see
//! <https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#name-the-__host-prefix>; on
//! plain http, as on loopback, it can't be used. `SameSite=Lax` lets them come along when Gitter
//! sends the browser back, and never with another site's form.

use axum::http::{HeaderMap, header};

use super::link::{LIFETIME, Purpose};

fn name(purpose: Purpose, secure: bool) -> String {
    let prefix = if secure { "__Host-" } else { "" };
    format!("{prefix}matrix-gitter-{}", purpose.name())
}

fn header(purpose: Purpose, value: &str, seconds: u64, secure: bool) -> String {
    let name = name(purpose, secure);
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

/// `Set-Cookie` for a ticket.
pub(super) fn set(purpose: Purpose, ticket: &str, secure: bool) -> String {
    header(purpose, ticket, LIFETIME.as_secs(), secure)
}

/// `Set-Cookie` that makes the browser forget it.
pub(super) fn forget(purpose: Purpose, secure: bool) -> String {
    header(purpose, "", 0, secure)
}

/// The values a request has for the cookie; more than one when another path or host set some, too.
pub(super) fn all(
    headers: &HeaderMap,
    purpose: Purpose,
    secure: bool,
) -> impl Iterator<Item = &str> {
    let name = name(purpose, secure);
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(move |pair| {
            let (found, value) = pair.trim().split_once('=')?;
            (found == name).then_some(value)
        })
        // Each costs a signature check.
        .take(4)
}
