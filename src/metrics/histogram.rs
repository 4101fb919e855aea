//! The distribution of values: a counter for each range of them.

use std::iter;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A histogram that many threads add to. None of them waits.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    /// The values of each range, and those above the last bound.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// The values of one or more histograms at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    scale: Scale,
    counts: Box<[u64]>,
    sum: u64,
}

/// The ranges of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The upper bounds of the ranges, in the unit of the values, ascending.
    pub bounds: &'static [u64],
    /// The values that make up one unit of the text: a second is 1e9 nanoseconds.
    pub units_each: u64,
}

impl Histogram {
    /// A histogram of ranges up to these bounds, each of which is in its range. Values and
    /// bounds are shown divided by `units_each`.
    pub fn new(bounds: &'static [u64], units_each: u64) -> Self {
        Self::of(Scale { bounds, units_each })
    }

    /// A histogram of these ranges.
    pub fn of(scale: Scale) -> Self {
        let counts = iter::repeat_with(AtomicU64::default).take(scale.bounds.len() + 1).collect();
        Self { scale, counts, sum: AtomicU64::new(0) }
    }

    /// Adds a value.
    pub fn observe(&self, value: u64) {
        let bounds = self.scale.bounds;
        let range = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        if let Some(count) = self.counts.get(range) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// Its values so far.
    pub fn distribution(&self) -> Distribution {
        let mut distribution = Distribution::none(self.scale);
        distribution.add(self);
        distribution
    }
}

impl Distribution {
    /// No values yet in these ranges.
    pub fn none(scale: Scale) -> Self {
        Self { scale, counts: vec![0; scale.bounds.len() + 1].into(), sum: 0 }
    }

    /// Adds the values of a histogram with the same ranges.
    pub fn add(&mut self, histogram: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&histogram.counts) {
            *count += more.load(Relaxed);
        }
        self.sum += histogram.sum.load(Relaxed);
    }

    /// The number of its values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of its values, in their unit.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The sum in the unit of the text.
    pub fn scaled_sum(&self) -> f64 {
        self.scale.scaled(self.sum)
    }

    /// The bounds in the unit of the text, each with the number of values up to it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let up_to = self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        let bounds = self.scale.bounds.iter().map(|bound| self.scale.scaled(*bound));
        bounds.zip(up_to)
    }
}

impl Scale {
    #[allow(clippy::cast_precision_loss, reason = "its reader has floats as well")]
    fn scaled(self, value: u64) -> f64 {
        value as f64 / self.units_each as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[u64] = &[10, 20, 40];

    #[test]
    fn a_bound_is_in_its_range() {
        for (value, expected) in
            [(0, [1, 1, 1]), (10, [1, 1, 1]), (11, [0, 1, 1]), (40, [0, 0, 1]), (41, [0, 0, 0])]
        {
            let histogram = Histogram::new(BOUNDS, 1);
            histogram.observe(value);
            let distribution = histogram.distribution();
            let up_to: Vec<_> = distribution.buckets().map(|(_, count)| count).collect();
            assert_eq!(up_to, expected, "{value}");
            assert_eq!((distribution.count(), distribution.sum()), (1, value));
        }
    }

    #[test]
    fn distributions_add_up_in_the_unit_of_the_text() {
        let (one, other) = (Histogram::new(BOUNDS, 1000), Histogram::new(BOUNDS, 1000));
        one.observe(5);
        one.observe(1000);
        other.observe(15);
        let mut both = one.distribution();
        both.add(&other);
        assert_eq!(both.buckets().collect::<Vec<_>>(), [(0.01, 1), (0.02, 2), (0.04, 2)]);
        assert_eq!((both.count(), both.scaled_sum().to_string()), (3, "1.02".to_owned()));
    }
}
