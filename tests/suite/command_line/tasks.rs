//! `tasks` and `calculate`: what is told of tasks, and what is done to them. The test plays the
//! worker.

use std::process::{Child, Command, Output, Stdio};

use async_data_processor::clock::{Clock, SystemClock};
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{Claim, Filter, Settled, Settlement, Store, Task, TaskState};
use async_data_processor::task::{Outcome, PART_BYTES, ResultHead, WorkerId};
use serde_json::Value;

use super::{last_line, refused, stderr, stdout};
use crate::harness::{Rig, wait_for};

const UNKNOWN: &str = "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a";

/// Asks the store of `rig` something.
fn on_store<T>(rig: &Rig, work: impl AsyncFnOnce(&SqliteStore) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { work(&SqliteStore::open(&rig.state()).unwrap()).await })
}

fn now_ms() -> i64 {
    SystemClock.wall().timestamp_millis()
}

/// Runs every task that is due, each to what `outcome` says.
fn work(rig: &Rig, kind: &str, outcome: impl AsyncFn(&SqliteStore, &Task) -> Outcome) {
    on_store(rig, async |store| {
        let claim = Claim {
            worker: WorkerId::new(),
            endpoint: None,
            kinds: vec![kind.parse().unwrap()],
            tasks_max: 100,
            now_ms: now_ms(),
        };
        for task in store.claim(claim).await.unwrap().tasks {
            let settlement = Settlement {
                id: task.id,
                attempt: Some(task.attempt),
                endpoint: None,
                outcome: outcome(store, &task).await,
                began_at_ms: None,
                at_ms: now_ms(),
            };
            assert_eq!(store.settle(vec![settlement]).await.unwrap(), [Settled::Applied]);
        }
    });
}

fn finished(result: &[u8]) -> Outcome {
    Outcome::Finished(ResultHead { bytes: result.len() as u64, head: result.to_vec() })
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed { reason: reason.to_owned(), is_final: true }
}

/// Submits one task; its id.
fn submit(rig: &Rig, arguments: &[&str], payload: &[u8]) -> String {
    let arguments = [&["tasks", "submit", "--kind", "echo"], arguments].concat();
    let output = rig.run_with_input(&arguments, payload);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output).trim_end().to_owned()
}

fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

fn show(rig: &Rig, id: &str) -> Value {
    serde_json::from_str(&done(&rig.run(&["tasks", "show", id, "--output", "json"]))).unwrap()
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until there are tasks that wait.
fn wait_pending(rig: &Rig) -> Task {
    wait_for("a task", || {
        let filter = Filter { tasks_max: 1, states: vec![TaskState::Pending], ..Filter::default() };
        rig.state().join("tasks.sqlite").exists().then_some(())?;
        on_store(rig, async |store| store.tasks(filter).await.unwrap().pop())
    })
}

#[test]
fn looking_at_tasks_makes_nothing() {
    let rig = Rig::new();
    for arguments in [
        &["tasks", "list"][..],
        &["tasks", "show", UNKNOWN],
        &["tasks", "cancel", UNKNOWN],
        &["tasks", "retry", "--all"],
    ] {
        let said = refused(&rig.run(arguments), 73);
        assert!(said.contains("is not there: is STATE_DIR right?"), "{said}");
    }
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_task_is_listed_shown_cancelled_and_retried() {
    let rig = Rig::new();
    let flags = ["--endpoint", "lab1", "--run-at", "2126-11-22T07:30:00Z", "--failures-max", "2"];
    let id = submit(&rig, &flags, b"hello\n");
    let other = submit(&rig, &[], &[0xff, 0]);
    let task = show(&rig, &id);
    for (name, value) in [
        ("kind", Value::from("echo")),
        ("endpoint", "lab1".into()),
        ("state", "pending".into()),
        ("payload", "hello\n".into()),
        ("run_at", "2126-11-22T07:30:00.000Z".into()),
        ("failures_max", 2.into()),
        ("finished_at", Value::Null),
    ] {
        assert_eq!(task[name], value, "{name}");
    }
    assert_eq!(show(&rig, &other)["payload"], serde_json::json!({ "base64": "/wA=" }));
    let list = |flags: &[&str]| done(&rig.run(&[&["tasks", "list"], flags].concat()));
    let ids = |flags: &[&str]| -> Vec<String> {
        let lines = list(&[&["--output", "json"], flags].concat());
        let read = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].clone();
        lines.lines().map(|line| read(line).as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&[]), [other.clone(), id.clone()], "newest first");
    assert_eq!(ids(&["--endpoint", "lab1", "--kind", "echo"]), std::slice::from_ref(&id));
    assert_eq!(ids(&["--before", &other]), std::slice::from_ref(&id));
    assert_eq!(ids(&["--state", "running,failed"]), Vec::<String>::new());
    assert_eq!(list(&["--kind", "none"]), "no tasks\n");
    assert!(list(&["--limit", "1"]).ends_with(&format!("--before {other}\n")));
    let table = list(&["--state", "pending,running"]);
    assert_eq!(table.lines().count(), 3, "{table}");

    let cancelled = done(&rig.run(&["tasks", "cancel", &id]));
    assert_eq!(cancelled, format!("{id} was pending, is cancelled\n"));
    let again = done(&rig.run(&["tasks", "cancel", &id]));
    assert_eq!(again, format!("{id} was cancelled already\n"));
    let retried = done(&rig.run(&["tasks", "retry", &id, "--output", "json"]));
    let expected = serde_json::json!({ "id": id, "was": "cancelled", "now": "pending" });
    assert_eq!(serde_json::from_str::<Value>(&retried).unwrap(), expected);
    assert_eq!(show(&rig, &id)["state"], "pending");
}

#[test]
fn what_cannot_be_changed_is_said_and_hinders_nothing_else() {
    let rig = Rig::new();
    let id = submit(&rig, &[], b"1");
    work(&rig, "echo", async |_, task| finished(&task.payload));
    let waiting = submit(&rig, &[], b"2");
    let output = rig.run(&["tasks", "cancel", UNKNOWN, &id, &waiting]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), format!("{waiting} was pending, is cancelled\n"));
    let said = stderr(&output);
    let expected = format!("there is no task {UNKNOWN}; the task {id} is finished, and stays so");
    assert!(last_line(&said).contains(&expected), "{said}");
    assert!(refused(&rig.run(&["tasks", "retry", &id]), 1).contains("is finished, and stays so"));
    let said = refused(&rig.run(&["tasks", "show", UNKNOWN]), 1);
    assert_eq!(last_line(&said), format!("error: there is no task {UNKNOWN}"));
    refused(&rig.run(&["tasks", "show", "7"]), 2);
}

#[test]
fn every_line_becomes_a_task_and_a_wrong_one_is_told_from_those_before_it() {
    let rig = Rig::new();
    let lines: String = (0..2500).map(|number| format!("{number}\n\r\n")).collect();
    let submit = ["tasks", "submit", "--kind", "echo", "--lines"];
    let output = rig.run_with_input(&[&submit[..], &["--quiet"]].concat(), lines.as_bytes());
    assert_eq!(done(&output), "2500\n");
    let listed = done(&rig.run(&["tasks", "list", "--limit", "9999", "--output", "json"]));
    let payload = |line: &str| serde_json::from_str::<Value>(line).unwrap()["payload"].clone();
    let payloads: Vec<Value> = listed.lines().map(payload).collect();
    let expected: Vec<Value> = (0..2500).rev().map(|number| number.to_string().into()).collect();
    assert_eq!(payloads, expected);

    let long = [b"a\nb\n", "x".repeat((1 << 20) + 1).as_bytes(), b"\nc\n"].concat();
    let output = rig.run_with_input(&submit, &long);
    assert_eq!(output.status.code(), Some(65));
    assert_eq!(stdout(&output).lines().count(), 2, "the ids of those that are stored");
    assert!(stderr(&output).contains("line 3 has more than 1048576 bytes; the lines before it"));
    let output = rig.run_with_input(&submit[..4], &long);
    assert!(refused(&output, 65).contains("a payload has at most 1048576 bytes"));
}

#[test]
fn a_result_is_written_whole_however_long() {
    let rig = Rig::new();
    let id = submit(&rig, &[], b"x");
    let said = refused(&rig.run(&["tasks", "show", &id, "--result"]), 1);
    assert!(said.contains("is pending: it has no result"), "{said}");
    let result: Vec<u8> =
        (0..5 * PART_BYTES / 2).map(|place| u8::try_from(place % 251).unwrap()).collect();
    work(&rig, "echo", async |store, task| {
        for (index, part) in (0..).zip(result.chunks(PART_BYTES)) {
            let put = store.put_part(task.id, Some(task.attempt), index, part.to_vec()).await;
            assert!(put.unwrap());
        }
        let head = result[..ResultHead::BYTES_MAX].to_vec();
        Outcome::Finished(ResultHead { bytes: result.len() as u64, head })
    });
    let output = rig.run(&["tasks", "show", &id, "--result"]);
    assert!(output.status.success() && output.stdout == result);
    let file = rig.dir.path().join("result");
    done(&rig.run(&["tasks", "show", &id, "--result-to", file.to_str().unwrap()]));
    assert_eq!(std::fs::read(&file).unwrap(), result);
    let names = std::fs::read_dir(rig.dir.path()).unwrap();
    assert_eq!(names.count(), 2, "the state directory and the result, nothing half-done");
    let nowhere = rig.dir.path().join("absent/result");
    refused(&rig.run(&["tasks", "show", &id, "--result-to", nowhere.to_str().unwrap()]), 73);
}

#[test]
fn all_failed_tasks_of_a_kind_run_again_and_no_others() {
    let rig = Rig::new();
    let lines = "again\n".repeat(120);
    rig.run_with_input(&["tasks", "submit", "--kind", "a", "--lines"], lines.as_bytes());
    rig.run_with_input(&["tasks", "submit", "--kind", "b"], b"other");
    for kind in ["a", "a", "b"] {
        work(&rig, kind, async |_, _| failed("no \u{1b}[31m luck"));
    }
    let table = done(&rig.run(&["tasks", "list", "--kind", "b"]));
    assert!(table.contains(r"no \u{1b}[31m luck"), "{table}");
    let retried = done(&rig.run(&["tasks", "retry", "--all", "--kind", "a"]));
    assert_eq!(retried.lines().count(), 120, "more than fit into a page");
    let failed = done(&rig.run(&["tasks", "list", "--state", "failed", "--output", "json"]));
    assert_eq!(failed.lines().count(), 1);
    for wrong in [&["--kind", "a"][..], &["--all", UNKNOWN], &["--all", "--state", "finished"]] {
        refused(&rig.run(&[&["tasks", "retry"], wrong].concat()), 2);
    }
}

#[test]
fn a_factorial_is_printed_when_it_is_there_and_calculated_once() {
    let rig = Rig::new();
    let child = start(rig.command(&["calculate", "20"]));
    let task = wait_pending(&rig);
    let message: Value = serde_json::from_slice(&task.payload).unwrap();
    let expected = serde_json::json!({ "version": "v1", "id": task.id.to_string(), "input": 20 });
    assert_eq!(message, expected);
    work(&rig, "factorial", async |_, _| finished(b"2432902008176640000"));
    assert_eq!(done(&child.wait_with_output().unwrap()), "2432902008176640000\n");
    let file = rig.dir.path().join("digits");
    let saved = done(&rig.run(&["calculate", "20", "--save", file.to_str().unwrap()]));
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!((&saved["input"], &saved["digits"]), (&20.into(), &19.into()));
    assert_eq!(std::fs::read(&file).unwrap(), b"2432902008176640000");
}

#[test]
fn a_calculation_that_fails_says_why_and_one_that_is_left_goes_on() {
    let rig = Rig::new();
    let child = start(rig.command(&["calculate", "30"]));
    wait_pending(&rig);
    work(&rig, "factorial", async |_, _| failed("no memory"));
    let said = refused(&child.wait_with_output().unwrap(), 1);
    assert!(last_line(&said).contains("the calculation is failed: no memory"), "{said}");

    let child = start(rig.command(&["calculate", "31"]));
    let id = wait_pending(&rig).id.to_string();
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let said = refused(&child.wait_with_output().unwrap(), 130);
    assert!(said.contains(&format!("`tasks show {id} --result`")), "{said}");
    assert_eq!(show(&rig, &id)["state"], "pending");

    let id = done(&rig.run(&["calculate", "32", "--no-wait"]));
    assert_eq!(show(&rig, id.trim_end())["kind"], "factorial");
}

#[test]
fn only_a_whole_number_up_to_the_limit_is_calculated() {
    let mut rig = Rig::new();
    for (input, said) in [
        ("-1", "Must be a positive number"),
        ("1.5", "Must be a whole number"),
        ("x", "Must be a whole number"),
        ("10000001", "Must be at most 10000000"),
        ("99999999999999999999", "Must be at most 10000000"),
    ] {
        let refusal = refused(&rig.run(&["calculate", input]), 2);
        assert!(refusal.contains(said), "{input}: {refusal}");
    }
    rig.set("CALCULATION_INPUT_MAX", "5");
    refused(&rig.run(&["calculate", "6"]), 2);
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 0);
}
