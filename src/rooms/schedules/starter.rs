//! Starts recurring schedules at their times: any number of schedulers at once, each start once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::metrics::ScheduleMetrics;
use super::plan::{Plan, Recurrence};
use super::policy::{Moment, What, decide};
use super::rule::Rule;
use crate::clock::Clock;
use crate::service::{Lifecycle, held};
use crate::store::schedules::{
    Advance, Decision, NewOccurrence, Occurrence, Schedule, ScheduleFilter, ScheduleState, Times,
};
use crate::store::{Millis, Store, StoreError};
use crate::task::Name;
use crate::tasks::keeper::WallWatch;

/// How long it sleeps at most: clocks may jump, and a bell may be lost.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// How long a schedule that was added may wait for more, unless something is due before.
const PLANS_GAP: Duration = Duration::from_millis(50);
/// Schedules that are looked at together.
const AT_ONCE: usize = 100;
/// Occurrences that are written down together, unless one step has more.
const OCCURRENCES_AT_ONCE: usize = 500;
/// Why a schedule ends of which nothing can be known.
const NO_PLAN: &str = "what was asked for cannot be read: a later release may have written it";

/// Starts what is due.
#[derive(Debug)]
pub struct Starter {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    capture: Name,
    metrics: ScheduleMetrics,
    problem: Arc<Mutex<Option<String>>>,
}

impl Starter {
    /// One for the schedules of this store; captures are tasks of the kind `capture`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        capture: Name,
        metrics: ScheduleMetrics,
    ) -> Self {
        Self { store, clock, capture, metrics, problem: Arc::default() }
    }

    /// What keeps it from starting anything, in words for a person.
    #[must_use]
    pub fn problem(&self) -> Arc<Mutex<Option<String>>> {
        Arc::clone(&self.problem)
    }

    /// Starts what is due until the process stops.
    pub async fn run(self, life: Lifecycle) {
        let mut wall = WallWatch::new(self.clock.as_ref());
        let mut plans = self.store.bells().plans;
        loop {
            let looked = tokio::select! {
                looked = self.look(&mut wall) => looked,
                () = life.stopping() => return,
            };
            let next = Instant::now() + self.note(looked);
            tokio::select! {
                () = sleep_until(next) => {}
                Ok(()) = plans.changed() => sleep_until(next.min(Instant::now() + PLANS_GAP)).await,
                () = life.stopping() => return,
            }
        }
    }

    /// Remembers what is wrong, and logs it when it begins; how long to sleep.
    fn note(&self, looked: Result<Option<Millis>, StoreError>) -> Duration {
        let mut problem = held(&self.problem);
        match looked {
            Ok(next_at_ms) => {
                *problem = None;
                let left_ms = next_at_ms.map(|at_ms| at_ms.saturating_sub(self.now_ms()));
                let left_ms = left_ms.map(|left_ms| u64::try_from(left_ms).unwrap_or(0));
                left_ms.map_or(SLOW_POLL, |left_ms| Duration::from_millis(left_ms).min(SLOW_POLL))
            }
            Err(error) => {
                let text = format!("the store of the schedules: {error}");
                if problem.is_none() {
                    tracing::warn!("recurring schedules are not started now: {text}");
                }
                *problem = Some(text);
                SLOW_POLL
            }
        }
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    /// Decides about all that is due; when the next one is.
    async fn look(&self, wall: &mut WallWatch) -> Result<Option<Millis>, StoreError> {
        if wall.went_back(self.clock.as_ref()) {
            let rewound = self.rewind().await;
            // A clock that went back must not be forgotten because the store was away.
            wall.forget(rewound.is_err());
            rewound?;
        }
        loop {
            let now_ms = self.now_ms();
            let due = self.store.due_schedules(AT_ONCE, now_ms).await?;
            self.metrics.look(due.schedules.len());
            if due.schedules.is_empty() {
                return Ok(due.next_at_ms);
            }
            let capture = self.capture.clone();
            // A long absence of a schedule with short steps takes a while to go through.
            let steps = tokio::task::spawn_blocking(move || {
                let step = |schedule: &Schedule| {
                    let decided = due.decided.get(&schedule.id).map(Vec::as_slice);
                    advance(schedule, decided.unwrap_or_default(), &capture, now_ms)
                };
                due.schedules.iter().filter_map(step).collect::<Vec<_>>()
            });
            let steps = steps.await.map_err(|ended| StoreError::Broken(ended.to_string()))?;
            for group in groups(steps) {
                let stood = self.store.advance(group.clone(), now_ms).await?;
                for (step, _) in group.iter().zip(stood).filter(|(_, stood)| *stood) {
                    self.tell(step, now_ms);
                }
            }
        }
    }

    fn tell(&self, step: &Advance, now_ms: Millis) {
        for occurrence in &step.occurrences {
            self.metrics.count(occurrence, now_ms);
            if occurrence.decision == Decision::Missed {
                let (times, reason) = (occurrence.times.count, occurrence.reason);
                tracing::warn!(schedule = %step.id, times, reason, "times were missed");
            }
        }
    }

    /// After the clock went back: what was skipped or missed of times that are yet to come was not
    /// meant, and they come again. What was started of them is not started again. An entry that
    /// began before stays for the times that have come.
    async fn rewind(&self) -> Result<(), StoreError> {
        let mut before = None;
        loop {
            let states = vec![ScheduleState::Active];
            let filter = ScheduleFilter { states, before, schedules_max: AT_ONCE, label: None };
            let page = self.store.schedules(filter).await?;
            let now_ms = self.now_ms();
            let mut steps = Vec::new();
            for schedule in &page.schedules {
                let Some((step, rule)) = back(schedule, now_ms) else { continue };
                let latest = self.store.occurrences(schedule.id, Some(now_ms + 1), 1).await?;
                let cut = tokio::task::spawn_blocking(move || cut(latest.first()?, &rule, now_ms));
                let cut = cut.await.map_err(|ended| StoreError::Broken(ended.to_string()))?;
                steps.push(Advance { cut, ..step });
            }
            if !steps.is_empty() {
                self.store.advance(steps, now_ms).await?;
            }
            before = page.next;
            if before.is_none() {
                return Ok(());
            }
        }
    }
}

/// The plan of a recurring schedule, and when it is due.
fn understood(schedule: &Schedule) -> Option<(Plan, Recurrence, Rule)> {
    let plan = Plan::stored(&schedule.plan)?;
    let rule = plan.rule(schedule.created_at_ms).ok()??;
    Some((plan.clone(), plan.recurrence?, rule))
}

/// What is done about a schedule that is due.
fn advance(
    schedule: &Schedule,
    decided: &[Millis],
    capture: &Name,
    now_ms: Millis,
) -> Option<Advance> {
    let (id, from_ms) = (schedule.id, schedule.next_at_ms?);
    let Some((plan, recurrence, rule)) = understood(schedule) else {
        let times = Times { due_at_ms: from_ms, last_due_at_ms: from_ms, count: 1 };
        let (decision, reason) = (Decision::Missed, Some(NO_PLAN));
        let occurrences = vec![NewOccurrence { times, decision, reason, task: None }];
        let step =
            Advance { id, from_ms, next_at_ms: None, cut: None, occurrences, replaced: None };
        return Some(step);
    };
    let previous_runs = schedule.run.as_ref().is_some_and(|run| !run.state.is_terminal());
    let moment = Moment {
        next_at_ms: from_ms,
        decided,
        now_ms,
        lateness_ms: plan.lateness_ms(),
        previous_runs,
        catch_up: recurrence.catch_up,
        overlap: recurrence.overlap,
    };
    let decided = decide(&moment, |at_ms| rule.after(at_ms));
    let occurrence = |(times, what): (Times, What)| {
        let (decision, reason, task) = match what {
            What::Start(at_ms) => {
                let task = plan.task(id.task_due_at(times.due_at_ms), capture, at_ms);
                (Decision::Started, None, Some(task))
            }
            What::Skip(reason) => (Decision::Skipped, Some(reason), None),
            What::Miss(reason) => (Decision::Missed, Some(reason), None),
        };
        NewOccurrence { times, decision, reason, task }
    };
    Some(Advance {
        id,
        from_ms,
        next_at_ms: decided.next_at_ms,
        cut: None,
        occurrences: decided.entries.into_iter().map(occurrence).collect(),
        replaced: schedule.task.filter(|_| decided.replaces),
    })
}

/// The way back of a schedule that has gone on beyond times that are yet to come.
fn back(schedule: &Schedule, now_ms: Millis) -> Option<(Advance, Rule)> {
    let (id, from_ms) = (schedule.id, schedule.next_at_ms?);
    let (_, _, rule) = understood(schedule)?;
    let next_at_ms = rule.after(now_ms).filter(|next_ms| *next_ms < from_ms && now_ms < from_ms)?;
    let (next_at_ms, occurrences) = (Some(next_at_ms), Vec::new());
    let step = Advance { id, from_ms, next_at_ms, cut: None, occurrences, replaced: None };
    Some((step, rule))
}

/// What is left of an entry that began before now and ends after it.
fn cut(entry: &Occurrence, rule: &Rule, now_ms: Millis) -> Option<Times> {
    let Times { due_at_ms, last_due_at_ms, .. } = entry.times;
    let mut times = Times { due_at_ms, last_due_at_ms: due_at_ms, count: 1 };
    if last_due_at_ms <= now_ms {
        return None;
    }
    while let Some(due_ms) = rule.after(times.last_due_at_ms).filter(|due_ms| *due_ms <= now_ms) {
        times.last_due_at_ms = due_ms;
        times.count += 1;
    }
    Some(times)
}

/// As many steps as are written down together: what is started may be a lot of tasks.
fn groups(steps: Vec<Advance>) -> Vec<Vec<Advance>> {
    let mut groups: Vec<Vec<Advance>> = Vec::new();
    let mut room = 0;
    for step in steps {
        match groups.last_mut().filter(|_| room > 0) {
            Some(group) => {
                room -= step.occurrences.len().min(room);
                group.push(step);
            }
            None => {
                room = OCCURRENCES_AT_ONCE.saturating_sub(step.occurrences.len());
                groups.push(vec![step]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TaskState;
    use crate::store::schedules::{Run, ScheduleId};
    use crate::task::TaskId;

    const MINUTE_MS: Millis = 60_000;

    fn minutely(more: &str, next_at_ms: Millis, previous: Option<TaskState>) -> Schedule {
        let body = format!(r#"{{"kind":"echo","every_seconds":60{more}}}"#);
        let run = |state| Run {
            state,
            started_at_ms: None,
            finished_at_ms: None,
            error: None,
            result: None,
        };
        Schedule {
            id: ScheduleId::new(),
            label: None,
            plan: Plan::read(body.as_bytes()).unwrap().bytes(),
            created_at_ms: 0,
            state: ScheduleState::Active,
            next_at_ms: Some(next_at_ms),
            ended_at_ms: None,
            task: previous.map(|_| TaskId::derived(&["previous"])),
            run: previous.map(run),
        }
    }

    fn step(schedule: &Schedule, now_ms: Millis) -> Advance {
        advance(schedule, &[], &"capture".parse().unwrap(), now_ms).unwrap()
    }

    #[test]
    fn two_who_start_a_time_start_one_task() {
        let schedule = minutely("", MINUTE_MS, None);
        let (one, two) = (step(&schedule, MINUTE_MS + 3), step(&schedule, MINUTE_MS + 900));
        assert_eq!(one, two);
        assert_eq!((one.from_ms, one.next_at_ms), (MINUTE_MS, Some(2 * MINUTE_MS)));
        let task = one.occurrences[0].task.as_ref().unwrap();
        assert_eq!((task.id, task.run_at_ms), (schedule.id.task_due_at(MINUTE_MS), MINUTE_MS));
    }

    #[test]
    fn what_still_runs_is_seen_and_replaced_if_it_is_to_be() {
        for (state, decision) in
            [(TaskState::Running, Decision::Skipped), (TaskState::Failed, Decision::Started)]
        {
            let schedule = minutely("", MINUTE_MS, Some(state));
            assert_eq!(step(&schedule, MINUTE_MS).occurrences[0].decision, decision);
        }
        let schedule = minutely(r#","overlap":"replace""#, MINUTE_MS, Some(TaskState::Pending));
        assert_eq!(step(&schedule, MINUTE_MS).replaced, Some(TaskId::derived(&["previous"])));
    }

    #[test]
    fn a_plan_that_cannot_be_read_ends_its_schedule_and_says_so() {
        let schedule = Schedule { plan: b"{}".to_vec(), ..minutely("", MINUTE_MS, None) };
        let step = step(&schedule, MINUTE_MS);
        assert_eq!((step.next_at_ms, step.occurrences[0].reason), (None, Some(NO_PLAN)));
        assert_eq!(step.occurrences[0].decision, Decision::Missed);
    }

    #[test]
    fn much_that_is_started_is_written_down_in_pieces() {
        let all = Schedule {
            id: ScheduleId::new(),
            ..minutely(r#","overlap":"allow","catch_up":"all""#, MINUTE_MS, None)
        };
        let step = step(&all, 90 * MINUTE_MS);
        assert_eq!(step.occurrences.len(), 90);
        let sizes: Vec<usize> = groups(vec![step; 14]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [6, 6, 2]);
        assert_eq!(groups(Vec::new()), Vec::<Vec<Advance>>::new());
    }

    #[test]
    fn an_entry_is_cut_where_the_clock_stands() {
        let rule = understood(&minutely("", MINUTE_MS, None)).unwrap().2;
        let entry = |last: Millis| Occurrence {
            times: Times { due_at_ms: MINUTE_MS, last_due_at_ms: last * MINUTE_MS, count: 1 },
            decision: Decision::Missed,
            reason: None,
            decided_at_ms: 0,
            task: None,
            run: None,
        };
        let left = cut(&entry(60), &rule, 3 * MINUTE_MS + 5).unwrap();
        assert_eq!(
            (left.due_at_ms, left.last_due_at_ms, left.count),
            (MINUTE_MS, 3 * MINUTE_MS, 3)
        );
        assert_eq!(cut(&entry(3), &rule, 3 * MINUTE_MS), None);
    }

    #[test]
    fn a_clock_that_went_back_brings_times_back_and_nothing_else_does() {
        let schedule = minutely("", 90 * MINUTE_MS, None);
        let (rewound, _) = back(&schedule, 7 * MINUTE_MS + 1).unwrap();
        assert_eq!(rewound.from_ms, 90 * MINUTE_MS);
        assert_eq!(rewound.next_at_ms, Some(8 * MINUTE_MS));
        for now_ms in [89 * MINUTE_MS, 90 * MINUTE_MS - 1, 90 * MINUTE_MS, 900 * MINUTE_MS] {
            assert!(back(&schedule, now_ms).is_none(), "{now_ms}");
        }
    }
}
