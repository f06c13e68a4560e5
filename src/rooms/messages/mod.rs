//! Messages: `POST /message` into files.
//!
//! The path of a message: [`api`] reads the request, [`entry`] checks it, the broker keeps it, and
//! [`consume`] has it brought into a file, by workers that do what [`process`] says. [`receipt`]
//! tells which file; [`watch`] tells when it stands still; [`foreign`] reads what others publish.

pub mod api;
pub mod consume;
pub mod entry;
pub mod foreign;
mod plain;
pub mod process;
pub mod receipt;
mod strict;
mod timestamp;
pub mod watch;
