//! `tasks submit`: payloads from stdin become tasks.

use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use chrono::DateTime;
use clap::Args;

use super::session::{self, FAILURES_MAX, StoreSettings, now_ms, on_store};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::input::Input;
use crate::cli::signals;
use crate::service::Lifecycle;
use crate::store::{Millis, NewTask, Store, Submitted};
use crate::task::{Name, PAYLOAD_BYTES_MAX, TaskId};

pub(super) const EXAMPLES: &str = "\
Prints the id of each task when it is stored. A payload has up to 1 MiB; without --lines it is stdin
to the end, byte by byte. With --lines empty lines are passed over, and what is there is stored when
the sender pauses. On a line that is too long (exit code 65) and after Ctrl-C (130) it says which
lines are stored. Tasks of the same kind and --key are the same work, done once.

Examples:
  echo hello | async-data-processor tasks submit --kind echo
  async-data-processor tasks submit --kind thumbnail --lines --quiet < paths.txt
  async-data-processor tasks submit --kind report --run-at 2026-11-23T06:00:00Z < query.sql
  async-data-processor tasks submit --kind measure --endpoint lab1 --key run-17 < plan.json";

/// Tasks that are stored together, unless they have more bytes than the next.
const BULK_TASKS: usize = 1000;
const BULK_BYTES: usize = 4 << 20;

/// `tasks submit`.
#[derive(Debug, Args)]
pub(super) struct SubmitCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// Who knows how to run it.
    #[arg(long, value_name = "KIND")]
    kind: Name,
    /// The only endpoint that may run it; unset: any worker that knows the kind.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<Name>,
    /// Not before this time (RFC 3339); unset: at once.
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    run_at: Option<Millis>,
    /// Names the work: what has the same key is done once.
    #[arg(long, value_name = "KEY", conflicts_with = "lines")]
    key: Option<String>,
    /// After how many failures it is given up.
    #[arg(long, value_name = "N", default_value_t = FAILURES_MAX)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    failures_max: u32,
    /// Each line is the payload of a task of its own.
    #[arg(long)]
    lines: bool,
    /// Print how many tasks were stored, and not their ids.
    #[arg(long)]
    quiet: bool,
}

fn read_time(text: &str) -> Result<Millis, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.timestamp_millis())
        .map_err(|error| format!("{error}; a time is written as 2026-11-22T07:30:00Z"))
}

pub(super) fn run(command: &SubmitCommand) -> Result<Exit, Failure> {
    on_store(&command.store, async |store| {
        let mut out = std::io::stdout().lock();
        let mut submission = Submission { command, store, submitted: 0, bulk: Vec::new() };
        let outcome = match command.lines {
            true => submission.lines(&signals::watch()?, &mut out).await,
            false => submission.whole(&mut out).await,
        };
        let told = match command.quiet {
            true => writeln!(out, "{}", submission.submitted),
            false => Ok(()),
        };
        outcome?;
        told.and_then(|()| out.flush()).context("writing to stdout").or_exit(Exit::Io)?;
        Ok(Exit::Done)
    })
}

struct Submission<'a> {
    command: &'a SubmitCommand,
    store: Arc<dyn Store>,
    submitted: u64,
    bulk: Vec<NewTask>,
}

impl Submission<'_> {
    /// All of stdin as one payload.
    async fn whole(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        let mut payload = Vec::new();
        let mut input = std::io::stdin().lock().take(PAYLOAD_BYTES_MAX as u64 + 1);
        input.read_to_end(&mut payload).context("reading stdin").or_exit(Exit::Io)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            let error = anyhow!("a payload has at most {PAYLOAD_BYTES_MAX} bytes");
            return Err(Failure::new(Exit::DataError, error));
        }
        self.bulk.push(self.command.task(payload));
        self.store(out).await
    }

    /// Each line as a payload.
    async fn lines(&mut self, stop: &Lifecycle, out: &mut impl Write) -> Result<(), Failure> {
        // A byte more than may be, and the end of the line.
        let mut input = Input::new(stop.clone(), PAYLOAD_BYTES_MAX as u64 + 2);
        let (mut line, mut lines, mut bytes) = (Vec::new(), 0_u64, 0);
        loop {
            if !input.is_ready().context("waiting for stdin").or_exit(Exit::Io)? {
                self.store(out).await?;
                bytes = 0;
                input.wait().context("waiting for stdin").or_exit(Exit::Io)?;
            }
            if input.stopped() {
                self.store(out).await?;
                let error = anyhow!("stopped: the first {lines} lines are stored, and no more");
                return Err(Failure::new(Exit::Interrupted, error));
            }
            input.read_line(&mut line).context("reading stdin").or_exit(Exit::Io)?;
            if line.is_empty() {
                return self.store(out).await;
            }
            let payload = without_end(&line);
            if payload.len() > PAYLOAD_BYTES_MAX {
                // What is before the wrong line is stored.
                self.store(out).await?;
                let error = anyhow!(
                    "line {} has more than {PAYLOAD_BYTES_MAX} bytes; the lines before it are \
                     stored",
                    lines + 1
                );
                return Err(Failure::new(Exit::DataError, error));
            }
            lines += 1;
            if !payload.is_empty() {
                bytes += payload.len();
                self.bulk.push(self.command.task(payload.to_vec()));
            }
            if self.bulk.len() >= BULK_TASKS || bytes >= BULK_BYTES {
                self.store(out).await?;
                bytes = 0;
            }
        }
    }

    /// Stores what was gathered, and tells it.
    async fn store(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        if self.bulk.is_empty() {
            return Ok(());
        }
        let tasks = std::mem::take(&mut self.bulk);
        let submitted = session::submit(self.store.as_ref(), &tasks).await.map_err(|failure| {
            let text = format!("{} tasks are stored; of the next it is unknown", self.submitted);
            Failure::new(failure.exit, failure.error.context(text))
        })?;
        self.submitted += tasks.len() as u64;
        for (task, submitted) in tasks.iter().zip(submitted) {
            if let Submitted::Follows(leader) = submitted {
                tracing::info!(task = %task.id, follows = %leader, "follows the same work");
            }
            if !self.command.quiet {
                writeln!(out, "{}", task.id).context("writing to stdout").or_exit(Exit::Io)?;
            }
        }
        out.flush().context("writing to stdout").or_exit(Exit::Io)
    }
}

impl SubmitCommand {
    fn task(&self, payload: Vec<u8>) -> NewTask {
        NewTask {
            id: TaskId::new(),
            kind: self.kind.clone(),
            endpoint: self.endpoint.clone(),
            payload,
            run_at_ms: self.run_at.unwrap_or_else(now_ms),
            expires_at_ms: None,
            failures_max: self.failures_max,
            key: self.key.clone(),
            is_watched: false,
        }
    }
}

/// A line without what ends it.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
