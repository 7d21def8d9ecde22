//! Identifiers and chances that follow from a seed.

use std::ops::RangeInclusive;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Source of ids and delays; equal seeds give equal sequences.
#[derive(Debug)]
pub(crate) struct Ids {
    /// Names things: its sequence does not depend on how often chance was asked.
    names: StdRng,
    chance: StdRng,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed ^ 0x5851_f42d_4c95_7f2d);
        Self { names: StdRng::seed_from_u64(seed), chance }
    }

    /// `$` and 43 characters of URL-safe base64, as a hash of the event would be.
    pub(crate) fn event(&mut self) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        format!("${}", self.text(DIGITS, 43))
    }

    /// 18 letters, as Synapse names rooms; also good for files.
    pub(crate) fn letters(&mut self, len: usize) -> String {
        self.text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", len)
    }

    /// A delay within `range`, in milliseconds.
    pub(crate) fn delay(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.chance.random_range(range.clone())
    }

    fn text(&mut self, digits: &[u8], len: usize) -> String {
        (0..len).map(|_| char::from(digits[self.names.random_range(0..digits.len())])).collect()
    }
}
