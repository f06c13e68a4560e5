//! Schedulers and workers as processes: what is due runs, whoever dies meanwhile.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use async_data_processor::store::schedules::Schedules;
use async_data_processor::store::sqlite::SqliteStore;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    ask, every, get, in_each_store, occurrences, post, post_soon, schedule, wait_state, work,
};
use crate::harness::{Rig, request, wait_for};
use crate::postgres::server::PrivatePostgres;

in_each_store!(
    what_was_scheduled_runs_at_its_time_and_shows_its_outcome,
    what_is_overdue_after_a_restart_runs_or_is_missed_with_its_reason,
    two_schedulers_start_each_time_once_and_one_goes_on_alone,
    a_running_start_is_cancelled_with_its_schedule,
    what_has_begun_in_time_outlives_its_worker_and_its_lateness,
);

fn ms(value: &Value) -> i64 {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp_millis()
}

fn what_was_scheduled_runs_at_its_time_and_shows_its_outcome(rig: Rig) {
    let (process, worker) = (schedule(&rig), work(&rig));
    let scheduler = process.address();
    let body = json!({"kind": "echo", "payload": {"n": 7}});
    let made: Vec<_> = (1..=20).map(|n| post_soon(scheduler, &body, 300 + 20 * n)).collect();
    for (id, start) in made {
        let shown = wait_state(scheduler, &id, "finished");
        assert_eq!(shown["outcome"], json!({"n": 7}));
        assert!(ms(&shown["started_at"]) >= ms(&json!(start)), "{shown} is early");
        assert_eq!(shown["task_id"], id);
    }
    // A window that nobody captures in is over: that is told, and why.
    let body = json!({"ship_name": "TARDIS", "duration": 1});
    let (id, _) = post_soon(scheduler, &body, 200);
    let shown = wait_state(scheduler, &id, "missed");
    assert!(shown["error"].as_str().unwrap().contains("its time was over"), "{shown}");
    worker.stop();
    process.stop();
}

fn what_is_overdue_after_a_restart_runs_or_is_missed_with_its_reason(rig: Rig) {
    let process = schedule(&rig);
    let body = |seconds: u32| {
        let kind = "echo";
        json!({"kind": kind, "payload": "late", "lateness_seconds": seconds})
    };
    let (patient, _) = post_soon(process.address(), &body(3600), 400);
    let (strict, _) = post_soon(process.address(), &body(1), 400);
    process.kill();
    let process = schedule(&rig);
    let shown = wait_state(process.address(), &strict, "missed");
    assert!(shown["error"].as_str().unwrap().contains("its time was over"), "{shown}");
    let waits = get(process.address(), &format!("/scheduler/{patient}"));
    assert_eq!(waits["state"], "pending");
    let worker = work(&rig);
    let shown = wait_state(process.address(), &patient, "finished");
    assert_eq!(shown["outcome"], "late");
    worker.stop();
}

/// Waits until so many times of a schedule were started; all that was decided, in order.
fn wait_started(scheduler: SocketAddr, id: &str, starts: usize) -> Vec<Value> {
    wait_for(&format!("{starts} starts of {id}"), || {
        let mut all = occurrences(scheduler, id);
        let started = all.iter().filter(|one| one["decision"] == "started").count();
        all.reverse();
        (started >= starts).then_some(all)
    })
}

fn two_schedulers_start_each_time_once_and_one_goes_on_alone(rig: Rig) {
    let (one, two, worker) = (schedule(&rig), schedule(&rig), work(&rig));
    let body = json!({"kind": "echo", "payload": "x", "every_seconds": 1, "overlap": "allow"});
    let id = post(one.address(), &body);
    wait_started(two.address(), &id, 3);
    one.kill();
    let started = wait_started(two.address(), &id, 5);
    let due: Vec<i64> = started.iter().map(|one| ms(&one["due_at"])).collect();
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 1000), "{due:?}");
    let tasks: BTreeSet<String> =
        started.iter().map(|one| one["task_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(tasks.len(), started.len());
    assert!(started.iter().all(|one| one["count"] == 1 && one["decision"] == "started"));
    let ended = wait_for("what was started to end", || {
        let all = occurrences(two.address(), &id);
        let mut known = all.iter().filter(|one| tasks.contains(one["task_id"].as_str().unwrap()));
        known.all(|one| one["state"] == "finished").then_some(all)
    });
    assert!(ended.iter().filter(|one| one["outcome"] == "x").count() >= tasks.len());
    let shown = get(two.address(), &format!("/scheduler/{id}"));
    assert_eq!((&shown["state"], shown["occurrences"].is_array()), (&json!("active"), true));
    worker.stop();
}

#[test]
fn what_recurs_and_is_overdue_at_a_start_is_caught_up_with_as_it_says() {
    let rig = super::rig();
    schedule(&rig).stop();
    // Each hour, and the last ten and a half of them nobody was there.
    let (now_ms, hour_ms) = (Utc::now().timestamp_millis(), 3_600_000);
    let ways = [("skip", 0, 11), ("latest", 1, 10), ("all", 11, 0)];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ids = ways.map(|(catch_up, _, _)| {
        let new = every(3600, now_ms - 10 * hour_ms - hour_ms / 2, catch_up, "allow");
        let id = new.id.to_string();
        let store = SqliteStore::open(&rig.state()).unwrap();
        runtime.block_on(store.add_schedule(new, now_ms)).unwrap();
        id
    });
    let (process, worker) = (schedule(&rig), work(&rig));
    for (id, (_, starts, missed)) in ids.iter().zip(ways) {
        let all = wait_for("what was overdue to be decided and ended", || {
            let all = occurrences(process.address(), id);
            let has_ended = |one: &Value| one["decision"] == "missed" || one["state"] == "finished";
            (!all.is_empty() && all.iter().all(has_ended)).then_some(all)
        });
        let counted = |decision: &str| {
            let found = all.iter().filter(|one| one["decision"] == decision);
            found.map(|one| one["count"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!((counted("started"), counted("missed")), (starts, missed), "{all:?}");
    }
    worker.stop();
    process.stop();
}

#[test]
fn a_database_that_is_away_when_schedules_are_due_loses_none() {
    let server = PrivatePostgres::start();
    let mut rig = super::rig();
    rig.set("DATABASE_URL", server.database("away"));
    let (process, worker) = (schedule(&rig), work(&rig));
    let scheduler = process.address();
    let body = json!({"kind": "echo", "every_seconds": 1, "overlap": "allow"});
    let id = post(scheduler, &body);
    wait_started(scheduler, &id, 2);
    let (once, start) = post_soon(scheduler, &json!({"kind": "echo", "payload": "x"}), 1000);
    server.stop();
    process.wait_log("are not started now");
    wait_for("the time to come", || {
        (Utc::now().timestamp_millis() > ms(&json!(start))).then_some(())
    });
    server.start_again();
    let is_ready = || request(scheduler, "GET", "/readyz", &[], b"").status == 200;
    wait_for("the database", || is_ready().then_some(()));
    let shown = wait_state(scheduler, &once, "finished");
    assert!(ms(&shown["started_at"]) >= ms(&json!(start)), "{shown}");
    let known = occurrences(scheduler, &id).len();
    let all = wait_started(scheduler, &id, known + 2);
    let due: Vec<i64> = all.iter().map(|one| ms(&one["due_at"])).collect();
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 1000), "{due:?}");
    assert!(all.iter().all(|one| one["decision"] == "started"), "{all:?}");
    worker.stop();
    process.stop();
}

fn what_has_begun_in_time_outlives_its_worker_and_its_lateness(mut rig: Rig) {
    let program = "patient=test -e begun && echo done || { touch begun; exec sleep 9; }";
    rig.set("TASK_EXEC", program).set("TASK_WORKERS", 1);
    let (process, worker) = (schedule(&rig), work(&rig));
    let body = json!({"kind": "patient", "lateness_seconds": 2});
    let (id, start) = post_soon(process.address(), &body, 300);
    wait_for("a program to begin", || rig.dir.path().join("begun").exists().then_some(()));
    worker.kill();
    let is_late = || Utc::now().timestamp_millis() > ms(&json!(start)) + 2000;
    wait_for("its lateness to pass", || is_late().then_some(()));
    let worker = work(&rig);
    let shown = wait_state(process.address(), &id, "finished");
    assert!(shown["outcome"].as_str().unwrap().contains("done"), "{shown}");
    worker.stop();
    process.stop();
}

fn a_running_start_is_cancelled_with_its_schedule(mut rig: Rig) {
    rig.set("TASK_EXEC", "endless=echo $$ >begun; sleep 3600").set("TASK_WORKERS", 1);
    let (process, worker) = (schedule(&rig), work(&rig));
    let scheduler = process.address();
    let id = post(scheduler, &json!({"kind": "endless", "every_seconds": 1}));
    wait_for("a program to begin", || rig.dir.path().join("begun").exists().then_some(()));
    // While it runs the next times are skipped, and say why.
    let skipped = wait_for("a time that is skipped", || {
        occurrences(scheduler, &id).into_iter().find(|one| one["decision"] == "skipped")
    });
    assert!(skipped["reason"].as_str().unwrap().contains("had not ended"), "{skipped}");
    assert!(skipped["task_id"].is_null());
    let answer = ask(scheduler, &format!("POST /scheduler/{id}/cancel"), &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    let all = occurrences(scheduler, &id);
    let started: Vec<&Value> = all.iter().filter(|one| one["decision"] == "started").collect();
    assert_eq!((started.len(), &started[0]["state"]), (1, &json!("cancelled")));
    let begun = std::fs::read_to_string(rig.dir.path().join("begun")).unwrap();
    let program = format!("/proc/{}/cmdline", begun.trim());
    let is_there = || std::fs::read(&program).is_ok_and(|line| !line.is_empty());
    wait_for("the end of the program", || (!is_there()).then_some(()));
    worker.stop();
}
