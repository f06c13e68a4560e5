//! Workers elsewhere, which tell what came of a calculation by PUT.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use async_data_processor::store::Store;
use async_data_processor::task::{Outcome, TaskId, WorkerId};
use serde_json::{Value, json};

use super::house::House;
use crate::harness::{Answer, connect, read_answer};

const AT: &str = "2026-11-22T07:30:00.000Z";

fn put(house: &House, id: &str, body: &Value) -> Answer {
    house.ask(&format!("PUT /factorial/{id}"), body)
}

#[test]
fn what_has_ended_is_never_overwritten() {
    let house = House::new();
    let id = house.order(5);
    let done = json!({ "finishedAt": AT, "output": "120" });
    assert_eq!(put(&house, &id, &done).status, 200);
    let finished = house.get(&format!("/factorial/{id}")).json();
    // What is so already may be said again: a worker that was cut off repeats itself.
    for same in [&done, &json!({ "calcStartedAt": AT }), &json!({})] {
        let answer = put(&house, &id, same);
        assert_eq!((answer.status, answer.json()), (200, finished.clone()), "{same}");
    }
    for other in [
        json!({ "finishedAt": AT, "output": "121" }),
        json!({ "finishedAt": AT, "output": "12" }),
        json!({ "status": "error" }),
    ] {
        let answer = put(&house, &id, &other);
        assert_eq!(answer.status, 409, "{other}");
        assert!(answer.json()["error"].as_str().unwrap().contains("finished"));
    }
    let cancelled = house.order(6);
    house.ask(&format!("DELETE /factorial/{cancelled}"), &Value::Null);
    for late in [json!({ "finishedAt": AT, "output": "720" }), json!({ "calcStartedAt": AT })] {
        assert_eq!(put(&house, &cancelled, &late).status, 409, "{late}");
    }
    assert_eq!(house.get(&format!("/factorial/{id}")).json(), finished);
    assert_eq!(house.get(&format!("/factorial/{cancelled}")).json()["state"], "cancelled");
}

#[test]
fn what_is_wrong_changes_nothing() {
    let house = House::new();
    let id = house.order(5);
    let before = house.get(&format!("/factorial/{id}")).json();
    for body in [
        json!({ "output": "12x" }),
        json!({ "output": "" }),
        json!({ "output": "012" }),
        json!({ "output": 120 }),
        // 5! has no six digits.
        json!({ "output": "120000" }),
        json!({ "finishedAt": AT }),
        json!({ "status": "finished" }),
        json!({ "status": "done" }),
        json!({ "calcStartedAt": "now" }),
        json!({ "finishedAt": "now", "output": "120" }),
        json!([]),
    ] {
        let answer = put(&house, &id, &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    let cut = house.send(&format!("PUT /factorial/{id}"), &[], br#"{"output":"120"#);
    assert_eq!(cut.status, 400);
    let long = json!({ "more": "x".repeat(70_000) });
    assert_eq!(put(&house, &id, &long).status, 413);
    assert_eq!(house.get(&format!("/factorial/{id}")).json(), before);
    // R4 made a row of an id that nobody knew.
    let unknown = TaskId::new().to_string();
    assert_eq!(put(&house, &unknown, &json!({ "output": "1" })).status, 404);
    assert_eq!(house.get(&format!("/factorial/{unknown}")).status, 404);
}

#[test]
fn what_is_told_of_a_follower_holds_for_its_leader() {
    let house = House::new();
    let (leader, follower) = (house.order(5), house.order(5));
    let begun = put(&house, &follower, &json!({ "calcStartedAt": AT })).json();
    assert_eq!((&begun["id"], &begun["state"]), (&json!(follower), &json!("running")));
    assert!(house.claim("factorial", WorkerId::new()).is_none(), "it runs elsewhere");
    assert_eq!(put(&house, &follower, &json!({ "finishedAt": AT, "output": "120" })).status, 200);
    for id in [leader, follower] {
        assert_eq!(house.get(&format!("/factorial/{id}")).json()["output"], "120");
    }
}

#[test]
fn a_failure_is_taken_from_who_has_begun_and_from_nobody_else() {
    let house = House::new();
    let id = house.order(5);
    let failure = json!({ "status": "error", "error": "no memory\u{1b}" });
    assert_eq!(put(&house, &id, &failure).status, 409);
    put(&house, &id, &json!({ "calcStartedAt": AT }));
    for _ in 0..2 {
        let item = put(&house, &id, &failure);
        assert_eq!(item.status, 200);
        let item = item.json();
        assert_eq!(
            (&item["status"], &item["error"]),
            (&json!("error"), &json!(r"no memory\u{1b}"))
        );
    }
}

#[test]
fn a_result_from_elsewhere_is_taken_while_one_of_ours_is_at_it() {
    let house = House::new();
    let id = house.order(5);
    let task = house.claim("factorial", WorkerId::new()).unwrap();
    assert_eq!(put(&house, &id, &json!({ "calcStartedAt": AT })).json()["state"], "running");
    assert_eq!(put(&house, &id, &json!({ "finishedAt": AT, "output": "120" })).status, 200);
    let late = Outcome::Failed { reason: "late".to_owned(), is_final: true };
    house.settle(&task, late);
    assert_eq!(house.get(&format!("/factorial/{id}")).json()["output"], "120");
}

/// Digits that are told apart by their place.
fn digit(place: u64) -> u8 {
    b"1234567890"[usize::try_from(place % 7 + place / 1_000_003 % 3).unwrap()]
}

/// The digits from a place on.
fn digits(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).map(digit).collect()
}

const CHUNK: u64 = 1_000_000;

/// Sends an output of so many chunks, in pieces.
fn send_output(stream: &mut TcpStream, id: &str, chunks: u64) -> Answer {
    let (before, after) = (br#"{"output":""#, br#"","finishedAt":"2026-11-22T07:30:00Z"}"#);
    let length = before.len() as u64 + chunks * CHUNK + after.len() as u64;
    let head = format!(
        "PUT /factorial/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(before).unwrap();
    for chunk in 0..chunks {
        stream.write_all(&digits(chunk * CHUNK, CHUNK)).unwrap();
    }
    stream.write_all(after).unwrap();
    read_answer(stream)
}

#[test]
fn a_result_of_100_megabytes_comes_in_and_goes_out_as_it_is() {
    let house = House::new();
    let id = house.order(super::house::INPUT_MAX);
    let mut stream = connect(house.address);
    for _ in 0..2 {
        let answer = send_output(&mut stream, &id, 100);
        assert_eq!(answer.status, 200, "{answer:?}");
        let shortened = String::from_utf8(digits(0, 20)).unwrap() + "e99999980";
        assert_eq!(answer.json()["output"], shortened);
    }
    // Its file has no name, and nothing of it is left when the request has ended.
    let names = std::fs::read_dir(house.dir.path()).unwrap();
    assert!(!names.flatten().any(|entry| entry.file_name().to_string_lossy().contains("upload")));
    let ask = format!("GET /factorial/{id}?format=text HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
    let mut reader = BufReader::with_capacity(1 << 20, &mut stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("content-length: 100000000\r\n"), "{head}");
    let mut found = vec![0; usize::try_from(CHUNK).unwrap()];
    for chunk in 0..100 {
        reader.read_exact(&mut found).unwrap();
        assert!(found == digits(chunk * CHUNK, CHUNK), "chunk {chunk} is another one");
    }
    drop(reader);
    // HEAD says as much, and the connection goes on.
    let ask =
        format!("HEAD /factorial/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-length: 1000002"), "{head}");
    let task = house.wait(house.store.task(id.parse().unwrap())).unwrap().unwrap();
    assert_eq!(task.result.unwrap().bytes, 100_000_000);
}
