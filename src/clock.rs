//! The clocks of the machine.

use std::{
    fmt, fs,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reconcile::{
    model::{Millis, Uptime},
    port::Clock,
};
use tokio::time::Instant;

/// The clock on the wall, which can jump, and the machine's own, which can't. Clones are the same ones.
#[derive(Clone)]
pub struct Clocks {
    wall: Arc<dyn Fn() -> Millis + Send + Sync>,
    uptime: Arc<dyn Fn() -> Uptime + Send + Sync>,
}

impl Clocks {
    /// The system's.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "these are the clocks that everything else is given"
    )]
    pub fn system() -> Self {
        let wall = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Millis(millis(since))
        };
        Self::telling(wall, || of_machine().unwrap_or_else(of_process))
    }

    /// Clocks that tell what they are told to.
    pub fn telling(
        wall: impl Fn() -> Millis + Send + Sync + 'static,
        uptime: impl Fn() -> Uptime + Send + Sync + 'static,
    ) -> Self {
        Self { wall: Arc::new(wall), uptime: Arc::new(uptime) }
    }
}

impl Clock for Clocks {
    fn now(&self) -> Millis {
        (self.wall)()
    }

    fn uptime(&self) -> Uptime {
        (self.uptime)()
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clocks({}, {:?})", self.now().0, self.uptime())
    }
}

/// Since the machine was started, where Linux tells: proc(5), `/proc/uptime` and `/proc/sys/kernel/random/boot_id`.
fn of_machine() -> Option<Uptime> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let boot = BOOT.get_or_init(|| read().map(|id| id.trim().to_owned())).clone()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some(Uptime { boot, ms: millis(Duration::try_from_secs_f64(seconds).ok()?) })
}

/// Since the first question of this process: elsewhere no more is known than that one before it has ended.
fn of_process() -> Uptime {
    static BEGAN: OnceLock<(String, Instant)> = OnceLock::new();
    let name = || format!("{:032x}", StdRng::from_os_rng().random::<u128>());
    let (boot, began) = BEGAN.get_or_init(|| (name(), Instant::now()));
    Uptime { boot: boot.clone(), ms: millis(began.elapsed()) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_machines_own_clock_goes_on_from_process_to_process() {
        let told = of_machine().expect("Linux tells");
        let another = std::process::Command::new("cat").arg("/proc/uptime").output().expect("runs");
        let another = String::from_utf8(another.stdout).expect("text");
        let seconds: u64 = another.split('.').next().expect("some").parse().expect("a number");
        assert!((told.ms / 1000..=told.ms / 1000 + 60).contains(&seconds), "{told:?}, {another}");
        assert_eq!(of_machine().expect("still").boot, told.boot);
    }

    #[test]
    fn where_the_machine_does_not_tell_time_is_measured_within_the_process() {
        let first = of_process();
        let next = of_process();
        assert_eq!(first.boot, next.boot);
        assert!(next.ms >= first.ms);
    }
}
