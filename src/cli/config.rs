//! `config check`: every problem of the settings at once, without starting anything.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches, Subcommand};

use super::exit::{Exit, Failure, OrExit};
use super::settings::UpSettings;
use super::settings_file::{self, Values};
use crate::web::check_listen;

const EXAMPLES: &str = "\
Examples:
  async-data-processor config check
  SHARDS_COUNT=0 async-data-processor config check --config settings.toml

Exit code 1 if anything is wrong.";

/// `config`.
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Names every problem of settings file and environment, and prints what is in force.
    #[command(after_help = EXAMPLES)]
    Check,
}

pub(super) fn run(command: &ConfigCommand, cli: Command) -> Result<Exit, Failure> {
    let Action::Check = command.action;
    let mut problems = Vec::new();
    let values = match settings_file::config_path(&cli).map(|path| settings_file::read(&path)) {
        Some(Ok(values)) => values,
        Some(Err(error)) => {
            problems.push(error);
            Values::new()
        }
        None => Values::new(),
    };
    problems.extend(settings_file::unknown_keys(&cli, &values));
    let settings = settings_file::settings(&cli);
    let mut in_force = Vec::new();
    for (key, arg) in &settings {
        match in_force_value(key, arg, &values) {
            Ok(value) => in_force.push((key, value)),
            Err(error) => problems.push(error),
        }
    }
    if problems.is_empty() {
        problems = together(&values);
    }
    let mut out = std::io::stdout().lock();
    let printed = print(&mut out, &in_force, &problems);
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(if problems.is_empty() { Exit::Done } else { Exit::CheckFailed })
}

/// The value of a setting and where it comes from, if its own parser takes it.
fn in_force_value(key: &str, arg: &Arg, values: &Values) -> anyhow::Result<(String, String)> {
    let variable = arg.get_env().unwrap_or_default().to_string_lossy().into_owned();
    let from_environment = settings_file::from_environment(arg);
    let (value, source) = match (from_environment, values.get(key)) {
        (Some(value), _) => (value.to_string_lossy().into_owned(), variable.clone()),
        (None, Some(value)) => (value.clone(), "settings file".to_owned()),
        (None, None) => {
            let defaults: Vec<_> =
                arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            return Ok((defaults.join(","), "default".to_owned()));
        }
    };
    // A flag takes its text from a default as it does from the environment.
    let alone = arg.clone().default_value(value.clone()).required(false);
    let alone = Command::new("check").no_binary_name(true).arg(without_requirements(alone));
    match alone.try_get_matches_from::<_, &str>([]) {
        Ok(_) => Ok((value, source)),
        Err(error) => {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(anyhow!("{variable} ({source}): {text}"))
        }
    }
}

/// The same argument, free of those that it goes with: it is parsed alone.
fn without_requirements(arg: Arg) -> Arg {
    let mut alone = Arg::new(arg.get_id().clone()).long(arg.get_id().to_string());
    alone = alone.action(arg.get_action().clone()).value_parser(arg.get_value_parser().clone());
    if let Some(delimiter) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let values: Vec<_> = arg.get_default_values().to_vec();
    if matches!(arg.get_action(), ArgAction::SetTrue) { alone } else { alone.num_args(1) }
        .default_values(values)
}

/// What does not fit together, once each setting is right by itself.
fn together(values: &Values) -> Vec<anyhow::Error> {
    let command = UpSettings::augment_args(Command::new("up").no_binary_name(true));
    let command = command.mut_args(|arg| match values.get(arg.get_id().as_str()) {
        Some(value) => arg.default_value(value.clone()),
        None => arg,
    });
    let parsed = command.try_get_matches_from::<_, &str>([]);
    let settings = match parsed.and_then(|matches| UpSettings::from_arg_matches(&matches)) {
        Ok(settings) => settings,
        Err(error) => return vec![anyhow!("{}", error.to_string().trim())],
    };
    let mut problems = settings.batch.problems();
    match settings.http.check() {
        Err(more) => problems.extend(more),
        Ok(checked) => {
            if let Ok(address) = settings.http.host.parse() {
                let (tokens, tls) = (checked.tokens.is_some(), checked.tls.is_some());
                let insecure = settings.http.insecure_listen;
                problems.extend(check_listen(address, tokens, tls, insecure).err().map(Into::into));
            }
        }
    }
    problems.extend(not_a_directory("STATE_DIR", &settings.state.state_dir));
    problems.extend(not_a_directory("DATA_OUTPUT_DIR", &settings.batch.output.data_output_dir));
    problems
}

fn not_a_directory(setting: &str, path: &Path) -> Option<anyhow::Error> {
    let is_wrong = path.exists() && !path.is_dir();
    is_wrong.then(|| anyhow!("{setting} {} is there, but is no directory", path.display()))
}

fn print(
    out: &mut impl Write,
    in_force: &[(&String, (String, String))],
    problems: &[anyhow::Error],
) -> std::io::Result<()> {
    for (key, (value, source)) in in_force {
        writeln!(out, "{key} = {value}    # {source}")?;
    }
    for problem in problems {
        writeln!(out, "problem: {problem:#}")?;
    }
    writeln!(out, "{}", if problems.is_empty() { "ok" } else { "NOT OK" })
}
