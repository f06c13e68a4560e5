//! Workers that die, stand still, or are told to go.

use serde_json::json;

use super::{
    everywhere, finished, is_there, open_gate, runs, submit, submit_one, task, wait_gone, wait_run,
    wait_state, work,
};
use crate::harness::{Rig, wait_for};

everywhere! {
    what_a_killed_worker_ran_is_run_again_by_another_and_the_next_one_tells_of_it,
    a_worker_that_stood_still_changes_nothing_by_its_late_result,
    what_a_worker_ran_when_it_was_told_to_stop_is_given_back_and_counts_as_no_failure,
    a_short_program_may_end_when_its_worker_is_told_to_stop,
}

fn what_a_killed_worker_ran_is_run_again_by_another_and_the_next_one_tells_of_it(rig: Rig) {
    let server = rig.serve(&["server"]);
    let mut workers = vec![work(&rig), work(&rig)];
    let id = submit_one(server.address(), "gated", "x");
    let first = wait_run(&rig, &id, 1);
    // Before that a broker might give the same attempt to another.
    wait_state(server.address(), &id, "running");
    let place = workers.iter().position(|worker| worker.id() == first.worker).unwrap();
    workers.remove(place).kill();
    let second = wait_run(&rig, &id, 2);
    assert_eq!(second.worker, workers[0].id());
    assert_eq!(task(server.address(), &id)["failures"], 0);
    // The next process of the machine knows what the dead one ran.
    workers.push(work(&rig));
    wait_for("the failure", || (task(server.address(), &id)["failures"] == 1).then_some(()));
    // What the dead one had begun may end now, and nobody listens.
    open_gate(&rig, 1);
    open_gate(&rig, 2);
    assert_eq!(finished(server.address(), &id), "x:2\n");
    let shown = task(server.address(), &id);
    assert_eq!((&shown["attempt"], &shown["failures"]), (&json!(2), &json!(1)));
    assert_eq!(runs(&rig).len(), 2);
}

fn a_worker_that_stood_still_changes_nothing_by_its_late_result(rig: Rig) {
    let server = rig.serve(&["server"]);
    let mut workers = vec![work(&rig), work(&rig)];
    let id = submit_one(server.address(), "gated", "x");
    let first = wait_run(&rig, &id, 1);
    // Before that a broker might give the same attempt to another.
    wait_state(server.address(), &id, "running");
    let place = workers.iter().position(|worker| worker.id() == first.worker).unwrap();
    let slow = workers.remove(place);
    slow.signal("STOP");
    // Its program goes on, and has its result ready when the worker wakes up.
    open_gate(&rig, 1);
    wait_gone(first.process);
    wait_run(&rig, &id, 2);
    wait_state(server.address(), &id, "running");
    slow.signal("CONT");
    // It was declared dead, and works on under another name: what it says then, it says later.
    let next = submit_one(server.address(), "noted", "y");
    assert_eq!(finished(server.address(), &next), "y");
    assert_eq!(wait_run(&rig, &next, 1).worker, slow.id());
    let shown = task(server.address(), &id);
    assert_eq!((&shown["state"], &shown["attempt"]), (&json!("running"), &json!(2)));
    open_gate(&rig, 2);
    assert_eq!(finished(server.address(), &id), "x:2\n");
}

fn what_a_worker_ran_when_it_was_told_to_stop_is_given_back_and_counts_as_no_failure(mut rig: Rig) {
    rig.set("SHUTDOWN_SECONDS", 3);
    let server = rig.serve(&["server"]);
    let mut worker = work(&rig);
    let gated = submit_one(server.address(), "gated", "x");
    let first = wait_run(&rig, &gated, 1);
    // Before that, a broker would bring it again as the same attempt.
    wait_for("the task to be known to run", || {
        (task(server.address(), &gated)["state"] == "running").then_some(())
    });
    // Others wait behind it, and some come still while it stops.
    let many: Vec<_> =
        (0..200).map(|n| json!({"kind": "echo", "payload": n.to_string()})).collect();
    let mut echoes = submit(server.address(), &many);
    worker.signal("TERM");
    echoes.extend(submit(server.address(), &many));
    assert_eq!(worker.wait().code(), Some(0), "{}", worker.log());
    assert!(!is_there(first.process));
    let shown = wait_for("the task to be given back", || {
        let shown = task(server.address(), &gated);
        (shown["state"] != "running").then_some(shown)
    });
    assert_eq!(shown["failures"], 0, "{shown}");
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

fn a_short_program_may_end_when_its_worker_is_told_to_stop(rig: Rig) {
    let server = rig.serve(&["server"]);
    let mut worker = work(&rig);
    let id = submit_one(server.address(), "gated", "x");
    wait_run(&rig, &id, 1);
    worker.signal("TERM");
    worker.wait_log("stopping");
    open_gate(&rig, 1);
    assert_eq!(worker.wait().code(), Some(0), "{}", worker.log());
    assert_eq!(finished(server.address(), &id), "x:1\n");
    assert_eq!(runs(&rig).len(), 1);
}
