//! Whether the control plane holds a cluster token that is still current
//! (control-channel.md T14): a projected one is replaced before its hour is over, and
//! one of a pod is worth nothing when the pod is gone.

use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::identity::token_hash;

/// What was handed over, by hash: a token of an earlier run is known by nothing else.
pub(super) struct Handover {
    /// With the `register` that was sent last.
    sent: Option<String>,
    /// With the one that was confirmed last.
    held: Option<String>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Handover {
    /// `held`: what an earlier run has stored.
    pub(super) fn new(held: Option<String>) -> Self {
        Self {
            sent: None,
            held,
            not_before: None,
            pause: FIRST_PAUSE,
        }
    }

    /// A `register` goes out with this token.
    pub(super) fn sent(&mut self, hash: Option<String>) {
        self.sent = hash;
    }

    /// The registration was confirmed; what is to be stored of it.
    pub(super) fn confirmed(&mut self) -> Option<String> {
        self.held.clone_from(&self.sent);
        self.held.clone()
    }

    /// Whether another registration is due, given the tokens that there are now. If
    /// it is, it isn't again for a minute, and longer each time, whatever becomes of it.
    pub(super) fn is_due(&mut self, now: Instant, tokens: &[Secret]) -> bool {
        let held = self.held.as_ref();
        if tokens.is_empty() || tokens.iter().any(|token| held == Some(&token_hash(token))) {
            self.pause = FIRST_PAUSE;
            return false;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.not_before = now.checked_add(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// The kubelet replaces a token at 80 % of its life, of ten minutes at least: there
/// is time for a second try.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_gone_is_handed_over_anew_until_that_is_confirmed() {
        let tokens = |names: &[&str]| names.iter().map(|n| Secret::new(*n)).collect::<Vec<_>>();
        let hash = |name: &str| Some(token_hash(&Secret::new(name)));
        let mut now = Instant::now();
        let mut handover = Handover::new(hash("operator"));
        assert!(!handover.is_due(now, &[]), "nothing to hand over");
        let both = tokens(&["operator", "mounted"]);
        assert!(!handover.is_due(now, &both), "one of them is held");
        // The operator's is taken away, or the mounted one was held and is replaced.
        let mounted = tokens(&["mounted"]);
        assert!(handover.is_due(now, &mounted));
        let mut waits = Vec::new();
        for _ in 0..5 {
            handover.sent(hash("mounted"));
            let before = now;
            while !handover.is_due(now, &mounted) {
                now += Duration::from_secs(30);
            }
            waits.push((now - before).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 300, 300], "sent is not confirmed");
        assert_eq!(handover.confirmed(), hash("mounted"));
        assert!(!handover.is_due(now + LONGEST_PAUSE, &mounted));
        // A new process that knows of nothing.
        assert!(Handover::new(None).is_due(now, &mounted));
    }
}
