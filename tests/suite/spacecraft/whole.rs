//! R2's requests against `up`: a schedule's window ends with its outcome, and the ship's data.

use std::net::SocketAddr;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{Rig, request, wait_for};

/// Schedules a capture that begins in a moment; its id.
fn schedule(scheduler: SocketAddr, ship: &str, duration_seconds: u64) -> String {
    let start = Utc::now() + TimeDelta::milliseconds(500);
    let body =
        json!({"ship_name": ship, "start_time": start.to_rfc3339(), "duration": duration_seconds});
    let answer = request(scheduler, "POST", "/scheduler/", &[], body.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    let created = answer.json();
    assert_eq!(
        (&created["ship_name"], &created["duration"]),
        (&body["ship_name"], &body["duration"])
    );
    created["id"].as_str().unwrap().to_owned()
}

/// The schedule, once it has ended.
fn ended(scheduler: SocketAddr, id: &str) -> Value {
    wait_for(&format!("the end of schedule {id}"), || {
        let schedule = request(scheduler, "GET", &format!("/scheduler/{id}"), &[], b"").json();
        let is_open = ["pending", "running"].map(Value::from).contains(&schedule["state"]);
        (!is_open).then_some(schedule)
    })
}

#[test]
fn a_window_of_up_ends_with_its_outcome_and_every_datagram_is_accounted_for() {
    let rig = Rig::new();
    let up = rig.start(&["up"]);
    let [scheduler, spaceship] = ["scheduler", "spaceship"].map(|service| up.address_of(service));
    let id = schedule(scheduler, "TARDIS", 2);
    // While it runs, the ship says what it has sent.
    let stream = wait_for("a stream", || {
        let streams = request(spaceship, "GET", "/stream/", &[], b"").json();
        (streams["number_of_active_streams"] == 1).then(|| streams["streams"][0].clone())
    });
    let schedule = ended(scheduler, &id);
    let outcome = &schedule["outcome"];
    assert_eq!(schedule["state"], "finished", "{schedule}");
    let key = stream["event_key"].as_str().unwrap();
    let stream = request(spaceship, "GET", &format!("/stream/{key}"), &[], b"").json();
    assert_eq!((&stream["state"], &stream["reason"]), (&json!("ended"), &json!("stopped")));
    assert_eq!((&outcome["sent"], &outcome["event_key"]), (&stream["sent"], &stream["event_key"]));
    let count = |member: &str| outcome[member].as_u64().unwrap();
    let told = ["stored", "malformed", "truncated", "lost"].map(count);
    assert_eq!(count("sent"), told.iter().sum::<u64>(), "{outcome}");
    assert!(count("stored") > 0, "{outcome}");
    let shown = wait_for("the ship's data", || {
        let shown = String::from_utf8(rig.run(&["ship-data"]).stdout).unwrap();
        (shown == format!("TARDIS: {}\n", count("stored"))).then_some(shown)
    });
    assert!(!shown.is_empty());
    up.stop();
}
