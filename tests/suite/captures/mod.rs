//! Captures: every datagram is accounted for, and no stream and no port is left behind.

mod accounts;
mod bay;
mod fake;
mod fleet;
mod house;
mod streams;
