//! The main job as its user meets it: post, files, stop, verify.

use crate::harness::{Rig, entry, post_entries, request};

#[test]
fn what_is_posted_lands_in_files_that_name_their_worker() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let entries: Vec<_> = (0..25).map(|n| entry(n, &format!("v{n}"))).collect();
    let receipt = post_entries(server.address(), &entries);
    let account = rig.wait_drained();
    assert_eq!((&account["accepted"], &account["in_files"]), (&25.into(), &25.into()));
    let mut lines = rig.lines();
    lines.sort();
    let mut expected = entries;
    expected.sort();
    assert_eq!(lines, expected);
    for file in rig.files() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.contains("-shard-") && name.contains("-worker-"), "{name}");
    }
    let path = format!("/receipt/{receipt}");
    let report = request(server.address(), "GET", &path, &[], b"").json();
    assert_eq!((&report["messages"], &report["in_files"]), (&25.into(), &25.into()));
    for part in report["parts"].as_array().unwrap() {
        let file = rig.output().join(part["files"][0]["file"].as_str().unwrap());
        assert!(rig.files().contains(&file), "{}", file.display());
    }
    server.stop();
    let log = consumer.stop();
    assert!(log.contains("worker history"), "{log}");
}

#[test]
fn up_runs_both_in_one_process() {
    let rig = Rig::new();
    let up = rig.serve(&["up"]);
    post_entries(up.address(), &[entry(0, "a"), entry(1, "b")]);
    rig.wait_drained();
    assert_eq!(rig.lines().len(), 2);
    up.stop();
}

#[test]
fn wrong_settings_are_all_named_before_anything_is_made() {
    let mut rig = Rig::new();
    rig.set("BATCH_MIN", 9).set("BATCH_MAX", 3).set("TOKENS_FILE", "/not/there");
    let output = rig.run(&["up"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("BATCH_MIN") && told.contains("TOKENS_FILE"), "{told}");
    assert!(!rig.state().exists() && !rig.output().exists());
}
