//! The settings file: its values become the defaults of the settings, so that the one parser checks
//! all three sources, and a flag or an environment variable goes before them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Arg, Command};

use super::exit::{Exit, Failure};

/// The values of a settings file, as text, by key.
pub(super) type Values = BTreeMap<String, String>;

/// The commands that read settings, with the values of the settings file as their defaults.
pub(super) fn with_defaults(command: Command) -> Result<Command, Failure> {
    let Some(path) = config_path(&command) else { return Ok(command) };
    let values = read(&path).map_err(|error| Failure::new(Exit::Config, error))?;
    let unknown = unknown_keys(&command, &values);
    if let Some(first) = unknown.into_iter().next() {
        let error = first.context(format!("settings file {}", path.display()));
        return Err(Failure::new(Exit::Config, error));
    }
    Ok(apply(command, &values))
}

/// `--config`, before the command line is parsed: what is in the file decides how.
pub(super) fn config_path(command: &Command) -> Option<PathBuf> {
    let config = command.get_arguments().find(|arg| arg.get_id() == "config")?.clone();
    // Everything else is passed over, wrong or not: the real parse comes later.
    let matches = Command::new("config")
        .disable_help_flag(true)
        .ignore_errors(true)
        .arg(config.global(false))
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

/// Reads a settings file.
pub(super) fn read(path: &Path) -> anyhow::Result<Values> {
    let context = || format!("settings file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(context)?;
    let table: toml::Table = text.parse().with_context(context)?;
    let mut values = Values::new();
    for (key, value) in table {
        let text = as_text(&value)
            .ok_or_else(|| anyhow!("the value of {key} is neither text, number, flag nor list"))
            .with_context(context)?;
        values.insert(key, text);
    }
    Ok(values)
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

/// The settings of all commands: arguments that an environment variable can set, by key.
pub(super) fn settings(command: &Command) -> BTreeMap<String, Arg> {
    command
        .get_subcommands()
        .flat_map(|sub| sub.get_arguments())
        .filter(|arg| arg.get_env().is_some() && arg.get_id() != "config")
        .map(|arg| (arg.get_id().to_string(), arg.clone()))
        .collect()
}

/// What the environment says for a setting.
pub(super) fn from_environment(arg: &Arg) -> Option<std::ffi::OsString> {
    arg.get_env().and_then(std::env::var_os)
}

/// An error for each key that is no setting, with the nearest that is.
pub(super) fn unknown_keys(command: &Command, values: &Values) -> Vec<anyhow::Error> {
    let settings = settings(command);
    let unknown = values.keys().filter(|key| !settings.contains_key(*key));
    unknown
        .map(|key| {
            let distance = |known: &&String| strsim::damerau_levenshtein(known, key);
            match settings.keys().min_by_key(distance) {
                Some(nearest) => anyhow!("unknown key {key:?}; did you mean {nearest:?}?"),
                None => anyhow!("unknown key {key:?}"),
            }
        })
        .collect()
}

fn apply(command: Command, values: &Values) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |sub| {
            sub.mut_args(|arg| match values.get(arg.get_id().as_str()) {
                Some(value) if arg.get_env().is_some() => arg.default_value(value.clone()),
                _ => arg,
            })
        })
    })
}
