//! Faults on demand, and the record of calls.

use std::collections::VecDeque;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status and Gitter's JSON error body; nothing is done.
    Status(u16),
    /// Never answered; nothing is done.
    Hang,
    /// Connection cut without an answer; nothing is done.
    Drop,
    /// Done, then the connection is cut: the answer is lost.
    DropAfterEffect,
    /// Done, but never answered.
    HangAfterEffect,
    /// Done, and answered 200 with nothing.
    EmptyBody,
    /// A proxy's HTML page with 502; nothing is done.
    Html502,
    /// Done, and answered after this many ms.
    SlowMs(u64),
}

impl Fault {
    /// Whether the request is carried out all the same.
    pub(crate) fn has_effect(self) -> bool {
        match self {
            Self::DropAfterEffect | Self::HangAfterEffect | Self::EmptyBody | Self::SlowMs(_) => {
                true
            }
            Self::Status(_) | Self::Hang | Self::Drop | Self::Html502 => false,
        }
    }
}

/// Which requests a fault is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    /// HTTP method in capitals; `None` for any.
    pub method: Option<String>,
    /// Part of the path (with `/v1/` or `/login/` in front, without the query); empty for any.
    pub path: String,
}

impl Matcher {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of one method whose path contains `path`.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: Some(method.to_ascii_uppercase()), path: path.into() }
    }

    fn fits(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|m| m == method) && path.contains(&self.path)
    }
}

/// One request the simulator got: REST, `OAuth`, avatars; not Faye, nor the page and its API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Time by the simulator's clock, epoch ms.
    pub at_ms: i64,
    /// HTTP method.
    pub method: String,
    /// Path without query, ids replaced: `/v1/rooms/:id/chatMessages`.
    pub route: String,
    /// Path without query, as asked for.
    pub path: String,
    /// Username of the token's owner, if known.
    pub user: Option<String>,
    /// Status answered; 0 when the connection was cut or left hanging.
    pub status: u16,
}

/// Faults waiting and calls made; the calls are the last [`CALLS_KEPT`].
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<(usize, Matcher, Fault)>,
    calls: VecDeque<Call>,
    pub(crate) total: u64,
}

/// How many calls are remembered.
pub const CALLS_KEPT: usize = 20_000;

impl Faults {
    pub(crate) fn add(&mut self, times: usize, matcher: Matcher, fault: Fault) {
        self.rules.push((times, matcher, fault));
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault for this request, used up by one.
    pub(crate) fn take(&mut self, method: &str, path: &str) -> Option<Fault> {
        let rule = self.rules.iter_mut().find(|(n, m, _)| *n > 0 && m.fits(method, path))?;
        rule.0 -= 1;
        let fault = rule.2;
        self.rules.retain(|(n, _, _)| *n > 0);
        Some(fault)
    }

    pub(crate) fn record(&mut self, call: Call) {
        self.total += 1;
        if self.calls.len() == CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    pub(crate) fn clear_calls(&mut self) {
        self.calls.clear();
        self.total = 0;
    }
}

/// The path with ids replaced by `:id`, and names of users or bans left alone.
pub(crate) fn route_of(path: &str) -> String {
    path.split('/')
        .map(|part| if crate::ids::is_object_id(part) { ":id" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_used_up_by_the_requests_it_is_for() {
        let mut faults = Faults::default();
        faults.add(1, Matcher::new("post", "chatMessages"), Fault::Status(503));
        assert_eq!(faults.take("GET", "/v1/rooms/x/chatMessages"), None);
        assert_eq!(faults.take("POST", "/v1/rooms/x/chatMessages"), Some(Fault::Status(503)));
        assert_eq!(faults.take("POST", "/v1/rooms/x/chatMessages"), None);
    }
}
