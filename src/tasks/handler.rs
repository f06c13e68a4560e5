//! What a kind of task is to this program: something that runs it, in a thread, until it is done,
//! its time is up, or it is no longer wanted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::service::Lifecycle;
use crate::store::Millis;
use crate::task::{Attempt, Name, Permille, TaskId};

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The task.
    pub id: TaskId,
    /// The attempt: goes with everything that is said of it.
    pub attempt: Attempt,
    /// Who knows how to run it.
    pub kind: Name,
    /// Not after, in milliseconds since 1970: unless it has begun by then, it is missed. `None` as
    /// well if it may have begun before.
    pub expires_at_ms: Option<Millis>,
    /// What to do.
    pub payload: Vec<u8>,
}

/// What a run can see and say of itself.
#[derive(Debug, Clone)]
pub struct Run {
    /// Stops when the run is to end at once: cancelled, out of time, or the process stops.
    pub life: Lifecycle,
    /// Where a result that is no small one is to be written: a file that is not there yet, on the
    /// disk of the state directory. What is left there when the run ends otherwise is removed.
    pub result_path: PathBuf,
    /// How long the run may take.
    pub timeout: Duration,
    progress: Arc<AtomicU16>,
}

impl Run {
    /// A run that begins.
    #[must_use]
    pub fn new(result_path: &Path, timeout: Duration) -> Self {
        Self {
            life: Lifecycle::new(),
            result_path: result_path.to_owned(),
            timeout,
            progress: Arc::default(),
        }
    }

    /// Says how far it is: 0 to 1,000. Never goes back.
    pub fn tell(&self, progress: Permille) {
        self.progress.fetch_max(progress.min(1000), Ordering::Relaxed);
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Permille {
        self.progress.load(Ordering::Relaxed)
    }
}

/// What a run leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Product {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is in the file at [`Run::result_path`].
    File,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With a result.
    Finished(Product),
    /// Without one.
    Failed {
        /// Why, for a person.
        reason: String,
        /// Whether another attempt would fail as well.
        is_final: bool,
    },
    /// It came too late to begin.
    Missed {
        /// Why, for a person.
        reason: String,
    },
    /// It was asked to end, and did. Whoever asked knows why.
    Stopped,
}

/// Runs the tasks of a kind.
pub trait Handler: Send + Sync + fmt::Debug {
    /// Runs one, in a thread that may block. Must end soon after `run.life` stops.
    fn run(&self, job: &Job, run: &Run) -> Ended;

    /// How long a run of this job may take. One that takes longer is stopped, and counts as failed.
    fn timeout(&self, job: &Job) -> Duration;
}
