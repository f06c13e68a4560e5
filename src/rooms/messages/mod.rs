//! Messages: `POST /message` into files.
//!
//! The path of a message: [`api`] reads the request, [`entry`] checks it, the broker keeps it, and
//! [`consume`] brings it into a file. [`receipt`] tells which; [`watch`] tells when it stands
//! still.

pub mod api;
pub mod consume;
pub mod entry;
pub mod receipt;
mod strict;
mod timestamp;
pub mod watch;
