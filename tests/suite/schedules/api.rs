//! The endpoints, as R2's clients use them and as it goes on from there.

use async_data_processor::store::schedules::Schedules;
use async_data_processor::store::sqlite::SqliteStore;
use chrono::Utc;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    ask, every, from_now, get, in_each_store, occurrences, post, post_soon, schedule, wait_state,
};
use crate::harness::{Rig, request};

in_each_store!(
    the_requests_of_old_are_answered_as_of_old,
    what_is_wrong_is_a_400_that_names_it,
    a_request_that_is_sent_again_makes_nothing_twice,
    lists_have_filters_and_pages,
    what_is_cancelled_or_deleted_starts_no_more,
    a_schedule_that_recurs_shows_when_it_is_due,
);

fn the_requests_of_old_are_answered_as_of_old(rig: Rig) {
    let process = schedule(&rig);
    let scheduler = process.address();
    let start_time = from_now(3_600_000);
    let body = json!({"ship_name": "USS Enterprise", "start_time": start_time, "duration": 30});
    let mut made = Vec::new();
    for path in ["/scheduler/", "/scheduler"] {
        let answer = ask(scheduler, &format!("POST {path}"), &body);
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = answer.json();
        let members: Vec<&String> = answer.as_object().unwrap().keys().collect();
        assert_eq!(members, ["duration", "id", "ship_name", "start_time", "task_id"]);
        assert_eq!((&answer["ship_name"], &answer["duration"]), (&body["ship_name"], &json!(30)));
        assert_eq!(answer["start_time"], start_time, "as it was written");
        made.insert(0, answer["id"].clone());
    }
    for path in ["/scheduler/", "/scheduler"] {
        let all = get(scheduler, path);
        let ids: Vec<&Value> = all.as_array().unwrap().iter().map(|one| &one["id"]).collect();
        assert_eq!(ids, made.iter().collect::<Vec<_>>(), "newest first");
        assert_eq!(all[0]["state"], "pending");
    }
    let shown = get(scheduler, &format!("/scheduler/{}/", made[0].as_str().unwrap()));
    assert_eq!((&shown["start_time"], &shown["state"]), (&json!(start_time), &json!("pending")));
    let health = get(scheduler, "/healthcheck/");
    assert_eq!(health, json!({"message": "Service is up and running."}));
    let described = get(scheduler, "/openapi.json");
    assert!(described["paths"]["/scheduler/{id}/cancel"]["post"].is_object());
    process.stop();
}

fn what_is_wrong_is_a_400_that_names_it(rig: Rig) {
    let process = schedule(&rig);
    let scheduler = process.address();
    let good = json!({"ship_name": "TARDIS", "start_time": from_now(60_000), "duration": 9});
    let with = |member: &str, value: Value| {
        let mut body = good.clone();
        body[member] = value;
        body
    };
    for (body, said) in [
        (with("start_time", json!("2999-01-01T00:00:00")), "start_time: "),
        (with("start_time", json!(from_now(-1))), "start_time: it must lie in the future"),
        (with("start_time", Value::Null), "start_time: it is missing"),
        (with("duration", json!(0)), "duration: "),
        (with("duration", json!("9")), "duration: "),
        (with("ship_name", json!("")), "ship_name: "),
        (with("ship_name", json!(7)), "ship_name: "),
        (with("colour", json!("red")), "no member colour"),
        (json!([]), "the body: "),
    ] {
        let answer = ask(scheduler, "POST /scheduler/", &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(said), "{detail}");
    }
    let naive =
        ask(scheduler, "POST /scheduler/", &with("start_time", json!("2999-01-01T00:00:00")));
    assert!(naive.json()["detail"].as_str().unwrap().contains("offset"), "{naive:?}");
    assert_eq!(get(scheduler, "/scheduler/"), json!([]), "nothing was made");
    for line in ["GET /scheduler/7", "DELETE /scheduler/7", "POST /scheduler/7/cancel"] {
        let answer = ask(scheduler, line, &Value::Null);
        assert_eq!((answer.status, answer.json()), (404, json!({"detail": "Schedule not found"})));
    }
    for path in ["/scheduler/?limit=0", "/scheduler/?state=late", "/scheduler/?sate=pending"] {
        assert_eq!(ask(scheduler, &format!("GET {path}"), &Value::Null).status, 400, "{path}");
    }
}

fn a_request_that_is_sent_again_makes_nothing_twice(rig: Rig) {
    let process = schedule(&rig);
    let send = |key: &str, body: &Value| {
        let headers = [("Idempotency-Key", key)];
        request(process.address(), "POST", "/scheduler/", &headers, body.to_string().as_bytes())
    };
    let once = json!({"kind": "echo", "payload": "a", "start_time": from_now(60_000)});
    let again = json!({"kind": "echo", "payload": "a", "every_seconds": 3600});
    for (key, body) in [("one", &once), ("two", &again)] {
        let first = send(key, body);
        assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
        let second = send(key, body);
        assert_eq!((second.status, second.header("idempotency-replayed")), (201, Some("true")));
        assert_eq!(first.json(), second.json());
    }
    let other = send("one", &again);
    assert_eq!((other.status, other.json()["detail"].is_string()), (422, true));
    assert_eq!(get(process.address(), "/scheduler/").as_array().unwrap().len(), 2);
}

fn lists_have_filters_and_pages(rig: Rig) {
    let process = schedule(&rig);
    let scheduler = process.address();
    let mut made = Vec::new();
    for place in 0..7 {
        let ship_name = if place % 2 == 0 { "Planet Express" } else { "TARDIS & Co" };
        let start_time = from_now(60_000 + place);
        let body = json!({"ship_name": ship_name, "start_time": start_time, "duration": 5});
        made.insert(0, post(scheduler, &body));
    }
    assert_eq!(
        ask(scheduler, &format!("POST /scheduler/{}/cancel", made[1]), &Value::Null).status,
        200
    );
    let ids = |all: &Value| -> Vec<String> {
        let ids = all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let (mut found, mut path) = (Vec::new(), "/scheduler/?limit=3".to_owned());
    loop {
        let answer = ask(scheduler, &format!("GET {path}"), &Value::Null);
        found.extend(ids(&answer.json()));
        let Some(link) = answer.header("link") else { break };
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
        assert!(path.starts_with("/scheduler/?limit=3&before="), "{link}");
    }
    assert_eq!(found, made);
    let of = |query: &str| ids(&get(scheduler, &format!("/scheduler/?{query}")));
    assert_eq!(of("ship_name=TARDIS+%26+Co"), [&made[1], &made[3], &made[5]].map(String::clone));
    assert_eq!(of("state=cancelled"), [made[1].clone()]);
    assert_eq!(of("state=pending&ship_name=TARDIS%20%26%20Co").len(), 2);
    assert_eq!(of("state=active").len(), 0);
}

#[test]
fn a_page_is_full_however_few_of_very_many_pass() {
    let rig = super::rig();
    schedule(&rig).stop();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ids = runtime.block_on(async {
        let store = SqliteStore::open(&rig.state()).unwrap();
        let (now_ms, mut ids) = (Utc::now().timestamp_millis(), Vec::new());
        for count in [1, 10_001, 1] {
            let all: Vec<_> =
                (0..count).map(|_| every(3600, now_ms + 3_600_000, "skip", "skip")).collect();
            let first = all[0].id;
            let added = all.into_iter().map(|new| store.add_schedule(new, now_ms));
            assert!(join_all(added).await.iter().all(Result::is_ok));
            if count == 1 {
                assert!(store.cancel_schedule(first, now_ms).await.unwrap());
                ids.insert(0, first.to_string());
            }
        }
        ids
    });
    let process = schedule(&rig);
    let answer = ask(process.address(), "GET /scheduler/?state=cancelled", &Value::Null);
    let found = answer.json();
    let found: Vec<&str> =
        found.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!((found, answer.header("link")), (ids.iter().map(String::as_str).collect(), None));
    process.stop();
}

fn what_is_cancelled_or_deleted_starts_no_more(rig: Rig) {
    let process = schedule(&rig);
    let scheduler = process.address();
    let once = json!({"kind": "echo", "start_time": from_now(3_600_000)});
    let again = json!({"kind": "echo", "every_seconds": 3600});
    for body in [once, again] {
        let id = post(scheduler, &body);
        for _ in 0..2 {
            let answer = ask(scheduler, &format!("POST /scheduler/{id}/cancel/"), &Value::Null);
            assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("cancelled")));
            assert!(answer.json()["next_at"].is_null());
        }
        let answer = ask(scheduler, &format!("DELETE /scheduler/{id}"), &Value::Null);
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("cancelled")));
        let answer = ask(scheduler, &format!("DELETE /scheduler/{id}"), &Value::Null);
        assert_eq!(answer.status, 404);
    }
    // One that has not been cancelled is, when it is deleted.
    let id = post(scheduler, &json!({"kind": "echo", "start_time": from_now(3_600_000)}));
    let answer = ask(scheduler, &format!("DELETE /scheduler/{id}/"), &Value::Null);
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("cancelled")));
    assert_eq!(get(scheduler, "/scheduler/"), json!([]));
    let worker = super::work(&rig);
    let (done, _) = post_soon(scheduler, &json!({"kind": "echo", "payload": "x"}), 500);
    wait_state(scheduler, &done, "finished");
    let answer = ask(scheduler, &format!("POST /scheduler/{done}/cancel"), &Value::Null);
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("finished"));
    worker.stop();
}

fn a_schedule_that_recurs_shows_when_it_is_due(rig: Rig) {
    let process = schedule(&rig);
    let scheduler = process.address();
    let body = json!({
        "kind": "echo", "payload": {"a": 1}, "cron": "30 6 * * MON", "time_zone": "Europe/Berlin",
        "until": "2999-01-01T00:00:00Z", "catch_up": "latest", "overlap": "replace",
        "lateness_seconds": 5,
    });
    let id = post(scheduler, &body);
    let shown = get(scheduler, &format!("/scheduler/{id}"));
    for (member, value) in body.as_object().unwrap() {
        let expected = if member == "payload" { &json!("{\"a\":1}") } else { value };
        assert_eq!(&shown[member], expected, "{member}");
    }
    assert_eq!((&shown["state"], &shown["occurrences"]), (&json!("active"), &json!([])));
    let next_at = shown["next_at"].as_str().unwrap();
    assert!(
        next_at.ends_with("T05:30:00.000Z") || next_at.ends_with("T04:30:00.000Z"),
        "{next_at}"
    );
    assert_eq!(occurrences(scheduler, &id), [json!(null); 0]);
    let metrics = request(scheduler, "GET", "/metrics", &[], b"");
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("async_data_processor_schedules_due 0"), "{metrics}");
}
