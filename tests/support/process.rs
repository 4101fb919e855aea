//! The real program, as a person runs it.

use super::http::{Connection, PATIENCE, holds_within, wait_until};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

/// A program that runs and listens. It is killed when it is dropped.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: Arc<Mutex<String>>,
    log_reader: Option<thread::JoinHandle<()>>,
    /// The two lines that it wrote once it listened.
    pub greeting: [String; 2],
    addr: SocketAddr,
}

/// The program with these arguments and none of the environment's `LKV_…`. No
/// signal that stops it is ignored, though whoever runs the tests may do so.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_little-key-value"));
    command.args(arguments).stdin(Stdio::null());
    #[cfg(unix)]
    heed_signals(&mut command);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LKV_") {
            command.env_remove(name);
        }
    }
    command
}

/// Has a command heed every signal that stops the program, whatever whoever runs
/// the tests ignores.
#[cfg(unix)]
#[allow(unsafe_code, reason = "between fork and exec little is safe")]
pub fn heed_signals(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;

    let heed = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: this is safe between fork and exec, and no handler is set.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: as above; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(heed) };
}

/// Runs the program to its end, which has to come by itself and soon.
pub fn output(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().expect("the program runs");
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut stderr = child.stderr.take().expect("it is piped");
    let [stdout, stderr] = thread::scope(|scope| {
        let stdout = scope.spawn(move || read_all(&mut stdout));
        let stderr = scope.spawn(move || read_all(&mut stderr));
        let status = wait(child);
        if status.is_none() {
            child.kill().expect("it still runs");
        }
        let texts = [stdout, stderr].map(|reader| reader.join().expect("a pipe can be read"));
        assert!(status.is_some(), "the program does not end; it wrote {texts:?}");
        texts
    });
    let status = child.wait().expect("it has ended");
    Output { status, stdout, stderr }
}

/// Sends a child a signal by name, `TERM`.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let kill = Command::new("kill").args([&format!("-{name}"), &pid]).status();
    assert!(kill.expect("kill runs").success(), "kill -{name} {pid}");
}

fn read_all(pipe: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("a pipe can be read");
    bytes
}

/// The status of a child that ends in time.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let mut status = None;
    holds_within(PATIENCE, || {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    status
}

impl Process {
    /// Starts it on a port of the system's choice.
    pub fn start(arguments: &[&str]) -> Self {
        Self::run(command(&[&["--port", "0"], arguments].concat()))
    }

    /// Starts it and waits until it listens.
    pub fn run(command: Command) -> Self {
        let (mut process, stderr) = Self::run_unread(command);
        process.read(stderr);
        process
    }

    /// Starts it and waits until it listens or ends; gives its log then.
    pub fn try_run(command: Command) -> Result<Self, String> {
        let (mut process, stderr) = Self::try_run_unread(command)?;
        process.read(stderr);
        Ok(process)
    }

    /// Starts it and waits until it listens; nobody reads its log.
    pub fn run_unread(command: Command) -> (Self, ChildStderr) {
        let started = Self::try_run_unread(command);
        started.unwrap_or_else(|log| panic!("no second line; its log: {log}"))
    }

    fn try_run_unread(mut command: Command) -> Result<(Self, ChildStderr), String> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program runs");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        let greeting = [(); 2].map(|()| lines.recv_timeout(PATIENCE).ok());
        let [Some(first), Some(second)] = greeting else {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
            let mut log = String::new();
            stderr.read_to_string(&mut log).expect("it writes text");
            return Err(log);
        };
        let addr = addr_in(&second);
        let greeting = [first, second];
        let log = Arc::default();
        Ok((Self { child, lines, log, log_reader: None, greeting, addr }, stderr))
    }

    /// Reads its log from now on.
    pub fn read(&mut self, stderr: ChildStderr) {
        self.log_reader = Some(collect(stderr, &self.log));
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A new connection to it.
    pub fn connect(&self) -> Connection {
        Connection::open(self.addr)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name, `TERM`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Asks it to end, and waits for that as [`end`](Self::end) does.
    pub fn stop(self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.end()
    }

    /// Waits for its end, which has to come by itself and soon: its exit code,
    /// if no signal ended it, and its whole log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child);
        if let Some(reader) = self.log_reader.take_if(|_| status.is_some()) {
            reader.join().expect("its log can be read");
        }
        let status = status.unwrap_or_else(|| panic!("it does not end; its log: {}", self.log()));
        let more: Vec<String> = self.lines.iter().collect();
        assert!(more.is_empty(), "more than two lines on standard output: {more:?}");
        (status.code(), self.log())
    }

    /// Whether none of the storage's threads runs or could, or is being traced:
    /// each waits for something to come, or for a time.
    pub fn is_storage_at_rest(&self) -> bool {
        const OTHERS: [&str; 6] =
            ["(watchdog)", "(accept-", "(connection)", "(lead-", "(worker-", "(sender-"];
        self.stats().all(|stat| OTHERS.iter().any(|name| stat.contains(name)) || waits(&stat))
    }

    /// The same for all of its threads.
    pub fn is_at_rest(&self) -> bool {
        self.stats().all(|stat| waits(&stat))
    }

    /// The state of each of its threads.
    fn stats(&self) -> impl Iterator<Item = String> {
        // A thread that has ended meanwhile has no state.
        self.tasks().filter_map(|task| std::fs::read_to_string(task.join("stat")).ok())
    }

    /// The folders in which the system tells of its threads.
    pub fn tasks(&self) -> impl Iterator<Item = PathBuf> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.expect("it runs").flatten().map(|task| task.path())
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("a whole log").clone()
    }

    /// Waits until it has logged a text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} is logged"), || self.log().contains(text));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.runs() {
            self.child.kill().expect("a child can be killed");
            self.child.wait().expect("a child can be waited for");
        }
    }
}

/// Whether a thread of this state waits for something.
fn waits(stat: &str) -> bool {
    // The name is in parentheses, and the state is behind it.
    stat.contains(") S ")
}

/// The address in `… http://127.0.0.1:8888 …`.
pub fn addr_in(line: &str) -> SocketAddr {
    let url = line.split_whitespace().find_map(|word| word.strip_prefix("http://"));
    let addr = url.map(|rest| rest.trim_end_matches(|c: char| !c.is_ascii_digit()));
    let addr = addr.and_then(|addr| addr.parse().ok());
    addr.unwrap_or_else(|| panic!("no address in {line:?}"))
}

fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("it writes text");
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn collect(stderr: ChildStderr, log: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut stderr = BufReader::new(stderr);
        let mut line = String::new();
        while stderr.read_line(&mut line).expect("it writes text") > 0 {
            log.lock().expect("a whole log").push_str(&line);
            line.clear();
        }
    })
}
