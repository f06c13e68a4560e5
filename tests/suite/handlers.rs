//! Batches that go through a program of the user's: what it prints, refuses, hangs at and dies of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Process, Rig, entry, files_below, request, wait_for};

/// Fails at a batch with a message that holds `poison`, after half an answer; as awk does it, so
/// that it needs no more than any Debian has.
const REFUSES_POISON: &str =
    "awk '/poison/ { print \"I saw poison\" > \"/dev/stderr\"; exit 3 } 1'";

fn rig(program: &str) -> Rig {
    let mut rig = Rig::new();
    rig.set("EXEC", program).set("SHARDS_COUNT", 1).set("BATCH_ATTEMPTS", 1);
    rig
}

fn publish(rig: &Rig, values: &[String]) {
    let lines: String = values.iter().map(|value| entry(0, value) + "\n").collect();
    let output = rig.run_with_input(&["publish"], lines.as_bytes());
    assert!(output.status.success(), "{output:?}");
}

fn values(from: u32, to: u32, poisonous: &[u32]) -> Vec<String> {
    let name = |n| if poisonous.contains(&n) { format!("poison-{n}") } else { format!("good-{n}") };
    (from..to).map(name).collect()
}

fn value_of(line: &str) -> String {
    let entry: Value = serde_json::from_str(line).unwrap();
    entry["value"].as_str().unwrap().to_owned()
}

/// How often each value stands in the files of done messages, and in those of dead ones.
fn found(rig: &Rig) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut done, mut dead) = (BTreeMap::new(), BTreeMap::new());
    for file in rig.files() {
        let is_dead = file.starts_with(rig.output().join("dead"));
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            if is_dead {
                let letter: Value = serde_json::from_str(line).unwrap();
                *dead.entry(value_of(&letter["message"].to_string())).or_default() += 1;
            } else {
                *done.entry(value_of(line)).or_default() += 1;
            }
        }
    }
    (done, dead)
}

/// Every value once: the poisonous dead, the others done.
fn assert_sorted_out(rig: &Rig, values: &[String]) {
    let (done, dead) = found(rig);
    let (bad, good): (Vec<_>, Vec<_>) =
        values.iter().map(|value| (value.clone(), 1)).partition(|(v, _)| v.contains("poison"));
    assert_eq!((done, dead), (good.into_iter().collect(), bad.into_iter().collect()));
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_program_s_lines_are_what_the_file_holds_and_messages_are_what_is_counted() {
    let rig = rig("tr a-z A-Z | head -n 3; printf unended");
    publish(&rig, &values(0, 5, &[]));
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    assert_eq!((&account["in_files"], &account["dead"]), (&5.into(), &0.into()));
    consumer.stop();
    let text = std::fs::read_to_string(&rig.files()[0]).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.starts_with("{\"TIMESTAMP\"") && text.ends_with("\nunended\n"), "{text}");
    let history = json(&rig.run(&["history", "--output", "json"]));
    assert_eq!(history[0]["messages"], 5);
}

#[test]
fn a_program_that_prints_nothing_makes_no_file() {
    let rig = rig("cat > /dev/null");
    publish(&rig, &values(0, 20, &[]));
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    assert_eq!(account["in_files"], 20);
    consumer.kill();
    // Recovery has nothing to look for, either.
    publish(&rig, &values(20, 25, &[]));
    let consumer = rig.start(&["message-consumer"]);
    assert_eq!(rig.wait_drained()["in_files"], 25);
    consumer.stop();
    assert_eq!(rig.files(), Vec::<PathBuf>::new());
}

#[test]
fn poisonous_messages_are_dead_with_their_reason_and_can_be_sent_again_once() {
    let mut rig = rig(REFUSES_POISON);
    let sent = values(0, 60, &[7, 8, 41]);
    publish(&rig, &sent);
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    assert_eq!((&account["in_files"], &account["dead"]), (&57.into(), &3.into()));
    let log = consumer.stop();
    assert!(log.contains("I saw poison") && log.contains("it is dead"), "{log}");
    assert_sorted_out(&rig, &sent);
    // Neighbours are in one file.
    let listed = json(&rig.run(&["dead", "list", "--output", "json"]));
    let mut listed = listed.as_array().unwrap().clone();
    listed.sort_by_key(|row| row["messages"].as_u64());
    let messages: Vec<_> = listed.iter().map(|row| &row["messages"]).collect();
    assert_eq!(messages, [1, 2]);
    assert_eq!(listed[0]["reason"], "exit code 3: I saw poison");
    let number = listed[0]["number"].to_string();
    let shown = rig.run(&["dead", "show", &number]);
    let letter = json(&shown);
    assert_eq!((&letter["offset"], &letter["message"]["value"]), (&41.into(), &"poison-41".into()));
    let server = rig.serve(&["server"]);
    let metrics = request(server.address(), "GET", "/metrics", &[], b"").body;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("async_data_processor_messages_dead 3"), "{metrics}");
    server.stop();
    let table = String::from_utf8(rig.run(&["dead", "list"]).stdout).unwrap();
    assert!(table.contains("exit code 3: I saw poison"), "{table}");
    // The program is mended.
    rig.set("EXEC", "cat");
    let resent = json(&rig.run(&["dead", "resend", &number]));
    assert_eq!((&resent["files"], &resent["messages"]), (&1.into(), &1.into()));
    let again = rig.run(&["dead", "resend", &number]);
    assert_eq!(again.status.code(), Some(65), "{again:?}");
    assert_eq!(json(&rig.run(&["dead", "resend", "--all"]))["messages"], 2);
    assert_eq!(json(&rig.run(&["dead", "resend", "--all"]))["messages"], 0);
    assert_eq!(rig.run(&["dead", "show", "4711"]).status.code(), Some(65));
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    assert_eq!((&account["in_files"], &account["dead"]), (&60.into(), &3.into()));
    consumer.stop();
    let (done, _) = found(&rig);
    assert_eq!(done, sent.iter().map(|value| (value.clone(), 1)).collect());
}

#[test]
fn dead_letters_that_are_gone_or_changed_are_not_sent_again() {
    let rig = rig(REFUSES_POISON);
    publish(&rig, &values(0, 2, &[0, 1]));
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    let file = rig.files().remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("poison-1", "poison-2")).unwrap();
    let changed = rig.run(&["dead", "resend", "--all"]);
    assert_eq!(changed.status.code(), Some(74), "{changed:?}");
    std::fs::remove_file(&file).unwrap();
    let gone = rig.run(&["dead", "resend", "--all"]);
    assert_eq!(gone.status.code(), Some(74), "{gone:?}");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("put it back"), "{gone:?}");
    std::fs::write(&file, text).unwrap();
    assert_eq!(json(&rig.run(&["dead", "resend", "--all"]))["messages"], 2);
}

#[test]
fn a_program_that_hangs_is_killed_and_only_its_message_is_dead() {
    let mut rig = rig("awk '/hang/ { system(\"sleep 600\") } 1'");
    rig.set("WORKERS_WORKTIME_SECONDS", 8);
    publish(&rig, &["good".to_owned(), "hang".to_owned()]);
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    assert_eq!((&account["in_files"], &account["dead"]), (&1.into(), &1.into()));
    let log = consumer.stop();
    assert!(log.contains("killed after"), "{log}");
    let history = json(&rig.run(&["history", "--output", "json"]));
    let timeouts = |row: &Value| row["timeouts"].as_u64().unwrap();
    assert_eq!(history.as_array().unwrap().iter().map(timeouts).sum::<u64>(), 2);
}

#[test]
fn a_program_that_kills_itself_or_the_consumer_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let once = dir.path().join("once");
    let program = format!(
        "if mkdir {} 2>/dev/null; then kill -9 $PPID; fi; \
         awk '/poison/ {{ system(\"kill -9 \" PROCINFO[\"ppid\"]); exit 9 }} 1' || kill -9 $$",
        once.display()
    );
    let rig = rig(&program);
    let sent = values(0, 30, &[3]);
    publish(&rig, &sent);
    let mut consumer = rig.start(&["message-consumer"]);
    assert!(!consumer.wait().success(), "it was to be killed");
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    let log = consumer.stop();
    assert!(log.contains("killed by signal 9"), "{log}");
    assert_sorted_out(&rig, &sent);
}

#[test]
fn a_consumer_killed_while_it_splits_loses_and_doubles_nothing() {
    let rig = rig(REFUSES_POISON);
    let sent = values(0, 400, &[0, 1, 77, 78, 200, 399]);
    publish(&rig, &sent);
    // So that the kills fall on different steps.
    for pause_ms in [3, 20, 60, 90, 140, 10, 45] {
        let consumer = rig.start(&["message-consumer"]);
        consumer.wait_log("took over shards");
        std::thread::sleep(Duration::from_millis(pause_ms));
        consumer.kill();
    }
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    assert_sorted_out(&rig, &sent);
}

#[test]
fn a_program_that_cannot_be_run_costs_no_message_its_life() {
    let mut rig = rig("/no/such/program");
    publish(&rig, &values(0, 5, &[]));
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("cannot be run, yet");
    let account = rig.verify(&[]);
    assert_eq!((&account["waiting"], &account["dead"]), (&5.into(), &0.into()));
    consumer.stop();
    rig.set("EXEC", "cat");
    let consumer = rig.start(&["message-consumer"]);
    assert_eq!(rig.wait_drained()["in_files"], 5);
    consumer.stop();
}

/// Starts a consumer whose program says so once it runs, and waits for that.
fn start_running(rig: &Rig, sign: &std::path::Path) -> Process {
    let consumer = rig.start(&["message-consumer"]);
    wait_for("the program to run", || sign.exists().then_some(()));
    consumer
}

#[test]
fn a_stop_lets_a_program_finish_or_kills_it_in_time_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sign, go_on) = (dir.path().join("sign"), dir.path().join("go-on"));
    let program = format!(
        "touch {}; while ! test -e {}; do sleep 0.05; done; cat",
        sign.display(),
        go_on.display()
    );
    let mut rig = rig(&program);
    rig.set("SHUTDOWN_SECONDS", 5);
    publish(&rig, &values(0, 5, &[]));
    let mut consumer = start_running(&rig, &sign);
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(0), "{}", consumer.log());
    assert_eq!(rig.verify(&[])["waiting"], 5, "killed before it printed anything");
    std::fs::remove_file(&sign).unwrap();
    let mut consumer = start_running(&rig, &sign);
    consumer.signal("TERM");
    consumer.wait_log("stopping; once more");
    std::fs::write(&go_on, "").unwrap();
    assert_eq!(consumer.wait().code(), Some(0), "{}", consumer.log());
    assert_eq!(rig.verify(&[])["in_files"], 5, "it was allowed to finish");
}

#[test]
fn a_program_inherits_no_file_of_the_state() {
    let rig = rig("ls -l /proc/$$/fd");
    publish(&rig, &values(0, 5, &[]));
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    let text = rig.lines().join("\n");
    assert!(text.contains("pipe:") && !text.contains("data.mdb"), "{text}");
}

#[test]
fn a_second_signal_ends_the_program_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let sign = dir.path().join("sign");
    let rig = rig(&format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600; cat", sign.display()));
    publish(&rig, &values(0, 5, &[]));
    let mut consumer = start_running(&rig, &sign);
    consumer.signal("TERM");
    consumer.wait_log("stopping; once more");
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(130), "{}", consumer.log());
    let pid = std::fs::read_to_string(&sign).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    wait_for("the program to die", || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    });
    assert_eq!(rig.verify(&[])["waiting"], 5);
}

#[test]
fn compressed_files_hold_the_lines_and_verify_by_their_checksum() {
    let mut rig = Rig::new();
    rig.set("COMPRESS", "zstd").set("SHARDS_COUNT", 1);
    let sent = values(0, 2000, &[]);
    publish(&rig, &sent);
    let consumer = rig.start(&["message-consumer"]);
    assert_eq!(rig.wait_drained()["in_files"], 2000);
    consumer.stop();
    assert_eq!(files_below(&rig.output()), Vec::<PathBuf>::new(), "not compressed");
    let mut found = Vec::new();
    let mut open = vec![rig.output()];
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("zst") => found.push(path),
                _ if path.is_dir() => open.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    let texts = found.iter().map(|path| zstd::decode_all(std::fs::File::open(path).unwrap()));
    let text: Vec<u8> = texts.flat_map(Result::unwrap).collect();
    let values: Vec<_> = String::from_utf8(text).unwrap().lines().map(value_of).collect();
    assert_eq!(values, sent);
    let bytes: u64 = found.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < 2000 * 10, "{bytes} bytes");
    let mut damaged = std::fs::read(&found[0]).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&found[0], damaged).unwrap();
    assert_eq!(rig.verify(&[])["findings"][0]["kind"], "damaged");
}
