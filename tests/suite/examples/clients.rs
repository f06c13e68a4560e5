//! The clients: each repeats what must be repeated, with the same key, and nothing else.

use std::path::PathBuf;

use super::Example;
use super::fake_server::{FakeServer, Received, Reply};
use crate::harness::{Rig, entry};

/// Everything that may come before a 201.
const BAD_DAY: [Reply; 8] = [
    Reply::HangUp,
    Reply::Status(503),
    Reply::Status(507),
    Reply::Status(409),
    Reply::Status(429),
    Reply::Status(408),
    Reply::BreakOff,
    Reply::Status(201),
];

fn write(rig: &Rig, name: &str, text: &str) -> PathBuf {
    let path = rig.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn lines(count: u32) -> Vec<String> {
    (0..count).map(|n| entry(n, &format!("v{n}"))).collect()
}

/// As a file of lines, with a newline after each.
fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Each attempt must be the same request.
fn assert_repeated(received: &[Received], count: usize) {
    assert_eq!(received.len(), count);
    assert!(received[0].key.len() > 2, "{received:?}");
    assert!(received.iter().all(|request| *request == received[0]), "{received:?}");
}

#[test]
fn the_script_repeats_one_request_through_a_bad_day() {
    let rig = Rig::new();
    let server = FakeServer::start(&BAD_DAY);
    let file = write(&rig, "entries.json", &format!("[{}]", lines(2).join(",\n ")));
    let url = format!("http://{}", server.address);
    let printed = Example::new("idempotent_post.sh").arg(&file).env("URL", url).succeed();
    assert_eq!(printed, "{\"told\":201}\n");
    let received = server.received();
    assert_repeated(&received, BAD_DAY.len());
    assert_eq!(received[0].body, std::fs::read_to_string(file).unwrap());
}

#[test]
fn the_script_does_not_repeat_what_is_refused_for_good() {
    let rig = Rig::new();
    let server = FakeServer::start(&[Reply::Status(422)]);
    let file = write(&rig, "entries.json", "[]");
    let url = format!("http://{}", server.address);
    let (code, said) = Example::new("idempotent_post.sh").arg(file).env("URL", url).fail();
    assert_eq!(code, 1);
    assert!(said.contains("refused: 422 {\"told\":422}"), "{said}");
}

#[test]
fn the_script_goes_on_with_its_key_and_stores_once() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let file = write(&rig, "entries.json", &format!("[{}]", lines(3).join(",")));
    let post = || {
        let script = Example::new("idempotent_post.sh").arg(&file).env("KEY", "order-4711");
        script.env("URL", format!("http://{}", server.address())).succeed()
    };
    let first = post();
    assert!(first.starts_with("{\"accepted\":3,"), "{first}");
    assert_eq!(post(), first);
    assert_eq!(rig.verify(&[])["accepted"], 3);
    server.stop();
}

#[test]
fn the_program_repeats_one_request_through_a_bad_day() {
    let rig = Rig::new();
    let server = FakeServer::start(&BAD_DAY);
    let file = write(&rig, "entries.jsonl", &text(&lines(2)));
    let program = Example::new("post_messages").arg(server.address.to_string());
    assert_eq!(program.stdin(&file).succeed(), "{\"told\":201}\n");
    let received = server.received();
    assert_repeated(&received, BAD_DAY.len());
    assert_eq!(received[0].body, text(&lines(2)));
}

#[test]
fn the_program_does_not_repeat_what_is_refused_for_good() {
    let rig = Rig::new();
    let server = FakeServer::start(&[Reply::Status(201), Reply::Status(400)]);
    let file = write(&rig, "entries.jsonl", &text(&lines(1500)));
    let program = Example::new("post_messages").arg(server.address.to_string());
    let (code, said) = program.stdin(&file).fail();
    assert_eq!((code, said.as_str()), (1, "refused: 400 {\"told\":400}\n"));
    let received = server.received();
    assert_ne!(received[0].key, received[1].key, "two requests, one key");
}

#[test]
fn the_program_posts_every_line_once() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let file = write(&rig, "entries.jsonl", &text(&lines(2500)));
    let program = Example::new("post_messages").arg(server.address().to_string());
    let printed = program.stdin(&file).succeed();
    assert_eq!(printed.lines().count(), 3, "{printed}");
    assert_eq!(rig.verify(&[])["accepted"], 2500);
    server.stop();
}

#[test]
fn no_line_is_lost_where_a_long_file_is_cut() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let url = format!("http://{}", server.address());
    let mut entries = lines(6000);
    let file = write(&rig, "entries.jsonl", &text(&entries));
    let printed = Example::new("ndjson.sh").arg(&file).env("URL", &url).succeed();
    let accepted: Vec<_> =
        printed.lines().map(|line| line.split_once(",\"receipt\"").unwrap().0).collect();
    assert_eq!(accepted, ["{\"accepted\":5000", "{\"accepted\":1000"]);
    assert_eq!(rig.verify(&[])["accepted"], 6000);

    entries[5500] = "{}".to_owned();
    std::fs::write(&file, text(&entries)).unwrap();
    let (code, said) = Example::new("ndjson.sh").arg(&file).env("URL", &url).fail();
    assert_eq!(code, 1);
    assert!(said.contains("stopped before line 5001 of "), "{said}");
    assert_eq!(rig.verify(&[])["accepted"], 11_000);
    server.stop();
}

#[test]
fn the_scripts_send_their_token() {
    let mut rig = Rig::new();
    let tokens = write(&rig, "tokens", "shop:write:s3cret\n");
    rig.set("TOKENS_FILE", tokens.display());
    let server = rig.serve(&["server"]);
    let url = format!("http://{}", server.address());
    let file = write(&rig, "entries.jsonl", &text(&lines(1)));
    let array = write(&rig, "entries.json", &format!("[{}]", lines(1)[0]));
    for (script, file) in [("ndjson.sh", &file), ("idempotent_post.sh", &array)] {
        let example = || Example::new(script).arg(file).env("URL", &url);
        assert_eq!(example().fail().0, 1, "{script}");
        example().env("TOKEN", "s3cret").succeed();
    }
    assert_eq!(rig.verify(&[])["accepted"], 2);
    server.stop();
}
