//! `history` and `verify`: what they print, and that it survives restarts.

use serde_json::Value;

use super::{stderr, stdout};
use crate::harness::{Rig, entry, post_entries};

/// Posts entries of one shard, waits until they are in a file, and stops.
fn bring_into_a_file(rig: &Rig, count: u32) {
    let up = rig.serve(&["up"]);
    let entries: Vec<_> = (0..count).map(|n| entry(n * 5, &format!("v{n}"))).collect();
    post_entries(up.address(), &entries);
    rig.wait_drained();
    up.stop();
}

fn history(rig: &Rig) -> Vec<Value> {
    serde_json::from_slice(&rig.run(&["history", "--output", "json"]).stdout).unwrap()
}

fn sum(rows: &[Value], field: &str) -> u64 {
    rows.iter().map(|row| row[field].as_u64().unwrap()).sum()
}

#[test]
fn history_adds_up_over_restarts() {
    let mut rig = Rig::new();
    assert_eq!(stdout(&rig.run(&["history"])), "no worker has committed anything yet\n");
    rig.set("WORKERS_COUNT", 1);
    bring_into_a_file(&rig, 3);
    let first = history(&rig);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0]["worker"], "shard-0-worker-1");
    assert_eq!((sum(&first, "batches"), sum(&first, "messages")), (1, 3));
    let bytes: u64 = rig.lines().iter().map(|line| line.len() as u64 + 1).sum();
    assert_eq!((sum(&first, "bytes"), sum(&first, "errors")), (bytes, 0));
    bring_into_a_file(&rig, 4);
    let second = history(&rig);
    assert_eq!((sum(&second, "batches"), sum(&second, "messages")), (2, 7));
    let table = stdout(&rig.run(&["history"]));
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("worker ") && lines[0].ends_with(" last seen"), "{table}");
    let cells: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(cells[..3], ["shard-0-worker-1", "2", "7"], "{table}");
    assert!(cells[6].ends_with('Z') && cells.len() == 7, "{table}");
}

#[test]
fn verify_names_what_is_missing_and_damaged_in_both_forms() {
    let rig = Rig::new();
    bring_into_a_file(&rig, 3);
    assert_eq!(rig.run(&["verify"]).status.code(), Some(0));
    let file = rig.files().remove(0);
    let name = file.strip_prefix(rig.output()).unwrap().display().to_string();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("v1", "v9")).unwrap();
    let output = rig.run(&["verify"]);
    let table = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(table.contains(&format!("damaged: shard 0, offsets 0..3: {name}: ")), "{table}");
    assert!(table.ends_with("NOT OK\n"), "{table}");
    assert_eq!(rig.verify(&["--allow-taken-away"])["findings"][0]["kind"], "damaged");
    std::fs::remove_file(file).unwrap();
    let account = rig.verify(&[]);
    assert_eq!(account["findings"][0]["kind"], "missing");
    assert_eq!(account["findings"][0]["range"], serde_json::json!({"first": 0, "end": 3}));
    let account = rig.verify(&["--allow-taken-away"]);
    assert_eq!((&account["ok"], &account["shards"][0]["taken_away"]), (&true.into(), &3.into()));
}

#[test]
fn a_table_into_a_closed_pipe_or_a_full_disk_is_no_panic() {
    let rig = Rig::new();
    bring_into_a_file(&rig, 1);
    for script in ["\"$0\" \"$@\" >/dev/full", "\"$0\" \"$@\" >&-", "\"$0\" \"$@\" | true"] {
        for command in ["verify", "history"] {
            let output = rig.wrapped(&["bash", "-c", script], &[command]).output().unwrap();
            let said = stderr(&output);
            assert!(!said.contains("panicked"), "{script} {command}: {said}");
            assert!(said.is_empty() || said.starts_with("error: writing to stdout: "), "{said}");
        }
    }
}
