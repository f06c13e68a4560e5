//! The README's tables as `--help` has them.

use std::process::Command;

use crate::harness::BINARY;

/// Every command.
pub(super) const ALL: [&str; 34] = [
    "server",
    "message-consumer",
    "task-worker",
    "scheduler",
    "up",
    "spaceship",
    "publish",
    "verify",
    "history",
    "tap",
    "dead list",
    "dead show",
    "dead resend",
    "doubles",
    "ship-data",
    "tasks list",
    "tasks show",
    "tasks cancel",
    "tasks retry",
    "tasks submit",
    "schedules list",
    "schedules show",
    "schedules cancel",
    "schedules delete",
    "schedules add",
    "calculate",
    "bench",
    "bench limit",
    "bench tasks",
    "bench calculations",
    "bench captures",
    "bench schedules",
    "doctor",
    "config check",
];

/// An option of a command.
#[derive(Debug, Clone)]
pub(super) struct Opt {
    pub(super) flag: String,
    pub(super) variable: Option<String>,
    default: Option<String>,
    meaning: String,
}

pub(super) fn help(command: &[&str]) -> String {
    let mut asked = Command::new(BINARY);
    asked.args(command).arg("--help").env_clear().env("HOME", "/home/ann");
    let output = asked.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything a command takes, but help and version.
pub(super) fn options(command: &str) -> Vec<Opt> {
    let words: Vec<_> = command.split(' ').collect();
    let help = help(&words);
    let mut found: Vec<Opt> = Vec::new();
    let mut in_meaning = false;
    for line in help.lines().skip_while(|line| *line != "Options:").skip(1) {
        let text = line.trim();
        if !line.starts_with(' ') && !text.is_empty() {
            break;
        }
        if line.starts_with("  -") {
            // Help and version, which every program has.
            break;
        }
        if text.starts_with("--") {
            let flag = text.split(' ').next().unwrap().to_owned();
            found.push(Opt { flag, variable: None, default: None, meaning: String::new() });
            in_meaning = true;
            continue;
        }
        let option = found.last_mut().unwrap();
        let tagged = |tag: &str| text.strip_prefix(tag).and_then(|rest| rest.strip_suffix(']'));
        if let Some(variable) = tagged("[env: ") {
            option.variable = Some(variable.to_owned());
        } else if let Some(default) = tagged("[default: ") {
            option.default = Some(default.replace("/home/ann/", "~/"));
        } else if text.is_empty() {
            in_meaning = false;
        } else if in_meaning {
            let gap = if option.meaning.is_empty() { "" } else { " " };
            option.meaning += &format!("{gap}{text}");
        }
    }
    found
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// The settings, in the order of `up --help`.
pub(super) fn expected_settings() -> Vec<Vec<String>> {
    let order = [
        "up",
        "server",
        "message-consumer",
        "task-worker",
        "scheduler",
        "publish",
        "verify",
        "history",
        "tap",
        "dead list",
        "dead show",
        "dead resend",
        "ship-data",
        "tasks list",
        "tasks show",
        "tasks cancel",
        "tasks retry",
        "tasks submit",
        "schedules list",
        "schedules show",
        "schedules cancel",
        "schedules delete",
        "schedules add",
        "calculate",
        "bench",
        "doctor",
        "spaceship",
    ];
    let mut settings: Vec<(Opt, Vec<&str>)> = Vec::new();
    for command in order {
        for option in options(command).into_iter().filter(|option| option.variable.is_some()) {
            match settings.iter_mut().find(|(known, _)| known.variable == option.variable) {
                Some((known, commands)) => {
                    assert_eq!(known.meaning, option.meaning, "{command}");
                    assert_eq!(known.default, option.default, "{command}");
                    commands.push(command);
                }
                None => settings.push((option, vec![command])),
            }
        }
    }
    let row = |(option, commands): (Opt, Vec<&str>)| {
        let listed: Vec<_> = ALL.into_iter().filter(|command| commands.contains(command)).collect();
        let without: Vec<_> = order.into_iter().filter(|name| !listed.contains(name)).collect();
        vec![
            code(&option.variable.unwrap()),
            code(&option.flag),
            option.default.map(|default| code(&default)).unwrap_or_default(),
            match without.as_slice() {
                [] => "all".to_owned(),
                ["spaceship"] => "all but spaceship".to_owned(),
                _ => listed.join(", "),
            },
            option.meaning,
        ]
    };
    settings.into_iter().map(row).collect()
}

/// The commands, what they do, and their options that are no settings.
pub(super) fn expected_commands() -> Vec<Vec<String>> {
    let row = |command: &str| {
        let words: Vec<_> = command.split(' ').collect();
        let own = options(command).into_iter().filter(|option| option.variable.is_none());
        // The layout of a command without long texts has the variable on the flag's line.
        let own: Vec<_> = own.map(|option| option.flag).filter(|flag| flag != "--config").collect();
        let own: Vec<_> = own.iter().map(|flag| code(flag)).collect();
        let about = help(&words).lines().next().unwrap().to_owned();
        vec![code(command), about, own.join(", ")]
    };
    ALL.into_iter().map(row).collect()
}

/// Codes and meanings.
pub(super) fn exit_codes() -> Vec<Vec<String>> {
    let help = help(&[]);
    let lines = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let lines = lines.map_while(|line| line.trim().split_once("  "));
    let codes: Vec<_> = lines.map(|(code, text)| vec![code.to_owned(), text.to_owned()]).collect();
    assert!(codes.len() > 8, "{help}");
    codes
}
