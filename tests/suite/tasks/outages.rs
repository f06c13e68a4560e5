//! Databases and brokers that are gone for a while, and what is on its way meanwhile.

use std::collections::HashSet;

use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::{
    finished, in_database, open_gate, over_pipes, rig_with_pipes, runs, submit, submit_one, task,
    try_submit, wait_run, wait_state, work,
};
use crate::harness::{Process, Rig, wait_for};
use crate::postgres::server::PrivatePostgres;
use crate::rabbitmq::broker::PrivateBroker;

/// Submits while `outage` takes its course, and goes on until something is accepted after it: what
/// was accepted, each with what it must say.
fn submit_through(server: &Process, outage: impl FnOnce() + Send) -> Vec<(String, String)> {
    let mut accepted = Vec::new();
    std::thread::scope(|scope| {
        let outage = scope.spawn(outage);
        let mut round = 0;
        wait_for("tasks to be accepted after an outage", || {
            let was_over = outage.is_finished();
            round += 1;
            let text = round.to_string();
            let tasks =
                ["noted", "echo", "echo"].map(|kind| json!({"kind": kind, "payload": text}));
            let answer = try_submit(server.address(), &tasks);
            if answer.status != 201 {
                assert_eq!(answer.status, 503, "{answer:?}");
                return None;
            }
            let ids = answer.json()["ids"].as_array().unwrap().clone();
            accepted.extend(ids.iter().map(|id| (id.as_str().unwrap().to_owned(), text.clone())));
            was_over.then_some(())
        });
        outage.join().unwrap();
    });
    accepted
}

/// Everything has come to its end.
fn assert_finished(server: &Process, accepted: &[(String, String)]) {
    for (id, text) in accepted {
        assert_eq!(finished(server.address(), id), *text);
    }
}

/// And nothing was begun twice as the same attempt.
fn assert_done(rig: &Rig, server: &Process, accepted: &[(String, String)]) {
    assert_finished(server, accepted);
    let ran = runs(rig);
    let different: HashSet<_> = ran.iter().map(|run| (run.id.clone(), run.attempt)).collect();
    assert_eq!(ran.len(), different.len());
}

#[test]
fn a_database_that_is_killed_and_restarted_under_load_loses_nothing() {
    let database = PrivatePostgres::start();
    let rig = in_database(&database);
    let server = rig.serve(&["server"]);
    let workers = [work(&rig), work(&rig)];
    let mut accepted = submit_through(&server, || ());
    for _ in 0..3 {
        accepted.extend(submit_through(&server, || {
            database.kill();
            database.start_again();
            database.stop();
            database.start_again();
        }));
    }
    assert_done(&rig, &server, &accepted);
    workers.into_iter().for_each(|worker| drop(worker.stop()));
    server.stop();
}

#[test]
fn a_result_that_is_ready_while_the_database_is_away_waits_on_disk_and_is_delivered() {
    let database = PrivatePostgres::start();
    let rig = in_database(&database);
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit_one(server.address(), "gated", "x");
    wait_run(&rig, &id, 1);
    database.stop();
    open_gate(&rig, 1);
    worker.wait_log("results cannot be delivered now");
    database.start_again();
    // Nobody was silent while nobody listened: the worker still is the one who runs it.
    assert_eq!(finished(server.address(), &id), "x:1\n");
    assert_eq!(task(server.address(), &id)["failures"], 0);
    worker.stop();
    server.stop();
}

#[test]
fn a_broker_and_a_database_that_are_killed_under_load_lose_nothing() {
    let (database, broker) = (PrivatePostgres::start(), PrivateBroker::start());
    let rig = over_pipes(&database, &broker);
    let server = rig.serve(&["server"]);
    let workers = [work(&rig), work(&rig)];
    let mut accepted = submit_through(&server, || ());
    assert_done(&rig, &server, &accepted);
    broker.sync_declared();
    for _ in 0..2 {
        accepted.extend(submit_through(&server, || {
            broker.kill();
            broker.start_again();
        }));
        accepted.extend(submit_through(&server, || {
            database.kill();
            broker.close_connections();
            database.start_again();
        }));
    }
    // A broker that comes back brings what was not acknowledged, to whoever asks first.
    assert_finished(&server, &accepted);
    workers.into_iter().for_each(|worker| drop(worker.stop()));
    server.stop();
}

#[test]
fn a_server_that_is_killed_leaves_what_is_on_its_way_to_the_next_one() {
    let (database, broker) = (PrivatePostgres::start(), PrivateBroker::start());
    let rig = over_pipes(&database, &broker);
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let gated = submit_one(server.address(), "gated", "x");
    wait_run(&rig, &gated, 1);
    let many: Vec<_> = (0..50).map(|_| json!({"kind": "echo", "payload": "y"})).collect();
    let ids = submit(server.address(), &many);
    server.kill();
    open_gate(&rig, 1);
    let server = rig.serve(&["server"]);
    for id in &ids {
        assert_eq!(finished(server.address(), id), "y");
    }
    // Its worker was alive all the time.
    assert_eq!(finished(server.address(), &gated), "x:1\n");
    assert_eq!(runs(&rig).len(), 1);
    worker.stop();
    server.stop();
}

#[test]
fn what_no_worker_takes_from_the_queue_in_time_is_missed_and_what_runs_is_not() {
    let rig = rig_with_pipes();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let until = (Utc::now() + TimeDelta::seconds(8)).to_rfc3339();
    let until = |kind: &str| json!({"kind": kind, "payload": "x", "expires_at": until});
    let ids = submit(server.address(), &[until("gated"), until("known-to-nobody")]);
    wait_run(&rig, &ids[0], 1);
    let missed = wait_state(server.address(), &ids[1], "missed");
    assert!(missed["error"].as_str().unwrap().contains("its time was over"), "{missed}");
    assert_eq!(task(server.address(), &ids[0])["state"], "running");
    open_gate(&rig, 1);
    assert_eq!(finished(server.address(), &ids[0]), "x:1\n");
    worker.stop();
    server.stop();
}
