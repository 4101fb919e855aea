//! The process in the eyes of the system.

/// The use that the process makes of the system.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Time of all processors.
    pub cpu_seconds: f64,
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open descriptors, and the most that there may be.
    pub descriptors: u64,
    pub descriptors_max: u64,
    /// The start of the process, since 1970.
    pub started_at_seconds: f64,
    pub threads: u64,
}

/// The use so far; `None` where the system does not tell. Reads `/proc`, which no disk
/// holds up.
#[cfg(target_os = "linux")]
pub fn usage() -> Option<Usage> {
    use std::fs;

    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    let ticks = rustix::param::clock_ticks_per_second();
    let page_bytes = rustix::param::page_size() as u64;
    let numbers = Numbers::parse(&stat)?;
    Some(Usage {
        cpu_seconds: seconds(numbers.user_ticks + numbers.kernel_ticks, ticks),
        resident_bytes: numbers.resident_pages * page_bytes,
        virtual_bytes: numbers.virtual_bytes,
        descriptors: descriptors()?,
        descriptors_max: super::descriptors::limit(),
        started_at_seconds: boot.trim().parse::<f64>().ok()? + seconds(numbers.started_at, ticks),
        threads: numbers.threads,
    })
}

/// The same where nothing is known.
#[cfg(not(target_os = "linux"))]
pub fn usage() -> Option<Usage> {
    None
}

/// Memory that is in RAM.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    pub bytes: u64,
    /// Threads, each of which has a part of it.
    pub threads: u64,
}

/// The resident memory alone, which takes little time; `None` as above.
#[cfg(target_os = "linux")]
pub fn resident() -> Option<Resident> {
    let numbers = Numbers::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
    let bytes = numbers.resident_pages * rustix::param::page_size() as u64;
    Some(Resident { bytes, threads: numbers.threads })
}

/// The same where nothing is known.
#[cfg(not(target_os = "linux"))]
pub fn resident() -> Option<Resident> {
    None
}

/// The fields of `proc_pid_stat(5)` that count here.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    user_ticks: u64,
    kernel_ticks: u64,
    threads: u64,
    /// Since the system's start, in ticks.
    started_at: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

#[cfg(target_os = "linux")]
impl Numbers {
    fn parse(stat: &str) -> Option<Self> {
        // The second field is a name, which may have spaces and brackets of its own.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first of these is the third of all.
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        Some(Self {
            user_ticks: number(14)?,
            kernel_ticks: number(15)?,
            threads: number(20)?,
            started_at: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

#[cfg(target_os = "linux")]
#[allow(clippy::cast_precision_loss, reason = "a tick more or less is none")]
fn seconds(ticks: u64, ticks_each: u64) -> f64 {
    ticks as f64 / ticks_each.max(1) as f64
}

/// The number of open descriptors.
#[cfg(target_os = "linux")]
fn descriptors() -> Option<u64> {
    use super::descriptors::LIST;
    use std::fs;

    // Linux 6.2 and later tell, and there may be many to count.
    let told = fs::metadata(LIST).ok()?.len();
    if told > 0 {
        return Some(told);
    }
    // The list is one of them while it is read.
    Some((fs::read_dir(LIST).ok()?.count() as u64).saturating_sub(1))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn a_name_may_have_brackets() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 8 7 6 14 15 16 17 20 0 20 0 22 23 24 25 26";
        let expected = Numbers {
            user_ticks: 14,
            kernel_ticks: 15,
            threads: 20,
            started_at: 22,
            virtual_bytes: 23,
            resident_pages: 24,
        };
        assert_eq!(Numbers::parse(stat), Some(expected));
        assert_eq!(Numbers::parse("7 (a) S 1 2 3"), None);
        assert_eq!(Numbers::parse(""), None);
    }

    #[test]
    fn the_system_tells_of_this_process() {
        let usage = usage().expect("Linux has /proc");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        let age = now.as_secs_f64() - usage.started_at_seconds;
        // The start is rounded down to a tick, and that of the system to a second.
        assert!((-1.0..86_400.0).contains(&age), "{usage:?}");
        assert!(usage.cpu_seconds >= 0.0 && usage.threads > 1, "{usage:?}");
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(usage.virtual_bytes > usage.resident_bytes, "{usage:?}");
        let alone = resident().expect("Linux has /proc");
        let fair = usage.resident_bytes / 4..usage.resident_bytes * 4;
        assert!(fair.contains(&alone.bytes) && alone.threads > 1, "{alone:?}");
        assert!(usage.descriptors_max >= usage.descriptors, "{usage:?}");
    }

    #[test]
    fn descriptors_are_counted() {
        let files: Vec<_> = (0..50).map(|_| File::open("/dev/null").expect("a file")).collect();
        let open = descriptors().expect("Linux has /proc");
        // Other tests have some of their own.
        assert!(open >= 53, "{open}");
        drop(files);
    }
}
