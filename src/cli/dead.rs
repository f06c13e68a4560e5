//! `dead`: messages that no worker could do: list them, show them, send them again.

use std::io::Write;
use std::num::NonZeroU16;

use anyhow::{Context, anyhow};
use chrono::SecondsFormat;
use clap::{Args, Subcommand};

use super::answer::{Output, print_json};
use super::exit::{Exit, Failure, OrExit};
use super::history::date_and_time;
use super::process::open_existing_state;
use super::settings::{OutputSettings, StateSettings};
use super::topics;
use crate::batch::dead::{self, DeadError, DeadRow, Listed};
use crate::batch::disk::OutputDir;
use crate::batch::output;
use crate::batch::resend::Resender;
use crate::broker::wake::Waker;
use crate::clock::{Clock, SystemClock};
use crate::message::{ShardId, ShardKey};
use crate::state::State;
use crate::web::printable;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor dead list
  async-data-processor dead show 42 | jq .reason
  async-data-processor dead resend 42 43
  async-data-processor dead resend --all";

/// `dead`.
#[derive(Debug, Args)]
pub(super) struct DeadCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the files of dead letters, with the reason of their first message.
    #[command(after_help = EXAMPLES)]
    List(ListCommand),
    /// Prints the dead letters of files: a JSON line each, with reason and message.
    #[command(after_help = EXAMPLES)]
    Show(ShowCommand),
    /// Sends the messages of files again, as new ones of their shard; each file once.
    #[command(after_help = EXAMPLES)]
    Resend(ResendCommand),
}

#[derive(Debug, Args)]
struct ListCommand {
    #[command(flatten)]
    state: StateSettings,
    /// Those that were sent again as well.
    #[arg(long)]
    all: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct ShowCommand {
    #[command(flatten)]
    state: StateSettings,
    #[command(flatten)]
    output_dir: OutputSettings,
    /// Numbers of files, as listed.
    #[arg(required = true, value_name = "NUMBER")]
    numbers: Vec<u64>,
}

#[derive(Debug, Args)]
struct ResendCommand {
    #[command(flatten)]
    state: StateSettings,
    #[command(flatten)]
    output_dir: OutputSettings,
    /// Numbers of files, as listed.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "NUMBER")]
    numbers: Vec<u64>,
    /// All that were not sent again yet.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(command: &DeadCommand) -> Result<Exit, Failure> {
    match &command.action {
        Action::List(command) => list(command),
        Action::Show(command) => show(command),
        Action::Resend(command) => resend(command),
    }
}

fn open(settings: &StateSettings) -> Result<State, Failure> {
    super::logging::start(&settings.log)?;
    open_existing_state(settings)
}

/// The output directory of the state environment, and no other.
pub(super) fn open_output(state: &State, settings: &OutputSettings) -> Result<OutputDir, Failure> {
    let path = &settings.data_output_dir;
    let context = || format!("output directory {} (DATA_OUTPUT_DIR)", path.display());
    let disk = OutputDir::open(path).with_context(context).or_exit(Exit::CannotCreate)?;
    output::check(state, &disk, disk.path()).or_exit(Exit::CannotCreate)?;
    Ok(disk)
}

fn failure(error: DeadError) -> Failure {
    let exit = match &error {
        DeadError::Unknown(_)
        | DeadError::Resent(_)
        | DeadError::NotEdited { .. }
        | DeadError::NoEntry { .. } => Exit::DataError,
        DeadError::Gone(_) | DeadError::Damaged { .. } | DeadError::Io { .. } => Exit::Io,
        DeadError::State(error) if error.is_space() => Exit::TemporaryFailure,
        DeadError::State(_) => Exit::Io,
    };
    Failure::new(exit, error)
}

fn list(command: &ListCommand) -> Result<Exit, Failure> {
    let state = open(&command.state)?;
    let rows = dead::rows(&state).or_exit(Exit::Io)?;
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| command.all || row.resent_ms.is_none())
        .map(DeadRow::listed)
        .collect();
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &rows),
        Output::Table => print_table(&mut out, &rows),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}

fn print_table(out: &mut impl Write, rows: &[Listed<'_>]) -> std::io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no dead letters");
    }
    writeln!(
        out,
        "{:>8} {:>5} {:>8}  {:<20}  {:<20}  reason of the first",
        "number", "shard", "messages", "since", "sent again"
    )?;
    for row in rows {
        let key = row.topic.zip(row.shard);
        let key = key.map(|(topic, shard)| ShardKey::new(topic, ShardId(shard)));
        let shard = key.map(ShardKey::short).unwrap_or_default();
        // A program's words may hold anything.
        let reason = printable(row.reason);
        writeln!(
            out,
            "{:>8} {shard:>5} {:>8}  {:<20}  {:<20}  {reason}",
            row.number,
            row.messages,
            date_and_time(row.committed_ms, SecondsFormat::Secs),
            row.resent_ms.map(|ms| date_and_time(ms, SecondsFormat::Secs)).unwrap_or_default(),
        )?;
    }
    Ok(())
}

fn show(command: &ShowCommand) -> Result<Exit, Failure> {
    let state = open(&command.state)?;
    let disk = open_output(&state, &command.output_dir)?;
    let mut out = std::io::stdout().lock();
    for number in &command.numbers {
        let row = dead::row(&state, *number).map_err(failure)?;
        for line in dead::read(&disk, &row).map_err(failure)? {
            let line = line.map_err(failure)?;
            writeln!(out, "{line}").context("writing to stdout").or_exit(Exit::Io)?;
        }
    }
    Ok(Exit::Done)
}

fn resend(command: &ResendCommand) -> Result<Exit, Failure> {
    let state = open(&command.state)?;
    let disk = open_output(&state, &command.output_dir)?;
    let numbers = if command.all {
        let rows = dead::rows(&state).or_exit(Exit::Io)?;
        rows.iter().filter(|row| row.resent_ms.is_none()).map(|row| row.row.number).collect()
    } else {
        command.numbers.clone()
    };
    let waker = Waker::new(state.dir()).context("wake-up sockets").or_exit(Exit::CannotCreate)?;
    let (state, disk, now_ms) = (&state, &disk, SystemClock.wall_ms());
    // Nothing is edited here, so everything stays in its shard.
    let shards = NonZeroU16::MIN;
    let resender = Resender { state, disk, place_of: topics::place_of, shards, now_ms };
    let (mut files, mut messages, mut first_failure) = (0_u64, 0, None);
    for number in numbers {
        // What hinders one hinders no other.
        match resender.resend(number, &[]) {
            Ok(receipt) => {
                waker.wake(&receipt.keys());
                files += 1;
                messages += receipt.count();
            }
            Err(error) => {
                tracing::error!(number, %error, "not sent again");
                first_failure.get_or_insert(failure(error));
            }
        }
    }
    let mut out = std::io::stdout().lock();
    let answer = serde_json::json!({ "files": files, "messages": messages });
    print_json(&mut out, &answer).context("writing to stdout").or_exit(Exit::Io)?;
    match first_failure {
        None => Ok(Exit::Done),
        Some(failed) => {
            let error = anyhow!("not all were sent again: {:#}", failed.error);
            Err(Failure::new(failed.exit, error))
        }
    }
}
