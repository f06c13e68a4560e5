//! Calculations: work that keeps a processor busy for a while.

pub mod factorial;
pub mod work;
