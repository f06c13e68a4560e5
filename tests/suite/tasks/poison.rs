//! Tasks that fail whenever they run take nobody with them, and are given up.

use std::collections::HashSet;

use serde_json::json;

use super::{children, finished, rig, runs, submit, submit_one, task, wait_run, wait_state, work};
use crate::harness::wait_for;

#[test]
fn a_program_that_kills_itself_is_given_up_after_so_many_failures_and_the_worker_lives() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit(server.address(), &[json!({"kind": "suicide", "failures_max": 3})]).remove(0);
    let shown = wait_state(server.address(), &id, "failed");
    assert_eq!((&shown["failures"], &shown["attempt"]), (&json!(3), &json!(3)));
    assert!(shown["error"].as_str().unwrap().contains("signal"), "{shown}");
    assert_eq!(runs(&rig).len(), 3);
    let next = submit_one(server.address(), "noted", "y");
    assert_eq!(finished(server.address(), &next), "y");
    assert_eq!(wait_run(&rig, &next, 1).worker, worker.id());
    worker.stop();
}

#[test]
fn a_calculation_whose_process_is_killed_each_time_is_given_up_and_the_worker_lives() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a";
    let payload = json!({"version": "v1", "id": id, "input": 9_000_000});
    let order = json!({"id": id, "kind": "factorial", "payload": payload, "failures_max": 3});
    submit(server.address(), &[order]);
    let mut killed = HashSet::new();
    wait_for("the calculation to be given up", || {
        for (process, line) in children(worker.id()) {
            if line.contains("calculate-child") && killed.insert(process) {
                let process = rustix::process::Pid::from_raw(process.cast_signed()).unwrap();
                rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
            }
        }
        (task(server.address(), id)["state"] == "failed").then_some(())
    });
    assert_eq!(killed.len(), 3);
    let shown = task(server.address(), id);
    assert_eq!(shown["failures"], 3);
    assert!(shown["error"].as_str().unwrap().contains("signal: 9"), "{shown}");
    let next = submit_one(server.address(), "echo", "y");
    assert_eq!(finished(server.address(), &next), "y");
    worker.stop();
}

#[test]
fn a_kind_that_nobody_knows_waits_and_hinders_nobody() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit_one(server.address(), "unknown", "x");
    let next = submit_one(server.address(), "noted", "y");
    assert_eq!(finished(server.address(), &next), "y");
    let shown = task(server.address(), &id);
    assert_eq!((&shown["state"], &shown["attempt"]), (&json!("pending"), &json!(0)));
    worker.stop();
}
