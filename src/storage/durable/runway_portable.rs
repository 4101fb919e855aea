//! The same where nothing is known of holes in files: nothing is made ready.

use std::path::Path;

pub struct Runway;

#[allow(clippy::unused_self, reason = "on Linux it does something")]
impl Runway {
    pub fn begin(_data: &Path) -> Self {
        Self
    }

    pub fn prepare(&mut self, _data: &Path, _items: usize, _bytes: usize) {}
}
