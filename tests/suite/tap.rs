//! `tap`: it shows what is accepted, in order, and changes nothing; it never holds anybody up.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Process, Rig, entry, post_entries, wait_for};

/// A tap whose stdout goes into a file.
struct Tapped {
    process: Process,
    printed: PathBuf,
}

impl Tapped {
    fn start(rig: &Rig, flags: &[&str]) -> Self {
        let wrapper = ["bash", "-c", "exec \"$0\" \"$@\" >printed"];
        let mut command = rig.wrapped(&wrapper, &[&["tap"], flags].concat());
        command.env("LOG", "debug");
        let process = Process::start(command);
        process.wait_log("watching");
        Self { process, printed: rig.dir.path().join("printed") }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.printed).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, lines: &[String]) {
        wait_for(&format!("{lines:?}"), || (self.lines() == lines).then_some(()));
    }

    /// Ctrl-C; what it says at last.
    fn end(mut self) -> String {
        self.process.signal("INT");
        assert_eq!(self.process.wait().code(), Some(0), "{}", self.process.log());
        self.process.log().lines().last().unwrap().to_owned()
    }
}

fn publish(rig: &Rig, entries: &[String]) {
    let published = rig.run_with_input(&["publish"], (entries.join("\n") + "\n").as_bytes());
    assert_eq!(published.status.code(), Some(0), "{published:?}");
}

fn entries(seconds: impl IntoIterator<Item = u32>) -> Vec<String> {
    seconds.into_iter().map(|second| entry(second, &format!("v{second}"))).collect()
}

/// Brings everything into files with a consumer of its own, which deletes what it has consumed.
fn drain(rig: &Rig) {
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
}

#[test]
fn messages_show_as_they_are_accepted_with_or_without_a_consumer() {
    let rig = Rig::new();
    publish(&rig, &entries([0, 1]));
    let tap = Tapped::start(&rig, &[]);
    // Each is a commit of its own; the second is the first ever of its shard.
    let mut expected = Vec::new();
    for second in [5, 3, 1, 8] {
        publish(&rig, &entries([second]));
        expected.extend(entries([second]));
        tap.wait_for(&expected);
    }
    let up = rig.serve(&["up"]);
    post_entries(up.address(), &entries([10, 15, 20]));
    expected.extend(entries([10, 15, 20]));
    tap.wait_for(&expected);
    let account = rig.wait_drained();
    assert_eq!((&account["in_files"], &account["ok"]), (&9.into(), &true.into()));
    up.stop();
    assert_eq!(tap.end(), "tap: 7 messages seen, 0 missed");
    assert_eq!(rig.verify(&[])["ok"], true);
}

#[test]
fn it_starts_where_it_is_told_and_ends_after_so_many() {
    let rig = Rig::new();
    publish(&rig, &entries([0, 5, 10]));
    drain(&rig);
    publish(&rig, &entries([15, 20, 1, 25]));
    let tap = |flags: &[&str]| {
        let output = rig.run(&[&["tap"], flags].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        let said = String::from_utf8(output.stderr).unwrap();
        (lines, said.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (lines, said): (Vec<_>, _) = tap(&["--from", "waiting", "--count", "4"]);
    assert_eq!(
        (lines, said),
        (entries([15, 20, 25, 1]), vec!["tap: 4 messages seen, 0 missed".into()])
    );
    let (lines, _) = tap(&["--from", "waiting", "--count", "1", "--shard", "7", "--shard", "1"]);
    assert_eq!(lines, entries([1]));
    let (lines, _) = tap(&["--from", "4", "--count", "1", "--shard", "0", "--output", "json"]);
    let message: Value = serde_json::from_str(&entry(20, "v20")).unwrap();
    let shown: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(shown, json!({"shard": 0, "offset": 4, "message": message}));
    assert!(lines[0].contains(&entry(20, "v20")), "not as it was sent: {}", lines[0]);
    let (lines, said) = tap(&["--from", "0", "--count", "1", "--shard", "0"]);
    assert_eq!(lines, entries([15]));
    let missed = "missed 3 messages of shard 0: they were consumed before tap could read them";
    assert_eq!(said, [missed, "tap: 1 message seen, 3 missed"]);
    let account = rig.verify(&[]);
    assert_eq!((&account["waiting"], &account["ok"]), (&4.into(), &true.into()));
}

/// A tap whose stdout is a pipe that nobody reads yet.
fn stuck_tap(rig: &Rig, flags: &[&str]) -> Child {
    let mut command = rig.command(&[&["tap"], flags].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How many bytes of the pipe wait to be read.
fn waits_in_pipe(child: &Child) -> u64 {
    rustix::io::ioctl_fionread(child.stdout.as_ref().unwrap()).unwrap()
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_reader_that_stands_still_holds_nobody_up_and_what_it_missed_is_counted() {
    let rig = Rig::new();
    let long = "x".repeat(40_000);
    let sent: Vec<_> = (0..150).map(|n| entry(n * 5, &format!("{n}-{long}"))).collect();
    publish(&rig, &sent);
    let mut tap = stuck_tap(&rig, &["--from", "waiting"]);
    wait_for("its pipe to be full", || (waits_in_pipe(&tap) > 60_000).then_some(()));
    drain(&rig);
    // A last one is in no file yet, so that the end of what it prints is known.
    let last = entry(1, "last");
    publish(&rig, std::slice::from_ref(&last));
    let mut stdout = tap.stdout.take().unwrap();
    let mut text = String::new();
    let mut chunk = [0; 65_536];
    while !text.ends_with(&format!("{last}\n")) {
        let count = stdout.read(&mut chunk).unwrap();
        assert!(count > 0, "it ended before it showed all");
        text += std::str::from_utf8(&chunk[..count]).unwrap();
    }
    interrupt(&tap);
    let output = tap.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    let mut shown: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(shown.pop(), Some(last));
    let (seen, missed) = (shown.len(), sent.len() - shown.len());
    assert_eq!(shown, sent[..seen], "not in their order");
    assert!(seen > 0 && missed > 0, "{said}");
    for expected in [
        format!("missed {missed} messages of shard 0: they were consumed before tap could"),
        format!("tap: {} messages seen, {missed} missed", seen + 1),
    ] {
        assert!(said.contains(&expected), "{expected} is not in {said}");
    }
}

#[test]
fn ctrl_c_is_heard_also_while_nobody_reads() {
    let rig = Rig::new();
    let long = "x".repeat(40_000);
    publish(&rig, &(0..10).map(|n| entry(n * 5, &long)).collect::<Vec<_>>());
    let tap = stuck_tap(&rig, &["--from", "waiting"]);
    wait_for("its pipe to be full", || (waits_in_pipe(&tap) > 60_000).then_some(()));
    interrupt(&tap);
    let mut tap = tap;
    let status = wait_for("its end", || tap.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let said = String::from_utf8(tap.wait_with_output().unwrap().stderr).unwrap();
    assert!(said.ends_with("tap: 1 message seen, 0 missed\n"), "{said}");
}

#[test]
fn a_closed_stdout_ends_it_quietly_also_when_nothing_more_comes() {
    let rig = Rig::new();
    publish(&rig, &entries([0, 5, 10]));
    let seconds = PATIENCE.as_secs().to_string();
    let script = "set -o pipefail; timeout \"$1\" \"$0\" tap --from waiting | head -n 1";
    let output = rig.wrapped(&["bash", "-c", script], &[&seconds]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), entry(0, "v0") + "\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let full = rig.wrapped(&["bash", "-c", "\"$0\" tap --from waiting >/dev/full"], &[]).output();
    let full = full.unwrap();
    assert_eq!(full.status.code(), Some(74), "{full:?}");
    assert!(String::from_utf8(full.stderr).unwrap().contains("writing to stdout: No space left"));
}
