//! R2's requests against all services: a window ends with its outcome, and the ship's data.

use std::collections::HashMap;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use super::harbour::{Harbour, everywhere};
use crate::harness::{request, wait_for};
use crate::ships::ship_lines;

everywhere! {
    requests_of_old_end_with_outcomes_and_every_datagram_is_accounted_for,
    each_start_of_what_recurs_has_one_outcome,
}

const SHIPS: [&str; 3] = ["USS Enterprise", "TARDIS", "Planet Express"];

fn requests_of_old_end_with_outcomes_and_every_datagram_is_accounted_for(mut harbour: Harbour) {
    for service in [harbour.scheduler, harbour.spaceship] {
        let answer = request(service, "GET", "/healthcheck/", &[], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let health = harbour.get("/healthcheck/");
    assert_eq!(health, json!({"message": "Service is up and running."}));
    assert_eq!(harbour.streams()["number_of_active_streams"], 0);
    let wanted = SHIPS.map(|ship| {
        let created = harbour.schedule(|start| {
            let start_time = start.to_rfc3339_opts(SecondsFormat::Millis, true);
            json!({"ship_name": ship, "start_time": start_time, "duration": 5})
        });
        let members: Vec<&String> = created.as_object().unwrap().keys().collect();
        assert_eq!(members, ["duration", "id", "ship_name", "start_time", "task_id"]);
        assert_eq!((&created["ship_name"], &created["duration"]), (&json!(ship), &json!(5)));
        created
    });
    let id = |created: &Value| created["id"].as_str().unwrap().to_owned();
    let all = harbour.get("/scheduler/");
    let is_listed = |one: &Value| all.as_array().unwrap().iter().any(|all| all["id"] == one["id"]);
    assert!(wanted.iter().all(is_listed), "{all}");
    // At once, each on a port of its own.
    for ship in SHIPS {
        harbour.wait_stream(ship);
    }
    assert!(harbour.capture_ports().len() >= SHIPS.len());
    let (mut counts, mut starts) = (Vec::new(), HashMap::new());
    for (ship, wanted) in SHIPS.into_iter().zip(&wanted) {
        let schedule = harbour.ended(&id(wanted));
        assert_eq!(schedule["state"], "finished", "{schedule}");
        counts.push((ship, harbour.check_outcome(ship, &schedule["outcome"])));
        let time = |of: &Value, member: &str| of[member].as_str().unwrap().to_owned();
        let start_time = time(wanted, "start_time");
        assert!(time(&schedule, "started_at") >= start_time, "early: {schedule}");
        starts.insert(ship.to_owned(), start_time);
    }
    harbour.wait_quiet();
    harbour.wait_counts(&counts);
    // To the millisecond, as schedules have it.
    let ms = |time: &str| time.get(..23).map(str::to_owned);
    for line in ship_lines(&harbour.rig) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let start_time = &starts[line["ship"].as_str().unwrap()];
        assert!(ms(line["timestamp"].as_str().unwrap()) >= ms(start_time), "early: {line}");
    }
    harbour.stop();
}

fn each_start_of_what_recurs_has_one_outcome(mut harbour: Harbour) {
    let created = harbour.schedule(|start| {
        let until = start + TimeDelta::seconds(5);
        json!({
            "ship_name": "TARDIS", "start_time": start.to_rfc3339(), "duration": 3,
            "every_seconds": 2, "until": until.to_rfc3339(), "overlap": "allow",
        })
    });
    let id = created["id"].as_str().unwrap();
    assert_eq!(harbour.ended(id)["state"], "ended");
    let path = format!("/scheduler/{id}/occurrences");
    let times = wait_for("the outcomes of all starts", || {
        let times = harbour.get(&path);
        let has_ended = |time: &Value| {
            !["pending", "queued", "running"].contains(&time["state"].as_str().unwrap())
        };
        times.as_array().unwrap().iter().all(has_ended).then_some(times)
    });
    let times = times.as_array().unwrap();
    assert_eq!(times.len(), 3, "{times:?}");
    let mut stored = 0;
    for time in times {
        assert_eq!((&time["decision"], &time["state"]), (&json!("started"), &json!("finished")));
        assert!(time["started_at"].as_str() >= time["due_at"].as_str(), "early: {time}");
        stored += harbour.check_outcome("TARDIS", &time["outcome"]);
    }
    harbour.wait_quiet();
    harbour.wait_counts(&[("TARDIS", stored)]);
    harbour.stop();
}
