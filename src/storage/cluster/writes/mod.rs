//! Writes that look at what is there: in the lines of their keys, by compare-and-set.

pub mod batch;
pub mod decision;
pub mod each;
pub mod lines;
pub mod updates;
