//! A program on a terminal of its own.

#![allow(unsafe_code, reason = "a terminal is made by calls that have no safe form here")]

use super::http::wait_until;
use super::process::wait;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::sync::{Arc, Mutex};
use std::thread;

/// A program with a terminal for input and output, and none for errors. It is killed when
/// it is dropped.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program on a terminal.
    pub fn start(mut command: Command) -> Self {
        let (ours, theirs) = open();
        let number = theirs.as_raw_fd();
        let take = move || {
            // SAFETY: these are safe between fork and exec, and the descriptor is open.
            unsafe {
                libc::setsid();
                libc::ioctl(number, libc::TIOCSCTTY, 0);
                libc::dup2(number, 0);
                libc::dup2(number, 1);
            }
            Ok(())
        };
        // SAFETY: as above; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(take) };
        let child = command.stderr(Stdio::null()).spawn().expect("the program runs");
        let keyboard = ours.try_clone().expect("a descriptor");
        let screen = Arc::<Mutex<String>>::default();
        let shown = Arc::clone(&screen);
        thread::spawn(move || show(ours, &shown));
        Self { child, keyboard, screen }
    }

    /// The lines so far, each with its end.
    pub fn lines(&self) -> Vec<String> {
        let screen = self.screen.lock().expect("a whole text");
        let lines = screen.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits for a line that has this text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        wait_until(text, || self.lines().iter().any(|line| line.contains(text)));
    }

    /// Presses a key.
    pub fn press(&mut self, key: u8) {
        self.keyboard.write_all(&[key]).expect("a terminal takes keys");
    }

    /// The program.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for its end, and returns its exit code.
    pub fn end(&mut self) -> Option<i32> {
        wait(&mut self.child).expect("it ends").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().expect("a child can be waited for");
    }
}

/// Both ends of a terminal.
fn open() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let (no_name, no_modes, no_size) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the numbers live through the call, and the rest may be missing.
    let opened =
        unsafe { libc::openpty(&raw mut ours, &raw mut theirs, no_name, no_modes, no_size) };
    assert_eq!(opened, 0, "there are terminals");
    for number in [ours, theirs] {
        // SAFETY: the descriptor is open. Other children have no use for it.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: both are open, and nobody else has them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// Keeps all that a program writes, to its end.
fn show(mut terminal: File, screen: &Mutex<String>) {
    let mut piece = [0; 1024];
    // A terminal that no program has any more fails.
    while let Ok(read @ 1..) = terminal.read(&mut piece) {
        let text = String::from_utf8_lossy(&piece[..read]);
        screen.lock().expect("a whole text").push_str(&text);
    }
}
