//! What is there, and what has changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use async_data_processor::store::{Cursor, Filter, NewTask, Store, Task, TaskState};
use async_data_processor::task::{Beat, Outcome, TaskId, WorkerId};

use super::{
    Stores, T0, claim, claim_one, end, failed, get, ids, keyed, list, name, result, submit,
    submit_at, submit_many, task,
};
use crate::harness::PATIENCE;

pub(crate) async fn pages_hold_every_task_once_newest_first(
    Stores { one, two, keep: _keep }: Stores,
) {
    let mut all = Vec::new();
    for at in 0..25 {
        all.push(submit_at(&one, task(if at % 2 == 0 { "a" } else { "b" }), T0 + at).await);
    }
    claim(&one, WorkerId::new(), 5).await;
    all.reverse();
    let mut found = Vec::new();
    loop {
        let before = found.last().copied();
        let page = list(&two, Filter { before, tasks_max: 4, ..Filter::default() }).await;
        assert!(page.len() <= 4);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, all);
    assert_eq!(list(&two, Filter::default()).await, []);
}

pub(crate) async fn filters_leave_out_the_others_and_know_followers(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let follower = submit(&one, keyed("k")).await;
    let other = submit(&one, NewTask { endpoint: Some(name("lab")), ..task("b") }).await;
    let bad = submit(&one, task("c")).await;
    one.cancel(bad, T0).await.unwrap();
    let claimed = claim_one(&one).await;
    let all = |states: &[TaskState]| Filter {
        states: states.to_vec(),
        tasks_max: 9,
        ..Filter::default()
    };
    assert_eq!(list(&two, all(&[])).await, [bad, other, follower, leader]);
    assert_eq!(list(&two, all(&[TaskState::Running])).await, [follower, leader]);
    end(&one, &claimed, Outcome::Finished(result(b"1"))).await;
    assert_eq!(list(&two, all(&[TaskState::Running])).await, []);
    assert_eq!(list(&two, all(&[TaskState::Finished])).await, [follower, leader]);
    assert_eq!(list(&two, all(&[TaskState::Cancelled, TaskState::Failed])).await, [bad]);
    let mixed = [TaskState::Pending, TaskState::Cancelled];
    assert_eq!(list(&two, all(&mixed)).await, [bad, other]);
    let kind = Filter { kind: Some(name("a")), ..all(&[]) };
    assert_eq!(list(&two, kind.clone()).await, [follower, leader]);
    assert_eq!(list(&two, Filter { before: Some(follower), ..kind.clone() }).await, [leader]);
    assert_eq!(list(&two, Filter { states: mixed.to_vec(), ..kind }).await, []);
    assert_eq!(list(&two, Filter { endpoint: Some(name("lab")), ..all(&[]) }).await, [other]);
    assert_eq!(list(&two, Filter { endpoint: Some(name("x")), ..all(&[]) }).await, []);
    let shown = one.tasks(all(&[TaskState::Finished])).await.unwrap();
    assert_eq!(shown[0], get(&one, follower).await);
    assert_eq!(shown[0].result, Some(result(b"1")));
}

async fn counts(store: &Arc<dyn Store>) -> BTreeMap<(String, TaskState), u64> {
    let counts = store.counts().await.unwrap().into_iter();
    let counts = counts.filter(|count| count.tasks > 0);
    counts.map(|count| ((count.kind.to_string(), count.state), count.tasks)).collect()
}

fn counted(counts: &[(&str, TaskState, u64)]) -> BTreeMap<(String, TaskState), u64> {
    counts.iter().map(|(kind, state, tasks)| (((*kind).to_owned(), *state), *tasks)).collect()
}

pub(crate) async fn counts_follow_every_change(Stores { one, two, keep: _keep }: Stores) {
    use TaskState::{Cancelled, Failed, Finished, Pending, Queued, Running};
    assert_eq!(counts(&one).await, counted(&[]));
    let all = submit_many(&one, "a", 3).await;
    submit(&one, keyed("k")).await;
    submit(&one, keyed("k")).await;
    submit(&two, task("b")).await;
    assert_eq!(counts(&one).await, counted(&[("a", Pending, 5), ("b", Pending, 1)]));
    let claimed = claim(&two, WorkerId::new(), 9).await;
    assert_eq!(counts(&one).await, counted(&[("a", Running, 5), ("b", Pending, 1)]));
    end(&one, &claimed[3], Outcome::Finished(result(b"1"))).await;
    end(&one, &claimed[0], failed("no", true)).await;
    one.cancel(all[1], T0).await.unwrap();
    two.take_due(WorkerId::new(), 9, T0).await.unwrap();
    let expected = [
        ("a", Finished, 2),
        ("a", Failed, 1),
        ("a", Cancelled, 1),
        ("a", Running, 1),
        ("b", Queued, 1),
    ];
    assert_eq!(counts(&one).await, counted(&expected));
}

/// All that changed since, in pieces.
async fn changes(store: &Arc<dyn Store>, cursor: &mut Cursor, at_once: usize) -> Vec<Task> {
    let mut all = Vec::new();
    loop {
        let (tasks, next) = store.changes(*cursor, at_once).await.unwrap();
        assert!(tasks.len() <= at_once);
        *cursor = next;
        if tasks.is_empty() {
            return all;
        }
        all.extend(tasks);
    }
}

/// What stands last of each.
fn latest(tasks: Vec<Task>) -> HashMap<TaskId, Task> {
    tasks.into_iter().map(|task| (task.id, task)).collect()
}

pub(crate) async fn changes_tell_watched_tasks_only_and_go_on_where_they_ended(
    Stores { one, two, keep: _keep }: Stores,
) {
    let mut cursor = Cursor::default();
    assert_eq!(changes(&two, &mut cursor, 9).await, []);
    submit(&one, task("a")).await;
    assert_eq!(changes(&two, &mut cursor, 9).await, []);
    let watched: Vec<NewTask> = (0..5).map(|_| NewTask { is_watched: true, ..task("w") }).collect();
    let all: HashSet<TaskId> = watched.iter().map(|task| task.id).collect();
    one.submit(watched, T0).await.unwrap();
    let told = latest(changes(&two, &mut cursor, 2).await);
    assert_eq!(told.keys().copied().collect::<HashSet<_>>(), all);
    assert_eq!(changes(&two, &mut cursor, 2).await, []);

    let kinds = super::claim_of(WorkerId::new(), &["w"], 1, T0);
    let claimed = one.claim(kinds).await.unwrap().tasks;
    let told = changes(&two, &mut cursor, 9).await;
    assert_eq!(told, claimed);
    end(&one, &claimed[0], Outcome::Finished(result(b"1"))).await;
    let ended = get(&one, claimed[0].id).await;
    assert_eq!(changes(&two, &mut cursor, 9).await, std::slice::from_ref(&ended));

    // Where the stream ends for one handle, the other tells some twice, while transactions of
    // anybody else are open.
    let mut late = two.now().await.unwrap();
    let told = latest(changes(&one, &mut late, 9).await);
    assert!(told.keys().all(|id| all.contains(id)), "{told:?}");
    assert_eq!(changes(&one, &mut late, 9).await, []);
    let told = latest(changes(&one, &mut cursor, 9).await);
    assert!(told.get(&ended.id).is_none_or(|told| *told == ended), "{told:?}");
    let mut beginning = Cursor::default();
    assert_eq!(latest(changes(&one, &mut beginning, 3).await).len(), 5);
}

pub(crate) async fn changes_miss_nothing_while_others_write(
    Stores { one, two, keep: _keep }: Stores,
) {
    const BATCHES: usize = 30;
    let writers: Vec<_> = [&one, &two, &one]
        .map(|store| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let mut written = Vec::new();
                for _ in 0..BATCHES {
                    let watched = || NewTask { is_watched: true, ..task("a") };
                    let new = [watched(), watched()];
                    written.extend(new.iter().map(|task| task.id));
                    store.submit(new.to_vec(), T0).await.unwrap();
                    for task in claim(&store, WorkerId::new(), 2).await {
                        end(&store, &task, Outcome::Finished(result(b"1"))).await;
                    }
                }
                written
            })
        })
        .into_iter()
        .collect();
    let deadline = Instant::now() + PATIENCE;
    let mut cursor = Cursor::default();
    let mut told = HashMap::new();
    let are_all_finished = |told: &HashMap<TaskId, Task>| {
        told.len() == 3 * 2 * BATCHES && told.values().all(|task| task.state == TaskState::Finished)
    };
    while !are_all_finished(&told) {
        assert!(Instant::now() < deadline, "some changes were never told");
        let (tasks, next) = two.changes(cursor, 7).await.unwrap();
        assert!(next >= cursor);
        cursor = next;
        told.extend(tasks.into_iter().map(|task| (task.id, task)));
        // Whatever the writers' races have left over.
        if tasks_left(&writers) == 0 {
            for task in claim(&one, WorkerId::new(), 9).await {
                end(&one, &task, Outcome::Finished(result(b"1"))).await;
            }
        }
    }
    let mut written = HashSet::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    assert_eq!(told.into_keys().collect::<HashSet<_>>(), written);
}

fn tasks_left<T>(writers: &[tokio::task::JoinHandle<T>]) -> usize {
    writers.iter().filter(|writer| !writer.is_finished()).count()
}

pub(crate) async fn a_change_of_a_leader_is_one_of_its_watched_followers(
    Stores { one, two, keep: _keep }: Stores,
) {
    let leader = submit(&one, keyed("k")).await;
    let follower = submit(&one, NewTask { is_watched: true, ..keyed("k") }).await;
    let mut cursor = one.now().await.unwrap();
    let worker = WorkerId::new();
    let claimed = claim(&one, worker, 1).await;
    let told = changes(&two, &mut cursor, 9).await;
    assert_eq!((ids(&told), told[0].state), (vec![follower], TaskState::Running));
    let beat = Beat { id: leader, attempt: 1, progress: 250 };
    one.beat(worker, vec![beat], T0).await.unwrap();
    let told = changes(&two, &mut cursor, 9).await;
    assert_eq!((ids(&told), told[0].progress), (vec![follower], 250));
    end(&one, &claimed[0], Outcome::Finished(result(b"1"))).await;
    let told = changes(&two, &mut cursor, 9).await;
    assert_eq!((ids(&told), &told[0].result), (vec![follower], &Some(result(b"1"))));
    assert_eq!(told[0], get(&one, follower).await);
}
