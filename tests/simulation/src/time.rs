//! Virtual time: one clock for all worlds, whatever becomes of the bridge.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use matrix_gitter::clock::Clocks;
use reconcile::model::{Millis, Uptime};
use tokio::time::Instant;

/// When a simulation begins, in milliseconds since 1970: 2026-01-01.
pub const BEGIN: u64 = 1_767_225_600_000;

/// The worlds' clock. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Time {
    began: Instant,
    /// How wrong the clock of the bridge's machine is, in milliseconds.
    skew: Arc<AtomicI64>,
    /// When that machine was started last, by [`Self::now`].
    booted: Arc<AtomicU64>,
}

impl Time {
    /// A clock that shows [`BEGIN`]. Needs a runtime whose clock is paused.
    #[must_use]
    pub fn new() -> Self {
        Self { began: Instant::now(), skew: Arc::default(), booted: Arc::new(BEGIN.into()) }
    }

    /// Milliseconds since 1970, as the worlds have it.
    #[must_use]
    pub fn now(&self) -> u64 {
        BEGIN + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// Sets how wrong the bridge's clock is, in milliseconds.
    pub fn set_skew(&self, skew: i64) {
        self.skew.store(skew, Relaxed);
    }

    /// The bridge's machine is started anew.
    pub fn boot(&self) {
        self.booted.store(self.now(), Relaxed);
    }

    /// The clocks of the bridge's machine.
    #[must_use]
    pub fn clocks(&self) -> Clocks {
        let (wall, machine) = (self.clone(), self.clone());
        Clocks::telling(
            move || Millis(wall.now().saturating_add_signed(wall.skew.load(Relaxed))),
            move || {
                let booted = machine.booted.load(Relaxed);
                Uptime { boot: booted.to_string(), ms: machine.now().saturating_sub(booted) }
            },
        )
    }
}

impl Default for Time {
    fn default() -> Self {
        Self::new()
    }
}

/// `12:03:04.567` since the beginning, with days in front when there are any.
#[must_use]
pub fn shown(ms: u64) -> String {
    let ms = ms.saturating_sub(BEGIN);
    let (s, ms) = (ms / 1000, ms % 1000);
    let (days, h, m, s) = (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60);
    let days = if days > 0 { format!("{days}d ") } else { String::new() };
    format!("{days}{h:02}:{m:02}:{s:02}.{ms:03}")
}
