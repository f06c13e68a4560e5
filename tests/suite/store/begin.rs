//! Tasks come in.

use async_data_processor::store::{NewTask, Submitted, TaskState};
use async_data_processor::task::{PAYLOAD_BYTES_MAX, TaskId};

use super::{Stores, T0, get, name, submit, submit_at, task};

pub(crate) async fn what_was_submitted_is_there_as_it_was(
    Stores { one, two, keep: _keep }: Stores,
) {
    let new = NewTask {
        endpoint: Some(name("lab-1")),
        expires_at_ms: Some(T0 + 9),
        run_at_ms: -5,
        failures_max: 3,
        ..task("a")
    };
    submit(&one, new.clone()).await;
    let found = get(&two, new.id).await;
    assert_eq!((found.id, found.kind, found.endpoint), (new.id, new.kind, new.endpoint));
    assert_eq!((found.payload, found.run_at_ms), (new.payload, -5));
    assert_eq!((found.created_at_ms, found.expires_at_ms), (T0, Some(T0 + 9)));
    assert_eq!((found.state, found.attempt), (TaskState::Pending, 0));
    assert_eq!((found.failures, found.failures_max, found.progress), (0, 3, 0));
    assert_eq!((found.started_at_ms, found.finished_at_ms, found.owner), (None, None, None));
    assert_eq!((found.result, found.error, found.follows), (None, None, None));
    assert_eq!(two.task(TaskId::new()).await.unwrap(), None);
}

pub(crate) async fn a_submission_again_adds_nothing(Stores { one, two, keep: _keep }: Stores) {
    let new = task("a");
    submit(&one, new.clone()).await;
    let before = get(&one, new.id).await;
    assert_eq!(two.submit(vec![new.clone()], T0 + 9).await.unwrap(), [Submitted::Known]);
    assert_eq!(get(&one, new.id).await, before);
    let twice = task("a");
    let submitted = one.submit(vec![twice.clone(), twice], T0).await.unwrap();
    assert_eq!(submitted, [Submitted::New, Submitted::Known]);
}

pub(crate) async fn an_id_that_is_taken_by_another_task_is_told_and_not_touched(
    Stores { one, two, keep: _keep }: Stores,
) {
    let new = task("a");
    submit(&one, new.clone()).await;
    let before = get(&one, new.id).await;
    for other in [
        NewTask { kind: name("b"), ..new.clone() },
        NewTask { endpoint: Some(name("lab-1")), ..new.clone() },
        NewTask { payload: b"other".to_vec(), ..new.clone() },
    ] {
        let beside = task("a");
        let submitted = two.submit(vec![other, beside.clone()], T0).await.unwrap();
        assert_eq!(submitted, [Submitted::Conflict, Submitted::New]);
        assert_eq!(get(&one, new.id).await, before);
        assert_eq!(get(&one, beside.id).await.state, TaskState::Pending);
    }
}

pub(crate) async fn a_submission_in_bulk_tells_of_each_in_order(
    Stores { one, two, keep: _keep }: Stores,
) {
    let known = task("a");
    submit_at(&one, known.clone(), T0 - 1).await;
    let leader = NewTask { key: Some("k".to_owned()), ..task("a") };
    let follower = NewTask { id: TaskId::new(), ..leader.clone() };
    let submitted =
        two.submit(vec![task("b"), known, leader.clone(), follower, task("c")], T0).await.unwrap();
    let follows = Submitted::Follows(leader.id);
    assert_eq!(
        submitted,
        [Submitted::New, Submitted::Known, Submitted::New, follows, Submitted::New]
    );
    assert_eq!(one.submit(Vec::new(), T0).await.unwrap(), []);
}

pub(crate) async fn a_large_payload_comes_back_whole(Stores { one, two, keep: _keep }: Stores) {
    for bytes in [0, 1, 1024, 1025, PAYLOAD_BYTES_MAX] {
        let payload: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let new = NewTask { payload: payload.clone(), ..task("a") };
        submit(&one, new.clone()).await;
        assert!(get(&two, new.id).await.payload == payload, "{bytes}");
        assert_eq!(one.submit(vec![new.clone()], T0).await.unwrap(), [Submitted::Known]);
        assert!(super::claim_one(&two).await.payload == payload, "{bytes}");
    }
}
