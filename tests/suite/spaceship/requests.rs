//! Its requests: R2's as they are written, who may ask, what is refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Receiver, Spaceship};
use crate::harness::Rig;
use crate::http_access::{locked, with_token};

#[test]
fn r2s_requests_are_answered_as_r2_does() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let up = json!({"message": "Service is up and running."});
    assert_eq!(ship.told("GET /healthcheck/", &Value::Null), up);
    let body = json!({"host": "localhost", "port": receiver.port()});
    for slash in ["/", ""] {
        let all = format!("/stream{slash}");
        assert_eq!(ship.told(&format!("GET {all}"), &Value::Null)["number_of_active_streams"], 0);
        let started = ship.told(&format!("POST {all}"), &body);
        assert_eq!(started["message"], "Communication started");
        let key = started["event_key"].as_str().unwrap();
        assert_eq!((key.len(), key.matches('-').count()), (36, 4), "it is no UUID: {key}");
        assert_eq!(ship.told(&format!("GET {all}"), &Value::Null)["number_of_active_streams"], 1);
        let one = format!("/stream/{key}{slash}");
        assert_eq!(ship.told(&format!("PUT {one}"), &Value::Null)["state"], "active");
        assert_eq!(ship.told(&format!("GET {one}"), &Value::Null)["event_key"], key);
        let stopped = ship.told(&format!("DELETE {one}"), &Value::Null);
        assert_eq!(stopped["message"], "Communication stopped");
        for line in [format!("DELETE {one}"), format!("PUT {one}")] {
            let again = ship.ask(&line, &Value::Null);
            assert_eq!(
                (again.status, again.json()),
                (404, json!({"detail": "Event key not found"}))
            );
        }
    }
    let datagram = &receiver.wait(1)[0].object;
    let members: BTreeSet<&str> =
        datagram.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["timestamp", "description", "value", "unit", "sequence"];
    assert_eq!(members, BTreeSet::from(expected));
    assert_eq!(
        (&datagram["description"], &datagram["unit"]),
        (&json!("Battery Voltage"), &json!("V"))
    );
    assert!((5..=30).contains(&datagram["value"].as_u64().unwrap()));
    ship.process.stop();
    assert!(!rig.state().exists(), "it needs no state directory");
}

#[test]
fn a_key_that_is_none_is_not_found() {
    let mut rig = Rig::new();
    let ship = Spaceship::start(&mut rig);
    for key in ["x", "019d0000-0000-7000-8000-000000000000", "%ff", "a%2Fb"] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = ship.ask(&format!("{method} /stream/{key}"), &Value::Null);
            assert_eq!(answer.status, 404, "{method} {key}");
            assert_eq!(answer.json(), json!({"detail": "Event key not found"}), "{method} {key}");
        }
    }
}

#[test]
fn a_stream_tells_all_that_is_known_of_it() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let body = json!({
        "host": "127.0.0.1", "port": receiver.port(), "ship_name": "USS \"Enterprise\"", "rate": 7,
        "lifetime_seconds": 600, "lease_seconds": 500, "seed": 42,
    });
    let started = ship.told("POST /stream/", &body);
    let from = receiver.wait(1)[0].from.to_string();
    assert_eq!(started["source"], from, "a capture would accept nothing");
    assert_eq!((&started["ship_name"], &started["rate"]), (&body["ship_name"], &body["rate"]));
    let key = started["event_key"].as_str().unwrap();
    let shown = ship.show(key);
    for member in ["host", "port", "ship_name", "rate", "seed"] {
        assert_eq!(shown[member], body[member]);
    }
    assert_eq!((&shown["state"], &shown["refused"]), (&json!("active"), &json!(0)));
    assert!(shown["started_at"].as_str().unwrap().ends_with('Z'));
    assert!(shown.get("reason").is_none() && shown.get("ended_at").is_none());
    assert_eq!(ship.told("GET /stream/", &Value::Null)["streams"][0]["event_key"], key);
    let stopped = ship.delete(key);
    assert_eq!((&stopped["state"], &stopped["reason"]), (&json!("ended"), &json!("stopped")));
    let ended = ship.show(key);
    assert!(ended["ended_at"].as_str() >= ended["started_at"].as_str());
    let members = stopped.as_object().unwrap().clone();
    let rest: serde_json::Map<_, _> =
        members.into_iter().filter(|(name, _)| name != "message").collect();
    assert_eq!(ended, Value::from(rest));
}

/// Refused, with words about it.
fn refused(ship: &Spaceship, body: &Value, words: &str) {
    let answer = ship.ask("POST /stream/", body);
    assert_eq!(answer.status, 400, "{body}: {answer:?}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(words), "{body}: {detail}");
}

#[test]
fn streams_go_nowhere_that_nobody_has_allowed() {
    let mut rig = Rig::new();
    let ship = Spaceship::start(&mut rig);
    for host in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1"] {
        refused(&ship, &json!({"host": host, "port": 9999}), "ALLOW_TARGET");
    }
    let nobody = [
        "0.0.0.0",
        "0",
        "::",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
        "169.254.169.254",
        "fe80::1",
        "::ffff:0.0.0.0",
        "[::ffff:169.254.169.254]",
    ];
    for host in nobody {
        refused(&ship, &json!({"host": host, "port": 9999}), "is not the address of one host");
    }
    refused(&ship, &json!({"host": "", "port": 9999}), "cannot be resolved");
    for port in [1, 1001, 1023] {
        refused(&ship, &json!({"host": "127.0.0.1", "port": port}), "ALLOW_LOW_PORTS");
    }
    refused(&ship, &json!({"host": "127.0.0.1"}), "port is required");
    refused(&ship, &json!({"host": "127.0.0.1", "port": 9999, "rate": 0.5}), "rate must be");
    refused(&ship, &json!([]), "the body");
    assert_eq!(ship.active(), 0);
    ship.process.stop();
    rig.set("ALLOW_TARGET", "10.0.0.0/8,2001:db8::/32").set("ALLOW_LOW_PORTS", "true");
    let ship = Spaceship::start(&mut rig);
    for host in ["192.0.2.1", "11.0.0.1", "2001:db9::1", "::ffff:11.0.0.1"] {
        refused(&ship, &json!({"host": host, "port": 9999}), "ALLOW_TARGET");
    }
    for host in nobody {
        refused(&ship, &json!({"host": host, "port": 9999}), "is not the address of one host");
    }
    ship.told("POST /stream/", &json!({"host": "127.0.0.1", "port": 1001, "lifetime_seconds": 1}));
}

#[test]
fn a_target_that_is_no_network_is_a_wrong_setting() {
    let mut rig = Rig::new();
    rig.set("ALLOW_TARGET", "10.0.0.0/8,everywhere");
    let output = rig.run(&["spaceship"]);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ALLOW_TARGET is \"10.0.0.0/8,everywhere\""), "{said}");
}

#[test]
fn who_has_no_scope_begins_and_sees_nothing() {
    let mut rig = locked();
    let ship = Spaceship::start(&mut rig);
    for (token, line, status) in [
        ("", "POST /stream/", 401),
        ("", "GET /stream/", 401),
        ("r3ad-s3cret", "POST /stream/", 403),
        ("r3ad-s3cret", "PUT /stream/x", 403),
        ("r3ad-s3cret", "DELETE /stream/x", 403),
        ("wr1te-s3cret", "GET /stream", 403),
        ("wr1te-s3cret", "GET /stream/x", 403),
        ("wr1te-s3cret", "DELETE /stream/x", 404),
        ("r3ad-s3cret", "GET /stream/", 200),
        ("", "GET /healthcheck", 200),
    ] {
        let answer = with_token(ship.address, token, line);
        assert_eq!(answer.status, status, "{token} {line}: {answer:?}");
        assert!(status == 200 || answer.json()["detail"].is_string(), "{answer:?}");
    }
}

#[test]
fn its_description_names_its_requests() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let document = ship.told("GET /openapi.json", &Value::Null);
    let mut routes = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, described) in methods.as_object().unwrap() {
            let method = method.to_ascii_uppercase();
            let key = ship.stream(&receiver, &json!({}));
            let body = match method.as_str() {
                "POST" => json!({"host": "127.0.0.1", "port": receiver.port()}),
                _ => Value::Null,
            };
            let answer =
                ship.ask(&format!("{method} {}", path.replace("{event_key}", &key)), &body);
            assert_eq!(answer.status, 200, "{method} {path}");
            assert!(described["summary"].is_string() && described["responses"]["200"].is_object());
            if path.starts_with("/stream") {
                routes.insert(format!("{method} {path}"));
            }
        }
    }
    let expected = [
        "DELETE /stream/{event_key}",
        "GET /stream/",
        "GET /stream/{event_key}",
        "POST /stream/",
        "PUT /stream/{event_key}",
    ];
    assert_eq!(routes.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    for reference in document.to_string().split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} is referred to but not there");
    }
}
