//! Moments that may be measured from in another run of the program.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::Millis;

/// How long the machine has been running: a clock that nobody sets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// Names this run of the machine.
    pub boot: String,
    /// Milliseconds since it began.
    pub ms: u64,
}

impl fmt::Debug for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms of {}", self.ms, self.boot)
    }
}

/// A moment by the clock on the wall, which can be set, and by the machine's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Moment {
    /// By the clock on the wall.
    pub at: Millis,
    /// By the machine's own, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<Uptime>,
}

impl Moment {
    /// The time from here to `now` on this run of the machine; `None` if it was another one, or nobody knows.
    #[must_use]
    pub fn until(&self, now: &Uptime) -> Option<Duration> {
        let up = self.up.as_ref().filter(|up| up.boot == now.boot)?;
        // Containers may begin to count anew without another name.
        now.ms.checked_sub(up.ms).map(Duration::from_millis)
    }
}

impl From<Millis> for Moment {
    fn from(at: Millis) -> Self {
        Self { at, up: None }
    }
}

/// A moment as it is in rows; in old ones it is the wall's alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Wall(Millis),
    Both { at: Millis, up: Option<Uptime> },
}

impl From<Written> for Moment {
    fn from(written: Written) -> Self {
        match written {
            Written::Wall(at) => at.into(),
            Written::Both { at, up } => Self { at, up },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(boot: &str, ms: u64) -> Uptime {
        Uptime { boot: boot.to_owned(), ms }
    }

    #[test]
    fn time_is_measured_within_one_run_of_the_machine_only() {
        let moment = Moment { at: Millis(5), up: Some(up("a", 1000)) };
        assert_eq!(moment.until(&up("a", 3500)), Some(Duration::from_millis(2500)));
        assert_eq!(moment.until(&up("b", 3500)), None);
        assert_eq!(moment.until(&up("a", 999)), None);
        assert_eq!(Moment::from(Millis(5)).until(&up("a", 3500)), None);
    }

    #[test]
    fn a_moment_of_an_older_version_is_read() {
        let old: Moment = serde_json::from_str("17").expect("readable");
        assert_eq!(old, Millis(17).into());
        for moment in [old, Moment { at: Millis(5), up: Some(up("a", 1000)) }] {
            let row = serde_json::to_string(&moment).expect("written");
            assert_eq!(serde_json::from_str::<Moment>(&row).expect("readable"), moment, "{row}");
        }
    }
}
