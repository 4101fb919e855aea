//! The log: simplelog's lines or JSON, made fit for a terminal and limited in number.
//!
//! The text of a line may come from a client or from a file. So a line is
//! always one line of printable characters, and each place in the code is
//! limited to a number of lines in an interval. At `debug` and below there is
//! no such limit: those levels are for seeing each request.

use super::LogFormat;
use super::json::JsonLine;
use super::output::Output;
use crate::server::LIBRARY_LOG_TARGET;
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The libraries with verbose logs, by the start of their targets.
const LOQUACIOUS: [&str; 2] = ["fjall", "lsm_tree"];

/// Where one of them warns that it could not remove an obsolete file, and a part of the text
/// if the file is gone: the engine on disk has removed some before it.
const OF_OBSOLETE_FILES: &str = "lsm_tree::table::inner";
const OF_GONE_FILE: &str = "NotFound";

/// The longest text of a line: the longest target that is served fits, with every
/// byte escaped.
const TEXT_BYTES_MAX: usize = 20 * 1024;

/// The most lines of one place in the code in an interval.
const LINES_MAX: u32 = 20;

/// That interval.
const LINES_INTERVAL: Duration = Duration::from_secs(10);

/// Sends every line of `level` and above, and every panic, to `output`, whose form is
/// that of the lines. From then on [`Log::flush`] reports the number of suppressed lines.
///
/// # Panics
///
/// If it is called twice.
pub fn start(level: LevelFilter, format: LogFormat, output: Output) {
    let logger = Box::new(Logger::new(level, format, output));
    log::set_max_level(level);
    log::set_boxed_logger(logger).expect("nothing else has set a logger");
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string().replacen('\n', " ", 1);
        // Our threads have names. Those of the HTTP library panic when a client resets
        // its connection at the wrong moment, which is nothing to act on.
        match thread::current().name() {
            Some(name) => log::error!("thread {name}: {text}"),
            None => log::debug!("a thread of a connection: {text}"),
        }
    }));
}

struct Logger {
    format: LogFormat,
    output: Output,
    /// Writes lines of text.
    lines: Box<WriteLogger<Pieces>>,
    /// By file and line.
    places: Mutex<HashMap<(&'static str, u32), Place>>,
}

impl Logger {
    fn new(level: LevelFilter, format: LogFormat, output: Output) -> Self {
        let config = ConfigBuilder::new()
            .set_time_format_rfc3339()
            .set_thread_level(LevelFilter::Debug)
            .set_target_level(LevelFilter::Off)
            .set_location_level(LevelFilter::Off)
            .build();
        let pieces = Pieces { line: Vec::new(), output: output.clone() };
        let lines = WriteLogger::new(level, config, pieces);
        Self { format, output, lines, places: Mutex::default() }
    }

    /// The number of lines suppressed since the last one of its place, or `None`
    /// if this one is suppressed too.
    fn admit(&self, record: &Record<'_>, now: Instant) -> Option<u64> {
        if record.level() > Level::Info {
            return Some(0);
        }
        let place = (record.file_static().unwrap_or_default(), record.line().unwrap_or_default());
        self.places().entry(place).or_insert_with(|| Place::new(now)).admit(now)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<(&'static str, u32), Place>> {
        // The counts are whole at all times.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        // These libraries log a line for each record that is read at a start.
        let is_insides = metadata.level() > Level::Warn
            && LOQUACIOUS.iter().any(|library| target.starts_with(library));
        self.lines.enabled(metadata) && !is_insides && !target.starts_with(LIBRARY_LOG_TARGET)
    }

    fn log(&self, record: &Record<'_>) {
        let is_of_gone_file = || {
            record.target() == OF_OBSOLETE_FILES && record.args().to_string().contains(OF_GONE_FILE)
        };
        if !self.enabled(record.metadata()) || is_of_gone_file() {
            return;
        }
        let Some(left_out) = self.admit(record, Instant::now()) else { return };
        // In full before any lock is taken: this runs the caller's own code.
        let mut text = Printable::default();
        // Only the shown value itself could fail, and then it is not shown.
        write!(text, "{}", record.args()).ok();
        if left_out > 0 {
            write!(text, " ({left_out} more like this were left out)").ok();
        }
        let text = text.0;
        match self.format {
            LogFormat::Text => {
                let mut line = Record::builder();
                line.metadata(record.metadata().clone());
                self.lines.log(&line.args(format_args!("{text}")).build());
            }
            LogFormat::Json => {
                let (time, level) = (SystemTime::now(), record.level());
                let line = JsonLine { time, level, message: &text, served: None };
                self.output.line(line.into_bytes());
            }
        }
    }

    fn flush(&self) {
        let left_out: u64 =
            self.places().values_mut().map(|place| mem::take(&mut place.left_out)).sum();
        if left_out > 0 {
            log::warn!("{left_out} lines that came too often were left out");
        }
    }
}

/// A place in the code that logs, in the present interval.
struct Place {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Place {
    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0, left_out: 0 }
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= LINES_INTERVAL {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(mem::take(&mut self.left_out))
    }
}

/// Text that is harmless to a terminal: characters that are not printable are
/// escaped, a line's end as well.
#[derive(Default)]
pub struct Printable(String);

impl Printable {
    /// A text in this form.
    pub fn of(text: &impl fmt::Display) -> String {
        let mut printable = Self::default();
        // Only the shown value itself could fail, and then it is not shown.
        write!(printable, "{text}").ok();
        printable.0
    }
}

impl fmt::Write for Printable {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() >= TEXT_BYTES_MAX {
                if !self.0.ends_with(CUT) {
                    self.0.push_str(CUT);
                }
                break;
            }
            match character {
                // These have an escape and are harmless.
                '\\' | '\'' | '"' => self.0.push(character),
                _ => self.0.extend(character.escape_debug()),
            }
        }
        Ok(())
    }
}

/// The end of a text that was cut.
const CUT: &str = "[...]";

/// Joins the pieces that simplelog writes to lines. A piece has a line's end only
/// as its last byte.
struct Pieces {
    line: Vec<u8>,
    output: Output,
}

impl io::Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if let Some(last) = piece.strip_suffix(b"\n") {
            self.line.extend_from_slice(last);
            self.output.line(mem::take(&mut self.line));
        } else {
            self.line.extend_from_slice(piece);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(act: impl FnOnce(&Logger)) -> String {
        logged_as(LogFormat::Text, act)
    }

    fn logged_as(format: LogFormat, act: impl FnOnce(&Logger)) -> String {
        let sink = Sink::default();
        let gap = |lost| panic!("{lost} lines are lost");
        let output = Output::new("test", sink.clone(), gap).unwrap();
        act(&Logger::new(LevelFilter::Debug, format, output.clone()));
        output.finish(Instant::now() + Duration::from_secs(10));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn record(level: Level, text: fmt::Arguments<'_>, line: u32) -> Record<'_> {
        let mut record = Record::builder();
        record.level(level).args(text).file_static(Some("file.rs")).line(Some(line));
        record.build()
    }

    #[test]
    fn a_line_has_its_time_its_level_its_thread_and_its_text() {
        let log = logged(|logger| logger.log(&record(Level::Warn, format_args!("it's \"so\""), 1)));
        let (time, rest) = log.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{log}");
        assert!(rest.starts_with("[WARN] ") && rest.ends_with(" it's \"so\"\n"), "{log}");
        let debug = logged(|logger| logger.log(&record(Level::Debug, format_args!("so"), 1)));
        assert!(debug.contains(" [DEBUG] (") && debug.ends_with(") so\n"), "{debug}");
    }

    #[test]
    fn an_obsolete_file_that_cannot_be_removed_is_told_of_unless_it_is_gone() {
        let warning = |kind: io::ErrorKind| {
            logged(|logger| {
                let err = io::Error::from(kind);
                let args = format_args!("Failed to cleanup deleted table: {err:?}");
                let mut record = Record::builder();
                record.level(Level::Warn).target("lsm_tree::table::inner");
                logger.log(&record.args(args).build());
            })
        };
        assert_eq!(warning(io::ErrorKind::NotFound), "");
        assert!(warning(io::ErrorKind::PermissionDenied).contains("PermissionDenied"));
    }

    #[test]
    fn a_line_of_json_has_the_text_of_the_other_form() {
        let text = "it's \"so\" \x1b\n\u{9b}";
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
            let act = |logger: &Logger| logger.log(&record(level, format_args!("{text}"), 1));
            let json = logged_as(LogFormat::Json, act);
            let object: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(object["message"], Printable::of(&text));
            assert_eq!(object["level"], level.to_string().to_lowercase());
            assert_eq!(object.as_object().unwrap().len(), 3, "{json}");
            assert_eq!((json.lines().count(), json.ends_with("}\n")), (1, true), "{json}");
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_as_it_came() {
        let cases = [
            ("\x1b[2J\x07", "\\u{1b}[2J\\u{7}"),
            ("one\r\ntwo\n", "one\\r\\ntwo\\n"),
            ("\0\t\x7f", "\\0\\t\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}exe.txt\u{2028}", "\\u{202e}exe.txt\\u{2028}"),
            ("S\u{e3}o Paulo \u{1f1f0}", "S\u{e3}o Paulo \u{1f1f0}"),
            ("C:\\ 'x' \"y\"", "C:\\ 'x' \"y\""),
        ];
        for (text, shown) in cases {
            assert_eq!(Printable::of(&text), shown);
            let log = logged(|logger| logger.log(&record(Level::Info, format_args!("{text}"), 1)));
            assert!(log.ends_with(&format!(" {shown}\n")), "{log:?}");
            assert_eq!(log.lines().count(), 1, "{log:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let text = Printable::of(&"\x1b".repeat(100_000));
        assert!(text.ends_with("\\u{1b}[...]") && text.len() < TEXT_BYTES_MAX + 20);
        let twice = format_args!("{}{}", "a".repeat(TEXT_BYTES_MAX), "b").to_string();
        assert_eq!(Printable::of(&twice).len(), TEXT_BYTES_MAX + CUT.len());
    }

    #[test]
    fn of_many_lines_of_one_place_some_are_written_and_the_others_counted() {
        let log = logged(|logger| {
            for number in 0..1000 {
                logger.log(&record(Level::Info, format_args!("from outside {number}"), 1));
            }
            logger.log(&record(Level::Info, format_args!("of another place"), 2));
            for number in 0..1000 {
                logger.log(&record(Level::Debug, format_args!("request {number}"), 3));
            }
        });
        let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(lines("from outside"), LINES_MAX as usize);
        assert_eq!((lines("of another place"), lines("request")), (1, 1000));
    }

    #[test]
    fn after_the_interval_a_line_tells_how_many_were_left_out() {
        let start = Instant::now();
        let mut place = Place::new(start);
        for _ in 0..LINES_MAX {
            assert_eq!(place.admit(start), Some(0));
        }
        let almost = start + LINES_INTERVAL.mul_f32(0.99);
        assert_eq!([place.admit(start), place.admit(almost)], [None, None]);
        assert_eq!(place.admit(start + LINES_INTERVAL), Some(2));
        assert_eq!(place.admit(start + LINES_INTERVAL), Some(0));
        assert_eq!(place.left_out, 0);
    }
}
