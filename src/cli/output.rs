//! Standard output and standard error, by line, without blocking.
//!
//! ```text
//! line ──► queue of so many bytes ──► one thread, one write for each line
//!              │ full
//!              └─► counted, and reported in one line afterwards
//! ```
//!
//! The reader of a log may stall, and a write to it then blocks without end. Here
//! it blocks one thread that has nothing else to do.

use crate::metrics::{Exposition, Source};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes in a queue. Once it is full it takes nothing more until it is
/// half empty, so that the lost lines are one gap and not many.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// The pause before another try on a stream that somebody has set to non-blocking.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A line in place of so many lost ones, without its end.
type Gap = dyn Fn(u64) -> Vec<u8> + Send;

/// A stream of lines. A clone is another handle on the same one.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes up the thread that writes.
    filled: Condvar,
    /// Wakes up callers of [`Output::finish`].
    drained: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// The number of lines lost since the last one that was taken.
    lost: u64,
    /// The number of lines lost since the start.
    lost_ever: u64,
    /// The thread has a line in hand.
    is_writing: bool,
    /// The last write has failed. The next line is the next try.
    has_failed: bool,
}

/// A line with its end.
struct Line {
    bytes: Vec<u8>,
    /// The number of lines lost before it.
    lost_before: u64,
}

impl Output {
    /// A stream into `sink`, written by a thread of this name. `gap` makes the line in
    /// place of so many lost ones, without its end.
    pub fn new(
        name: &str,
        sink: impl Write + Send + 'static,
        gap: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new().name(name.to_owned());
        let queue = Arc::clone(&shared);
        thread.spawn(move || write_all(&queue, sink, &gap))?;
        Ok(Self(shared))
    }

    /// Adds a line, given without its end. Never blocks: a line that does not
    /// fit is lost.
    pub fn line(&self, text: impl Into<Vec<u8>>) {
        let mut bytes = text.into();
        bytes.push(b'\n');
        self.0.lock().push(bytes);
        self.0.filled.notify_one();
    }

    /// The metrics of a stream that is a log.
    pub fn source(&self) -> Weak<dyn Source> {
        let shared: Weak<Shared> = Arc::downgrade(&self.0);
        shared
    }

    /// Waits until every line is written, but not beyond `deadline`.
    pub fn finish(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_waiting = |queue: &mut Queue| !queue.is_drained();
        drop(self.0.drained.wait_timeout_while(self.0.lock(), left, is_waiting));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every change below is complete before anything could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Shared {
    fn report(&self, to: &mut Exposition) {
        let help = "Lines of the log that nobody took in time, or that could not be written.";
        to.counter("lkv_log_lines_lost_total", help, self.lock().lost_ever);
    }
}

impl Queue {
    fn push(&mut self, bytes: Vec<u8>) {
        let bytes_max = if self.lost > 0 { QUEUED_BYTES_MAX / 2 } else { QUEUED_BYTES_MAX };
        let line = Line { bytes, lost_before: self.lost };
        if self.bytes + line.cost() > bytes_max {
            self.lost += 1;
            self.lost_ever += 1;
            return;
        }
        self.lost = 0;
        self.bytes += line.cost();
        self.lines.push_back(line);
    }

    /// The next line to be written; an empty one if nothing came after a gap.
    fn take(&mut self) -> Line {
        let line = self
            .lines
            .pop_front()
            .unwrap_or_else(|| Line { bytes: Vec::new(), lost_before: mem::take(&mut self.lost) });
        self.bytes = self.bytes.saturating_sub(line.cost());
        self.is_writing = true;
        line
    }

    /// Returns true if lost lines can be reported now.
    fn has_gap(&self) -> bool {
        self.lost > 0 && !self.has_failed
    }

    fn is_drained(&self) -> bool {
        self.lines.is_empty() && !self.has_gap() && !self.is_writing
    }
}

impl Line {
    /// Its size in memory, about.
    fn cost(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// Writes the queue's lines as they come, for as long as the process lives.
fn write_all(shared: &Shared, sink: impl Write, gap: &Gap) {
    let mut sink = Sink { sink, is_torn: false };
    let mut queue = shared.lock();
    loop {
        let filled = shared.filled.wait_while(queue, |queue| queue.is_drained());
        queue = filled.unwrap_or_else(PoisonError::into_inner);
        let line = queue.take();
        drop(queue);

        let lost_before = line.lost_before;
        let is_told = lost_before == 0 || sink.write_line(&[&*gap(lost_before), b"\n"].concat());
        let is_written = is_told && sink.write_line(&line.bytes);
        let lost = u64::from(!is_written && !line.bytes.is_empty());
        queue = shared.lock();
        queue.is_writing = false;
        queue.has_failed = !is_written;
        queue.lost += if is_told { lost } else { lost_before + lost };
        queue.lost_ever += lost;
        shared.drained.notify_all();
    }
}

/// A sink of lines.
struct Sink<W> {
    sink: W,
    /// Of the last line only a part was written, as where a disk is full.
    is_torn: bool,
}

impl<W: Write> Sink<W> {
    /// Writes a line, in one call if the system takes it so. Returns true once it is
    /// written. No line is joined to what was written of another.
    fn write_line(&mut self, line: &[u8]) -> bool {
        if self.is_torn && !line.is_empty() && !self.write(b"\n") {
            return false;
        }
        self.write(line)
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            match retried(|| self.sink.write(rest)) {
                Ok(0) | Err(_) => return false,
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.is_torn = !rest.is_empty();
                }
            }
        }
        retried(|| self.sink.flush()).is_ok()
    }
}

/// The result of a call that neither a signal nor a full stream has interrupted.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(err) if err.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, Sender};

    /// A sink that takes one write for each permit, and sends its lines on.
    struct Slow {
        permits: Receiver<io::Result<()>>,
        written: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().expect("the test goes on")?;
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            self.written.send(text).expect("the test goes on");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Reader {
        output: Output,
        permits: Sender<io::Result<()>>,
        written: Receiver<String>,
    }

    impl Reader {
        fn new() -> Self {
            let (permits, permits_given) = crossbeam_channel::unbounded();
            let (writes, written) = crossbeam_channel::unbounded();
            let slow = Slow { permits: permits_given, written: writes };
            Self { output: Output::new("test", slow, gap).expect("a thread"), permits, written }
        }

        /// The lines lost, as the metrics tell.
        fn lost(&self) -> u64 {
            let mut exposition = Exposition::default();
            self.output.source().upgrade().expect("it lives").report(&mut exposition);
            let text = exposition.into_text();
            let value = text.trim_end().rsplit(' ').next().expect("a sample");
            value.parse().expect("a number")
        }

        fn read(&self) -> String {
            self.permits.send(Ok(())).expect("the thread lives");
            self.written.recv().expect("the thread lives")
        }
    }

    fn gap(lost: u64) -> Vec<u8> {
        format!("{lost} are missing").into_bytes()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_line_is_one_write_and_they_come_in_order() {
        let reader = Reader::new();
        for line in ["one", "", "three"] {
            reader.output.line(line);
        }
        assert_eq!([(); 3].map(|()| reader.read()), ["one\n", "\n", "three\n"]);
        reader.output.finish(soon());
        assert!(reader.output.0.lock().is_drained());
    }

    #[test]
    fn a_stalled_reader_costs_a_bounded_queue_and_is_told_what_is_missing() {
        let reader = Reader::new();
        let lines = 3 * QUEUED_BYTES_MAX / 1000;
        for number in 0..lines {
            reader.output.line(format!("{number:01000}"));
        }
        let (mut next, mut missing) = (0, 0);
        while next < lines {
            let line = reader.read();
            if let Some((told, _)) = line.split_once(" are missing") {
                assert_eq!(missing, 0, "one gap is told once: {line}");
                missing = told.parse().expect("a number");
                next += missing;
            } else {
                assert_eq!(line.trim_end().parse(), Ok(next));
                next += 1;
            }
        }
        assert!(missing > lines / 2 && missing < lines, "{missing} of {lines}");
        assert_eq!(next, lines);
        assert_eq!(reader.lost(), missing as u64);

        reader.output.line("after");
        assert_eq!(reader.read(), "after\n");
    }

    #[test]
    fn nobody_waits_for_a_stalled_reader_at_the_end() {
        let reader = Reader::new();
        reader.output.line("nobody reads this");
        reader.output.finish(Instant::now() + Duration::from_millis(20));
        assert!(!reader.output.0.lock().is_drained());
    }

    #[test]
    fn what_cannot_be_written_is_told_once_something_can() {
        let reader = Reader::new();
        let fail = |kind: ErrorKind| reader.permits.send(Err(kind.into())).expect("it lives");
        reader.output.line("one");
        fail(ErrorKind::StorageFull);
        reader.output.finish(soon());
        reader.output.line("two");
        fail(ErrorKind::StorageFull);
        reader.output.finish(soon());
        reader.output.line("three");
        // Nor can the report, which loses nothing by itself.
        fail(ErrorKind::StorageFull);
        reader.output.finish(soon());
        reader.output.line("four");
        assert_eq!(reader.read(), "3 are missing\n");
        assert_eq!(reader.read(), "four\n");
        assert_eq!(reader.lost(), 3);
    }

    #[test]
    fn a_line_that_was_cut_is_joined_to_no_other() {
        /// Takes so many bytes.
        struct Full<'a>(&'a mut Vec<u8>, usize);

        impl Write for Full<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let room = self.1.min(bytes.len());
                self.1 -= room;
                self.0.extend_from_slice(&bytes[..room]);
                if room > 0 { Ok(room) } else { Err(ErrorKind::StorageFull.into()) }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        for room in 0..=8 {
            let mut written = Vec::new();
            let mut sink = Sink { sink: Full(&mut written, room), is_torn: false };
            let is_one_written = sink.write_line(b"one\n");
            let is_other_written = sink.write_line(b"other\n");
            sink.sink.1 = 100;
            assert!(sink.write_line(b"last\n"));
            let text = String::from_utf8(written).expect("text");
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines.last(), Some(&"last"), "{room}: {text:?}");
            assert_eq!(lines.contains(&"one"), is_one_written || room == 3, "{room}: {text:?}");
            assert_eq!(lines.contains(&"other"), is_other_written, "{room}: {text:?}");
        }
    }

    #[test]
    fn a_stream_that_does_not_block_is_tried_again() {
        let reader = Reader::new();
        reader.output.line("one");
        for kind in [ErrorKind::WouldBlock, ErrorKind::Interrupted, ErrorKind::WouldBlock] {
            reader.permits.send(Err(kind.into())).expect("it lives");
        }
        assert_eq!(reader.read(), "one\n");
        reader.output.finish(soon());
    }
}
