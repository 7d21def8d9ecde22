//! What waits, by owner: each owner in turn, what one owner has in its own order. However much one has, it delays another by one
//! turn at a time.

use std::collections::{BTreeMap, VecDeque};

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring<O, T> {
    /// Never an empty one.
    lines: BTreeMap<O, VecDeque<T>>,
    /// Each owner with a line, once, next one first.
    order: VecDeque<O>,
    len: usize,
}

impl<O, T> Default for Ring<O, T> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<O: Ord + Clone, T> Ring<O, T> {
    /// Puts something behind all else of its owner.
    pub(crate) fn push(&mut self, owner: O, item: T) {
        self.len += 1;
        let line = self.lines.entry(owner.clone()).or_default();
        if line.is_empty() {
            self.order.push_back(owner);
        }
        line.push_back(item);
    }

    /// Takes what is next, of an owner that may go now.
    pub(crate) fn pop(&mut self, may_go: impl Fn(&O) -> bool) -> Option<(O, T)> {
        let at = self.order.iter().position(may_go)?;
        let owner = self.order.remove(at)?;
        let line = self.lines.get_mut(&owner)?;
        let item = line.pop_front()?;
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&owner);
        } else {
            self.order.push_back(owner.clone());
        }
        Some((owner, item))
    }

    /// Takes out what an owner has that is not to be kept.
    pub(crate) fn retain(&mut self, owner: &O, keep: impl Fn(&T) -> bool) {
        let Some(line) = self.lines.get_mut(owner) else { return };
        self.len -= line.len();
        line.retain(keep);
        self.len += line.len();
        if line.is_empty() {
            self.lines.remove(owner);
            self.order.retain(|other| other != owner);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_has_its_turn_and_its_own_order() {
        let mut ring = Ring::default();
        for n in 0..4 {
            ring.push("a", n);
        }
        ring.push("b", 10);
        ring.push("c", 20);
        ring.push("c", 21);
        ring.retain(&"a", |n| *n != 1);
        assert_eq!(ring.len(), 6);
        let mut popped = Vec::new();
        while let Some((_, item)) = ring.pop(|_| true) {
            popped.push(item);
        }
        assert_eq!(popped, [0, 10, 20, 2, 21, 3]);
        assert!(ring.is_empty());
        ring.push("a", 1);
        ring.push("b", 2);
        assert_eq!(
            ring.pop(|owner| *owner != "a"),
            Some(("b", 2)),
            "who may not go is passed over"
        );
        ring.retain(&"a", |_| false);
        assert_eq!(ring.pop(|_| true), None);
    }
}
