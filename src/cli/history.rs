//! `history`: what each worker has done, ever.

use std::io::Write;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::exit::{Exit, Failure, OrExit};
use super::process::open_existing_state;
use super::settings::StateSettings;
use crate::batch::journal::{self, WorkerTotals};
use crate::batch::name::WorkerName;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor history
  async-data-processor history --output json | jq '.[] | select(.errors > 0)'";

/// `history`.
#[derive(Debug, Args)]
pub(super) struct HistoryCommand {
    #[command(flatten)]
    state: StateSettings,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table for people.
    Table,
    /// JSON.
    Json,
}

#[derive(Serialize)]
struct Row<'a> {
    worker: WorkerName,
    #[serde(flatten)]
    totals: &'a WorkerTotals,
}

pub(super) fn run(command: &HistoryCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let state = open_existing_state(&command.state)?;
    let workers = {
        let txn = state.read().or_exit(Exit::Io)?;
        journal::workers(&txn, state.tables()).or_exit(Exit::Io)?
    };
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => {
            let rows: Vec<_> =
                workers.iter().map(|(worker, totals)| Row { worker: *worker, totals }).collect();
            print_json(&mut out, &rows)
        }
        Output::Table => print_table(&mut out, &workers),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}

/// A result as one line of JSON.
pub(super) fn print_json(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

fn print_table(
    out: &mut impl Write,
    workers: &[(WorkerName, WorkerTotals)],
) -> std::io::Result<()> {
    if workers.is_empty() {
        return writeln!(out, "no worker has committed anything yet");
    }
    writeln!(
        out,
        "{:<22} {:>9} {:>12} {:>14} {:>7} {:>8}  last seen",
        "worker", "batches", "messages", "bytes", "errors", "timeouts"
    )?;
    for (worker, totals) in workers {
        let WorkerTotals { batches, messages, bytes, errors, timeouts, last_seen_ms } = totals;
        let last_seen = i64::try_from(*last_seen_ms).ok().and_then(DateTime::from_timestamp_millis);
        let last_seen =
            last_seen.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default();
        let worker = worker.to_string();
        writeln!(
            out,
            "{worker:<22} {batches:>9} {messages:>12} {bytes:>14} {errors:>7} {timeouts:>8}  \
             {last_seen}"
        )?;
    }
    Ok(())
}
