use proptest::prelude::*;

use super::*;

fn message(len: usize) -> Message {
    Message::binary(len, |buf| buf.extend(std::iter::repeat_n(7, len)))
}

fn slot(number: u8) -> Slot {
    Slot::of(&number.to_string())
}

/// Lengths of the messages of a turn; none when the slot is no more.
fn turn(slots: &mut Slots, slot: Slot) -> Option<Vec<usize>> {
    let mut messages = Vec::new();
    let bytes = slots.turn(slot, &mut messages, usize::MAX)?;
    let lengths: Vec<usize> = messages.iter().map(Message::len).collect();
    assert_eq!(lengths.iter().sum::<usize>(), bytes);
    Some(lengths)
}

fn admitted(pushed: &Pushed) -> bool {
    let outcome = pushed.wait.as_ref().map(|wait| wait.outcome());
    assert_ne!(outcome, Some(Some(Waited::Closed)));
    outcome.is_none_or(|outcome| outcome == Some(Waited::Admitted))
}

#[test]
fn a_message_that_finds_no_room_is_queued_all_the_same() {
    let mut slots = Slots::new(300);
    let (a, b) = (slot(0), slot(1));
    assert!(admitted(&slots.push(a, message(200))));
    let waits = slots.push(b, message(200));
    assert!(waits.new && !admitted(&waits));
    assert_eq!(slots.waiting(), 1);
    assert_eq!(turn(&mut slots, b), Some(vec![200]));
    assert!(admitted(&waits), "it is taken");
    assert_eq!(turn(&mut slots, b), None);
    assert_eq!(turn(&mut slots, a), Some(vec![200]));
}

#[test]
fn what_is_in_hand_takes_room_until_it_is_written() {
    let mut slots = Slots::new(300);
    slots.push(slot(0), message(200));
    turn(&mut slots, slot(0));
    assert!(!admitted(&slots.push(slot(1), message(200))));
    slots.written();
    assert!(admitted(&slots.push(slot(2), message(200))));
}

#[test]
fn a_turn_is_64_kib_or_one_message_and_makes_room_in_its_slot() {
    let mut slots = Slots::new(usize::MAX);
    let pushed: Vec<Pushed> = [30, 30, 30, 100, 10]
        .map(|kib| slots.push(slot(0), message(kib * 1024)))
        .into();
    let goes_on = |pushed: &[Pushed]| pushed.iter().map(admitted).collect::<Vec<_>>();
    assert_eq!(goes_on(&pushed), [true, true, true, false, false]);
    assert_eq!(turn(&mut slots, slot(0)), Some(vec![30 * 1024, 30 * 1024]));
    assert_eq!(goes_on(&pushed), [true, true, true, true, false]);
    assert_eq!(turn(&mut slots, slot(0)), Some(vec![30 * 1024]));
    assert_eq!(goes_on(&pushed), [true, true, true, true, false]);
    assert_eq!(turn(&mut slots, slot(0)), Some(vec![100 * 1024]));
    assert_eq!(goes_on(&pushed), [true; 5]);
}

#[test]
fn who_waits_behind_one_that_gives_up_is_not_forgotten() {
    let mut slots = Slots::new(300);
    assert!(admitted(&slots.push(slot(0), message(100))));
    let large = slots.push(slot(1), message(200)).wait.expect("no room");
    let small = slots.push(slot(1), message(1));
    assert!(!admitted(&small), "not before the large one");
    assert!(!slots.give_up(slot(1), &large).expect("it waits").gone);
    assert!(slots.give_up(slot(1), &large).is_none());
    assert!(admitted(&small));
}

#[test]
fn a_message_larger_than_the_room_needs_it_empty() {
    let mut slots = Slots::new(100);
    assert!(admitted(&slots.push(slot(0), message(0))));
    let huge = slots.push(slot(0), message(100_000));
    assert!(!admitted(&huge));
    assert!(!admitted(&slots.push(slot(1), message(0))) || slots.room.taken < 100);
    let mut messages = Vec::new();
    slots.turn(slot(0), &mut messages, 1);
    assert!(!admitted(&huge));
    slots.written();
    turn(&mut slots, slot(1));
    slots.written();
    assert!(admitted(&slots.push(slot(2), message(100_000))));
    assert!(!admitted(&slots.push(slot(1), message(0))));
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Send(u8, usize),
    Turn(u8, usize),
    GiveUp(usize),
    Written,
    Abandon(u8),
    SendAway,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (0..4_u8, prop_oneof![0..300_usize, 0..100_000_usize])
            .prop_map(|(slot, len)| Act::Send(slot, len)),
        6 => (0..4_u8, 1..5_usize).prop_map(|(slot, most)| Act::Turn(slot, most)),
        2 => any::<usize>().prop_map(Act::GiveUp),
        3 => Just(Act::Written),
        1 => (0..4_u8).prop_map(Act::Abandon),
        1 => Just(Act::SendAway),
    ];
    prop::collection::vec(act, 1..200)
}

/// What is known of a message that was sent.
struct Sent {
    slot: u8,
    len: usize,
    wait: Option<Arc<Wait>>,
}

proptest! {
    /// Against a model that has no idea of room: every message comes out once, in the
    /// order of its slot, by a turn, a cancellation or an end; whose sender waits is
    /// there yet; room is not exceeded, and nothing of it is lost.
    #[test]
    fn nothing_is_lost_or_doubled_or_overtaken(acts in acts(), limit in 100..200_000_usize) {
        let mut slots = Slots::new(limit);
        // By number; the number is in the message.
        let mut sent: Vec<Sent> = Vec::new();
        // Numbers that are queued.
        let mut queued: [Vec<usize>; 4] = Default::default();
        let number = |message: &Message| {
            let bytes = message.payload()[..8].try_into().expect("a number");
            usize::from_le_bytes(bytes)
        };
        let mut settled = 0;
        for act in acts {
            match act {
                Act::Send(at, len) => {
                    let tag = sent.len().to_le_bytes();
                    let message = Message::binary(len + 8, |buf| {
                        buf.extend_from_slice(&tag);
                        buf.resize(buf.len() + len, 0);
                    });
                    let pushed = slots.push(slot(at), message);
                    queued[usize::from(at)].push(sent.len());
                    sent.push(Sent { slot: at, len: len + 8, wait: pushed.wait });
                }
                Act::Turn(at, most) => {
                    let queue = &mut queued[usize::from(at)];
                    let mut messages = Vec::new();
                    let bytes = slots.turn(slot(at), &mut messages, most);
                    prop_assert_eq!(bytes.is_none(), queue.is_empty());
                    let taken: Vec<usize> = messages.iter().map(number).collect();
                    prop_assert!(taken.len() <= most);
                    prop_assert_eq!(&taken[..], &queue[..taken.len()]);
                    let total: usize = taken.iter().map(|n| sent[*n].len).sum();
                    prop_assert_eq!(bytes.unwrap_or_default(), total);
                    prop_assert!(taken.len() == 1 || total <= TURN);
                    queue.drain(..taken.len());
                    if let Some(next) = queue.first() {
                        let full = taken.len() == most || total + sent[*next].len > TURN;
                        prop_assert!(full, "the turn was not used");
                    }
                }
                Act::GiveUp(which) => {
                    let waiting: Vec<usize> = (0..sent.len())
                        .filter(|n| sent[*n].wait.as_ref().is_some_and(|w| w.outcome().is_none()))
                        .collect();
                    if !waiting.is_empty() {
                        let n = waiting[which % waiting.len()];
                        let wait = sent[n].wait.clone().expect("it waits");
                        let given = slots.give_up(slot(sent[n].slot), &wait).expect("there");
                        prop_assert_eq!(number(&given.message), n);
                        let queue = &mut queued[usize::from(sent[n].slot)];
                        queue.retain(|other| *other != n);
                        prop_assert_eq!(given.gone, queue.is_empty());
                        sent[n].wait = None;
                    }
                }
                Act::Written => slots.written(),
                Act::Abandon(at) => {
                    let messages: Vec<usize> =
                        slots.abandon(slot(at)).map(|message| number(&message)).collect();
                    prop_assert_eq!(&messages, &queued[usize::from(at)]);
                    queued[usize::from(at)].clear();
                }
                Act::SendAway => {
                    for message in slots.send_away() {
                        let n = number(&message);
                        let outcome = sent[n].wait.as_ref().and_then(|wait| wait.outcome());
                        prop_assert_eq!(outcome, Some(Waited::Closed));
                        queued[usize::from(sent[n].slot)].retain(|other| *other != n);
                    }
                    prop_assert_eq!(slots.waiting(), 0);
                }
            }
            settled += slots.settled().drain(..).count();
            // Who waits is queued, behind all who have gone on, and nobody is forgotten.
            let waits = |n: &usize| {
                sent[*n].wait.as_ref().is_some_and(|wait| wait.outcome().is_none())
            };
            let all = queued.iter().flatten();
            prop_assert_eq!(all.clone().filter(|n| waits(n)).count(), slots.waiting());
            for queue in &queued {
                prop_assert!(queue.is_sorted_by_key(&waits));
            }
            let room: usize = all.filter(|n| !waits(n)).map(|n| sent[*n].len + OVERHEAD).sum();
            prop_assert_eq!(slots.room.taken, room + slots.room.in_hand);
            let alone = queued.iter().flatten().filter(|n| !waits(n)).count() <= 1;
            prop_assert!(room <= limit || alone, "{room} are queued");
        }
        let ended = sent.iter().filter_map(|s| s.wait.as_ref()).filter(|w| w.outcome().is_some());
        prop_assert_eq!(settled, ended.count());
    }
}
