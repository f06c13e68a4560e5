//! Which tasks of the pipe this process has, and what is known of those it had: so that one that
//! comes again is not run again. Pure: the caller brings the time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::broker::pipes::{Reference, Tag, Taken, TaskMessage};
use crate::task::{Attempt, Beat, Outcome, TaskId, WorkerId};
use crate::tasks::handler::Job;
use crate::tasks::supply::{Body, Done};

/// How long a task is here before others are told that it runs. Until then the broker sees to it
/// that it is run elsewhere if this process dies; from then on those do who hear its signs of life.
const TOLD_AFTER: Duration = Duration::from_millis(900);
/// How long somebody else's task may run unacknowledged: the broker waits for half an hour.
const FOREIGN_KEPT: Duration = Duration::from_secs(900);
/// How many ended tasks are remembered.
const ENDED_MAX: usize = 4096;

/// What is to be done about a task that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new.
    Run(Job),
    /// It is here already.
    Kept,
    /// It has ended here: these are of no more use.
    Over(Vec<Tag>),
    /// It has ended here, as this says, but an earlier attempt.
    Again(Done, Vec<Tag>),
}

/// A task that is here.
#[derive(Debug)]
struct Entry {
    /// The attempt by which the engine knows it.
    given: Attempt,
    /// The newest that has come.
    attempt: Attempt,
    tags: Vec<Tag>,
    reference: Option<Reference>,
    since: Instant,
    /// Whether others may have been told that it runs.
    is_told: bool,
}

/// A task that is settled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settling {
    /// The attempt as which it is settled.
    pub(super) attempt: Attempt,
    pub(super) reference: Option<Reference>,
    pub(super) is_told: bool,
    /// Whether the broker has it no more.
    pub(super) is_acknowledged: bool,
}

#[derive(Debug)]
pub(super) struct Ledger {
    entries: HashMap<TaskId, Entry>,
    ended: HashMap<TaskId, Done>,
    ended_order: VecDeque<TaskId>,
    /// Who this is, and whether it has signed.
    pub(super) worker: WorkerId,
    pub(super) has_signed: bool,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            worker: WorkerId::new(),
            has_signed: false,
        }
    }

    /// A task has come; `is_spooled` tells whether its result waits here to be delivered.
    pub(super) fn take(
        &mut self,
        taken: Taken,
        now: Instant,
        is_spooled: impl Fn(TaskId) -> bool,
    ) -> Verdict {
        let Taken { tag, task, reference, is_again } = taken;
        let id = task.id;
        if let Some(entry) = self.entries.get_mut(&id) {
            if task.attempt < entry.attempt {
                return Verdict::Over(vec![tag]);
            }
            entry.attempt = task.attempt;
            entry.tags.push(tag);
            return Verdict::Kept;
        }
        if let Some(entry) = self.same_reference(reference.as_ref(), is_again, tag) {
            entry.tags.push(tag);
            return Verdict::Kept;
        }
        if let Some(ended) = self.ended.get(&id) {
            if task.attempt <= ended.attempt {
                return Verdict::Over(vec![tag]);
            }
            if matches!(ended.outcome, Outcome::Finished(_)) && ended.body.is_none() {
                let done = Done { attempt: task.attempt, ..ended.clone() };
                return Verdict::Again(done, vec![tag]);
            }
        }
        let entry = Entry {
            given: task.attempt,
            attempt: task.attempt,
            tags: vec![tag],
            reference,
            since: now,
            is_told: false,
        };
        self.entries.insert(id, entry);
        // What has ended here is no longer about to be delivered, though it may still be on disk.
        if is_spooled(id) && !self.ended.contains_key(&id) {
            return Verdict::Kept;
        }
        let TaskMessage { attempt, kind, expires_at_ms, payload, .. } = task;
        Verdict::Run(Job { id, attempt, kind, expires_at_ms, payload })
    }

    /// Somebody else's task gets a new id whenever it comes: one that was on a connection that is
    /// lost is known by what its sender calls it.
    fn same_reference(
        &mut self,
        reference: Option<&Reference>,
        is_again: bool,
        tag: Tag,
    ) -> Option<&mut Entry> {
        let reference =
            reference.filter(|reference| is_again && **reference != Reference::default())?;
        self.entries.values_mut().find(|entry| {
            entry.reference.as_ref() == Some(reference)
                && entry.tags.iter().all(|known| known.session < tag.session)
        })
    }

    /// How a task that has ended is settled.
    pub(super) fn settling(&self, done: &Done) -> Settling {
        match self.entries.get(&done.id) {
            Some(entry) => Settling {
                attempt: entry.attempt.max(done.attempt),
                reference: entry.reference.clone(),
                is_told: entry.is_told,
                is_acknowledged: entry.tags.is_empty(),
            },
            // A result of a process before this one.
            None => Settling {
                attempt: done.attempt,
                reference: None,
                is_told: true,
                is_acknowledged: true,
            },
        }
    }

    /// A task is delivered: what is to be acknowledged. `None` if a newer attempt has come
    /// meanwhile, of which that must be said as well.
    pub(super) fn settled(&mut self, done: &Done, settling: &Settling) -> Option<Vec<Tag>> {
        let entry = self.entries.get(&done.id);
        if entry.is_some_and(|entry| entry.attempt > settling.attempt) {
            return None;
        }
        let entry = self.entries.remove(&done.id);
        let tags = entry.map_or_else(Vec::new, |entry| entry.tags);
        if done.outcome != Outcome::Released {
            // What is remembered is what could be said again: a small result.
            let body = done.body.is_some().then(|| Body::Bytes(Vec::new()));
            self.remember(Done { attempt: settling.attempt, body, ..done.clone() });
        }
        Some(tags)
    }

    /// An attempt is over, and that is known where it counts: should it come again, it is not run.
    pub(super) fn remember(&mut self, ended: Done) {
        let id = ended.id;
        if self.ended.insert(id, ended).is_none() {
            self.ended_order.push_back(id);
        }
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    /// Of what runs, that which others are to be told, as they know it.
    pub(super) fn told(&mut self, running: Vec<Beat>, now: Instant) -> Vec<Beat> {
        let mut told = Vec::new();
        for beat in running {
            let Some(entry) = self.entries.get_mut(&beat.id) else { continue };
            let is_long = now.saturating_duration_since(entry.since) >= TOLD_AFTER;
            if is_long && entry.reference.is_none() {
                entry.is_told = true;
                told.push(Beat { attempt: entry.attempt, ..beat });
            }
        }
        told
    }

    /// Those that were told of are heard of from now on: what is to be acknowledged.
    pub(super) fn heard(&mut self, told: &[Beat], now: Instant) -> Vec<Tag> {
        let mut tags = Vec::new();
        for beat in told {
            if let Some(entry) = self.entries.get_mut(&beat.id)
                && entry.attempt == beat.attempt
            {
                tags.append(&mut entry.tags);
            }
        }
        for entry in self.entries.values_mut().filter(|entry| entry.reference.is_some()) {
            if now.saturating_duration_since(entry.since) >= FOREIGN_KEPT {
                tags.append(&mut entry.tags);
            }
        }
        tags
    }

    /// Whether any task is here that others were told of.
    pub(super) fn runs_told(&self) -> bool {
        self.entries.values().any(|entry| entry.is_told)
    }

    /// An attempt is not wanted any more: as the engine knows it, and what is to be acknowledged;
    /// `None` if it is not here, or a newer one has come.
    pub(super) fn lose(
        &mut self,
        id: TaskId,
        attempt: Attempt,
    ) -> Option<((TaskId, Attempt), Vec<Tag>)> {
        let entry = self.entries.get(&id)?;
        if entry.attempt > attempt {
            return None;
        }
        let entry = self.entries.remove(&id)?;
        Some(((id, entry.given), entry.tags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::pipes::TaskMessage;
    use crate::task::ResultHead;

    fn taken(id: TaskId, attempt: Attempt, session: u64) -> Taken {
        let kind = "echo".parse().unwrap();
        let task = TaskMessage {
            id,
            attempt,
            kind,
            endpoint: None,
            expires_at_ms: None,
            payload: vec![7],
        };
        let tag = Tag { session, number: 1 };
        Taken { tag, task, reference: None, is_again: session > 1 }
    }

    fn finished(id: TaskId, attempt: Attempt) -> Done {
        let outcome = Outcome::Finished(ResultHead { bytes: 1, head: vec![7] });
        Done { id, attempt, outcome, body: None, began_at_ms: None, at_ms: 5 }
    }

    fn tag(session: u64) -> Tag {
        Tag { session, number: 1 }
    }

    const NEVER: fn(TaskId) -> bool = |_| false;

    #[test]
    fn a_task_that_comes_again_is_not_run_twice_and_is_acknowledged_by_its_new_tag() {
        let (mut ledger, now, id) = (Ledger::new(), Instant::now(), TaskId::new());
        assert!(matches!(ledger.take(taken(id, 1, 1), now, NEVER), Verdict::Run(_)));
        assert_eq!(ledger.take(taken(id, 1, 2), now, NEVER), Verdict::Kept);
        let done = finished(id, 1);
        let settling = ledger.settling(&done);
        assert_eq!(settling.attempt, 1);
        assert_eq!(ledger.settled(&done, &settling), Some(vec![tag(1), tag(2)]));
        let over = Verdict::Over(vec![tag(3)]);
        assert_eq!(ledger.take(taken(id, 1, 3), now, NEVER), over);
    }

    #[test]
    fn a_newer_attempt_is_adopted_by_what_runs_or_has_finished() {
        let (mut ledger, now, id) = (Ledger::new(), Instant::now(), TaskId::new());
        ledger.take(taken(id, 1, 1), now, NEVER);
        assert_eq!(ledger.take(taken(id, 3, 2), now, NEVER), Verdict::Kept);
        let over = Verdict::Over(vec![tag(3)]);
        assert_eq!(ledger.take(taken(id, 2, 3), now, NEVER), over);
        let later = now + Duration::from_secs(1);
        let beat = Beat { id, attempt: 1, progress: 9 };
        assert_eq!(ledger.told(vec![beat], now), []);
        let told = ledger.told(vec![beat], later);
        assert_eq!(told, [Beat { attempt: 3, ..beat }]);
        assert_eq!(ledger.heard(&told, later), [tag(1), tag(2)]);
        assert_eq!(ledger.lose(id, 1), None, "that is another one by now");
        let done = finished(id, 1);
        let settling = ledger.settling(&done);
        assert_eq!((settling.attempt, settling.is_told), (3, true));
        ledger.settled(&done, &settling);
        let again = Verdict::Again(finished(id, 4), vec![tag(4)]);
        assert_eq!(ledger.take(taken(id, 4, 4), now, NEVER), again);
    }

    #[test]
    fn an_attempt_that_comes_while_its_forerunner_is_delivered_is_settled_too() {
        let (mut ledger, now, id) = (Ledger::new(), Instant::now(), TaskId::new());
        ledger.take(taken(id, 1, 1), now, NEVER);
        let done = finished(id, 1);
        let settling = ledger.settling(&done);
        ledger.take(taken(id, 2, 1), now, NEVER);
        assert_eq!(ledger.settled(&done, &settling), None);
        let settling = ledger.settling(&done);
        assert_eq!(settling.attempt, 2);
        assert!(ledger.settled(&done, &settling).is_some());
    }

    #[test]
    fn what_has_failed_or_was_given_back_is_run_when_it_comes_again() {
        let (mut ledger, now) = (Ledger::new(), Instant::now());
        let failed = Outcome::Failed { reason: "no".to_owned(), is_final: false };
        for (outcome, next) in [(failed, 2), (Outcome::Released, 1)] {
            let id = TaskId::new();
            ledger.take(taken(id, 1, 1), now, NEVER);
            let done = Done { outcome, ..finished(id, 1) };
            let settling = ledger.settling(&done);
            ledger.settled(&done, &settling);
            assert!(matches!(ledger.take(taken(id, next, 2), now, NEVER), Verdict::Run(_)));
        }
    }

    #[test]
    fn a_result_that_waits_here_settles_the_task_that_comes_again() {
        let (mut ledger, now, id) = (Ledger::new(), Instant::now(), TaskId::new());
        assert_eq!(ledger.take(taken(id, 2, 1), now, |_| true), Verdict::Kept);
        assert_eq!(ledger.settling(&finished(id, 1)).attempt, 2);
        assert_eq!(ledger.settling(&finished(TaskId::new(), 1)).attempt, 1);
        // A long one that is delivered, but still on disk, when a newer attempt comes.
        let (id, body) = (TaskId::new(), Some(Body::Bytes(vec![7; 2000])));
        let done = Done { body, ..finished(id, 1) };
        ledger.settled(&done, &ledger.settling(&done));
        assert!(matches!(ledger.take(taken(id, 2, 1), now, |_| true), Verdict::Run(_)));
    }

    #[test]
    fn what_killed_the_process_before_this_one_is_not_run_when_it_comes_again() {
        let (mut ledger, now, id) = (Ledger::new(), Instant::now(), TaskId::new());
        let outcome = Outcome::Died { reason: "it died".to_owned() };
        ledger.remember(Done { outcome, ..finished(id, 1) });
        let over = Verdict::Over(vec![tag(1)]);
        assert_eq!(ledger.take(taken(id, 1, 1), now, NEVER), over);
        assert!(matches!(ledger.take(taken(id, 2, 1), now, NEVER), Verdict::Run(_)));
    }

    #[test]
    fn what_is_not_wanted_is_told_as_the_engine_knows_it() {
        let (mut ledger, now, id) = (Ledger::new(), Instant::now(), TaskId::new());
        ledger.take(taken(id, 1, 1), now, NEVER);
        ledger.take(taken(id, 2, 1), now, NEVER);
        assert_eq!(ledger.lose(id, 2), Some(((id, 1), vec![tag(1), tag(1)])));
        assert_eq!(ledger.lose(id, 2), None);
    }

    #[test]
    fn somebody_elses_task_is_known_by_what_its_sender_calls_it() {
        let (mut ledger, now) = (Ledger::new(), Instant::now());
        let message_id = Some("m-1".to_owned());
        let reference = Some(Reference { correlation_id: None, message_id });
        let foreign = |session, is_again| {
            let reference = reference.clone();
            Taken { reference, is_again, ..taken(TaskId::new(), 0, session) }
        };
        assert!(matches!(ledger.take(foreign(1, false), now, NEVER), Verdict::Run(_)));
        assert_eq!(ledger.take(foreign(2, true), now, NEVER), Verdict::Kept);
        let another = ledger.take(foreign(2, false), now, NEVER);
        let Verdict::Run(job) = another else { panic!("its sender may call two the same") };
        let done = finished(job.id, job.attempt);
        assert!(!ledger.settling(&done).is_acknowledged);
        ledger.heard(&[], now + FOREIGN_KEPT);
        assert!(ledger.settling(&done).is_acknowledged, "the broker would not wait longer");
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (mut ledger, now) = (Ledger::new(), Instant::now());
        for _ in 0..ENDED_MAX + 10 {
            let id = TaskId::new();
            ledger.take(taken(id, 1, 1), now, NEVER);
            let done = finished(id, 1);
            let settling = ledger.settling(&done);
            ledger.settled(&done, &settling);
        }
        assert_eq!((ledger.ended.len(), ledger.entries.len()), (ENDED_MAX, 0));
    }
}
