//! What must hold, whatever a script does.

use super::{Half, READER, SENDER, World};
use crate::yamux::{Cut, Input};

impl World {
    /// Who sleeps has nothing to do.
    pub(super) fn check_sleepers(&self) {
        for pair in &self.streams {
            for (half, end) in pair.halves.iter().zip(&self.ends) {
                let Some(handle) = &half.handle else { continue };
                let woken = end.hub.woken.get(&pair.id).copied().unwrap_or_default();
                let sleeps = |who: usize| half.sleeps[who] && !woken[who];
                if sleeps(READER) {
                    assert_eq!(handle.borrow().peek(), Ok(Input::Wait), "not woken");
                }
                if sleeps(SENDER) {
                    // With half of his frames still to be written he may sleep on.
                    let stream = handle.borrow();
                    assert!(stream.room() == Ok(0) || stream.queued() > 0, "not woken");
                }
            }
        }
    }

    /// A stream that is cut was reset by somebody, or refused, or waited in vain
    /// for a FIN.
    pub(super) fn check_cut(&self, n: usize, side: usize, cut: Cut) {
        let [a, b] = &self.streams[n].halves;
        assert_ne!(cut, Cut::SessionLost);
        let (us, peer) = if side == 0 { (a, b) } else { (b, a) };
        if cut == Cut::ByUs {
            assert!(us.reset || us.finished);
        } else {
            let refused = peer.handle.is_none();
            assert!(peer.reset || peer.finished || refused);
        }
    }

    /// After [`World::settle`]: what was sent has been read.
    pub(super) fn check(&mut self) {
        for pair in &mut self.streams {
            for side in 0..2 {
                let [a, b] = &pair.halves;
                let (us, peer) = if side == 0 { (a, b) } else { (b, a) };
                let (Some(ours), Some(theirs)) = (&us.handle, &peer.handle) else {
                    continue;
                };
                let mut stream = ours.borrow_mut();
                if stream.cut().is_some() {
                    assert!(theirs.borrow().cut().is_some() || peer.finished);
                    continue;
                }
                assert_eq!(stream.queued(), 0);
                if peer.finished {
                    assert!(matches!(stream.read(), Ok(Input::End)));
                }
                if us.discards || theirs.borrow().cut().is_some() {
                    continue;
                }
                assert_eq!(us.read, peer.sent, "stream {}", pair.id);
                if !peer.finished {
                    let room = theirs.borrow().room();
                    assert!(room.is_ok_and(|room| room > 0), "stuck: {room:?}");
                }
            }
        }
        for side in 0..2 {
            let windows: usize = self
                .streams
                .iter()
                .filter_map(|pair| pair.halves[side].handle.as_ref())
                .map(|handle| handle.borrow().window() as usize - (256 << 10))
                .sum();
            assert!(self.budgets[side].charged() <= windows, "memory is kept");
            assert_eq!(self.pools[side].out(), 0, "buffers are kept");
        }
    }

    /// All streams have ended, so nobody remembers any.
    pub(super) fn leave_nothing(self) {
        let whole = |half: &Half| {
            half.handle
                .as_ref()
                .is_some_and(|s| s.borrow().cut().is_none())
        };
        let mut halves = self.streams.iter().flat_map(|pair| &pair.halves);
        let undisturbed = halves.all(whole);
        for (side, end) in self.ends.iter().enumerate() {
            assert!(end.hub.session.is_empty(), "side {side}: a stream is kept");
            assert!(end.hub.control.is_empty() && end.hub.turns.is_empty());
            if undisturbed {
                assert_eq!(end.hub.session.ignored(), 0, "an id was forgotten early");
            }
        }
        drop((self.ends, self.streams));
        for budget in self.budgets {
            assert_eq!(budget.charged(), 0);
        }
    }
}
