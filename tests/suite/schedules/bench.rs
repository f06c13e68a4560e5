//! `bench schedules` against a scheduler of its own.

use std::process::Output;

use serde_json::Value;

use super::{rig, schedule, work};
use crate::harness::{Process, Rig};

fn bench(rig: &Rig, scheduler: &Process, arguments: &[&str]) -> Output {
    let url = format!("http://{}", scheduler.address());
    rig.run(&[&["bench", "schedules", "--url", &url, "--output", "json"], arguments].concat())
}

fn figures(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn users_and_a_flood_are_counted_and_measured() {
    let rig = rig();
    let scheduler = schedule(&rig);
    let flood = figures(&bench(&rig, &scheduler, &["--rate-max", "--count", "300"]));
    assert_eq!((&flood["posted"], &flood["post_ms"]["count"]), (&300.into(), &300.into()));
    assert_eq!(flood["processes"][0]["command"], "scheduler");
    let users = figures(&bench(&rig, &scheduler, &["--users", "20", "--count", "10"]));
    assert_eq!(users["posted"], 10);
    assert!(users["lateness"].is_null());
    let gone = scheduler.address();
    scheduler.stop();
    let url = format!("http://{gone}");
    let output = rig.run(&["bench", "schedules", "--url", &url]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

#[test]
fn lateness_is_measured_of_all_that_is_due() {
    let rig = rig();
    let (scheduler, worker) = (schedule(&rig), work(&rig));
    let arguments = ["--due", "9", "--within-seconds", "1", "--pending", "50"];
    let seen = figures(&bench(&rig, &scheduler, &arguments));
    let lateness = &seen["lateness"];
    assert_eq!((&seen["posted"], &lateness["finished"]), (&50.into(), &9.into()));
    assert_eq!((&lateness["early"], &lateness["begun_ms"]["count"]), (&0.into(), &9.into()));
    worker.stop();
}
