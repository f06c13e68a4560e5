//! Orders: submitted, listed, shown, cancelled.

use async_data_processor::task::{Outcome, TaskId, WorkerId};
use serde_json::{Value, json};

use super::house::{House, INPUT_MAX};

const FACTORIAL_OF_42: &str = "1405006117752879898543142606244511569936384000000000";

#[test]
fn the_requests_of_the_reference_get_its_answers() {
    let house = House::new();
    let posted = house.ask("POST /factorial", &json!({ "input": 42 }));
    assert_eq!((posted.status, posted.header("content-type")), (200, Some("application/json")));
    let item = posted.json();
    assert_eq!((&item["input"], &item["status"]), (&json!(42), &json!("pending")));
    assert!(item["id"].is_string() && item["createdAt"].as_str().unwrap().ends_with('Z'));
    for absent in ["output", "calcStartedAt", "finishedAt"] {
        assert_eq!(item.get(absent), None, "{item}");
    }
    let path = format!("/factorial/{}", item["id"].as_str().unwrap());
    let begun = json!({ "calcStartedAt": item["createdAt"] });
    let begun = house.ask(&format!("PUT {path}"), &begun);
    assert_eq!((begun.status, &begun.json()["status"]), (200, &json!("pending")));
    assert_eq!(begun.json()["calcStartedAt"], item["createdAt"]);
    let done = json!({ "finishedAt": item["createdAt"], "output": FACTORIAL_OF_42 });
    let done = house.ask(&format!("PUT {path}"), &done);
    assert_eq!((done.status, &done.json()["status"]), (200, &json!("finished")));
    let list = house.get("/factorial").json();
    assert_eq!(list, json!([done.json()]));
    assert_eq!(list[0]["output"], "14050061177528798985e32");
    assert_eq!(list[0]["finishedAt"], item["createdAt"]);
}

#[test]
fn a_result_is_shown_whole_as_json_and_as_text() {
    let house = House::new();
    let path = format!("/factorial/{}", house.order(42));
    assert_eq!(house.get(&path).json()["status"], "pending");
    assert_eq!(house.get(&format!("{path}?format=text")).status, 409);
    house.run("factorial", FACTORIAL_OF_42.as_bytes());
    let whole = house.get(&path);
    assert_eq!(whole.json()["output"], FACTORIAL_OF_42);
    assert_eq!(whole.json()["status"], "finished");
    let text = [("Accept", "text/plain")];
    for text in
        [house.send(&format!("GET {path}"), &text, b""), house.get(&format!("{path}?format=text"))]
    {
        assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(text.body, FACTORIAL_OF_42.as_bytes());
    }
    let usual = [("Accept", "application/json, text/plain, */*")];
    assert_eq!(house.send(&format!("GET {path}"), &usual, b"").json(), whole.json());
    assert_eq!(house.get(&format!("{path}?format=xml")).status, 400);
    for unknown in ["/factorial/7", "/factorial/019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a"] {
        let answer = house.get(unknown);
        assert_eq!(answer.status, 404);
        assert!(answer.json()["error"].is_string());
    }
}

#[test]
fn what_is_no_input_is_refused_in_the_shape_of_the_reference() {
    let house = House::new();
    let too_large = format!("{{\"input\":{}}}", INPUT_MAX + 1);
    for (body, text) in [
        ("{}", "Required"),
        (r#"{"input":null}"#, "Required"),
        (r#"{"input":"5"}"#, "Must be a whole number"),
        (r#"{"input":1.5}"#, "Must be a whole number"),
        (r#"{"input":-1}"#, "Must be a positive number"),
        (&too_large, "Must be at most 20000000"),
        ("5", r#"the body must be an object: {"input": 42}"#),
    ] {
        let answer = house.send("POST /factorial", &[], body.as_bytes());
        assert_eq!((answer.status, answer.json()), (400, json!({ "error": text })), "{body}");
    }
    assert_eq!(house.send("POST /factorial", &[("Content-Encoding", "gzip")], b"").status, 415);
    assert_eq!(house.send("POST /factorial", &[], &vec![b' '; (1 << 20) + 1]).status, 413);
    assert_eq!(house.get("/factorial").json(), json!([]));
}

#[test]
fn the_same_input_is_computed_once() {
    let house = House::new();
    let (first, second) = (house.order(5), house.order(5));
    assert_ne!(first, second);
    house.run("factorial", b"120");
    assert!(house.claim("factorial", WorkerId::new()).is_none());
    let third = house.ask("POST /factorial", &json!({ "input": 5.0 })).json();
    assert_eq!((&third["status"], &third["output"]), (&json!("finished"), &json!("120")));
    let list = house.get("/factorial?status=finished&input=5").json();
    let ids: Vec<_> = list.as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    assert_eq!(ids, [third["id"].clone(), second.into(), first.into()]);
}

#[test]
fn an_idempotency_key_gets_the_same_item_again() {
    let house = House::new();
    let post = |key: &str, input: u64| {
        let body = json!({ "input": input }).to_string();
        house.send("POST /factorial", &[("Idempotency-Key", key)], body.as_bytes())
    };
    let first = post("k", 5);
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = post("k", 5);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(post("k", 6).status, 422);
    assert_ne!(post("l", 5).json()["id"], first.json()["id"]);
    assert_eq!(post("", 5).status, 400);
}

#[test]
fn pages_follow_each_other_newest_first_and_end() {
    let house = House::new();
    let mut ids: Vec<_> = (0..7).map(|input| house.order(input)).collect();
    ids.reverse();
    let mut found = Vec::new();
    let mut path = "/factorial?limit=3&status=pending".to_owned();
    loop {
        let page = house.get(&path);
        assert_eq!(page.status, 200, "{page:?}");
        let items = page.json();
        found.extend(items.as_array().unwrap().iter().map(|item| item["id"].clone()));
        let Some(link) = page.header("link") else { break };
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
        assert!(link.ends_with("rel=\"next\"") && path.contains("status=pending"), "{link}");
    }
    assert_eq!(found, ids.iter().map(|id| json!(id)).collect::<Vec<Value>>());
    let one = house.get("/factorial?input=4").json();
    assert_eq!((one.as_array().unwrap().len(), &one[0]["input"]), (1, &json!(4)));
    assert_eq!(house.get("/factorial?status=error").json(), json!([]));
    for wrong in ["limit=0", "limit=1001", "before=x", "status=done", "input=-1", "colour=red"] {
        let answer = house.get(&format!("/factorial?{wrong}"));
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.json()["error"].is_string());
    }
}

#[test]
fn what_is_cancelled_stays_so_and_what_has_ended_is_not_cancelled() {
    let house = House::new();
    let (cancelled, finished) = (house.order(5), house.order(6));
    let delete = |id: &str| house.ask(&format!("DELETE /factorial/{id}"), &Value::Null);
    for _ in 0..2 {
        let answer = delete(&cancelled);
        assert_eq!(answer.status, 200);
        let item = answer.json();
        assert_eq!((&item["status"], &item["state"]), (&json!("error"), &json!("cancelled")));
        assert!(item["finishedAt"].is_string(), "{item}");
    }
    house.run("factorial", b"720");
    assert_eq!(delete(&finished).status, 409);
    assert_eq!(house.get(&format!("/factorial/{finished}")).json()["output"], "720");
    assert_eq!(delete(&TaskId::new().to_string()).status, 404);
}

#[test]
fn a_failure_is_told_with_its_reason() {
    let house = House::new();
    let id = house.order(5);
    let task = house.claim("factorial", WorkerId::new()).unwrap();
    let running = house.get(&format!("/factorial/{id}")).json();
    assert_eq!((&running["status"], &running["state"]), (&json!("pending"), &json!("running")));
    assert_eq!(running["progress"], 0.0);
    assert!(running["calcStartedAt"].is_string());
    let reason = "no memory".to_owned();
    house.settle(&task, Outcome::Failed { reason, is_final: true });
    let failed = house.get("/factorial?status=error").json();
    assert_eq!((&failed[0]["id"], &failed[0]["error"]), (&json!(id), &json!("no memory")));
}

#[test]
fn scopes_guard_what_is_changed_and_what_is_read() {
    let house = House::guarded(Some("w:write:wr1te\nr:read:r34d"), &[]);
    let status = |line: &str, token: &str| {
        let header = format!("Bearer {token}");
        house.send(line, &[("Authorization", &header)], b"{}").status
    };
    let id = TaskId::new();
    for path in ["/factorial".to_owned(), format!("/factorial/{id}")] {
        assert_eq!(house.get(&path).status, 401);
        assert_eq!(status(&format!("GET {path}"), "wr1te"), 403);
    }
    let changes = [
        "POST /factorial".to_owned(),
        format!("PUT /factorial/{id}"),
        format!("DELETE /factorial/{id}"),
    ];
    for (line, allowed) in changes.iter().zip([400, 404, 404]) {
        assert_eq!(status(line, "r34d"), 403, "{line}");
        assert_eq!(status(line, "wr1te"), allowed, "{line}");
    }
}
