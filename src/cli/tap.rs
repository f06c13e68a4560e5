//! `tap`: watches messages live without consuming them.

use std::io::{self, Write};

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use indicatif::HumanCount;

use super::exit::{Exit, Failure, OrExit};
use super::pipe::{Pipe, say};
use super::process::open_existing_state;
use super::settings::StateSettings;
use super::signals;
use crate::broker::take::SLOW_POLL;
use crate::broker::tap::{Look, Piece, Start, Tap, TapError};
use crate::message::{Offset, ShardId, Topic, line_prefix_bytes};
use crate::shard::SHARDS_MAX;

pub(super) const EXAMPLES: &str = "\
Nothing is consumed or held up. What is consumed before it can be shown is counted as missed.

Examples:
  async-data-processor tap
  async-data-processor tap --from waiting --shard 0 --shard 3
  async-data-processor tap --count 100 > sample.ndjson
  async-data-processor tap --output json | jq 'select(.message.value == \"hello\")'";

/// `tap`.
#[derive(Debug, Args)]
pub(super) struct TapCommand {
    #[command(flatten)]
    state: StateSettings,
    /// What to watch: messages, or the telemetry of ships.
    #[arg(long, value_name = "TOPIC", default_value = "messages")]
    topic: Watched,
    /// Watch this shard, and others that are named so; all if none is.
    #[arg(long = "shard", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..i64::from(SHARDS_MAX)))]
    shards: Vec<u16>,
    /// Where to start: now, waiting (at what still waits), or an offset of each shard.
    #[arg(long, value_name = "START", default_value = "now", value_parser = parse_start)]
    from: Start,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    count: Option<u64>,
    /// How they are printed.
    #[arg(long, value_name = "FORMAT", default_value = "lines")]
    output: Output,
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Watched {
    /// The entries of `POST /message`.
    Messages,
    /// What ships have measured.
    Telemetry,
}

impl Watched {
    const fn topic(self) -> Topic {
        match self {
            Self::Messages => Topic::Messages,
            Self::Telemetry => Topic::Telemetry,
        }
    }
}

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// As they are.
    Lines,
    /// Each in a JSON object with its shard and offset.
    Json,
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "now" => Ok(Start::Now),
        "waiting" => Ok(Start::Waiting),
        offset => offset
            .parse::<Offset>()
            .map(Start::At)
            .map_err(|_| "it may be now, waiting, or an offset such as 0".to_owned()),
    }
}

pub(super) fn run(command: &TapCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let stop = signals::watch()?;
    let state = open_existing_state(&command.state)?;
    let shards = command.shards.iter().copied().map(ShardId).collect();
    let tap = Tap::new(state, command.topic.topic(), shards, command.from);
    let mut tap = tap.map_err(|error| {
        let exit = match &error {
            TapError::State(_) => Exit::Io,
            TapError::Wake(_) => Exit::CannotCreate,
        };
        Failure::new(exit, error)
    })?;
    tracing::debug!("watching");
    let mut printer = Printer {
        pipe: Pipe::new(stop),
        output: command.output,
        left: command.count,
        seen: 0,
        missed: 0,
    };
    while printer.goes_on().context("waiting for stdout").or_exit(Exit::Io)? {
        let look = tap.look().or_exit(Exit::Io)?;
        if look.is_empty() {
            tap.wait(SLOW_POLL);
        } else {
            printer.print(&look).context("writing to stdout").or_exit(Exit::Io)?;
        }
    }
    if !printer.pipe.is_closed().context("waiting for stdout").or_exit(Exit::Io)? {
        let (seen, missed) = (messages(printer.seen), HumanCount(printer.missed));
        say(format_args!("tap: {seen} seen, {missed} missed"));
    }
    Ok(Exit::Done)
}

fn messages(count: u64) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { "message" } else { "messages" })
}

/// Prints messages and counts them.
struct Printer {
    pipe: Pipe,
    output: Output,
    /// How many may still be printed, if there is a limit.
    left: Option<u64>,
    seen: u64,
    missed: u64,
}

impl Printer {
    /// Whether it was neither stopped nor closed, and more may be printed.
    fn goes_on(&self) -> io::Result<bool> {
        Ok(self.left != Some(0) && self.pipe.goes_on()?)
    }

    fn print(&mut self, look: &Look) -> io::Result<()> {
        for (key, missed) in &look.missed {
            let (count, shard) = (messages(*missed), key.short());
            let were = if *missed == 1 { "it was" } else { "they were" };
            say(format_args!(
                "missed {count} of shard {shard}: {were} consumed before tap could read them"
            ));
            self.missed += missed;
        }
        for piece in &look.pieces {
            if !self.goes_on()? {
                break;
            }
            let lines = self.left.map_or(piece.lines.len(), |n| line_prefix_bytes(&piece.lines, n));
            let lines = piece.lines.get(..lines).unwrap_or(&piece.lines);
            match self.output {
                Output::Lines => self.write(lines)?,
                Output::Json => self.write(&with_places(piece, lines)?)?,
            }
        }
        Ok(())
    }

    /// Writes whole messages, as far as they can be before it is stopped or closed.
    fn write(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() && self.goes_on()? {
            let count = self.pipe.write_some(rest)?;
            let (written, left) = rest.split_at(count.min(rest.len()));
            let ended = memchr::memchr_iter(b'\n', written).count() as u64;
            self.seen += ended;
            self.left = self.left.map(|left| left.saturating_sub(ended));
            rest = left;
        }
        Ok(())
    }
}

/// Each of the lines in an object with its shard and offset. They are JSON already.
fn with_places(piece: &Piece, lines: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(lines.len() * 2);
    let shard = piece.key.shard;
    for (offset, line) in (piece.range.first..).zip(lines.split_inclusive(|byte| *byte == b'\n')) {
        write!(text, "{{\"shard\":{shard},\"offset\":{offset},\"message\":")?;
        text.extend_from_slice(line.trim_ascii_end());
        text.extend_from_slice(b"}\n");
    }
    Ok(text)
}
