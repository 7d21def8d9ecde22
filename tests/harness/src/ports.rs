//! Ports nobody uses, and names nobody has.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Below the range from which systems take ports for outgoing connections, so that none of these can
/// grab a port between its choice and its use.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A loopback port that is free now and that this process has not chosen before.
///
/// # Errors
/// When a thousand ports tried by chance are all taken.
pub fn free_port() -> Result<u16> {
    static CHOSEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut chosen = CHOSEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut rng = StdRng::from_os_rng();
    for _ in 0..1000 {
        let port = rng.random_range(RANGE);
        if !chosen.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            chosen.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 between {} and {}", RANGE.start, RANGE.end)
}

/// `stem` with a number that this process has not used before: `alice-7`.
#[must_use]
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// `bytes` of randomness in hexadecimal, for tokens and passwords.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    StdRng::from_os_rng().fill(random.as_mut_slice());
    hex(&random)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_names_are_never_given_twice() {
        let ports: BTreeSet<_> = (0..50).map(|_| free_port().expect("a port")).collect();
        assert_eq!(ports.len(), 50);
        assert_ne!(unique("alice"), unique("alice"));
    }
}
