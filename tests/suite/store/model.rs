//! What a store does, in memory and in few lines: the measure of the real ones.

use async_data_processor::store::{Millis, NewTask, Settled, Submitted, TaskState, back_off_ms};
use async_data_processor::task::{Attempt, TaskId, WorkerId};

pub(super) const FAILURES_MAX: u32 = 2;

#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Finished,
    Failed { is_final: bool },
    Released,
}

/// What is compared of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub(super) id: TaskId,
    pub(super) state: TaskState,
    pub(super) attempt: Attempt,
    pub(super) run_at_ms: Millis,
    pub(super) owner: Option<WorkerId>,
    pub(super) follows: Option<TaskId>,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) new: NewTask,
    state: TaskState,
    attempt: Attempt,
    failures: u32,
    run_at_ms: Millis,
    expires_at_ms: Option<Millis>,
    deadline_ms: Option<Millis>,
    has_begun: bool,
    owner: Option<WorkerId>,
    follows: Option<usize>,
}

/// The tasks in the order of their submission.
#[derive(Debug, Default)]
pub(super) struct Model(pub(super) Vec<Known>);

impl Model {
    fn leader(&self, key: Option<&String>) -> Option<usize> {
        let leads = |known: &Known| {
            known.follows.is_none()
                && (!known.state.is_terminal() || known.state == TaskState::Finished)
        };
        key?;
        self.0.iter().position(|known| known.new.key.as_ref() == key && leads(known))
    }

    pub(super) fn submit(&mut self, new: NewTask) -> Submitted {
        let leader = self.leader(new.key.as_ref());
        let submitted = leader.map_or(Submitted::New, |at| Submitted::Follows(self.0[at].new.id));
        self.0.push(Known {
            state: TaskState::Pending,
            attempt: 0,
            failures: 0,
            run_at_ms: new.run_at_ms,
            expires_at_ms: new.expires_at_ms,
            deadline_ms: None,
            has_begun: false,
            owner: None,
            follows: leader,
            new,
        });
        submitted
    }

    /// The task has ended, or is pending again; what follows it goes the same way.
    fn leave(&mut self, at: usize, state: TaskState) {
        (self.0[at].owner, self.0[at].deadline_ms) = (None, None);
        self.0[at].state = state;
        let followers: Vec<usize> =
            (0..self.0.len()).filter(|one| self.0[*one].follows == Some(at)).collect();
        match state {
            TaskState::Cancelled => {
                for follower in &followers {
                    self.0[*follower].follows = Some(followers[0]);
                    self.0[*follower].state = TaskState::Pending;
                }
                if let Some(first) = followers.first() {
                    self.0[*first].follows = None;
                }
            }
            TaskState::Failed | TaskState::Missed => {
                for follower in followers {
                    let (attempt, has_begun) = (self.0[at].attempt, self.0[at].has_begun);
                    let known = &mut self.0[follower];
                    (known.state, known.follows, known.attempt) = (state, None, attempt);
                    known.has_begun = has_begun;
                }
            }
            _ => {}
        }
    }

    fn fail(&mut self, at: usize, again_at_ms: Option<Millis>) {
        self.0[at].failures += 1;
        self.0[at].has_begun = true;
        match again_at_ms {
            Some(run_at_ms) if self.0[at].failures < FAILURES_MAX => {
                self.0[at].run_at_ms = run_at_ms;
                self.leave(at, TaskState::Pending);
            }
            _ => self.leave(at, TaskState::Failed),
        }
    }

    fn give_out(&mut self, at: usize, owner: Option<WorkerId>) {
        self.0[at].state = TaskState::Running;
        self.0[at].attempt += 1;
        self.0[at].has_begun = true;
        self.0[at].owner = owner;
    }

    fn is_too_late(&self, at: usize, now_ms: Millis) -> bool {
        let known = &self.0[at];
        !known.has_begun && known.expires_at_ms.is_some_and(|until_ms| until_ms < now_ms)
    }

    fn miss(&mut self, now_ms: Millis) {
        for at in 0..self.0.len() {
            let known = &self.0[at];
            let waits = known.state == TaskState::Pending && known.follows.is_none();
            if waits && self.is_too_late(at, now_ms) {
                self.leave(at, TaskState::Missed);
            }
        }
    }

    pub(super) fn claim(
        &mut self,
        worker: WorkerId,
        tasks_max: usize,
        now_ms: Millis,
    ) -> Vec<TaskId> {
        let mut due: Vec<(Millis, usize)> = (0..self.0.len())
            .filter(|at| self.0[*at].state == TaskState::Pending && self.0[*at].follows.is_none())
            .filter(|at| self.0[*at].run_at_ms <= now_ms)
            .map(|at| (self.0[at].run_at_ms, at))
            .collect();
        due.sort_unstable();
        let mut claimed = Vec::new();
        for (_, at) in due {
            if claimed.len() == tasks_max {
                break;
            }
            if self.is_too_late(at, now_ms) {
                self.leave(at, TaskState::Missed);
            } else {
                self.give_out(at, Some(worker));
                claimed.push(self.0[at].new.id);
            }
        }
        claimed
    }

    pub(super) fn settle(
        &mut self,
        at: usize,
        attempt: Option<Attempt>,
        end: End,
        now_ms: Millis,
    ) -> Settled {
        let at = match attempt {
            None => self.0[at].follows.unwrap_or(at),
            Some(_) => at,
        };
        let known = &self.0[at];
        let is_current = attempt.is_none_or(|attempt| {
            known.follows.is_none() && known.state == TaskState::Running && known.attempt == attempt
        });
        if known.state.is_terminal() || !is_current {
            return Settled::Late;
        }
        let again_at_ms = now_ms + back_off_ms(known.failures + 1);
        match end {
            End::Finished => self.leave(at, TaskState::Finished),
            End::Failed { is_final } => self.fail(at, (!is_final).then_some(again_at_ms)),
            End::Released => self.leave(at, TaskState::Pending),
        }
        Settled::Applied
    }

    pub(super) fn retry(&mut self, at: usize, now_ms: Millis) -> TaskState {
        let before = self.shown(at).state;
        if before.is_terminal() && before != TaskState::Finished {
            let leader = self.leader(self.0[at].new.key.as_ref());
            let known = &mut self.0[at];
            (known.state, known.failures, known.follows) = (TaskState::Pending, 0, leader);
            known.run_at_ms = known.run_at_ms.min(now_ms);
            known.expires_at_ms = known.expires_at_ms.filter(|until_ms| *until_ms >= now_ms);
        }
        before
    }

    pub(super) fn cancel(&mut self, at: usize) -> TaskState {
        let before = self.shown(at).state;
        if !before.is_terminal() {
            self.0[at].follows = None;
            self.leave(at, TaskState::Cancelled);
        }
        before
    }

    pub(super) fn bury(&mut self, worker: WorkerId, now_ms: Millis) -> u64 {
        let owned: Vec<usize> =
            (0..self.0.len()).filter(|at| self.0[*at].owner == Some(worker)).collect();
        for at in &owned {
            self.0[*at].run_at_ms = self.0[*at].run_at_ms.min(now_ms);
            self.leave(*at, TaskState::Pending);
        }
        owned.len() as u64
    }

    pub(super) fn begin_outside(&mut self, at: usize, deadline_ms: Millis) {
        let at = self.0[at].follows.unwrap_or(at);
        match (self.0[at].state, self.0[at].owner) {
            (TaskState::Pending, _) => self.give_out(at, None),
            (TaskState::Running, None) => self.0[at].attempt += 1,
            _ => return,
        }
        self.0[at].deadline_ms = Some(deadline_ms);
    }

    pub(super) fn sweep(&mut self, now_ms: Millis) {
        self.miss(now_ms);
        for at in 0..self.0.len() {
            if self.0[at].deadline_ms.is_some_and(|until_ms| until_ms < now_ms) {
                self.fail(at, Some(self.0[at].run_at_ms.min(now_ms)));
            }
        }
    }

    pub(super) fn shown(&self, at: usize) -> Shown {
        let own = &self.0[at];
        let run = &self.0[own.follows.unwrap_or(at)];
        Shown {
            id: own.new.id,
            state: run.state,
            attempt: run.attempt,
            run_at_ms: own.run_at_ms,
            owner: run.owner,
            follows: own.follows.map(|leader| self.0[leader].new.id),
        }
    }
}
