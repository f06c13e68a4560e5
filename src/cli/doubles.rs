//! `doubles`: what two hosts have both written, after one has taken over from the other.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::answer::{Output, print_json};
use super::exit::{Exit, Failure, OrExit};
use super::process::{open_existing_state, open_state_of};
use super::settings::StateSettings;
use crate::batch::journal;
use crate::broker::rabbitmq::doubles::{self, Double};
use crate::message::{OffsetRange, ShardId, ShardKey, Topic};
use crate::state::{State, StateError};

pub(super) const EXAMPLES: &str = "\
Over RabbitMQ, a host that is cut off may have written messages that it could not acknowledge; the
host that takes over writes them again. This names them. It reads both state directories: stop the
other host's consumer, and copy its state directory to this host first. Exit code 1 if there are
doubles.

Examples:
  async-data-processor doubles /mnt/other-host/state
  async-data-processor doubles --output json ./state-of-b | jq .doubles";

/// `doubles`.
#[derive(Debug, Args)]
pub(super) struct DoublesCommand {
    #[command(flatten)]
    state: StateSettings,
    /// The other host's state directory, or a copy of it.
    #[arg(value_name = "DIR")]
    other: PathBuf,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    doubles: Vec<Line>,
    /// Packets of which it is no longer known where their messages went.
    unnamed_packets: u64,
}

/// A packet that both have taken.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Topic::is_messages")]
    topic: Topic,
    shard: u16,
    packet: String,
    messages: u64,
    here: Vec<Place>,
    there: Vec<Place>,
}

/// Messages of a packet in one file.
#[derive(Debug, Serialize)]
struct Place {
    file: PathBuf,
    /// The first of its lines, from 1, unless a program has made the file.
    first_line: Option<u64>,
    messages: u64,
}

pub(super) fn run(command: &DoublesCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let here = open_existing_state(&command.state)?;
    let there = open_state_of(&command.state, &command.other)?;
    let found = doubles::doubles(&here, &there).or_exit(Exit::Io)?;
    let lines = found.named.iter().map(|double| line(double, &here, &there));
    let report = Report {
        doubles: lines.collect::<Result<_, _>>().or_exit(Exit::Io)?,
        unnamed_packets: found.unnamed,
    };
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => print(&mut out, &report, &command.other),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    let none = report.doubles.is_empty() && report.unnamed_packets == 0;
    Ok(if none { Exit::Done } else { Exit::CheckFailed })
}

fn line(double: &Double, here: &State, there: &State) -> Result<Line, StateError> {
    let Double { key, id, here: range, there: other } = double;
    Ok(Line {
        topic: key.topic,
        shard: key.shard.0,
        packet: id.to_string(),
        messages: range.count(),
        here: places(here, *key, *range)?,
        there: other.map_or_else(|| Ok(Vec::new()), |range| places(there, *key, range))?,
    })
}

/// The files that hold messages of a shard.
fn places(state: &State, key: ShardKey, range: OffsetRange) -> Result<Vec<Place>, StateError> {
    let txn = state.read()?;
    let rows = journal::rows_of(&txn, state.tables(), key, range)?;
    let rows = rows.into_iter().filter(|(row, _)| row.has_file());
    Ok(rows
        .map(|(row, _)| {
            let first = row.range.first.max(range.first);
            let as_is = row.outputs.is_none();
            Place {
                first_line: as_is.then(|| first - row.range.first + 1),
                messages: row.range.end.min(range.end) - first,
                file: row.file,
            }
        })
        .collect())
}

fn print(out: &mut impl Write, report: &Report, other: &Path) -> std::io::Result<()> {
    for Line { topic, shard, packet, messages, here, there } in &report.doubles {
        let shard = ShardKey::new(*topic, ShardId(*shard)).short();
        writeln!(out, "double: shard {shard}, packet {packet}, {messages} messages")?;
        for (side, places) in [("here", here), ("there", there)] {
            for Place { file, first_line, messages } in places {
                let from = first_line.map(|line| format!(" from line {line}")).unwrap_or_default();
                writeln!(out, "  {side}: {}{from}, {messages} messages", file.display())?;
            }
        }
    }
    if report.unnamed_packets > 0 {
        let packets = report.unnamed_packets;
        writeln!(out, "and {packets} packets of which it is no longer known where they went")?;
    }
    let other = other.display();
    let all: u64 = report.doubles.iter().map(|line| line.messages).sum();
    match all + report.unnamed_packets {
        0 => writeln!(out, "no doubles with {other}"),
        _ => writeln!(out, "{all} messages are here and in {other}"),
    }
}
