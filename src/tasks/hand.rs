//! What a worker process has in hand: which jobs wait here, run, or wait to be delivered.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::Notify;

use super::handler::Run;
use super::window::Window;
use crate::service::held;
use crate::task::{Attempt, Beat, TaskId};

/// A job: a task and the attempt at it.
pub(super) type Key = (TaskId, Attempt);

/// Why a run was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is not wanted any more: cancelled, settled, or given to another.
    Lost,
    /// It took too long.
    TimedOut,
    /// The process stops.
    Stopping,
}

/// The jobs in hand.
#[derive(Debug)]
pub(super) struct Hand {
    inner: Mutex<Inner>,
    /// Rung when there is room again.
    pub(super) freed: Notify,
}

#[derive(Debug)]
struct Inner {
    jobs: HashMap<Key, InHand>,
    window: Window,
}

#[derive(Debug)]
struct InHand {
    taken_at: Instant,
    stage: Stage,
    why: Option<Why>,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Running { run: Run, deadline: Option<Instant> },
    Ended,
}

impl Hand {
    pub(super) fn new(slots: usize) -> Self {
        let inner = Inner { jobs: HashMap::new(), window: Window::new(slots) };
        Self { inner: Mutex::new(inner), freed: Notify::new() }
    }

    /// Takes a job; false if it is in hand already.
    pub(super) fn take(&self, key: Key, now: Instant) -> bool {
        let mut inner = held(&self.inner);
        if inner.jobs.contains_key(&key) {
            return false;
        }
        let job = InHand { taken_at: now, stage: Stage::Waiting, why: None };
        inner.jobs.insert(key, job);
        true
    }

    /// A job begins; false if it is not to: it was lost, or given back.
    pub(super) fn begin(&self, key: Key, run: Run, now: Instant) -> bool {
        let mut inner = held(&self.inner);
        let Inner { jobs, window } = &mut *inner;
        let Some(job) = jobs.get_mut(&key) else { return false };
        window.began(now.saturating_duration_since(job.taken_at));
        if job.why.is_some() {
            return false;
        }
        let deadline = now.checked_add(run.timeout);
        job.stage = Stage::Running { run, deadline };
        true
    }

    /// A run has ended; why it was stopped, if it was.
    pub(super) fn end(&self, key: Key, now: Instant) -> Option<Why> {
        let mut inner = held(&self.inner);
        let Inner { jobs, window } = &mut *inner;
        let job = jobs.get_mut(&key)?;
        window.ended(now.saturating_duration_since(job.taken_at));
        job.stage = Stage::Ended;
        job.why
    }

    /// These are out of hand: delivered, or lost.
    pub(super) fn remove(&self, keys: impl IntoIterator<Item = Key>) {
        let mut inner = held(&self.inner);
        for key in keys {
            inner.jobs.remove(&key);
        }
        drop(inner);
        self.freed.notify_one();
    }

    /// How many to take now.
    pub(super) fn room(&self) -> usize {
        let inner = held(&self.inner);
        inner.window.room(inner.jobs.len())
    }

    /// Jobs wait that others could run, since nothing here comes to an end.
    pub(super) fn stuck(&self) {
        held(&self.inner).window.stuck();
    }

    /// Since when the job waits that has waited longest.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let inner = held(&self.inner);
        let waiting = inner.jobs.values().filter(|job| matches!(job.stage, Stage::Waiting));
        waiting.map(|job| job.taken_at).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        held(&self.inner).jobs.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        held(&self.inner).jobs.len()
    }

    /// Signs of life of what has begun and is not delivered yet.
    pub(super) fn beats(&self) -> Vec<Beat> {
        let inner = held(&self.inner);
        let beats = inner.jobs.iter().filter_map(|(&(id, attempt), job)| {
            let progress = match &job.stage {
                Stage::Waiting => return None,
                Stage::Running { run, .. } => run.progress(),
                Stage::Ended => 1000,
            };
            Some(Beat { id, attempt, progress })
        });
        beats.collect()
    }

    /// These are not wanted any more; those of them that have not ended anyway.
    pub(super) fn lose(&self, keys: &[Key]) -> Vec<Key> {
        let mut inner = held(&self.inner);
        let mut stopped = Vec::new();
        for key in keys {
            if let Some(job) = inner.jobs.get_mut(key) {
                job.stop(Why::Lost);
                if job.why == Some(Why::Lost) {
                    stopped.push(*key);
                }
            }
        }
        stopped
    }

    /// Stops what has run too long.
    pub(super) fn stop_overdue(&self, now: Instant) {
        let mut inner = held(&self.inner);
        for job in inner.jobs.values_mut() {
            let Stage::Running { deadline: Some(deadline), .. } = &job.stage else { continue };
            if *deadline <= now {
                job.stop(Why::TimedOut);
            }
        }
    }

    /// Stops what runs, since the process stops.
    pub(super) fn stop_all(&self) {
        held(&self.inner).jobs.values_mut().for_each(|job| job.stop(Why::Stopping));
    }
}

impl InHand {
    /// The first reason counts.
    fn stop(&mut self, why: Why) {
        if let Stage::Running { run, .. } = &self.stage {
            run.life.stop();
        }
        if !matches!(self.stage, Stage::Ended) {
            self.why.get_or_insert(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn run(seconds: u64) -> Run {
        Run::new(Path::new("unused"), Duration::from_secs(seconds))
    }

    #[test]
    fn a_job_is_taken_once_and_its_next_attempt_is_another_job() {
        let (hand, now, id) = (Hand::new(2), Instant::now(), TaskId::new());
        assert!(hand.take((id, 1), now));
        assert!(!hand.take((id, 1), now));
        assert!(hand.take((id, 2), now));
        hand.remove([(id, 1), (id, 2)]);
        assert!(hand.is_empty());
    }

    #[test]
    fn what_was_lost_while_it_waited_does_not_begin() {
        let (hand, now, key) = (Hand::new(2), Instant::now(), (TaskId::new(), 1));
        hand.take(key, now);
        hand.lose(&[key]);
        assert!(!hand.begin(key, run(1), now));
        assert_eq!(hand.end(key, now), Some(Why::Lost));
    }

    #[test]
    fn a_run_is_stopped_at_its_deadline_and_not_before_and_the_first_reason_counts() {
        let (hand, now, key) = (Hand::new(2), Instant::now(), (TaskId::new(), 1));
        let run = run(10);
        hand.take(key, now);
        assert!(hand.begin(key, run.clone(), now));
        hand.stop_overdue(now + Duration::from_secs(9));
        assert!(!run.life.is_stopping());
        hand.stop_overdue(now + Duration::from_secs(10));
        assert!(run.life.is_stopping());
        hand.stop_all();
        assert_eq!(hand.end(key, now), Some(Why::TimedOut));
        assert_eq!(hand.beats().len(), 1, "it is in hand until it is delivered");
    }
}
