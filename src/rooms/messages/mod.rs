//! Messages: `POST /message` into files.
//!
//! The path of a message: [`api`] reads the request, [`entry`] checks it, the broker keeps it, and
//! the consumer brings it into a file. [`receipt`] tells which file; [`foreign`] reads what others
//! publish; [`dead`] shows what no worker could do, of every topic, and sends it again.

pub mod api;
pub mod dead;
pub mod entry;
pub mod foreign;
mod plain;
pub mod receipt;
mod strict;
mod timestamp;
