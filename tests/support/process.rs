//! The real program, as a person runs it.

use super::http::{Connection, PATIENCE, has_read_everything, holds_within, wait_until};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
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
#[track_caller]
pub fn output(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    end_of(child.expect("the program runs"))
}

/// Waits for the end of a child, and of what it writes to pipes. It has to come by itself
/// and soon, also where others have the pipes too.
#[track_caller]
pub fn end_of(mut child: Child) -> Output {
    drop(child.stdin.take());
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = wait(&mut child);
    if status.is_none() {
        child.kill().expect("it still runs");
        child.wait().expect("a child can be waited for");
    }
    let [stdout, stderr] = [stdout, stderr].map(|text| match text {
        Some(text) => text.recv_timeout(PATIENCE).ok(),
        None => Some(Vec::new()),
    });
    let (Some(status), Some(stdout), Some(stderr)) = (status, stdout.clone(), stderr.clone())
    else {
        let shown = |text: Vec<u8>| String::from_utf8_lossy(&text).into_owned();
        let texts = [stdout, stderr].map(|text| text.map(shown));
        panic!("a child or a pipe does not end: {status:?} {texts:?}");
    };
    Output { status, stdout, stderr }
}

/// Sends a child a signal by name, `TERM`.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let kill = Command::new("kill").args([&format!("-{name}"), &pid]).status();
    assert!(kill.expect("kill runs").success(), "kill -{name} {pid}");
}

/// Tells all that comes from a pipe, at its end.
fn read_all(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (told, text) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        // The test may have ended.
        told.send(bytes).ok();
    });
    text
}

/// The status of a child that ends in time.
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
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
        let stderr = child.stderr.take().expect("it is piped");
        let greeting = [(); 2].map(|()| lines.recv_timeout(PATIENCE).ok());
        let [Some(first), Some(second)] = greeting else {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
            let log = read_all(stderr).recv_timeout(PATIENCE).expect("its log has an end");
            return Err(String::from_utf8(log).expect("it writes text"));
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

    /// What it takes of one kind of memory, as `VmHWM`, in KiB.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("it runs");
        let mut lines = status.lines();
        let text = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = text.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("Linux tells")
    }

    /// The same in MiB.
    pub fn memory_mib(&self, name: &str) -> u64 {
        self.memory_kib(name) / 1024
    }

    /// Kills it where the test fails: for threads that ask it until it ends.
    pub fn killed_by_a_panic(&self) -> KilledByPanic<'_> {
        KilledByPanic(self)
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
        let status = status.unwrap_or_else(|| panic!("it does not end; its log: {}", self.log()));
        if let Some(reader) = self.log_reader.take() {
            wait_until("its log ends", || reader.is_finished());
            reader.join().expect("its log can be read");
        }
        match self.lines.recv_timeout(PATIENCE) {
            Err(mpsc::RecvTimeoutError::Disconnected) => {}
            more => panic!("more than two lines on standard output, or no end: {more:?}"),
        }
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

    /// Returns true if it has read all that its clients have sent it, and has nothing to do
    /// for them but to wait.
    pub fn has_taken_everything(&self) -> bool {
        has_read_everything(self.addr()) && self.is_at_rest()
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

/// A program that is killed where the test fails.
pub struct KilledByPanic<'a>(&'a Process);

impl Drop for KilledByPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let pid = self.0.id().to_string();
            // A second panic would end all tests.
            Command::new("kill").args(["-KILL", &pid]).status().ok();
        }
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

/// The lines that come from a pipe.
pub fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
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
