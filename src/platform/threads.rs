//! The names of threads as the system shows them (`top -H`, `ps -L`), on Linux.
//!
//! The standard library names the threads that it is given a name for. Those of a library
//! may have none: they begin with the name of the thread that starts them.

#[cfg(all(target_os = "linux", not(portable)))]
use std::ffi::CString;

/// Names the calling thread; threads that it starts without a name of their own begin with
/// this one. Of a name longer than 15 bytes the rest is lost. The standard library does not
/// hear of it: [`std::thread::Thread::name`] stays as it is.
pub fn set_name(name: &str) {
    #[cfg(all(target_os = "linux", not(portable)))]
    if let Ok(name) = CString::new(name) {
        // Where a filter of system calls refuses it, the name stays as it was.
        rustix::thread::set_name(&name).ok();
    }
    #[cfg(any(portable, not(target_os = "linux")))]
    let _ = name;
}

/// Calls `start`, whose threads without a name of their own begin with this one.
pub fn starting<T>(name: &str, start: impl FnOnce() -> T) -> T {
    #[cfg(all(target_os = "linux", not(portable)))]
    let own = rustix::thread::name();
    set_name(name);
    let started = start();
    #[cfg(all(target_os = "linux", not(portable)))]
    if let Ok(own) = own {
        rustix::thread::set_name(&own).ok();
    }
    started
}

/// Names the calling thread, if this is its first call.
#[cfg(all(target_os = "linux", not(portable)))]
pub fn set_name_once(name: &str) {
    use std::cell::Cell;

    thread_local! {
        static IS_NAMED: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_NAMED.replace(true) {
        set_name(name);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", not(portable)))]
mod tests {
    use super::*;
    use std::thread;

    /// The name of the calling thread, as the system has it.
    fn name() -> String {
        let name = std::fs::read_to_string("/proc/thread-self/comm").expect("Linux tells");
        name.trim_end().to_owned()
    }

    fn of_another_thread() -> String {
        thread::spawn(name).join().expect("it does not panic")
    }

    #[test]
    fn a_thread_without_a_name_begins_with_that_of_the_one_that_starts_it() {
        let own = name();
        let inner = starting("a library's", || (name(), of_another_thread()));
        assert_eq!(inner, ("a library's".to_owned(), "a library's".to_owned()));
        assert_eq!([name(), of_another_thread()], [own.clone(), own]);
    }

    #[test]
    fn a_name_is_given_once_where_that_is_wanted() {
        let named = thread::spawn(|| {
            set_name_once("first");
            set_name("second");
            set_name_once("third");
            (name(), thread::current().name().map(str::to_owned))
        });
        assert_eq!(named.join().expect("it does not panic"), ("second".to_owned(), None));
    }
}
