//! What WebSocket upgrades were refused with, for a moment (decisions.md §6.7).
//!
//! kubectl that is refused a WebSocket asks for SPDY at the same URL, and prints what
//! it is told then: so that is what it was told at first. Asking the API server
//! again could start what is asked for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::wire::stream::Refused;

/// Who asked, for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The id of the user's token.
    pub(crate) token: String,
    /// The request target as it came.
    pub(crate) target: String,
}

/// The last refusals, the oldest first.
#[derive(Default)]
pub(crate) struct LastRefusals(Mutex<VecDeque<(Instant, Asked, Refused)>>);

impl LastRefusals {
    pub(crate) fn keep(&self, asked: Asked, refused: Refused, now: Instant) {
        let fields = refused.headers.iter();
        let fields: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        if asked.target.len() + fields + refused.body.len() > MAX_SIZE {
            return;
        }
        let mut kept = self.0.lock();
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back((now, asked, refused));
    }

    /// The newest refusal of the same, which is forgotten then: there is one second
    /// try.
    pub(crate) fn take(&self, asked: &Asked, now: Instant) -> Option<Refused> {
        let mut kept = self.0.lock();
        kept.retain(|(then, ..)| now.duration_since(*then) < LIFE);
        let at = kept.iter().rposition(|(_, other, _)| other == asked)?;
        kept.remove(at).map(|(.., refused)| refused)
    }
}

/// kubectl's second try comes at once.
const LIFE: Duration = Duration::from_secs(10);

/// How many.
const MAX_KEPT: usize = 256;

/// Bytes of target, fields and body: a `Status` has some hundred.
const MAX_SIZE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Headers;

    fn asked(token: &str, target: &str) -> Asked {
        Asked {
            token: token.to_owned(),
            target: target.to_owned(),
        }
    }

    fn refused(text: &str) -> Refused {
        Refused {
            status: 403,
            headers: Headers::new(),
            body: text.into(),
        }
    }

    #[test]
    fn the_second_try_of_the_same_gets_it_once_and_nobody_else_does() {
        let (last, now) = (LastRefusals::default(), Instant::now());
        last.keep(asked("a", "/x"), refused("first"), now);
        last.keep(asked("a", "/x"), refused("second"), now);
        assert_eq!(last.take(&asked("b", "/x"), now), None);
        assert_eq!(last.take(&asked("a", "/y"), now), None);
        let got = last.take(&asked("a", "/x"), now);
        assert_eq!(got, Some(refused("second")));
        let got = last.take(&asked("a", "/x"), now);
        assert_eq!(got, Some(refused("first")));
        assert_eq!(last.take(&asked("a", "/x"), now), None);
    }

    #[test]
    fn they_are_few_small_and_short_lived() {
        let (last, now) = (LastRefusals::default(), Instant::now());
        last.keep(asked("a", "/x"), refused(&"x".repeat(MAX_SIZE)), now);
        assert_eq!(last.take(&asked("a", "/x"), now), None);
        for n in 0..=MAX_KEPT {
            last.keep(asked("a", &format!("/{n}")), refused(""), now);
        }
        assert_eq!(last.take(&asked("a", "/0"), now), None);
        assert!(last.take(&asked("a", "/1"), now).is_some());
        assert_eq!(last.take(&asked("a", "/2"), now + LIFE), None);
        assert!(last.0.lock().is_empty());
    }
}
