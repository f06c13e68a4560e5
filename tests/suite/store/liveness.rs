//! Who is heard of, and what becomes of the tasks of those who are not.

use std::sync::Arc;
use std::time::Duration;

use async_data_processor::store::{
    ATTEMPTS_PER_FAILURE, Beaten, NewTask, Settled, Settlement, Store, TaskState, WorkerBeat,
};
use async_data_processor::task::{Beat, Outcome, TaskId, WorkerId};
use tokio::sync::watch;

use super::schedules::{self, recurring};
use super::{
    Stores, T0, claim, claim_at, claim_one, end, failed, get, ids, result, settle, settlement,
    state, submit, submit_many, task,
};

async fn beat_of(store: &Arc<dyn Store>, worker: WorkerId) -> Option<WorkerBeat> {
    store.workers().await.unwrap().into_iter().find(|beat| beat.worker == worker)
}

/// Declares a worker dead; how many tasks it had.
async fn bury(store: &Arc<dyn Store>, worker: WorkerId) -> u64 {
    let dead = beat_of(store, worker).await.unwrap();
    store.bury(dead, T0 + 100).await.unwrap()
}

fn beat(id: TaskId, attempt: u32, progress: u16) -> Vec<Beat> {
    vec![Beat { id, attempt, progress }]
}

pub(crate) async fn tasks_of_a_buried_worker_run_again_and_its_results_are_late(
    Stores { one, two, keep: _keep }: Stores,
) {
    let all = submit_many(&one, "a", 3).await;
    let (dead, alive) = (WorkerId::new(), WorkerId::new());
    let lost = claim(&one, dead, 2).await;
    let kept = claim(&two, alive, 2).await;
    one.beat(dead, beat(all[0], 1, 500), T0).await.unwrap();
    two.beat(alive, Vec::new(), T0).await.unwrap();
    assert_eq!(bury(&two, dead).await, 2);
    for id in &all[..2] {
        let shown = get(&one, *id).await;
        assert_eq!((shown.state, shown.failures), (TaskState::Pending, 0));
        assert_eq!(shown.owner, None);
        assert!(shown.error.is_some());
    }
    assert_eq!(get(&one, all[2]).await, kept[0]);
    assert_eq!(beat_of(&one, dead).await, None);
    let beaten = one.beat(dead, beat(all[0], 1, 600), T0).await.unwrap();
    assert!(beaten.is_buried);
    let late = settlement(&lost[0], Outcome::Finished(result(b"1")), T0);
    assert_eq!(settle(&one, late.clone()).await, Settled::Late);
    let again = claim_at(&two, alive, 9, T0 + 100_000).await;
    assert_eq!(ids(&again), all[..2]);
    assert_eq!((again[0].attempt, again[0].progress), (2, 0));
    assert_eq!(settle(&one, late).await, Settled::Late);
    assert_eq!(state(&one, all[0]).await, TaskState::Running);
}

pub(crate) async fn a_worker_that_has_signed_since_is_not_buried(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, task("a")).await;
    let worker = WorkerId::new();
    claim(&one, worker, 1).await;
    one.beat(worker, beat(id, 1, 0), T0).await.unwrap();
    let before = beat_of(&two, worker).await.unwrap();
    one.beat(worker, beat(id, 1, 0), T0).await.unwrap();
    let after = beat_of(&two, worker).await.unwrap();
    assert!(after.beats > before.beats);
    assert_eq!(two.bury(before, T0).await.unwrap(), 0);
    assert_eq!(state(&two, id).await, TaskState::Running);
    assert_eq!(one.beat(worker, beat(id, 1, 0), T0).await.unwrap(), Beaten::default());
    let nobody = WorkerBeat { worker: WorkerId::new(), beats: 0 };
    assert_eq!(two.bury(nobody, T0).await.unwrap(), 0);
}

pub(crate) async fn a_task_that_kills_its_workers_fails_in_the_end(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, NewTask { failures_max: 3, ..task("a") }).await;
    let beside = submit(&one, NewTask { failures_max: 1, ..task("a") }).await;
    let died = || Outcome::Died { reason: "it died".to_owned() };
    // Both were in hand, one of them ran.
    let worker = WorkerId::new();
    let claimed = claim(&one, worker, 2).await;
    bury(&two, worker).await;
    let other = WorkerId::new();
    let again = claim(&one, other, 2).await;
    // Told when another attempt runs already: that one goes on, unless it is the last failure.
    assert_eq!(settle(&two, settlement(&claimed[0], died(), T0 + 2)).await, Settled::Applied);
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.failures, shown.attempt), (TaskState::Running, 1, 2));
    assert_eq!(settle(&two, settlement(&again[0], died(), T0 + 2)).await, Settled::Applied);
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.failures), (TaskState::Pending, 2));
    assert_eq!(shown.run_at_ms, T0 + 2 + 2000, "after a pause");
    let third = claim_at(&one, WorkerId::new(), 1, T0 + 10_000).await;
    assert_eq!(settle(&two, settlement(&again[0], died(), T0 + 3)).await, Settled::Applied);
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.failures, shown.attempt), (TaskState::Failed, 3, 3));
    assert_eq!((shown.finished_at_ms, shown.error.as_deref()), (Some(T0 + 3), Some("it died")));
    let late = settlement(&third[0], Outcome::Finished(result(b"1")), T0 + 4);
    assert_eq!(settle(&one, late).await, Settled::Late);
    assert_eq!(settle(&one, settlement(&third[0], died(), T0 + 4)).await, Settled::Late);
    let early = settlement(&again[1], died(), T0);
    let early = Settlement { attempt: Some(9), ..early };
    assert_eq!(settle(&one, early).await, Settled::Late);
    assert_eq!(get(&one, beside).await, again[1], "it has nothing to do with it");
}

pub(crate) async fn a_task_whose_workers_are_never_heard_of_again_is_given_up(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, NewTask { failures_max: 1, ..task("a") }).await;
    for attempt in 1..=ATTEMPTS_PER_FAILURE {
        assert_eq!(get(&one, id).await.state, TaskState::Pending);
        let worker = WorkerId::new();
        assert_eq!(claim(&one, worker, 1).await[0].attempt, attempt);
        assert_eq!(bury(&two, worker).await, 1);
    }
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.finished_at_ms), (TaskState::Failed, Some(T0 + 100)));
    assert!(shown.error.unwrap().contains("not heard of"));
}

pub(crate) async fn a_buried_worker_gets_nothing(Stores { one, two, keep: _keep }: Stores) {
    let worker = WorkerId::new();
    one.beat(worker, Vec::new(), T0).await.unwrap();
    assert_eq!(bury(&two, worker).await, 0);
    let id = submit(&one, task("a")).await;
    assert_eq!(claim(&one, worker, 9).await, []);
    assert_eq!(one.take_due(worker, 9, T0).await.unwrap().tasks, []);
    assert_eq!(beat_of(&one, worker).await, None);
    assert_eq!(claim_one(&two).await.id, id);
}

pub(crate) async fn a_worker_that_only_claimed_can_be_buried(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, task("a")).await;
    let worker = WorkerId::new();
    claim(&one, worker, 1).await;
    assert_eq!(bury(&two, worker).await, 1);
    assert_eq!(state(&two, id).await, TaskState::Pending);
}

pub(crate) async fn a_buried_dispatcher_gives_its_tasks_back(
    Stores { one, two, keep: _keep }: Stores,
) {
    let confirmed = submit(&one, task("a")).await;
    let dispatcher = WorkerId::new();
    one.take_due(dispatcher, 9, T0).await.unwrap();
    one.dispatched(vec![(confirmed, 1)]).await.unwrap();
    let held = submit(&one, task("a")).await;
    one.take_due(dispatcher, 9, T0).await.unwrap();
    one.dispatched(vec![(held, 9)]).await.unwrap();
    assert_eq!(bury(&two, dispatcher).await, 1);
    assert_eq!(state(&one, held).await, TaskState::Pending);
    assert_eq!(state(&one, confirmed).await, TaskState::Queued);
    let again = one.take_due(WorkerId::new(), 9, T0 + 100_000).await.unwrap().tasks;
    assert_eq!((again[0].id, again[0].attempt), (held, 2));
}

pub(crate) async fn a_beat_tells_what_is_lost_and_keeps_progress(
    Stores { one, two, keep: _keep }: Stores,
) {
    let all = submit_many(&one, "a", 4).await;
    let (worker, other) = (WorkerId::new(), WorkerId::new());
    let mine = claim(&one, worker, 3).await;
    let others = claim(&one, other, 1).await;
    two.cancel(all[0], T0).await.unwrap();
    end(&two, &mine[1], failed("once more", false)).await;
    let named = [all[0], all[1], all[2], others[0].id];
    let mut named: Vec<Beat> =
        named.iter().map(|id| Beat { id: *id, attempt: 1, progress: 300 }).collect();
    named.push(Beat { id: TaskId::new(), attempt: 1, progress: 0 });
    let beaten = one.beat(worker, named.clone(), T0).await.unwrap();
    let lost: Vec<TaskId> = beaten.lost.iter().map(|(id, _)| *id).collect();
    assert_eq!(lost, [named[0].id, named[1].id, named[3].id, named[4].id]);
    assert!(!beaten.is_buried);
    assert_eq!(get(&two, all[2]).await.progress, 300);
    assert_eq!(get(&two, others[0].id).await.progress, 0);
}

pub(crate) async fn a_retired_worker_is_no_longer_looked_at(
    Stores { one, two, keep: _keep }: Stores,
) {
    let worker = WorkerId::new();
    submit(&one, task("a")).await;
    let claimed = claim(&one, worker, 1).await;
    end(&one, &claimed[0], Outcome::Finished(result(b"1"))).await;
    assert!(beat_of(&two, worker).await.is_some());
    one.retire(worker).await.unwrap();
    assert_eq!(beat_of(&two, worker).await, None);
    one.retire(worker).await.unwrap();
}

pub(crate) async fn a_cancelled_task_is_lost_to_its_worker(
    Stores { one, two, keep: _keep }: Stores,
) {
    assert_eq!(one.cancel(TaskId::new(), T0).await.unwrap(), None);
    let all = submit_many(&one, "a", 2).await;
    let worker = WorkerId::new();
    let running = claim(&one, worker, 1).await;
    assert_eq!(two.cancel(all[0], T0 + 5).await.unwrap(), Some(TaskState::Running));
    assert_eq!(two.cancel(all[1], T0 + 5).await.unwrap(), Some(TaskState::Pending));
    for id in &all {
        let shown = get(&one, *id).await;
        assert_eq!((shown.state, shown.finished_at_ms), (TaskState::Cancelled, Some(T0 + 5)));
        assert_eq!(shown.owner, None);
        assert_eq!(one.cancel(*id, T0 + 9).await.unwrap(), Some(TaskState::Cancelled));
        assert_eq!(get(&one, *id).await, shown);
    }
    assert_eq!(claim(&one, worker, 9).await, []);
    let beaten = one.beat(worker, beat(all[0], 1, 0), T0).await.unwrap();
    assert_eq!(beaten.lost, [(all[0], 1)]);
    let late = settlement(&running[0], Outcome::Finished(result(b"1")), T0 + 6);
    assert_eq!(settle(&two, late).await, Settled::Late);
    let queued = submit(&one, task("a")).await;
    one.take_due(worker, 9, T0).await.unwrap();
    assert_eq!(two.cancel(queued, T0).await.unwrap(), Some(TaskState::Queued));
    let finished = submit(&one, task("a")).await;
    end(&one, &claim_one(&one).await, Outcome::Finished(result(b"1"))).await;
    assert_eq!(two.cancel(finished, T0).await.unwrap(), Some(TaskState::Finished));
    assert_eq!(state(&one, finished).await, TaskState::Finished);
}

/// Waits for a ring; one may be lost, so `ring` is done again if none comes.
async fn heard(bell: &mut watch::Receiver<u64>, ring: impl AsyncFn()) {
    for _ in 0..20 {
        bell.mark_unchanged();
        ring().await;
        if tokio::time::timeout(Duration::from_secs(5), bell.changed()).await.is_ok() {
            return;
        }
    }
    panic!("no bell rang");
}

pub(crate) async fn bells_ring_in_the_other_handle(Stores { one, two, keep: _keep }: Stores) {
    let (mut own, mut other) = (one.bells(), two.bells());
    let add = async || _ = submit(&one, task("a")).await;
    heard(&mut other.work, add).await;
    heard(&mut own.work, add).await;
    heard(&mut other.work, async || end(&one, &claim_one(&one).await, Outcome::Released).await)
        .await;
    let cancel = async || {
        let id = submit(&one, task("a")).await;
        one.cancel(id, T0).await.unwrap();
    };
    heard(&mut other.news, cancel).await;
    heard(&mut own.news, cancel).await;
    let failing = submit(&one, task("b")).await;
    heard(&mut other.work, async || {
        one.cancel(failing, T0).await.unwrap();
        one.retry(failing, T0).await.unwrap();
    })
    .await;
    let watch = async || _ = submit(&one, NewTask { is_watched: true, ..task("a") }).await;
    heard(&mut other.news, watch).await;
    let die = async || {
        submit(&one, task("a")).await;
        let worker = WorkerId::new();
        claim(&one, worker, 1).await;
        bury(&one, worker).await;
    };
    heard(&mut other.work, die).await;
    heard(&mut other.news, die).await;
    let plan = async || _ = schedules::add(&one, recurring(T0)).await;
    heard(&mut other.plans, plan).await;
    heard(&mut own.plans, plan).await;
    let known = schedules::add(&one, recurring(T0)).await;
    heard(&mut other.plans, async || _ = one.cancel_schedule(known, T0).await.unwrap()).await;
}
