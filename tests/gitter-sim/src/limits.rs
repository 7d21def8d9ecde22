//! The REST rate limit: a fixed window per user and OAuth client.

use std::collections::BTreeMap;

/// What the `X-RateLimit-*` headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Epoch ms.
    pub(crate) reset_ms: i64,
    pub(crate) exceeded: bool,
}

#[derive(Debug)]
pub(crate) struct Limits {
    /// `None`: never refuses, but still counts.
    pub(crate) limit: Option<u64>,
    pub(crate) window_ms: i64,
    windows: BTreeMap<(String, String), (i64, u64)>,
}

impl Limits {
    pub(crate) fn new(limit: Option<u64>, window_ms: i64) -> Self {
        Self { limit, window_ms, windows: BTreeMap::new() }
    }

    /// Counts one request; refused ones count as well but do not prolong the window.
    pub(crate) fn take(&mut self, user: &str, client: &str, now_ms: i64) -> Quota {
        let window = self.windows.entry((user.into(), client.into())).or_insert((now_ms, 0));
        if now_ms >= window.0 + self.window_ms {
            *window = (now_ms, 0);
        }
        window.1 += 1;
        let limit = self.limit.unwrap_or(100);
        // Only whole seconds of the window are known, hence the jitter clients see.
        let left_s = (window.0 + self.window_ms - now_ms + 999) / 1000;
        Quota {
            limit,
            remaining: limit.saturating_sub(window.1),
            reset_ms: now_ms + left_s * 1000,
            exceeded: self.limit.is_some_and(|limit| window.1 > limit),
        }
    }

    pub(crate) fn reset(&mut self) {
        self.windows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hundred_and_first_call_of_a_window_is_refused_and_other_clients_are_not() {
        let mut limits = Limits::new(Some(100), 60_000);
        let last = (0..100).map(|i| limits.take("u", "a", i)).last().expect("a hundred");
        assert!(!last.exceeded && last.remaining == 0);
        assert!(limits.take("u", "a", 200).exceeded);
        assert!(!limits.take("u", "b", 200).exceeded);
        let fresh = limits.take("u", "a", 60_000);
        assert!(!fresh.exceeded && fresh.remaining == 99 && fresh.reset_ms == 120_000);
    }
}
