//! The removal brake: a world that looks as if everybody had left at once is looked at twice.

use std::collections::BTreeMap;

use std::time::Duration;

use crate::model::Millis;

/// When removals are too many to be believed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrakeLimits {
    /// Up to so many removals in one pass are always believed.
    pub count: usize,
    /// Up to this share of all, in percent, too.
    pub percent: usize,
    /// How much later the same has to be seen again.
    pub apart: Duration,
}

impl Default for BrakeLimits {
    fn default() -> Self {
        Self { count: 20, percent: 25, apart: Duration::from_secs(600) }
    }
}

/// What a pass may do with the removals it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brake {
    /// Go on.
    Released,
    /// Remove nothing; look again later.
    Holds,
}

/// Judges `removals` out of `total`.
#[must_use]
pub fn judge(limits: &BrakeLimits, removals: usize, total: usize) -> Brake {
    if removals <= limits.count || removals * 100 <= total * limits.percent {
        Brake::Released
    } else {
        Brake::Holds
    }
}

/// What looks removed, per scope (an account's rooms, all portals); what is held is shown by `status` and to admins.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<String, BTreeMap<String, Sight>>);

#[derive(Debug)]
struct Sight {
    first: Millis,
    released: bool,
}

impl Held {
    /// Judges what a pass saw as removed in `scope`, together with what was seen as removed shortly before.
    ///
    /// What was held is released when it is still seen so after [`BrakeLimits::apart`].
    pub fn judge<'a>(
        &mut self,
        limits: &BrakeLimits,
        scope: &str,
        removed: impl IntoIterator<Item = &'a str>,
        total: usize,
        now: Millis,
    ) -> Brake {
        let sights = self.0.entry(scope.to_owned()).or_default();
        sights.retain(|_, sight| !sight.released || now.since(sight.first) < limits.apart);
        let removed: Vec<&str> = removed.into_iter().collect();
        for &key in &removed {
            sights.entry(key.to_owned()).or_insert(Sight { first: now, released: false });
        }
        let seen_again = removed
            .iter()
            .all(|&key| sights.get(key).is_some_and(|s| now.since(s.first) >= limits.apart));
        let verdict = if seen_again { Brake::Released } else { judge(limits, sights.len(), total) };
        if verdict == Brake::Released {
            for key in removed {
                sights.entry(key.to_owned()).and_modify(|sight| sight.released = true);
            }
        }
        verdict
    }

    /// `key` was seen in its place, or nobody wants it there any more: it is not held.
    ///
    /// A removal that was let through still counts for a while, as removals found one by one add up.
    pub fn seen(&mut self, scope: &str, key: &str) {
        if let Some(sights) = self.0.get_mut(scope)
            && sights.get(key).is_some_and(|sight| !sight.released)
        {
            sights.remove(key);
        }
    }

    /// How many removals are held, by scope.
    #[must_use]
    pub fn all(&self) -> Vec<(String, usize)> {
        let held =
            |sights: &BTreeMap<String, Sight>| sights.values().filter(|s| !s.released).count();
        self.0.iter().map(|(scope, s)| (scope.clone(), held(s))).filter(|(_, n)| *n > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_removals_out_of_few_are_not_believed_at_once() {
        let limits = BrakeLimits::default();
        let rows = [
            ("none", 0, 0, Brake::Released),
            ("few of few", 20, 20, Brake::Released),
            ("many of few", 21, 21, Brake::Holds),
            ("many, but a small share", 25, 100, Brake::Released),
            ("many and a large share", 26, 100, Brake::Holds),
        ];
        for (name, removals, total, expected) in rows {
            assert_eq!(judge(&limits, removals, total), expected, "row: {name}");
        }
    }

    #[test]
    fn what_is_held_is_released_when_it_is_seen_again_later() {
        let limits = BrakeLimits::default();
        let keys: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let mut held = Held::default();
        let mut at =
            |ms| held.judge(&limits, "all", keys.iter().map(String::as_str), 40, Millis(ms));
        assert_eq!(at(0), Brake::Holds);
        assert_eq!(at(599_999), Brake::Holds, "a pass soon after is no second sight");
        assert_eq!(at(600_000), Brake::Released);
    }

    #[test]
    fn removals_found_one_by_one_add_up_until_they_are_too_many() {
        let limits = BrakeLimits::default();
        let mut held = Held::default();
        let mut one =
            |n: u32| held.judge(&limits, "all", [n.to_string().as_str()], 40, Millis(u64::from(n)));
        assert!((0..20).all(|n| one(n) == Brake::Released));
        for n in 0..20 {
            held.seen("all", &n.to_string());
        }
        let mut one =
            |n: u32| held.judge(&limits, "all", [n.to_string().as_str()], 40, Millis(u64::from(n)));
        assert_eq!(one(20), Brake::Holds, "also when the first ones have come back or closed");
        held.seen("all", "20");
        assert!(held.all().is_empty(), "what was seen back is not held");
    }
}
