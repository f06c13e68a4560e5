//! Messages: `POST /message` into files.
//!
//! The path of a message: [`entry`] checks it, [`api`] answers for it, the broker keeps it, and
//! [`consume`] brings it into a file.

pub mod consume;
