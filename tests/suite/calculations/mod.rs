//! `/factorial` and `/websockets`, as R4's clients and as others use them.

pub(crate) mod house;
mod orders;
mod outside;
mod sockets;
