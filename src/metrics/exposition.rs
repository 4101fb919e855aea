//! The text that Prometheus scrapes (text format 0.0.4): families of samples.
//!
//! Nothing here knows a metric. The order of the text is that of the calls.

use super::{Distribution, Histogram};
use std::fmt::{Display, Write as _};

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text under way, family by family.
#[derive(Default)]
pub struct Exposition {
    text: String,
}

/// The kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends. Its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// The distribution of many values.
    Histogram,
}

/// A family whose samples are being written.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

/// The value of a label, as it stands between quotes.
struct Escaped<'a>(&'a str);

impl Exposition {
    /// Begins a family. Each name comes once in a text; the help text is one line without a
    /// backslash.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let text = &mut self.text;
        debug_assert!(!text.contains(&format!("# TYPE {name} ")), "{name} comes twice");
        put(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text, name }
    }

    /// A family of one counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// A family of one gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// A family of one histogram without labels.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let mut family = self.family(name, Kind::Histogram, help);
        family.distribution(&[], &histogram.distribution());
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds a sample with these labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.put("", labels, None, &value);
    }

    /// Adds the samples of a distribution with these labels.
    pub fn distribution(&mut self, labels: &[(&str, &str)], distribution: &Distribution) {
        for (bound, count) in distribution.buckets() {
            self.put("_bucket", labels, Some(&bound), &count);
        }
        let count = distribution.count();
        self.put("_bucket", labels, Some(&"+Inf"), &count);
        self.put("_sum", labels, None, &distribution.scaled_sum());
        self.put("_count", labels, None, &count);
    }

    fn put(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<&dyn Display>,
        value: &dyn Display,
    ) {
        let Self { text, name } = self;
        put(text, format_args!("{name}{suffix}"));
        let mut before = '{';
        for (name, value) in labels {
            put(text, format_args!("{before}{name}=\"{}\"", Escaped(value)));
            before = ',';
        }
        if let Some(bound) = bound {
            put(text, format_args!("{before}le=\"{bound}\""));
            before = ',';
        }
        let end = if before == ',' { "}" } else { "" };
        put(text, format_args!("{end} {value}\n"));
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in self.0.split_inclusive(['\\', '"', '\n']) {
            match part.char_indices().next_back() {
                Some((end, special @ ('\\' | '"'))) => {
                    write!(to, "{}\\{special}", part.get(..end).unwrap_or_default())?;
                }
                Some((end, '\n')) => write!(to, "{}\\n", part.get(..end).unwrap_or_default())?,
                Some(_) | None => to.write_str(part)?,
            }
        }
        Ok(())
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_help_a_type_and_samples() {
        let mut exposition = Exposition::default();
        exposition.counter("a_total", "Things so far.", 3);
        let mut family = exposition.family("b", Kind::Gauge, "Things by colour and size.");
        family.sample(&[("colour", "red"), ("size", "1")], 0.5);
        family.sample(&[("colour", "blue"), ("size", "2")], u64::MAX);
        exposition.gauge("c", "Nothing.", 0);
        let expected = "\
            # HELP a_total Things so far.\n\
            # TYPE a_total counter\n\
            a_total 3\n\
            # HELP b Things by colour and size.\n\
            # TYPE b gauge\n\
            b{colour=\"red\",size=\"1\"} 0.5\n\
            b{colour=\"blue\",size=\"2\"} 18446744073709551615\n\
            # HELP c Nothing.\n\
            # TYPE c gauge\n\
            c 0\n";
        assert_eq!(exposition.into_text(), expected);
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::new(&[50_000, 1_000_000, 2_500_000_000], 1_000_000_000);
        for value in [1, 50_000, 60_000, 3_000_000_000] {
            histogram.observe(value);
        }
        let mut exposition = Exposition::default();
        exposition
            .family("d_seconds", Kind::Histogram, "Times.")
            .distribution(&[("of", "x")], &histogram.distribution());
        let expected = "\
            # HELP d_seconds Times.\n\
            # TYPE d_seconds histogram\n\
            d_seconds_bucket{of=\"x\",le=\"0.00005\"} 2\n\
            d_seconds_bucket{of=\"x\",le=\"0.001\"} 3\n\
            d_seconds_bucket{of=\"x\",le=\"2.5\"} 3\n\
            d_seconds_bucket{of=\"x\",le=\"+Inf\"} 4\n\
            d_seconds_sum{of=\"x\"} 3.000110001\n\
            d_seconds_count{of=\"x\"} 4\n";
        assert_eq!(exposition.into_text(), expected);

        let mut exposition = Exposition::default();
        exposition.histogram("e", "Sizes.", &Histogram::new(&[8], 1));
        assert!(
            exposition
                .into_text()
                .ends_with("e_bucket{le=\"8\"} 0\ne_bucket{le=\"+Inf\"} 0\ne_sum 0\ne_count 0\n")
        );
    }

    #[test]
    fn labels_are_escaped() {
        for (value, expected) in [
            ("", ""),
            ("/kv/{key}", "/kv/{key}"),
            ("a\\b", "a\\\\b"),
            ("\"", "\\\""),
            ("\n\n", "\\n\\n"),
            ("\u{e9}\\\u{e9}\"\n.", "\u{e9}\\\\\u{e9}\\\"\\n."),
        ] {
            assert_eq!(Escaped(value).to_string(), expected, "{value:?}");
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a comes twice")]
    fn a_family_comes_once() {
        let mut exposition = Exposition::default();
        exposition.gauge("a", "A.", 1);
        exposition.gauge("a", "A.", 1);
    }
}
