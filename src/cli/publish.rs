//! `publish`: stores entries from stdin, one JSON object per line.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::exit::{Exit, Failure, OrExit};
use super::history::print_json;
use super::process::open_state;
use super::settings::{ShardSettings, StateSettings};
use crate::broker::embedded::{EmbeddedBroker, KeyRetention};
use crate::broker::{Publish, PublishError, Unit};
use crate::clock::SystemClock;
use crate::message::{Lines, ShardKey};
use crate::rooms::messages::entry::{ENTRIES_MAX, ENTRY_BYTES_MAX, Entries};
use crate::service::Lifecycle;
use crate::state::State;

pub(super) const EXAMPLES: &str = "\
Examples:
  echo '{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"hello\"}' | async-data-processor publish
  async-data-processor publish < entries.ndjson
  async-data-processor publish --skip 120000 < entries.ndjson    # go on after an interruption

Prints what was stored: {\"stored\":2,\"lines\":2}. On a wrong line (exit code 65) or without room
(75) everything before `lines` is stored: mend what is wrong, and go on with --skip.";

/// Bytes that are stored together: one transaction of a megabyte.
const UNIT_BYTES: usize = 1 << 20;
/// How often a line without room is tried again before the command gives up, and how far apart.
const ROOM_TRIES: u32 = 50;
const ROOM_PAUSE: Duration = Duration::from_millis(200);

/// `publish`.
#[derive(Debug, Args)]
pub(super) struct PublishCommand {
    #[command(flatten)]
    state: StateSettings,
    #[command(flatten)]
    shards: ShardSettings,
    /// Pass over so many lines first.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip: u64,
}

/// How far it got.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Stored {
    /// Entries stored by this run.
    stored: u64,
    /// Lines of the input that are behind it: the argument of `--skip` to go on.
    lines: u64,
}

pub(super) fn run(command: &PublishCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let state = open_state(&command.state, &Lifecycle::new())?;
    let mut publisher = Publisher::new(state, command)?;
    let outcome = publisher.publish_all(&mut std::io::stdin().lock(), command.skip);
    publisher.bar.finish_and_clear();
    let stored = publisher.stored;
    let mut out = std::io::stdout().lock();
    let printed = print_json(&mut out, &stored).and_then(|()| out.flush());
    outcome?;
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}

struct Publisher {
    broker: EmbeddedBroker,
    shards: std::num::NonZeroU16,
    bar: ProgressBar,
    stored: Stored,
}

impl Publisher {
    fn new(state: State, command: &PublishCommand) -> Result<Self, Failure> {
        // Lines carry no keys.
        let retention = KeyRetention { keys_max: 0, age_ms_max: 0 };
        let broker = EmbeddedBroker::new(state, Arc::new(SystemClock), retention)
            .context("wake-up sockets")
            .or_exit(Exit::CannotCreate)?;
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} stored, {per_sec}") {
            bar.set_style(style);
        }
        Ok(Self { broker, shards: command.shards.count(), bar, stored: Stored::default() })
    }

    fn publish_all(&mut self, input: &mut impl BufRead, skip: u64) -> Result<(), Failure> {
        let mut entries = Entries::default();
        let mut lines = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            // One byte more than may be: so a line without an end does not fill the memory.
            let most = ENTRY_BYTES_MAX as u64 + 2;
            let read = input.by_ref().take(most).read_until(b'\n', &mut line);
            if read.context("reading stdin").or_exit(Exit::Io)? == 0 {
                return self.store(entries, lines);
            }
            lines += 1;
            if lines <= skip {
                self.skip_rest(input, &line)?;
                self.stored.lines = lines;
                continue;
            }
            if let Err(wrong) = self.add(&line, &mut entries) {
                // What is before the wrong line is stored.
                self.store(entries, lines - 1)?;
                let error = anyhow!("line {lines}: {wrong}; the lines before it are stored");
                return Err(Failure::new(Exit::DataError, error));
            }
            if entries.count() >= ENTRIES_MAX || entries.bytes() >= UNIT_BYTES {
                self.store(std::mem::take(&mut entries), lines)?;
            }
        }
    }

    /// The rest of a line to be passed over that was too long to be read at once.
    fn skip_rest(&self, input: &mut impl BufRead, start: &[u8]) -> Result<(), Failure> {
        if !start.ends_with(b"\n") {
            input.skip_until(b'\n').context("reading stdin").or_exit(Exit::Io)?;
        }
        Ok(())
    }

    fn add(&self, line: &[u8], entries: &mut Entries) -> anyhow::Result<()> {
        let text = std::str::from_utf8(line).context("not UTF-8")?.trim_ascii();
        if !text.is_empty() {
            entries.push(text, self.shards)?;
        }
        Ok(())
    }

    /// Stores what was gathered up to line `lines`.
    fn store(&mut self, entries: Entries, lines: u64) -> Result<(), Failure> {
        let count = entries.count() as u64;
        if count > 0 {
            self.store_unit(&entries.into_parts())?;
        }
        self.stored = Stored { stored: self.stored.stored + count, lines };
        self.bar.set_position(self.stored.stored);
        Ok(())
    }

    /// Stores a unit; waits a while for room.
    fn store_unit(&self, parts: &[(ShardKey, Lines)]) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            let unit = Unit { parts: parts.to_vec(), key: None };
            let answer = self.broker.publish(unit).blocking_recv();
            let error = match answer.context("the commit never ended").or_exit(Exit::Io)? {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let may_pass = matches!(error, PublishError::Full(_) | PublishError::Busy);
            if !may_pass || tries >= ROOM_TRIES {
                let exit = if may_pass { Exit::TemporaryFailure } else { Exit::Io };
                let after = self.stored.lines;
                let error = anyhow!(error).context(format!("stored up to line {after}"));
                return Err(Failure::new(exit, error));
            }
            tries += 1;
            std::thread::sleep(ROOM_PAUSE);
        }
    }
}
