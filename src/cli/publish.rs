//! `publish`: stores entries from stdin, one JSON object per line.
//!
//! Lines are gathered into transactions of a megabyte; when the sender pauses, what is there is
//! stored at once, so that a pipe that never ends is as good as a file.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::answer::print_json;
use super::exit::{Exit, Failure, OrExit};
use super::input::Input;
use super::process::{network_runtime, open_state};
use super::settings::{Broker, RabbitSettings, ShardSettings, StateSettings};
use super::signals;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::idempotency::KeyRetention;
use crate::broker::rabbitmq::publisher::RabbitPublisher;
use crate::broker::{IdempotencyKey, Publish, PublishError, Unit};
use crate::clock::{Clock, SystemClock};
use crate::message::{Lines, ShardKey};
use crate::rooms::messages::entry::{ENTRIES_MAX, ENTRY_BYTES_MAX, Entries};
use crate::service::Lifecycle;
use crate::state::{State, random_identity};

pub(super) const EXAMPLES: &str = "\
Prints what was stored: {\"stored\":2,\"lines\":2}. On a wrong line (exit code 65), without room
(75) and after Ctrl-C (130) everything up to line `lines` is stored, and nothing after it: mend what
is wrong, and go on with --skip. Killed in any other way it prints nothing; compare `verify`. Over
RabbitMQ, 74 may mean that the broker did not confirm the next lines: the error says then that it is
unknown whether they are stored.

Examples:
  echo '{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"hello\"}' | async-data-processor publish
  async-data-processor publish < entries.ndjson
  async-data-processor publish --skip 120000 < entries.ndjson    # go on after an interruption";

/// Bytes that are stored together: one transaction of a megabyte.
const UNIT_BYTES: usize = 1 << 20;
/// One byte more than may be, and its end: so a line without an end does not fill the memory.
const LINE_BYTES_MAX: u64 = ENTRY_BYTES_MAX as u64 + 2;
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
    #[command(flatten)]
    rabbitmq: RabbitSettings,
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
    let broker = command.rabbitmq.check(command.shards.count()).map_err(Failure::of_settings)?;
    let life = Lifecycle::new();
    let state = open_state(&command.state, &life)?;
    let stop = signals::watch()?;
    let target = Target::new(state, broker, life, stop.clone())?;
    let mut publisher = Publisher::new(target, command.shards.count());
    let input = Input::new(stop, LINE_BYTES_MAX);
    let outcome = publisher.publish_all(input, command.skip);
    publisher.bar.finish_and_clear();
    publisher.target.close();
    let stored = publisher.stored;
    let mut out = std::io::stdout().lock();
    let printed = print_json(&mut out, &stored).and_then(|()| out.flush());
    outcome?;
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}

/// Where entries go.
struct Target {
    publisher: Arc<dyn Publish>,
    /// The connection to a broker elsewhere, and what keeps it.
    remote: Option<(RabbitPublisher, tokio::runtime::Runtime)>,
    /// Names the units, so that one that is sent again counts once.
    session: String,
    life: Lifecycle,
    /// Ctrl-C.
    stop: Lifecycle,
}

impl Target {
    fn new(
        state: State,
        broker: Option<Broker>,
        life: Lifecycle,
        stop: Lifecycle,
    ) -> Result<Self, Failure> {
        let session = random_identity().context("random bits").or_exit(Exit::Software)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let Some(Broker { address, topology }) = broker else {
            let embedded = EmbeddedBroker::new(state, clock, KeyRetention::NONE);
            let publisher = embedded.context("wake-up sockets").or_exit(Exit::CannotCreate)?;
            return Ok(Self { publisher: Arc::new(publisher), remote: None, session, life, stop });
        };
        let runtime = network_runtime(1)?;
        let inside = runtime.enter();
        // Sent again, a unit has the same ids; the keys of clients need not make room for its own.
        let keys = KeyRetention::NONE;
        let started = RabbitPublisher::start(address, topology, state, clock, keys, life.clone());
        let rabbit = started.context("random bits").or_exit(Exit::Software)?;
        let publisher = Arc::new(rabbit.clone());
        drop(inside);
        Ok(Self { publisher, remote: Some((rabbit, runtime)), session, life, stop })
    }

    /// The key of the unit that starts behind line `lines`.
    fn key(&self, lines: u64) -> Option<IdempotencyKey> {
        self.remote.as_ref().map(|_| IdempotencyKey {
            principal: Arc::from("publish"),
            key: format!("{}-{lines}", self.session),
            fingerprint: [0; 32],
        })
    }

    /// Whether the same unit may be stored a moment later.
    const fn may_pass(&self, error: &PublishError) -> bool {
        match error {
            PublishError::Full(_) | PublishError::Busy | PublishError::Unavailable(_) => true,
            PublishError::Unknown(_) => self.remote.is_some(),
            PublishError::KeyReused | PublishError::KeyInFlight => false,
        }
    }

    fn close(&self) {
        if let Some((rabbit, runtime)) = &self.remote {
            runtime.block_on(rabbit.close());
        }
    }
}

struct Publisher {
    target: Target,
    shards: std::num::NonZeroU16,
    bar: ProgressBar,
    stored: Stored,
}

impl Publisher {
    fn new(target: Target, shards: std::num::NonZeroU16) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} stored, {per_sec}") {
            bar.set_style(style);
        }
        Self { target, shards, bar, stored: Stored::default() }
    }

    fn publish_all(&mut self, mut input: Input, skip: u64) -> Result<(), Failure> {
        let mut entries = Entries::default();
        let mut lines = 0;
        let mut line = Vec::new();
        let reading = |read: io::Result<()>| read.context("reading stdin").or_exit(Exit::Io);
        loop {
            if !input.is_ready().context("waiting for stdin").or_exit(Exit::Io)? {
                self.store(std::mem::take(&mut entries), lines)?;
                input.wait().context("waiting for stdin").or_exit(Exit::Io)?;
            }
            if input.stopped() {
                self.store(entries, lines)?;
                let error = anyhow!("stopped: go on with --skip {lines}");
                return Err(Failure::new(Exit::Interrupted, error));
            }
            reading(input.read_line(&mut line))?;
            if line.is_empty() {
                return self.store(entries, lines);
            }
            lines += 1;
            if lines <= skip {
                // The rest of a line that was too long to be read at once.
                if !line.ends_with(b"\n") {
                    reading(input.skip_line())?;
                }
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

    fn add(&self, line: &[u8], entries: &mut Entries) -> anyhow::Result<()> {
        if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            anyhow::bail!("it has more than {ENTRY_BYTES_MAX} bytes");
        }
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
            let key = self.target.key(self.stored.lines);
            let unit = Unit { parts: parts.to_vec(), key };
            let answer = self.target.publisher.publish(unit).blocking_recv();
            let error = match answer.context("the commit never ended").or_exit(Exit::Io)? {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(failure) = self.target.life.failure() {
                let exit = if failure.is_settings { Exit::Config } else { Exit::Io };
                return Err(Failure::new(exit, anyhow!(failure.reason)));
            }
            let may_pass = self.target.may_pass(&error);
            if !may_pass || tries >= ROOM_TRIES || self.target.stop.is_stopping() {
                let unknown = matches!(error, PublishError::Unknown(_));
                let exit = if may_pass && !unknown { Exit::TemporaryFailure } else { Exit::Io };
                let after = self.stored.lines;
                let more = match error {
                    PublishError::Unknown(_) => "; of the lines after it this is unknown",
                    _ => "",
                };
                let error = anyhow!(error).context(format!("stored up to line {after}{more}"));
                return Err(Failure::new(exit, error));
            }
            tries += 1;
            std::thread::sleep(ROOM_PAUSE);
        }
    }
}
