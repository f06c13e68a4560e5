//! What the database does for a claim, when very many tasks are pending.

use async_data_processor::store::{Claim, Store, Sweep};
use async_data_processor::task::WorkerId;

use super::connect;
use super::server::shared;

/// Rows, and blocks of memory and disk, that a statement read of `tasks`.
const READ: &str = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables \
                    WHERE relname = 'tasks'";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_among_very_many_pending_tasks_reads_few() {
    let url = shared().database("plans");
    let (store, _life) = connect(&url);
    store.workers().await.unwrap();
    // Never analyzed, as after a burst: the plan must not depend on statistics.
    shared().sql(
        "plans",
        "ALTER TABLE async_data_processor.tasks SET (autovacuum_enabled = off); \
         INSERT INTO async_data_processor.tasks (id, kind, endpoint, payload, state, failures_max, \
             created_at_ms, run_at_ms, is_watched, is_told, place) \
         SELECT gen_random_uuid(), 'kind-' || n % 10, '', '', 0, 5, 0, n, false, false, 0 \
         FROM generate_series(1, 100000) AS n",
    );
    let read = || shared().sql("plans", READ).parse::<i64>().unwrap_or_default();
    let before = read();
    let kinds = vec!["kind-1".parse().unwrap(), "kind-2".parse().unwrap()];
    for _ in 0..20 {
        let claim = Claim {
            worker: WorkerId::new(),
            endpoint: None,
            kinds: kinds.clone(),
            tasks_max: 10,
            now_ms: i64::MAX,
        };
        let claimed = store.claim(claim).await.unwrap();
        assert_eq!(claimed.tasks.len(), 10);
        let taken = store.take_due(WorkerId::new(), 10, i64::MAX).await.unwrap();
        assert_eq!(taken.tasks.len(), 10);
    }
    drop(store);
    wait_told("plans");
    let rows = read() - before;
    assert!((400..4000).contains(&rows), "{rows} rows were read to give out 400 tasks");
}

/// The counters are told at the latest when a session ends.
fn wait_told(database: &str) {
    crate::harness::wait_for("the counters of the session", || {
        let sessions = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' \
             AND application_name LIKE 'async-data-processor%'"
        );
        (shared().sql(database, &sessions) == "0").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_among_very_many_tasks_that_wait_for_their_time_reads_few() {
    let url = shared().database("starts");
    let (store, _life) = connect(&url);
    store.workers().await.unwrap();
    shared().sql(
        "starts",
        "ALTER TABLE async_data_processor.tasks SET (autovacuum_enabled = off); \
         INSERT INTO async_data_processor.tasks (id, kind, endpoint, payload, state, failures_max, \
             created_at_ms, run_at_ms, expires_at_ms, is_watched, is_told, place) \
         SELECT gen_random_uuid(), 'a', '', '', n % 2, 5, 0, n::bigint * 1000000, \
             n::bigint * 1000000 + 9, \
             false, false, 0 \
         FROM generate_series(1, 100000) AS n",
    );
    let read = || shared().sql("starts", READ).parse::<i64>().unwrap_or_default();
    let before = read();
    let sweep = Sweep { now_ms: 9, is_all_heard: true, ..Sweep::default() };
    // Processes start; then a clock is as far ahead as ten tasks lie apart, and goes back.
    for now_ms in [9, 10, 11] {
        store.sweep(Sweep { now_ms, clock_went_back: true, ..sweep }).await.unwrap();
    }
    let missed = store.sweep(Sweep { now_ms: 10_000_000, ..sweep }).await.unwrap().missed;
    assert_eq!(missed, 9, "and one may have begun");
    store.sweep(Sweep { clock_went_back: true, ..sweep }).await.unwrap();
    drop(store);
    wait_told("starts");
    let rows = read() - before;
    assert!(rows < 2000, "{rows} rows were read, of which 20 were of interest");
}
