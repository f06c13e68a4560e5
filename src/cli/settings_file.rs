//! Where settings come from: the settings file's values become the defaults of the one parser, so
//! that it checks all sources alike, and a flag or an environment variable goes before the file.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::exit::{Exit, Failure, tell};

/// The values of a settings file, as text, by key.
type Values = BTreeMap<String, String>;

/// The settings there are, and what the settings file says of them.
#[derive(Debug)]
pub(super) struct Sources {
    /// Arguments that an environment variable can set, by key.
    pub(super) settings: BTreeMap<String, Arg>,
    /// What the settings file says.
    pub(super) values: Values,
    /// What is wrong with the settings file.
    pub(super) problems: Vec<anyhow::Error>,
}

impl Sources {
    /// Reads the settings file, if there is one.
    pub(super) fn read(command: &Command) -> Self {
        let subcommands = command.get_subcommands().flat_map(Command::get_arguments);
        let settings: BTreeMap<_, _> = subcommands
            .filter(|arg| arg.get_env().is_some() && arg.get_id() != "config")
            .map(|arg| (arg.get_id().to_string(), arg.clone()))
            .collect();
        let mut sources = Self { settings, values: Values::new(), problems: Vec::new() };
        let Some(path) = config_path(command) else { return sources };
        match read(&path) {
            Ok(values) => sources.values = values,
            Err(error) => sources.problems.push(error),
        }
        sources.problems.extend(unknown_keys(&sources.settings, &sources.values, &path));
        sources
    }

    /// The command line, with the file's values as defaults.
    pub(super) fn apply(&self, command: Command) -> Command {
        let names: Vec<_> =
            command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let command = command.mut_args(|arg| self.apply_to(arg));
        names
            .into_iter()
            .fold(command, |command, name| command.mut_subcommand(name, |sub| self.apply(sub)))
    }

    /// An argument, with the file's value as its default.
    pub(super) fn apply_to(&self, arg: Arg) -> Arg {
        let value = self.values.get(arg.get_id().as_str()).filter(|_| arg.get_env().is_some());
        let arg = without_empty_variable(arg);
        match value {
            Some(value) => arg.default_value(value.clone()),
            None => arg,
        }
    }

    /// What is wrong with the file, as the end of the process.
    pub(super) fn failure(&self) -> Option<Failure> {
        let problems: Vec<_> = self.problems.iter().map(tell).collect();
        (!problems.is_empty()).then(|| Failure::new(Exit::Config, anyhow!(problems.join("; "))))
    }

    /// A value and where it comes from, unless it is the default.
    pub(super) fn find(&self, key: &str) -> Option<(String, Source)> {
        let variable = self.settings.get(key).and_then(variable);
        match (variable, self.values.get(key)) {
            (Some((name, value)), _) => {
                Some((value.to_string_lossy().into_owned(), Source::Variable(name)))
            }
            (None, Some(value)) => Some((value.clone(), Source::File(key.to_owned()))),
            (None, None) => None,
        }
    }

    /// A wrong value that no flag gave: clap names the flag all the same.
    pub(super) fn blame(&self, error: &clap::Error) -> Option<Failure> {
        let Some(ContextValue::String(usage)) = error.get(ContextKind::InvalidArg) else {
            return None;
        };
        let flag = usage.split([' ', '=']).next()?;
        let is_flag = |word: &OsString| {
            let word = word.to_string_lossy();
            word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let is_value = matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
        if !is_value || std::env::args_os().any(|word| is_flag(&word)) {
            return None;
        }
        let (value, source) = self.find(&flag.trim_start_matches('-').replace('-', "_"))?;
        Some(Failure::new(Exit::Config, source.wrong(&value, error)))
    }
}

/// Where a value comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The environment variable of this name.
    Variable(String),
    /// The settings file, under this key.
    File(String),
}

impl Source {
    /// The error that names a wrong value by where it comes from.
    pub(super) fn wrong(&self, value: &str, error: &clap::Error) -> anyhow::Error {
        let reason = match (error.get(ContextKind::ValidValue), error.source()) {
            (Some(ContextValue::Strings(valid)), _) => format!("it may be {}", valid.join(", ")),
            (_, Some(source)) => source.to_string(),
            (_, None) => error.to_string(),
        };
        match self {
            Self::Variable(name) => anyhow!("{name} is {value:?}: {reason}"),
            Self::File(key) => anyhow!("{key} in the settings file is {value:?}: {reason}"),
        }
    }
}

/// The environment variable of a setting and its value; an empty one counts as not set.
fn variable(arg: &Arg) -> Option<(String, OsString)> {
    let name = arg.get_env()?;
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    Some((name.to_string_lossy().into_owned(), value))
}

/// Compose files and units set variables to nothing where they mean the default.
fn without_empty_variable(arg: Arg) -> Arg {
    // Help is pasted into bug reports: it names variables and not their values.
    let arg = arg.hide_env_values(true);
    let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { arg.env(Resettable::Reset) } else { arg }
}

/// `--config`, before the command line is parsed: what is in the file decides how.
fn config_path(command: &Command) -> Option<PathBuf> {
    let config = command.get_arguments().find(|arg| arg.get_id() == "config")?.clone();
    // Everything else is passed over, wrong or not: the real parse comes later.
    let matches = Command::new("config")
        .disable_help_flag(true)
        .ignore_errors(true)
        .arg(without_empty_variable(config).global(false))
        .arg(Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true));
    let arguments: Vec<_> = std::env::args_os().collect();
    let at = arguments.iter().position(|argument| {
        argument.to_str().is_some_and(|text| text == "--config" || text.starts_with("--config="))
    });
    let from = at.unwrap_or(arguments.len());
    let program = arguments.first().cloned().unwrap_or_default();
    let tail = arguments.into_iter().skip(from).take(2);
    let matches = matches.try_get_matches_from(std::iter::once(program).chain(tail)).ok()?;
    matches.get_one::<PathBuf>("config").cloned()
}

fn read(path: &Path) -> anyhow::Result<Values> {
    let context = || format!("settings file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(context)?;
    let table: toml::Table =
        text.parse().map_err(|error| malformed(&text, &error)).with_context(context)?;
    let mut values = Values::new();
    for (key, value) in table {
        let text = as_text(&value)
            .ok_or_else(|| anyhow!("the value of {key} is neither text, number, flag nor list"))
            .with_context(context)?;
        values.insert(key, text);
    }
    Ok(values)
}

/// By its number alone: the line may hold a secret.
fn malformed(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    anyhow!("line {}: {}", before.matches('\n').count() + 1, error.message())
}

fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(list) => {
            list.iter().map(as_text).collect::<Option<Vec<_>>>().map(|list| list.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// An error for each key that is no setting, with the nearest that is.
fn unknown_keys(
    settings: &BTreeMap<String, Arg>,
    values: &Values,
    path: &Path,
) -> Vec<anyhow::Error> {
    let unknown = values.keys().filter(|key| !settings.contains_key(*key));
    unknown
        .map(|key| {
            let distance = |known: &&String| strsim::damerau_levenshtein(known, key);
            let nearest = settings.keys().min_by_key(distance);
            let advice = nearest.map(|near| format!("; did you mean {near:?}?"));
            let (file, advice) = (path.display(), advice.unwrap_or_default());
            anyhow!("settings file {file}: unknown key {key:?}{advice}")
        })
        .collect()
}
