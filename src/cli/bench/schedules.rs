//! `bench schedules`: loads a scheduler as its users do, or as fast as it answers, and sees how
//! late what was scheduled begins.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::command::progress_bar;
use super::latency::Percentiles;
use super::meter::{self, Cost, Meter};
use super::report::{print_processes, print_times, print_times_head, row};
use super::run::rate;
use super::schedules_due::{self, Lateness};
use super::schedules_load::{self, Draws, Plan, Sort, Tally};
use super::target::{Target, read_token};
use super::tasks_client::Client;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::settings::StateSettings;
use crate::cli::signals;
use crate::service::Lifecycle;

pub(super) const EXAMPLES: &str = "\
Each of --users waits 1 to 5 s, then posts a schedule of a ship that starts 10 to 60 s ahead and
takes 10 to 60 s, or lists the schedules. With --rate-max, --connections post one after the other
instead, of tasks that start a day to a month ahead. With --due, so many tasks that do nothing are
scheduled, and it is seen how late they begin; --pending are posted before, for a day to a month
ahead. The schedules stay: give a bench a state directory, or a database, of its own. Exit code 1 if
a request was refused, or if a task began early.

Keys of the JSON: posted, listed, errors (by what was said): counts. posted_per_second. post_ms,
list_ms: from a request to its answer. lateness: due, finished, early; begun_ms and finished_ms
after the due time, in whole milliseconds. processes: cpu_seconds, anonymous_kib (the most there
was).

Examples:
  async-data-processor bench schedules
  async-data-processor bench schedules --users 100 --seconds 300
  async-data-processor bench schedules --rate-max --connections 16 --seconds 10
  async-data-processor bench schedules --due 1000 --pending 100000";

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How far ahead users' schedules start, in milliseconds.
const AHEAD_MS: (u64, u64) = (10_000, 60_000);
/// How far ahead those start that are only to be pending.
const PENDING_MS: (u64, u64) = (DAY_MS, 30 * DAY_MS);

/// `bench schedules`.
#[derive(Debug, Args)]
pub(super) struct SchedulesBench {
    #[command(flatten)]
    state: StateSettings,
    /// Where the scheduler listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// File with the bearer token to send, on its first line.
    #[arg(long, env, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Users at once.
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=10_000))]
    users: u64,
    /// Post as fast as the scheduler answers.
    #[arg(long, conflicts_with = "users")]
    rate_max: bool,
    /// Connections at once, with --rate-max and --pending.
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    connections: u64,
    /// How long, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, conflicts_with = "count")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    seconds: u64,
    /// How many schedules to post instead.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=100_000_000))]
    count: Option<u64>,
    /// How many tasks to schedule, to see how late they begin.
    #[arg(long, value_name = "N", conflicts_with_all = ["users", "rate_max", "seconds", "count"])]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=100_000))]
    due: Option<u64>,
    /// Within how many seconds those are due.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "due")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(0..=86_400))]
    within_seconds: u64,
    /// How many schedules to post before that are pending meanwhile.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(0..=100_000_000))]
    pending: u64,
    /// Processes to measure, separated by commas; unset: who listens at URL.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pids: Vec<u32>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// The keys of the JSON.
#[derive(Debug, Serialize)]
struct Report {
    url: String,
    interrupted: bool,
    seconds: f64,
    posted: u64,
    posted_per_second: f64,
    listed: u64,
    post_ms: Option<Percentiles>,
    list_ms: Option<Percentiles>,
    errors: BTreeMap<String, u64>,
    lateness: Option<Lateness>,
    processes: Vec<Cost>,
}

pub(super) fn run(command: &SchedulesBench) -> Result<Exit, Failure> {
    crate::cli::logging::start(&command.state.log)?;
    let life = signals::watch()?;
    let token = command.token_file.as_deref().map(read_token).transpose().or_exit(Exit::Config)?;
    let target = Target::parse(&command.url, token).or_exit(Exit::Config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the client").or_exit(Exit::Unavailable)?;
    let mut draws = Draws::new().context("random bits").or_exit(Exit::Unavailable)?;
    let mut client = Client::new(target.clone());
    let is_there = runtime.block_on(client.get("/scheduler/?limit=1"));
    is_there.context("is that a scheduler?").or_exit(Exit::Unavailable)?;
    let pids = match command.pids.as_slice() {
        [] => meter::find(target.address, None),
        pids => pids.to_vec(),
    };
    let mut meter = Meter::start(&pids);
    let tally =
        command.plan(&target).map(|plan| load(&runtime, plan, &mut draws, &life, &mut meter));
    let lateness = match command.due.filter(|_| !life.is_stopping()) {
        Some(due) => {
            let bar = progress_bar(None);
            let tick = |finished| {
                meter.sample();
                bar.set_message(format!("{finished} of {due} seen"));
                bar.tick();
            };
            let due = (due, Duration::from_secs(command.within_seconds));
            let seen = schedules_due::measure(&mut client, &mut draws, due, &life, tick);
            let seen = runtime.block_on(seen).or_exit(Exit::Unavailable)?;
            bar.finish_and_clear();
            Some(seen)
        }
        None => None,
    };
    let report = report(command, tally, lateness, &meter, life.is_stopping());
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => report.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    report.exit(command)
}

impl SchedulesBench {
    /// The load, if there is one.
    fn plan(&self, target: &Target) -> Option<Plan> {
        let plan = Plan {
            target: target.clone(),
            sort: Sort::Captures,
            users: self.users,
            is_human: true,
            ahead_ms: AHEAD_MS,
            duration: self.count.is_none().then(|| Duration::from_secs(self.seconds)),
            posts_max: self.count.unwrap_or(u64::MAX),
        };
        if self.due.is_none() && !self.rate_max {
            return Some(plan);
        }
        let fast = Plan {
            sort: Sort::Echoes,
            users: self.connections,
            is_human: false,
            ahead_ms: PENDING_MS,
            ..plan
        };
        match self.due {
            None => Some(fast),
            Some(_) if self.pending == 0 => None,
            Some(_) => Some(Plan { duration: None, posts_max: self.pending, ..fast }),
        }
    }
}

fn load(
    runtime: &tokio::runtime::Runtime,
    plan: Plan,
    draws: &mut Draws,
    life: &Lifecycle,
    meter: &mut Meter,
) -> Tally {
    let bar = progress_bar(Some(plan.posts_max).filter(|most| *most < u64::MAX));
    let tally = schedules_load::run(runtime, plan, draws, life, |posted, elapsed| {
        meter.sample();
        bar.set_position(posted);
        bar.set_message(format!("{posted} schedules, {:.0}/s", rate(posted, elapsed)));
    });
    bar.finish_and_clear();
    meter.sample();
    tally
}

fn report(
    command: &SchedulesBench,
    tally: Option<Tally>,
    lateness: Option<Lateness>,
    meter: &Meter,
    interrupted: bool,
) -> Report {
    let tally = tally.unwrap_or_else(Tally::none);
    Report {
        url: command.url.clone(),
        interrupted,
        seconds: tally.elapsed.as_secs_f64(),
        posted: tally.posted,
        posted_per_second: rate(tally.posted, tally.elapsed),
        listed: tally.listed,
        post_ms: tally.posts.percentiles(),
        list_ms: tally.lists.percentiles(),
        errors: tally.errors,
        lateness,
        processes: meter.costs(tally.posted),
    }
}

impl Report {
    fn exit(&self, command: &SchedulesBench) -> Result<Exit, Failure> {
        if self.interrupted {
            return Ok(Exit::Interrupted);
        }
        if let Some(Lateness { due, finished, .. }) = &self.lateness
            && finished < due
        {
            let error = anyhow!(
                "only {finished} of {due} tasks were run: does anything run tasks (`up`, \
                 `message-consumer`, `task-worker`)?"
            );
            return Err(Failure::new(Exit::TemporaryFailure, error));
        }
        if self.posted == 0 && !self.errors.is_empty() {
            let error = anyhow!("the scheduler at {} took nothing", command.url);
            return Err(Failure::new(Exit::Unavailable, error));
        }
        let was_early = self.lateness.as_ref().is_some_and(|lateness| lateness.early > 0);
        Ok(if self.errors.is_empty() && !was_early { Exit::Done } else { Exit::CheckFailed })
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.url)?;
        row(out, "posted", &self.posted.to_string(), "schedules")?;
        row(out, "", &format!("{:.2}", self.seconds), "seconds")?;
        row(out, "", &format!("{:.0}", self.posted_per_second), "schedules/s")?;
        if self.listed > 0 {
            row(out, "listed", &self.listed.to_string(), "times")?;
        }
        let lateness = self.lateness.as_ref();
        let times = [
            ("to 201", self.post_ms),
            ("to the list", self.list_ms),
            ("due to begun", lateness.and_then(|lateness| lateness.begun_ms)),
            ("due to done", lateness.and_then(|lateness| lateness.finished_ms)),
        ];
        if times.iter().any(|(_, times)| times.is_some()) {
            print_times_head(out)?;
        }
        for (name, times) in times {
            if let Some(times) = times {
                print_times(out, name, &times)?;
            }
        }
        if let Some(Lateness { due, finished, early, .. }) = lateness {
            writeln!(out, "due {due}, finished {finished}, early {early}")?;
        }
        for (error, count) in &self.errors {
            row(out, "refused", &count.to_string(), &format!("times: {error}"))?;
        }
        print_processes(out, &self.processes, None)
    }
}
