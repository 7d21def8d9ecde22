//! How a call to the homeserver failed, by what the caller can do about it.

use std::{error::Error, time::Duration};

use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::Deserialize;

use crate::http::Unanswered;

/// A cause that is only printed.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// No homeserver asks for longer waits in earnest; anything above is cut to this.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of a server's own words that are kept.
const MESSAGE_MAX: usize = 300;

/// A call to the homeserver that did not do what was asked.
///
/// Already-so answers ("already in the room", "not in the room", a name taken by ourselves) are no errors: the calls of
/// [`Client`](super::Client) return success for them.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// Too many calls. The call was not executed: repeat it, unchanged, no earlier than `retry_after`.
    #[error("{doing}: the homeserver asks to wait")]
    Limited {
        /// What was being done.
        doing: &'static str,
        /// How long to wait, if the homeserver said so; at most a day.
        retry_after: Option<Duration>,
    },
    /// The ghost or its device is not there yet: `register` and `ensure_device`, then repeat.
    #[error("{doing}: the homeserver does not know this user or its device yet")]
    NotRegistered {
        /// What was being done.
        doing: &'static str,
    },
    /// The joining user has no invite: let the bot invite it, then repeat.
    #[error("{doing}: not invited")]
    NotInvited {
        /// What was being done.
        doing: &'static str,
    },
    /// The acting user is not in the room: bring it in, then repeat with the same transaction id.
    ///
    /// Homeservers answer the same code to someone without the power to do it, and only Synapse's wording is known: when
    /// it comes again from somebody known to be in the room, it is a refusal.
    #[error("{doing}: the acting user is not in the room")]
    NotInRoom {
        /// What was being done.
        doing: &'static str,
        /// The homeserver's words, for people, cut to a line.
        message: String,
    },
    /// The appservice token was refused: a matter of configuration, and of every call.
    #[error("{doing}: the homeserver rejects the appservice token ({errcode})")]
    TokenRejected {
        /// What was being done.
        doing: &'static str,
        /// The homeserver's code.
        errcode: String,
    },
    /// What was named does not exist, or not any more.
    #[error("{doing}: not found")]
    NotFound {
        /// What was being done.
        doing: &'static str,
    },
    /// Pointless to repeat until somebody changes something.
    #[error("{doing}: refused with {status} {errcode}: {message}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The HTTP status.
        status: u16,
        /// The homeserver's code, empty if there was none.
        errcode: String,
        /// The homeserver's words, for people, cut to a line.
        message: String,
    },
    /// No answer, or a server error: repeat later.
    #[error("{doing}: the homeserver is not available")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// The call may have been executed all the same.
        maybe_done: bool,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// An answer that no homeserver gives: a proxy in between, or a wrong address. Nothing is known; repeat later.
    #[error("{doing}: the answer is not Matrix")]
    Malformed {
        /// What was being done.
        doing: &'static str,
        /// The call may have been executed all the same.
        maybe_done: bool,
        /// What is wrong with the answer.
        #[source]
        source: BoxError,
    },
}

impl MatrixError {
    /// Whether the call may have taken effect although it failed.
    ///
    /// `createRoom` is the exception: there, *any* error may leave a room behind (see
    /// [`Client::create_room`](super::Client::create_room)).
    #[must_use]
    pub fn maybe_done(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { maybe_done: true, .. } | Self::Malformed { maybe_done: true, .. }
        )
    }

    /// Whether the same call may succeed later without anything else being done.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Limited { .. } | Self::Unavailable { .. } | Self::Malformed { .. })
    }

    /// The same, answered to somebody who is in the room: then it is a refusal.
    #[must_use]
    pub fn of_member(self) -> Self {
        match self {
            Self::NotInRoom { doing, message } => {
                Self::Refused { doing, status: 403, errcode: "M_FORBIDDEN".to_owned(), message }
            }
            other => other,
        }
    }

    /// How long the homeserver asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What a 403 means depends on the call that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing to do with rooms.
    User,
    /// Joins a room: a 403 is a missing invite.
    Join,
    /// Needs the acting user in the room: a 403 is most likely its absence.
    InRoom,
}

/// The call that failed, as far as its errors depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doing {
    pub(super) what: &'static str,
    pub(super) kind: Kind,
    /// A repeat would not be noticed, because the call only reads.
    pub(super) reads: bool,
}

impl Doing {
    pub(super) fn new(what: &'static str, kind: Kind, method: &Method) -> Self {
        Self { what, kind, reads: *method == Method::GET }
    }

    pub(super) fn unavailable(self, source: impl Into<BoxError>) -> MatrixError {
        MatrixError::Unavailable {
            doing: self.what,
            maybe_done: !self.reads,
            source: source.into(),
        }
    }

    /// The call was not made at all.
    pub(super) fn not_made(self, source: impl Into<BoxError>) -> MatrixError {
        MatrixError::Unavailable { doing: self.what, maybe_done: false, source: source.into() }
    }

    pub(super) fn malformed(self, source: impl Into<BoxError>) -> MatrixError {
        MatrixError::Malformed { doing: self.what, maybe_done: !self.reads, source: source.into() }
    }

    /// No answer.
    pub(super) fn lost(self, error: Unanswered) -> MatrixError {
        let maybe_done = !self.reads && error.maybe_done();
        MatrixError::Unavailable { doing: self.what, maybe_done, source: error.into() }
    }

    /// An answer other than success.
    ///
    /// Statuses without a Matrix error code come from something in front of the homeserver, so that a 403 or 404 of
    /// theirs says nothing about rooms and users.
    pub(super) fn answered(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> MatrixError {
        let what = self.what;
        let said: Said = serde_json::from_slice(body).unwrap_or_default();
        let errcode = said.errcode.as_deref().unwrap_or_default();
        if status == StatusCode::TOO_MANY_REQUESTS || errcode == "M_LIMIT_EXCEEDED" {
            return MatrixError::Limited { doing: what, retry_after: said.wait(headers) };
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return self.unavailable(format!("{} {errcode}: {}", status.as_u16(), said.message()));
        }
        if errcode.is_empty() && status != StatusCode::PAYLOAD_TOO_LARGE {
            return MatrixError::Malformed {
                doing: what,
                maybe_done: false,
                source: format!("{} without a Matrix error code", status.as_u16()).into(),
            };
        }
        match (status.as_u16(), errcode) {
            (_, "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN") => {
                MatrixError::TokenRejected { doing: what, errcode: errcode.to_owned() }
            }
            (_, "M_UNKNOWN_DEVICE") => MatrixError::NotRegistered { doing: what },
            (404, code) if code != "M_UNRECOGNIZED" => MatrixError::NotFound { doing: what },
            (403, "M_FORBIDDEN") => match (self.kind, said.why()) {
                (_, Why::Unregistered) => MatrixError::NotRegistered { doing: what },
                (_, Why::Powerless) | (Kind::User, Why::Unsaid) => said.refused(what, status),
                (Kind::Join, Why::Unsaid) => MatrixError::NotInvited { doing: what },
                (Kind::InRoom, Why::Unsaid) => {
                    MatrixError::NotInRoom { doing: what, message: said.message() }
                }
            },
            _ => said.refused(what, status),
        }
    }
}

/// The standard error body, each field on its own so that a wrong one does not hide the others.
#[derive(Debug, Default, Deserialize)]
struct Said {
    #[serde(default, deserialize_with = "text")]
    errcode: Option<String>,
    #[serde(default, deserialize_with = "text")]
    error: Option<String>,
    #[serde(default)]
    retry_after_ms: serde_json::Value,
}

/// What the words of an `M_FORBIDDEN` tell beyond the code; words are hints, and `Unsaid` must always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Unregistered,
    Powerless,
    Unsaid,
}

impl Said {
    fn message(&self) -> String {
        let words = self.error.as_deref().unwrap_or_default();
        words.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect()
    }

    fn why(&self) -> Why {
        let words = self.error.as_deref().unwrap_or_default();
        if words.contains("has not registered this user") {
            Why::Unregistered
        } else if ["permission", "power", "level", "masquerade"].iter().any(|w| words.contains(w)) {
            Why::Powerless
        } else {
            Why::Unsaid
        }
    }

    /// `retry_after_ms` is finer than the header and preferred; a date in the header is not understood.
    fn wait(&self, headers: &HeaderMap) -> Option<Duration> {
        let header = || headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
        let ms = self.retry_after_ms.as_u64().map(Duration::from_millis);
        Some(ms.or_else(|| header().map(Duration::from_secs))?.min(LONGEST_WAIT))
    }

    fn refused(&self, doing: &'static str, status: StatusCode) -> MatrixError {
        let errcode = self.errcode.as_deref().unwrap_or_default();
        MatrixError::Refused {
            doing,
            status: status.as_u16(),
            errcode: errcode.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect(),
            message: self.message(),
        }
    }
}

/// A string, or nothing for any other type.
fn text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(from)?.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn classify(kind: Kind, status: u16, body: &Value) -> String {
        let doing = Doing { what: "trying", kind, reads: false };
        let status = StatusCode::from_u16(status).expect("a status");
        let bytes = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let error = doing.answered(status, &HeaderMap::new(), bytes.as_bytes());
        let name = format!("{error:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default().to_owned();
        if error.maybe_done() { format!("{name} maybe") } else { name }
    }

    #[test]
    fn an_error_is_named_by_what_can_be_done_about_it() {
        let forbidden = |words: &str| json!({"errcode": "M_FORBIDDEN", "error": words});
        let code = |code: &str| json!({"errcode": code, "error": "words"});
        let unregistered = "Application service has not registered this user (@g:x)";
        let outside = "Application service cannot masquerade as this user (@a:x).";
        let powerless = "You don't have permission to post that to the room. user_level (0) < 50";
        let rows = [
            ("unregistered", Kind::InRoom, 403, forbidden(unregistered), "NotRegistered"),
            ("device", Kind::InRoom, 400, code("M_UNKNOWN_DEVICE"), "NotRegistered"),
            ("outside the namespace", Kind::Join, 403, forbidden(outside), "Refused"),
            ("no invite", Kind::Join, 403, forbidden("You are not invited"), "NotInvited"),
            ("no invite, other words", Kind::Join, 403, forbidden("?"), "NotInvited"),
            ("not in room", Kind::InRoom, 403, forbidden("User @g:x not in room"), "NotInRoom"),
            ("no words", Kind::InRoom, 403, json!({"errcode": "M_FORBIDDEN"}), "NotInRoom"),
            ("no power", Kind::InRoom, 403, forbidden(powerless), "Refused"),
            ("profile of another", Kind::User, 403, forbidden("?"), "Refused"),
            ("banned", Kind::Join, 403, code("M_BAD_STATE"), "Refused"),
            ("token", Kind::User, 401, code("M_UNKNOWN_TOKEN"), "TokenRejected"),
            ("no token", Kind::User, 401, code("M_MISSING_TOKEN"), "TokenRejected"),
            ("gone", Kind::InRoom, 404, code("M_NOT_FOUND"), "NotFound"),
            ("dead room", Kind::Join, 404, code("M_UNKNOWN"), "NotFound"),
            ("no such call", Kind::InRoom, 404, code("M_UNRECOGNIZED"), "Refused"),
            ("too large", Kind::InRoom, 413, code("M_TOO_LARGE"), "Refused"),
            ("too large for the proxy", Kind::InRoom, 413, json!("<html>"), "Refused"),
            ("bad JSON", Kind::InRoom, 400, code("M_BAD_JSON"), "Refused"),
            ("limit", Kind::InRoom, 429, code("M_LIMIT_EXCEEDED"), "Limited"),
            ("a proxy's limit", Kind::InRoom, 429, json!("<html>slow down"), "Limited"),
            ("proxy's 404", Kind::InRoom, 404, json!("<html>nginx"), "Malformed"),
            ("proxy's 403", Kind::Join, 403, json!(""), "Malformed"),
            ("redirect", Kind::User, 302, json!("moved"), "Malformed"),
            ("wrong types", Kind::User, 403, json!({"errcode": 7, "error": []}), "Malformed"),
            ("a list", Kind::User, 400, json!([1, 2]), "Malformed"),
            ("down", Kind::InRoom, 502, json!("<html>Bad Gateway"), "Unavailable maybe"),
            ("broken", Kind::InRoom, 500, code("M_UNKNOWN"), "Unavailable maybe"),
            ("slow", Kind::InRoom, 408, json!(""), "Unavailable maybe"),
        ];
        for (name, kind, status, body, expected) in rows {
            assert_eq!(classify(kind, status, &body), expected, "row: {name}");
        }
    }

    #[test]
    fn a_wait_is_taken_from_the_body_then_from_the_header_and_is_bounded() {
        let rows = [
            (
                "both",
                json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500}),
                "2",
                Some(1500),
            ),
            ("header", json!({"errcode": "M_LIMIT_EXCEEDED"}), "2", Some(2000)),
            ("wrong type", json!({"retry_after_ms": "1500"}), "2", Some(2000)),
            ("a date", json!({}), "Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("negative", json!({"retry_after_ms": -5}), "-2", None),
            ("a year", json!({"retry_after_ms": 31_536_000_000_u64}), "2", Some(86_400_000)),
        ];
        for (name, body, header, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, header.parse().expect("a header"));
            let doing = Doing { what: "trying", kind: Kind::User, reads: false };
            let body = body.to_string();
            let error = doing.answered(StatusCode::TOO_MANY_REQUESTS, &headers, body.as_bytes());
            assert_eq!(error.retry_after(), expected.map(Duration::from_millis), "row: {name}");
            assert!(error.is_transient());
        }
    }

    #[test]
    fn a_servers_words_are_kept_short_and_on_one_line() {
        let body = json!({"errcode": "M_X", "error": format!("a\nb{}", "c".repeat(10_000))});
        let doing = Doing { what: "trying", kind: Kind::User, reads: true };
        let error =
            doing.answered(StatusCode::BAD_REQUEST, &HeaderMap::new(), body.to_string().as_bytes());
        let MatrixError::Refused { message, .. } = error else { panic!("{error:?}") };
        assert_eq!(message.len(), MESSAGE_MAX);
        assert!(message.starts_with("abc"));
    }
}
