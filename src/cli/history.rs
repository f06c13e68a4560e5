//! `history`: what each worker has done, ever.

use std::io::Write;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::answer::print_json;
use super::exit::{Exit, Failure, OrExit};
use super::process::open_existing_state;
use super::settings::StateSettings;
use crate::batch::journal::{self, WorkerTotals};
use crate::batch::name::WorkerName;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor history
  async-data-processor history --output csv > workers.csv    # RFC 4180, lines end with LF
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

/// How the workers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people.
    Table,
    /// JSON.
    Json,
    /// CSV for spreadsheets, with a header row.
    Csv,
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
        Output::Csv => print_csv(&mut out, &workers),
        Output::Table => print_table(&mut out, &workers),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
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
        let last_seen = date_and_time(*last_seen_ms, SecondsFormat::Secs);
        let worker = worker.to_string();
        writeln!(
            out,
            "{worker:<22} {batches:>9} {messages:>12} {bytes:>14} {errors:>7} {timeouts:>8}  \
             {last_seen}"
        )?;
    }
    Ok(())
}

/// RFC 4180, but that a line ends with a newline alone, as the tools of this system expect. No
/// field holds what would need quotes.
fn print_csv(out: &mut impl Write, workers: &[(WorkerName, WorkerTotals)]) -> std::io::Result<()> {
    writeln!(out, "worker,batches,messages,bytes,errors,timeouts,last_seen")?;
    for (worker, totals) in workers {
        let WorkerTotals { batches, messages, bytes, errors, timeouts, last_seen_ms } = totals;
        let last_seen = date_and_time(*last_seen_ms, SecondsFormat::Millis);
        writeln!(out, "{worker},{batches},{messages},{bytes},{errors},{timeouts},{last_seen}")?;
    }
    Ok(())
}

/// Milliseconds since 1970 as RFC 3339 has them; nothing for what no calendar holds.
pub(super) fn date_and_time(ms: u64, format: SecondsFormat) -> String {
    let at = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    at.map(|at| at.to_rfc3339_opts(format, true)).unwrap_or_default()
}
