//! `publish`: good lines, wrong lines, and how it goes on.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{refused, stderr, stdout};
use crate::harness::{Rig, entry, post_entries, wait_for};

fn text(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

fn entries(count: u32) -> Vec<String> {
    (0..count).map(|n| entry(n, &format!("v{n}"))).collect()
}

/// Publishes, and expects this code and this count; what it said.
fn publish(rig: &Rig, flags: &[&str], input: &[u8], code: i32, printed: (u64, u64)) -> String {
    let output = rig.run_with_input(&[&["publish"], flags].concat(), input);
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    let (stored, lines) = printed;
    assert_eq!(stdout(&output), format!("{{\"stored\":{stored},\"lines\":{lines}}}\n"));
    stderr(&output)
}

fn accepted(rig: &Rig) -> Value {
    rig.verify(&[])["accepted"].clone()
}

#[test]
fn lines_are_stored_with_or_without_an_end_and_blank_ones_passed_over() {
    let rig = Rig::new();
    assert_eq!(publish(&rig, &[], &text(&entries(2)), 0, (2, 2)), "");
    publish(&rig, &[], entry(2, "no end").as_bytes(), 0, (1, 1));
    let windows = format!("{}\r\n\r\n  \r\n{}\r\n", entry(3, "a"), entry(4, "b"));
    publish(&rig, &[], windows.as_bytes(), 0, (2, 4));
    publish(&rig, &[], b"", 0, (0, 0));
    publish(&rig, &[], b"\n\n", 0, (0, 2));
    assert_eq!(accepted(&rig), 5);
}

#[test]
fn more_lines_than_fit_a_transaction_are_all_stored() {
    let rig = Rig::new();
    publish(&rig, &[], &text(&entries(25_000)), 0, (25_000, 25_000));
    let long = "x".repeat(40_000);
    let lines: Vec<_> = (0..60).map(|n| entry(n, &long)).collect();
    publish(&rig, &[], &text(&lines), 0, (60, 60));
    assert_eq!(accepted(&rig), 25_060);
}

#[test]
fn a_wrong_line_stops_it_and_skip_goes_on_without_doubling() {
    let rig = Rig::new();
    let mut lines = entries(2500);
    let right = std::mem::replace(&mut lines[1200], "{\"timestamp\":\"soon\"}".to_owned());
    let said = publish(&rig, &[], &text(&lines), 65, (1200, 1200));
    assert!(said.starts_with("error: line 1201: timestamp is not an RFC 3339"), "{said}");
    assert_eq!(accepted(&rig), 1200, "the lines before it are stored, none after it");
    lines[1200] = right;
    publish(&rig, &["--skip", "1200"], &text(&lines), 0, (1300, 2500));
    publish(&rig, &["--skip", "2500"], &text(&lines), 0, (0, 2500));
    publish(&rig, &["--skip", "9999"], &text(&lines), 0, (0, 2500));
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    let mut stored = rig.lines();
    stored.sort();
    lines.sort();
    assert_eq!(stored, lines);
}

#[test]
fn a_wrong_line_of_any_kind_stores_what_stands_before_it() {
    let rig = Rig::new();
    let huge = format!("{}\n", "x".repeat(3_000_000));
    let endless = "y".repeat(200_000);
    let bad: [(&[u8], &str); 6] = [
        (huge.as_bytes(), "it has more than 65499 bytes"),
        (endless.as_bytes(), "it has more than 65499 bytes"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"\0\n", "malformed JSON"),
        (b"[]\n", "an entry must be an object"),
        (b"{}\n", "timestamp is missing"),
    ];
    for (count, (line, expected)) in bad.into_iter().enumerate() {
        let before = text(&entries(1));
        let after = text(&entries(3));
        let input = [&before, line, &after].concat();
        let said = publish(&rig, &[], &input, 65, (1, 1));
        let expected = format!("error: line 2: {expected}");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.len() < 400, "it repeats the line: {said}");
        assert_eq!(accepted(&rig), count + 1);
    }
    // A line that is too long counts as one line when it is passed over.
    let input = [huge.as_bytes(), &text(&entries(2))].concat();
    publish(&rig, &["--skip", "1"], &input, 0, (2, 3));
}

#[test]
fn stdin_that_is_closed_or_cannot_be_read_is_no_panic() {
    let rig = Rig::new();
    let shell = |script: &str| {
        let mut command = rig.wrapped(&["bash", "-c", script], &["publish"]);
        command.output().unwrap()
    };
    let closed = shell("exec \"$0\" \"$@\" <&-");
    assert_eq!(closed.status.code(), Some(0), "{closed:?}");
    assert_eq!(stdout(&closed), "{\"stored\":0,\"lines\":0}\n");
    let folder = shell("exec \"$0\" \"$@\" </");
    assert_eq!(folder.status.code(), Some(74), "{folder:?}");
    assert!(stderr(&folder).starts_with("error: reading stdin: "), "{folder:?}");
    let full = shell("exec \"$0\" \"$@\" </dev/null >/dev/full");
    let said = refused(&full, 74);
    assert_eq!(said, "error: writing to stdout: No space left on device (os error 28)\n");
}

#[test]
fn it_works_beside_a_running_server_and_consumer() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(&rig, &[], &text(&entries(3000)), 0, (3000, 3000)));
        for round in 0..20 {
            let entries: Vec<_> = (0..10).map(|n| entry(n, &format!("{round}-{n}"))).collect();
            post_entries(server.address(), &entries);
        }
        publisher.join().unwrap();
    });
    let account = rig.wait_drained();
    assert_eq!(account["accepted"], 3200);
    consumer.stop();
    server.stop();
    let mut lines = rig.lines();
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 3200);
}

#[test]
fn a_pipe_that_stays_open_is_stored_as_it_goes_and_ctrl_c_says_how_far() {
    for signal in ["INT", "TERM"] {
        let rig = Rig::new();
        let mut command = rig.command(&["publish"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let made = || rig.state().join("data.mdb").exists().then_some(());
        wait_for("the state directory to be made", made);
        for count in [3, 5] {
            pipe.write_all(&text(&entries(count))).unwrap();
            let sum = if count == 3 { 3 } else { 8 };
            wait_for("the lines to be stored", || (accepted(&rig) == sum).then_some(()));
        }
        let id = child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.unwrap().success());
        wait_for("its end", || child.try_wait().unwrap());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        assert_eq!(stdout(&output), "{\"stored\":8,\"lines\":8}\n");
        assert_eq!(stderr(&output), "error: stopped: go on with --skip 8\n");
        assert_eq!(accepted(&rig), 8);
        drop(pipe);
    }
}
