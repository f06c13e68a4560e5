//! Tasks with the same key are the same work.

use async_data_processor::store::{NewTask, Settled, Settlement, Submitted, TaskState};
use async_data_processor::task::{Outcome, TaskId, WorkerId};

use super::{
    Stores, T0, claim, claim_at, claim_one, end, failed, get, keyed, result, settle, settlement,
    state, submit, submit_at,
};

pub(crate) async fn tasks_with_one_key_run_once_and_end_alike(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let follower = keyed("k");
    assert_eq!(two.submit(vec![follower.clone()], T0).await.unwrap(), [Submitted::Follows(leader)]);
    let other = submit(&two, keyed("other")).await;
    let worker = WorkerId::new();
    let claimed = claim(&two, worker, 9).await;
    assert_eq!(super::ids(&claimed), [leader, other]);
    let shown = get(&one, follower.id).await;
    assert_eq!((shown.state, shown.attempt), (TaskState::Running, 1));
    assert_eq!((shown.owner, shown.started_at_ms), (Some(worker), Some(T0 + 1)));
    assert_eq!((shown.follows, &shown.payload), (Some(leader), &follower.payload));
    let late = settlement(&shown, Outcome::Finished(result(b"1")), T0 + 2);
    assert_eq!(settle(&one, late).await, Settled::Late);
    end(&one, &claimed[0], Outcome::Finished(result(b"120"))).await;
    let (shown, led) = (get(&two, follower.id).await, get(&two, leader).await);
    assert_eq!((shown.state, &shown.result), (TaskState::Finished, &Some(result(b"120"))));
    assert_eq!(shown.finished_at_ms, Some(T0 + 2));
    assert_eq!((led.state, led.result, led.follows), (shown.state, shown.result, None));
}

pub(crate) async fn a_follower_of_a_finished_task_is_finished_at_once(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let body = vec![7; 2000];
    let claimed = claim_one(&one).await;
    assert!(one.put_part(leader, Some(1), 0, body.clone()).await.unwrap());
    end(&one, &claimed, Outcome::Finished(result(&body))).await;
    let follower = submit_at(&two, keyed("k"), T0 + 100).await;
    let shown = get(&one, follower).await;
    assert_eq!((shown.state, shown.created_at_ms), (TaskState::Finished, T0 + 100));
    assert_eq!((shown.follows, shown.finished_at_ms), (Some(leader), Some(T0 + 2)));
    assert_eq!(shown.result, Some(result(&body)));
    assert_eq!(two.part(follower, 0).await.unwrap(), Some(body));
    assert_eq!(two.part(follower, 1).await.unwrap(), None);
    assert_eq!(claim(&one, WorkerId::new(), 9).await, []);
}

pub(crate) async fn the_first_follower_takes_over_from_a_cancelled_leader(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let first = submit(&one, keyed("k")).await;
    let second = submit(&two, keyed("k")).await;
    let worker = WorkerId::new();
    let claimed = claim(&one, worker, 9).await;
    assert_eq!(two.cancel(leader, T0 + 2).await.unwrap(), Some(TaskState::Running));
    assert_eq!(state(&one, leader).await, TaskState::Cancelled);
    let late = settlement(&claimed[0], Outcome::Finished(result(b"1")), T0 + 3);
    assert_eq!(settle(&one, late).await, Settled::Late);
    let (promoted, follower) = (get(&one, first).await, get(&one, second).await);
    assert_eq!((promoted.state, promoted.follows), (TaskState::Pending, None));
    assert_eq!((follower.state, follower.follows), (TaskState::Pending, Some(first)));
    let claimed = claim(&two, worker, 9).await;
    assert_eq!(super::ids(&claimed), [first]);
    end(&one, &claimed[0], Outcome::Finished(result(b"120"))).await;
    for id in [first, second] {
        let shown = get(&one, id).await;
        assert_eq!((shown.state, shown.result), (TaskState::Finished, Some(result(b"120"))));
    }
    assert_eq!(state(&one, leader).await, TaskState::Cancelled);
}

pub(crate) async fn followers_of_a_failed_leader_fail_and_the_key_is_free(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let follower = submit_at(&one, keyed("k"), T0 + 1).await;
    let claimed = claim_one(&one).await;
    end(&two, &claimed, failed("no such number", true)).await;
    for id in [leader, follower] {
        let shown = get(&two, id).await;
        assert_eq!(shown.state, TaskState::Failed);
        assert_eq!(shown.error.as_deref(), Some("no such number"));
        assert_eq!(shown.finished_at_ms, Some(T0 + 2));
    }
    let anew = keyed("k");
    assert_eq!(two.submit(vec![anew.clone()], T0).await.unwrap(), [Submitted::New]);
    assert_eq!(claim_one(&one).await.id, anew.id);

    let late = NewTask { expires_at_ms: Some(T0 + 5), ..keyed("late") };
    let late = submit(&one, late).await;
    let follower = submit(&one, keyed("late")).await;
    assert_eq!(claim_at(&two, WorkerId::new(), 9, T0 + 6).await, []);
    for id in [late, follower] {
        assert_eq!(state(&one, id).await, TaskState::Missed);
    }
    assert_eq!(one.submit(vec![keyed("late")], T0).await.unwrap(), [Submitted::New]);
}

pub(crate) async fn a_cancelled_follower_leaves_the_leader_alone(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let first = submit(&one, keyed("k")).await;
    let second = submit(&one, keyed("k")).await;
    let claimed = claim_one(&one).await;
    assert_eq!(two.cancel(first, T0 + 1).await.unwrap(), Some(TaskState::Running));
    assert_eq!(get(&one, leader).await.attempt, 1);
    assert_eq!(state(&one, leader).await, TaskState::Running);
    end(&one, &claimed, Outcome::Finished(result(b"1"))).await;
    assert_eq!(state(&two, first).await, TaskState::Cancelled);
    assert_eq!(get(&two, first).await.result, None);
    for id in [leader, second] {
        assert_eq!(state(&two, id).await, TaskState::Finished);
    }
}

pub(crate) async fn retried_tasks_with_one_key_run_once(Stores { one, two, keep: _keep }: Stores) {
    let leader = submit(&one, keyed("k")).await;
    let follower = submit(&one, keyed("k")).await;
    end(&one, &claim_one(&two).await, failed("no", true)).await;
    assert_eq!(one.retry(follower, T0 + 9).await.unwrap(), Some(TaskState::Failed));
    assert_eq!(two.retry(leader, T0 + 9).await.unwrap(), Some(TaskState::Failed));
    for id in [leader, follower] {
        let shown = get(&one, id).await;
        assert_eq!((shown.state, shown.error), (TaskState::Pending, None));
    }
    let claimed = claim_at(&one, WorkerId::new(), 9, T0 + 9).await;
    assert_eq!(claimed.len(), 1);
    end(&two, &claimed[0], Outcome::Finished(result(b"1"))).await;
    for id in [leader, follower] {
        assert_eq!(get(&one, id).await.result, Some(result(b"1")));
    }
    // Failed before, done by now.
    let third = submit(&one, keyed("other")).await;
    let again = keyed("other");
    end(&one, &claim_one(&two).await, failed("no", true)).await;
    submit(&one, again).await;
    end(&one, &claim_one(&two).await, Outcome::Finished(result(b"2"))).await;
    assert_eq!(one.retry(third, T0 + 9).await.unwrap(), Some(TaskState::Failed));
    let shown = get(&two, third).await;
    assert_eq!((shown.state, shown.result), (TaskState::Finished, Some(result(b"2"))));
}

pub(crate) async fn an_outside_worker_may_name_a_follower(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let follower = submit(&one, keyed("k")).await;
    let begun = two.begin_outside(follower, T0 + 1, T0 + 1000).await.unwrap().unwrap();
    assert_eq!((begun.id, begun.state), (follower, TaskState::Running));
    assert_eq!((begun.started_at_ms, begun.follows), (Some(T0 + 1), Some(leader)));
    assert_eq!(state(&one, leader).await, TaskState::Running);
    let body = vec![1; 1500];
    assert!(two.put_part(follower, None, 0, body.clone()).await.unwrap());
    let outcome = Outcome::Finished(result(&body));
    let outside = Settlement {
        id: follower,
        attempt: None,
        endpoint: None,
        outcome,
        began_at_ms: None,
        at_ms: T0 + 5,
    };
    assert_eq!(settle(&two, outside.clone()).await, Settled::Applied);
    assert_eq!(settle(&one, outside.clone()).await, Settled::Late);
    for id in [leader, follower] {
        assert_eq!(get(&one, id).await.result, Some(result(&body)));
        assert_eq!(one.part(id, 0).await.unwrap(), Some(body.clone()));
    }
    let nobody = Settlement { id: TaskId::new(), ..outside };
    assert_eq!(settle(&one, nobody).await, Settled::Unknown);
}
