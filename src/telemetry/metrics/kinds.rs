//! What is counted: atomics without a lock, so that counting costs next to nothing
//! wherever it is done.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more, until the guard is dropped.
    pub fn enter(&'static self) -> Entered {
        self.hold(1)
    }

    /// So many more, until the guard is dropped.
    pub fn hold(&'static self, amount: usize) -> Entered {
        let amount = signed(amount);
        self.add(amount);
        Entered(self, amount)
    }

    /// One of several that look from time to time how much it is with them.
    pub fn part(&'static self) -> Part {
        Part(self, AtomicI64::new(0))
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counted in a gauge while it lives.
#[derive(Debug)]
#[must_use = "it is counted only while the guard lives"]
pub struct Entered(&'static Gauge, i64);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.add(-self.1);
    }
}

/// What one has of a gauge that adds up what several have; none when it is dropped.
#[derive(Debug)]
pub struct Part(&'static Gauge, AtomicI64);

impl Part {
    pub fn set(&self, value: usize) {
        let value = signed(value);
        let before = self.1.swap(value, Ordering::Relaxed);
        self.0.add(value - before);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Durations in `N` buckets with an upper bound, and one without.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// Microseconds, ascending.
    bounds: [u64; N],
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    /// Microseconds: 64 bits hold half a million years of them.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    /// The bounds `first`, 2 × `first`, 4 × `first`, …
    pub const fn doubling(first: Duration) -> Self {
        let mut bounds = [0; N];
        let mut bound = first.as_micros() as u64;
        let mut i = 0;
        while i < N {
            bounds[i] = bound;
            bound *= 2;
            i += 1;
        }
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, duration: Duration) {
        let micros = duration.as_micros().try_into().unwrap_or(u64::MAX);
        let bucket = self.bounds.iter().position(|bound| micros <= *bound);
        let count = bucket.map_or(&self.beyond, |i| &self.counts[i]);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(micros, Ordering::Relaxed);
    }
}

/// A histogram without its size.
pub(super) trait Buckets: Sync {
    /// Upper bounds in seconds with how many were at or below each, then all of them
    /// under `f64::INFINITY`.
    fn cumulated(&self) -> Vec<(f64, u64)>;
    /// Seconds.
    fn sum(&self) -> f64;
}

impl<const N: usize> Buckets for Histogram<N> {
    fn cumulated(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().map(|micros| seconds(*micros));
        let counts = self.counts.iter().chain([&self.beyond]);
        let mut below = 0;
        bounds
            .chain([f64::INFINITY])
            .zip(counts)
            .map(|(bound, count)| {
                below += count.load(Ordering::Relaxed);
                (bound, below)
            })
            .collect()
    }

    fn sum(&self) -> f64 {
        seconds(self.sum.load(Ordering::Relaxed))
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// A gauge for each of some things that come and go, under a name of each. The lock
/// is taken when one comes, goes or is shown, never to count.
#[derive(Debug, Default)]
pub struct GaugeEach(Mutex<Vec<(String, Weak<Gauge>)>>);

impl GaugeEach {
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The gauge is shown while what this gives lives.
    pub fn begin(&self, name: impl Into<String>) -> GaugeOfOne {
        let gauge = Arc::new(Gauge::new());
        let mut all = self.0.lock();
        all.retain(|(_, gauge)| gauge.strong_count() > 0);
        all.push((name.into(), Arc::downgrade(&gauge)));
        GaugeOfOne(gauge)
    }

    /// By name; those of one name are added up. At most [`MAX_SHOWN`], the rest as
    /// `other`.
    pub(super) fn values(&self) -> BTreeMap<String, i64> {
        let mut shown = BTreeMap::new();
        for (name, gauge) in self.0.lock().iter() {
            let Some(gauge) = gauge.upgrade() else {
                continue;
            };
            let known = shown.len() < MAX_SHOWN || shown.contains_key(name);
            let name = if known { name } else { "other" };
            *shown.entry(name.to_owned()).or_default() += gauge.value();
        }
        shown
    }
}

/// See [`GaugeEach::begin`]; clones are the same gauge.
#[derive(Clone, Debug)]
pub struct GaugeOfOne(Arc<Gauge>);

impl Deref for GaugeOfOne {
    type Target = Gauge;

    fn deref(&self) -> &Gauge {
        &self.0
    }
}

/// Series of one family whose label anybody can make more of (local-server.md §10.5).
const MAX_SHOWN: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::<3>::doubling(Duration::from_millis(100));
        for millis in [1, 100, 101, 400, 401, 10_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!(
            histogram.cumulated(),
            [(0.1, 2), (0.2, 3), (0.4, 4), (f64::INFINITY, 6)]
        );
        assert!((histogram.sum() - 11.003).abs() < 1e-9);
    }

    #[test]
    fn a_gauge_counts_what_is_inside() {
        static INSIDE: Gauge = Gauge::new();
        let one = INSIDE.enter();
        let two = INSIDE.enter();
        assert_eq!(INSIDE.value(), 2);
        drop((one, two));
        assert_eq!(INSIDE.value(), 0);
    }

    #[test]
    fn a_gauge_adds_up_what_each_has_of_it() {
        static QUEUED: Gauge = Gauge::new();
        let (one, two, held) = (QUEUED.part(), QUEUED.part(), QUEUED.hold(100));
        one.set(5);
        two.set(3);
        one.set(2);
        assert_eq!(QUEUED.value(), 105);
        drop((one, held));
        assert_eq!(QUEUED.value(), 3);
        drop(two);
        assert_eq!(QUEUED.value(), 0);
    }

    #[test]
    fn a_gauge_of_one_is_shown_while_it_lives() {
        let each = GaugeEach::new();
        let (a, b, again) = (each.begin("a"), each.begin("b"), each.begin("a"));
        a.set(3);
        b.set(5);
        again.add(4);
        assert_eq!(each.values(), [("a".into(), 7), ("b".into(), 5)].into());
        drop((a, again));
        assert_eq!(each.values(), [("b".into(), 5)].into());
        let many: Vec<_> = (0..2000).map(|i| each.begin(format!("m{i:04}"))).collect();
        for gauge in &many {
            gauge.set(1);
        }
        let values = each.values();
        assert_eq!(values.len(), MAX_SHOWN + 1);
        assert_eq!(values["other"], 2000 - (MAX_SHOWN as i64 - 1));
        drop(many);
        drop(each.begin("c"));
        assert!(each.0.lock().len() <= 2);
    }
}
