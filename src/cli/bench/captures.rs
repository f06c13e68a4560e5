//! `bench captures`: how much of what ships stream is captured and stored, and what becomes of the
//! rest.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use super::captures_crew::{Folder, Hand};
use super::command::progress_bar;
use super::meter::{Cost, Meter, as_f64, per_million};
use super::report::{print_processes, row};
use crate::batch::disk::OutputDir;
use crate::batch::verify::verify;
use crate::broker::append::shard_ends;
use crate::broker::progress::Progress;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::settings::LogSettings;
use crate::cli::signals;
use crate::clock::{Clock, SystemClock};
use crate::rooms::telemetry::order::{KIND, Order};
use crate::service::Lifecycle;
use crate::state::{State, StateOptions};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, Task};
use crate::task::TaskId;

pub(super) const EXAMPLES: &str = "\
Needs no server: it starts a spaceship and a message-consumer, with settings of their own, in a
folder of its own in --directory, which should lie on the disk of STATE_DIR and DATA_OUTPUT_DIR.
Exit code 1 if a datagram is not accounted for, or if what is said to be stored is not in files.
At full speed the ship sends more than is taken in; what is lost is counted, and no failure.

Keys of the JSON: sent, stored, malformed, truncated, lost, duplicates, foreign, dropped_by_kernel:
datagrams, of all captures. unaccounted: sent - stored - malformed - truncated - lost; null if a
capture does not know what was sent. stored_per_second: by the longest capture. in_files: lines in
files; in_files_per_second: until all of them were. failed: captures without an account.

Examples:
  async-data-processor bench captures
  async-data-processor bench captures --streams 50 --rate 1000 --seconds 30
  async-data-processor bench captures --output json | jq .stored_per_second";

/// How often it is looked whether captures have ended, and lines are in files.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long captures may take beyond their windows, and lines until they are in files.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the state environment: nothing is kept for long.
const MAP_BYTES: usize = 64 << 30;

/// `bench captures`.
#[derive(Debug, Args)]
pub(super) struct CapturesBench {
    #[command(flatten)]
    log: LogSettings,
    /// Directory to write into and clean up again.
    #[arg(long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Ships that stream at once.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    streams: usize,
    /// Datagrams per second and ship; 0 is as fast as it can.
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// How long they stream, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    seconds: u64,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// The account of a capture.
#[derive(Debug, Deserialize)]
struct Account {
    sent: Option<u64>,
    stored: u64,
    malformed: u64,
    truncated: u64,
    lost: Option<u64>,
    duplicates: u64,
    foreign: u64,
    dropped_by_kernel: u64,
    bytes: u64,
    began_at: String,
    ended_at: String,
}

impl Account {
    /// For how many seconds.
    fn seconds(&self) -> Option<f64> {
        let began: DateTime<Utc> = self.began_at.parse().ok()?;
        let ended: DateTime<Utc> = self.ended_at.parse().ok()?;
        Some((ended - began).to_std().ok()?.as_secs_f64())
    }
}

/// The keys of the JSON.
#[derive(Debug, Default, Serialize)]
struct Report {
    streams: usize,
    rate: u32,
    /// The longest capture.
    seconds: f64,
    sent: Option<u64>,
    stored: u64,
    malformed: u64,
    truncated: u64,
    lost: Option<u64>,
    duplicates: u64,
    foreign: u64,
    dropped_by_kernel: u64,
    unaccounted: Option<i64>,
    stored_per_second: f64,
    stored_bytes_per_second: f64,
    in_files: u64,
    in_files_per_second: f64,
    failed: usize,
    /// Why, of one of them.
    failure: Option<String>,
    processes: Vec<Cost>,
    cpu_seconds_per_million: Option<f64>,
    ok: bool,
}

pub(super) fn run(command: &CapturesBench) -> Result<Exit, Failure> {
    crate::cli::logging::start(&command.log)?;
    let life = signals::watch()?;
    let folder = Folder::new(&command.directory).or_exit(Exit::CannotCreate)?;
    let report = measure(command, &folder, &life).or_exit(Exit::Unavailable)?;
    let Some(report) = report else { return Ok(Exit::Interrupted) };
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => report.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(if report.ok { Exit::Done } else { Exit::CheckFailed })
}

/// Captures, and reads what came of it; `None` if that was interrupted.
fn measure(
    command: &CapturesBench,
    folder: &Folder,
    life: &Lifecycle,
) -> anyhow::Result<Option<Report>> {
    let (spaceship, url) = Hand::spaceship(command.rate, command.streams)?;
    let consumer = Hand::consumer(folder, &url, command.streams)?;
    let mut meter = Meter::start(&[spaceship.id(), consumer.id()]);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.state())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let ids = runtime.block_on(submit(store.as_ref(), command))?;
    let bar = progress_bar(None);
    let until = began + Duration::from_secs(command.seconds) + PATIENCE;
    let tasks = loop {
        meter.sample();
        bar.tick();
        let tasks = runtime.block_on(read(store.as_ref(), &ids))?;
        if tasks.iter().all(|task| task.state.is_terminal()) {
            break tasks;
        }
        if Instant::now() > until {
            anyhow::bail!("not all captures have ended");
        }
        if life.wait_stopping(LOOK_EVERY) {
            return Ok(None);
        }
    };
    bar.finish_and_clear();
    let state = open_state(folder)?;
    let until = Instant::now() + PATIENCE;
    while waiting(&state)? > 0 && Instant::now() < until {
        if life.wait_stopping(LOOK_EVERY) {
            return Ok(None);
        }
    }
    let drained = began.elapsed();
    let disk = OutputDir::open(&folder.output())?;
    let verified = verify(&state, Some(&disk), false)?;
    let mut report = Report { streams: command.streams, rate: command.rate, ..Report::default() };
    report.add(&tasks);
    report.processes = meter.costs(report.stored);
    let together = report.processes.iter().map(|cost| cost.cpu_seconds).sum();
    report.cpu_seconds_per_million = per_million(together, report.stored);
    report.in_files = verified.in_files;
    report.in_files_per_second = as_f64(verified.in_files) / drained.as_secs_f64();
    report.ok = verified.ok
        && report.in_files == report.stored
        && report.failed == 0
        && report.unaccounted == Some(0);
    consumer.stop()?;
    spaceship.stop()?;
    Ok(Some(report))
}

async fn submit(store: &dyn Store, command: &CapturesBench) -> anyhow::Result<Vec<TaskId>> {
    let now_ms = SystemClock.wall().timestamp_millis();
    let until_ms = now_ms + i64::try_from(command.seconds * 1000)?;
    let mut tasks = Vec::with_capacity(command.streams);
    for number in 1..=command.streams {
        let order = Order { ship_name: format!("Bench {number}").parse()?, until_ms };
        tasks.push(order.task(KIND.parse()?, TaskId::new(), now_ms, until_ms));
    }
    let ids = tasks.iter().map(|task| task.id).collect();
    store.submit(tasks, now_ms).await?;
    Ok(ids)
}

async fn read(store: &dyn Store, ids: &[TaskId]) -> anyhow::Result<Vec<Task>> {
    let mut tasks = Vec::with_capacity(ids.len());
    for id in ids {
        tasks.push(store.task(*id).await?.ok_or_else(|| anyhow!("task {id} is gone"))?);
    }
    Ok(tasks)
}

fn open_state(folder: &Folder) -> anyhow::Result<State> {
    let options = StateOptions {
        dir: folder.state(),
        map_bytes: MAP_BYTES,
        low_water_bytes: None,
        on_poison: Box::new(|_| {}),
    };
    Ok(State::open(options)?)
}

/// How many lines are not in files yet.
fn waiting(state: &State) -> anyhow::Result<u64> {
    let (txn, mut waiting) = (state.read()?, 0);
    for (key, end) in shard_ends(&txn, state.tables())? {
        waiting += Progress::load(&txn, state.tables(), key)?.waiting(end.offset);
    }
    Ok(waiting)
}

impl Report {
    /// Adds the accounts of all captures up.
    fn add(&mut self, tasks: &[Task]) {
        (self.sent, self.lost) = (Some(0), Some(0));
        let mut bytes = 0;
        for task in tasks {
            let head = task.result.as_ref().map(|result| result.head.as_slice());
            let Some(account) = head.and_then(|json| serde_json::from_slice::<Account>(json).ok())
            else {
                self.failed += 1;
                self.failure = task.error.clone().or_else(|| Some(task.state.to_string()));
                continue;
            };
            self.sent = self.sent.zip(account.sent).map(|(all, one)| all + one);
            self.lost = self.lost.zip(account.lost).map(|(all, one)| all + one);
            self.stored += account.stored;
            self.malformed += account.malformed;
            self.truncated += account.truncated;
            self.duplicates += account.duplicates;
            self.foreign += account.foreign;
            self.dropped_by_kernel += account.dropped_by_kernel;
            bytes += account.bytes;
            self.seconds = self.seconds.max(account.seconds().unwrap_or_default());
        }
        let found = self.lost.map(|lost| self.stored + self.malformed + self.truncated + lost);
        let apart = |(sent, found): (u64, u64)| sent.checked_signed_diff(found);
        self.unaccounted = self.sent.zip(found).and_then(apart);
        let seconds = self.seconds.max(1e-9);
        self.stored_per_second = as_f64(self.stored) / seconds;
        self.stored_bytes_per_second = as_f64(bytes) / seconds;
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { streams, rate, stored, malformed, truncated, in_files, .. } = self;
        let pace = if *rate == 0 {
            "at full speed".to_owned()
        } else {
            format!("{rate} datagrams/s each")
        };
        writeln!(out, "streams: {streams}, {pace}, for {:.1} s", self.seconds)?;
        row(out, "stored", &format!("{:.0}", self.stored_per_second), "datagrams/s")?;
        row(out, "", &format!("{:.1}", self.stored_bytes_per_second / 1e6), "MB/s")?;
        row(out, "in files", &format!("{:.0}", self.in_files_per_second), "datagrams/s")?;
        let count = |count: Option<u64>| count.map_or("unknown".to_owned(), |n| n.to_string());
        let (sent, lost) = (count(self.sent), count(self.lost));
        writeln!(
            out,
            "sent {sent} = stored {stored} + malformed {malformed} + truncated {truncated} + lost \
             {lost}"
        )?;
        let Self { duplicates, foreign, dropped_by_kernel, .. } = self;
        writeln!(
            out,
            "duplicates {duplicates}, foreign {foreign}, dropped by the kernel {dropped_by_kernel}"
        )?;
        writeln!(out, "stored {stored}, in files {in_files}")?;
        if let Some(failure) = &self.failure {
            writeln!(out, "{} captures failed: {failure}", self.failed)?;
        }
        print_processes(out, &self.processes, self.cpu_seconds_per_million)?;
        writeln!(out, "{}", if self.ok { "ok" } else { "NOT OK" })
    }
}
