//! `/tasks`: tasks of any kind, in bulk.

use async_data_processor::store::Store;
use async_data_processor::task::{Outcome, PART_BYTES, ResultHead, TaskId, WorkerId};
use serde_json::{Value, json};

use crate::calculations::house::House;

const LINES: [(&str, &str); 1] = [("Content-Type", "application/x-ndjson")];

#[test]
fn bulks_are_taken_in_every_form_and_shown() {
    let house = House::new();
    let array = json!([
        { "kind": "echo", "payload": "one" },
        { "kind": "echo", "payload": { "two": 2 }, "endpoint": "lab-1" },
    ]);
    let answer = house.ask("POST /tasks", &array);
    assert_eq!((answer.status, &answer.json()["accepted"]), (201, &json!(2)));
    let ids = answer.json()["ids"].clone();
    let lines = b"{\"kind\":\"echo\"}\n\n{\"kind\":\"other\"}\n";
    assert_eq!(house.send("POST /tasks", &LINES, lines).json()["accepted"], 2);
    assert_eq!(house.ask("POST /tasks", &json!({ "kind": "echo" })).json()["accepted"], 1);
    assert_eq!(house.ask("POST /tasks", &json!([])).json(), json!({ "accepted": 0, "ids": [] }));
    let shown = house.get(&format!("/tasks/{}", ids[1].as_str().unwrap())).json();
    assert_eq!((&shown["payload"], &shown["endpoint"]), (&json!("{\"two\":2}"), &json!("lab-1")));
    assert_eq!((&shown["state"], &shown["failures_max"]), (&json!("pending"), &json!(5)));
    let count =
        |query: &str| house.get(&format!("/tasks?{query}")).json().as_array().unwrap().len();
    assert_eq!(count(""), 5);
    assert_eq!(count("kind=other"), 1);
    assert_eq!(count("endpoint=lab-1"), 1);
    assert_eq!(count("state=finished"), 0);
    assert_eq!(count("limit=2"), 2);
}

#[test]
fn pages_of_tasks_follow_each_other() {
    let house = House::new();
    let bulk: Vec<_> = (0..250).map(|_| json!({ "kind": "echo" })).collect();
    let ids = house.ask("POST /tasks", &json!(bulk)).json()["ids"].clone();
    let mut found: Vec<Value> = Vec::new();
    let mut path = "/tasks?limit=120&kind=echo".to_owned();
    loop {
        let page = house.get(&path);
        found.extend(page.json().as_array().unwrap().iter().map(|task| task["id"].clone()));
        let Some(link) = page.header("link") else { break };
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
    }
    found.reverse();
    assert_eq!(json!(found), ids);
}

#[test]
fn one_wrong_entry_refuses_all_in_problem_shape() {
    let house = House::new();
    let answer = house.send("POST /tasks", &LINES, b"{\"kind\":\"echo\"}\n{\"kind\":\"a b\"}\n");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(answer.json()["detail"].as_str().unwrap().starts_with("entry 1: "));
    assert_eq!(
        house.send("POST /tasks", &LINES, &b"{\"kind\":\"k\"}\n".repeat(10_001)).status,
        413
    );
    assert_eq!(house.get("/tasks").json(), json!([]));
    for wrong in ["state=done", "kind=a.b", "limit=0", "colour=red", "before=1"] {
        assert_eq!(house.get(&format!("/tasks?{wrong}")).status, 400, "{wrong}");
    }
}

#[test]
fn the_same_key_gets_the_same_tasks_again() {
    let house = House::new();
    let key = [LINES[0], ("Idempotency-Key", "k")];
    let post = |body: &[u8]| house.send("POST /tasks", &key, body);
    let first = post(b"{\"kind\":\"a\"}\n{\"kind\":\"b\"}");
    let again = post(b"{\"kind\":\"a\"}\n{\"kind\":\"b\"}");
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(post(b"{\"kind\":\"a\"}\n{\"kind\":\"c\"}").status, 422);
    assert_eq!(house.get("/tasks").json().as_array().unwrap().len(), 2);
}

#[test]
fn a_result_is_its_bytes_and_there_is_none_before_the_end() {
    let house = House::new();
    let post = |payload: &str| {
        let answer = house.ask("POST /tasks", &json!({ "kind": "echo", "payload": payload }));
        answer.json()["ids"][0].as_str().unwrap().to_owned()
    };
    let small = format!("/tasks/{}/result", post("x"));
    assert_eq!(house.get(&small).status, 409);
    house.run("echo", b"\0\xff");
    let answer = house.get(&small);
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(answer.body, b"\0\xff");
    let large = format!("/tasks/{}/result", post("y"));
    let bytes: Vec<u8> = (0..PART_BYTES + 5).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let task = house.claim("echo", WorkerId::new()).unwrap();
    for (index, part) in (0..).zip(bytes.chunks(PART_BYTES)) {
        let put = house.store.put_part(task.id, Some(task.attempt), index, part.to_vec());
        assert!(house.wait(put).unwrap());
    }
    let head = ResultHead { bytes: bytes.len() as u64, head: bytes[..1024].to_vec() };
    house.settle(&task, Outcome::Finished(head));
    assert!(house.get(&large).body == bytes);
    assert_eq!(house.get(&format!("/tasks/{}/result", TaskId::new())).status, 404);
}

#[test]
fn cancelled_and_failed_tasks_are_tried_again_and_finished_ones_are_not() {
    let house = House::new();
    let answer = house.ask("POST /tasks", &json!({ "kind": "echo" })).json();
    let path = format!("/tasks/{}", answer["ids"][0].as_str().unwrap());
    let (cancel, retry) = (format!("DELETE {path}"), format!("POST {path}/retry"));
    let ask = |line: &str| house.ask(line, &Value::Null);
    assert_eq!(ask(&retry).status, 409);
    assert_eq!(ask(&cancel).json()["state"], "cancelled");
    assert_eq!(ask(&cancel).status, 200);
    assert_eq!(ask(&retry).json()["state"], "pending");
    house.run("echo", b"");
    assert_eq!(house.get(&path).json()["result_bytes"], 0);
    assert_eq!((ask(&retry).status, ask(&cancel).status), (409, 409));
    for line in ["GET /tasks/7", "DELETE /tasks/7", "POST /tasks/7/retry", "GET /tasks/7/result"] {
        assert_eq!(ask(line).status, 404, "{line}");
    }
}

#[test]
fn tasks_are_behind_their_scopes() {
    let house = House::guarded(Some("w:write:wr1te\nr:read:r34d"), &[]);
    let status = |line: &str, token: &str| {
        let header = format!("Bearer {token}");
        house.send(line, &[("Authorization", &header)], b"").status
    };
    let changes = ["POST /tasks", "DELETE /tasks/7", "POST /tasks/7/retry"];
    for line in changes {
        assert_eq!(status(line, "r34d"), 403, "{line}");
    }
    for line in ["GET /tasks", "GET /tasks/7", "GET /tasks/7/result"] {
        assert_eq!(status(line, "wr1te"), 403, "{line}");
        assert_eq!(house.send(line, &[], b"").status, 401, "{line}");
    }
}
