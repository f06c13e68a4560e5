//! Tasks are given out.

use std::collections::HashSet;
use std::sync::Arc;

use async_data_processor::store::{Claim, NewTask, Settled, Store, TaskState};
use async_data_processor::task::{Beat, Outcome, TaskId, WorkerId};

use super::{
    Stores, T0, claim, claim_at, claim_of, claim_one, end, failed, get, ids, name, result, settle,
    settlement, state, submit, submit_many, task,
};

pub(crate) async fn tasks_come_in_due_order_and_not_before_their_time(
    Stores { one, two, keep: _keep }: Stores,
) {
    let mut due = Vec::new();
    for after_ms in [5, 3, 4, 1, 3] {
        let new =
            NewTask { run_at_ms: T0 + after_ms, ..task(if after_ms == 4 { "b" } else { "a" }) };
        due.push((after_ms, new.id));
        submit(&one, new).await;
    }
    due.sort_by_key(|(after_ms, _)| *after_ms);
    let due: Vec<TaskId> = due.into_iter().map(|(_, id)| id).collect();
    let worker = WorkerId::new();
    let claim_both =
        |tasks_max, now_ms| two.claim(claim_of(worker, &["b", "a"], tasks_max, now_ms));
    assert_eq!(claim_both(9, T0).await.unwrap().tasks, []);
    assert_eq!(ids(&claim_both(2, T0 + 4).await.unwrap().tasks), due[..2]);
    assert_eq!(ids(&claim_both(9, T0 + 4).await.unwrap().tasks), due[2..4]);
    assert_eq!(ids(&claim_both(9, T0 + 5).await.unwrap().tasks), due[4..]);
}

pub(crate) async fn a_claim_is_for_its_kinds_and_its_endpoint(
    Stores { one, two, keep: _keep }: Stores,
) {
    let at = |endpoint: &str, kind: &str| NewTask { endpoint: Some(name(endpoint)), ..task(kind) };
    let shared = submit(&one, task("a")).await;
    let other_kind = submit(&one, task("b")).await;
    let lab = submit(&one, at("lab", "a")).await;
    let mine = submit(&one, at("mine", "a")).await;
    let worker = WorkerId::new();
    let claim = |endpoint: Option<&str>, kinds: &[&str]| {
        let endpoint = endpoint.map(name);
        two.claim(Claim { endpoint, ..claim_of(worker, kinds, 9, T0) })
    };
    assert_eq!(claim(None, &[]).await.unwrap().tasks, []);
    assert_eq!(claim(None, &["c"]).await.unwrap().tasks, []);
    assert_eq!(ids(&claim(Some("lab"), &["a", "b"]).await.unwrap().tasks), [lab]);
    assert_eq!(ids(&claim(None, &["a", "a"]).await.unwrap().tasks), [shared]);
    assert_eq!(ids(&claim(Some("mine"), &["a"]).await.unwrap().tasks), [mine]);
    assert_eq!(ids(&claim(None, &["a", "b"]).await.unwrap().tasks), [other_kind]);
}

pub(crate) async fn two_handles_never_share_a_task(Stores { one, two, keep: _keep }: Stores) {
    const TASKS: usize = 600;
    let all = submit_many(&one, "a", TASKS).await;
    let takers = [&one, &two, &one, &two].map(|store| {
        let store: Arc<dyn Store> = Arc::clone(store);
        tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                let tasks = claim(&store, WorkerId::new(), 7).await;
                if tasks.is_empty() {
                    return taken;
                }
                assert!(tasks.is_sorted_by_key(|task| task.id));
                taken.extend(ids(&tasks));
            }
        })
    });
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap());
    }
    assert_eq!(taken.len(), TASKS);
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), all.into_iter().collect());
}

pub(crate) async fn a_claim_counts_attempts_and_resets_progress(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, task("a")).await;
    let worker = WorkerId::new();
    let claimed = claim(&one, worker, 1).await;
    let shown = get(&two, id).await;
    assert_eq!(claimed, std::slice::from_ref(&shown));
    assert_eq!((shown.state, shown.attempt), (TaskState::Running, 1));
    assert_eq!((shown.owner, shown.started_at_ms), (Some(worker), Some(T0 + 1)));
    one.beat(worker, vec![Beat { id, attempt: 1, progress: 700 }], T0 + 2).await.unwrap();
    assert_eq!(get(&two, id).await.progress, 700);
    end(&one, &shown, failed("once more", false)).await;
    let again = claim_at(&two, WorkerId::new(), 1, T0 + 90_000).await;
    assert_eq!((again[0].attempt, again[0].progress), (2, 0));
    assert_eq!(again[0].started_at_ms, Some(T0 + 90_000));
    assert_eq!(get(&one, id).await, again[0]);
}

pub(crate) async fn a_dispatcher_takes_all_kinds_and_endpoints_in_due_order(
    Stores { one, two, keep: _keep }: Stores,
) {
    let third = NewTask { run_at_ms: T0 + 3, endpoint: Some(name("lab")), ..task("b") };
    let first = NewTask { run_at_ms: T0 + 1, endpoint: Some(name("x")), ..task("a") };
    let second = NewTask { run_at_ms: T0 + 2, ..task("c") };
    let later = NewTask { run_at_ms: T0 + 90, ..task("a") };
    let new = [third, first, second, later];
    let [third, first, second, later] = new.each_ref().map(|task| task.id);
    one.submit(new.to_vec(), T0).await.unwrap();
    let dispatcher = WorkerId::new();
    let taken = two.take_due(dispatcher, 2, T0 + 5).await.unwrap();
    assert_eq!(ids(&taken.tasks), [first, second]);
    assert_eq!(taken.next_due_ms, Some(T0 + 3));
    let task = get(&one, first).await;
    assert_eq!((task.state, task.attempt), (TaskState::Queued, 1));
    assert_eq!(taken.tasks[0], task);
    let taken = two.take_due(dispatcher, 9, T0 + 5).await.unwrap();
    assert_eq!((ids(&taken.tasks), taken.next_due_ms), (vec![third], Some(T0 + 90)));
    assert_eq!(two.take_due(dispatcher, 9, T0 + 5).await.unwrap().tasks, []);
    assert_eq!(ids(&two.take_due(dispatcher, 9, T0 + 90).await.unwrap().tasks), [later]);
    assert_eq!(two.take_due(dispatcher, 9, T0 + 90).await.unwrap().next_due_ms, None);
}

pub(crate) async fn a_queued_task_runs_with_its_first_beat(
    Stores { one, two, keep: _keep }: Stores,
) {
    let id = submit(&one, task("a")).await;
    let dispatcher = WorkerId::new();
    one.take_due(dispatcher, 9, T0).await.unwrap();
    one.dispatched(vec![(id, 1)]).await.unwrap();
    let shown = get(&two, id).await;
    assert_eq!((shown.state, shown.owner), (TaskState::Queued, None));
    assert_eq!(claim(&one, WorkerId::new(), 9).await, []);
    let worker = WorkerId::new();
    let wrong = vec![Beat { id, attempt: 2, progress: 0 }];
    assert_eq!(two.beat(worker, wrong, T0 + 5).await.unwrap().lost, [(id, 2)]);
    let beat = vec![Beat { id, attempt: 1, progress: 10 }];
    assert_eq!(two.beat(worker, beat.clone(), T0 + 5).await.unwrap(), Default::default());
    let shown = get(&one, id).await;
    assert_eq!((shown.state, shown.owner), (TaskState::Running, Some(worker)));
    assert_eq!((shown.started_at_ms, shown.progress), (Some(T0 + 5), 10));
    let other = one.beat(WorkerId::new(), beat, T0 + 6).await.unwrap();
    assert_eq!(other.lost, [(id, 1)]);
    end(&one, &shown, Outcome::Finished(result(b"1"))).await;

    // A short task is settled before it has ever signed.
    let short = submit(&one, task("a")).await;
    let taken = one.take_due(dispatcher, 9, T0).await.unwrap().tasks;
    end(&two, &taken[0], Outcome::Finished(result(b"1"))).await;
    one.dispatched(vec![(short, 1)]).await.unwrap();
    assert_eq!(state(&one, short).await, TaskState::Finished);
}

pub(crate) async fn what_the_broker_has_lost_is_pending_again(
    Stores { one, two, keep: _keep }: Stores,
) {
    let lost = submit(&one, task("a")).await;
    let at_lab = NewTask { endpoint: Some(name("lab")), ..task("a") };
    let at_lab = submit(&one, at_lab).await;
    let begun = submit(&one, task("a")).await;
    let dispatcher = WorkerId::new();
    let taken = one.take_due(dispatcher, 9, T0).await.unwrap().tasks;
    one.dispatched([lost, at_lab, begun].map(|id| (id, 1)).to_vec()).await.unwrap();
    let beat = vec![Beat { id: begun, attempt: 1, progress: 0 }];
    one.beat(WorkerId::new(), beat, T0).await.unwrap();
    let young = submit(&one, task("a")).await;
    one.take_due(dispatcher, 9, T0 + 50).await.unwrap();
    one.dispatched(vec![(young, 1)]).await.unwrap();
    assert_eq!(two.requeue(None, T0, T0 + 60).await.unwrap(), 0);
    assert_eq!(two.requeue(None, T0 + 50, T0 + 60).await.unwrap(), 1);
    let states = [lost, at_lab, begun, young].map(|id| (id, get(&two, id)));
    let mut found = Vec::new();
    for (_, shown) in states {
        found.push(shown.await.state);
    }
    let (pending, queued) = (TaskState::Pending, TaskState::Queued);
    assert_eq!(found, [pending, queued, TaskState::Running, queued]);
    assert_eq!(get(&one, lost).await.failures, 0);
    assert_eq!(one.requeue(Some(name("lab")), T0 + 50, T0 + 60).await.unwrap(), 1);
    let a_day = 24 * 3600 * 1000;
    assert_eq!(one.requeue(None, T0 + 50 - a_day, T0 + 60).await.unwrap(), 0);
    assert_eq!(one.requeue(None, T0 + 50 - a_day, T0 + 60 - a_day).await.unwrap(), 1, "young");
    one.cancel(young, T0).await.unwrap();
    let again = claim_one(&two).await;
    assert_eq!((again.id, again.attempt), (lost, 2));
    let stale = taken.iter().find(|task| task.id == lost).unwrap();
    let late = settlement(stale, Outcome::Finished(result(b"1")), T0);
    assert_eq!(settle(&one, late).await, Settled::Late);
}

pub(crate) async fn a_claim_says_when_the_next_is_due(Stores { one, two, keep: _keep }: Stores) {
    let worker = WorkerId::new();
    let claim = |kinds: &[&str], max, now| two.claim(claim_of(worker, kinds, max, now));
    assert_eq!(claim(&["a"], 1, T0).await.unwrap().next_due_ms, None);
    submit_many(&one, "a", 2).await;
    submit(&one, NewTask { run_at_ms: T0 + 7, ..task("b") }).await;
    submit(&one, NewTask { run_at_ms: T0 + 5, ..task("c") }).await;
    assert_eq!(claim(&["a", "b"], 1, T0).await.unwrap().next_due_ms, Some(T0));
    assert_eq!(claim(&["a", "b"], 1, T0).await.unwrap().next_due_ms, Some(T0 + 7));
    assert_eq!(claim(&["a", "b", "c"], 1, T0).await.unwrap().next_due_ms, Some(T0 + 5));
    assert_eq!(claim(&["a"], 1, T0).await.unwrap().next_due_ms, None);
}
