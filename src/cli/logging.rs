//! Logs go to stderr: for people on a terminal, else as JSON lines.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::exit::{Exit, Failure, OrExit};
use super::settings::LogSettings;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Human on a terminal, else JSON.
    Auto,
    /// For people.
    Human,
    /// A JSON object a line.
    Json,
}

/// Takes a filter that can be read.
pub(super) fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// lapin logs what it tells as an error as well, and returned messages with their bodies: we say
/// what matters of it ourselves, unless it is asked for by name.
fn without_lapin(filter: EnvFilter, text: &str) -> Result<EnvFilter, Failure> {
    if text.contains("lapin") {
        return Ok(filter);
    }
    Ok(filter.add_directive("lapin=off".parse().or_exit(Exit::Software)?))
}

/// Starts logging.
pub(super) fn start(settings: &LogSettings) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.log)
        .with_context(|| format!("LOG is {:?}", settings.log))
        .or_exit(Exit::Config)?;
    let filter = without_lapin(filter, &settings.log)?;
    let terminal = std::io::stderr().is_terminal();
    let human = match settings.log_format {
        Format::Auto => terminal,
        Format::Human => true,
        Format::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if human {
        registry.with(layer.with_ansi(terminal).with_target(false)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true)).try_init()
    };
    started.or_exit(Exit::Software)
}
