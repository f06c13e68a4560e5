//! Streams by way of a server, which hands `/stream/` on.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Spaceship;
use super::receiver::Receiver;
use crate::harness::{Answer, Process, Rig, request};
use crate::http_access::{locked, with_token};

fn ask(server: &Process, line: &str, body: &str) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    request(server.address(), method, path, &[], body.as_bytes())
}

fn detail(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap().to_owned()
}

/// Starts a stream at a server, sees it, and stops it.
fn start_and_stop(server: &Process) {
    let receiver = Receiver::new();
    let wish = json!({"host": "127.0.0.1", "port": receiver.port(), "ship_name": "TARDIS"});
    let started = ask(server, "POST /stream/", &wish.to_string());
    assert_eq!(started.status, 200, "{started:?}");
    let key = started.json()["event_key"].as_str().unwrap().to_owned();
    let list = ask(server, "GET /stream", "").json();
    assert_eq!(list["streams"][0]["ship_name"], "TARDIS", "{list}");
    assert_eq!(ask(server, &format!("PUT /stream/{key}/"), "").status, 200);
    let stopped = ask(server, &format!("DELETE /stream/{key}"), "").json();
    assert_eq!(stopped["reason"], "stopped", "{stopped}");
    assert_eq!(ask(server, "GET /stream/", "").json()["number_of_active_streams"], 0);
    let unknown = ask(server, &format!("DELETE /stream/{key}"), "");
    assert_eq!((unknown.status, detail(&unknown).as_str()), (404, "Event key not found"));
    let wrong = ask(server, "POST /stream/", r#"{"host":"127.0.0.1","port":80}"#);
    assert_eq!(wrong.status, 400, "{wrong:?}");
    assert!(detail(&wrong).contains("port"), "{wrong:?}");
}

#[test]
fn streams_are_started_listed_and_stopped_through_a_server() {
    let mut rig = Rig::new();
    let spaceship = Spaceship::start(&mut rig);
    rig.set("SPACESHIP_URL", format!("http://{}", spaceship.address));
    start_and_stop(&rig.serve(&["server"]));
}

#[test]
fn up_hands_streams_to_its_own_spaceship() {
    let mut rig = Rig::new();
    rig.set("SCHEDULER_PORT", 0).set("SPACESHIP_PORT", 0);
    start_and_stop(&rig.serve(&["up"]));
}

#[test]
fn where_no_spaceship_answers_a_server_says_what_to_do_and_stays_ready() {
    let mut rig = Rig::new();
    rig.set("SPACESHIP_URL", "http://127.0.0.1:1");
    let server = rig.serve(&["server"]);
    for line in ["GET /stream/", "POST /stream/", "DELETE /stream/x"] {
        let answer = ask(&server, line, "");
        assert_eq!(answer.status, 502, "{line} {answer:?}");
        let text = detail(&answer);
        assert!(text.contains("http://127.0.0.1:1: start `spaceship`"), "{line} {text}");
    }
    assert_eq!(ask(&server, "GET /readyz", "").status, 200);
    let large = ask(&server, "POST /stream/", &" ".repeat((1 << 20) + 1));
    assert_eq!(large.status, 413, "{large:?}");
}

#[test]
fn a_server_that_is_its_own_spaceship_says_so_instead_of_asking_itself_for_ever() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut rig = Rig::new();
    rig.set("PORT", free.port()).set("SPACESHIP_URL", format!("http://{free}"));
    let server = rig.serve(&["server"]);
    let answer = ask(&server, "GET /stream/", "");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(detail(&answer).contains("this server is no spaceship"), "{answer:?}");
}

#[test]
fn streams_want_a_servers_scopes_and_a_server_the_spaceships_token() {
    let mut rig = locked();
    let spaceship = Spaceship::start(&mut rig);
    rig.set("SPACESHIP_URL", format!("http://{}", spaceship.address));
    let server = rig.serve(&["server"]);
    let status = |address: SocketAddr, token: &str, line: &str| -> (u16, Value) {
        let answer = with_token(address, token, line);
        (answer.status, answer.json()["detail"].clone())
    };
    for line in ["GET /stream/", "POST /stream/", "DELETE /stream/x"] {
        assert_eq!(status(server.address(), "", line).0, 401, "{line}");
    }
    assert_eq!(status(server.address(), "r3ad-s3cret", "DELETE /stream/x").0, 403);
    // Not a 401 of the spaceship: whoever asks has a good token of this server.
    let (code, text) = status(server.address(), "r3ad-s3cret", "GET /stream/");
    assert_eq!(code, 502);
    assert!(text.as_str().unwrap().contains("set SPACESHIP_TOKEN_FILE"), "{text}");
    let file = rig.dir.path().join("token");
    std::fs::write(&file, "adm1n-s3cret\n").unwrap();
    rig.set("SPACESHIP_TOKEN_FILE", file.display());
    let server = rig.serve(&["server"]);
    assert_eq!(status(server.address(), "r3ad-s3cret", "GET /stream/").0, 200);
    assert_eq!(status(server.address(), "adm1n-s3cret", "DELETE /stream/x").0, 404);
}
