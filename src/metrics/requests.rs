//! Requests and their times, by method, route and status.
//!
//! Its labels are few whatever a client sends: each is one of a list, or `other`.

use super::reads::{self, Reads};
use super::{Distribution, Exposition, Histogram, Kind, Scale};
use std::array;
use std::cell::Cell;
use std::fmt::Write as _;
use std::iter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The methods that are counted by name.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"];

/// The statuses that are counted by number, ascending.
pub const STATUSES: [u16; 27] = [
    200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 411, 412, 413, 414, 415, 416,
    417, 431, 500, 501, 503, 504, 505, 507,
];

/// The label of everything else.
const OTHER: &str = "other";

/// The same of methods, in a log.
const OTHER_METHODS: &str = "other methods";

/// The most stripes.
const STRIPES_MAX: usize = 16;

/// The ranges of the times, in nanoseconds: 50 us to 5 s.
const TIMES: Scale = Scale {
    bounds: &[
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
    ],
    units_each: 1_000_000_000,
};

/// A response that was written, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// The method, one of [`METHODS`] or another text.
    pub method: &'static str,
    /// The place of the route.
    pub route: usize,
    /// The status.
    pub status: u16,
    /// The time since its request came; none for a stream, whose client ends it.
    pub latency: Option<Duration>,
}

/// A route, as it is labelled.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its pattern.
    pub text: &'static str,
    /// To read it is to read one key.
    pub is_of_key: bool,
}

/// The requests to some routes.
pub struct Requests {
    routes: Box<[Label]>,
    stripes: Box<[Stripe]>,
}

/// The counters that some of the threads add to, on cache lines of their own.
#[repr(align(128))]
struct Stripe {
    /// By method and then by route, from their first use on.
    series: Box<[OnceLock<Box<Series>>]>,
    /// Those of reads that are parts of a request.
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The counters of one method on one route.
#[repr(align(128))]
struct Series {
    /// By the places in [`STATUSES`], and one for all others.
    statuses: [AtomicU64; STATUSES.len() + 1],
    times: Histogram,
    highest_ns: AtomicU64,
}

/// The sum of series.
struct Sum {
    statuses: [u64; STATUSES.len() + 1],
    times: Distribution,
    highest_ns: u64,
}

thread_local! {
    /// The number of this thread among those that count; none before it does.
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the calling thread.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

/// All methods by their labels, in order.
fn methods() -> impl Iterator<Item = &'static str> {
    METHODS.into_iter().chain([OTHER])
}

/// All statuses by their labels, in order.
fn statuses() -> impl Iterator<Item = String> {
    STATUSES.iter().map(u16::to_string).chain([OTHER.to_owned()])
}

impl Requests {
    /// No requests yet to these routes.
    pub fn to(routes: impl IntoIterator<Item = Label>) -> Self {
        let routes: Box<[_]> = routes.into_iter().collect();
        let stripes = thread::available_parallelism().map_or(1, usize::from).min(STRIPES_MAX);
        let series = (METHODS.len() + 1) * routes.len();
        let stripe = || Stripe::of(series);
        Self { routes, stripes: iter::repeat_with(stripe).take(stripes).collect() }
    }

    /// Counts one.
    pub fn count(&self, Counted { method, route, status, latency }: Counted) {
        let named = METHODS.iter().position(|name| *name == method);
        let place = named.unwrap_or(METHODS.len()) * self.routes.len() + route;
        let Some(series) = self.stripe().and_then(|stripe| stripe.series.get(place)) else {
            return;
        };
        series.get_or_init(Box::default).count(status, latency);
    }

    /// Counts reads that are parts of one.
    pub fn count_reads(&self, Reads { hits, misses }: Reads) {
        let Some(stripe) = self.stripe() else { return };
        stripe.hits.fetch_add(hits, Relaxed);
        stripe.misses.fetch_add(misses, Relaxed);
    }

    /// The counters of this thread.
    fn stripe(&self) -> Option<&Stripe> {
        self.stripes.get(thread_number() % self.stripes.len())
    }

    /// Writes all of them.
    pub fn report(&self, to: &mut Exposition) {
        let mut sums = Vec::new();
        let mut reads = self.reads_of_parts();
        for (number, method) in methods().enumerate() {
            for (place, route) in self.routes.iter().enumerate() {
                let series = self.series(number * self.routes.len() + place);
                let Some(sum) = Sum::of(series) else { continue };
                if route.is_of_key && reads::METHODS.contains(&method) {
                    sum.add_to(&mut reads);
                }
                sums.push((method, route.text, sum));
            }
        }
        let mut family = to.family(
            "lkv_http_requests_total",
            Kind::Counter,
            "Requests answered, by method, route and status.",
        );
        for (method, route, sum) in &sums {
            for (status, count) in statuses().zip(sum.statuses).filter(|(_, count)| *count > 0) {
                let labels = [("method", *method), ("route", *route), ("status", &*status)];
                family.sample(&labels, count);
            }
        }
        let mut family = to.family(
            "lkv_http_request_duration_seconds",
            Kind::Histogram,
            "Times from the head of a request to the end of its response. Streams have none.",
        );
        for (method, route, Sum { times, .. }) in &sums {
            if times.count() > 0 {
                family.distribution(&[("method", *method), ("route", *route)], times);
            }
        }
        reads.report(to);
    }

    /// The reads that were parts of requests.
    fn reads_of_parts(&self) -> Reads {
        let sum = |of: fn(&Stripe) -> &AtomicU64| {
            self.stripes.iter().map(|stripe| of(stripe).load(Relaxed)).sum()
        };
        Reads { hits: sum(|stripe| &stripe.hits), misses: sum(|stripe| &stripe.misses) }
    }

    /// One line for each method that had a request.
    pub fn lines(&self) -> Vec<String> {
        let names = METHODS.into_iter().chain([OTHER_METHODS]).enumerate();
        let lines = names.filter_map(|(number, name)| {
            let first = number * self.routes.len();
            let places = first..first + self.routes.len();
            Sum::of(places.flat_map(|place| self.series(place)))?.line(name)
        });
        lines.collect()
    }

    /// The series of one method on one route, one a stripe.
    fn series(&self, place: usize) -> impl Iterator<Item = &Series> {
        self.stripes.iter().filter_map(move |stripe| Some(&**stripe.series.get(place)?.get()?))
    }
}

impl Stripe {
    /// One for so many series.
    fn of(series: usize) -> Self {
        let series = iter::repeat_with(OnceLock::new).take(series).collect();
        Self { series, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }
}

impl Default for Series {
    fn default() -> Self {
        let statuses = array::from_fn(|_| AtomicU64::new(0));
        Self { statuses, times: Histogram::of(TIMES), highest_ns: AtomicU64::new(0) }
    }
}

impl Series {
    fn count(&self, status: u16, latency: Option<Duration>) {
        let place = STATUSES.binary_search(&status).unwrap_or(STATUSES.len());
        if let Some(count) = self.statuses.get(place) {
            count.fetch_add(1, Relaxed);
        }
        let Some(latency) = latency else { return };
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.times.observe(latency_ns);
        // It hardly ever is.
        if latency_ns > self.highest_ns.load(Relaxed) {
            self.highest_ns.fetch_max(latency_ns, Relaxed);
        }
    }
}

impl Sum {
    /// The sum of these; `None` if there are none.
    fn of<'a>(series: impl IntoIterator<Item = &'a Series>) -> Option<Self> {
        let mut series = series.into_iter().peekable();
        series.peek()?;
        let (statuses, times) = ([0; STATUSES.len() + 1], Distribution::none(TIMES));
        let mut sum = Self { statuses, times, highest_ns: 0 };
        for series in series {
            for (count, more) in sum.statuses.iter_mut().zip(&series.statuses) {
                *count += more.load(Relaxed);
            }
            sum.times.add(&series.times);
            sum.highest_ns = sum.highest_ns.max(series.highest_ns.load(Relaxed));
        }
        Some(sum)
    }

    /// Adds its requests, each of which has read a key, to others.
    fn add_to(&self, reads: &mut Reads) {
        for (status, count) in STATUSES.iter().zip(self.statuses) {
            reads.add(*status, count);
        }
    }

    /// A line for a log.
    fn line(&self, name: &str) -> Option<String> {
        let mut total = 0;
        let mut by_status = String::new();
        for (status, count) in statuses().zip(self.statuses).filter(|(_, count)| *count > 0) {
            let comma = if total > 0 { ", " } else { "" };
            write!(by_status, "{comma}{status}: {count}").expect("a string takes any text");
            total += count;
        }
        if total == 0 {
            return None;
        }
        let mean = self.times.sum().checked_div(self.times.count()).unwrap_or(0) / 1000;
        let max = self.highest_ns / 1000;
        let noun = if total == 1 { "request" } else { "requests" };
        Some(format!("{name}: {total} {noun} ({by_status}), mean {mean} us, highest {max} us"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<const N: usize>(texts: [&'static str; N]) -> [Label; N] {
        texts.map(|text| Label { text, is_of_key: text.ends_with('}') })
    }

    fn count(requests: &Requests, method: &'static str, route: usize, status: u16, micros: u64) {
        let latency = Some(Duration::from_micros(micros));
        requests.count(Counted { method, route, status, latency });
    }

    fn text(requests: &Requests) -> String {
        let mut exposition = Exposition::default();
        requests.report(&mut exposition);
        exposition.into_text()
    }

    #[test]
    fn the_log_has_a_line_for_each_method() {
        let requests = Requests::to(labels(["/a", "/b"]));
        assert_eq!(requests.lines(), [""; 0]);
        count(&requests, "GET", 0, 200, 10);
        count(&requests, "GET", 1, 404, 30);
        count(&requests, "GET", 0, 200, 20);
        count(&requests, "BREW", 1, 299, 1000);
        // A stream has no time.
        requests.count(Counted { method: "GET", route: 0, status: 200, latency: None });
        requests.count(Counted { method: "HEAD", route: 0, status: 200, latency: None });
        assert_eq!(
            requests.lines(),
            [
                "GET: 4 requests (200: 3, 404: 1), mean 20 us, highest 30 us",
                "HEAD: 1 request (200: 1), mean 0 us, highest 0 us",
                "other methods: 1 request (other: 1), mean 1000 us, highest 1000 us",
            ]
        );
    }

    #[test]
    fn requests_are_shown_by_method_route_and_status() {
        let requests = Requests::to(labels(["/kv/{key}", OTHER]));
        count(&requests, "PUT", 0, 201, 50);
        count(&requests, "PUT", 0, 503, 5_000_001);
        count(&requests, "TRACE", 1, 999, 1);
        requests.count(Counted { method: "GET", route: 0, status: 200, latency: None });
        // There is no such route.
        count(&requests, "PATCH", 14, 200, 1);
        let text = text(&requests);
        let samples: Vec<_> = text.lines().filter(|line| line.contains("_total{")).collect();
        assert_eq!(
            samples,
            [
                "lkv_http_requests_total{method=\"GET\",route=\"/kv/{key}\",status=\"200\"} 1",
                "lkv_http_requests_total{method=\"PUT\",route=\"/kv/{key}\",status=\"201\"} 1",
                "lkv_http_requests_total{method=\"PUT\",route=\"/kv/{key}\",status=\"503\"} 1",
                "lkv_http_requests_total{method=\"other\",route=\"other\",status=\"other\"} 1",
            ]
        );
        let of_put = "{method=\"PUT\",route=\"/kv/{key}\"";
        for expected in [
            "_bucket{of},le=\"0.00005\"} 1\n",
            "_bucket{of},le=\"5\"} 1\n",
            "_bucket{of},le=\"+Inf\"} 2\n",
            "_sum{of}} 5.000051\n",
            "_count{of}} 2\n",
        ] {
            let expected = expected.replace("{of}", of_put);
            assert!(text.contains(&format!("_duration_seconds{expected}")), "{expected} {text}");
        }
        assert!(!text.contains("seconds_count{method=\"GET\""), "{text}");
    }

    /// The statuses of a read alone tell them apart.
    #[test]
    fn hits_and_misses_are_reads_of_keys_by_their_statuses() {
        let requests = Requests::to(labels(["/kv/{key}", "/kv"]));
        let told = || {
            let text = text(&requests);
            ["lkv_hits_total ", "lkv_misses_total "].map(|name| {
                let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
                let value = values.next().expect("it is there from the start");
                value.parse::<u64>().expect("a number")
            })
        };
        assert_eq!(told(), [0, 0]);
        for status in [200, 206, 304, 412, 416] {
            for method in ["GET", "HEAD"] {
                count(&requests, method, 0, status, 1);
            }
        }
        assert_eq!(told(), [10, 0]);
        for method in ["GET", "HEAD", "GET"] {
            count(&requests, method, 0, 404, 1);
        }
        assert_eq!(told(), [10, 3]);
        // These say nothing of a key, or of many.
        for status in [400, 401, 403, 409, 500, 503, 504, 999] {
            count(&requests, "GET", 0, status, 1);
        }
        for status in [200, 404, 412] {
            for method in ["PUT", "POST", "DELETE", "OPTIONS", "BREW"] {
                count(&requests, method, 0, status, 1);
            }
            count(&requests, "GET", 1, status, 1);
        }
        assert_eq!(told(), [10, 3]);
        requests.count_reads(Reads { hits: 5, misses: 7 });
        thread::scope(|scope| {
            scope.spawn(|| requests.count_reads(Reads { hits: 1, misses: 0 }));
        });
        assert_eq!(told(), [16, 10]);
    }

    #[test]
    fn a_reader_sees_the_counts_of_all_threads() {
        let requests = Requests::to(labels(["/"]));
        thread::scope(|scope| {
            for _ in 0..2 * STRIPES_MAX {
                scope.spawn(|| (0..100).for_each(|micros| count(&requests, "GET", 0, 200, micros)));
            }
        });
        let total = 200 * STRIPES_MAX;
        let line = format!("GET: {total} requests (200: {total}), mean 49 us, highest 99 us");
        assert_eq!(requests.lines(), [line]);
        let used = requests.stripes.iter().filter(|stripe| stripe.series[0].get().is_some());
        assert!(used.count() > 1 || requests.stripes.len() == 1);
    }

    #[test]
    fn statuses_can_be_looked_up() {
        assert!(STATUSES.is_sorted());
    }
}
