//! `bench tasks`: how many tasks a second go in, are run, and have their result stored.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::command::progress_bar;
use super::latency::Percentiles;
use super::load::{self, Outcome, Plan};
use super::meter::{self, Cost, Meter, per_million};
use super::report::{known, print_processes, print_times, print_times_head, row};
use super::request::Request;
use super::run::{client_cpu, rate};
use super::target::{Target, read_token};
use super::tasks_client::Client;
use super::tasks_marks::{PAYLOAD_BYTES_MIN, TaskMarks};
use super::tasks_settle::{Expected, LOOK_EVERY, Verdict, Waited};
use super::{probe, tasks_settle};
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::settings::StateSettings;
use crate::cli::signals;
use crate::service::Lifecycle;
use crate::task::PAYLOAD_BYTES_MAX;

pub(super) const EXAMPLES: &str = "\
Posts tasks of the kind `echo`, whose result is their payload, to a server, and waits until its
workers have run all of them; then reads all tasks, and compares some results. Exit code 1 if one
is lost, failed or wrong. STATE_DIR should be the server's, or --pids name its processes: else what
its workers cost is not known. The tasks stay until they are cleared away (TASK_RETENTION_DAYS).

Keys of the JSON: accepted, requests, errors (by status or reason): counts. submitted_per_second,
finished_per_second: tasks, by the time from the first request to the last answer, and to when no
task was left to run, which may be seen finished_resolution_ms late. latency_ms: from a request to
its 201. processes: cpu_seconds, cpu_seconds_per_million tasks, anonymous_kib (the most there was).
verified: finished, otherwise (by state), lost, unasked, results_compared, results_wrong. What could
not be known is null.

Examples:
  async-data-processor bench tasks
  async-data-processor bench tasks --tasks 1000000 --bulk 5000 --connections 2
  async-data-processor bench tasks --output json | jq .finished_per_second";

/// `bench tasks`.
#[derive(Debug, Args)]
pub(super) struct TasksBench {
    #[command(flatten)]
    state: StateSettings,
    /// Where the server listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// File with the bearer token to send, on its first line.
    #[arg(long, env, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How many tasks, rounded up to whole requests.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000_000))]
    tasks: u64,
    /// Tasks of a request.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=10_000))]
    bulk: u64,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    connections: u64,
    /// Bytes of a payload, and so of a result.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new()
        .range(PAYLOAD_BYTES_MIN as u64..=PAYLOAD_BYTES_MAX as u64))]
    payload_bytes: usize,
    /// Give up when tasks are left to run so long after the last answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    drain_seconds: u64,
    /// Processes to measure, separated by commas; unset: who listens at URL or uses STATE_DIR.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pids: Vec<u32>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// What was measured. The keys of the JSON; `null` is what could not be known.
#[derive(Debug, Serialize)]
struct Report {
    url: String,
    connections: u64,
    tasks_per_request: u64,
    payload_bytes: usize,
    interrupted: bool,
    /// From the first request to the last answer.
    seconds: f64,
    requests: u64,
    accepted: u64,
    submitted_per_second: f64,
    finished_per_second: Option<f64>,
    finished_resolution_ms: f64,
    latency_ms: Option<Percentiles>,
    errors: std::collections::BTreeMap<String, u64>,
    processes: Vec<Cost>,
    cpu_seconds_per_million: Option<f64>,
    client_cpu_seconds_per_million: Option<f64>,
    verified: Option<Verdict>,
    not_verified: Option<String>,
}

/// What became of the tasks behind the answers.
#[derive(Debug)]
struct After {
    /// From the first request to the last task.
    finished: Option<Duration>,
    costs: Vec<Cost>,
    verdict: Option<Verdict>,
    not_verified: Option<&'static str>,
}

pub(super) fn run(command: &TasksBench) -> Result<Exit, Failure> {
    crate::cli::logging::start(&command.state.log)?;
    let life = signals::watch()?;
    let token = command.token_file.as_deref().map(read_token).transpose().or_exit(Exit::Config)?;
    let target = Target::parse(&command.url, token).or_exit(Exit::Config)?;
    probe::accepts(&target, "/tasks")?;
    let pids = match command.pids.as_slice() {
        [] => meter::find(target.address, Some(&command.state.state_dir)),
        pids => pids.to_vec(),
    };
    let marks = TaskMarks::new(command.payload_bytes);
    let mut meter = Meter::start(&pids);
    let client_before = client_cpu();
    let outcome = send(command, &target, &marks, &life, &mut meter)?;
    let client = client_cpu().saturating_sub(client_before);
    let expected = Expected { marks: &marks, fates: &outcome.fates, bulk: command.bulk };
    let after = settle(command, &target, &expected, &outcome, &life, &mut meter)?;
    let stuck = after.finished.is_none() && !life.is_stopping();
    let report = report(command, &outcome, after, client, life.is_stopping());
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => report.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    if report.verified.is_some_and(|verdict| !verdict.ok) {
        return Ok(Exit::CheckFailed);
    }
    if report.interrupted {
        return Ok(Exit::Interrupted);
    }
    let url = &target.url;
    if stuck {
        let (seconds, accepted) = (command.drain_seconds, report.accepted);
        let error = anyhow!(
            "not all of {accepted} tasks were run within {seconds} s: does anything run tasks for \
             {url} (`up`, `message-consumer`, `task-worker`)?"
        );
        return Err(Failure::new(Exit::TemporaryFailure, error));
    }
    if outcome.is_gone {
        let error = anyhow!("the server at {url} went away: look at its log");
        return Err(Failure::new(Exit::Unavailable, error));
    }
    if let Some(refusal) = outcome.first_refusal.filter(|_| report.accepted == 0) {
        let error = anyhow!("the server at {url} took no task: {refusal}");
        return Err(Failure::new(Exit::Unavailable, error));
    }
    Ok(Exit::Done)
}

fn send(
    command: &TasksBench,
    target: &Target,
    marks: &TaskMarks,
    life: &Lifecycle,
    meter: &mut Meter,
) -> Result<Outcome, Failure> {
    let plan = Plan {
        request: Request::of_tasks(target, marks.clone(), command.bulk),
        target: target.clone(),
        entries: command.bulk,
        connections: command.connections,
        schedule: None,
        duration: None,
        requests_max: command.tasks.div_ceil(command.bulk),
        keep_sent: false,
    };
    let bar = progress_bar(Some(command.tasks));
    let outcome = load::run(plan, life, |accepted, elapsed| {
        meter.sample();
        bar.set_position(accepted);
        bar.set_message(format!("{accepted} accepted, {:.0}/s", rate(accepted, elapsed)));
    });
    bar.finish_and_clear();
    outcome.context("starting the client").or_exit(Exit::Unavailable)
}

/// Waits until all tasks have ended, and reads them.
fn settle(
    command: &TasksBench,
    target: &Target,
    expected: &Expected<'_>,
    outcome: &Outcome,
    life: &Lifecycle,
    meter: &mut Meter,
) -> Result<After, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the client").or_exit(Exit::Unavailable)?;
    let accepted = outcome.accepted(command.bulk);
    let patience = Duration::from_secs(command.drain_seconds);
    let bar = progress_bar(None);
    bar.set_message("waiting for the last task");
    let settled = runtime.block_on(async {
        let mut client = Client::new(target.clone());
        loop {
            let tick = || {
                meter.sample();
                bar.tick();
            };
            let waited = expected.wait(&mut client, patience, life, tick).await?;
            let costs = meter.costs(accepted);
            let not_verified = match waited {
                Waited::Quiet(at) => {
                    // One that failed once waits again, and is seen as soon as all are read.
                    let Some(verdict) = expected.verify(&mut client).await? else { continue };
                    let finished = Some(at.saturating_duration_since(outcome.began));
                    let verdict = Some(verdict);
                    return anyhow::Ok(After { finished, costs, verdict, not_verified: None });
                }
                Waited::Interrupted => "Ctrl-C",
                Waited::Stuck => "tasks are left to run",
            };
            let not_verified = Some(not_verified);
            return Ok(After { finished: None, costs, verdict: None, not_verified });
        }
    });
    bar.finish_and_clear();
    settled.or_exit(Exit::Unavailable)
}

fn report(
    command: &TasksBench,
    outcome: &Outcome,
    after: After,
    client: Duration,
    interrupted: bool,
) -> Report {
    let accepted = outcome.accepted(command.bulk);
    let together = after.costs.iter().map(|cost| cost.cpu_seconds).sum();
    Report {
        url: command.url.clone(),
        connections: command.connections,
        tasks_per_request: command.bulk,
        payload_bytes: command.payload_bytes,
        interrupted,
        seconds: outcome.elapsed.as_secs_f64(),
        requests: outcome.fates.len() as u64,
        accepted,
        submitted_per_second: rate(accepted, outcome.elapsed),
        finished_per_second: after.finished.map(|time| rate(accepted, time)),
        finished_resolution_ms: LOOK_EVERY.as_secs_f64() * 1000.0,
        latency_ms: outcome.latency.percentiles(),
        errors: outcome.errors.clone(),
        cpu_seconds_per_million: match after.costs.is_empty() {
            true => None,
            false => per_million(together, accepted),
        },
        processes: after.costs,
        client_cpu_seconds_per_million: per_million(client.as_secs_f64(), accepted),
        verified: after.verdict,
        not_verified: after.not_verified.map(str::to_owned),
    }
}

impl Report {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { url, connections, tasks_per_request, payload_bytes, requests, .. } = self;
        writeln!(
            out,
            "{url}: {connections} connections, {tasks_per_request} tasks of {payload_bytes} bytes \
             a request"
        )?;
        row(out, "accepted", &self.accepted.to_string(), "tasks")?;
        row(out, "", &requests.to_string(), "requests sent")?;
        row(out, "", &format!("{:.2}", self.seconds), "seconds")?;
        row(out, "submitted", &format!("{:.0}", self.submitted_per_second), "tasks/s")?;
        let finished = self.finished_per_second.map(|rate| format!("{rate:.0}"));
        row(out, "finished", finished.as_deref().unwrap_or("unknown"), "tasks/s")?;
        if let Some(times) = &self.latency_ms {
            print_times_head(out)?;
            print_times(out, "to 201", times)?;
        }
        print_processes(out, &self.processes, self.cpu_seconds_per_million)?;
        let client = known(self.client_cpu_seconds_per_million);
        writeln!(out, "{:<26} {client:>24}", "this client")?;
        for (error, count) in &self.errors {
            row(out, "not accepted", &count.to_string(), &format!("times: {error}"))?;
        }
        let Some(verdict) = &self.verified else {
            let why = self.not_verified.as_deref().unwrap_or_default();
            return writeln!(out, "not verified: {why}");
        };
        verdict.print(out, self.accepted)
    }
}

impl tasks_settle::Verdict {
    fn print(&self, out: &mut impl Write, accepted: u64) -> io::Result<()> {
        let Self { finished, lost, unasked, unanswered, results_compared, results_wrong, .. } =
            self;
        let otherwise: u64 = self.otherwise.values().sum();
        writeln!(
            out,
            "accepted {accepted} = finished {finished} + ended otherwise {otherwise} + lost \
             {lost}; not asked for {unasked}, there without an answer {unanswered}; of \
             {results_compared} results {results_wrong} wrong"
        )?;
        for (state, tasks) in &self.otherwise {
            writeln!(out, "{tasks} tasks: {state}")?;
        }
        writeln!(out, "{}", if self.ok { "ok" } else { "NOT OK" })
    }
}
