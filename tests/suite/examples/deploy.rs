//! The files under `examples/deploy` name commands and settings that there are.

use std::collections::BTreeMap;
use std::process::Command;

use crate::harness::BINARY;

const SERVICE: &str = include_str!("../../../examples/deploy/async-data-processor.service");
const INSTALLED: &str = "/usr/local/bin/async-data-processor";

/// The values of a key, in order.
fn values(key: &str) -> Vec<&'static str> {
    let lines = SERVICE.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(known, _)| *known == key).map(|(_, value)| value).collect()
}

fn environment() -> BTreeMap<&'static str, &'static str> {
    values("Environment").into_iter().map(|pair| pair.split_once('=').unwrap()).collect()
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(BINARY).args(arguments).env_clear().envs(environment()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_service_calls_commands_that_exist() {
    let starts = [values("ExecStartPre"), values("ExecStart")].concat();
    assert_eq!(starts.len(), 2);
    for line in starts {
        let mut words: Vec<_> = line.split(' ').collect();
        assert_eq!(words.remove(0), INSTALLED);
        let (code, help) = run(&[words.as_slice(), &["--help"]].concat());
        assert_eq!(code, Some(0), "{line}");
        assert!(
            help.contains(&format!("Usage: async-data-processor {}", words.join(" "))),
            "{help}"
        );
    }
}

#[test]
fn the_service_sets_settings_that_exist_and_are_right() {
    let (_, help) = run(&["up", "--help"]);
    assert!(environment().len() >= 4);
    for name in environment().keys() {
        assert!(help.contains(&format!("[env: {name}]")), "{name} is no setting of up");
    }
    let (code, report) = run(&["config", "check"]);
    assert_eq!(code, Some(0), "{report}");
}

#[test]
fn the_service_is_neither_killed_before_its_deadline_nor_restarted_in_vain() {
    let seconds = |text: &str| text.parse::<u64>().unwrap();
    assert!(seconds(values("TimeoutStopSec")[0]) > seconds(environment()["SHUTDOWN_SECONDS"]));
    let (_, help) = run(&["--help"]);
    for code in values("RestartPreventExitStatus")[0].split(' ') {
        let known = help.lines().any(|line| line.trim().starts_with(&format!("{code}  ")));
        assert!(known, "{code} is no exit code");
    }
}

#[test]
fn the_service_keeps_its_directories_where_it_may_write() {
    let home = format!("/var/lib/{}/", values("StateDirectory")[0]);
    for name in ["STATE_DIR", "DATA_OUTPUT_DIR"] {
        assert!(environment()[name].starts_with(&home), "{name} is not below {home}");
    }
    // Processes that cannot see each other must not share a state directory.
    assert!(values("PrivatePIDs").is_empty());
}
