//! Remembers the last of many names.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// The names that were inserted last. Hashes of them, so that long names take no
/// more than short ones.
#[derive(Debug, Default)]
pub(super) struct Recent {
    hasher: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Recent {
    pub(super) fn insert(&mut self, name: &str) {
        let hash = self.hasher.hash_one(name);
        if !self.known.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        let hash = self.hasher.hash_one(name);
        if self.known.remove(&hash) {
            self.order.retain(|other| *other != hash);
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.known.contains(&self.hasher.hash_one(name))
    }
}

/// As many as can end within what a message takes to the peer and back.
const MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = Recent::default();
        for number in 0..=MAX {
            recent.insert(&number.to_string());
            recent.insert(&number.to_string());
        }
        assert!(!recent.contains("0") && recent.contains("1"));
        recent.remove("1");
        recent.remove("never there");
        assert!(!recent.contains("1") && recent.contains("2"));
        assert_eq!((recent.known.len(), recent.order.len()), (MAX - 1, MAX - 1));
    }
}
