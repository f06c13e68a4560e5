//! `config check`: every problem of the settings at once, without starting anything.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches, Subcommand};

use super::exit::{Exit, Failure, OrExit, tell};
use super::rabbitmq_settings::{SECRET_URLS, redact};
use super::settings::UpSettings;
use super::settings_file::{Source, Sources};
use crate::broker::rabbitmq::address::TlsFiles;
use crate::broker::rabbitmq::management::Management;

pub(super) const EXAMPLES: &str = "\
Exit code 1 if anything is wrong.

Examples:
  async-data-processor config check
  SHARDS_COUNT=0 async-data-processor config check --config settings.toml";

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

/// A setting that is in force: key, value, where it comes from.
type InForce = (String, String, String);

pub(super) fn run(command: &ConfigCommand, mut sources: Sources) -> Result<Exit, Failure> {
    let Action::Check = command.action;
    let mut problems = std::mem::take(&mut sources.problems);
    let (mut in_force, mut wrong) = (Vec::new(), BTreeSet::new());
    for (key, arg) in &sources.settings {
        match in_force_value(key, arg, &sources) {
            Ok((value, source)) => in_force.push((key.clone(), value, source)),
            Err(error) => {
                problems.push(error);
                wrong.insert(key.clone());
            }
        }
    }
    problems.extend(together(&sources, &wrong));
    let mut out = std::io::stdout().lock();
    let printed = print(&mut out, &in_force, &problems);
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(if problems.is_empty() { Exit::Done } else { Exit::CheckFailed })
}

/// The value of a setting and where it comes from, if its own parser takes it.
fn in_force_value(key: &str, arg: &Arg, sources: &Sources) -> anyhow::Result<(String, String)> {
    let Some((value, source)) = sources.find(key) else {
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let unset = if is_flag(arg) { ("false", "default") } else { ("", "not set") };
        return Ok(match defaults.is_empty() {
            true => (unset.0.to_owned(), unset.1.to_owned()),
            false => (defaults.join(","), "default".to_owned()),
        });
    };
    // The parser takes the text from a default as it does from the environment.
    let alone = arg.clone().env(None::<&'static str>).default_value(value.clone());
    match Command::new("check").no_binary_name(true).arg(alone).try_get_matches_from([""; 0]) {
        Ok(_) => Ok((
            if SECRET_URLS.contains(&key) { redact(&value) } else { value },
            match source {
                Source::Variable(name) => name,
                Source::File(_) => "settings file".to_owned(),
            },
        )),
        Err(error) => Err(source.wrong(&value, &error)),
    }
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// What does not fit together; settings that are wrong by themselves count as not set, and what
/// would be said of them then is left out.
fn together(sources: &Sources, wrong: &BTreeSet<String>) -> Vec<anyhow::Error> {
    let command = UpSettings::augment_args(Command::new("up").no_binary_name(true));
    let command = command.mut_args(|arg| match wrong.contains(arg.get_id().as_str()) {
        true => arg.env(None::<&'static str>),
        false => sources.apply_to(arg),
    });
    let parsed = command.try_get_matches_from([""; 0]);
    let settings = match parsed.and_then(|matches| UpSettings::from_arg_matches(&matches)) {
        Ok(settings) => settings,
        Err(error) => return vec![anyhow!("{}", error.to_string().trim())],
    };
    let mut problems = settings.check().err().unwrap_or_default();
    problems.extend(settings.http.exposed().map(|error| anyhow!("HOST: {error}")));
    problems.extend(not_a_directory("STATE_DIR", &settings.common.state.state_dir));
    problems.extend(not_a_directory("DATA_OUTPUT_DIR", &settings.batch.output.data_output_dir));
    problems.extend(management(sources));
    let names: Vec<_> = wrong.iter().map(|key| key.to_ascii_uppercase()).collect();
    problems.retain(|problem| !names.iter().any(|name| problem.to_string().contains(name)));
    problems
}

/// Only a text: whether it can be asked, and by which files, is for `doctor` to find out.
fn management(sources: &Sources) -> Option<anyhow::Error> {
    let (url, _) = sources.find("rabbitmq_management_url")?;
    let url = url.replacen("https://", "http://", 1);
    let error = Management::new(&url, &TlsFiles::default()).err()?;
    Some(anyhow!("RABBITMQ_MANAGEMENT_URL: {error}"))
}

fn not_a_directory(setting: &str, path: &Path) -> Option<anyhow::Error> {
    let is_wrong = path.exists() && !path.is_dir();
    is_wrong.then(|| anyhow!("{setting} {} is there, but is no directory", path.display()))
}

fn print(
    out: &mut impl Write,
    in_force: &[InForce],
    problems: &[anyhow::Error],
) -> std::io::Result<()> {
    for (key, value, source) in in_force {
        writeln!(out, "{key} = {value}    # {source}")?;
    }
    for problem in problems {
        writeln!(out, "problem: {}", tell(problem))?;
    }
    writeln!(out, "{}", if problems.is_empty() { "ok" } else { "NOT OK" })
}
