//! What is told of panics. A crate of one test, for the hook is the process's.

use little_key_value::cli::{LogFormat, Output, logging};
use log::LevelFilter;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const PANICS: usize = 100;

/// A log that takes nothing before it is told to.
struct Stalled {
    go: Option<mpsc::Receiver<()>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(go) = self.go.take() {
            go.recv().map_err(io::Error::other)?;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_waits_for_no_reader_and_is_one_line() {
    let (tell, go) = mpsc::channel();
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let stalled = Stalled { go: Some(go), written: Arc::clone(&written) };
    let output = Output::new("log", stalled, |lost| LogFormat::Text.gap(lost)).expect("a thread");
    logging::start(LevelFilter::Info, LogFormat::Text, output.clone());
    let begun = Instant::now();
    for number in 0..PANICS {
        let worker = thread::Builder::new().name(format!("worker-{number}"));
        let panics = worker.spawn(move || panic!("of a client's \x1b[2J\n{number}"));
        panics.expect("a thread").join().expect_err("it panics");
    }
    log::logger().flush();
    tell.send(()).expect("the log waits");
    output.finish(Instant::now() + Duration::from_secs(10));

    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    let log = String::from_utf8(written.clone()).expect("text");
    let (mut told, mut left_out) = (0, 0);
    for line in log.lines() {
        // At the end of the first line after some, or in a line of its own.
        if let Some((text, _)) = line.split_once(" more like this were left out)") {
            left_out += last_number(text.rsplit_once('(').expect("a parenthesis").1);
        } else if let Some((text, _)) = line.split_once(" lines that came too often") {
            left_out += last_number(text);
            continue;
        }
        assert!(line.contains("[ERROR] ") && line.contains(": panicked at "), "{line}");
        assert!(line.contains("of a client's \\u{1b}[2J\\n"), "{line}");
        told += 1;
    }
    assert_eq!(told + left_out, PANICS, "{log}");
    assert!(left_out > 0 || begun.elapsed() > Duration::from_secs(30), "{log}");
}

fn last_number(text: &str) -> usize {
    let word = text.rsplit(' ').next();
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no number: {text:?}"))
}
