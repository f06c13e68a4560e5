//! `bench` against real processes: what it counts, what it finds, and how it ends.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Process, Rig, wait_for};
use crate::rabbitmq::broker::shared;

/// A `bench` of `rig` against a server, printing JSON.
fn bench(rig: &Rig, address: SocketAddr, arguments: &[&str]) -> Command {
    let url = format!("http://{address}");
    rig.command(&[&["bench", "--output", "json", "--url", &url], arguments].concat())
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Its figures, and the last it said, of a run that ended with `code`.
fn figures(output: &Output, code: i32) -> (Value, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    let figures = serde_json::from_slice(&output.stdout).unwrap();
    (figures, said.lines().last().unwrap_or_default().to_owned())
}

/// What it said, when it measured nothing.
fn refused(output: &Output, code: i32) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty());
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn what_is_accepted_is_counted_and_found_in_files() {
    let rig = Rig::new();
    let up = rig.serve(&["up"]);
    let arguments = ["--count", "1960", "--entries", "50", "--connections", "4"];
    let (found, _) = figures(&bench(&rig, up.address(), &arguments).output().unwrap(), 0);
    assert_eq!((&found["accepted"], &found["requests"]), (&2000.into(), &40.into()), "{found}");
    assert_eq!(
        (&found["latency_ms"]["count"], &found["errors"]),
        (&40.into(), &Value::from_iter(Vec::<(String, Value)>::new()))
    );
    assert_eq!(
        (&found["verified"]["ok"], &found["verified"]["in_files"]),
        (&true.into(), &2000.into())
    );
    assert_eq!(found["others_accepted"], 0);
    assert!(found["files_written"].as_u64() >= Some(5), "each shard has a file: {found}");
    assert!(found["server_state_commits"].as_u64() > Some(0), "{found}");
    assert!(found["drained_per_second"].as_f64() > Some(0.0), "{found}");
    let process = &found["processes"][0];
    assert_eq!((&process["command"], &process["pid"]), (&"up".into(), &up.id().into()));
    assert!(process["anonymous_kib"].as_u64() > Some(0), "{found}");
    let account = rig.verify(&[]);
    assert_eq!(account["accepted"], 2000);
    let by_shard: Vec<_> =
        account["shards"].as_array().unwrap().iter().map(|shard| &shard["accepted"]).collect();
    assert_eq!(by_shard, [400, 400, 400, 400, 400]);
    up.stop();
}

#[test]
fn two_processes_are_measured_apart_and_others_messages_are_not_its_own() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let address = server.address();
    let twice = [["--count", "3000"], ["--count", "5000"]];
    let both = twice.map(|arguments| start(bench(&rig, address, &arguments)));
    for child in both {
        let (found, _) = figures(&child.wait_with_output().unwrap(), 0);
        assert_eq!(found["verified"]["in_files"], found["accepted"]);
        let mut commands: Vec<_> = found["processes"].as_array().unwrap().to_vec();
        commands.sort_by_key(|process| process["command"].to_string());
        let pids: Vec<_> = commands.iter().map(|process| &process["pid"]).collect();
        assert_eq!(pids, [consumer.id(), server.id()], "{found}");
    }
    assert_eq!(rig.verify(&[])["accepted"], 8000);
}

#[test]
fn an_open_loop_sends_every_request_and_sees_its_file_come() {
    let mut rig = Rig::new();
    rig.set("BATCH_MIN", 1).set("FILES_PER_SECOND", 0);
    let up = rig.serve(&["up"]);
    let arguments = ["--entries", "2", "--rate", "4000", "--count", "1000", "--end-to-end"];
    let (found, _) = figures(&bench(&rig, up.address(), &arguments).output().unwrap(), 0);
    assert_eq!((&found["requests"], &found["accepted"]), (&500.into(), &1000.into()));
    assert_eq!(found["rate_per_second"], 4000);
    assert_eq!(found["end_to_end_ms"]["count"], 1000, "each message was seen: {found}");
    assert!(found["end_to_end_resolution_ms"].as_f64() > Some(0.0));
    // A message is answered before it is in a file.
    let p50 = |times: &str| found[times]["p50"].as_f64().unwrap();
    assert!(p50("end_to_end_ms") > p50("latency_ms"), "{found}");
    up.stop();
}

/// Runs `bench` without a consumer, lets one bring all into files while `bench` is held, tampers
/// with them, and lets it go on.
fn tampered(tamper: impl Fn(&[PathBuf])) -> Value {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let arguments = ["--count", "1000", "--entries", "20", "--connections", "2"];
    let bench = start(bench(&rig, server.address(), &arguments));
    let all_accepted = || (rig.verify(&[])["waiting"] == 1000).then_some(());
    wait_for("all to be accepted", all_accepted);
    signal(&bench, "STOP");
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    tamper(&rig.files());
    signal(&bench, "CONT");
    let (found, _) = figures(&bench.wait_with_output().unwrap(), 1);
    assert_eq!((&found["accepted"], &found["verified"]["ok"]), (&1000.into(), &false.into()));
    found["verified"].clone()
}

fn rewrite(file: &Path, change: impl Fn(&mut Vec<String>)) {
    let text = fs::read_to_string(file).unwrap();
    let mut lines: Vec<_> = text.lines().map(|line| format!("{line}\n")).collect();
    change(&mut lines);
    fs::write(file, lines.concat()).unwrap();
}

#[test]
fn a_lost_and_a_doubled_message_are_found() {
    let lost = tampered(|files| rewrite(&files[0], |lines| _ = lines.remove(3)));
    assert_eq!((&lost["lost"], &lost["doubled"]), (&1.into(), &0.into()), "{lost}");
    assert!(lost["findings"][0].as_str().unwrap().contains("are in no file"), "{lost}");
    let doubled = tampered(|files| rewrite(&files[0], |lines| lines.push(lines[0].clone())));
    assert_eq!((&doubled["lost"], &doubled["doubled"]), (&0.into(), &1.into()), "{doubled}");
    let name = |number: u64| format!("{number:012}-shard-0-worker-1.jsonl");
    let copied = tampered(|files| {
        fs::copy(&files[0], files[0].with_file_name(name(999_999))).map(drop).unwrap();
    });
    assert_eq!((&copied["lost"], &copied["doubled"]), (&0.into(), &200.into()), "{copied}");
}

#[test]
fn without_a_consumer_it_says_who_is_missing() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let arguments = ["--count", "100", "--drain-seconds", "1"];
    let output = bench(&rig, server.address(), &arguments).output().unwrap();
    let (found, said) = figures(&output, 75);
    assert!(said.contains("100 messages wait") && said.contains("message-consumer"), "{said}");
    assert_eq!((&found["accepted"], &found["verified"]), (&100.into(), &Value::Null));
    let arguments = ["--count", "100", "--no-drain"];
    let (found, _) = figures(&bench(&rig, server.address(), &arguments).output().unwrap(), 0);
    assert_eq!((&found["accepted"], &found["not_verified"]), (&100.into(), &"--no-drain".into()));
}

#[test]
fn ctrl_c_ends_it_with_the_figures_so_far() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    for arguments in [&["--duration", "1000"][..], &["--duration", "1000", "--rate", "10000"]] {
        let before = rig.verify(&[])["accepted"].as_u64();
        let bench = start(bench(&rig, server.address(), arguments));
        wait_for("messages", || (rig.verify(&[])["accepted"].as_u64() > before).then_some(()));
        signal(&bench, "INT");
        let (found, _) = figures(&bench.wait_with_output().unwrap(), 130);
        assert_eq!((&found["interrupted"], &found["verified"]), (&true.into(), &Value::Null));
        assert!(found["latency_ms"]["p50"].as_f64() > Some(0.0), "{found}");
    }
}

#[test]
fn a_server_that_is_not_there_or_not_the_right_one_is_named() {
    let rig = Rig::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = refused(&bench(&rig, nobody, &[]).output().unwrap(), 73);
    assert!(said.contains("state") && said.contains("--no-drain"), "{said}");
    assert!(!rig.state().exists(), "it makes a state directory");
    let said = refused(&bench(&rig, nobody, &["--no-drain"]).output().unwrap(), 69);
    let expected = format!("no server answers at http://{nobody}");
    assert!(said.contains(&expected) && said.contains("async-data-processor up"), "{said}");
    let server = rig.serve(&["server"]);
    let other = Rig::new();
    let _other_server = other.serve(&["server"]);
    let said = refused(&bench(&other, server.address(), &[]).output().unwrap(), 78);
    assert!(said.contains("another state directory") && said.contains("STATE_DIR"), "{said}");
    assert_eq!(rig.verify(&[])["accepted"], 0);
}

#[test]
fn a_token_comes_from_a_file_and_is_asked_for() {
    let mut rig = Rig::new();
    let tokens = rig.dir.path().join("tokens");
    fs::write(&tokens, "shop:write:s3cret\n").unwrap();
    let server = Process::start({
        let mut command = rig.command(&["server"]);
        command.env("TOKENS_FILE", &tokens);
        command
    });
    let arguments = ["--count", "100", "--no-drain"];
    let said = refused(&bench(&rig, server.address(), &arguments).output().unwrap(), 78);
    assert!(said.contains("401") && said.contains("--token-file"), "{said}");
    let token = rig.dir.path().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    rig.set("TOKEN_FILE", token.display());
    let (found, said) = figures(&bench(&rig, server.address(), &arguments).output().unwrap(), 0);
    assert_eq!(found["accepted"], 100);
    assert_eq!(found["server_state_commits"], Value::Null, "scope read is missing");
    assert!(!said.contains("s3cret"));
}

/// What a server does with a request.
#[derive(Clone)]
enum Step {
    Answer(String),
    /// Closes the connection instead.
    Close,
    /// Answers only after so long.
    Stall(Duration, String),
}

/// A server that does what it is told, request by request.
fn scripted(steps: Vec<Step>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut steps = steps.into_iter();
    std::thread::spawn(move || {
        while steps.len() > 0 {
            let (mut stream, _) = listener.accept().unwrap();
            while let Some(step) = read_request(&mut stream).and_then(|()| steps.next()) {
                let answer = match step {
                    Step::Close => break,
                    Step::Answer(answer) => answer,
                    Step::Stall(time, answer) => {
                        std::thread::sleep(time);
                        answer
                    }
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    address
}

fn scripted_answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The answer to the probe.
fn welcome() -> String {
    scripted_answer("201 Created", "{\"accepted\":0,\"receipt\":\"0123abcd\"}")
}

/// Reads one request; `None` at the end of the connection.
fn read_request(stream: &mut TcpStream) -> Option<()> {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        text += std::str::from_utf8(&chunk[..count]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if length.map_or(0, |length| length.parse().unwrap()) == body.len() {
            return Some(());
        }
    }
}

#[test]
fn what_is_no_201_is_counted_and_never_accepted() {
    let rig = Rig::new();
    let (welcome, none) = (welcome(), scripted_answer("404 Not Found", ""));
    let busy = scripted_answer("503 Service Unavailable\r\nRetry-After: 0", "busy");
    let stored = scripted_answer("201 Created", "{\"accepted\":10,\"receipt\":\"0123abcd\"}");
    let fewer = scripted_answer("201 Created", "{\"accepted\":9,\"receipt\":\"0123abcd\"}");
    // The probe, the figures before, the load, the figures after.
    let steps = [
        Step::Answer(welcome),
        Step::Answer(none.clone()),
        Step::Answer(busy),
        Step::Answer(stored.clone()),
        Step::Close,
        Step::Answer(fewer),
        Step::Answer(stored),
        Step::Answer(none),
    ];
    let address = scripted(steps.to_vec());
    let arguments = ["--entries", "10", "--count", "50", "--connections", "1", "--no-drain"];
    let (found, _) = figures(&bench(&rig, address, &arguments).output().unwrap(), 0);
    assert_eq!((&found["accepted"], &found["requests"]), (&20.into(), &5.into()), "{found}");
    let errors = serde_json::json!({
        "201": 1, "503": 1, "connection closed without an answer": 1
    });
    assert_eq!(found["errors"], errors);
    assert_eq!(
        (&found["retry_after_waits"], &found["latency_ms"]["count"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn a_stalled_server_is_not_flattered_in_an_open_loop() {
    let rig = Rig::new();
    let none = scripted_answer("404 Not Found", "");
    let stored = scripted_answer("201 Created", "{\"accepted\":1,\"receipt\":\"0123abcd\"}");
    // All 20 requests are due within 0.2 s, the first answer comes after 1 s, the others at once.
    let mut steps = vec![Step::Answer(welcome()), Step::Answer(none.clone())];
    steps.push(Step::Stall(Duration::from_secs(1), stored.clone()));
    steps.extend(vec![Step::Answer(stored); 19]);
    steps.push(Step::Answer(none));
    let address = scripted(steps);
    let arguments = ["--entries", "1", "--count", "20", "--rate", "100", "--connections", "1"];
    let arguments = [&arguments[..], &["--no-drain"]].concat();
    let (found, _) = figures(&bench(&rig, address, &arguments).output().unwrap(), 0);
    assert_eq!(found["latency_ms"]["count"], 20);
    let p50 = found["latency_ms"]["p50"].as_f64();
    assert!(p50 > Some(750.0), "what waited behind the stall counts from when it was due: {found}");
}

#[test]
fn a_server_without_room_is_told_before_the_load() {
    let mut rig = Rig::new();
    rig.set("DISK_LOW_WATER_BYTES", u64::MAX);
    let full = rig.serve(&["server"]);
    let said = refused(&bench(&rig, full.address(), &[]).output().unwrap(), 69);
    assert!(said.contains("takes no messages: 507"), "{said}");
}

#[test]
fn the_limits_of_the_parts_are_measured_without_a_server() {
    let rig = Rig::new();
    let output = rig.run(&["bench", "limit", "--seconds", "1", "--output", "json"]);
    let (found, _) = figures(&output, 0);
    for step in ["parse_and_check", "format", "write_and_sync", "together"] {
        let step = &found["files"][step];
        assert!(step["messages_per_second"].as_f64() > Some(0.0), "{found}");
        assert!(step["cpu_seconds_per_million"].as_f64() > Some(0.0), "{found}");
    }
    for (limit, load) in found["bare_http"].as_array().unwrap().iter().zip([(1, 64), (100, 16)]) {
        assert_eq!(
            (&limit["entries_per_request"], &limit["connections"]),
            (&load.0.into(), &load.1.into())
        );
        assert!(limit["requests_per_second"].as_f64() > Some(0.0), "{found}");
    }
    for (limit, segmented) in found["datagrams"].as_array().unwrap().iter().zip([true, false]) {
        assert_eq!(limit["segmented"], segmented);
        assert!(limit["received_per_second"].as_f64() > Some(0.0), "{found}");
        assert!(limit["sent_per_second"].as_f64() >= limit["received_per_second"].as_f64());
    }
    assert!(found["rabbitmq"].is_null(), "{found}");
    assert_eq!(fs::read_dir(rig.dir.path()).unwrap().count(), 0, "it leaves files behind");
}

#[test]
fn the_limits_of_rabbitmq_are_measured_and_no_queue_is_left_behind() {
    let mut rig = Rig::new();
    rig.set("RABBITMQ_URL", shared().vhost("bench-limit"));
    let output = rig.run(&["bench", "limit", "--seconds", "1", "--output", "json"]);
    let (found, _) = figures(&output, 0);
    let loops = found["rabbitmq"]["loops"].as_array().unwrap();
    let loads: Vec<_> = loops
        .iter()
        .map(|limit| (&limit["queue_type"], limit["messages_per_frame"].as_u64().unwrap() > 1))
        .collect();
    let (classic, quorum) = (&"classic".into(), &"quorum".into());
    assert_eq!(loads, [(classic, false), (quorum, false), (quorum, true), (quorum, true)]);
    assert!(loops.iter().all(|limit| limit["messages_per_second"].as_f64() > Some(0.0)), "{found}");
    assert!(found["rabbitmq"]["confirm_latency_ms"]["p50"].as_f64() > Some(0.0), "{found}");
    assert_eq!(shared().queues("bench-limit"), Vec::<String>::new());
}

#[test]
fn people_get_a_table_and_an_ok() {
    let rig = Rig::new();
    let up = rig.serve(&["up"]);
    let url = format!("http://{}", up.address());
    let output = rig.run(&["bench", "--count", "500", "--url", &url]);
    let table = String::from_utf8(output.stdout).unwrap();
    for text in ["to 201", "p99.9", "CPU s per million", "up (pid", "this client", "lost 0"] {
        assert!(table.contains(text), "{text} in\n{table}");
    }
    assert!(table.ends_with("\nok\n"), "{table}");
}
