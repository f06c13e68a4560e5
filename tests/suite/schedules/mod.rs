//! Schedules: over HTTP, on the real binary, with clocks that jump and schedulers that die.

mod api;
mod bench;
mod clocks;
mod runs;
mod server;
mod tools;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_data_processor::store::schedules::{NewSchedule, ScheduleId, Start};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{Answer, Process, Rig, request, wait_for};
use crate::postgres;

/// Makes a test of each function for each store.
macro_rules! in_each_store {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[test] fn $test() { super::$test(crate::schedules::rig()); })+
        }
        mod database {
            $(#[test] fn $test() { super::$test(crate::schedules::rig_with_database()); })+
        }
    };
}
use in_each_store;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.set("SCHEDULER_PORT", 0);
    rig
}

fn rig_with_database() -> Rig {
    static NUMBERS: AtomicUsize = AtomicUsize::new(0);
    let mut rig = rig();
    let name = format!("schedules_{}", NUMBERS.fetch_add(1, Relaxed));
    rig.set("DATABASE_URL", postgres::server::shared().database(&name));
    rig
}

/// A schedule of tasks of the kind `echo`, every so many seconds from a time on, which may be long
/// past: then nobody was there.
fn every(seconds: u32, from_ms: i64, catch_up: &str, overlap: &str) -> NewSchedule {
    let from = DateTime::from_timestamp_millis(from_ms).unwrap().to_rfc3339();
    let plan = json!({
        "work": {"task": {"kind": "echo", "payload": ""}}, "start_time": from,
        "lateness_seconds": 5, "recurrence": {
            "steps": {"every": {"seconds": seconds}}, "until": null, "catch_up": catch_up,
            "overlap": overlap,
        },
    });
    let (id, plan) = (ScheduleId::new(), plan.to_string().into_bytes());
    NewSchedule { id, label: None, plan, start: Start::Recurring(from_ms) }
}

/// Starts a scheduler, and waits until it listens.
fn schedule(rig: &Rig) -> Process {
    rig.serve(&["scheduler"])
}

/// Starts a worker, and waits until it takes tasks.
fn work(rig: &Rig) -> Process {
    let worker = rig.start(&["task-worker"]);
    worker.wait_log("running tasks");
    worker
}

fn ask(scheduler: SocketAddr, line: &str, body: &Value) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(scheduler, method, path, &[], body.as_bytes())
}

fn get(scheduler: SocketAddr, path: &str) -> Value {
    let answer = ask(scheduler, &format!("GET {path}"), &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Posts a schedule; its id.
fn post(scheduler: SocketAddr, body: &Value) -> String {
    let answer = ask(scheduler, "POST /scheduler/", body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Posts a schedule that starts so soon, or later if the machine is too slow for that; its id and
/// when it starts.
fn post_soon(scheduler: SocketAddr, body: &Value, mut ahead_ms: i64) -> (String, String) {
    loop {
        let (start_time, mut body) = (from_now(ahead_ms), body.clone());
        body["start_time"] = Value::from(start_time.clone());
        let answer = ask(scheduler, "POST /scheduler/", &body);
        if answer.status == 201 {
            return (answer.json()["id"].as_str().unwrap().to_owned(), start_time);
        }
        let is_late = answer.json()["detail"].as_str().unwrap().contains("in the future");
        assert!(answer.status == 400 && is_late, "{answer:?}");
        ahead_ms *= 2;
    }
}

/// A time so far from now, as RFC 3339 has it.
fn from_now(ms: i64) -> String {
    let at: DateTime<Utc> = Utc::now() + TimeDelta::milliseconds(ms);
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Waits until a schedule is in a state.
fn wait_state(scheduler: SocketAddr, id: &str, state: &str) -> Value {
    wait_for(&format!("schedule {id} to be {state}"), || {
        let schedule = get(scheduler, &format!("/scheduler/{id}"));
        (schedule["state"] == state).then_some(schedule)
    })
}

/// What was decided of the times of a schedule, latest first.
fn occurrences(scheduler: SocketAddr, id: &str) -> Vec<Value> {
    let all = get(scheduler, &format!("/scheduler/{id}/occurrences"));
    all.as_array().unwrap().clone()
}
