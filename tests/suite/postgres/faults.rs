//! The database dies, stands still, and loses its connections: nothing is lost, and it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use async_data_processor::store::{
    Claim, Cursor, Filter, Settled, Settlement, Store, StoreError, Submitted, TaskState,
};
use async_data_processor::task::{Outcome, ResultHead, WorkerId};

use super::server::{PrivatePostgres, shared};
use super::{connect, insist, is_there, task};
use crate::rabbitmq::proxy::{Direction, Proxy};

fn claim(worker: WorkerId) -> Claim {
    let kinds = vec!["a".parse().unwrap()];
    Claim { worker, endpoint: None, kinds, tasks_max: 8, now_ms: 1 }
}

/// Runs what is there, until it is told that no more comes and nothing is left.
async fn work(store: Arc<dyn Store>, done: Arc<AtomicBool>, settled: Arc<AtomicUsize>) {
    let mut worker = WorkerId::new();
    loop {
        let is_last = done.load(SeqCst);
        let tasks = match store.claim(claim(worker)).await {
            Ok(claimed) => claimed.tasks,
            // What it was given may be unknown: it is handed back.
            Err(_) => {
                insist(|| store.retire(worker)).await;
                worker = WorkerId::new();
                continue;
            }
        };
        if tasks.is_empty() && is_last {
            return;
        }
        let settlements: Vec<Settlement> = tasks
            .iter()
            .map(|task| Settlement {
                id: task.id,
                attempt: Some(task.attempt),
                endpoint: None,
                outcome: Outcome::Finished(ResultHead { bytes: 2, head: b"ok".to_vec() }),
                began_at_ms: None,
                at_ms: 2,
            })
            .collect();
        let ended = insist(|| store.settle(settlements.clone())).await;
        assert!(ended.iter().all(|one| matches!(one, Settled::Applied | Settled::Late)));
        settled.fetch_add(ended.len(), SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_in_the_middle_of_traffic_loses_nothing() {
    let server = PrivatePostgres::start();
    let url = server.database("jobs");
    let (store, life) = connect(&url);
    let (done, settled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let worker = tokio::spawn(work(store.clone(), Arc::clone(&done), Arc::clone(&settled)));
    let submitting = {
        let store = store.clone();
        let goes_on = Arc::clone(&done);
        tokio::spawn(async move {
            let mut ids = Vec::new();
            while !goes_on.load(SeqCst) {
                let new = task();
                ids.push(new.id);
                let submitted = insist(|| store.submit(vec![new.clone()], 0)).await;
                assert!(is_there(&submitted), "{submitted:?}");
            }
            ids
        })
    };
    for round in 0..3 {
        let before = settled.load(SeqCst);
        while settled.load(SeqCst) < before + 50 {
            tokio::task::yield_now().await;
        }
        match round {
            0 => server.kill(),
            1 => server.stop(),
            _ => server.close_connections("jobs"),
        }
        if round < 2 {
            server.start_again();
        }
    }
    done.store(true, SeqCst);
    let ids = submitting.await.unwrap();
    worker.await.unwrap();
    // What came between the worker's last look and the last submission.
    work(store.clone(), Arc::new(AtomicBool::new(true)), settled).await;
    for id in &ids {
        let found = store.task(*id).await.unwrap().unwrap();
        assert_eq!(found.state, TaskState::Finished, "{found:?}");
    }
    let filter = Filter { tasks_max: ids.len() + 1, ..Filter::default() };
    assert_eq!(store.tasks(filter).await.unwrap().len(), ids.len());
    assert_eq!(life.failure(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_at_any_byte_of_an_answer_leaves_a_change_that_can_be_said_again() {
    shared().database("cut_answers");
    let proxy = Proxy::to(shared().port());
    let (store, _life) = connect(&proxy.url(&shared().url("cut_answers")));
    insist(|| store.workers()).await;
    let (mut in_doubt, mut known) = (0, 0);
    let places = (1..200).step_by(11);
    for bytes in places.clone() {
        let new = task();
        insist(|| store.workers()).await;
        proxy.cut_after(Direction::ToClient, bytes);
        let mut tries = 0;
        let submitted = loop {
            tries += 1;
            match store.submit(vec![new.clone()], 0).await {
                Ok(submitted) => break submitted,
                Err(StoreError::Unavailable(_)) => in_doubt += 1,
                Err(error) => panic!("{error:?}"),
            }
        };
        assert!(is_there(&submitted) && tries <= 2, "{submitted:?} after {tries}");
        known += usize::from(submitted == [Submitted::Known]);
        proxy.heal();
        assert_eq!(store.task(new.id).await.unwrap().unwrap().state, TaskState::Pending);
    }
    assert!(known > 0 && in_doubt >= known, "no answer to a commit was cut: {known} {in_doubt}");
    let count = shared().sql("cut_answers", "SELECT count(*) FROM async_data_processor.tasks");
    assert_eq!(count, places.count().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stands_still_is_waited_for_a_while_and_then_used_again() {
    let server = PrivatePostgres::start();
    let url = server.database("jobs");
    let (store, _life) = connect(&url);
    store.submit(vec![task()], 0).await.unwrap();
    server.pause();
    let (changed, asked) = tokio::join!(store.submit(vec![task()], 0), store.workers());
    assert!(matches!(changed, Err(StoreError::Unavailable(_))), "{changed:?}");
    assert!(matches!(asked, Err(StoreError::Unavailable(_))), "{asked:?}");
    server.resume();
    let new = task();
    let submitted = insist(|| store.submit(vec![new.clone()], 0)).await;
    assert!(is_there(&submitted), "{submitted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bells_ring_again_after_a_restart() {
    let server = PrivatePostgres::start();
    let url = server.database("jobs");
    let ((store, _life), (other, _other_life)) = (connect(&url), connect(&url));
    store.submit(vec![task()], 0).await.unwrap();
    server.kill();
    let mut bells = other.bells();
    server.start_again();
    // The one that says that rings may have been missed.
    bells.work.changed().await.unwrap();
    insist(|| store.submit(vec![task()], 0)).await;
    bells.work.changed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_while_a_transaction_of_others_never_ends() {
    let url = shared().database("changes_open");
    let (store, _life) = connect(&url);
    let watched = || super::NewTask { is_watched: true, ..task() };
    store.submit(vec![watched()], 0).await.unwrap();
    let (client, wire) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let wire = tokio::spawn(wire);
    client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let (mut cursor, mut told) = (Cursor::default(), Vec::new());
    for _ in 0..10 {
        let new = watched();
        store.submit(vec![new.clone()], 0).await.unwrap();
        let (tasks, next) = store.changes(cursor, 3).await.unwrap();
        assert!(tasks.iter().any(|task| task.id == new.id), "{tasks:?}");
        told.extend(tasks.iter().map(|task| task.id));
        cursor = next;
        // Whoever asks until there is no more must come to an end.
        let (tasks, next) = store.changes(cursor, 3).await.unwrap();
        assert_eq!(tasks, []);
        cursor = next;
    }
    client.batch_execute("COMMIT").await.unwrap();
    drop(client);
    wire.await.unwrap().unwrap();
    let (tasks, _) = store.changes(cursor, 100).await.unwrap();
    told.extend(tasks.iter().map(|task| task.id));
    assert_eq!(told.len(), 11, "each is told, and told once");
    assert_eq!(told.iter().collect::<std::collections::HashSet<_>>().len(), 11);
}
