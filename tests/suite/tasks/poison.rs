//! Tasks that fail whenever they run take nobody with them, and are given up.

use std::collections::HashSet;

use serde_json::json;

use super::{
    children, everywhere, finished, rig, runs, submit, submit_one, task, wait_run, wait_state, work,
};
use crate::harness::{Rig, wait_for};

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

everywhere! {
    a_task_that_kills_its_worker_is_given_up_and_takes_none_of_its_neighbours_along,
}

fn a_task_that_kills_its_worker_is_given_up_and_takes_none_of_its_neighbours_along(rig: Rig) {
    let server = rig.serve(&["server"]);
    let noted = |number: usize| json!({"kind": "noted", "payload": number.to_string()});
    let mut entries: Vec<_> = (0..20).map(noted).collect();
    // Nobody else may fail at all.
    entries.iter_mut().for_each(|entry| entry["failures_max"] = json!(1));
    entries.insert(10, json!({"kind": "assassin", "failures_max": 3}));
    let mut ids = submit(server.address(), &entries);
    let assassin = ids.remove(10);
    let mut worker = work(&rig);
    let ended = |id: &String| task(server.address(), id)["finished_at"].is_string();
    wait_for("all to have ended", || {
        if !worker.is_alive() {
            worker = work(&rig);
        }
        (ended(&assassin) && ids.iter().all(ended)).then_some(())
    });
    let shown = task(server.address(), &assassin);
    assert_eq!((&shown["state"], &shown["failures"]), (&json!("failed"), &json!(3)), "{shown}");
    assert!(shown["error"].as_str().unwrap().contains("died"), "{shown}");
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(finished(server.address(), id), number.to_string());
        assert_eq!(task(server.address(), id)["failures"], 0);
    }
    assert_eq!(runs(&rig).iter().filter(|run| run.id == assassin).count(), 3);
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
