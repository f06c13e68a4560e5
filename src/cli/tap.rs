//! `tap`: watches messages live without consuming them.
//!
//! Its stdout may be slow, stopped or closed. So it is written in pieces that fit into a pipe, each
//! when there is room, and Ctrl-C is heard meanwhile.

use std::fmt::Display;
use std::io::{self, Stdout, Write};

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use indicatif::HumanCount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::exit::{Exit, Failure, OrExit};
use super::process::open_existing_state;
use super::settings::StateSettings;
use super::signals;
use crate::broker::take::SLOW_POLL;
use crate::broker::tap::{Look, Piece, Start, Tap, TapError};
use crate::message::{Offset, ShardId, line_prefix_bytes};
use crate::service::Lifecycle;
use crate::shard::SHARDS_MAX;

pub(super) const EXAMPLES: &str = "\
Nothing is consumed or held up. What is consumed before it can be shown is counted as missed.

Examples:
  async-data-processor tap
  async-data-processor tap --from waiting --shard 0 --shard 3
  async-data-processor tap --count 100 > sample.ndjson
  async-data-processor tap --output json | jq 'select(.message.value == \"hello\")'";

/// Bytes for which a pipe that says to have room has room (`PIPE_BUF`, pipe(7)).
const PIPE_BYTES: usize = 4096;
/// How often Ctrl-C is looked for while stdout has no room, in nanoseconds.
const STOP_POLL_NS: i64 = 100_000_000;

/// `tap`.
#[derive(Debug, Args)]
pub(super) struct TapCommand {
    #[command(flatten)]
    state: StateSettings,
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
    let mut tap = Tap::new(state, shards, command.from).map_err(|error| {
        let exit = match &error {
            TapError::State(_) => Exit::Io,
            TapError::Wake(_) => Exit::CannotCreate,
        };
        Failure::new(exit, error)
    })?;
    tracing::debug!("watching");
    let mut printer = Printer {
        stdout: io::stdout(),
        stop,
        output: command.output,
        left: command.count,
        seen: 0,
        missed: 0,
        closed: false,
    };
    while printer.goes_on().context("waiting for stdout").or_exit(Exit::Io)? {
        let look = tap.look().or_exit(Exit::Io)?;
        if look.is_empty() {
            tap.wait(SLOW_POLL);
        } else {
            printer.print(&look).context("writing to stdout").or_exit(Exit::Io)?;
        }
    }
    if !printer.is_closed().context("waiting for stdout").or_exit(Exit::Io)? {
        let (seen, missed) = (messages(printer.seen), HumanCount(printer.missed));
        say(format_args!("tap: {seen} seen, {missed} missed"));
    }
    Ok(Exit::Done)
}

/// Says something on stderr; whether anybody listens changes nothing.
fn say(text: impl Display) {
    let _told = writeln!(io::stderr(), "{text}");
}

fn messages(count: u64) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { "message" } else { "messages" })
}

/// Prints messages and counts them.
struct Printer {
    stdout: Stdout,
    stop: Lifecycle,
    output: Output,
    /// How many may still be printed, if there is a limit.
    left: Option<u64>,
    seen: u64,
    missed: u64,
    /// Whether a write has found nobody to read.
    closed: bool,
}

impl Printer {
    /// Whether it was neither stopped nor closed, and more may be printed.
    fn goes_on(&self) -> io::Result<bool> {
        Ok(!self.stop.is_stopping() && self.left != Some(0) && !self.is_closed()?)
    }

    /// Whether nobody will ever read what is printed.
    fn is_closed(&self) -> io::Result<bool> {
        Ok(self.closed || self.poll(0)?.intersects(PollFlags::ERR | PollFlags::HUP))
    }

    fn poll(&self, nanoseconds: i64) -> io::Result<PollFlags> {
        let mut stdout = [PollFd::new(&self.stdout, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        match poll(&mut stdout, Some(&timeout)) {
            Err(Errno::INTR) => Ok(PollFlags::empty()),
            polled => {
                polled.map(|_| stdout.iter().map(PollFd::revents).collect()).map_err(Into::into)
            }
        }
    }

    fn print(&mut self, look: &Look) -> io::Result<()> {
        for (key, missed) in &look.missed {
            let (count, shard) = (messages(*missed), key.shard);
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
            if !self.poll(STOP_POLL_NS)?.contains(PollFlags::OUT) {
                continue;
            }
            let chunk = rest.get(..PIPE_BYTES).unwrap_or(rest);
            let count = match rustix::io::write(&self.stdout, chunk) {
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(Errno::PIPE) => {
                    self.closed = true;
                    return Ok(());
                }
                written => written?,
            };
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
