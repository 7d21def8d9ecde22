//! Faults on demand, and the record of calls.

use std::collections::{BTreeMap, VecDeque};

/// How many calls are remembered one by one.
pub const CALLS_KEPT: usize = 20_000;
const MINUTE_MS: u64 = 60_000;

/// What goes wrong with a request of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status and `M_UNKNOWN`; nothing is done.
    Status(u16),
    /// 429, asking to wait so many ms, or not saying how long; nothing is done.
    Limited(Option<u64>),
    /// A proxy's HTML page with 502; nothing is done.
    Html502,
    /// Never answered; nothing is done.
    Hang,
    /// The connection is lost without an answer; nothing is done.
    Drop,
    /// Done, then the connection is lost.
    DropAfterEffect,
    /// Done, but never answered.
    HangAfterEffect,
    /// Done, and answered so many ms later.
    SlowMs(u64),
    /// Done, but a proxy answers 502 with its HTML page.
    Html502AfterEffect,
}

impl Fault {
    pub(crate) fn has_effect(self) -> bool {
        match self {
            Self::DropAfterEffect
            | Self::HangAfterEffect
            | Self::SlowMs(_)
            | Self::Html502AfterEffect => true,
            Self::Status(_) | Self::Limited(_) | Self::Html502 | Self::Hang | Self::Drop => false,
        }
    }
}

/// Which requests a fault is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    /// HTTP method in capitals; `None` for any.
    pub method: Option<String>,
    /// Part of the [`Call::route`]; empty for any.
    pub route: String,
}

impl Matcher {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of one method whose route contains `route`.
    #[must_use]
    pub fn new(method: &str, route: &str) -> Self {
        Self { method: Some(method.to_ascii_uppercase()), route: route.into() }
    }

    fn fits(&self, method: &str, route: &str) -> bool {
        self.method.as_deref().is_none_or(|m| m == method) && route.contains(&self.route)
    }
}

/// One request the homeserver got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Time by the homeserver's clock, in ms since 1970.
    pub at_ms: u64,
    /// HTTP method.
    pub method: String,
    /// Path without query, what varies replaced: `/_matrix/client/v3/rooms/:id/send/m.room.message/:txn`.
    pub route: String,
    /// Path without query, as asked for.
    pub path: String,
    /// Who acted, if known.
    pub user: Option<String>,
    /// Status answered; 0 when there was no answer.
    pub status: u16,
}

/// Faults waiting, calls made and events caused.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<(usize, Matcher, Fault)>,
    calls: VecDeque<Call>,
    /// Number of calls by minute (since 1970) and "METHOD route".
    pub(crate) calls_by_minute: BTreeMap<(u64, String), u64>,
    /// Number of events that the appservice's users sent, by minute and type.
    pub(crate) events_by_minute: BTreeMap<(u64, String), u64>,
}

impl Faults {
    pub(crate) fn add(&mut self, times: usize, matcher: Matcher, fault: Fault) {
        self.rules.push((times, matcher, fault));
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault for this request, used up by one.
    pub(crate) fn take(&mut self, method: &str, route: &str) -> Option<Fault> {
        let rule = self.rules.iter_mut().find(|(n, m, _)| *n > 0 && m.fits(method, route))?;
        rule.0 -= 1;
        let fault = rule.2;
        self.rules.retain(|(n, _, _)| *n > 0);
        Some(fault)
    }

    pub(crate) fn record(&mut self, call: Call) {
        let key = (call.at_ms / MINUTE_MS, format!("{} {}", call.method, call.route));
        *self.calls_by_minute.entry(key).or_default() += 1;
        if self.calls.len() == CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    pub(crate) fn count_event(&mut self, at_ms: u64, kind: &str) {
        let key = (at_ms / MINUTE_MS, kind.to_owned());
        *self.events_by_minute.entry(key).or_default() += 1;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    pub(crate) fn forget(&mut self) {
        self.calls.clear();
        self.calls_by_minute.clear();
        self.events_by_minute.clear();
    }
}

/// The path's parts with ids, transaction ids and state keys replaced.
pub(crate) fn route_of(parts: &[String]) -> String {
    let mut route = String::new();
    for (at, part) in parts.iter().enumerate() {
        let before = |n: usize| at.checked_sub(n).map_or("", |at| parts[at].as_str());
        let shown = match (before(2), before(1)) {
            ("send" | "redact", _) => ":txn",
            ("state", _) if !part.is_empty() => ":key",
            ("download", _) => ":media",
            _ if part.starts_with(['!', '@', '$', '#']) => ":id",
            _ => part,
        };
        route.push('/');
        route.push_str(shown);
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_name_no_room_user_event_or_transaction() {
        let rows = [
            ("_matrix/client/v3/rooms/!r:hs/send/m.reaction/t1", "rooms/:id/send/m.reaction/:txn"),
            ("_matrix/client/v3/rooms/!r/redact/$e/t1", "rooms/:id/redact/:id/:txn"),
            ("_matrix/client/v3/rooms/!r/state/m.bridge/im/x", "rooms/:id/state/m.bridge/:key/x"),
            ("_matrix/client/v3/rooms/!r/state/m.room.name/", "rooms/:id/state/m.room.name/"),
            ("_matrix/client/v3/profile/@a:hs/avatar_url", "profile/:id/avatar_url"),
        ];
        for (path, expected) in rows {
            let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
            assert_eq!(route_of(&parts), format!("/_matrix/client/v3/{expected}"));
        }
    }

    #[test]
    fn a_fault_is_used_up_by_the_requests_it_is_for() {
        let mut faults = Faults::default();
        faults.add(1, Matcher::new("put", "/send/"), Fault::Status(503));
        assert_eq!(faults.take("GET", "/rooms/:id/send/x/:txn"), None);
        assert_eq!(faults.take("PUT", "/rooms/:id/send/x/:txn"), Some(Fault::Status(503)));
        assert_eq!(faults.take("PUT", "/rooms/:id/send/x/:txn"), None);
    }
}
