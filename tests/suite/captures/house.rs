//! Captures as tasks, on the real binary.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_data_processor::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::fake::{FakeShip, FakeStream, telemetry};
use super::streams::send_while_wanted;
use crate::harness::{Process, Rig, entry, request, wait_for};
use crate::rabbitmq::proxy::{Direction, Proxy};
use crate::{postgres, rabbitmq};

/// Makes a test of each function for each way in which tasks reach workers.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[test] fn $test() { super::$test(super::Rig::new()); })+
        }
        mod database {
            $(#[test] fn $test() { super::$test(super::with_database()); })+
        }
        mod pipes {
            $(#[test] fn $test() { super::$test(super::with_pipes()); })+
        }
    };
}

everywhere! {
    a_capture_runs_beside_long_tasks_and_its_account_is_the_result_of_its_task,
    a_window_that_is_over_is_missed_and_says_why,
    a_capture_that_is_cancelled_stops_its_stream,
    a_capture_whose_process_is_killed_is_begun_again_and_its_stream_ends,
    a_capture_pushes_out_no_keys_of_clients,
    captures_beyond_the_most_wait_and_capture_the_rest_of_their_windows,
}

fn number() -> usize {
    static NUMBERS: AtomicUsize = AtomicUsize::new(0);
    NUMBERS.fetch_add(1, Relaxed)
}

fn with_database() -> Rig {
    let mut rig = Rig::new();
    let database = postgres::server::shared().database(&format!("captures_{}", number()));
    rig.set("DATABASE_URL", database);
    rig
}

fn with_pipes() -> Rig {
    let mut rig = with_database();
    rig.set("RABBITMQ_URL", rabbitmq::broker::shared().vhost(&format!("captures-{}", number())));
    rig
}

/// Sends a hundred datagrams, then nothing.
fn a_hundred(stream: &FakeStream) {
    (0..100).for_each(|number| stream.send(&telemetry(number)));
    stream.wait_unwanted();
}

fn consume(rig: &Rig) -> Process {
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("running captures");
    consumer
}

/// Submits a capture whose window is over in so many milliseconds.
fn submit(server: SocketAddr, ship: &str, window_ms: i64) -> String {
    let until_ms = SystemClock.wall().timestamp_millis() + window_ms;
    let order = json!({"ship_name": ship, "until_ms": until_ms}).to_string();
    let task = json!([{"kind": "capture", "payload": order}]).to_string();
    let json = [("Content-Type", "application/json")];
    let answer = request(server, "POST", "/tasks", &json, task.as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["ids"][0].as_str().unwrap().to_owned()
}

fn wait_state(server: SocketAddr, id: &str, state: &str) -> Value {
    wait_for(&format!("{id} to be {state}"), || {
        let answer = request(server, "GET", &format!("/tasks/{id}"), &[], b"");
        let task = answer.json();
        (task["state"] == state).then_some(task)
    })
}

fn wait_stream(ship: &FakeShip, number: usize) -> std::sync::Arc<FakeStream> {
    wait_for(&format!("stream {number}"), || ship.streams().get(number).cloned())
}

fn wait_off(stream: &FakeStream) {
    wait_for("the end of the stream", || (!stream.is_on()).then_some(()));
}

fn a_capture_runs_beside_long_tasks_and_its_account_is_the_result_of_its_task(mut rig: Rig) {
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url()).set("TASK_WORKERS", 1);
    rig.set("TASK_EXEC", "long=sleep 3600");
    let server = rig.serve(&["server"]);
    let consumer = consume(&rig);
    let long = json!([{"kind": "long", "payload": ""}]).to_string();
    let json = [("Content-Type", "application/json")];
    let answer = request(server.address(), "POST", "/tasks", &json, long.as_bytes());
    wait_state(server.address(), answer.json()["ids"][0].as_str().unwrap(), "running");
    let ids: Vec<String> =
        (0..5).map(|n| submit(server.address(), &format!("Ship {n}"), 8000)).collect();
    for (number, id) in ids.iter().enumerate() {
        let task = wait_state(server.address(), id, "finished");
        let path = format!("/tasks/{id}/result");
        let account = request(server.address(), "GET", &path, &[], b"").json();
        assert_eq!(account["ship_name"], format!("Ship {number}"), "{task}");
        assert_eq!((&account["sent"], &account["stored"]), (&json!(100), &json!(100)));
        assert_eq!(account["ended_by"], "window");
    }
    ship.streams().iter().for_each(|stream| wait_off(stream));
    drop(consumer);
}

fn a_window_that_is_over_is_missed_and_says_why(mut rig: Rig) {
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url());
    let server = rig.serve(&["server"]);
    let id = submit(server.address(), "TARDIS", -1);
    let consumer = consume(&rig);
    let task = wait_state(server.address(), &id, "missed");
    assert!(task.to_string().contains("its window was over before it began"), "{task}");
    assert_eq!(ship.asked(), [""; 0]);
    consumer.stop();
}

fn a_capture_that_is_cancelled_stops_its_stream(mut rig: Rig) {
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url());
    let server = rig.serve(&["server"]);
    let consumer = consume(&rig);
    let id = submit(server.address(), "TARDIS", 3_600_000);
    let stream = wait_stream(&ship, 0);
    let answer = request(server.address(), "DELETE", &format!("/tasks/{id}"), &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_off(&stream);
    assert_eq!(ship.asked().last().unwrap(), &format!("DELETE /stream/{}", stream.key));
    // So does one that the process gives back, since it stops.
    submit(server.address(), "TARDIS", 3_600_000);
    let stream = wait_stream(&ship, 1);
    consumer.stop();
    wait_off(&stream);
    assert_eq!(ship.asked().last().unwrap(), &format!("DELETE /stream/{}", stream.key));
}

fn a_capture_whose_process_is_killed_is_begun_again_and_its_stream_ends(mut rig: Rig) {
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url());
    let server = rig.serve(&["server"]);
    let killed = consume(&rig);
    let id = submit(server.address(), "TARDIS", 3_600_000);
    let first = wait_stream(&ship, 0);
    wait_state(server.address(), &id, "running");
    killed.kill();
    assert!(first.is_on(), "nobody has stopped it");
    let _consumer = consume(&rig);
    let second = wait_stream(&ship, 1);
    wait_off(&first);
    // Its lease is renewed.
    assert!(second.is_on());
    let answer = request(server.address(), "DELETE", &format!("/tasks/{id}"), &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_off(&second);
}

fn a_capture_pushes_out_no_keys_of_clients(mut rig: Rig) {
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url()).set("IDEMPOTENCY_KEYS", 1);
    let server = rig.serve(&["server"]);
    let _consumer = consume(&rig);
    let post = || {
        let (key, body) = ([("Idempotency-Key", "once")], format!("[{}]", entry(1, "x")));
        let answer = request(server.address(), "POST", "/message", &key, body.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.header("idempotency-replayed").map(str::to_owned)
    };
    assert_eq!(post(), None);
    let id = submit(server.address(), "TARDIS", 3000);
    wait_state(server.address(), &id, "finished");
    assert_eq!(post().as_deref(), Some("true"));
}

fn captures_beyond_the_most_wait_and_capture_the_rest_of_their_windows(mut rig: Rig) {
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url()).set("CAPTURES_MAX", 1);
    let server = rig.serve(&["server"]);
    let _consumer = consume(&rig);
    let first = submit(server.address(), "TARDIS", 5000);
    wait_stream(&ship, 0);
    let second = submit(server.address(), "Nostromo", 15_000);
    for (number, id) in [first, second].iter().enumerate() {
        wait_state(server.address(), id, "finished");
        let path = format!("/tasks/{id}/result");
        let account = request(server.address(), "GET", &path, &[], b"").json();
        assert_eq!((&account["sent"], &account["stored"]), (&json!(100), &json!(100)));
        assert_eq!(ship.streams()[number].ship, account["ship_name"]);
    }
}

/// Whether a result that is not delivered is in one of the folders there.
fn holds_group(folder: &Path) -> bool {
    let paths = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let files = paths(folder).into_iter().flat_map(|folder| paths(&folder));
    files.into_iter().any(|file| file.extension().is_some_and(|kind| kind == "group"))
}

#[test]
fn an_account_that_no_broker_takes_outlives_its_process_and_is_no_result_of_an_endpoint() {
    let mut rig = with_database();
    let broker = rabbitmq::broker::shared();
    let url = broker.vhost(&format!("captures-{}", number()));
    let ship = FakeShip::start(a_hundred);
    rig.set("SPACESHIP_URL", ship.url()).set("RABBITMQ_URL", &url);
    let server = rig.serve(&["server"]);
    let proxy = Proxy::to(broker.port());
    rig.set("RABBITMQ_URL", proxy.url(&url)).set("ENDPOINT", "lab");
    let killed = consume(&rig);
    let id = submit(server.address(), "TARDIS", 15_000);
    wait_for("what is captured in files", || (rig.lines().len() == 100).then_some(()));
    let path = format!("/tasks/{id}");
    let task = request(server.address(), "GET", &path, &[], b"").json();
    proxy.refuse();
    proxy.cut();
    wait_for("the account on disk", || holds_group(&rig.state().join("accounts")).then_some(()));
    killed.kill();
    let _next = consume(&rig);
    proxy.heal();
    wait_state(server.address(), &id, "finished");
    let answer = request(server.address(), "GET", &format!("/tasks/{id}/result"), &[], b"");
    let account = answer.json();
    let expected = (&json!(100), &task["attempt"]);
    assert_eq!((&account["stored"], &account["attempt"]), expected, "{account} {task}");
}

#[test]
fn a_capture_for_which_no_port_is_left_says_so_and_leaves_the_other_alone() {
    let mut rig = Rig::new();
    let ship = FakeShip::start(a_hundred);
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    rig.set("SPACESHIP_URL", ship.url()).set("CAPTURE_PORTS", format!("{free}-{free}"));
    let server = rig.serve(&["server"]);
    let consumer = consume(&rig);
    let first = submit(server.address(), "TARDIS", 20_000);
    assert_eq!(wait_stream(&ship, 0).target.port(), free);
    submit(server.address(), "Nostromo", 20_000);
    consumer.wait_log("are all in use");
    assert_eq!(ship.streams().len(), 1);
    let answer = request(server.address(), "DELETE", &format!("/tasks/{first}"), &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    // It is tried again, and there is one now.
    assert_eq!(wait_stream(&ship, 1).ship, "Nostromo");
}

#[test]
fn what_is_captured_while_the_way_to_the_broker_breaks_is_stored_once() {
    let mut rig = with_database();
    let broker = rabbitmq::broker::shared();
    let url = broker.vhost(&format!("captures-{}", number()));
    let ship = FakeShip::start(send_while_wanted);
    rig.set("SPACESHIP_URL", ship.url()).set("RABBITMQ_URL", &url);
    let server = rig.serve(&["server"]);
    let proxy = Proxy::to(broker.port());
    rig.set("RABBITMQ_URL", proxy.url(&url));
    let _consumer = consume(&rig);
    let id = submit(server.address(), "TARDIS", 20_000);
    wait_stream(&ship, 0);
    for bytes in [100, 60_000, 200_000] {
        // Between what is published and what confirms it, sooner or later.
        proxy.cut_after(Direction::ToBroker, bytes);
        wait_for("the cut", || (!proxy.awaits_cut(Direction::ToBroker)).then_some(()));
    }
    wait_state(server.address(), &id, "finished");
    let answer = request(server.address(), "GET", &format!("/tasks/{id}/result"), &[], b"");
    let account = answer.json();
    let stored = usize::try_from(account["stored"].as_u64().unwrap()).unwrap();
    assert_eq!(account["sent"], ship.streams()[0].sent(), "{account}");
    wait_for("all that is stored in files", || (rig.lines().len() >= stored).then_some(()));
    let lines = rig.lines();
    assert_eq!(lines.len(), stored, "{account}");
    assert_eq!(lines.into_iter().collect::<HashSet<_>>().len(), stored, "none is there twice");
}
