//! The program: starts the store, waits for a signal or for the end of a command, stops it.
//!
//! ```text
//! arguments ──► Task ──► Plan: secrets read, host resolved ──► run
//! run:  catch signals ──► open the storage ──► listen ──► announce ──► serve ──► stop
//! ```
//!
//! Bad usage and all failures end here: in one line on standard error and an exit code.

mod child;
mod health;
mod port_file;
mod service_manager;
mod signals;
mod system;

use child::Child;
use little_key_value::api::{Api, Tokens};
use little_key_value::cli::{
    Instead, LogFormat, Options, Output, Task, Token, TokenFile, Url, logging,
};
use little_key_value::server::{AccessLog, Config, Served, Server};
use little_key_value::storage::{Cluster, ClusterConfig, Durable, Memory, OpenError, Storage};
use signals::{Caught, Uncaught};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use system::Settings;

/// The exit code for a failure; also for a second signal.
const FAILURE: u8 = 1;

/// The exit code for bad usage.
const BAD_USAGE: u8 = 2;

/// The longest wait at the end for a reader of the output.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// The interval between tries of a lock that another process has.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let settings = Settings::read();
    system::survive_file_limit();
    system::save_address_space();
    system::keep_files_private();
    match Task::read(std::env::args_os()) {
        Ok(Task::Serve(options)) => start(*options, None, settings),
        Ok(Task::Run(options, command)) => start(*options, Some(command), settings),
        Ok(Task::Health(url)) => match health::check(&url) {
            Ok(()) => ExitCode::SUCCESS,
            Err(line) => fail(LogFormat::Text, &line, FAILURE),
        },
        Err(Instead::Print(text)) => print(&text),
        Err(Instead::Complain(line)) => fail(LogFormat::Text, &line, BAD_USAGE),
    }
}

/// Starts a store and runs it, as long as its command if there is one.
fn start(options: Options, command: Option<Vec<OsString>>, settings: Settings) -> ExitCode {
    let format = options.log_format;
    let plan = match Plan::new(options, command, settings) {
        Ok(plan) => plan,
        Err((code, line)) => return fail(format, &line, code),
    };
    let uncaught = Uncaught::new();
    let streams = match Streams::new(format, plan.command.is_none()) {
        Ok(streams) => streams,
        Err(err) => {
            let line = format!("cannot start a thread for the output: {err}");
            return fail(format, &line, FAILURE);
        }
    };
    let code = match run(&plan, uncaught, &streams) {
        Ok(code) => code,
        Err(line) => {
            streams.complain(&line);
            FAILURE
        }
    };
    log::logger().flush();
    streams.finish();
    ExitCode::from(code)
}

/// The options of a store that may start, and what they name.
struct Plan {
    options: Options,
    /// The addresses to listen on.
    addrs: Vec<SocketAddr>,
    /// The tokens that let callers in; none where everyone is let in.
    tokens: Option<Tokens>,
    /// The file that they come from.
    token_file: Option<TokenFile>,
    /// The cluster to be a front to, with a warning if there is one.
    cluster: Option<(ClusterConfig, Option<String>)>,
    /// The command to run beside it, with its arguments.
    command: Option<Vec<OsString>>,
    settings: Settings,
}

impl Plan {
    /// Reads the secrets and resolves the host; an error is an exit code, and a line for
    /// the user. Opens nothing else, and starts nothing.
    fn new(
        mut options: Options,
        command: Option<Vec<OsString>>,
        settings: Settings,
    ) -> Result<Self, (u8, String)> {
        let bad_usage = |line| (BAD_USAGE, line);
        if command.is_some() {
            options.make_up_token().map_err(|line| (FAILURE, line))?;
        }
        let (tokens, token_file) = options.tokens().map_err(bad_usage)?.unzip();
        let cluster = options.cluster.config().map_err(bad_usage)?;
        let place = format!("{}, port {}", options.host, options.port);
        let addrs = options.addrs();
        let addrs = addrs.map_err(|err| (FAILURE, format!("cannot listen on {place}: {err}")))?;
        options.check_addrs(&addrs).map_err(bad_usage)?;
        let token_file = token_file.flatten();
        Ok(Self { options, addrs, tokens, token_file, cluster, command, settings })
    }
}

/// Standard output and standard error of a store that has begun to start.
#[derive(Clone)]
struct Streams {
    output: Output,
    error: Output,
    /// The form of a line on standard error.
    format: LogFormat,
}

impl Streams {
    /// Standard output is another's unless it is `own`, and gets nothing then.
    fn new(format: LogFormat, own: bool) -> io::Result<Self> {
        let gap = |lost| LogFormat::Text.gap(lost);
        let sink: Box<dyn io::Write + Send> =
            if own { Box::new(io::stdout()) } else { Box::new(io::sink()) };
        let output = Output::new("standard output", sink, gap)?;
        let gap = move |lost| format.gap(lost);
        let error = Output::new("standard error", io::stderr(), gap)?;
        Ok(Self { output, error, format })
    }

    /// Writes a message for the user that is not of the log.
    fn complain(&self, line: &str) {
        self.error.line(self.format.complaint(&line));
    }

    /// An access log on standard error.
    fn access_log(&self) -> AccessLog {
        let Self { error, format, .. } = self.clone();
        AccessLog::new(move |served: &Served<'_>| {
            error.line(format.served(served, SystemTime::now()));
        })
    }

    /// Waits until all is written, but not for long.
    fn finish(&self) {
        let deadline = Instant::now() + OUTPUT_PATIENCE;
        self.output.finish(deadline);
        self.error.finish(deadline);
    }
}

/// Runs the store until a signal comes, or as long as its command runs. Returns the exit
/// code; an error is a line for the user.
fn run(plan: &Plan, uncaught: Uncaught, streams: &Streams) -> Result<u8, String> {
    let options = &plan.options;
    streams.output.line("Starting Little Key-Value Store...");
    logging::start(options.log_level, options.log_format, streams.error.clone());
    for line in Options::ignored_variables() {
        log::warn!("{line}");
    }
    let (child, signals) = catch(uncaught, streams.clone(), plan.command.is_some())?;
    let port_file = options.port_file.as_ref();
    let port_file = port_file.map(|path| port_file::reserve(path, plan.settings)).transpose()?;

    if let (Some(file), Some(tokens)) = (&plan.token_file, &plan.tokens) {
        let followed = file.clone().follow(tokens.clone());
        followed.map_err(|err| format!("cannot start a thread for the tokens: {err}"))?;
    }
    let Some(engine) = open(plan, &signals)? else { return Ok(signals.exit_code()) };
    let api = Api::new(Arc::clone(&engine.storage), options.max_value_size.0);
    api.metrics().add_source(streams.error.source());
    let server = listen(plan, &engine, api, streams)?;
    for line in options.warnings(server.local_addrs()) {
        log::warn!("{line}");
    }
    let addr = server.local_addrs().first().expect("a server has at least one address");
    let url = Url::of_addr(*addr);
    let port_file = port_file.map(|reserved| reserved.write(addr.port())).transpose()?;
    announce(plan, &engine, &server, streams);
    service_manager::ready();

    serve(plan, child, &signals, &url, streams);

    service_manager::stopping();
    drop(port_file);
    engine.storage.hurry();
    for line in server.stop() {
        log::info!("{line}");
    }
    close(engine, options.shutdown_timeout.0)?;
    Ok(signals.exit_code())
}

/// Says where the store listens.
fn announce(plan: &Plan, engine: &Engine, server: &Server, streams: &Streams) {
    let (first, others) =
        server.local_addrs().split_first().expect("a server has at least one address");
    let workers = server.workers();
    let place = format!("http://{first} (engine: {}, workers: {workers})", engine.name);
    streams.output.line(format!("Listening on {place}"));
    if io::stdout().is_terminal() {
        for line in hints(&Url::of_addr(*first), plan.tokens.is_some()) {
            streams.output.line(line);
        }
    }
    for addr in others {
        log::info!("listening on http://{addr} as well");
    }
}

/// Blocks while the store serves: until a signal comes, or until the command has ended,
/// which is told the store's URL.
fn serve(plan: &Plan, child: Option<Child>, signals: &Caught, url: &str, streams: &Streams) {
    if let (Some(child), Some(command)) = (child, &plan.command) {
        let token = plan.options.token.as_ref().map(Token::as_str);
        let variables = [(Url::VARIABLE, Some(url)), (Token::VARIABLE, token)];
        let outcome = child.run(command, variables, plan.settings);
        outcome.unwrap_or_else(|line| streams.complain(&line));
        log::info!("stopping: the command has ended");
    } else {
        signals.wait();
        let cause = if signals.are_hangups() { ": the terminal is gone (SIGHUP)" } else { "" };
        log::info!("stopping{cause}");
    }
}

/// Catches the signals, for a command if there is one. The second one ends the process
/// where it stands, and one that comes after the command as well.
fn catch(
    uncaught: Uncaught,
    streams: Streams,
    has_command: bool,
) -> Result<(Option<Child>, Caught), String> {
    let end = move |code: u8| {
        streams.complain("stopped by a second signal");
        streams.finish();
        #[allow(clippy::exit, reason = "the user does not want to wait for anything")]
        std::process::exit(code.into());
    };
    let caught = if has_command {
        Child::new(uncaught, end).map(|(child, caught)| (Some(child), caught))
    } else {
        uncaught.catch(move || end(FAILURE)).map(|caught| (None, caught))
    };
    caught.map_err(|err| format!("cannot catch signals: {err}"))
}

/// A storage, and the words for it.
struct Engine {
    name: &'static str,
    storage: Arc<dyn Storage>,
    /// The descriptors that it takes at most.
    descriptors: u64,
    /// The cause where it does not close in time.
    hang: &'static str,
    /// The fate of writes where it does not close well.
    loss: &'static str,
}

impl Engine {
    fn memory(memory: Memory) -> Self {
        Self {
            name: "memory",
            storage: Arc::new(memory),
            descriptors: 0,
            hang: "it does not end",
            loss: "what it had is gone",
        }
    }

    fn durable(durable: Durable) -> Self {
        Self {
            name: "durable",
            storage: Arc::new(durable),
            descriptors: Durable::descriptors_max(),
            hang: "the disk does not answer",
            loss: "what was answered with 200 is on the disk, as far as it keeps what it has \
                      synced, and other writes may be lost",
        }
    }

    fn cluster(cluster: Cluster) -> Self {
        Self {
            name: "cluster",
            descriptors: cluster.descriptors_max(),
            storage: Arc::new(cluster),
            hang: "the cluster does not answer",
            loss: "what was answered with 200 was done, and other writes may have been",
        }
    }
}

/// Opens the storage. `None` if a signal to stop comes before it is open.
fn open(plan: &Plan, signals: &Caught) -> Result<Option<Engine>, String> {
    let options = &plan.options;
    if let Some((config, warning)) = &plan.cluster {
        if let Some(line) = warning {
            log::warn!("{line}");
        }
        return connect(config.clone(), signals);
    }
    let limits = options.limits();
    let Some(path) = &options.working_dir else {
        let memory = Memory::with_limits(limits);
        memory.limit_process();
        return Ok(Some(Engine::memory(memory)));
    };
    let patience = options.wait_for_lock.map_or(Duration::ZERO, |span| span.0);
    let deadline = Instant::now() + patience;
    let mut is_waiting = false;
    loop {
        let err = match Durable::open_with_limits(path, limits) {
            Ok(durable) => return Ok(Some(Engine::durable(durable))),
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

/// Connects to a cluster. `None` if a signal to stop comes before it answers.
fn connect(config: ClusterConfig, signals: &Caught) -> Result<Option<Engine>, String> {
    let (connected, outcome) = crossbeam_channel::bounded(1);
    let thread = thread::Builder::new().name("connector".to_owned());
    // Nobody hears of it after a signal.
    let spawned = thread.spawn(move || connected.send(Cluster::connect(&config)).ok());
    spawned.map_err(|err| format!("cannot start a thread for the cluster: {err}"))?;
    let Some(outcome) = signals.wait_or(&outcome) else { return Ok(None) };
    let outcome = outcome.map_err(|_| "the thread that reaches for the cluster is gone")?;
    let cluster = outcome.map_err(|err| format!("cannot reach the cluster: {err}"))?;
    Ok(Some(Engine::cluster(cluster)))
}

/// Closes the storage; one that hangs is not waited for.
fn close(engine: Engine, timeout: Duration) -> Result<(), String> {
    let Engine { storage, hang, loss, .. } = engine;
    let (closed, outcome) = crossbeam_channel::bounded(1);
    let thread = thread::Builder::new().name("closer".to_owned());
    let failure = match thread.spawn(move || closed.send(storage.close()).ok()) {
        Ok(_) => match outcome.recv_timeout(timeout) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(err)) => err.to_string(),
            Err(_) => hang.to_owned(),
        },
        Err(err) => format!("no thread can be started for it: {err}"),
    };
    Err(format!("cannot close the storage: {failure}; {loss}"))
}

/// Listens on the addresses of the host.
fn listen(plan: &Plan, engine: &Engine, api: Api, streams: &Streams) -> Result<Server, String> {
    let access = |addrs: &[SocketAddr]| plan.options.access(addrs, plan.tokens.clone());
    let api = |addrs: &[SocketAddr]| api.with_access(access(addrs));
    let access_log = plan.options.access_log.then(|| streams.access_log());
    let config =
        Config { access_log, ..plan.options.config(plan.addrs.clone(), engine.descriptors) };
    Server::start(&config, api).map_err(|err| err.to_string())
}

/// Lines for a person at a terminal who has just started a store: a request to try, and
/// the way to stop.
fn hints(url: &str, needs_token: bool) -> [String; 2] {
    let token = if needs_token { " -u \":$LKV_TOKEN\"" } else { "" };
    [
        // zsh takes the brackets of an IPv6 address for a pattern.
        format!("Try it:  curl{token} -X PUT -d Nairobi '{url}/kv/kenya:capital'"),
        "Stop it: Ctrl-C".to_owned(),
    ]
}

/// Prints a text that was asked for. Nobody has to read it to its end.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    let printed = writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush());
    if let Err(err) = printed
        && err.kind() != io::ErrorKind::BrokenPipe
    {
        let line = format!("cannot write to standard output: {err}");
        return fail(LogFormat::Text, &line, FAILURE);
    }
    ExitCode::SUCCESS
}

/// Writes a message for the user where there is no thread for it yet, and gives the exit
/// code.
fn fail(format: LogFormat, line: &str, code: u8) -> ExitCode {
    let mut bytes = format.complaint(&line);
    bytes.push(b'\n');
    // Nobody has to read it.
    io::stderr().write_all(&bytes).ok();
    ExitCode::from(code)
}
