//! The tests of the whole: one binary, a module per suite.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on says where it stopped"
)]

mod adoption;
mod bad_input;
mod bad_input_fuzz;
mod bench;
mod browser;
mod calculations;
mod captures;
mod claims;
mod command_line;
mod commit_faults;
mod conformance;
mod dead_letters;
mod examples;
mod fragments;
mod handlers;
mod harness;
mod http_access;
mod http_limits;
mod http_probes;
mod idempotency;
mod in_process;
mod page;
mod page_health;
mod page_pipeline;
mod pipeline;
mod pool;
mod postgres;
mod presence;
mod rabbitmq;
mod readme;
mod schedules;
mod ships;
mod sim_disk;
mod sim_tree;
mod spacecraft;
mod spaceship;
mod state_refused;
mod static_binary;
mod store;
mod survive_calls;
mod survive_output;
mod survive_signals;
mod survive_space;
mod tap;
mod tasks;
mod tasks_http;
