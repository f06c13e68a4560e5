//! How fast the store of tasks is here: `cargo run --release --example store -- [DIRECTORY]`.
//!
//! Submits, claims and settles small tasks as a server and its workers do, every change synced,
//! and claims again with a million others pending.
#![expect(clippy::print_stdout, reason = "it is there to print")]
#![expect(clippy::cast_precision_loss, reason = "a figure for people")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{Claim, NewTask, Settlement, Store};
use async_data_processor::task::{Name, Outcome, ResultHead, TaskId, WorkerId};

const TASKS: usize = 50_000;
const PENDING: usize = 1_000_000;
const SUBMITTED_AT_ONCE: usize = 1_000;
const CLAIMED_AT_ONCE: usize = 256;
const CLAIMS: usize = 1_000;

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Arc::new(SqliteStore::open(dir.path())?);
        pipeline(&store).await?;
        beside_many(&store).await
    })
}

fn new_task(kind: &Name) -> NewTask {
    NewTask {
        id: TaskId::new(),
        kind: kind.clone(),
        endpoint: None,
        payload: b"12345678".to_vec(),
        run_at_ms: 0,
        expires_at_ms: None,
        failures_max: 5,
        key: None,
        is_watched: false,
    }
}

async fn submit(store: &SqliteStore, kind: &Name, tasks: usize) -> Result<()> {
    for _ in 0..tasks / SUBMITTED_AT_ONCE {
        let new = (0..SUBMITTED_AT_ONCE).map(|_| new_task(kind)).collect();
        store.submit(new, 0).await?;
    }
    Ok(())
}

fn report(what: &str, tasks: usize, took: Duration) {
    println!("{what:<40} {:>9.0} tasks/s", tasks as f64 / took.as_secs_f64());
}

/// One phase after the other, then all at the same time.
async fn pipeline(store: &Arc<SqliteStore>) -> Result<()> {
    let kind: Name = "echo".parse()?;
    let begun = Instant::now();
    submit(store, &kind, TASKS).await?;
    report("submit, 1,000 at once", TASKS, begun.elapsed());
    let (mut claiming, mut settling) = (Duration::ZERO, Duration::ZERO);
    let worker = WorkerId::new();
    loop {
        let begun = Instant::now();
        let settlements = claim(store, worker, &kind, CLAIMED_AT_ONCE).await?;
        claiming += begun.elapsed();
        if settlements.is_empty() {
            break;
        }
        let begun = Instant::now();
        store.settle(settlements).await?;
        settling += begun.elapsed();
    }
    report("claim, 256 at once", TASKS, claiming);
    report("settle, 256 at once", TASKS, settling);
    let begun = Instant::now();
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(work_until(Arc::clone(store), kind.clone(), TASKS / 2)))
        .collect();
    submit(store, &kind, TASKS).await?;
    for worker in workers {
        worker.await??;
    }
    report("all of it at the same time, 2 workers", TASKS, begun.elapsed());
    Ok(())
}

async fn work_until(store: Arc<SqliteStore>, kind: Name, mut left: usize) -> Result<()> {
    let worker = WorkerId::new();
    let mut bell = store.bells().work;
    while left > 0 {
        let settlements = claim(&store, worker, &kind, CLAIMED_AT_ONCE.min(left)).await?;
        left -= settlements.len();
        if settlements.is_empty() {
            let _slow = tokio::time::timeout(Duration::from_millis(500), bell.changed()).await;
        } else {
            store.settle(settlements).await?;
        }
    }
    Ok(())
}

async fn claim(
    store: &SqliteStore,
    worker: WorkerId,
    kind: &Name,
    tasks_max: usize,
) -> Result<Vec<Settlement>> {
    let kinds = vec![kind.clone()];
    let claimed =
        store.claim(Claim { worker, endpoint: None, kinds, tasks_max, now_ms: 1 }).await?;
    let settle = |task: async_data_processor::store::Task| Settlement {
        id: task.id,
        attempt: Some(task.attempt),
        endpoint: None,
        outcome: Outcome::Finished(ResultHead { bytes: 8, head: task.payload }),
        began_at_ms: None,
        at_ms: 2,
    };
    Ok(claimed.tasks.into_iter().map(settle).collect())
}

/// Single claims, with few and with a million others pending.
async fn beside_many(store: &SqliteStore) -> Result<()> {
    for (kind, pending) in [("few", 10_000), ("many", PENDING)] {
        let kind: Name = kind.parse()?;
        let begun = Instant::now();
        submit(store, &kind, pending).await?;
        report(&format!("submit {pending}"), pending, begun.elapsed());
        let worker = WorkerId::new();
        let mut times = Vec::with_capacity(CLAIMS);
        for _ in 0..CLAIMS {
            let begun = Instant::now();
            claim(store, worker, &kind, 1).await?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let at = |permille: usize| times.get(CLAIMS * permille / 1000).copied().unwrap_or_default();
        println!("claim 1 beside {pending}: p50 {:?}, p99 {:?}", at(500), at(990));
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let memory = status.lines().find(|line| line.starts_with("RssAnon"));
    println!("{}", memory.unwrap_or_default());
    Ok(())
}
