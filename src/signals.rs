//! The signals that stop the store.
//!
//! Ctrl-C and SIGTERM ask it to stop; a second one of them ends the process
//! where it stands. SIGHUP means that the terminal is gone: the store stops in
//! the same way, with another exit code, for nobody has asked for it. A signal
//! that was ignored when the program was started stays ignored, as `nohup` has it.
//!
//! Beside a command they are the command's: [`child`](crate::child) handles each.

#[cfg(unix)]
use crate::system;
use crossbeam_channel::{Receiver, RecvError, Sender, select};
#[cfg(unix)]
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// A second signal this soon after the first comes from a program that sends
/// both, as `timeout` does; an idle server has stopped by then.
const SIGNALS_APART: Duration = Duration::from_millis(200);

/// The exit code after a SIGHUP alone, in the form of a shell. A service manager
/// takes it for a failure and restarts.
const HUNG_UP: u8 = 128 + 1;

#[cfg(unix)]
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Those signals, blocked until they are caught. No thread may have been started
/// before.
pub struct Uncaught {
    /// The signals that were blocked before.
    #[cfg(unix)]
    before: SigSet,
    #[cfg(unix)]
    ignored: Vec<Signal>,
}

/// The signals that were caught.
pub struct Caught {
    stop: Receiver<()>,
    /// The exit code of a program that they have stopped.
    code: Arc<AtomicU8>,
}

/// The time of the first signal, once one has come.
#[derive(Default)]
pub struct FirstSignal(OnceLock<Instant>);

/// A way to stop the program as a signal does.
pub struct Stop {
    sender: Sender<()>,
    code: Arc<AtomicU8>,
}

impl Uncaught {
    pub fn new() -> Self {
        Self {
            #[cfg(unix)]
            before: SigSet::from_iter(SIGNALS)
                .thread_swap_mask(SigmaskHow::SIG_BLOCK)
                .expect("any thread may block these"),
            #[cfg(unix)]
            ignored: SIGNALS.into_iter().filter(|signal| system::is_ignored(*signal)).collect(),
        }
    }

    /// Catches those that are not ignored. The second request to stop calls `end`,
    /// which has to end the process.
    pub fn catch(self, end: impl Fn() + Send + 'static) -> io::Result<Caught> {
        let (stop, caught) = Caught::new();
        #[cfg(unix)]
        let hangup = stop.sender.clone();
        catch_requests(stop, end)?;
        #[cfg(unix)]
        self.catch_hangup(hangup)?;
        Ok(caught)
    }

    /// Has `handler` called with the number of each that is not ignored, and with true if
    /// the terminal has sent it, to every process in its foreground; on a thread that
    /// lives as long as the process.
    #[cfg(unix)]
    pub fn handle_each(self, handler: impl Fn(i32, bool) + Send + 'static) -> io::Result<()> {
        let mut signals = SigSet::from_iter(SIGNALS);
        for signal in self.ignored {
            signals.remove(signal);
        }
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            loop {
                if let Some((signal, is_of_terminal)) = system::wait_for(&signals) {
                    handler(signal as i32, is_of_terminal);
                }
            }
        })?;
        Ok(())
    }

    /// The same where Ctrl-C is the only one, and the terminal's.
    #[cfg(not(unix))]
    pub fn handle_each(self, handler: impl Fn(i32, bool) + Send + 'static) -> io::Result<()> {
        const INTERRUPT: i32 = 2;
        ctrlc::set_handler(move || handler(INTERRUPT, true)).map_err(io::Error::other)
    }

    /// Unblocks the others, and starts a thread that waits for SIGHUP: the handler
    /// of the others could not tell it from them.
    #[cfg(unix)]
    fn catch_hangup(self, stop: Sender<()>) -> io::Result<()> {
        for signal in &self.ignored {
            system::ignore(*signal);
        }
        self.before.thread_set_mask()?;
        if self.ignored.contains(&Signal::SIGHUP) {
            return Ok(());
        }
        // For good: no thread of ours takes it but by waiting for it.
        let hangup = SigSet::from(Signal::SIGHUP);
        hangup.thread_block()?;
        thread::Builder::new().name("hangup".to_owned()).spawn(move || {
            // It fails for sets alone that name no signal.
            while hangup.wait().is_ok() {
                // The receiver is gone only once the program ends anyway.
                stop.try_send(()).ok();
            }
        })?;
        Ok(())
    }
}

/// Has a thread wait for Ctrl-C and SIGTERM.
fn catch_requests(stop: Stop, end: impl Fn() + Send + 'static) -> io::Result<()> {
    let first = FirstSignal::default();
    let handler = move || {
        if !first.note() {
            first.wait_out_pair();
            end();
        }
        stop.stop(0);
    };
    ctrlc::set_handler(handler).map_err(io::Error::other)
}

impl FirstSignal {
    /// Notes a signal. Returns true if it is the first.
    pub fn note(&self) -> bool {
        self.0.set(Instant::now()).is_ok()
    }

    /// Waits until a second signal is not one of a pair any more that was sent together.
    pub fn wait_out_pair(&self) {
        let passed = self.0.get().map_or(SIGNALS_APART, Instant::elapsed);
        thread::sleep(SIGNALS_APART.saturating_sub(passed));
    }
}

impl Stop {
    /// Stops the program, with this exit code.
    pub fn stop(&self, code: u8) {
        self.code.store(code, Ordering::Relaxed);
        // The receiver is gone only once the program ends anyway.
        self.sender.try_send(()).ok();
    }
}

impl Caught {
    /// None so far, and the way to stop in their stead.
    pub fn new() -> (Stop, Self) {
        let (sender, stop) = crossbeam_channel::bounded(1);
        let code = Arc::new(AtomicU8::new(HUNG_UP));
        (Stop { sender, code: Arc::clone(&code) }, Self { stop, code })
    }

    /// Waits for the first one.
    pub fn wait(&self) {
        // The senders live as long as the process.
        self.stop.recv().ok();
    }

    /// The same for up to `time`; returns true if one has come.
    pub fn wait_for(&self, time: Duration) -> bool {
        self.stop.recv_timeout(time).is_ok()
    }

    /// Waits for a message; `None` if a signal comes before it.
    pub fn wait_or<T>(&self, message: &Receiver<T>) -> Option<Result<T, RecvError>> {
        select! {
            recv(self.stop) -> _ => None,
            recv(message) -> message => Some(message),
        }
    }

    /// The exit code of a program that they have stopped.
    pub fn exit_code(&self) -> u8 {
        self.code.load(Ordering::Relaxed)
    }

    /// Returns true if all of them were SIGHUP: nobody has asked to stop but the terminal, by
    /// its end.
    pub fn are_hangups(&self) -> bool {
        self.exit_code() == HUNG_UP
    }
}
