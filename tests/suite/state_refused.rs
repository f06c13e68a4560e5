//! A state directory that may not be used from here.

use std::process::Stdio;

use async_data_processor::state::{OpenError, WriteTxn};

use crate::harness::{Rig, open_state, wait_for};

#[test]
fn a_state_directory_of_another_format_is_refused() {
    let rig = Rig::new();
    let state = open_state(&rig.state(), 64 << 20).unwrap();
    let other = |txn: &mut WriteTxn<'_>| {
        Ok(txn.tables.meta.put(&mut txn.txn, b"format", &7_u32.to_be_bytes())?)
    };
    state.commit(other).unwrap();
    drop(state);
    let refused = open_state(&rig.state(), 64 << 20).unwrap_err();
    assert!(matches!(refused, OpenError::Format { found: 7, .. }), "{refused}");
    for command in ["server", "message-consumer", "verify", "history"] {
        let output = rig.run(&[command]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{command}: {text}");
        assert!(text.contains("has format 7; this version reads format 4"), "{text}");
    }
}

/// Runs `history`, which opens the state directory; the exit code and what it says.
fn look(rig: &Rig, wrapper: &[&str]) -> (Option<i32>, String) {
    let output = rig.wrapped(wrapper, &["history"]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_second_pid_namespace_is_refused_while_the_first_lives() {
    const APART: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let (exit, text) = look(&rig, &APART);
    assert_eq!(exit, Some(78), "this test unshares a PID namespace, which needs root: {text}");
    assert!(text.contains("in use from another PID namespace"), "{text}");
    assert!(text.contains(rig.state().to_str().unwrap()), "{text}");
    assert_eq!(look(&rig, &[]).0, Some(0));
    server.stop();
    assert_eq!(look(&rig, &APART).0, Some(0));
    assert_eq!(look(&rig, &[]).0, Some(0));
    // The other way round: this one waits for its input, there.
    let holder = || std::fs::read_to_string(rig.state().join("namespace")).unwrap();
    let here = holder();
    let mut there = rig.wrapped(&APART, &["publish"]);
    let mut there = there.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the other to hold the directory", || (holder() != here).then_some(()));
    assert_eq!(look(&rig, &[]).0, Some(78));
    drop(there.stdin.take());
    assert!(there.wait().unwrap().success());
    assert_eq!(look(&rig, &[]).0, Some(0));
}
