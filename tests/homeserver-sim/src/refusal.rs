//! The homeserver's "no".

use serde_json::{Value, json};

/// A refused request: a status, Matrix' code, and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; 0 when the homeserver is down.
    pub status: u16,
    /// Matrix' error code, such as `M_FORBIDDEN`.
    pub errcode: &'static str,
    /// Synapse's words.
    pub words: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.errcode, self.words)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    pub(crate) fn new(status: u16, errcode: &'static str, words: impl Into<String>) -> Self {
        Self { status, errcode, words: words.into() }
    }

    pub(crate) fn forbidden(words: impl Into<String>) -> Self {
        Self::new(403, "M_FORBIDDEN", words)
    }

    pub(crate) fn not_found(words: impl Into<String>) -> Self {
        Self::new(404, "M_NOT_FOUND", words)
    }

    pub(crate) fn not_in_room(user: &str, room: &str) -> Self {
        Self::forbidden(format!("User {user} not in room {room}"))
    }

    pub(crate) fn bad_state(words: impl Into<String>) -> Self {
        Self::new(403, "M_BAD_STATE", words)
    }

    /// Nobody answers: the homeserver is stopped.
    pub(crate) fn down() -> Self {
        Self::new(0, "", "the homeserver is down")
    }

    pub(crate) fn body(&self) -> Value {
        json!({"errcode": self.errcode, "error": self.words})
    }
}
