//! Who runs, waits and is turned away, and that the books are right.

use proptest::prelude::*;

use super::*;

#[derive(Debug)]
struct Job(u64, Kind, Cancel, Option<Arc<str>>);

impl Applicant for Job {
    fn serial(&self) -> u64 {
        self.0
    }
    fn kind(&self) -> Kind {
        self.1
    }
    fn cancel(&self) -> &Cancel {
        &self.2
    }
    fn crowd(&self) -> Option<&Arc<str>> {
        self.3.as_ref()
    }
}

fn places(short: usize, long: usize, waiting: usize) -> Places<Job> {
    Places::new(PlaceLimits {
        short,
        long,
        waiting,
        crowd: Crowd {
            short: 2,
            long: 1,
            waiting: 2,
        },
    })
}

fn apply(places: &Places<Job>, serial: u64, kind: Kind) -> &'static str {
    apply_to(places, serial, kind, None)
}

fn apply_to(places: &Places<Job>, serial: u64, kind: Kind, target: Option<&str>) -> &'static str {
    match places.apply(Job(serial, kind, Cancel::new(), target.map(Arc::from))) {
        Admission::Run(_) => "runs",
        Admission::Waits => "waits",
        Admission::Refused(_, NoPlace::Busy) => "busy",
        Admission::Refused(_, NoPlace::Closed) => "closed",
    }
}

#[test]
fn short_and_long_ones_have_places_of_their_own() {
    let places = places(1, 1, 2);
    assert_eq!(apply(&places, 1, Kind::Long), "runs");
    assert_eq!(apply(&places, 2, Kind::Short), "runs");
    assert_eq!(apply(&places, 3, Kind::Long), "waits");
    assert_eq!(apply(&places, 4, Kind::Short), "waits");
    assert_eq!(apply(&places, 5, Kind::Short), "busy");
    assert_eq!(places.leave(2).map(|job| job.0), Some(4));
    assert_eq!(places.leave(1).map(|job| job.0), Some(3));
    assert!(places.leave(3).is_none());
    assert!(places.leave(4).is_none());
    assert_eq!(places.counts(), (0, 0, 0));
}

#[test]
fn the_one_that_came_first_goes_first_and_some_give_up() {
    let places = places(1, 1, 10);
    for serial in 1..=4 {
        apply(&places, serial, Kind::Short);
    }
    assert_eq!(places.give_up(2).map(|job| job.0), Some(2));
    assert!(places.give_up(1).is_none());
    assert_eq!(places.leave(1).map(|job| job.0), Some(3));
    assert_eq!(places.leave(3).map(|job| job.0), Some(4));
}

#[test]
fn an_old_answer_moves_over_and_makes_room() {
    let places = places(1, 1, 10);
    apply(&places, 1, Kind::Short);
    apply(&places, 2, Kind::Short);
    assert_eq!(places.move_over(1).map(|job| job.0), Some(2));
    assert_eq!(places.counts(), (1, 1, 0));
    // The second finds no place, and gets it when the first leaves.
    assert!(places.move_over(2).is_none());
    apply(&places, 3, Kind::Short);
    assert_eq!(places.counts(), (1, 1, 1));
    assert_eq!(places.leave(1).map(|job| job.0), Some(3));
    assert_eq!(places.counts(), (1, 1, 0));
}

#[test]
fn a_closed_house_takes_nobody() {
    let places = places(1, 1, 10);
    apply(&places, 1, Kind::Long);
    apply(&places, 2, Kind::Long);
    let (waiting, long) = places.close();
    assert_eq!((waiting.len(), long.len()), (1, 1));
    assert_eq!(apply(&places, 3, Kind::Short), "closed");
    assert!(!places.wait_until_empty(Instant::now()));
    assert!(places.leave(1).is_none());
    assert!(places.wait_until_empty(Instant::now()));
}

/// One Service that hangs took all places.
#[test]
fn those_with_one_target_leave_room_for_others() {
    let places = places(4, 2, 10);
    let hangs = Some("hangs");
    assert_eq!(apply_to(&places, 1, Kind::Short, hangs), "runs");
    assert_eq!(apply_to(&places, 2, Kind::Short, hangs), "runs");
    assert_eq!(apply_to(&places, 3, Kind::Short, hangs), "waits");
    assert_eq!(apply_to(&places, 4, Kind::Short, hangs), "waits");
    assert_eq!(apply_to(&places, 5, Kind::Short, hangs), "busy");
    // Past them.
    assert_eq!(apply_to(&places, 6, Kind::Short, Some("other")), "runs");
    assert_eq!(apply(&places, 7, Kind::Short), "runs");
    assert_eq!(apply(&places, 8, Kind::Short), "waits");
    assert_eq!(places.leave(7).map(|job| job.0), Some(8));
    assert!(places.leave(6).is_none());
    assert_eq!(places.counts(), (3, 0, 2));
    // In their order, and one that gave up leaves its place in the queue.
    assert_eq!(places.give_up(3).map(|job| job.0), Some(3));
    assert_eq!(apply_to(&places, 9, Kind::Short, hangs), "waits");
    assert_eq!(places.leave(1).map(|job| job.0), Some(4));
    assert_eq!(places.leave(4).map(|job| job.0), Some(9));
    for last in [2, 8, 9] {
        assert!(places.leave(last).is_none());
    }
    assert_eq!(places.counts(), (0, 0, 0));
    assert!(places.state.lock().crowds.is_empty());
}

#[test]
fn long_ones_of_one_target_leave_room_too() {
    let places = places(4, 2, 10);
    let feed = Some("feed");
    for serial in [1, 2] {
        apply_to(&places, serial, Kind::Short, feed);
        places.move_over(serial);
    }
    assert_eq!(places.counts(), (1, 1, 0), "there is one long place for it");
    apply(&places, 3, Kind::Short);
    places.move_over(3);
    assert_eq!(places.counts(), (1, 2, 0));
    assert!(places.leave(1).is_none());
    assert_eq!(places.counts(), (0, 2, 0), "the second moved over");
    places.leave(2);
    places.leave(3);
    assert!(places.state.lock().crowds.is_empty());
}

proptest! {
    #[test]
    fn the_books_are_always_right(
        operations in prop::collection::vec((0u8..5, 0u64..30, any::<bool>(), 0usize..3), 0..200),
    ) {
        let places = places(3, 2, 4);
        let (mut serial, mut running) = (100, Vec::new());
        for (what, which, long, target) in operations {
            let kind = if long { Kind::Long } else { Kind::Short };
            let target = [None, Some("a"), Some("b")][target];
            let pick = |running: &Vec<u64>| {
                running.get(which as usize % running.len().max(1)).copied()
            };
            match (what, pick(&running)) {
                (0 | 1, _) => {
                    serial += 1;
                    if apply_to(&places, serial, kind, target) == "runs" {
                        running.push(serial);
                    }
                }
                (2, Some(one)) => {
                    running.retain(|other| *other != one);
                    running.extend(places.leave(one).map(|job| job.0));
                }
                (3, Some(one)) => running.extend(places.move_over(one).map(|job| job.0)),
                _ => drop(places.give_up(100 + which)),
            }
            let (short, long, waiting) = places.counts();
            prop_assert!(short <= 3 && long <= 2 && waiting <= 4);
            prop_assert_eq!(short + long, running.len());
            let state = places.state.lock();
            for name in ["a", "b"] {
                let of = |crowd: Option<&Arc<str>>| crowd.is_some_and(|crowd| **crowd == *name);
                let count = |kind| {
                    let here = |one: &&Running| one.kind == kind && of(one.crowd.as_ref());
                    state.running.values().filter(here).count()
                };
                let waits = |jobs: &BTreeMap<u64, Job>| {
                    jobs.values().filter(|job| of(job.crowd())).count()
                };
                let there = Crowd {
                    short: count(Kind::Short),
                    long: count(Kind::Long),
                    waiting: waits(&state.waiting_short) + waits(&state.waiting_long),
                };
                prop_assert_eq!(state.crowd(Some(&name.into())), there);
                prop_assert!(there.short <= 2 && there.long <= 1 && there.waiting <= 2);
            }
            // Nobody waits who could run.
            let limits = &places.limits;
            for (kind, jobs) in [
                (Kind::Short, &state.waiting_short),
                (Kind::Long, &state.waiting_long),
            ] {
                prop_assert!(!jobs.values().any(|job| state.has_room(kind, job.crowd(), limits)));
            }
        }
    }
}
