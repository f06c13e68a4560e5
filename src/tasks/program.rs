//! Kinds that a user's program runs: the payload on its stdin, the result from its stdout.
//!
//! The program may be run more than once for a task (at least once, not exactly once); it is told
//! which task and which attempt it is by `TASK_ID` and `TASK_ATTEMPT`. Exit code 0 is success;
//! anything else counts as a failure, and what it said on stderr is the reason.

use std::time::Duration;

use super::handler::{Ended, Handler, Job, Product, Run};
use crate::service::program::{self, Program};

/// The most bytes of a result that is kept in memory once its program has ended.
const IN_MEMORY_BYTES: usize = 1 << 20;
/// The most bytes that a program may print: a result of a task.
const OUTPUT_BYTES_MAX: usize = 128 << 20;

/// Runs the tasks of a kind by a program.
#[derive(Debug, Clone)]
pub struct ProgramHandler {
    program: Program,
    timeout: Duration,
}

impl ProgramHandler {
    /// `command` is for `/bin/sh -c`.
    #[must_use]
    pub const fn new(command: String, timeout: Duration) -> Self {
        let program =
            Program { command, output_bytes_max: OUTPUT_BYTES_MAX, stop_within: Duration::ZERO };
        Self { program, timeout }
    }
}

impl Handler for ProgramHandler {
    fn run(&self, job: &Job, run: &Run) -> Ended {
        let environment = [
            ("TASK_ID", job.id.to_string()),
            ("TASK_ATTEMPT", job.attempt.to_string()),
            ("TASK_KIND", job.kind.to_string()),
        ];
        let failed = |reason| Ended::Failed { reason, is_final: false };
        match self.program.run(&job.payload, &environment, self.timeout, &run.life) {
            program::Ended::Done(output) if output.len() <= IN_MEMORY_BYTES => {
                Ended::Finished(Product::Bytes(output))
            }
            program::Ended::Done(output) => match std::fs::write(&run.result_path, output) {
                Ok(()) => Ended::Finished(Product::File),
                Err(error) => failed(format!("{}: {error}", run.result_path.display())),
            },
            program::Ended::Failed(reason) | program::Ended::NotRun(reason) => failed(reason),
            program::Ended::TimedOut => {
                failed(format!("it took longer than {} s", self.timeout.as_secs()))
            }
            program::Ended::Stopped => Ended::Stopped,
        }
    }

    fn timeout(&self, _job: &Job) -> Duration {
        // The program has its own deadline; the engine's is for one that outlives it.
        self.timeout + Duration::from_secs(1)
    }
}
