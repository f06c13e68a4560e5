//! Schedules: with their tasks or not at all, and each due time once.

use std::sync::Arc;

use async_data_processor::store::schedules::{
    Advance, Decision, NewOccurrence, NewSchedule, Occurrence, Schedule, ScheduleFilter,
    ScheduleId, ScheduleState, Start, Times,
};
use async_data_processor::store::{Millis, NewTask, Store, Submitted, Sweep, TaskState};
use async_data_processor::task::{Beat, Outcome, WorkerId};

use super::{Stores, T0, claim_at, claim_of, end, failed, get, ids, result, state, submit, task};

pub(super) const MINUTE_MS: Millis = 60_000;
const DAY_MS: Millis = 24 * 60 * MINUTE_MS;

/// A schedule that starts a task of kind `a` at this time.
pub(super) fn once(label: &str, at_ms: Millis) -> NewSchedule {
    let id = ScheduleId::new();
    let task = NewTask { id: id.task(), run_at_ms: at_ms, ..task("a") };
    let plan = format!("{label} at {at_ms}").into_bytes();
    NewSchedule { id, label: Some(label.to_owned()), plan, start: Start::Once(task) }
}

/// A schedule that is due at this time, and again.
pub(super) fn recurring(next_at_ms: Millis) -> NewSchedule {
    NewSchedule {
        id: ScheduleId::new(),
        label: None,
        plan: b"again".to_vec(),
        start: Start::Recurring(next_at_ms),
    }
}

pub(super) async fn add(store: &Arc<dyn Store>, schedule: NewSchedule) -> ScheduleId {
    let id = schedule.id;
    assert_eq!(store.add_schedule(schedule, T0).await.unwrap(), Submitted::New);
    id
}

async fn show(store: &Arc<dyn Store>, id: ScheduleId) -> Schedule {
    store.schedule(id).await.unwrap().unwrap()
}

pub(super) fn times(due_at_ms: Millis, last_due_at_ms: Millis, count: u64) -> Times {
    Times { due_at_ms, last_due_at_ms, count }
}

pub(super) fn start(id: ScheduleId, due_at_ms: Millis) -> NewOccurrence {
    NewOccurrence {
        times: times(due_at_ms, due_at_ms, 1),
        decision: Decision::Started,
        reason: None,
        task: Some(NewTask { id: id.task_due_at(due_at_ms), run_at_ms: due_at_ms, ..task("a") }),
    }
}

pub(super) fn missed(times: Times) -> NewOccurrence {
    NewOccurrence { times, decision: Decision::Missed, reason: Some("away"), task: None }
}

pub(super) fn step(id: ScheduleId, from_ms: Millis, occurrences: Vec<NewOccurrence>) -> Advance {
    let next_at_ms = Some(from_ms + MINUTE_MS);
    Advance { id, from_ms, next_at_ms, cut: None, occurrences, replaced: None }
}

async fn advance(store: &Arc<dyn Store>, step: Advance, now_ms: Millis) -> bool {
    store.advance(vec![step], now_ms).await.unwrap()[0]
}

async fn decided(store: &Arc<dyn Store>, id: ScheduleId) -> Vec<Occurrence> {
    store.occurrences(id, None, 100).await.unwrap()
}

pub(crate) async fn a_schedule_and_its_task_are_there_together(
    Stores { one, two, keep: _keep }: Stores,
) {
    let new = once("TARDIS", T0 + 50);
    let id = add(&one, new.clone()).await;
    let shown = show(&two, id).await;
    assert_eq!((shown.state, shown.created_at_ms), (ScheduleState::Pending, T0));
    assert_eq!((&shown.label, &shown.plan), (&new.label, &new.plan));
    assert_eq!((shown.task, shown.next_at_ms, shown.ended_at_ms), (Some(id.task()), None, None));
    let pending = get(&two, id.task()).await;
    assert_eq!((pending.state, pending.run_at_ms), (TaskState::Pending, T0 + 50));

    // Again is as good as once; with another plan it is told.
    assert_eq!(two.add_schedule(new.clone(), T0).await.unwrap(), Submitted::Known);
    let other = NewSchedule { plan: b"other".to_vec(), ..new };
    assert_eq!(two.add_schedule(other, T0).await.unwrap(), Submitted::Conflict);
    // A task of that id is there: there is no schedule without a task of its own.
    let taken = submit(&one, task("b")).await;
    let mut new = once("TARDIS", T0);
    new.id = ScheduleId::from_bytes(taken.bytes());
    new.start = Start::Once(NewTask { id: taken, ..task("a") });
    assert_eq!(one.add_schedule(new.clone(), T0).await.unwrap(), Submitted::Conflict);
    assert_eq!(two.schedule(new.id).await.unwrap(), None);
}

pub(crate) async fn a_schedule_stands_as_its_task_stands(Stores { one, two, keep: _keep }: Stores) {
    let [good, bad, late] = [T0 + 1, T0 + 2, T0 + 3].map(|at_ms| once("a", at_ms));
    let (good, bad) = (add(&one, good).await, add(&one, bad).await);
    let late_task =
        NewTask { id: late.id.task(), run_at_ms: T0 + 3, expires_at_ms: Some(T0 + 5), ..task("a") };
    let start = Start::Once(late_task);
    let late = add(&one, NewSchedule { start, ..late }).await;
    assert_eq!(claim_at(&one, WorkerId::new(), 9, T0).await, [], "none is early");
    let claimed = claim_at(&one, WorkerId::new(), 2, T0 + 2).await;
    assert_eq!(ids(&claimed), [good.task(), bad.task()]);
    assert_eq!(show(&two, good).await.state, ScheduleState::Running);
    end(&one, &claimed[0], Outcome::Finished(result(b"{}"))).await;
    end(&one, &claimed[1], failed("no", true)).await;
    one.sweep(Sweep { now_ms: T0 + 6, ..Sweep::default() }).await.unwrap();
    let shown = show(&two, good).await;
    let run = shown.run.unwrap();
    assert_eq!((shown.state, run.state), (ScheduleState::Finished, TaskState::Finished));
    assert_eq!((run.started_at_ms, run.result), (Some(T0 + 2), Some(result(b"{}"))));
    let shown = show(&two, bad).await;
    assert_eq!(shown.state, ScheduleState::Failed);
    assert_eq!(shown.run.unwrap().error.as_deref(), Some("no"));
    let shown = show(&two, late).await;
    assert_eq!(shown.state, ScheduleState::Missed);
    assert!(shown.run.unwrap().error.unwrap().contains("its time was over"));
}

pub(crate) async fn of_two_schedules_of_one_id_nothing_is_left_of_the_second(
    Stores { one, two, keep: _keep }: Stores,
) {
    for _ in 0..20 {
        let single = once("a", T0 + DAY_MS);
        let again = NewSchedule { id: single.id, ..recurring(T0 + DAY_MS) };
        let id = single.id;
        let (first, second) =
            tokio::join!(one.add_schedule(single, T0), two.add_schedule(again, T0));
        let both = (first.unwrap(), second.unwrap());
        let is_first = both == (Submitted::New, Submitted::Conflict);
        assert!(is_first || both == (Submitted::Conflict, Submitted::New), "{both:?}");
        assert_eq!(one.task(id.task()).await.unwrap().is_some(), is_first);
        assert_eq!(show(&one, id).await.next_at_ms.is_none(), is_first);
    }
}

async fn page(store: &Arc<dyn Store>, filter: ScheduleFilter) -> Vec<ScheduleId> {
    let page = store.schedules(filter).await.unwrap();
    page.schedules.iter().map(|schedule| schedule.id).collect()
}

pub(crate) async fn schedules_are_listed_newest_first_in_pages(
    Stores { one, two, keep: _keep }: Stores,
) {
    let mut all = Vec::new();
    for place in 0..11 {
        let label = if place % 2 == 0 { "even" } else { "odd" };
        all.push(add(&one, once(label, T0 + place)).await);
    }
    let again = add(&one, recurring(T0)).await;
    all.push(again);
    all.reverse();
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let filter = ScheduleFilter { before, schedules_max: 4, ..Default::default() };
        let page = two.schedules(filter).await.unwrap();
        assert!(page.schedules.len() <= 4);
        found.extend(page.schedules.iter().map(|schedule| schedule.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(found, all);

    let odd =
        ScheduleFilter { label: Some("odd".to_owned()), schedules_max: 9, ..Default::default() };
    let found = page(&two, odd.clone()).await;
    assert_eq!(found, [all[2], all[4], all[6], all[8], all[10]]);
    one.cancel(all[4].task(), T0).await.unwrap();
    let of = |states: &[ScheduleState]| ScheduleFilter {
        states: states.to_vec(),
        schedules_max: 99,
        ..Default::default()
    };
    assert_eq!(page(&two, of(&[ScheduleState::Cancelled])).await, [all[4]]);
    assert_eq!(page(&two, of(&[ScheduleState::Active])).await, [again]);
    assert_eq!(page(&two, of(&[ScheduleState::Ended])).await, []);
    assert_eq!(page(&two, of(&[ScheduleState::Pending])).await.len(), 10);
    let mixed = of(&[ScheduleState::Cancelled, ScheduleState::Active]);
    assert_eq!(page(&two, mixed).await, [again, all[4]]);
    let pending = ScheduleFilter { states: vec![ScheduleState::Pending], ..odd };
    assert_eq!(page(&two, pending).await, [all[2], all[6], all[8], all[10]]);
}

pub(crate) async fn of_those_who_advance_a_schedule_one_does(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = add(&one, recurring(T0)).await;
    let due = two.due_schedules(9, T0 - 1).await.unwrap();
    assert_eq!((due.schedules.len(), due.next_at_ms), (0, Some(T0)));
    let due = two.due_schedules(9, T0).await.unwrap();
    assert_eq!((due.schedules[0].id, due.next_at_ms), (id, Some(T0)));
    let steps = || vec![step(id, T0, vec![start(id, T0)])];
    let (first, second) = tokio::join!(one.advance(steps(), T0), two.advance(steps(), T0));
    let mut stood = [first.unwrap()[0], second.unwrap()[0]];
    stood.sort_unstable();
    assert_eq!(stood, [false, true]);
    let shown = show(&one, id).await;
    assert_eq!((shown.state, shown.next_at_ms), (ScheduleState::Active, Some(T0 + MINUTE_MS)));
    assert_eq!(shown.task, Some(id.task_due_at(T0)));
    let claimed = claim_at(&two, WorkerId::new(), 9, T0).await;
    assert_eq!(ids(&claimed), [id.task_due_at(T0)]);
    let decided = decided(&two, id).await;
    assert_eq!((decided.len(), decided[0].decision), (1, Decision::Started));
    assert_eq!((decided[0].task, decided[0].decided_at_ms), (shown.task, T0));
    assert_eq!(decided[0].run.as_ref().map(|run| run.state), Some(TaskState::Running));
}

pub(crate) async fn what_was_decided_of_a_time_stands(Stores { one, two, keep: _keep }: Stores) {
    let id = add(&one, recurring(T0)).await;
    let away = times(T0, T0 + 9 * MINUTE_MS, 10);
    let last = T0 + 10 * MINUTE_MS;
    let occurrences = vec![missed(away.clone()), start(id, last)];
    let next_at_ms = Some(last + MINUTE_MS);
    let first = Advance { next_at_ms, ..step(id, T0, occurrences) };
    assert!(advance(&one, first, last).await);
    let mut known = decided(&two, id).await;
    assert_eq!(known.len(), 2);
    assert_eq!((known[0].times.due_at_ms, &known[1].times), (last, &away));
    assert_eq!(known[1].reason.as_deref(), Some("away"));
    let older = two.occurrences(id, Some(last), 1).await.unwrap();
    assert_eq!(older, [known.remove(1)]);

    // The clock went back to the sixth minute, and the times come again.
    let now_ms = T0 + 5 * MINUTE_MS + 1;
    let again = T0 + 6 * MINUTE_MS;
    let left = times(T0, T0 + 5 * MINUTE_MS, 6);
    let rewound = Advance {
        next_at_ms: Some(again),
        cut: Some(left.clone()),
        ..step(id, last + MINUTE_MS, vec![])
    };
    assert!(advance(&two, rewound, now_ms).await);
    let due = one.due_schedules(9, last - 1).await.unwrap();
    assert_eq!((due.schedules.len(), due.decided.len()), (1, 0));
    let due = one.due_schedules(9, last).await.unwrap();
    assert_eq!(due.decided.into_iter().collect::<Vec<_>>(), [(id, vec![last])]);
    assert!(advance(&one, step(id, again, vec![start(id, again)]), again).await);
    let next_at_ms = Some(last + MINUTE_MS);
    let skip = NewOccurrence { decision: Decision::Skipped, task: None, ..start(id, last) };
    let to_last = Advance { next_at_ms, ..step(id, again + MINUTE_MS, vec![skip]) };
    assert!(advance(&one, to_last, last).await);
    let decided = decided(&two, id).await;
    let shown: Vec<_> =
        decided.iter().map(|one| (one.times.due_at_ms, one.decision.word())).collect();
    // Of the long absence, which began before now, that stays which had come.
    assert_eq!(decided[2].times, left);
    assert_eq!(shown, [(last, "started"), (again, "started"), (T0, "missed")]);
    assert_eq!(claim_at(&one, WorkerId::new(), 9, last).await.len(), 2);
}

pub(crate) async fn a_clock_that_went_back_takes_back_what_has_not_come(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = add(&one, recurring(T0)).await;
    let ahead = T0 + DAY_MS;
    let occurrences = vec![missed(times(T0, T0, 1)), missed(times(T0 + 5, ahead, 9))];
    let jumped = Advance { next_at_ms: Some(ahead + 5), ..step(id, T0, occurrences) };
    assert!(advance(&one, jumped, ahead).await);
    let rewound = Advance { next_at_ms: Some(T0 + 5), ..step(id, ahead + 5, vec![]) };
    assert!(advance(&two, rewound, T0 + 2).await);
    let decided = decided(&one, id).await;
    assert_eq!((decided.len(), decided[0].times.due_at_ms), (1, T0));
    assert_eq!(show(&one, id).await.next_at_ms, Some(T0 + 5));
}

pub(crate) async fn a_replaced_start_is_cancelled_and_the_last_step_ends_a_schedule(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = add(&one, recurring(T0)).await;
    assert!(advance(&one, step(id, T0, vec![start(id, T0)]), T0).await);
    let next = T0 + MINUTE_MS;
    let last = Advance {
        next_at_ms: None,
        replaced: Some(id.task_due_at(T0)),
        ..step(id, next, vec![start(id, next)])
    };
    assert!(advance(&two, last, next).await);
    assert_eq!(state(&one, id.task_due_at(T0)).await, TaskState::Cancelled);
    assert_eq!(state(&one, id.task_due_at(next)).await, TaskState::Pending);
    let shown = show(&one, id).await;
    assert_eq!((shown.state, shown.next_at_ms), (ScheduleState::Ended, None));
    assert_eq!((shown.ended_at_ms, shown.task), (Some(next), Some(id.task_due_at(next))));
    assert_eq!(one.due_schedules(9, Millis::MAX).await.unwrap().schedules, []);
    // What it has started is cancelled with it all the same, once.
    assert!(one.cancel_schedule(id, next + 1).await.unwrap());
    assert_eq!(state(&one, id.task_due_at(next)).await, TaskState::Cancelled);
    assert_eq!(show(&one, id).await.state, ScheduleState::Cancelled);
}

pub(crate) async fn nothing_is_replaced_by_what_is_not_started(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = add(&one, recurring(T0)).await;
    assert!(advance(&one, step(id, T0, vec![start(id, T0)]), T0).await);
    // The clock went back, and the time comes again.
    let rewound = Advance { next_at_ms: Some(T0), ..step(id, T0 + MINUTE_MS, vec![]) };
    assert!(advance(&two, rewound, T0 - 1).await);
    let replaced = Some(id.task_due_at(T0));
    let again = Advance { replaced, ..step(id, T0, vec![start(id, T0)]) };
    assert!(advance(&two, again, T0).await);
    assert_eq!(state(&one, id.task_due_at(T0)).await, TaskState::Pending);
    assert_eq!(decided(&one, id).await.len(), 1);
}

pub(crate) async fn a_cancelled_schedule_starts_nothing_any_more(
    Stores { one, two, keep: _keep }: Stores,
) {
    assert!(!one.cancel_schedule(ScheduleId::new(), T0).await.unwrap());
    let waiting = add(&one, once("a", T0 + 9)).await;
    assert!(two.cancel_schedule(waiting, T0 + 1).await.unwrap());
    assert_eq!(show(&one, waiting).await.state, ScheduleState::Cancelled);
    assert_eq!(claim_at(&one, WorkerId::new(), 9, T0 + 9).await, []);

    let id = add(&one, recurring(T0)).await;
    let both = vec![start(id, T0), start(id, T0 + 1)];
    assert!(advance(&one, step(id, T0, both), T0 + 1).await);
    let worker = WorkerId::new();
    let ran = one.claim(claim_of(worker, &["a"], 1, T0 + 1)).await.unwrap().tasks;
    assert!(two.cancel_schedule(id, T0 + 2).await.unwrap());
    for due_at_ms in [T0, T0 + 1] {
        assert_eq!(state(&one, id.task_due_at(due_at_ms)).await, TaskState::Cancelled);
    }
    let shown = show(&one, id).await;
    assert_eq!((shown.state, shown.ended_at_ms), (ScheduleState::Cancelled, Some(T0 + 2)));
    assert!(!advance(&one, step(id, T0 + MINUTE_MS, vec![]), T0 + MINUTE_MS).await);
    let beats = ran.iter().map(|task| Beat { id: task.id, attempt: task.attempt, progress: 0 });
    let beaten = one.beat(worker, beats.collect(), T0 + 3).await.unwrap();
    assert_eq!(beaten.lost.len(), 1, "its worker is told");

    let done = add(&one, once("a", T0)).await;
    let claimed = claim_at(&one, WorkerId::new(), 1, T0).await;
    end(&one, &claimed[0], Outcome::Finished(result(b"1"))).await;
    assert!(two.cancel_schedule(done, T0 + 4).await.unwrap());
    assert_eq!(show(&one, done).await.state, ScheduleState::Finished);
}

pub(crate) async fn a_deleted_schedule_is_gone_and_its_tasks_are_cancelled(
    Stores { one, two, keep: _keep }: Stores,
) {
    assert!(!one.delete_schedule(ScheduleId::new(), T0).await.unwrap());
    let waiting = add(&one, once("a", T0 + 9)).await;
    let id = add(&one, recurring(T0)).await;
    assert!(advance(&one, step(id, T0, vec![start(id, T0)]), T0).await);
    for (schedule, task) in [(waiting, waiting.task()), (id, id.task_due_at(T0))] {
        assert!(two.delete_schedule(schedule, T0 + 1).await.unwrap());
        assert_eq!(one.schedule(schedule).await.unwrap(), None);
        assert_eq!(decided(&one, schedule).await, []);
        assert_eq!(state(&one, task).await, TaskState::Cancelled);
        assert!(!one.delete_schedule(schedule, T0 + 1).await.unwrap());
    }
    assert_eq!(page(&one, ScheduleFilter { schedules_max: 9, ..Default::default() }).await, []);
}

async fn prune(store: &Arc<dyn Store>, before_ms: Millis) -> u64 {
    let now_ms = T0 + 100 * DAY_MS;
    let ended_before_ms = Some(before_ms);
    let sweep = Sweep { now_ms, ended_before_ms, ..Sweep::default() };
    store.sweep(sweep).await.unwrap().pruned
}

pub(crate) async fn pruning_leaves_what_is_still_active(Stores { one, two, keep: _keep }: Stores) {
    let over = add(&one, once("a", T0)).await;
    let coming = add(&one, once("a", T0 + 200 * DAY_MS)).await;
    one.cancel_schedule(over, T0).await.unwrap();
    let active = add(&one, recurring(T0)).await;
    assert!(advance(&one, step(active, T0, vec![start(active, T0)]), T0).await);
    let new = T0 + MINUTE_MS;
    assert!(advance(&one, step(active, new, vec![missed(times(new, new, 1))]), T0 + DAY_MS).await);
    let ended = add(&one, recurring(T0)).await;
    let last = Advance { next_at_ms: None, ..step(ended, T0, vec![missed(times(T0, T0, 1))]) };
    assert!(advance(&one, last, T0 + 2).await);
    assert_eq!(prune(&two, T0).await, 0);
    // The task of `over`, what was decided of `active` and `ended`, and then `ended` itself.
    assert_eq!(prune(&two, T0 + 50).await, 4);
    for (id, is_there) in [(over, false), (coming, true), (active, true), (ended, false)] {
        assert_eq!(one.schedule(id).await.unwrap().is_some(), is_there);
    }
    let left = decided(&one, active).await;
    assert_eq!(left.iter().map(|one| one.times.due_at_ms).collect::<Vec<_>>(), [new]);
    assert_eq!(one.task(over.task()).await.unwrap(), None);
    assert_eq!(state(&one, coming.task()).await, TaskState::Pending);
}
