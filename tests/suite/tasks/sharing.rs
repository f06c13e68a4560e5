//! Many processes on one state directory, and all parts in one process.

use std::collections::HashSet;

use serde_json::json;

use super::{
    everywhere, finished, open_gate, result, rig, runs, submit, submit_one, task, try_submit,
    wait_run, wait_state, work,
};
use crate::harness::{Process, Rig, request};

everywhere! {
    two_servers_and_two_workers_share_the_work_and_run_nothing_twice,
    up_takes_runs_and_keeps_tasks_in_one_process,
}

fn two_servers_and_two_workers_share_the_work_and_run_nothing_twice(rig: Rig) {
    let servers = [rig.serve(&["server"]), rig.serve(&["server"])];
    let workers = [work(&rig), work(&rig)];
    // Each worker has one, so that both are known to take part.
    let gated = [
        submit_one(servers[0].address(), "gated", "a"),
        submit_one(servers[1].address(), "gated", "b"),
    ];
    let holders: HashSet<u32> = gated.iter().map(|id| wait_run(&rig, id, 1).worker).collect();
    assert_eq!(holders, workers.iter().map(Process::id).collect());
    open_gate(&rig, 1);
    let mut ids = Vec::new();
    for round in 0..20 {
        let server = &servers[round % 2];
        let noted = json!({"kind": "noted", "payload": round.to_string()});
        let echo = json!({"kind": "echo", "payload": round.to_string()});
        for id in submit(server.address(), &[noted, echo.clone(), echo]) {
            ids.push((id, round));
        }
    }
    for (id, round) in &ids {
        assert_eq!(finished(servers[(round + 1) % 2].address(), id), round.to_string());
        assert_eq!(task(servers[0].address(), id)["failures"], 0);
    }
    let ran = runs(&rig);
    let different: HashSet<_> = ran.iter().map(|run| run.id.clone()).collect();
    assert_eq!((ran.len(), different.len()), (22, 22));
    workers.into_iter().for_each(|worker| drop(worker.stop()));
    servers.into_iter().for_each(|server| drop(server.stop()));
}

fn up_takes_runs_and_keeps_tasks_in_one_process(rig: Rig) {
    let up = rig.serve(&["up"]);
    let noted = submit_one(up.address(), "noted", "x");
    let poison = submit(up.address(), &[json!({"kind": "suicide", "failures_max": 1})]).remove(0);
    let json = [("Content-Type", "application/json")];
    let answer = request(up.address(), "POST", "/factorial", &json, br#"{"input": 20000}"#);
    let large = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(finished(up.address(), &noted), "x");
    assert_eq!(finished(up.address(), &large).len(), 77_338);
    wait_state(up.address(), &poison, "failed");
    let gated = submit_one(up.address(), "gated", "y");
    wait_run(&rig, &gated, 1);
    // Before that a broker might give the same attempt out again.
    wait_state(up.address(), &gated, "running");
    up.kill();
    let up = rig.serve(&["up"]);
    wait_run(&rig, &gated, 2);
    open_gate(&rig, 2);
    assert_eq!(finished(up.address(), &gated), "y:2\n");
    assert_eq!(result(up.address(), &large).body.len(), 77_338);
    up.stop();
}

#[test]
fn a_task_that_is_submitted_again_runs_once() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let one =
        json!({"id": "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6b", "kind": "noted", "payload": "x"});
    let id = submit(server.address(), std::slice::from_ref(&one)).remove(0);
    submit(server.address(), std::slice::from_ref(&one));
    assert_eq!(finished(server.address(), &id), "x");
    submit(server.address(), &[one]);
    let other = json!({"id": id, "kind": "noted", "payload": "y"});
    let refused = try_submit(server.address(), &[other]);
    assert_eq!(refused.status, 422, "{refused:?}");
    let last = submit_one(server.address(), "noted", "z");
    assert_eq!(finished(server.address(), &last), "z");
    assert_eq!(finished(server.address(), &id), "x");
    assert_eq!(runs(&rig).len(), 2);
    worker.stop();
}
