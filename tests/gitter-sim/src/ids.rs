//! Identifiers and times as Gitter writes them.

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// Source of ids and secrets; equal seeds give equal sequences.
#[derive(Debug)]
pub(crate) struct Ids {
    rng: StdRng,
    machine: u64,
    counter: u32,
    serial: u64,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let machine = rng.next_u64() & 0xff_ffff_ffff;
        // Starting low keeps ids of one second in order: the counter must not wrap.
        let counter = rng.next_u32() & 0xffff;
        Self { rng, machine, counter, serial: 0 }
    }

    /// A Mongo `ObjectId` of the given time: eight digits of seconds, machine, counter.
    pub(crate) fn object_id(&mut self, at_ms: i64) -> String {
        self.counter = (self.counter + 1) & 0xff_ffff;
        format!("{:08x}{:010x}{:06x}", (at_ms / 1000) & 0xffff_ffff, self.machine, self.counter)
    }

    /// Forty hex digits: tokens and codes.
    pub(crate) fn secret(&mut self) -> String {
        format!("{:032x}{:08x}", self.rng.random::<u128>(), self.rng.next_u32())
    }

    /// `len` characters of base 36: Faye client ids, session ids, transaction ids.
    pub(crate) fn base36(&mut self, len: usize) -> String {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        (0..len).map(|_| char::from(DIGITS[self.rng.random_range(0..36)])).collect()
    }

    /// A short running number in base 36: ids of published Faye messages.
    pub(crate) fn serial(&mut self) -> String {
        self.serial += 1;
        let (mut rest, mut out) = (self.serial, Vec::new());
        while rest > 0 {
            out.push(char::from_digit(u32::try_from(rest % 36).unwrap_or(0), 36).unwrap_or('0'));
            rest /= 36;
        }
        out.iter().rev().collect()
    }
}

/// Whether `text` is 24 hex digits.
pub(crate) fn is_object_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The id with nothing in place of the machine that made it: below all others of its second, and above those made before.
pub(crate) fn without_machine(id: &str) -> String {
    format!("{}{:010}{}", &id[..8], 0, &id[18..])
}

/// Creation time in ms that an object id carries; 0 for anything else.
pub(crate) fn time_of(id: &str) -> i64 {
    id.get(..8).and_then(|s| i64::from_str_radix(s, 16).ok()).unwrap_or(0) * 1000
}

/// ISO 8601 UTC with milliseconds.
pub(crate) fn iso(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_their_time_and_sort_by_age() {
        let mut ids = Ids::new(7);
        let (a, b) = (ids.object_id(1_608_249_584_123), ids.object_id(1_608_249_584_124));
        assert!(is_object_id(&a) && a < b);
        assert_eq!(time_of(&a), 1_608_249_584_000);
        assert_eq!(iso(1_608_249_584_123), "2020-12-17T23:59:44.123Z");
    }
}
