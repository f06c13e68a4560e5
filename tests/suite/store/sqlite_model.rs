//! The store in a file does what a few lines in memory do, whatever is asked in whatever order, and
//! whenever it is closed and opened again.

use std::path::Path;
use std::sync::Arc;

use async_data_processor::store::schedules::{
    Advance, ScheduleFilter, ScheduleId, ScheduleState, Start,
};
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{
    Filter, Millis, NewTask, Settlement, Store, Submitted, Sweep, WorkerBeat,
};
use async_data_processor::task::{Attempt, Outcome, TaskId, WorkerId};
use proptest::prelude::*;
use proptest::sample::Index;

use super::model::{End, FAILURES_MAX, Model, Shown};
use super::{T0, claim_of, failed, result, schedules, task};

#[derive(Debug, Clone)]
enum Operation {
    Submit { key: Option<bool>, expires_in_ms: Option<i64> },
    SubmitAgain(Index),
    Claim { worker: bool, tasks_max: usize },
    Settle { task: Index, back: Option<Attempt>, end: End },
    Cancel(Index),
    Retry(Index),
    Bury { worker: bool },
    BeginOutside(Index),
    AddSchedule { is_once: bool },
    Advance { schedule: Index, starts: bool, replaces: bool },
    EndSchedule { schedule: Index, is_kept: bool },
    Sweep,
    Wait { ms: i64 },
    Reopen,
}

fn operations() -> impl Strategy<Value = Operation> {
    let key = proptest::option::of(any::<bool>());
    let end = prop_oneof![
        Just(End::Finished),
        any::<bool>().prop_map(|is_final| End::Failed { is_final }),
        Just(End::Released),
    ];
    let back = proptest::option::of(0_u32..2);
    prop_oneof![
        4 => (key, proptest::option::of(0_i64..3000))
            .prop_map(|(key, expires_in_ms)| Operation::Submit { key, expires_in_ms }),
        1 => any::<Index>().prop_map(Operation::SubmitAgain),
        4 => (any::<bool>(), 0_usize..4)
            .prop_map(|(worker, tasks_max)| Operation::Claim { worker, tasks_max }),
        4 => (any::<Index>(), back, end)
            .prop_map(|(task, back, end)| Operation::Settle { task, back, end }),
        1 => any::<Index>().prop_map(Operation::Cancel),
        2 => any::<Index>().prop_map(Operation::Retry),
        1 => any::<bool>().prop_map(|worker| Operation::Bury { worker }),
        1 => any::<Index>().prop_map(Operation::BeginOutside),
        1 => any::<bool>().prop_map(|is_once| Operation::AddSchedule { is_once }),
        3 => (any::<Index>(), any::<bool>(), any::<bool>()).prop_map(
            |(schedule, starts, replaces)| Operation::Advance { schedule, starts, replaces }
        ),
        1 => (any::<Index>(), any::<bool>())
            .prop_map(|(schedule, is_kept)| Operation::EndSchedule { schedule, is_kept }),
        1 => Just(Operation::Sweep),
        2 => (0_i64..4000).prop_map(|ms| Operation::Wait { ms }),
        1 => Just(Operation::Reopen),
    ]
}

/// A schedule, and what it has started; `next_at_ms` is of one that recurs and has not ended.
struct Planned {
    id: ScheduleId,
    is_once: bool,
    next_at_ms: Option<Millis>,
    starts: Vec<TaskId>,
    decided: usize,
}

struct World {
    store: Arc<dyn Store>,
    model: Model,
    schedules: Vec<Planned>,
    workers: [WorkerId; 2],
    now_ms: Millis,
}

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(dir).unwrap())
}

impl World {
    /// One of the tasks there are.
    fn pick(&self, index: Index) -> Option<(usize, TaskId)> {
        let count = self.model.0.len();
        (count > 0).then(|| index.index(count)).map(|at| (at, self.model.0[at].new.id))
    }

    async fn submit(&mut self, key: Option<bool>, expires_in_ms: Option<i64>) {
        let new = NewTask {
            key: key.map(|key| key.to_string()),
            run_at_ms: self.now_ms,
            expires_at_ms: expires_in_ms.map(|ms| self.now_ms + ms),
            failures_max: FAILURES_MAX,
            ..task("a")
        };
        let submitted = self.store.submit(vec![new.clone()], self.now_ms).await.unwrap();
        assert_eq!(submitted, [self.model.submit(new)]);
    }

    async fn claim(&mut self, worker: bool, tasks_max: usize) {
        let (worker, now_ms) = (self.workers[usize::from(worker)], self.now_ms);
        let claim = claim_of(worker, &["a"], tasks_max, now_ms);
        let claimed = super::ids(&self.store.claim(claim).await.unwrap().tasks);
        assert_eq!(claimed, self.model.claim(worker, tasks_max, now_ms));
    }

    async fn settle(&mut self, task: Index, back: Option<Attempt>, end: End) {
        let Some((at, id)) = self.pick(task) else { return };
        let attempt = back.map(|back| self.model.shown(at).attempt.saturating_sub(back));
        let outcome = match end {
            End::Finished => Outcome::Finished(result(b"1")),
            End::Failed { is_final } => failed("no", is_final),
            End::Released => Outcome::Released,
        };
        let settlement = Settlement {
            id,
            attempt,
            endpoint: None,
            outcome,
            began_at_ms: None,
            at_ms: self.now_ms,
        };
        let settled = super::settle(&self.store, settlement).await;
        assert_eq!(settled, self.model.settle(at, attempt, end, self.now_ms));
    }

    async fn bury(&mut self, worker: bool) {
        let dead = std::mem::take(&mut self.workers[usize::from(worker)]);
        let signed = self.store.workers().await.unwrap();
        let beat = signed.into_iter().find(|beat| beat.worker == dead);
        let beat = beat.unwrap_or(WorkerBeat { worker: dead, beats: 0 });
        let buried = self.store.bury(beat, self.now_ms).await.unwrap();
        assert_eq!(buried, self.model.bury(dead, self.now_ms));
    }

    fn task_of(&self, id: TaskId) -> usize {
        self.model.0.iter().position(|known| known.new.id == id).unwrap()
    }

    async fn add_schedule(&mut self, is_once: bool) {
        let now_ms = self.now_ms;
        let mut new =
            if is_once { schedules::once("x", now_ms) } else { schedules::recurring(now_ms) };
        let id = new.id;
        if let Start::Once(task) = &mut new.start {
            task.failures_max = FAILURES_MAX;
            assert_eq!(self.model.submit(task.clone()), Submitted::New);
        }
        assert_eq!(self.store.add_schedule(new, now_ms).await.unwrap(), Submitted::New);
        let next_at_ms = (!is_once).then_some(now_ms);
        let starts = if is_once { vec![id.task()] } else { Vec::new() };
        self.schedules.push(Planned { id, is_once, next_at_ms, starts, decided: 0 });
    }

    /// What is there already is found as it was left, by a scheduler that comes second as well.
    async fn advance(&mut self, schedule: Index, starts: bool, replaces: bool) {
        let count = self.schedules.len();
        let Some(at) = (count > 0).then(|| schedule.index(count)) else { return };
        let Planned { id, next_at_ms: Some(due_ms), .. } = self.schedules[at] else { return };
        let replaced = self.schedules[at].starts.last().copied().filter(|_| replaces);
        let mut occurrence = if starts {
            schedules::start(id, due_ms)
        } else {
            schedules::missed(schedules::times(due_ms, due_ms, 1))
        };
        if let Some(task) = &mut occurrence.task {
            task.failures_max = FAILURES_MAX;
        }
        let started = occurrence.task.clone();
        let step = Advance { replaced, ..schedules::step(id, due_ms, vec![occurrence]) };
        let stood = self.store.advance(vec![step.clone(), step], self.now_ms).await.unwrap();
        assert_eq!(stood, [true, false]);
        if let Some(task) = started {
            self.schedules[at].starts.push(task.id);
            assert_eq!(self.model.submit(task), Submitted::New);
            if let Some(replaced) = replaced {
                self.model.cancel(self.task_of(replaced));
            }
        }
        self.schedules[at].decided += 1;
        self.schedules[at].next_at_ms = Some(due_ms + schedules::MINUTE_MS);
    }

    async fn end_schedule(&mut self, schedule: Index, is_kept: bool) {
        let count = self.schedules.len();
        let Some(at) = (count > 0).then(|| schedule.index(count)) else { return };
        let (id, now_ms) = (self.schedules[at].id, self.now_ms);
        let ended = if is_kept {
            self.store.cancel_schedule(id, now_ms).await
        } else {
            self.store.delete_schedule(id, now_ms).await
        };
        assert!(ended.unwrap());
        for start in self.schedules[at].starts.clone() {
            self.model.cancel(self.task_of(start));
        }
        self.schedules[at].next_at_ms = None;
        if !is_kept {
            self.schedules.remove(at);
            assert_eq!(self.store.schedule(id).await.unwrap(), None);
        }
    }

    async fn compare_schedules(&self) {
        let filter = ScheduleFilter { schedules_max: usize::MAX, ..Default::default() };
        let mut found = self.store.schedules(filter).await.unwrap().schedules;
        found.reverse();
        assert_eq!(found.len(), self.schedules.len());
        for (found, known) in found.iter().zip(&self.schedules) {
            assert_eq!((found.id, found.next_at_ms), (known.id, known.next_at_ms));
            assert_eq!(found.task, known.starts.last().copied());
            let state = match known.next_at_ms {
                _ if known.is_once => {
                    let task = self.model.shown(self.task_of(known.id.task()));
                    ScheduleState::of_task(task.state)
                }
                Some(_) => ScheduleState::Active,
                None => ScheduleState::Cancelled,
            };
            assert_eq!(found.state, state);
            let decided = self.store.occurrences(known.id, None, usize::MAX).await.unwrap();
            assert_eq!(decided.len(), known.decided);
        }
    }

    async fn run(&mut self, operation: Operation, dir: &Path) {
        let now_ms = self.now_ms;
        match operation {
            Operation::Submit { key, expires_in_ms } => self.submit(key, expires_in_ms).await,
            Operation::SubmitAgain(task) => {
                let Some((at, _)) = self.pick(task) else { return };
                let again = vec![self.model.0[at].new.clone()];
                assert_eq!(self.store.submit(again, now_ms).await.unwrap(), [Submitted::Known]);
            }
            Operation::Claim { worker, tasks_max } => self.claim(worker, tasks_max).await,
            Operation::Settle { task, back, end } => self.settle(task, back, end).await,
            Operation::Cancel(task) => {
                let Some((at, id)) = self.pick(task) else { return };
                let before = self.store.cancel(id, now_ms).await.unwrap();
                assert_eq!(before, Some(self.model.cancel(at)));
            }
            Operation::Retry(task) => {
                let Some((at, id)) = self.pick(task) else { return };
                let before = self.store.retry(id, now_ms).await.unwrap();
                assert_eq!(before, Some(self.model.retry(at, now_ms)));
            }
            Operation::Bury { worker } => self.bury(worker).await,
            Operation::BeginOutside(task) => {
                let Some((at, id)) = self.pick(task) else { return };
                self.store.begin_outside(id, now_ms, now_ms + 100).await.unwrap().unwrap();
                self.model.begin_outside(at, now_ms + 100);
            }
            Operation::AddSchedule { is_once } => self.add_schedule(is_once).await,
            Operation::Advance { schedule, starts, replaces } => {
                self.advance(schedule, starts, replaces).await;
            }
            Operation::EndSchedule { schedule, is_kept } => {
                self.end_schedule(schedule, is_kept).await;
            }
            Operation::Sweep => {
                let sweep = Sweep { now_ms, ..Sweep::default() };
                self.store.sweep(sweep).await.unwrap();
                self.model.sweep(now_ms);
            }
            Operation::Wait { ms } => self.now_ms += ms,
            Operation::Reopen => self.store = open(dir),
        }
    }

    /// Everything there is, and how many of each.
    async fn compare(&self) {
        let filter = Filter { tasks_max: usize::MAX, ..Filter::default() };
        let mut found = self.store.tasks(filter).await.unwrap();
        found.reverse();
        let found: Vec<Shown> = found
            .into_iter()
            .map(|task| Shown {
                id: task.id,
                state: task.state,
                attempt: task.attempt,
                run_at_ms: task.run_at_ms,
                owner: task.owner,
                follows: task.follows,
            })
            .collect();
        let expected: Vec<Shown> = (0..self.model.0.len()).map(|at| self.model.shown(at)).collect();
        assert_eq!(found, expected);
        for count in self.store.counts().await.unwrap() {
            let in_state = expected.iter().filter(|shown| shown.state == count.state);
            assert_eq!(in_state.count() as u64, count.tasks, "{}", count.state);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_operations_leaves_what_it_leaves_in_memory(
        operations in proptest::collection::vec(operations(), 1..50),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let workers = [WorkerId::new(), WorkerId::new()];
            let model = Model::default();
            let store = open(dir.path());
            let mut world = World { store, model, schedules: Vec::new(), workers, now_ms: T0 };
            for operation in operations {
                world.run(operation, dir.path()).await;
                world.compare().await;
                world.compare_schedules().await;
            }
        });
    }
}
