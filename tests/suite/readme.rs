//! The README against the program: its commands run, its outputs and tables are those of the
//! binary, and what it names is there.

mod tables;
mod text;
mod tour;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use self::tables::{ALL, exit_codes, expected_commands, expected_settings, help, options};
pub(crate) use self::text::rows;
use self::text::{README, code_spans, headings, links, words};

/// A test's working directory is the top of the repository.
fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_settings_table_equals_help() {
    let expected = expected_settings();
    let found = rows("## Settings");
    assert!(
        found == expected,
        "the table of settings must be:\n\n{}\n",
        expected
            .iter()
            .map(|row| format!("| {} |", row.join(" | ")))
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert!(found.len() > 25, "only {} settings were found", found.len());
}

#[test]
fn the_commands_table_equals_help() {
    assert_eq!(rows("## Commands"), expected_commands());
    let listed: BTreeSet<_> = help(&[])
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.strip_prefix("  ").map(str::to_owned))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .filter(|command| command != "help")
        .collect();
    let known = ALL.iter().map(|command| command.split(' ').next().unwrap().to_owned());
    assert_eq!(listed, known.collect(), "a command is missing in the README or in this test");
}

#[test]
fn the_exit_codes_table_equals_help() {
    assert_eq!(rows("## Exit codes"), exit_codes());
}

#[test]
fn every_command_it_names_exists() {
    let words: Vec<_> = README.split_whitespace().map(|word| word.trim_matches('`')).collect();
    let named = words.windows(2).filter(|pair| pair[0] == "async-data-processor");
    let named: BTreeSet<_> = named
        .map(|pair| pair[1])
        .filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'))
        .collect();
    assert!(named.contains("server") && named.len() > 4, "found only {named:?}");
    for command in named {
        let known = ALL.iter().any(|known| known.split(' ').next() == Some(command));
        assert!(known, "`async-data-processor {command}` is no command");
    }
}

#[test]
fn every_setting_and_flag_it_names_exists() {
    let options: Vec<_> = ALL.iter().flat_map(|command| options(command)).collect();
    let spans = code_spans(README);
    let variables: BTreeSet<_> = spans
        .iter()
        .map(|span| span.split('=').next().unwrap())
        .filter(|name| !NOT_OURS.contains(name) && name.len() > 2)
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    assert!(variables.len() > 20, "found only {variables:?}");
    for name in variables {
        let told = [
            include_str!("../../src/consumer/process.rs"),
            include_str!("../../src/tasks/program.rs"),
        ];
        let known = options.iter().any(|option| option.variable.as_deref() == Some(name))
            // What a program of EXEC or TASK_EXEC is told.
            || told.iter().any(|told| told.contains(&format!("(\"{name}\", ")));
        assert!(known, "`{name}` is no setting");
    }
    let test_run = Command::new("bash").args(["tests/run", "--help"]).current_dir(top()).output();
    let test_run = String::from_utf8(test_run.unwrap().stdout).unwrap();
    for span in spans.iter().filter(|span| !span.starts_with("cp ")) {
        for flag in span.split(' ').filter(|word| word.starts_with("--")) {
            let known = options.iter().any(|option| option.flag == flag)
                || (span.starts_with("bash tests/run") && test_run.contains(flag))
                || flag == "--help";
            assert!(known, "`{flag}` is no flag");
        }
    }
}

#[test]
fn the_crash_test_takes_the_flags_it_is_called_with() {
    let crash = super::examples::built_example("crash");
    let usage = Command::new(crash).arg("--help").output().unwrap();
    let usage = String::from_utf8(usage.stdout).unwrap();
    let call = README.split("$BUILD/examples/crash").nth(1).unwrap().split("```").next().unwrap();
    let flags: Vec<_> = call.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert_eq!(flags, ["--binary", "--oracle", "--seed", "--cycles"]);
    for flag in flags {
        assert!(usage.contains(flag), "{flag} is not in\n{usage}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let anchors: BTreeSet<_> = headings().into_iter().collect();
    let links = links();
    assert!(links.len() > 20, "found only {links:?}");
    for link in links {
        if let Some(anchor) = link.strip_prefix('#') {
            assert!(anchors.contains(anchor), "there is no heading for #{anchor}: {anchors:?}");
        } else if !link.starts_with("https://") {
            assert!(top().join(&link).exists(), "{link} is not there");
        }
    }
}

#[test]
fn every_file_it_names_is_there() {
    let is_ours = |word: &&str| ["src/", "tests/", "examples/"].iter().any(|p| word.starts_with(p));
    let named: BTreeSet<_> = words().into_iter().filter(is_ours).collect();
    assert!(named.contains("tests/run") && named.len() > 8, "found only {named:?}");
    for path in named {
        assert!(top().join(path).exists(), "{path} is not there");
    }
}

/// Messages of the system and of LMDB.
const NOT_OURS: [&str; 1] = ["Address already in use"];

#[test]
fn every_message_to_look_up_can_be_met() {
    let mut sources = String::new();
    let mut folders = vec![top().join("src")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &text::joined(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let rows = rows("## Troubleshooting");
    assert!(rows.len() > 10);
    for message in rows.iter().flat_map(|row| code_spans(&row[0])) {
        let said = sources.contains(&message) || NOT_OURS.contains(&message.as_str());
        assert!(said, "nothing says {message:?}");
    }
}
