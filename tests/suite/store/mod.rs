//! What a store promises, whichever it is: one suite, run for each.
//!
//! A store takes part with one line in its own file: `conformance!(open)`, where `open` makes an
//! empty store and gives two handles to it, as two processes would have.

mod begin;
mod follow;
mod give_out;
mod listing;
mod liveness;
mod model;
mod postgres;
mod results;
mod schedules;
mod sqlite;
mod sqlite_faults;
mod sqlite_model;
mod time;

use std::any::Any;
use std::sync::Arc;

use async_data_processor::store::{
    Claim, Filter, Millis, NewTask, Settled, Settlement, Store, Submitted, Task, TaskState,
};
use async_data_processor::task::{Name, Outcome, ResultHead, TaskId, WorkerId};

/// The wall time at which everything begins.
const T0: Millis = 1_795_000_000_000;

/// Two handles to the same tasks.
pub(crate) struct Stores {
    pub(crate) one: Arc<dyn Store>,
    pub(crate) two: Arc<dyn Store>,
    /// What must live as long: a directory, a server.
    pub(crate) keep: Box<dyn Any + Send>,
}

/// Runs the suite for the store that `$open` makes: `fn() -> Stores`, called within a runtime.
macro_rules! conformance {
    ($open:path) => {
        crate::store::conformance! { $open =>
            begin: [
                what_was_submitted_is_there_as_it_was,
                a_submission_again_adds_nothing,
                an_id_that_is_taken_by_another_task_is_told_and_not_touched,
                a_submission_in_bulk_tells_of_each_in_order,
                a_large_payload_comes_back_whole,
            ]
            follow: [
                tasks_with_one_key_run_once_and_end_alike,
                a_follower_of_a_finished_task_is_finished_at_once,
                the_first_follower_takes_over_from_a_cancelled_leader,
                followers_of_a_failed_leader_fail_and_the_key_is_free,
                a_cancelled_follower_leaves_the_leader_alone,
                retried_tasks_with_one_key_run_once,
                an_outside_worker_may_name_a_follower,
            ]
            give_out: [
                tasks_come_in_due_order_and_not_before_their_time,
                a_claim_is_for_its_kinds_and_its_endpoint,
                two_handles_never_share_a_task,
                a_claim_counts_attempts_and_resets_progress,
                a_dispatcher_takes_all_kinds_and_endpoints_in_due_order,
                a_queued_task_runs_with_its_first_beat,
                what_the_broker_has_lost_is_pending_again,
                a_claim_says_when_the_next_is_due,
            ]
            results: [
                a_result_is_kept_and_settled_once,
                a_late_result_changes_nothing,
                a_failure_is_tried_again_after_a_pause_until_it_is_the_last,
                a_final_failure_is_not_tried_again,
                a_task_given_back_has_not_failed,
                a_missed_task_says_why,
                a_long_result_needs_all_its_parts,
                parts_of_another_attempt_are_not_taken,
                an_endpoint_settles_its_own_tasks_only,
                an_outside_worker_settles_whatever_is_current,
                an_outside_worker_begins_a_task,
            ]
            liveness: [
                tasks_of_a_buried_worker_run_again_and_its_results_are_late,
                a_worker_that_has_signed_since_is_not_buried,
                a_task_that_kills_its_workers_fails_in_the_end,
                a_task_whose_workers_are_never_heard_of_again_is_given_up,
                a_buried_worker_gets_nothing,
                a_worker_that_only_claimed_can_be_buried,
                a_buried_dispatcher_gives_its_tasks_back,
                a_beat_tells_what_is_lost_and_keeps_progress,
                a_retired_worker_is_no_longer_looked_at,
                a_cancelled_task_is_lost_to_its_worker,
                bells_ring_in_the_other_handle,
            ]
            listing: [
                pages_hold_every_task_once_newest_first,
                filters_leave_out_the_others_and_know_followers,
                counts_follow_every_change,
                changes_tell_watched_tasks_only_and_go_on_where_they_ended,
                changes_miss_nothing_while_others_write,
                a_change_of_a_leader_is_one_of_its_watched_followers,
            ]
            time: [
                what_is_too_late_is_missed_and_says_so,
                an_outside_attempt_that_is_overdue_is_tried_again,
                old_tasks_are_pruned_and_what_is_followed_stays,
                pruning_goes_in_bounded_pieces,
                a_clock_that_went_back_delays_nothing,
                what_a_wrong_clock_has_missed_waits_again,
                what_has_begun_in_time_is_tried_again_however_late,
                what_nobody_takes_from_the_queue_in_time_is_missed,
                a_retry_makes_an_unlucky_task_due_and_no_other,
                a_retry_of_a_missed_task_can_begin,
            ]
            schedules: [
                a_schedule_and_its_task_are_there_together,
                of_two_schedules_of_one_id_nothing_is_left_of_the_second,
                a_schedule_stands_as_its_task_stands,
                schedules_are_listed_newest_first_in_pages,
                of_those_who_advance_a_schedule_one_does,
                what_was_decided_of_a_time_stands,
                a_clock_that_went_back_takes_back_what_has_not_come,
                a_replaced_start_is_cancelled_and_the_last_step_ends_a_schedule,
                nothing_is_replaced_by_what_is_not_started,
                a_cancelled_schedule_starts_nothing_any_more,
                a_deleted_schedule_is_gone_and_its_tasks_are_cancelled,
                pruning_leaves_what_is_still_active,
            ]
        }
    };
    ($open:path => $($module:ident: [$($name:ident,)*])*) => {$($(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            crate::store::$module::$name($open()).await;
        }
    )*)*};
}
pub(crate) use conformance;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A task of this kind that is due at [`T0`].
fn task(kind: &str) -> NewTask {
    NewTask {
        id: TaskId::new(),
        kind: name(kind),
        endpoint: None,
        payload: kind.as_bytes().to_vec(),
        run_at_ms: T0,
        expires_at_ms: None,
        failures_max: 5,
        key: None,
        is_watched: false,
    }
}

fn keyed(key: &str) -> NewTask {
    NewTask { key: Some(key.to_owned()), ..task("a") }
}

/// Submits one at [`T0`].
async fn submit(store: &Arc<dyn Store>, task: NewTask) -> TaskId {
    submit_at(store, task, T0).await
}

async fn submit_at(store: &Arc<dyn Store>, task: NewTask, now_ms: Millis) -> TaskId {
    let id = task.id;
    let submitted = store.submit(vec![task], now_ms).await.unwrap();
    assert!(matches!(submitted[..], [Submitted::New | Submitted::Follows(_)]), "{submitted:?}");
    id
}

/// As many tasks of this kind, in the order of their submission.
async fn submit_many(store: &Arc<dyn Store>, kind: &str, count: usize) -> Vec<TaskId> {
    let tasks: Vec<NewTask> = (0..count).map(|_| task(kind)).collect();
    let ids = tasks.iter().map(|task| task.id).collect();
    assert_eq!(store.submit(tasks, T0).await.unwrap(), vec![Submitted::New; count]);
    ids
}

fn claim_of(worker: WorkerId, kinds: &[&str], tasks_max: usize, now_ms: Millis) -> Claim {
    let kinds = kinds.iter().map(|kind| name(kind)).collect();
    Claim { worker, endpoint: None, kinds, tasks_max, now_ms }
}

/// What a worker gets of kind `a`, [`T0`] long gone.
async fn claim(store: &Arc<dyn Store>, worker: WorkerId, tasks_max: usize) -> Vec<Task> {
    claim_at(store, worker, tasks_max, T0 + 1).await
}

async fn claim_at(
    store: &Arc<dyn Store>,
    worker: WorkerId,
    tasks_max: usize,
    now_ms: Millis,
) -> Vec<Task> {
    store.claim(claim_of(worker, &["a"], tasks_max, now_ms)).await.unwrap().tasks
}

/// The only task that a new worker gets.
async fn claim_one(store: &Arc<dyn Store>) -> Task {
    let mut tasks = claim(store, WorkerId::new(), 1).await;
    tasks.pop().unwrap()
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

fn result(bytes: &[u8]) -> ResultHead {
    let head = bytes.iter().take(ResultHead::BYTES_MAX).copied().collect();
    ResultHead { bytes: bytes.len() as u64, head }
}

fn failed(reason: &str, is_final: bool) -> Outcome {
    Outcome::Failed { reason: reason.to_owned(), is_final }
}

fn settlement(task: &Task, outcome: Outcome, at_ms: Millis) -> Settlement {
    Settlement {
        id: task.id,
        attempt: Some(task.attempt),
        endpoint: None,
        outcome,
        began_at_ms: None,
        at_ms,
    }
}

async fn settle(store: &Arc<dyn Store>, settlement: Settlement) -> Settled {
    let settled = store.settle(vec![settlement]).await.unwrap();
    assert_eq!(settled.len(), 1);
    settled[0]
}

/// Settles the current attempt two milliseconds after [`T0`].
async fn end(store: &Arc<dyn Store>, task: &Task, outcome: Outcome) {
    assert_eq!(settle(store, settlement(task, outcome, T0 + 2)).await, Settled::Applied);
}

async fn get(store: &Arc<dyn Store>, id: TaskId) -> Task {
    store.task(id).await.unwrap().unwrap()
}

async fn state(store: &Arc<dyn Store>, id: TaskId) -> TaskState {
    get(store, id).await.state
}

async fn list(store: &Arc<dyn Store>, filter: Filter) -> Vec<TaskId> {
    ids(&store.tasks(filter).await.unwrap())
}
