//! The README's commands run as they stand there, and say what it says they say.
//!
//! A block's second word says what it is: `terminal N` runs until it is stopped, `ctrl-c N` stops
//! it, `tour` runs in the same directory, `up` beside an `up` of its own. A `text` block is what
//! the block of the same kind before it prints. Times, pids, places and the worker that happened
//! to be free are masked on both sides.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::text::blocks;
use crate::harness::{BINARY, Process, wait_for};

struct Tour {
    dir: TempDir,
    terminals: HashMap<String, Process>,
    /// The real ports, by those of the README.
    ports: HashMap<String, String>,
    /// What the last command printed.
    printed: String,
    /// The head of the README's receipts and that of the real ones.
    identity: Option<(String, String)>,
}

impl Tour {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["home", "work"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self {
            dir,
            terminals: HashMap::new(),
            ports: HashMap::new(),
            printed: String::new(),
            identity: None,
        }
    }

    /// As in a terminal of a new user: no setting but the port, which may be in use here.
    fn command(&self, program: &str) -> Command {
        let mut path = PathBuf::from(BINARY).parent().unwrap().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut command = Command::new(program);
        command.env_clear().env("PATH", path).env("HOME", self.dir.path().join("home"));
        command.envs(["PORT", "SCHEDULER_PORT", "SPACESHIP_PORT"].map(|port| (port, "0")));
        command.env("LOG_FORMAT", "human").stdin(Stdio::null());
        command.current_dir(self.dir.path().join("work"));
        command
    }

    fn open_terminal(&mut self, name: &str, line: &str) {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap());
        command.args(words);
        self.terminals.insert(name.to_owned(), Process::start(command));
    }

    /// Waits until the terminal shows each of the lines.
    fn expect_in_terminal(&mut self, name: &str, lines: &str) {
        let process = &self.terminals[name];
        for line in lines.lines() {
            let expected = masked(line);
            wait_for(
                &format!("{line:?} in terminal {name}, which shows\n{}", process.log()),
                || masked(&process.log()).lines().any(|shown| shown == expected).then_some(()),
            );
        }
        for (service, theirs) in [("server", 8080), ("scheduler", 8000), ("spaceship", 8001)] {
            let listening = format!("listening service=\"{service}\" url=http://127.0.0.1:");
            if let Some(rest) = process.log().split(&listening).nth(1) {
                let ours = rest.lines().next().unwrap().trim();
                self.ports.insert(format!("127.0.0.1:{theirs}"), format!("127.0.0.1:{ours}"));
            }
        }
    }

    fn press_ctrl_c(&mut self, name: &str, lines: &str) {
        let mut process = self.terminals.remove(name).unwrap();
        process.signal("INT");
        assert_eq!(process.wait().code(), Some(0), "{}", process.log());
        self.terminals.insert(name.to_owned(), process);
        self.expect_in_terminal(name, lines);
        self.terminals.remove(name);
    }

    /// A reader of the README takes the second that it takes.
    fn wait_until_in_files(&self) {
        wait_for("all messages to be in files", || {
            let mut verify = self.command("async-data-processor");
            let output = verify.args(["verify", "--output", "json"]).output().unwrap();
            let account: Value = serde_json::from_slice(&output.stdout).ok()?;
            (account["waiting"] == 0).then_some(())
        });
    }

    fn run(&mut self, script: &str) {
        let mut script = script.to_owned();
        for (theirs, ours) in &self.ports {
            script = script.replace(theirs, ours);
        }
        if let Some((theirs, ours)) = &self.identity {
            script = script.replace(theirs, ours);
        }
        let output = self.command("bash").args(["-euo", "pipefail", "-c", &script]).output();
        let output = output.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{script}\nfailed: {errors}");
        self.printed = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
    }

    fn expect_printed(&mut self, expected: &str) {
        let head =
            |text: &str| text.split("\"receipt\":\"").nth(1).map(|rest| rest[..8].to_owned());
        if let (None, Some(theirs), Some(ours)) =
            (&self.identity, head(expected), head(&self.printed))
        {
            self.identity = Some((theirs, ours));
        }
        assert_eq!(
            masked(&self.printed),
            masked(expected),
            "what it printed was\n{}",
            self.printed
        );
    }
}

/// Puts a name in place of what matches: `#` is a digit, `@` a hexadecimal one.
fn replace_pattern(text: &str, pattern: &str, name: &str) -> String {
    let (text, pattern): (Vec<char>, Vec<char>) =
        (text.chars().collect(), pattern.chars().collect());
    let fits = |window: &[char]| {
        window.iter().zip(&pattern).all(|(character, expected)| match expected {
            '#' => character.is_ascii_digit(),
            '@' => character.is_ascii_digit() || ('a'..='f').contains(character),
            other => other == character,
        })
    };
    let (mut masked, mut at) = (String::new(), 0);
    while at < text.len() {
        match text.get(at..at + pattern.len()) {
            Some(window) if fits(window) => {
                masked += name;
                at += pattern.len();
            }
            _ => {
                masked.push(text[at]);
                at += 1;
            }
        }
    }
    masked
}

fn masked(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, name) in [
        ("####-##-##T##:##:##.######Z", "<now>"),
        ("####-##-##T##:##:##.###Z", "<now>"),
        ("@@@@@@@@-@@@@-7@@@-@@@@-@@@@@@@@@@@@", "<task>"),
        ("####-##-##T##:##:##Z", "<time>"),
        ("####-##-##/##/", "<hour>/"),
        ("@@@@@@@@_", "<state>_"),
        ("worker-#", "worker-<free>"),
    ] {
        text = replace_pattern(&text, pattern, name);
    }
    for field in ["pid=", "state_dir=", "output=", "url=", "last_seen_ms=", "TARDIS: "] {
        let mut parts = text.split(field);
        let first = parts.next().unwrap().to_owned();
        text = parts.fold(first, |text, part| {
            let value = part.find(char::is_whitespace).unwrap_or(part.len());
            text + field + "<>" + &part[value..]
        });
    }
    text
}

#[test]
fn the_tour_works_as_it_says() {
    let mut tour = Tour::new();
    let mut done = 0;
    for block in blocks() {
        let info: Vec<_> = block.info.split(' ').collect();
        match info.as_slice() {
            ["sh", "terminal", name] => tour.open_terminal(name, &block.text),
            ["text", "terminal", name] => tour.expect_in_terminal(name, &block.text),
            ["text", "ctrl-c", name] => tour.press_ctrl_c(name, &block.text),
            ["sh", "tour"] => {
                if tour.terminals.contains_key("2") {
                    tour.wait_until_in_files();
                }
                tour.run(&block.text);
            }
            ["text", "tour"] => tour.expect_printed(&block.text),
            _ => continue,
        }
        done += 1;
    }
    assert!(done >= 16, "only {done} blocks of the tour were found");
    assert!(tour.terminals.is_empty(), "the tour leaves something running");
}

#[test]
fn the_examples_of_the_api_work_as_they_say() {
    let mut done = 0;
    for pair in blocks().windows(2).filter(|pair| pair[0].info == "sh up") {
        assert_eq!(pair[1].info, "text up", "what does it print?\n{}", pair[0].text);
        let mut tour = Tour::new();
        tour.open_terminal("up", "async-data-processor up");
        let process = &tour.terminals["up"];
        process.wait_log("consuming into files");
        tour.expect_in_terminal("up", "");
        tour.run(&pair[0].text);
        tour.expect_printed(&pair[1].text);
        done += 1;
    }
    assert!(done >= 1, "no example was found");
}

#[test]
fn masks_hide_what_changes_and_nothing_else() {
    let line = "2026-11-22T01:25:48.698897Z  INFO up starts pid=10769 state_dir=/x";
    assert_eq!(masked(line), "<now>  INFO up starts pid=<> state_dir=<>");
    let line = "data_dump/2026-11-22/01/000000000001-shard-0-worker-3.jsonl";
    assert_eq!(masked(line), "data_dump/<hour>/000000000001-shard-0-worker-<free>.jsonl");
    assert_eq!(masked("{\"receipt\":\"355850dd_0-0-2\"}"), "{\"receipt\":\"<state>_0-0-2\"}");
}
