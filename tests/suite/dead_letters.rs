//! Dead letters over HTTP: listed, read, edited and sent again, each file once.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::{Answer, Rig, entry, open_state, request, wait_for};
use crate::http_access::{locked, with_token};

/// Fails at a batch with a message that holds `poison`.
const REFUSES_POISON: &str =
    "awk '/poison/ { print \"I saw <b>poison</b>\" > \"/dev/stderr\"; exit 3 } 1'";

/// A rig where these entries were handled by a program that refuses poison, and that is idle now.
fn handled(rig: &mut Rig, entries: &[String]) {
    rig.set("EXEC", REFUSES_POISON).set("BATCH_ATTEMPTS", 1);
    let output = rig.run_with_input(&["publish"], (entries.join("\n") + "\n").as_bytes());
    assert!(output.status.success(), "{output:?}");
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
}

fn one_shard() -> Rig {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1);
    rig
}

fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], b"")
}

fn resend(address: SocketAddr, number: &Value, body: &str) -> Answer {
    request(address, "POST", &format!("/dead/{number}/resend"), &[], body.as_bytes())
}

fn edit(offset: u64, message: &str) -> String {
    format!("{{\"messages\":[{{\"offset\":{offset},\"message\":{message}}}]}}")
}

fn numbers(answer: &Answer) -> Vec<u64> {
    let rows = answer.json().as_array().unwrap().clone();
    rows.iter().map(|row| row["number"].as_u64().unwrap()).collect()
}

/// How often a line stands in the files of messages that were done.
fn times_done(rig: &Rig, line: &str) -> usize {
    let folders = std::fs::read_dir(rig.output()).unwrap().map(|entry| entry.unwrap().path());
    let done = folders.filter(|folder| !folder.ends_with("dead"));
    let files = done.flat_map(|folder| crate::harness::files_below(&folder));
    let texts = files.map(|file| std::fs::read_to_string(file).unwrap());
    texts.map(|text| text.lines().filter(|found| *found == line).count()).sum()
}

/// What waits goes through a program that takes everything.
fn drain(rig: &mut Rig) -> Value {
    rig.set("EXEC", "cat");
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    consumer.stop();
    account
}

#[test]
fn a_dead_letter_is_read_edited_and_sent_again_exactly_once() {
    let mut rig = one_shard();
    let hostile = "{\"value\":\"poison \\u003cscript>'\\\"\\u0000\",\"n\": 1.50,\
                   \"timestamp\":\"2026-11-22T07:30:00Z\"}";
    handled(&mut rig, &[entry(0, "a"), hostile.to_owned(), entry(0, "poison-2"), entry(0, "b")]);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let listed = get(address, "/dead").json();
    let row = listed.as_array().unwrap().iter().find(|row| row["messages"] == 2).unwrap();
    let number = &row["number"];
    assert_eq!(row["reason"], "exit code 3: I saw <b>poison</b>");
    assert_eq!((&row["shard"], &row["resent_ms"]), (&0.into(), &Value::Null));
    let shown = get(address, &format!("/dead/{number}"));
    let text = String::from_utf8(shown.body.clone()).unwrap();
    assert!(text.contains(hostile), "not as it was received: {text}");
    let lines = get(address, &format!("/dead/{number}?format=lines"));
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let dead = rig.run(&["dead", "show", &number.to_string()]);
    assert_eq!(lines.body, dead.stdout);
    let letters = shown.json()["letters"].as_array().unwrap().clone();
    let offsets: Vec<_> = letters.iter().map(|letter| letter["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [1, 2]);
    let mended =
        "{\"timestamp\": \"2026-11-22T07:30:00Z\",\n \"value\": \"m</b>ended\", \"n\": 1.50}";
    let sent = resend(address, number, &edit(1, mended));
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!((&sent.json()["messages"], &sent.json()["edited"]), (&2.into(), &1.into()));
    let receipt = sent.json()["receipt"].as_str().unwrap().to_owned();
    let again = resend(address, number, &edit(1, mended));
    assert_eq!(again.status, 409, "{again:?}");
    assert!(again.json()["error"].as_str().unwrap().contains("already"), "{again:?}");
    assert_eq!(rig.run(&["dead", "resend", &number.to_string()]).status.code(), Some(65));
    assert_eq!(get(address, "/dead").body, b"[]");
    assert!(get(address, "/dead?all=true").json()[0]["resent_ms"].is_u64());
    let account = drain(&mut rig);
    assert_eq!((&account["in_files"], &account["dead"]), (&4.into(), &2.into()));
    assert_eq!(times_done(&rig, &mended.replace('\n', "")), 1);
    assert_eq!(times_done(&rig, &entry(0, "poison-2")), 1);
    assert_eq!(times_done(&rig, hostile), 0);
    assert_eq!(get(address, &format!("/receipt/{receipt}")).json()["in_files"], 2);
}

#[test]
fn many_who_send_a_file_again_at_once_send_it_once() {
    let mut rig = one_shard();
    handled(&mut rig, &[entry(0, "poison")]);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let number = &get(address, "/dead").json()[0]["number"];
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| resend(address, number, "").status);
        let threads: Vec<_> = (0..8).map(|_| one()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
    drain(&mut rig);
    assert_eq!(times_done(&rig, &entry(0, "poison")), 1);
}

#[test]
fn an_edited_timestamp_decides_the_shard_and_the_others_stay_where_they_were() {
    let mut rig = Rig::new();
    handled(&mut rig, &[entry(0, "poison-1"), entry(0, "poison-2")]);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let number = &get(address, "/dead").json()[0]["number"];
    let sent = resend(address, number, &edit(1, &entry(3, "mended")));
    let parts = sent.json()["receipt"].as_str().unwrap().split_once('_').unwrap().1.to_owned();
    assert_eq!(parts, "0-2-1_3-0-1");
    drain(&mut rig);
    let holds = |name: &str, line: &str| {
        let files = rig.files();
        let mut named = files.iter().filter(|file| file.to_string_lossy().contains(name));
        named.any(|file| std::fs::read_to_string(file).unwrap().lines().any(|found| found == line))
    };
    assert!(holds("-shard-3-", &entry(3, "mended")), "{:?}", rig.files());
    assert!(holds("-shard-0-", &entry(0, "poison-1")), "{:?}", rig.files());
}

#[test]
fn an_edit_that_is_none_is_refused_with_its_reason_and_nothing_is_sent() {
    let mut rig = one_shard();
    handled(&mut rig, &[entry(0, "poison")]);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let number = &get(address, "/dead").json()[0]["number"];
    let good = entry(0, "good");
    let long = format!("\"{}\"", "x".repeat(48 * 1024 + 1));
    let long = format!("{{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":{long}}}");
    let twice = format!("{{\"offset\":0,\"message\":{good}}}");
    let twice = format!("{{\"messages\":[{twice},{twice}]}}");
    for (body, status, why) in [
        ("{".to_owned(), 400, "the body must be"),
        (edit(7, &good), 422, "no message at offset 7"),
        (twice, 422, "twice"),
        (edit(0, "{}"), 422, "offset 0 is no entry (timestamp is missing)"),
        (edit(0, "[1]"), 422, "object"),
        (edit(0, "{\"timestamp\":\"2026-11-22T07:30:00Z\",\"a\":1,\"a\":2}"), 422, "twice"),
        (edit(0, &long), 422, "more than 49152"),
    ] {
        let refused = resend(address, number, &body);
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.json()["error"].as_str().unwrap().contains(why), "{refused:?}");
    }
    assert_eq!(resend(address, &4711.into(), "").status, 404);
    assert_eq!(get(address, "/dead/x").status, 404);
    assert_eq!(get(address, "/dead?limit=0").status, 400);
    let account = rig.verify(&[]);
    assert_eq!((&account["waiting"], &account["accepted"]), (&0.into(), &1.into()));
    assert_eq!(resend(address, number, &edit(0, &good)).status, 200);
}

#[test]
fn files_and_letters_come_in_pages_that_lead_on() {
    let mut rig = one_shard();
    let name = |n| format!("{}-{n}", if n % 3 == 1 { "good" } else { "poison" });
    handled(&mut rig, &(0..9).map(|n| entry(0, &name(n))).collect::<Vec<_>>());
    let server = rig.serve(&["server"]);
    let address = server.address();
    let all = numbers(&get(address, "/dead"));
    assert!(all.len() > 2 && all.is_sorted_by(|newer, older| newer > older), "{all:?}");
    let mut found = Vec::new();
    let mut next = Some("/dead?limit=2".to_owned());
    while let Some(path) = next {
        let page = get(address, &path);
        found.extend(numbers(&page));
        next = page.header("link").map(|link| link[1..].split_once('>').unwrap().0.to_owned());
    }
    assert_eq!(found, all);
    let rows = get(address, "/dead").json();
    let row = rows.as_array().unwrap().iter().find(|row| row["messages"] == 2).unwrap();
    let page = get(address, &format!("/dead/{}?limit=1", row["number"]));
    let link = page.header("link").unwrap()[1..].split_once('>').unwrap().0.to_owned();
    let offset = |page: &Answer| page.json()["letters"][0]["offset"].as_u64().unwrap();
    assert_eq!(offset(&get(address, &link)), offset(&page) + 1);
}

#[test]
fn files_that_cannot_be_reached_are_said_to_be_so_until_they_are_back() {
    let mut rig = one_shard();
    handled(&mut rig, &[entry(0, "poison")]);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let number = get(address, "/dead").json()[0]["number"].clone();
    let shown = || get(address, &format!("/dead/{number}"));
    let elsewhere = rig.dir.path().join("elsewhere");
    std::fs::rename(rig.output(), &elsewhere).unwrap();
    assert_eq!(get(address, "/dead").json()[0]["number"], number);
    for answer in [shown(), resend(address, &number, "")] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("on another host"), "{answer:?}");
    }
    // Another directory in its place is not taken for it.
    std::fs::create_dir(rig.output()).unwrap();
    assert_eq!(shown().status, 503);
    std::fs::remove_dir(rig.output()).unwrap();
    std::fs::rename(&elsewhere, rig.output()).unwrap();
    let file = rig.files().remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("poison", "potion")).unwrap();
    assert_eq!(resend(address, &number, "").status, 409);
    std::fs::remove_file(&file).unwrap();
    assert_eq!((shown().status, resend(address, &number, "").status), (409, 409));
    std::fs::write(&file, text).unwrap();
    assert_eq!((shown().status, resend(address, &number, "").status), (200, 200));
}

#[test]
fn a_state_directory_of_before_learns_from_its_consumer_where_the_files_are() {
    let mut rig = one_shard();
    handled(&mut rig, &[entry(0, "poison")]);
    let state = open_state(&rig.state(), 1 << 30).unwrap();
    let forget = |txn: &mut async_data_processor::state::WriteTxn<'_>| {
        Ok(txn.tables.meta.delete(&mut txn.txn, b"output_path")?)
    };
    assert!(state.commit(forget).unwrap(), "there was nothing to forget");
    drop(state);
    rig.set("STATE_MAP_BYTES", 1 << 30);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let path = format!("/dead/{}", get(address, "/dead").json()[0]["number"]);
    assert_eq!(get(address, &path).status, 503);
    let consumer = rig.start(&["message-consumer"]);
    wait_for("the consumer to say where the files are", || {
        (get(address, &path).status == 200).then_some(())
    });
    consumer.stop();
}

#[test]
fn who_may_only_read_sends_nothing_again() {
    let mut rig = locked();
    handled(&mut rig, &[entry(0, "poison")]);
    let server = rig.serve(&["server"]);
    let address = server.address();
    assert_eq!(with_token(address, "", "GET /dead").status, 401);
    let listed = with_token(address, "r3ad-s3cret", "GET /dead");
    let path = format!("/dead/{}", listed.json()[0]["number"]);
    assert_eq!(with_token(address, "r3ad-s3cret", &format!("GET {path}")).status, 200);
    let refused = with_token(address, "r3ad-s3cret", &format!("POST {path}/resend"));
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(rig.verify(&[])["accepted"], 1);
}
