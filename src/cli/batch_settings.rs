//! The settings of whatever brings messages into files.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use clap::{Args, ValueEnum};

use super::settings::ShipSettings;
use crate::batch::journal::JournalRetention;
use crate::batch::name::Compression;
use crate::broker::take::TakePolicy;
use crate::consumer::{ConsumerSettings, Processing};
use crate::pool::scale::Limits;
use crate::service::program::Program;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The most workers of a shard: each is a thread.
const WORKERS_LIMIT: i64 = 64;

/// How files are compressed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compress {
    /// Not at all.
    None,
    /// Each file is one Zstandard frame.
    Zstd,
}

/// Where files go.
#[derive(Debug, Clone, Args)]
pub(super) struct OutputSettings {
    /// Directory for the files.
    #[arg(long, env, value_name = "DIR", default_value = "./data_dump")]
    pub(super) data_output_dir: PathBuf,
}

/// How messages become files.
#[derive(Debug, Clone, Args)]
pub(super) struct BatchSettings {
    #[command(flatten)]
    pub(super) output: OutputSettings,
    /// Workers per shard at start, and at least.
    #[arg(long, env, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=WORKERS_LIMIT))]
    workers_count: u16,
    /// Workers per shard at most; unset: one more than WORKERS_COUNT.
    #[arg(long, env, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=WORKERS_LIMIT))]
    workers_max: Option<u16>,
    /// How long the processing of a batch may take, and its writing, in seconds.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 120)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    workers_worktime_seconds: u64,
    /// Messages that are taken as soon as so many wait.
    #[arg(long, env, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    batch_min: u64,
    /// The longest that a message waits for others, in milliseconds.
    #[arg(long, env, value_name = "MS", default_value_t = 1000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(0..=86_400_000))]
    batch_linger_ms: u64,
    /// The most messages of a file.
    #[arg(long, env, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000))]
    batch_max: u64,
    /// The most bytes of a file; one message more may exceed it.
    #[arg(long, env, value_name = "BYTES", default_value_t = 4 << 20)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 30))]
    batch_max_bytes: u64,
    /// Files per second and shard in the long run, full ones aside; 0 is no limit.
    #[arg(long, env, value_name = "RATE", default_value_t = 1.0)]
    files_per_second: f64,
    /// Compression of the files: none, or zstd.
    #[arg(long, env, value_name = "HOW", default_value = "none")]
    compress: Compress,
    /// Command line (for /bin/sh) that each batch goes through: lines on stdin, results on stdout.
    #[arg(long, env, value_name = "COMMAND")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    exec: Option<String>,
    /// The most bytes that EXEC may print for one batch.
    #[arg(long, env, value_name = "BYTES", default_value_t = 16 << 20)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 30))]
    exec_output_max_bytes: usize,
    /// How often EXEC may fail at a batch before the batch is split.
    #[arg(long, env, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch_attempts: u32,
    /// Rows of committed files that the journal keeps, of messages and of telemetry each.
    #[arg(long, env, value_name = "N", default_value_t = 100_000)]
    journal_batches: u64,
    /// How long the journal keeps them, in days; the smaller of the two limits wins.
    #[arg(long, env, value_name = "DAYS", default_value_t = 30)]
    journal_days: u64,
    /// How often the workers' history is logged, in seconds.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=31_536_000))]
    history_seconds: u64,
    #[command(flatten)]
    pub(super) ships: ShipSettings,
    /// Go on in another output directory than the one used so far.
    #[arg(long)]
    adopt_output_dir: bool,
}

impl BatchSettings {
    /// What does not fit together; every problem there is.
    pub(super) fn check(&self) -> Result<(), Vec<anyhow::Error>> {
        let mut problems = Vec::new();
        if self.batch_min > self.batch_max {
            problems.push(anyhow!(
                "BATCH_MIN is {}, more than BATCH_MAX, which is {}",
                self.batch_min,
                self.batch_max
            ));
        }
        if let Some(most) = self.workers_max.filter(|most| *most < self.workers_count) {
            problems.push(anyhow!(
                "WORKERS_MAX is {most}, less than WORKERS_COUNT, which is {}",
                self.workers_count
            ));
        }
        let rate = self.files_per_second;
        if rate != 0.0 && !(1e-6..=1e6).contains(&rate) {
            problems.push(anyhow!("FILES_PER_SECOND must be 0, or from 1e-6 to 1e6"));
        }
        problems.extend(self.ships.redis.check().err().unwrap_or_default());
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What is done with a batch of messages; a stop may take `shutdown`.
    pub(super) fn processing(&self, shutdown: Duration) -> Processing {
        let program = self.exec.clone().map(|command| Program {
            command,
            output_bytes_max: self.exec_output_max_bytes,
            // What it has made by then is still written.
            stop_within: shutdown * 3 / 5,
        });
        Processing { program, ..self.as_is() }
    }

    /// What is done with a batch that goes through no program.
    pub(super) fn as_is(&self) -> Processing {
        Processing {
            program: None,
            timeout: Duration::from_secs(self.workers_worktime_seconds),
            attempts_max: self.batch_attempts,
        }
    }

    /// The consumer's settings for `shards`.
    pub(super) fn consumer(&self, shards: NonZeroU16) -> ConsumerSettings {
        ConsumerSettings {
            shards,
            workers: Limits {
                least: self.workers_count,
                most: self.workers_max.unwrap_or(self.workers_count.saturating_add(1)),
            },
            compression: match self.compress {
                Compress::None => Compression::None,
                Compress::Zstd => Compression::Zstd,
            },
            policy: TakePolicy {
                batch_min: self.batch_min,
                batch_max: self.batch_max,
                batch_bytes_max: self.batch_max_bytes,
                linger: Duration::from_millis(self.batch_linger_ms),
                files_per_second: self.files_per_second,
            },
            retention: JournalRetention {
                batches_max: self.journal_batches,
                age_ms_max: self.journal_days.saturating_mul(DAY_MS),
            },
            adopt_output: self.adopt_output_dir,
            history_every: Duration::from_secs(self.history_seconds),
        }
    }
}
