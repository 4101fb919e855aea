//! Lists and counts: scans of the masters, kept for the pages that follow.

pub mod listing;
pub mod scan;
pub mod scanner;
pub mod scans;
pub mod slot;
