//! What a worker does with a delivery: as it is, or through a user's program, into a file.
//!
//! A program that fails or hangs counts against its messages (module `broker::retry`); a disk that
//! does, or a program that cannot be started, does not: then the same is tried again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Content;
use crate::batch::dead;
use crate::batch::journal::{self, WorkerTotals};
use crate::batch::name::WorkerName;
use crate::batch::writer::{WriteError, Writer};
use crate::broker::Delivery;
use crate::broker::retry::{Purpose, Verdict, timeout_of};
use crate::clock::Clock;
use crate::message::ShardKey;
use crate::pool::Handler;
use crate::service::Lifecycle;
use crate::service::program::{Ended, Program};
use crate::state::{Job, State, StateError, WriteTxn};

/// How long a worker waits before it tries the same again, at first and at most.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// What a program may take beyond its timeout, until it is found to be dead.
const KILL_MARGIN: Duration = Duration::from_secs(5);

/// The most bytes of a program's words in a line of the log.
const LOGGED_BYTES_MAX: usize = 256;

/// What is done with a batch.
#[derive(Debug, Clone)]
pub struct Processing {
    /// The program that it goes through (`EXEC`); `None`: it is written as it came.
    pub program: Option<Program>,
    /// How long a batch may be processed, and how long it may be written
    /// (`WORKERS_WORKTIME_SECONDS`).
    pub timeout: Duration,
    /// How often a batch is tried before it is split (`BATCH_ATTEMPTS`).
    pub attempts_max: u32,
}

impl Default for Processing {
    fn default() -> Self {
        Self { program: None, timeout: Duration::from_secs(120), attempts_max: 3 }
    }
}

/// The handler of every worker.
pub(super) struct Processor {
    pub(super) writer: Arc<Writer>,
    pub(super) state: State,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) life: Lifecycle,
    pub(super) processing: Processing,
}

/// What the program made of a delivery, if anything is to be written.
type Made = ControlFlow<(), (Delivery, Content)>;

impl Handler for Processor {
    fn handle(&self, place: u16, delivery: Delivery) {
        let worker = WorkerName::new(delivery.key, place);
        let outcome = match self.make(worker, delivery) {
            Ok(ControlFlow::Continue((delivery, content))) => {
                self.write(worker, delivery, &content)
            }
            Ok(ControlFlow::Break(())) => Ok(()),
            Err(error) => Err(WriteError::from(error)),
        };
        match outcome {
            Ok(()) => {}
            Err(error @ (WriteError::Stopping(_) | WriteError::Lost)) => {
                tracing::warn!(%error, %worker, "a worker gives up a batch");
            }
            Err(error) => self.life.fail(error.to_string()),
        }
    }

    fn timed_out(&self, key: ShardKey, place: u16) {
        self.count(WorkerName::new(key, place), |totals| totals.timeouts += 1);
    }
}

impl Processor {
    /// What is to be written for a delivery.
    fn make(&self, worker: WorkerName, delivery: Delivery) -> Result<Made, StateError> {
        match (delivery.purpose, &self.processing.program) {
            (Purpose::Bury, _) => {
                let retries = delivery.retries();
                let letters = dead::letters(delivery.key, &delivery.lines()?, &retries)?;
                let reason = retries.into_iter().next().map(|retry| retry.reason);
                let content = Content::Dead(letters, reason.unwrap_or_default());
                Ok(ControlFlow::Continue((delivery, content)))
            }
            (Purpose::Process { .. }, None) => Ok(ControlFlow::Continue((delivery, Content::AsIs))),
            (Purpose::Process { of }, Some(program)) => {
                let timeout = timeout_of(self.processing.timeout, delivery.range.count(), of);
                self.run(worker, delivery, program, timeout)
            }
        }
    }

    /// Has the program process the lines of a delivery.
    fn run(
        &self,
        worker: WorkerName,
        delivery: Delivery,
        program: &Program,
        timeout: Duration,
    ) -> Result<Made, StateError> {
        let lines = delivery.lines()?;
        let environment = environment(worker, &delivery);
        let mut pause = RETRY_PAUSE;
        loop {
            if !delivery.claim().renew(Instant::now() + timeout + KILL_MARGIN + pause) {
                return Ok(ControlFlow::Break(()));
            }
            let reason = match program.run(&lines, &environment, timeout, &self.life) {
                Ended::Done(mut output) => {
                    if output.last().is_some_and(|byte| *byte != b'\n') {
                        output.push(b'\n');
                    }
                    return Ok(ControlFlow::Continue((delivery, Content::Made(output))));
                }
                Ended::Stopped => return Ok(ControlFlow::Break(())),
                Ended::Failed(reason) => {
                    self.count(worker, |totals| totals.errors += 1);
                    reason
                }
                Ended::TimedOut => {
                    self.count(worker, |totals| totals.timeouts += 1);
                    format!("killed after {timeout:?}")
                }
                Ended::NotRun(reason) => {
                    let command = &program.command;
                    tracing::error!(command, reason, "the program of EXEC cannot be run, yet");
                    self.count(worker, |totals| totals.errors += 1);
                    if self.life.wait_stopping(pause) {
                        return Ok(ControlFlow::Break(()));
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                    continue;
                }
            };
            return self.fail(worker, delivery, &reason).map(|()| ControlFlow::Break(()));
        }
    }

    /// Stores that the program failed at a delivery, and tells what becomes of it.
    fn fail(&self, worker: WorkerName, delivery: Delivery, reason: &str) -> Result<(), StateError> {
        let range = delivery.range;
        let verdict = match delivery.fail(reason, self.processing.attempts_max) {
            Ok(verdict) => verdict,
            // The messages are delivered again.
            Err(error) if error.is_space() => {
                tracing::warn!(%error, %worker, %range, "a failure cannot be stored, yet");
                let _stops = self.life.wait_stopping(RETRY_PAUSE_MAX);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // The whole of it is in the dead letters.
        let reason = reason.get(..reason.floor_char_boundary(LOGGED_BYTES_MAX)).unwrap_or(reason);
        match verdict {
            Some(Verdict::Again(pause)) => {
                let pause_s = pause.as_secs();
                tracing::warn!(%worker, %range, reason, pause_s, "a batch failed: tried again");
            }
            Some(Verdict::Split(parts)) => {
                tracing::warn!(%worker, %range, reason, parts, "a batch failed: split");
            }
            Some(Verdict::Dead) => {
                tracing::warn!(%worker, %range, reason, "a message failed: it is dead");
            }
            None => tracing::warn!(%worker, %range, reason, "a batch failed that is not ours"),
        }
        Ok(())
    }

    /// Commits a delivery and brings its file into place; a disk that fails is tried again.
    fn write(
        &self,
        worker: WorkerName,
        delivery: Delivery,
        content: &Content,
    ) -> Result<(), WriteError> {
        let (key, range) = (delivery.key, delivery.range);
        let _in_hand = self.writer.in_hand();
        let mut pause = RETRY_PAUSE;
        loop {
            // A try that fails is not one that hangs.
            if !delivery.claim().renew(Instant::now() + self.processing.timeout + pause) {
                return Err(WriteError::Lost);
            }
            match self.writer.commit(worker, &delivery, content) {
                Ok((row, proof)) => {
                    delivery.settle(&proof);
                    return self.writer.place(key, &row);
                }
                Err(error) if error.is_retry() => {
                    tracing::warn!(%error, %worker, %range, "batch not written, yet");
                    self.count(worker, |totals| totals.errors += 1);
                    if self.life.wait_stopping(pause) {
                        // Unsettled: the messages stay where they are.
                        return Ok(());
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Without waiting: a figure of the history holds nobody up.
    fn count(&self, worker: WorkerName, change: fn(&mut WorkerTotals)) {
        self.state.submit(Box::new(Count { worker, change, now_ms: self.clock.wall_ms() }));
    }
}

/// Adds to a worker's totals.
struct Count {
    worker: WorkerName,
    change: fn(&mut WorkerTotals),
    now_ms: u64,
}

impl Job for Count {
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        journal::update_worker(txn, self.worker, |totals| {
            (self.change)(totals);
            totals.last_seen_ms = self.now_ms;
        })
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, worker = %self.worker, "an error could not be counted");
        }
    }
}

/// What a program may want to know: who runs it, and on what.
fn environment(worker: WorkerName, delivery: &Delivery) -> [(&'static str, String); 4] {
    let range = delivery.range;
    [
        ("ADP_SHARD", worker.shard.to_string()),
        ("ADP_WORKER", worker.to_string()),
        ("ADP_FIRST_OFFSET", range.first.to_string()),
        ("ADP_MESSAGES", range.count().to_string()),
    ]
}
