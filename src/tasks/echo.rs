//! The kind `echo`: its result is its payload. For measuring, and for trying things out.

use std::time::Duration;

use super::handler::{Ended, Handler, Job, Product, Run};

/// The name of the kind.
pub const KIND: &str = "echo";

/// Gives back what it gets.
#[derive(Debug, Clone, Copy)]
pub struct Echo;

impl Handler for Echo {
    fn run(&self, job: &Job, _run: &Run) -> Ended {
        Ended::Finished(Product::Bytes(job.payload.clone()))
    }

    fn timeout(&self, _job: &Job) -> Duration {
        Duration::from_secs(10)
    }
}
