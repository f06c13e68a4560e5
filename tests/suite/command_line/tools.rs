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
    assert_eq!(rig.run(&["publish"]).status.code(), Some(0));
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
fn history_as_csv_has_a_header_and_the_figures_of_the_other_forms() {
    let mut rig = Rig::new();
    const HEADER: &str = "worker,batches,messages,bytes,errors,timeouts,last_seen";
    assert_eq!(rig.run(&["publish"]).status.code(), Some(0));
    let csv = |rig: &Rig| stdout(&rig.run(&["history", "--output", "csv"]));
    assert_eq!(csv(&rig), format!("{HEADER}\n"));
    rig.set("WORKERS_COUNT", 1);
    bring_into_a_file(&rig, 3);
    let text = csv(&rig);
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((text.lines().next(), rows.len()), (Some(HEADER), 2), "{text}");
    assert!(text.ends_with('\n') && !text.contains(['\r', '"', ' ']), "{text}");
    let known = &history(&rig)[0];
    for (name, value) in rows[0].iter().zip(&rows[1]) {
        match *name {
            "worker" => assert_eq!(known["worker"], *value),
            "last_seen" => assert!(value.ends_with('Z') && value.len() == 24, "{text}"),
            number => assert_eq!(known[number].to_string(), *value, "{number}"),
        }
    }
}

#[test]
fn verify_goes_on_past_what_cannot_be_read_and_names_it() {
    let mut rig = Rig::new();
    rig.set("WORKERS_COUNT", 1);
    (0..3).for_each(|_| bring_into_a_file(&rig, 2));
    let files = rig.files();
    assert_eq!(files.len(), 3);
    // The system refuses these to root as well, as it does a file without rights to others.
    std::fs::rename(&files[0], rig.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(rig.dir.path().join("elsewhere"), &files[0]).unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    std::fs::create_dir(&files[1]).unwrap();
    std::fs::write(&files[2], "damaged").unwrap();
    let account = rig.verify(&["--allow-taken-away"]);
    let findings = account["findings"].as_array().unwrap();
    assert_eq!((account["accepted"].clone(), findings.len()), (6.into(), 3), "{account}");
    let said = ["Too many levels of symbolic links", "Is a directory", "7 bytes with checksum"];
    for ((finding, file), said) in findings.iter().zip(&files).zip(said) {
        let detail = finding["detail"].as_str().unwrap();
        let file = file.strip_prefix(rig.output()).unwrap().to_str().unwrap();
        assert_eq!(finding["kind"], "damaged");
        assert!(detail.starts_with(file) && detail.contains(said), "{detail}");
    }
}

#[test]
fn a_folder_that_cannot_be_searched_is_no_clean_account() {
    let mut rig = Rig::new();
    bring_into_a_file(&rig, 2);
    assert_eq!(rig.verify(&[])["ok"], true);
    let file = rig.files().remove(0);
    let hour = file.parent().unwrap();
    let elsewhere = rig.dir.path().join("elsewhere");
    std::fs::rename(hour, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, hour).unwrap();
    let account = rig.verify(&[]);
    let detail = account["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("its folder may hold others, and is unreadable: Not a d"), "{detail}");
    rig.set("DATA_OUTPUT_DIR", elsewhere.join(file.file_name().unwrap()).display());
    let output = rig.run(&["verify"]);
    assert_eq!(output.status.code(), Some(73), "a file in its place is not the same as none");
    assert!(stderr(&output).contains("Not a directory"), "{}", stderr(&output));
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
