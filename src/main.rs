//! Starts the store, waits for a signal, stops it.

mod signals;
mod system;

use little_key_value::api::Api;
use little_key_value::cli::{self, Instead, Options, Output, Printable, logging};
use little_key_value::server::Server;
use little_key_value::storage::{Durable, Memory, OpenError, Storage};
use signals::{Caught, Uncaught};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The exit code for a failure; also for a second signal.
const FAILURE: u8 = 1;

/// The exit code for bad usage.
const BAD_USAGE: u8 = 2;

/// The longest wait at the end for a reader of the output.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    system::survive_file_limit();
    system::save_address_space();
    system::keep_files_private();
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(Instead::Print(text)) => {
            // Nobody has to read it.
            writeln!(io::stdout(), "{}", text.trim_end()).ok();
            return ExitCode::SUCCESS;
        }
        Err(Instead::Complain(line)) => {
            writeln!(io::stderr(), "{}", complaint(&line)).ok();
            return ExitCode::from(BAD_USAGE);
        }
    };
    let uncaught = Uncaught::new();
    let streams = match Streams::new() {
        Ok(streams) => streams,
        Err(err) => {
            let line = format!("cannot start a thread for the output: {err}");
            writeln!(io::stderr(), "{}", complaint(&line)).ok();
            return ExitCode::from(FAILURE);
        }
    };
    let code = match run(&options, uncaught, &streams) {
        Ok(code) => code,
        Err(line) => {
            streams.error.line(complaint(&line));
            ExitCode::from(FAILURE)
        }
    };
    log::logger().flush();
    streams.finish();
    code
}

/// Standard output and standard error of a store that has begun to start.
#[derive(Clone)]
struct Streams {
    output: Output,
    error: Output,
}

impl Streams {
    fn new() -> io::Result<Self> {
        let output = Output::new("standard output", io::stdout())?;
        Ok(Self { output, error: Output::new("standard error", io::stderr())? })
    }

    /// Waits until all is written, but not for long.
    fn finish(&self) {
        let deadline = Instant::now() + OUTPUT_PATIENCE;
        self.output.finish(deadline);
        self.error.finish(deadline);
    }
}

/// The interval between tries of a lock that another process has.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Runs the store until a signal comes; an error is a line for the user.
fn run(options: &Options, uncaught: Uncaught, streams: &Streams) -> Result<ExitCode, String> {
    streams.output.line("Starting Little Key-Value Store...");
    logging::start(options.log_level, streams.error.clone());
    for line in Options::ignored_variables() {
        log::warn!("{line}");
    }
    let signals = catch(uncaught, streams.clone())?;

    let Some((engine, storage)) = open(options, &signals)? else { return Ok(signals.exit_code()) };
    let api = Api::new(Arc::clone(&storage), options.max_value_size.0);
    let server = listen(options, api)?;
    let addrs = server.local_addrs();
    for addr in addrs.iter().filter(|addr| !cli::is_loopback(addr)) {
        log::warn!("{addr} can be reached from other machines, and there is no authentication");
        if !options.allow_host.is_empty() {
            log::warn!("--allow-host means nothing here: {addr} may be called by any name");
        }
    }
    let (first, others) = addrs.split_first().expect("a server has at least one address");
    let workers = server.workers();
    let place = format!("http://{first} (engine: {engine}, workers: {workers})");
    streams.output.line(format!("Listening on {place}"));
    for addr in others {
        log::info!("listening on http://{addr} as well");
    }

    signals.wait();
    let cause = if signals.are_asked() { "" } else { ": the terminal is gone (SIGHUP)" };
    log::info!("stopping{cause}");
    storage.hurry();
    for line in server.stop() {
        log::info!("{line}");
    }
    close(storage, options.shutdown_timeout.0)?;
    Ok(signals.exit_code())
}

/// Catches the signals. The second one ends the process where it stands.
fn catch(uncaught: Uncaught, streams: Streams) -> Result<Caught, String> {
    let end = move || {
        streams.error.line(complaint(&"stopped by a second signal"));
        streams.finish();
        #[allow(clippy::exit, reason = "the user does not want to wait for anything")]
        std::process::exit(FAILURE.into());
    };
    uncaught.catch(end).map_err(|err| format!("cannot catch signals: {err}"))
}

/// A storage and the name of its engine.
type Engine = (&'static str, Arc<dyn Storage>);

/// Opens the storage. `None` if a signal to stop comes before it is open.
fn open(options: &Options, signals: &Caught) -> Result<Option<Engine>, String> {
    let Some(path) = &options.working_dir else {
        let max = options.max_memory.map_or(u64::MAX, |max| max.0);
        let memory = Memory::with_limits(max, options.history_bytes());
        return Ok(Some(("memory", Arc::new(memory))));
    };
    let patience = options.wait_for_lock.map_or(Duration::ZERO, |span| span.0);
    let deadline = Instant::now() + patience;
    let mut is_waiting = false;
    loop {
        let err = match Durable::open_with_history(path, options.history_bytes()) {
            Ok(durable) => return Ok(Some(("durable", Arc::new(durable)))),
            Err(err) => err,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(err, OpenError::InUse) {
            return Err(format!("cannot open {}: {err}", path.display()));
        }
        if !is_waiting {
            log::info!("waiting for the process that has {} open", path.display());
            is_waiting = true;
        }
        if signals.wait_for(left.min(LOCK_INTERVAL)) {
            return Ok(None);
        }
    }
}

/// Closes the storage; a disk that hangs is not waited for.
fn close(storage: Arc<dyn Storage>, timeout: Duration) -> Result<(), String> {
    let (closed, outcome) = crossbeam_channel::bounded(1);
    // Nothing is left that could use it, or report a thread that cannot start.
    thread::spawn(move || closed.send(storage.close()).ok());
    let failure = match outcome.recv_timeout(timeout) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(err)) => err.to_string(),
        Err(_) => "the disk does not answer".to_owned(),
    };
    Err(format!(
        "cannot close the storage: {failure}; what was answered with 200 is on the disk, as far \
         as it keeps what it has synced, and other writes may be lost"
    ))
}

/// Listens on the addresses of the host.
fn listen(options: &Options, api: Api) -> Result<Server, String> {
    let place = format!("{}, port {}", options.host, options.port);
    let addrs = options.addrs().map_err(|err| format!("cannot listen on {place}: {err}"))?;
    let api = |addrs: &[std::net::SocketAddr]| api.with_hosts(options.hosts(addrs));
    Server::start(&options.config(addrs), api).map_err(|err| err.to_string())
}

/// A message for the user outside of the log, as one line.
fn complaint(what: &impl Display) -> String {
    format!("little-key-value: {}", Printable::of(what))
}
