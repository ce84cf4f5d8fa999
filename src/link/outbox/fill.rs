//! From the lanes into one write call: whose turn it is, and what he says.

use std::sync::Arc;

use super::State;
use crate::link::lanes::Party;
use crate::link::message::{HEADROOM, Kind, Message};
use crate::link::speaker::Speaker;
use crate::sync::MutexGuard;

/// Takes what one write call may carry. The lock is free while speakers are asked.
pub(super) fn fill(state: &mut MutexGuard<'_, State>, messages: &mut Vec<Message>) {
    let mut bytes = 0;
    while bytes < GATHER && messages.len() < GATHER_MESSAGES {
        if let Some(message) = state.lanes.control.pop() {
            bytes += message.len();
            messages.push(message);
        } else if let Some(speaker) = state.lanes.speaking.pop_front() {
            let message = ask(state, speaker);
            bytes += message.len();
            if !message.is_empty() {
                messages.push(message);
            }
        } else {
            bytes += match state.lanes.turns.next_turn() {
                Some(Party::Slot(slot)) => {
                    let most = GATHER_MESSAGES - messages.len();
                    state.lanes.turn(slot, messages, most)
                }
                Some(Party::Speaker(speaker)) => turn(state, speaker, messages),
                None => return,
            };
        }
    }
}

/// Asks this speaker, and those behind it, for control frames.
fn ask(state: &mut MutexGuard<'_, State>, first: Arc<dyn Speaker>) -> Message {
    let mut buf = vec![0; HEADROOM];
    let mut next = Some(first);
    while let Some(speaker) = next {
        MutexGuard::unlocked(state, || {
            speaker.control(&mut buf);
            drop(speaker);
        });
        // What came in the control lane in the meantime goes before those who came
        // after it: the answer to a hello, before the new session's frames.
        let more = buf.len() < HEADROOM + CONTROL_FRAMES && state.lanes.control.is_empty();
        next = if more {
            state.lanes.speaking.pop_front()
        } else {
            None
        };
    }
    Message::from_buffer(Kind::Binary, buf.into())
}

/// A speaker has its turn; gives back how many bytes it used.
fn turn(
    state: &mut MutexGuard<'_, State>,
    speaker: Arc<dyn Speaker>,
    messages: &mut Vec<Message>,
) -> usize {
    let before = messages.len();
    let speaker = MutexGuard::unlocked(state, || {
        let more = speaker.turn(messages) && messages.len() > before;
        more.then_some(speaker)
    });
    let bytes = messages[before..].iter().map(Message::len).sum();
    state.lanes.turns.spent(bytes);
    match speaker {
        Some(speaker) if !state.abandoned() => {
            state.lanes.turns.again(Party::Speaker(speaker), bytes);
        }
        Some(speaker) => MutexGuard::unlocked(state, || drop(speaker)),
        None => {}
    }
    bytes
}

/// Bytes of messages in one write call.
const GATHER: usize = 64 * 1024;

/// Bytes of control frames after which no further speaker is asked for a message.
const CONTROL_FRAMES: usize = 4 * 1024;

/// Messages in one write call: with pings, pongs and a close frame in front they
/// fit into what the write half passes to the system at once.
pub(in crate::link) const GATHER_MESSAGES: usize = 60;
