//! What time does, and what a retry undoes.

use std::sync::Arc;

use async_data_processor::store::{NewTask, Settled, Store, Sweep, Swept, TaskState};
use async_data_processor::task::{Beat, Outcome, TaskId, WorkerId};

use super::{
    Stores, T0, claim, claim_at, claim_of, claim_one, end, failed, get, ids, keyed, result, state,
    submit, submit_at, submit_many, task,
};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn sweep_at(now_ms: i64) -> Sweep {
    Sweep { now_ms, ..Sweep::default() }
}

fn prune_before(ended_before_ms: i64) -> Sweep {
    Sweep { ended_before_ms: Some(ended_before_ms), ..sweep_at(T0 + 10 * DAY_MS) }
}

pub(crate) async fn what_is_too_late_is_missed_and_says_so(
    Stores { one, two, keep: _keep }: Stores,
) {
    let until = |expires_at_ms| NewTask { expires_at_ms: Some(expires_at_ms), ..task("a") };
    let by_claim = submit(&one, until(T0 + 5)).await;
    let in_time = submit(&one, until(T0 + 6)).await;
    let worker = WorkerId::new();
    assert_eq!(ids(&claim_at(&two, worker, 1, T0 + 6).await), [in_time]);
    assert_eq!(state(&one, by_claim).await, TaskState::Missed);
    let by_sweep = submit(&one, until(T0 + 5)).await;
    let in_future = submit(&one, NewTask { run_at_ms: T0 + DAY_MS, ..until(T0 + DAY_MS) }).await;
    let swept = two.sweep(sweep_at(T0 + 6)).await.unwrap();
    assert_eq!(swept, Swept { missed: 1, ..Swept::default() });
    for id in [by_claim, by_sweep] {
        let shown = get(&one, id).await;
        assert_eq!((shown.state, shown.finished_at_ms), (TaskState::Missed, Some(T0 + 6)));
        assert_eq!((shown.attempt, shown.result), (0, None));
        assert!(shown.error.is_some());
    }
    // What has begun in time may take its time.
    assert_eq!(two.sweep(sweep_at(T0 + 60)).await.unwrap(), Swept::default());
    assert_eq!(state(&one, in_time).await, TaskState::Running);
    assert_eq!(state(&one, in_future).await, TaskState::Pending);
}

pub(crate) async fn an_outside_attempt_that_is_overdue_is_tried_again(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, NewTask { failures_max: 2, ..task("a") }).await;
    let last = TaskState::Failed;
    for (round, ends) in [(1, TaskState::Pending), (2, last)] {
        one.begin_outside(id, T0 + 100 * round, T0 + 100 * round + 50).await.unwrap();
        let early = two.sweep(sweep_at(T0 + 100 * round + 49)).await.unwrap();
        assert_eq!(early, Swept::default());
        let swept = two.sweep(sweep_at(T0 + 100 * round + 51)).await.unwrap();
        assert_eq!(swept, Swept { overdue: 1, ..Swept::default() });
        let shown = get(&one, id).await;
        assert_eq!((shown.state, i64::from(shown.failures)), (ends, round));
        assert!(shown.error.is_some());
    }
    assert_eq!(two.sweep(sweep_at(T0 + DAY_MS)).await.unwrap(), Swept::default());

    // In time: nothing is swept later.
    let id = submit(&one, task("a")).await;
    one.begin_outside(id, T0, T0 + 50).await.unwrap();
    one.cancel(id, T0 + 10).await.unwrap();
    assert_eq!(two.sweep(sweep_at(T0 + DAY_MS)).await.unwrap(), Swept::default());
}

pub(crate) async fn old_tasks_are_pruned_and_what_is_followed_stays(
    Stores { one, two, keep: _keep }: Stores,
) {
    let body = vec![3; 3000];
    let leader = submit(&one, keyed("k")).await;
    let claimed = claim_one(&one).await;
    assert!(one.put_part(leader, Some(1), 0, body.clone()).await.unwrap());
    end(&one, &claimed, Outcome::Finished(result(&body))).await;
    let follower = submit_at(&one, keyed("k"), T0 + DAY_MS).await;
    let old = submit(&one, NewTask { payload: vec![1; 9000], ..task("a") }).await;
    one.cancel(old, T0 + 3).await.unwrap();
    let pending = submit(&one, task("b")).await;
    assert_eq!(two.sweep(prune_before(T0)).await.unwrap().pruned, 0);
    assert_eq!(two.sweep(prune_before(T0 + 100)).await.unwrap().pruned, 1);
    assert_eq!(one.task(old).await.unwrap(), None);
    assert_eq!(get(&one, follower).await.result, Some(result(&body)));
    assert_eq!(one.part(follower, 0).await.unwrap(), Some(body));
    let mut pruned = 0;
    for _ in 0..2 {
        pruned += two.sweep(prune_before(T0 + 2 * DAY_MS)).await.unwrap().pruned;
    }
    assert_eq!(pruned, 2);
    for id in [leader, follower] {
        assert_eq!(one.task(id).await.unwrap(), None);
        assert_eq!(one.part(id, 0).await.unwrap(), None);
    }
    assert_eq!(state(&one, pending).await, TaskState::Pending);
    let counts = one.counts().await.unwrap();
    assert_eq!(counts.iter().map(|count| count.tasks).sum::<u64>(), 1);
    // The key is free again.
    let anew = submit(&one, keyed("k")).await;
    assert_eq!(claim_one(&two).await.id, anew);
}

pub(crate) async fn pruning_goes_in_bounded_pieces(Stores { one, two, keep: _keep }: Stores) {
    submit_many(&one, "a", 1100).await;
    for task in claim(&one, WorkerId::new(), 1100).await.chunks(550) {
        let settlements = task
            .iter()
            .map(|task| super::settlement(task, Outcome::Finished(result(b"1")), T0 + 1))
            .collect();
        one.settle(settlements).await.unwrap();
    }
    let mut pruned = Vec::new();
    while pruned.last() != Some(&0) {
        pruned.push(two.sweep(prune_before(T0 + 2)).await.unwrap().pruned);
    }
    assert!(pruned.iter().all(|pruned| *pruned <= 1000), "{pruned:?}");
    assert_eq!(pruned.iter().sum::<u64>(), 1100);
}

pub(crate) async fn a_clock_that_went_back_delays_nothing(
    Stores { one, two, keep: _keep }: Stores,
) {
    let ahead = T0 + DAY_MS;
    let at_once = submit_at(&one, NewTask { run_at_ms: ahead, ..task("a") }, ahead).await;
    let failing = submit_at(&one, NewTask { run_at_ms: T0, ..task("b") }, T0).await;
    let planned = NewTask { run_at_ms: ahead + 5, ..task("a") };
    let planned = submit_at(&one, planned, ahead).await;
    // Its time had come by the wrong clock, and nobody had claimed it yet.
    let was_due = NewTask { run_at_ms: ahead - 5, ..task("a") };
    let was_due = submit_at(&one, was_due, T0).await;
    one.sweep(sweep_at(ahead)).await.unwrap();
    let claimed = one.claim(claim_of(WorkerId::new(), &["b"], 1, ahead)).await.unwrap().tasks;
    let failed = super::settlement(&claimed[0], failed("no", false), ahead);
    super::settle(&one, failed).await;
    let worker = WorkerId::new();
    let claim = || one.claim(claim_of(worker, &["a", "b"], 9, T0 + 1));
    two.sweep(sweep_at(T0 + 1)).await.unwrap();
    assert_eq!(claim().await.unwrap().tasks, []);
    two.sweep(Sweep { clock_went_back: true, ..sweep_at(T0 + 1) }).await.unwrap();
    let mut due = ids(&claim().await.unwrap().tasks);
    due.sort_unstable();
    assert_eq!(due, [at_once, failing]);
    for (id, run_at_ms) in [(planned, ahead + 5), (was_due, ahead - 5)] {
        let waits = get(&one, id).await;
        assert_eq!((waits.state, waits.run_at_ms), (TaskState::Pending, run_at_ms), "none early");
    }
}

pub(crate) async fn what_a_wrong_clock_has_missed_waits_again(
    Stores { one, two, keep: _keep }: Stores,
) {
    let of =
        |kind, at_ms| NewTask { run_at_ms: at_ms, expires_at_ms: Some(at_ms + 60), ..task(kind) };
    let (over, coming, open) = (T0 + 100, T0 + 9000, T0 + 1000);
    let over = submit(&one, of("a", over)).await;
    let by_sweep = submit(&one, of("b", coming)).await;
    let by_claim = submit(&one, of("a", open)).await;
    let right = submit(&one, NewTask { expires_at_ms: Some(T0), ..task("a") }).await;
    two.sweep(sweep_at(T0 + 1)).await.unwrap();
    assert_eq!(claim_at(&two, WorkerId::new(), 9, T0 + DAY_MS).await, []);
    two.sweep(sweep_at(T0 + DAY_MS)).await.unwrap();
    for id in [over, by_sweep, by_claim, right] {
        assert_eq!(state(&one, id).await, TaskState::Missed);
    }
    let now_ms = open + 30;
    one.sweep(Sweep { clock_went_back: true, ..sweep_at(now_ms) }).await.unwrap();
    assert_eq!(state(&one, over).await, TaskState::Missed);
    assert_eq!(state(&one, right).await, TaskState::Missed);
    let waits = get(&one, by_sweep).await;
    assert_eq!((waits.state, waits.finished_at_ms, waits.error), (TaskState::Pending, None, None));
    assert_eq!(waits.run_at_ms, coming);
    let worker = WorkerId::new();
    assert_eq!(ids(&claim_at(&one, worker, 9, now_ms).await), [by_claim]);
    let claim = one.claim(claim_of(worker, &["b"], 9, coming)).await.unwrap();
    assert_eq!(ids(&claim.tasks), [by_sweep]);
}

/// What becomes of an attempt that began in time.
async fn begun_in_time(one: &Arc<dyn Store>, outcome: Outcome) {
    let id = submit(one, NewTask { expires_at_ms: Some(T0 + 5), ..task("a") }).await;
    let claimed = claim_at(one, WorkerId::new(), 1, T0).await;
    end(one, &claimed[0], outcome).await;
    one.sweep(sweep_at(T0 + 6)).await.unwrap();
    assert_eq!(state(one, id).await, TaskState::Pending);
    let again = claim_at(one, WorkerId::new(), 1, T0 + 5000).await;
    assert_eq!((again[0].id, again[0].attempt), (id, 2));
    end(one, &again[0], Outcome::Finished(result(b"1"))).await;
}

pub(crate) async fn what_has_begun_in_time_is_tried_again_however_late(
    Stores { one, two, keep: _keep }: Stores,
) {
    begun_in_time(&one, failed("no", false)).await;
    begun_in_time(&one, Outcome::Released).await;
    // Of a worker that dies, at a broker and not.
    let id = submit(&one, NewTask { expires_at_ms: Some(T0 + 5), ..task("a") }).await;
    let worker = WorkerId::new();
    assert_eq!(claim_at(&one, worker, 1, T0).await.len(), 1);
    let signed = one.workers().await.unwrap();
    let dead = signed.into_iter().find(|beat| beat.worker == worker).unwrap();
    assert_eq!(one.bury(dead, T0 + 1).await.unwrap(), 1);
    two.sweep(sweep_at(T0 + 6)).await.unwrap();
    for attempt in [2, 3] {
        let taken = one.take_due(WorkerId::new(), 9, T0 + 5000).await.unwrap().tasks;
        assert_eq!((taken[0].id, taken[0].attempt, taken.len()), (id, attempt, 1));
        assert!(taken[0].started_at_ms.is_some());
        one.dispatched(vec![(id, attempt)]).await.unwrap();
        let heard = Sweep { is_all_heard: true, ..sweep_at(T0 + DAY_MS) };
        assert_eq!(two.sweep(heard).await.unwrap(), Swept::default());
        end(&one, &taken[0], failed("no", false)).await;
    }
}

pub(crate) async fn what_nobody_takes_from_the_queue_in_time_is_missed(
    Stores { one, two, keep: _keep }: Stores,
) {
    let until = || NewTask { expires_at_ms: Some(T0 + 5), ..task("a") };
    let (waits, begun, died) =
        (submit(&one, until()).await, submit(&one, until()).await, submit(&one, until()).await);
    let on_its_way = submit(&one, until()).await;
    let patient = submit(&one, task("a")).await;
    assert_eq!(one.take_due(WorkerId::new(), 9, T0).await.unwrap().tasks.len(), 5);
    one.dispatched([waits, begun, died, patient].map(|id| (id, 1)).to_vec()).await.unwrap();
    let worker = WorkerId::new();
    let beat = Beat { id: begun, attempt: 1, progress: 0 };
    assert_eq!(one.beat(worker, vec![beat], T0 + 6).await.unwrap().lost, []);
    let task = get(&one, died).await;
    let outcome = Outcome::Died { reason: "killed".to_owned() };
    super::settle(&one, super::settlement(&task, outcome, T0 + 4)).await;
    let later = sweep_at(T0 + 60_000);
    assert_eq!(two.sweep(later).await.unwrap(), Swept::default(), "it may have begun");
    let heard = Sweep { is_all_heard: true, ..later };
    let soon = Sweep { now_ms: T0 + 7, ..heard };
    assert_eq!(two.sweep(soon).await.unwrap(), Swept::default(), "not all was heard yet");
    assert_eq!(two.sweep(heard).await.unwrap(), Swept { missed: 1, ..Swept::default() });
    let missed = get(&one, waits).await;
    assert_eq!((missed.state, missed.finished_at_ms), (TaskState::Missed, Some(T0 + 60_000)));
    assert!(missed.error.unwrap().contains("its time was over"));
    let expected = [
        (begun, TaskState::Running),
        (died, TaskState::Pending),
        (on_its_way, TaskState::Queued),
        (patient, TaskState::Queued),
    ];
    for (id, expected) in expected {
        assert_eq!(state(&one, id).await, expected);
    }
    // Whoever takes it at last is not asked any more.
    let late = super::settlement(&get(&one, waits).await, Outcome::Finished(result(b"1")), T0);
    assert_eq!(super::settle(&one, late).await, Settled::Late);
}

pub(crate) async fn a_retry_makes_an_unlucky_task_due_and_no_other(
    Stores { one, two, keep: _keep }: Stores,
) {
    assert_eq!(one.retry(TaskId::new(), T0).await.unwrap(), None);
    let id = submit(&one, NewTask { failures_max: 1, ..task("a") }).await;
    end(&one, &claim_one(&one).await, failed("no", false)).await;
    assert_eq!(two.retry(id, T0 + 50).await.unwrap(), Some(TaskState::Failed));
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.failures, shown.error), (TaskState::Pending, 0, None));
    assert_eq!((shown.finished_at_ms, shown.attempt), (None, 1));
    let again = claim_at(&one, WorkerId::new(), 1, T0 + 50).await;
    assert_eq!((again[0].id, again[0].attempt), (id, 2));
    assert_eq!(two.retry(id, T0 + 60).await.unwrap(), Some(TaskState::Running));
    assert_eq!(get(&one, id).await, again[0]);
    end(&one, &again[0], Outcome::Finished(result(b"1"))).await;
    let ended = get(&one, id).await;
    assert_eq!(two.retry(id, T0 + 70).await.unwrap(), Some(TaskState::Finished));
    assert_eq!(get(&one, id).await, ended);

    let far = submit(&one, NewTask { run_at_ms: T0 + DAY_MS, ..task("a") }).await;
    assert_eq!(two.retry(far, T0).await.unwrap(), Some(TaskState::Pending));
    assert_eq!(claim(&one, WorkerId::new(), 1).await, []);
    one.cancel(far, T0).await.unwrap();
    assert_eq!(two.retry(far, T0 + 1).await.unwrap(), Some(TaskState::Cancelled));
    assert_eq!(claim_one(&one).await.id, far);
}

pub(crate) async fn a_retry_of_a_missed_task_can_begin(Stores { one, two, keep: _keep }: Stores) {
    let id = submit(&one, NewTask { expires_at_ms: Some(T0 + 5), ..task("a") }).await;
    two.sweep(sweep_at(T0 + 10)).await.unwrap();
    assert_eq!(two.retry(id, T0 + 20).await.unwrap(), Some(TaskState::Missed));
    two.sweep(sweep_at(T0 + 21)).await.unwrap();
    assert_eq!(ids(&claim_at(&one, WorkerId::new(), 1, T0 + 22).await), [id]);
}
