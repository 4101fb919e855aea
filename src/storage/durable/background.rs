//! What takes long and nobody waits for, on threads of its own.

use crate::platform::scheduling;
use std::thread::{self, JoinHandle};

/// Drops something that files or much memory may go with, on the thread that is given
/// back. Where none can be started it is dropped here.
pub fn drop_elsewhere(last: impl Send + 'static) -> Option<JoinHandle<()>> {
    let remove = move || {
        scheduling::batch_priority();
        drop(last);
    };
    thread::Builder::new().name("remover".to_owned()).spawn(remove).ok()
}
