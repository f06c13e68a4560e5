//! Captures of the real spaceship.

use async_data_processor::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::harness::{Rig, request, wait_for};
use crate::rabbitmq::certificates::Certificates;

/// Captures a ship for so many milliseconds, by the commands for people; the account.
fn captured(rig: &Rig, window_ms: i64) -> Value {
    account(rig, &submitted(rig, window_ms))
}

/// The task that does so.
fn submitted(rig: &Rig, window_ms: i64) -> String {
    let until_ms = SystemClock.wall().timestamp_millis() + window_ms;
    let order = json!({"ship_name": "USS Enterprise", "until_ms": until_ms}).to_string();
    let submit = ["tasks", "submit", "--kind", "capture"];
    let output = rig.run_with_input(&submit, order.as_bytes());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn account(rig: &Rig, id: &str) -> Value {
    wait_for("the account", || {
        let shown = rig.run(&["tasks", "show", id, "--result"]);
        serde_json::from_slice(&shown.stdout).ok()
    })
}

#[test]
fn what_a_ship_says_to_have_sent_is_in_files() {
    let mut rig = Rig::new();
    rig.set("SPACESHIP_PORT", 0).set("STREAM_RATE", 2000);
    let spaceship = rig.serve(&["spaceship"]);
    rig.set("SPACESHIP_URL", format!("http://{}", spaceship.address()));
    let consumer = rig.start(&["message-consumer"]);
    let account = captured(&rig, 4000);
    assert!(account["sent"].as_u64() > Some(0), "{account}");
    assert_eq!(account["stored"], account["sent"], "{account}");
    rig.wait_drained();
    let lines = rig.lines();
    assert_eq!(account["stored"], lines.len());
    assert!(lines.iter().all(|line| line.starts_with(r#"{"ship":"USS Enterprise","timestamp":"#)));
    consumer.stop();
    spaceship.stop();
}

#[test]
fn what_is_captured_over_the_newer_protocol_is_in_files_too() {
    let mut rig = Rig::new();
    rig.set("SPACESHIP_PORT", 0).set("CAPTURE_HOST", "::1");
    let spaceship = rig.serve(&["spaceship"]);
    rig.set("SPACESHIP_URL", format!("http://{}", spaceship.address()));
    let _consumer = rig.start(&["message-consumer"]);
    let account = captured(&rig, 4000);
    assert!(account["sent"].as_u64() > Some(0), "{account}");
    assert_eq!(account["stored"], account["sent"], "{account}");
}

#[test]
fn a_spaceship_that_is_killed_is_captured_again_once_it_is_back() {
    let mut rig = Rig::new();
    rig.set("SPACESHIP_PORT", 0);
    let killed = rig.serve(&["spaceship"]);
    let address = killed.address();
    rig.set("SPACESHIP_URL", format!("http://{address}")).set("SPACESHIP_PORT", address.port());
    let _consumer = rig.start(&["message-consumer"]);
    let id = submitted(&rig, 15_000);
    wait_for("the first of it in files", || (!rig.lines().is_empty()).then_some(()));
    killed.kill();
    let spaceship = rig.serve(&["spaceship"]);
    spaceship.wait_log("a stream begins");
    let account = account(&rig, &id);
    assert_eq!((&account["ended_by"], &account["streams"]), (&json!("window"), &json!(2)));
    assert_eq!(account["sent"], Value::Null, "what the first has sent died with it");
    rig.wait_drained();
    assert_eq!(account["stored"], rig.lines().len());
    spaceship.wait_log("a stream has ended");
}

#[test]
fn a_spaceship_that_was_paused_is_captured_again_and_no_stream_of_it_stays() {
    let mut rig = Rig::new();
    rig.set("SPACESHIP_PORT", 0);
    let spaceship = rig.serve(&["spaceship"]);
    rig.set("SPACESHIP_URL", format!("http://{}", spaceship.address()));
    let consumer = rig.start(&["message-consumer"]);
    let id = submitted(&rig, 3_600_000);
    spaceship.wait_log("a stream begins");
    spaceship.signal("STOP");
    // What it is asked meanwhile it does later, when nobody waits for it any more.
    consumer.wait_log("no stream yet");
    spaceship.signal("CONT");
    wait_for("the capture to go on", || {
        (consumer.log().matches("capturing").count() == 2).then_some(())
    });
    let cancelled = rig.run(&["tasks", "cancel", &id]);
    assert_eq!(cancelled.status.code(), Some(0), "{cancelled:?}");
    wait_for("the end of all streams", || {
        let answer = request(spaceship.address(), "GET", "/stream/", &[], b"");
        (answer.json()["number_of_active_streams"] == 0).then_some(())
    });
}

#[test]
fn a_spaceship_behind_tls_and_tokens_is_captured() {
    let mut rig = Rig::new();
    let certificates = Certificates::in_dir(rig.dir.path());
    let path = |name: &str| rig.dir.path().join(name);
    let (tokens, token) = (path("tokens"), path("token"));
    std::fs::write(&tokens, "capture:write,read:s3cret-s3cret-s3cret\n").unwrap();
    std::fs::write(&token, "s3cret-s3cret-s3cret\n").unwrap();
    let mut command = rig.command(&["spaceship", "--spaceship-port", "0"]);
    command.env("TLS_CERT", &certificates.server).env("TLS_KEY", &certificates.server_key);
    command.env("TOKENS_FILE", &tokens);
    let spaceship = crate::harness::Process::start(command);
    rig.set("SPACESHIP_URL", format!("https://localhost:{}", spaceship.address().port()));
    rig.set("SPACESHIP_CA", certificates.ca.display()).set("SPACESHIP_TOKEN_FILE", token.display());
    let _consumer = rig.start(&["message-consumer"]);
    let account = captured(&rig, 4000);
    assert!(account["sent"].as_u64() > Some(0), "{account}");
    assert_eq!(account["stored"], account["sent"], "{account}");
}

#[test]
fn the_bench_finds_in_files_what_is_stored_and_leaves_nothing() {
    let rig = Rig::new();
    let arguments = ["--streams", "3", "--rate", "500", "--seconds", "4", "--output", "json"];
    let output = rig.run(&[&["bench", "captures"], arguments.as_slice()].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["ok"], &found["unaccounted"]), (&json!(true), &json!(0)), "{found}");
    assert!(found["stored"].as_u64() > Some(0), "{found}");
    assert_eq!(found["stored"], found["in_files"]);
    assert_eq!(found["processes"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 0);
}
