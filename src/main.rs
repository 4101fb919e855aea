//! Starts the store, waits for a signal, stops it.

mod system;

use little_key_value::api::Api;
use little_key_value::cli::{Instead, Options};
use little_key_value::server::{LIBRARY_LOG_TARGET, Server};
use little_key_value::storage::{Durable, Memory, Storage};
use log::{Log, Metadata, Record};
use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The exit code for a failure; also for a second signal.
const FAILURE: u8 = 1;

/// The exit code for bad usage.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    system::survive_file_limit();
    system::keep_files_private();
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(Instead::Print(text)) => {
            print(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Instead::Complain(line)) => return fail(BAD_USAGE, &line),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => fail(FAILURE, &line),
    }
}

/// Runs the store until a signal comes; an error is a line for the user.
fn run(options: &Options) -> Result<(), String> {
    print("Starting Little Key-Value Store...");
    start_logging(options.log_level);
    let signals = catch_signals().map_err(|err| format!("cannot catch signals: {err}"))?;

    let (engine, storage) = open(options)?;
    let api = Api::new(Arc::clone(&storage), options.max_value_size.0);
    let server = listen(options, &api)?;
    let (addr, workers) = (server.local_addr(), server.workers());
    if !addr.ip().is_loopback() {
        log::warn!("{addr} can be reached from other machines, and there is no authentication");
    }
    print(&format!("Listening on http://{addr} (engine: {engine}, workers: {workers})"));

    // The sender lives as long as the process.
    signals.recv().map_err(|err| format!("cannot wait for signals: {err}"))?;
    log::info!("stopping");
    for line in server.stop() {
        log::info!("{line}");
    }
    close(storage, options.shutdown_timeout.0)
}

/// Opens the storage, and gives its engine a name.
fn open(options: &Options) -> Result<(&'static str, Arc<dyn Storage>), String> {
    let Some(path) = &options.working_dir else {
        let memory = options.max_memory.map_or_else(Memory::new, |max| Memory::with_max(max.0));
        return Ok(("memory", Arc::new(memory)));
    };
    let durable = Durable::open(path);
    let durable = durable.map_err(|err| format!("cannot open {}: {err}", path.display()))?;
    Ok(("durable", Arc::new(durable)))
}

/// Closes the storage; a disk that hangs is not waited for.
fn close(storage: Arc<dyn Storage>, timeout: Duration) -> Result<(), String> {
    let (closed, outcome) = crossbeam_channel::bounded(1);
    // Nobody is left who could use it, or hear of a thread that cannot start.
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

/// Listens on the first address of the host that can be had.
fn listen(options: &Options, api: &Api) -> Result<Server, String> {
    let place = format!("{}, port {}", options.host, options.port);
    let addrs = options.addrs().map_err(|err| format!("cannot listen on {place}: {err}"))?;
    let mut failure = None;
    for addr in addrs {
        match Server::start(&options.config(addr), api.clone()) {
            Ok(server) => return Ok(server),
            Err(err) => failure = Some(format!("cannot listen on {addr}: {err}")),
        }
    }
    Err(failure.expect("a host has at least one address"))
}

/// A second signal this soon after the first comes from a program that sends
/// both, as `timeout` does; an idle server has stopped by then.
const SIGNALS_APART: Duration = Duration::from_millis(200);

/// Gives a channel that hears of the first signal to stop. The second one
/// ends the process where it stands.
fn catch_signals() -> Result<crossbeam_channel::Receiver<()>, ctrlc::Error> {
    let (stop, stopped) = crossbeam_channel::bounded(1);
    let first_at = OnceLock::new();
    ctrlc::set_handler(move || {
        let now = Instant::now();
        let first_at = *first_at.get_or_init(|| now);
        if first_at != now {
            thread::sleep(SIGNALS_APART.saturating_sub(now.duration_since(first_at)));
            eprint_line("stopped by a second signal");
            #[allow(clippy::exit, reason = "the user does not want to wait for anything")]
            std::process::exit(FAILURE.into());
        }
        // The receiver is gone only once the program ends anyway.
        stop.try_send(()).ok();
    })?;
    Ok(stopped)
}

fn start_logging(level: LevelFilter) {
    let config = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Debug)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_ignore_str(LIBRARY_LOG_TARGET)
        .build();
    let logger = Quieter(WriteLogger::new(level, config, io::stderr()));
    log::set_max_level(level);
    log::set_boxed_logger(Box::new(logger)).expect("nothing else has set a logger");
    std::panic::set_hook(Box::new(|panic| {
        // Threads of ours have names. Those of the HTTP library panic when a client resets
        // its connection at the wrong moment, and that is nothing to act on.
        match thread::current().name() {
            Some(name) => log::error!("thread {name}: {panic}"),
            None => log::debug!("a thread of a connection: {panic}"),
        }
    }));
}

/// The libraries that tell much of their insides, by the start of their targets.
const LOQUACIOUS: [&str; 2] = ["fjall", "lsm_tree"];

/// A logger that passes on what those libraries warn of, and nothing else of
/// theirs: they have a line for each record that is read at a start.
struct Quieter(Box<WriteLogger<io::Stderr>>);

impl Log for Quieter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_insides = metadata.level() > log::Level::Warn
            && LOQUACIOUS.iter().any(|library| metadata.target().starts_with(library));
        self.0.enabled(metadata) && !is_insides
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        Log::flush(&*self.0);
    }
}

/// Prints a line for whoever reads standard output; nobody has to.
fn print(line: &str) {
    let mut output = io::stdout();
    writeln!(output, "{line}").and_then(|()| output.flush()).ok();
}

fn fail(code: u8, line: &dyn Display) -> ExitCode {
    eprint_line(line);
    ExitCode::from(code)
}

fn eprint_line(line: impl Display) {
    writeln!(io::stderr(), "little-key-value: {line}").ok();
}
