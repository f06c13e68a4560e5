//! The tests of the whole: one binary, a module per suite.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on says where it stopped"
)]

mod commit_faults;
mod harness;
mod pipeline;
mod sim_disk;
mod sim_tree;
