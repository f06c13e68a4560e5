//! Schedules by way of a server: the page has one address for all.

use serde_json::json;

use super::{ask, in_each_store, occurrences, post, post_soon, schedule, wait_state, work};
use crate::harness::{Rig, wait_for};

in_each_store!(what_is_scheduled_at_a_server_runs_and_is_cancelled_there);

fn what_is_scheduled_at_a_server_runs_and_is_cancelled_there(rig: Rig) {
    let server = rig.serve(&["server"]);
    let address = server.address();
    let again = json!({"kind": "echo", "payload": "x", "every_seconds": 1, "overlap": "allow"});
    let again = post(address, &again);
    let (once, _) = post_soon(address, &json!({"kind": "echo", "payload": "y"}), 300);
    let (worker, scheduler) = (work(&rig), schedule(&rig));
    assert_eq!(wait_state(address, &once, "finished")["outcome"], "y");
    wait_for("two starts", || (occurrences(address, &again).len() > 1).then_some(()));
    let answer = ask(address, &format!("POST /scheduler/{again}/cancel"), &json!(null));
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_state(scheduler.address(), &again, "cancelled");
    let wrong = ask(address, "POST /scheduler/", &json!({"kind": "echo", "cron": "x"}));
    assert_eq!(wrong.status, 400);
    assert!(wrong.json()["detail"].as_str().unwrap().contains("cron"), "{wrong:?}");
    worker.stop();
    scheduler.stop();
    server.stop();
}
