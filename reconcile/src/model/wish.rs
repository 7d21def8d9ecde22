//! A fact that the user owns: what they want, what was last seen, and how much a reading is worth.

use serde::{Deserialize, Serialize};

use super::Millis;

/// A reading of the outside world, or the lack of one.
///
/// No reading is not a reading of "no": what is `Unknown` is left alone, and only what is `Fresh` may be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seen<T> {
    /// Never read, or the call failed.
    #[default]
    Unknown,
    /// Read in an earlier pass.
    Stale(T),
    /// Read in this pass.
    Fresh(T),
}

impl<T> Seen<T> {
    /// The reading of this pass, if there is one.
    pub fn fresh(&self) -> Option<&T> {
        match self {
            Self::Fresh(value) => Some(value),
            Self::Unknown | Self::Stale(_) => None,
        }
    }
}

/// Why a wish is as it is; shown by `status` and `why`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The user said so to the bot.
    Asked,
    /// The room was among the user's rooms at login.
    Login,
    /// At login there were more rooms than portals are opened for.
    TooMany,
    /// The user did it on Gitter itself, or somebody there did it to them.
    OnGitter,
    /// The user left, declined or was removed from the portal.
    LeftPortal,
    /// The user logged out.
    Logout,
    /// Gitter refused to make it so.
    Refused,
}

/// A fact owned by the user: the value last asked for, and the value last observed.
///
/// They differ exactly while something is pending. A wish never observed counts as different from everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish<T> {
    /// What the user last asked for.
    pub desired: T,
    /// What was last observed; `None` before the first look.
    pub last: Option<T>,
    /// Grows with every new word of the user, never shrinks.
    pub generation: u64,
    /// When the word was spoken, by the clock of the side on which it was.
    pub at: Millis,
    /// Whose word it was.
    pub reason: Reason,
    /// Whether a call to make it so was begun since the word; written before that call.
    #[serde(default = "unknown")]
    pub tried: bool,
    /// Whether such a call for the contrary may still have been under way when the word was spoken. Matters only while nothing counts
    /// as observed.
    #[serde(default = "unknown")]
    pub overtakes: bool,
}

/// A row of before this was written down: it may have been so.
fn unknown() -> bool {
    true
}

impl<T: PartialEq + Copy> Wish<T> {
    /// A wish just spoken, nothing observed yet.
    pub fn new(desired: T, reason: Reason, at: Millis) -> Self {
        Self { desired, last: None, generation: 1, at, reason, tried: false, overtakes: false }
    }

    /// A fact found as it is: nothing is pending.
    pub fn found(value: T, reason: Reason, at: Millis) -> Self {
        Self { last: Some(value), ..Self::new(value, reason, at) }
    }

    /// Whether the outside world has not been seen as desired yet.
    pub fn pending(&self) -> bool {
        self.last != Some(self.desired)
    }

    /// The user's newer word. An older one than the last is ignored: transactions of different rooms may cross.
    ///
    /// While the word before is pending, it may have come true unseen: then nothing counts as observed, so that this word
    /// is not taken for done already, and what came of the other one not for something that the user did elsewhere. A word that
    /// only repeats the one before changes nothing of that.
    ///
    /// Returns whether it was taken.
    pub fn ask(&mut self, desired: T, reason: Reason, at: Millis) -> bool {
        if at < self.at {
            return false;
        }
        if self.desired != desired {
            let unseen = self.last.is_none() && self.overtakes;
            self.overtakes = self.pending() && (self.tried || unseen);
            if self.pending() {
                self.last = None;
            }
            self.tried = false;
        }
        self.desired = desired;
        self.generation += 1;
        self.at = at;
        self.reason = reason;
        true
    }

    /// This row is older than its world: which calls were begun since is not known.
    pub fn forget_begun(&mut self) {
        (self.tried, self.overtakes) = (true, true);
    }

    /// The user acted on the other side: what is seen there is what they want.
    pub fn adopt(&mut self, now: T, reason: Reason, at: Millis) {
        self.desired = now;
        self.last = Some(now);
        self.tried = false;
        self.generation += 1;
        self.at = self.at.max(at);
        self.reason = reason;
    }
}
