//! Results come back.

use std::sync::Arc;

use async_data_processor::store::{NewTask, Settled, Settlement, Store, Task, TaskState};
use async_data_processor::task::{Outcome, PART_BYTES, ResultHead, TaskId, WorkerId};

use super::{
    Stores, T0, claim, claim_at, claim_one, end, failed, get, name, result, settle, settlement,
    state, submit, task,
};

pub(crate) async fn a_result_is_kept_and_settled_once(Stores { one, two, keep: _keep }: Stores) {
    for body in [&b""[..], b"120", &[b'9'; 1024]] {
        let id = submit(&one, task("a")).await;
        let claimed = claim_one(&one).await;
        let outcome = Outcome::Finished(result(body));
        let once = settlement(&claimed, outcome, T0 + 5);
        let settled = one.settle(vec![once.clone(), once.clone()]).await.unwrap();
        assert_eq!(settled, [Settled::Applied, Settled::Late]);
        let shown = get(&two, id).await;
        assert_eq!((shown.state, shown.result), (TaskState::Finished, Some(result(body))));
        assert_eq!((shown.finished_at_ms, shown.error), (Some(T0 + 5), None));
        assert_eq!((shown.owner, shown.failures), (None, 0));
        let other = Settlement { outcome: failed("late", true), ..once };
        assert_eq!(settle(&two, other).await, Settled::Late);
        assert_eq!(get(&two, id).await.result, Some(result(body)));
    }
}

pub(crate) async fn a_late_result_changes_nothing(Stores { one, two, keep: _keep }: Stores) {
    submit(&one, task("a")).await;
    let first = claim_one(&one).await;
    end(&one, &first, Outcome::Released).await;
    let pending = get(&one, first.id).await;
    for outcome in [Outcome::Finished(result(b"1")), failed("no", true), Outcome::Released] {
        let late = settlement(&first, outcome, T0 + 5);
        assert_eq!(settle(&two, late).await, Settled::Late);
    }
    assert_eq!(get(&one, first.id).await, pending);
    let second = claim_one(&two).await;
    let early = Settlement {
        attempt: Some(second.attempt + 1),
        ..settlement(&second, Outcome::Finished(result(b"1")), T0)
    };
    let late = settlement(&first, Outcome::Finished(result(b"1")), T0 + 5);
    for wrong in [early, late] {
        assert_eq!(settle(&two, wrong).await, Settled::Late);
    }
    assert_eq!(get(&one, first.id).await, second);
    let nobody = Settlement { id: TaskId::new(), ..settlement(&second, Outcome::Released, T0) };
    assert_eq!(settle(&one, nobody).await, Settled::Unknown);
}

pub(crate) async fn a_failure_is_tried_again_after_a_pause_until_it_is_the_last(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, NewTask { failures_max: 3, ..task("a") }).await;
    let mut now_ms = T0;
    for (failures, pause_ms) in [(1, 1000), (2, 2000)] {
        let claimed = claim_at(&one, WorkerId::new(), 1, now_ms).await;
        let reason = format!("failure {failures}");
        let failed = settlement(&claimed[0], failed(&reason, false), now_ms);
        assert_eq!(settle(&one, failed).await, Settled::Applied);
        let shown = get(&two, id).await;
        assert_eq!((shown.state, shown.failures), (TaskState::Pending, failures));
        assert_eq!((shown.error, shown.owner), (Some(reason), None));
        assert_eq!((shown.run_at_ms, shown.finished_at_ms), (now_ms + pause_ms, None));
        assert_eq!(claim_at(&two, WorkerId::new(), 1, now_ms + pause_ms - 1).await, []);
        now_ms += pause_ms;
    }
    let claimed = claim_at(&two, WorkerId::new(), 1, now_ms).await;
    assert_eq!(claimed[0].attempt, 3);
    let last = settlement(&claimed[0], failed("the last", false), now_ms + 1);
    assert_eq!(settle(&two, last).await, Settled::Applied);
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.failures), (TaskState::Failed, 3));
    assert_eq!(shown.error.as_deref(), Some("the last"));
    assert_eq!(shown.finished_at_ms, Some(now_ms + 1));
    assert_eq!(claim_at(&one, WorkerId::new(), 1, now_ms + 900_000).await, []);
}

pub(crate) async fn a_final_failure_is_not_tried_again(Stores { one, two, keep: _keep }: Stores) {
    let id = submit(&one, task("a")).await;
    end(&one, &claim_one(&one).await, failed("no number", true)).await;
    let shown = get(&two, id).await;
    assert_eq!((shown.state, shown.failures), (TaskState::Failed, 1));
    assert_eq!(claim_at(&one, WorkerId::new(), 1, T0 + 900_000).await, []);
}

pub(crate) async fn a_task_given_back_has_not_failed(Stores { one, two, keep: _keep }: Stores) {
    let id = submit(&one, NewTask { failures_max: 1, ..task("a") }).await;
    for attempt in 1..4 {
        let claimed = claim_one(&two).await;
        assert_eq!((claimed.id, claimed.attempt), (id, attempt));
        end(&one, &claimed, Outcome::Released).await;
        let shown = get(&one, id).await;
        assert_eq!((shown.state, shown.failures), (TaskState::Pending, 0));
        assert_eq!((shown.run_at_ms, shown.owner, shown.error), (T0, None, None));
    }
}

pub(crate) async fn a_missed_task_says_why(Stores { one, two, keep: _keep }: Stores) {
    let id = submit(&one, task("a")).await;
    let reason = "began at noon".to_owned();
    end(&one, &claim_one(&one).await, Outcome::Missed { reason }).await;
    let shown = get(&two, id).await;
    assert_eq!((shown.state, shown.finished_at_ms), (TaskState::Missed, Some(T0 + 2)));
    assert_eq!(shown.error.as_deref(), Some("began at noon"));
}

/// A body of two parts and some bytes.
fn long_body() -> Vec<u8> {
    (0..2 * PART_BYTES + 5).map(|at| u8::try_from(at % 253).unwrap()).collect()
}

async fn put_parts(store: &Arc<dyn Store>, task: &Task, body: &[u8]) {
    for (index, part) in (0..).zip(body.chunks(PART_BYTES)) {
        assert!(store.put_part(task.id, Some(task.attempt), index, part.to_vec()).await.unwrap());
    }
}

pub(crate) async fn a_long_result_needs_all_its_parts(Stores { one, two, keep: _keep }: Stores) {
    let id = submit(&one, task("a")).await;
    let claimed = claim_one(&one).await;
    let body = long_body();
    let finished = settlement(&claimed, Outcome::Finished(result(&body)), T0 + 5);
    assert_eq!(settle(&one, finished.clone()).await, Settled::PartsMissing);
    let last = || body[2 * PART_BYTES..].to_vec();
    assert!(one.put_part(id, Some(1), 2, last()).await.unwrap());
    assert!(one.put_part(id, Some(1), 0, body[..PART_BYTES].to_vec()).await.unwrap());
    assert_eq!(settle(&two, finished.clone()).await, Settled::PartsMissing);
    assert_eq!(get(&two, id).await, claimed);
    assert_eq!(one.part(id, 0).await.unwrap(), None);
    let middle = body[PART_BYTES..2 * PART_BYTES].to_vec();
    assert!(two.put_part(id, Some(1), 1, b"cut".to_vec()).await.unwrap());
    assert_eq!(settle(&two, finished.clone()).await, Settled::PartsMissing);
    for _ in 0..2 {
        assert!(two.put_part(id, Some(1), 1, middle.clone()).await.unwrap());
    }
    // Left over from a longer one.
    assert!(two.put_part(id, Some(1), 3, b"more".to_vec()).await.unwrap());
    assert_eq!(settle(&two, finished).await, Settled::Applied);
    assert_eq!(get(&one, id).await.result, Some(result(&body)));
    assert!(!one.put_part(id, Some(1), 1, b"late".to_vec()).await.unwrap());
    let mut whole = Vec::new();
    for index in 0.. {
        let Some(part) = one.part(id, index).await.unwrap() else { break };
        whole.extend(part);
    }
    assert!(whole == body);
    assert_eq!(one.part(TaskId::new(), 0).await.unwrap(), None);
}

pub(crate) async fn parts_of_another_attempt_are_not_taken(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, task("a")).await;
    let first = claim_one(&one).await;
    let stale = long_body();
    put_parts(&one, &first, &stale).await;
    end(&one, &first, Outcome::Released).await;
    assert!(!two.put_part(id, Some(1), 0, b"late".to_vec()).await.unwrap());
    let second = claim_one(&two).await;
    assert!(!two.put_part(id, Some(1), 0, b"late".to_vec()).await.unwrap());
    assert!(!two.put_part(id, Some(3), 0, b"early".to_vec()).await.unwrap());
    assert!(!two.put_part(TaskId::new(), None, 0, b"nobody".to_vec()).await.unwrap());
    let finished = settlement(&second, Outcome::Finished(result(&stale)), T0 + 5);
    assert_eq!(settle(&one, finished.clone()).await, Settled::PartsMissing);
    let body: Vec<u8> = stale.iter().map(|byte| byte.wrapping_add(1)).collect();
    put_parts(&two, &second, &body).await;
    let finished = Settlement { outcome: Outcome::Finished(result(&body)), ..finished };
    assert_eq!(settle(&one, finished).await, Settled::Applied);
    assert!(two.part(id, 2).await.unwrap().unwrap() == body[2 * PART_BYTES..]);

    // What a failed attempt has left is not mixed with a short result.
    let id = submit(&one, task("a")).await;
    let claimed = claim_one(&one).await;
    put_parts(&one, &claimed, &body).await;
    end(&one, &claimed, Outcome::Finished(result(b"short"))).await;
    assert_eq!(get(&one, id).await.result, Some(result(b"short")));
}

pub(crate) async fn an_endpoint_settles_its_own_tasks_only(
    Stores { one, two, keep: _keep }: Stores,
) {
    let shared = submit(&one, task("a")).await;
    let lab = submit(&one, NewTask { endpoint: Some(name("lab")), ..task("a") }).await;
    let taken = one.take_due(WorkerId::new(), 9, T0).await.unwrap().tasks;
    for task in &taken {
        let right = task.endpoint.clone();
        let finished = settlement(task, Outcome::Finished(result(b"1")), T0);
        let other = Settlement { endpoint: Some(name("other")), ..finished.clone() };
        assert_eq!(settle(&two, other).await, Settled::Unknown);
        assert_eq!(state(&two, task.id).await, TaskState::Queued);
        let own = Settlement { endpoint: right, ..finished };
        assert_eq!(settle(&two, own).await, Settled::Applied);
    }
    for id in [shared, lab] {
        assert_eq!(state(&one, id).await, TaskState::Finished);
    }
}

pub(crate) async fn an_outside_worker_settles_whatever_is_current(
    Stores { one, two, keep: _keep }: Stores,
) {
    let outside = |id, outcome| Settlement {
        id,
        attempt: None,
        endpoint: None,
        outcome,
        began_at_ms: None,
        at_ms: T0 + 9,
    };
    let pending = submit(&one, task("b")).await;
    let running = submit(&one, task("a")).await;
    let claimed = claim_one(&one).await;
    for id in [pending, running] {
        let finished = outside(id, Outcome::Finished(result(b"1")));
        assert_eq!(settle(&two, finished).await, Settled::Applied);
        assert_eq!(get(&one, id).await.result, Some(result(b"1")));
        let again = outside(id, Outcome::Finished(ResultHead { bytes: 1, head: vec![2] }));
        assert_eq!(settle(&two, again).await, Settled::Late);
    }
    let own = settlement(&claimed, Outcome::Finished(result(b"3")), T0 + 10);
    assert_eq!(settle(&one, own).await, Settled::Late);
    assert_eq!(get(&one, running).await.result, Some(result(b"1")));
}

pub(crate) async fn an_outside_worker_begins_a_task(Stores { one, two, keep: _keep }: Stores) {
    assert_eq!(one.begin_outside(TaskId::new(), T0, T0 + 9).await.unwrap(), None);
    let id = submit(&one, task("a")).await;
    let begun = two.begin_outside(id, T0 + 1, T0 + 9).await.unwrap().unwrap();
    assert_eq!((begun.state, begun.owner), (TaskState::Running, None));
    assert_eq!((begun.attempt, begun.started_at_ms), (1, Some(T0 + 1)));
    assert_eq!(get(&one, id).await, begun);
    assert_eq!(claim(&one, WorkerId::new(), 9).await, []);
    // Two that bring it at once are two attempts: their parts are not mixed.
    assert!(one.put_part(id, Some(1), 0, vec![b'1'; PART_BYTES]).await.unwrap());
    let again = one.begin_outside(id, T0 + 2, T0 + 99).await.unwrap().unwrap();
    assert_eq!((again.state, again.attempt), (TaskState::Running, 2));
    assert!(!one.put_part(id, Some(1), 1, b"1".to_vec()).await.unwrap());
    assert!(one.put_part(id, Some(2), 1, b"2".to_vec()).await.unwrap());
    let mixed = Outcome::Finished(ResultHead { bytes: PART_BYTES as u64 + 1, head: vec![b'1'] });
    assert_eq!(settle(&one, settlement(&again, mixed, T0)).await, Settled::PartsMissing);
    let outcome = Outcome::Finished(result(b"1"));
    let finished =
        Settlement { id, attempt: None, endpoint: None, outcome, began_at_ms: None, at_ms: T0 + 5 };
    assert_eq!(settle(&one, finished).await, Settled::Applied);
    let ended = get(&one, id).await;
    assert_eq!(two.begin_outside(id, T0 + 6, T0 + 9).await.unwrap(), Some(ended.clone()));
    assert_eq!(get(&one, id).await, ended);

    // What a worker of ours runs stays its own.
    submit(&one, task("a")).await;
    let claimed = claim_one(&one).await;
    assert_eq!(two.begin_outside(claimed.id, T0, T0 + 9).await.unwrap(), Some(claimed.clone()));
    end(&one, &claimed, Outcome::Finished(result(b"1"))).await;
}
