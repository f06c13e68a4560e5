//! Workers that die, stand still, or are told to go.

use serde_json::json;

use super::{
    finished, is_there, open_gate, rig, runs, submit, submit_one, task, wait_gone, wait_run,
    wait_state, work,
};

#[test]
fn what_a_killed_worker_ran_is_run_again_by_another_and_counts_as_a_failure() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let mut workers = vec![work(&rig), work(&rig)];
    let id = submit_one(server.address(), "gated", "x");
    let first = wait_run(&rig, &id, 1);
    let place = workers.iter().position(|worker| worker.id() == first.worker).unwrap();
    workers.remove(place).kill();
    let second = wait_run(&rig, &id, 2);
    assert_eq!(second.worker, workers[0].id());
    // What the dead one had begun may end now, and nobody listens.
    open_gate(&rig, 1);
    open_gate(&rig, 2);
    assert_eq!(finished(server.address(), &id), "x:2\n");
    let shown = task(server.address(), &id);
    assert_eq!((&shown["attempt"], &shown["failures"]), (&json!(2), &json!(1)));
    assert_eq!(runs(&rig).len(), 2);
}

#[test]
fn a_worker_that_stood_still_changes_nothing_by_its_late_result() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let mut workers = vec![work(&rig), work(&rig)];
    let id = submit_one(server.address(), "gated", "x");
    let first = wait_run(&rig, &id, 1);
    let place = workers.iter().position(|worker| worker.id() == first.worker).unwrap();
    let slow = workers.remove(place);
    slow.signal("STOP");
    // Its program goes on, and has its result ready when the worker wakes up.
    open_gate(&rig, 1);
    wait_gone(first.process);
    wait_run(&rig, &id, 2);
    slow.signal("CONT");
    slow.wait_log("the task had ended, or was given to another worker");
    let shown = task(server.address(), &id);
    assert_eq!((&shown["state"], &shown["attempt"]), (&json!("running"), &json!(2)));
    open_gate(&rig, 2);
    assert_eq!(finished(server.address(), &id), "x:2\n");
    // It was declared dead, and works on under another name.
    workers.remove(0).stop();
    let next = submit_one(server.address(), "noted", "y");
    assert_eq!(finished(server.address(), &next), "y");
    assert_eq!(wait_run(&rig, &next, 1).worker, slow.id());
}

#[test]
fn what_a_worker_ran_when_it_was_told_to_stop_is_given_back_and_counts_as_no_failure() {
    let mut rig = rig();
    rig.set("SHUTDOWN_SECONDS", 3);
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let gated = submit_one(server.address(), "gated", "x");
    let first = wait_run(&rig, &gated, 1);
    // Others wait behind it, and some come still while it stops.
    let many: Vec<_> =
        (0..200).map(|n| json!({"kind": "echo", "payload": n.to_string()})).collect();
    let mut echoes = submit(server.address(), &many);
    worker.signal("TERM");
    echoes.extend(submit(server.address(), &many));
    worker.stop();
    assert!(!is_there(first.process));
    let shown = wait_state(server.address(), &gated, "pending");
    assert_eq!((&shown["attempt"], &shown["failures"]), (&json!(1), &json!(0)));
    open_gate(&rig, 2);
    let worker = work(&rig);
    assert_eq!(finished(server.address(), &gated), "x:2\n");
    for (place, id) in echoes.iter().enumerate() {
        assert_eq!(finished(server.address(), id), (place % 200).to_string());
        assert_eq!(task(server.address(), id)["failures"], 0);
    }
    worker.stop();
    server.stop();
}

#[test]
fn a_short_program_may_end_when_its_worker_is_told_to_stop() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit_one(server.address(), "gated", "x");
    wait_run(&rig, &id, 1);
    worker.signal("TERM");
    worker.wait_log("shutting down");
    open_gate(&rig, 1);
    worker.stop();
    assert_eq!(finished(server.address(), &id), "x:1\n");
    assert_eq!(runs(&rig).len(), 1);
}
