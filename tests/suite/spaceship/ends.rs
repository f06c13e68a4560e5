//! How streams end that nobody stops: a lease, a receiver that is gone, the end of the process.

use std::io::Write;

use serde_json::{Value, json};

use super::{Receiver, Spaceship};
use crate::harness::{Rig, connect, read_answer, wait_for};

#[test]
fn a_stream_that_nobody_renews_ends() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let renewed = ship.stream(&receiver, &json!({"lease_seconds": 3600, "rate": 1}));
    let left = ship.stream(&receiver, &json!({"lease_seconds": 1, "rate": 1}));
    assert_eq!(ship.told(&format!("PUT /stream/{renewed}"), &Value::Null)["state"], "active");
    assert_eq!(ship.wait_ended(&left)["reason"], "lease");
    let late = ship.ask(&format!("PUT /stream/{left}"), &Value::Null);
    assert_eq!((late.status, late.json()), (404, json!({"detail": "Event key not found"})));
    assert_eq!(ship.show(&renewed)["state"], "active");
    assert_eq!(ship.delete(&left)["reason"], "lease");
}

#[test]
fn a_receiver_that_goes_away_ends_its_stream() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let stays = Receiver::new();
    let kept = ship.stream(&stays, &json!({"rate": 1}));
    let keys = [0, 1, 1000].map(|rate| ship.stream(&receiver, &json!({"rate": rate})));
    receiver.wait(10);
    drop(receiver);
    for key in &keys {
        let ended = ship.wait_ended(key);
        assert_eq!(ended["reason"], "refused");
        assert!(ended["refused"].as_u64() > Some(2) && ended["sent"].as_u64() > Some(0), "{ended}");
    }
    assert_eq!(ship.show(&kept)["state"], "active");
    assert_eq!(ship.active(), 1);
}

#[test]
fn a_stop_ends_all_streams_and_answers_who_is_waiting() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let (slow, fast) = (Receiver::new(), &receiver);
    ship.stream(fast, &json!({"rate": 2000}));
    ship.stream(&slow, &json!({"rate": 1}));
    receiver.wait(100);
    let mut waiting = connect(ship.address);
    let body = json!({"host": "127.0.0.1", "port": receiver.port()}).to_string();
    let head = format!(
        "POST /stream/ HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    waiting.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut waiting).status, 100, "the request is not in the room yet");
    ship.process.signal("TERM");
    let ended = || ship.process.log().matches("a stream has ended").count() == 2;
    wait_for("the end of both streams", || ended().then_some(()));
    // Its connection is held until it is answered.
    waiting.write_all(body.as_bytes()).unwrap();
    let answer = read_answer(&mut waiting);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
    let mut process = ship.process;
    assert_eq!(process.wait().code(), Some(0), "{}", process.log());
    let log = process.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = lines.iter().filter(|line| line["message"] == "a stream has ended");
    let sent: Vec<u64> = told
        .map(|line| {
            assert_eq!(line["reason"], "shutdown");
            line["sent"].as_u64().unwrap()
        })
        .collect();
    let most = *sent.iter().max().unwrap();
    let taken = receiver.wait(most);
    assert_eq!((taken.len() as u64, taken.last().unwrap().sequence() + 1), (most, most));
    assert_eq!(lines.last().unwrap()["message"], "spaceship has ended");
}
