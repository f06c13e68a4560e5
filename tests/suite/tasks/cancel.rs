//! What is cancelled, or takes too long, is over: with every process that it had started.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{
    everywhere, finished, is_there, rig, runs, submit, submit_one, wait_calculating, wait_gone,
    wait_number, wait_run, wait_state, work,
};
use crate::harness::{Rig, request};

everywhere! {
    cancelling_ends_a_program_and_its_children,
    cancelling_ends_the_process_of_a_calculation_and_a_follower_takes_over,
}

fn cancelling_ends_a_program_and_its_children(rig: Rig) {
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit_one(server.address(), "parent", "");
    let run = wait_run(&rig, &id, 1);
    let child = wait_number(&rig, "child-1");
    assert!(is_there(child));
    let path = format!("/tasks/{id}");
    let answer = request(server.address(), "DELETE", &path, &[], b"");
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("cancelled")));
    wait_gone(run.process);
    wait_gone(child);
    let again = request(server.address(), "DELETE", &path, &[], b"");
    assert_eq!(again.status, 200, "{again:?}");
    // The slot is free again.
    let next = submit_one(server.address(), "noted", "y");
    assert_eq!(finished(server.address(), &next), "y");
    let late = request(server.address(), "DELETE", &format!("/tasks/{next}"), &[], b"");
    assert_eq!(late.status, 409, "{late:?}");
    assert_eq!(runs(&rig).len(), 2);
    worker.stop();
    assert_eq!(wait_state(server.address(), &id, "cancelled")["failures"], 0);
}

fn cancelling_ends_the_process_of_a_calculation_and_a_follower_takes_over(rig: Rig) {
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let calculate = || {
        let json = [("Content-Type", "application/json")];
        let body = br#"{"input": 5000000}"#;
        let answer = request(server.address(), "POST", "/factorial", &json, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let (leader, follower) = (calculate(), calculate());
    let cancel = |id: &str| {
        let answer = request(server.address(), "DELETE", &format!("/factorial/{id}"), &[], b"");
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("error")));
    };
    // They stand still, so that they do not end by themselves.
    let stop = |process: u32| {
        let process = Pid::from_raw(process.cast_signed()).unwrap();
        kill_process(process, Signal::STOP).unwrap();
    };
    let first = wait_calculating(&worker);
    stop(first);
    cancel(&leader);
    wait_gone(first);
    let second = wait_calculating(&worker);
    stop(second);
    wait_state(server.address(), &follower, "running");
    cancel(&follower);
    wait_gone(second);
    let next = submit_one(server.address(), "noted", "y");
    assert_eq!(finished(server.address(), &next), "y");
    let log = worker.stop();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_program_that_takes_too_long_is_ended_with_its_children() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit(server.address(), &[json!({"kind": "hasty", "failures_max": 2})]).remove(0);
    let shown = wait_state(server.address(), &id, "failed");
    assert_eq!(shown["failures"], 2);
    assert!(shown["error"].as_str().unwrap().contains("longer than 1 s"), "{shown}");
    for attempt in 1..=2 {
        wait_gone(wait_run(&rig, &id, attempt).process);
        wait_gone(wait_number(&rig, &format!("child-{attempt}")));
    }
    worker.stop();
}
