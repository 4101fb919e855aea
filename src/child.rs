//! The command of `run`: a child process, for as long as the store serves.
//!
//! ```text
//! Awaited ──► Running ──► Ended
//!    └─ signal ─► Stopped
//! ```
//!
//! A signal to stop that comes before the command stops the start, one that comes while it
//! runs is forwarded to it, and a later one ends the process where it stands.

use crate::signals::{Caught, FirstSignal, Stop, Uncaught};
use crate::system::{self, Settings};
use shared_child::SharedChild;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The exit code for a command that cannot be run.
const NOT_EXECUTABLE: u8 = 126;

/// The exit code for a command that is not there.
const NOT_FOUND: u8 = 127;

/// This and the number of a signal are the exit code for a command that it has ended.
const SIGNALLED: u8 = 128;

/// The place of the command, and of the signals that come for it.
pub struct Child(Arc<Shared>);

struct Shared {
    phase: Mutex<Phase>,
    stop: Stop,
}

enum Phase {
    /// The store is about to start.
    Awaited,
    /// A signal came before the command: the exit code for it.
    Stopped(u8),
    Running(Arc<SharedChild>),
    /// The command's exit code.
    Ended(u8),
}

impl Child {
    /// A place for a command, and the signals that end the start of a store for it. `end`
    /// has to end the process, with an exit code.
    pub fn new(
        uncaught: Uncaught,
        end: impl Fn(u8) + Send + 'static,
    ) -> io::Result<(Self, Caught)> {
        let (stop, caught) = Caught::new();
        let shared = Arc::new(Shared { phase: Mutex::new(Phase::Awaited), stop });
        let receiver = Arc::clone(&shared);
        let first = FirstSignal::default();
        uncaught.handle_each(move |signal, is_of_terminal| {
            first.note();
            if let Some(code) = receiver.handle(signal, is_of_terminal) {
                first.wait_out_pair();
                end(code);
            }
        })?;
        Ok((Self(shared), caught))
    }

    /// Runs a command, given with its arguments, in an environment with these variables,
    /// each set or unset, and waits for its end; runs nothing after a signal. Sets the exit
    /// code of [`Caught`]; an error is a line for the user beside it.
    pub fn run(
        &self,
        command: &[OsString],
        variables: [(&str, Option<&str>); 2],
        settings: Settings,
    ) -> Result<(), String> {
        let (program, arguments) = command.split_first().expect("a command has a name");
        let mut command = Command::new(program);
        command.args(arguments);
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        settings.give_to(&mut command);
        system::keep_exit_codes();
        let ended = self.0.run(&mut command);
        let failed = |err: io::Error| {
            let code = if err.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            (code, Err(format!("cannot run {}: {err}", program.display())))
        };
        let (code, outcome) = ended.map_or_else(failed, |code| (code, Ok(())));
        *self.0.lock() = Phase::Ended(code);
        self.0.stop.stop(code);
        outcome
    }
}

impl Shared {
    /// Handles a signal. Returns the exit code if the process has to end at once.
    fn handle(&self, signal: i32, is_of_terminal: bool) -> Option<u8> {
        let mut phase = self.lock();
        match &*phase {
            Phase::Awaited => {
                let code = code_of_signal(signal);
                *phase = Phase::Stopped(code);
                self.stop.stop(code);
            }
            Phase::Running(child) => {
                if !(is_of_terminal && has_received(child, signal))
                    && let Err(err) = forward(child, signal)
                {
                    log::warn!("cannot pass signal {signal} on to the command: {err}");
                }
            }
            Phase::Stopped(code) | Phase::Ended(code) => return Some(*code),
        }
        None
    }

    /// Runs a command, unless a signal came before; returns the exit code.
    fn run(&self, command: &mut Command) -> io::Result<u8> {
        let child = {
            let mut phase = self.lock();
            if let Phase::Stopped(code) = &*phase {
                return Ok(*code);
            }
            let child = Arc::new(SharedChild::spawn(command)?);
            *phase = Phase::Running(Arc::clone(&child));
            child
        };
        Ok(code_of(child.wait()?))
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        // Every change is one assignment.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exit code of a shell for a signal.
fn code_of_signal(signal: i32) -> u8 {
    SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or_default())
}

/// The exit code of a shell for a command that ended so.
fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return code_of_signal(signal);
    }
    // Elsewhere a code may be anything.
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Returns true if the terminal has sent its signal to the command as well: an interrupt
/// goes to every process of the foreground, which is one process group, and a hang-up to
/// the leader of the session alone.
#[cfg(unix)]
fn has_received(child: &SharedChild, signal: i32) -> bool {
    use nix::unistd::{Pid, getpgid, getpgrp};

    let child = i32::try_from(child.id()).map(Pid::from_raw);
    let group = child.ok().and_then(|child| getpgid(Some(child)).ok());
    signal == nix::libc::SIGINT && group == Some(getpgrp())
}

/// Forwards a signal to the command, which goes on for it if it is stopped.
#[cfg(unix)]
fn forward(child: &SharedChild, signal: i32) -> io::Result<()> {
    use shared_child::unix::SharedChildExt;

    child.send_signal(signal)?;
    child.send_signal(nix::libc::SIGCONT)
}

#[cfg(not(unix))]
fn has_received(_child: &SharedChild, _signal: i32) -> bool {
    true
}

/// The same where a console has sent it to every process on it.
#[cfg(not(unix))]
fn forward(_child: &SharedChild, _signal: i32) -> io::Result<()> {
    Ok(())
}
