//! The process's own metrics, by the names that every client library of Prometheus has.

use super::Exposition;
use crate::platform::process::{self, Usage};

/// Writes them, where the system tells.
pub fn report(to: &mut Exposition) {
    let Some(usage) = process::usage() else { return };
    let Usage { cpu_seconds, started_at_seconds, .. } = usage;
    to.counter(
        "process_cpu_seconds_total",
        "Time of all processors that the process has taken, of its own and in the kernel.",
        cpu_seconds,
    );
    to.gauge(
        "process_resident_memory_bytes",
        "Memory of the process that is in RAM.",
        usage.resident_bytes,
    );
    to.gauge("process_virtual_memory_bytes", "Address space of the process.", usage.virtual_bytes);
    to.gauge("process_open_fds", "Open descriptors.", usage.descriptors);
    to.gauge("process_max_fds", "The most descriptors that may be open.", usage.descriptors_max);
    to.gauge(
        "process_start_time_seconds",
        "The time at which the process started, since 1970.",
        started_at_seconds,
    );
    to.gauge("process_threads", "Threads of the process.", usage.threads);
}
