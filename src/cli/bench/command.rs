//! The command line of `bench`, and its signals.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::marks::{ENTRY_BYTES_MIN, SPREAD_SECONDS_MAX};
use super::{bare, calculations, captures, limit, run as running, schedules, target, tasks};
use crate::cli::answer::Output;
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::settings::{OutputSettings, StateSettings};
use crate::cli::signals;
use crate::rooms::messages::entry::{ENTRIES_MAX, VALUE_BYTES_MAX};

pub(in crate::cli) const EXAMPLES: &str = "\
Without --rate it is a closed loop: each connection sends its next request when the last one is
answered. With --rate requests are due at even times, also while the server stalls, and latency
counts from when a request was due. Afterwards it waits until all is in files, and reads them:
exit code 1 if an accepted message is lost or doubled. STATE_DIR and DATA_OUTPUT_DIR must be the
server's; on another machine than the server's pass --no-drain.

The messages stay in the files. Their timestamps are seconds drawn at random before 2009.

Keys of the JSON: accepted, requests, errors (by status or reason), others_accepted, files_written,
server_state_commits (of the server's process): counts. accepted_per_second, drained_per_second:
messages, by the time to the last answer and to the last file. latency_ms, end_to_end_ms: p50, p90,
p99, p99_9, max from a request to its 201 and to its messages' file in place, which may be seen
end_to_end_resolution_ms late. processes: cpu_seconds (in steps of 0.01), cpu_seconds_per_million
messages, anonymous_kib (the most there was). verified: in_files, lost, doubled, unasked.
What could not be known is null.

Examples:
  async-data-processor bench
  async-data-processor bench --entries 1 --connections 64 --count 500000
  async-data-processor bench --rate 200000 --duration 60 --output json | jq .latency_ms.p99
  BATCH_MIN=1 FILES_PER_SECOND=0 async-data-processor up
  async-data-processor bench --entries 1 --rate 100 --end-to-end
  async-data-processor bench limit";

/// The most entry bytes: those around a value of the greatest length.
const ENTRY_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64;

/// `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct BenchCommand {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub(super) state: StateSettings,
    #[command(flatten)]
    pub(super) output_dir: OutputSettings,
    /// Where the server listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(super) url: String,
    /// File with the bearer token to send, on its first line.
    #[arg(long, env, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    pub(super) connections: u64,
    /// Messages per second, sent at even times whatever the server does; unset: closed loop.
    #[arg(long, value_name = "MESSAGES")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=100_000_000))]
    pub(super) rate: Option<u64>,
    /// Entries (messages) of a request.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=ENTRIES_MAX as u64))]
    pub(super) entries: u64,
    /// Bytes of an entry.
    #[arg(long, value_name = "BYTES", default_value_t = ENTRY_BYTES_MIN)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new()
        .range(ENTRY_BYTES_MIN as u64..=ENTRY_BYTES_MAX))]
    pub(super) entry_bytes: usize,
    /// Seconds that the timestamps are spread over, evenly, so that all shards get load.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(SPREAD_SECONDS_MAX)))]
    pub(super) spread_seconds: u32,
    /// How long to send, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "count")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=31_536_000))]
    pub(super) duration: u64,
    /// How many messages to send instead, rounded up to whole requests.
    #[arg(long, value_name = "MESSAGES")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) count: Option<u64>,
    /// Measure also from the request to the message's file in place.
    #[arg(long, conflicts_with = "no_drain")]
    pub(super) end_to_end: bool,
    /// End with the last answer: no look at files, no verification.
    #[arg(long)]
    pub(super) no_drain: bool,
    /// Give up waiting for files when none comes for so long, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    pub(super) drain_seconds: u64,
    /// Processes to measure, separated by commas; unset: who listens at URL or uses STATE_DIR.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pids: Vec<u32>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Output,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Measures what the parts alone cost on this machine, as a limit to compare with.
    #[command(after_help = limit::EXAMPLES)]
    Limit(limit::LimitCommand),
    /// Measures how many tasks a second go in, are run, and have their result stored.
    #[command(after_help = tasks::EXAMPLES)]
    Tasks(tasks::TasksBench),
    /// Measures how long it takes from asking for a small factorial until it is there.
    #[command(after_help = calculations::EXAMPLES)]
    Calculations(calculations::CalculationsBench),
    /// Measures how much of what ships stream is captured and stored.
    #[command(after_help = captures::EXAMPLES)]
    Captures(captures::CapturesBench),
    /// Loads a scheduler as its users do, and sees how late what was scheduled begins.
    #[command(after_help = schedules::EXAMPLES)]
    Schedules(schedules::SchedulesBench),
    /// A bare HTTP server for `bench limit`, until stdin ends.
    #[command(hide = true)]
    Bare(bare::BareCommand),
}

/// Runs it.
pub(in crate::cli) fn run(command: &BenchCommand) -> Result<Exit, Failure> {
    match &command.action {
        Some(Action::Limit(limit)) => limit::run(limit),
        Some(Action::Tasks(tasks)) => tasks::run(tasks),
        Some(Action::Calculations(calculations)) => calculations::run(calculations),
        Some(Action::Captures(captures)) => captures::run(captures),
        Some(Action::Schedules(schedules)) => schedules::run(schedules),
        Some(Action::Bare(bare)) => bare::run(bare),
        None => {
            crate::cli::logging::start(&command.state.log)?;
            running::run(command, &signals::watch()?)
        }
    }
}

impl BenchCommand {
    /// The server to load.
    pub(super) fn target(&self) -> Result<target::Target, Failure> {
        let token = self.token_file.as_deref().map(target::read_token);
        let token = token.transpose().or_exit(Exit::Config)?;
        target::Target::parse(&self.url, token).or_exit(Exit::Config)
    }

    /// How many requests at most.
    pub(super) fn requests_max(&self, capacity: u64) -> Result<u64, Failure> {
        let most = capacity / self.entries;
        let wanted = self.count.map(|count| count.div_ceil(self.entries));
        if wanted.is_some_and(|wanted| wanted > most) {
            let error = anyhow!(
                "--count: entries of {} bytes tell {capacity} messages apart; raise --entry-bytes",
                self.entry_bytes
            );
            return Err(Failure::new(Exit::Config, error));
        }
        Ok(wanted.unwrap_or(most))
    }
}

/// A progress bar on stderr, if that is a terminal.
pub(super) fn progress_bar(length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = match length {
        Some(_) => "{bar:30} {msg}",
        None => "{spinner} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
