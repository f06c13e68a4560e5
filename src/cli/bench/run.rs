//! One run: look, load, wait for the files, read them, print.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::time::{ClockId, clock_gettime};

use super::arrival::{Arrivals, Seen};
use super::command::{BenchCommand, progress_bar};
use super::drain::{self, Drained, Expected, Mark};
use super::files::{self, EndToEnd};
use super::latency::Times;
use super::load::{self, Fate, Outcome, Plan};
use super::marks::Marks;
use super::meter::{self, Cost, Meter, as_f64, per_million};
use super::probe;
use super::report::Report;
use super::request::Request;
use super::schedule::Schedule;
use super::tally::{Tally, Verdict};
use super::target::Target;
use crate::batch::disk::OutputDir;
use crate::batch::output;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::process::open_state;
use crate::service::Lifecycle;
use crate::state::State;

/// A run, and what was there before it.
struct Run<'a> {
    command: &'a BenchCommand,
    life: &'a Lifecycle,
    target: Target,
    marks: Marks,
    /// `None` with `--no-drain`.
    before: Option<(State, Mark)>,
    commits_before: Option<u64>,
    meter: Meter,
    arrivals: Option<Arrivals>,
}

/// What became of the messages behind the answers.
#[derive(Default)]
struct After {
    costs: Vec<Cost>,
    /// From the first request to the last file.
    drained: Option<Duration>,
    others: Option<u64>,
    files: Option<u64>,
    verdict: Option<Verdict>,
    end_to_end: Option<(Times, Duration)>,
    /// Why there is no verdict.
    not_verified: Option<String>,
    stuck: Option<Failure>,
}

pub(super) fn run(command: &BenchCommand, life: &Lifecycle) -> Result<Exit, Failure> {
    let mut run = Run::prepare(command, life)?;
    let client_before = client_cpu();
    let outcome = run.send()?;
    let client = client_cpu().saturating_sub(client_before);
    let mut after = run.settle(&outcome)?;
    let stuck = after.stuck.take();
    let report = run.report(&outcome, after, client);
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => report.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    if report.verified.is_some_and(|verdict| !verdict.ok) {
        return Ok(Exit::CheckFailed);
    }
    if life.is_stopping() {
        return Ok(Exit::Interrupted);
    }
    if let Some(failure) = stuck {
        return Err(failure);
    }
    let url = &run.target.url;
    if outcome.is_gone {
        let error = anyhow!("the server at {url} went away: look at its log");
        return Err(Failure::new(Exit::Unavailable, error));
    }
    if let Some(refusal) = outcome.first_refusal.filter(|_| report.accepted == 0) {
        let error = anyhow!("the server at {url} took no message: {refusal}");
        return Err(Failure::new(Exit::Unavailable, error));
    }
    Ok(Exit::Done)
}

impl<'a> Run<'a> {
    /// Everything that can be wrong is found before the first message.
    fn prepare(command: &'a BenchCommand, life: &'a Lifecycle) -> Result<Self, Failure> {
        let target = command.target()?;
        let state = (!command.no_drain).then(|| find_state(command)).transpose()?;
        probe::check(&target, state.as_ref())?;
        let before = match state {
            Some(state) => {
                let mark = Mark::read(&state).or_exit(Exit::Io)?;
                Some((state, mark))
            }
            None => None,
        };
        let marks = Marks::random(command.spread_seconds, command.entry_bytes);
        let pids = match (command.pids.as_slice(), &before) {
            ([], before) => meter::find(target.address, before.as_ref().map(|(s, _)| s.dir())),
            (pids, _) => pids.to_vec(),
        };
        let commits_before = probe::commits(&target);
        let output = output_path(command);
        let arrivals = command.end_to_end.then(|| Arrivals::start(&output)).transpose();
        let watching = || format!("watching output directory {}", output.display());
        Ok(Self {
            command,
            life,
            target,
            marks: marks.context("random bits").or_exit(Exit::Unavailable)?,
            before,
            commits_before,
            meter: Meter::start(&pids),
            arrivals: arrivals.with_context(watching).or_exit(Exit::CannotCreate)?,
        })
    }

    fn send(&mut self) -> Result<Outcome, Failure> {
        let Self { command, life, target, marks, meter, .. } = self;
        let duration = Duration::from_secs(command.duration);
        let duration = command.count.is_none().then_some(duration);
        let plan = Plan {
            request: Request::new(target, marks.clone(), command.entries),
            target: target.clone(),
            entries: command.entries,
            connections: command.connections,
            schedule: command.rate.map(|rate| Schedule::new(rate, command.entries)),
            duration,
            requests_max: command.requests_max(marks.capacity())?,
            keep_sent: command.end_to_end,
        };
        let full = duration.map(|duration| duration.as_millis());
        let full = full.and_then(|full| u64::try_from(full).ok()).or(command.count);
        let bar = progress_bar(full);
        let outcome = load::run(plan, life, |accepted, elapsed| {
            meter.sample();
            let passed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            bar.set_position(if duration.is_some() { passed } else { accepted });
            bar.set_message(format!("{accepted} accepted, {:.0}/s", rate(accepted, elapsed)));
        });
        bar.finish_and_clear();
        outcome.context("starting the client").or_exit(Exit::Unavailable)
    }

    /// Waits until all is in files, and reads them.
    fn settle(&mut self, outcome: &Outcome) -> Result<After, Failure> {
        let accepted = outcome.accepted(self.command.entries);
        let mut after = After::default();
        let Some((state, before)) = &self.before else {
            after.costs = self.meter.costs(accepted);
            after.not_verified = Some("--no-drain".to_owned());
            return Ok(after);
        };
        let expected = Expected { before, accepted };
        let (mut drained, mut mark) =
            drain(self.command, self.life, &mut self.meter, state, &expected)?;
        after.costs = self.meter.costs(accepted);
        // A request whose answer never came may be stored only now, and must be whole then.
        let is_open = outcome.fates.contains(&Fate::Unknown);
        if let (Drained::All(_), true) = (drained, is_open) {
            (drained, mark) = drain(self.command, self.life, &mut self.meter, state, &expected)?;
        }
        let last = match drained {
            Drained::All(last) => last,
            Drained::Interrupted(waiting) => {
                after.not_verified = Some(format!("Ctrl-C, while {waiting} messages wait"));
                return Ok(after);
            }
            Drained::Stuck(waiting) => {
                let failure = stuck(self.command, waiting);
                after.not_verified = Some(format!("{waiting} messages wait"));
                after.stuck = Some(failure);
                return Ok(after);
            }
        };
        after.drained = Some(last.saturating_duration_since(outcome.began));
        let now = Mark::read(state).or_exit(Exit::Io)?;
        after.files = Some(now.batches - before.batches);
        let seen = self.arrivals.take().map(Arrivals::finish).transpose();
        let seen = seen.context("watching the output directory").or_exit(Exit::Io)?;
        let verdict = self.verify(outcome, before.batches, seen.as_ref(), &mut after)?;
        let ours = accepted + verdict.unanswered_in_files;
        after.others = Some(mark.accepted_since(before).saturating_sub(ours));
        after.verdict = Some(verdict);
        Ok(after)
    }

    /// Reads every file that was written since.
    fn verify(
        &self,
        outcome: &Outcome,
        newest: u64,
        seen: Option<&Seen>,
        after: &mut After,
    ) -> Result<Verdict, Failure> {
        let entries = self.command.entries;
        let path = output_path(self.command);
        let reading = || format!("reading output directory {}", path.display());
        let disk = OutputDir::open(&path).with_context(reading).or_exit(Exit::CannotCreate)?;
        let files = files::newer_than(&disk, newest).with_context(reading).or_exit(Exit::Io)?;
        let mut tally = Tally::new(&outcome.fates, entries);
        let mut end_to_end = seen.map(|seen| {
            let Outcome { sent, began, .. } = outcome;
            EndToEnd { sent, began: *began, entries, seen, times: Times::new() }
        });
        files::read_back(&disk, &files, &self.marks, &mut tally, end_to_end.as_mut())
            .with_context(reading)
            .or_exit(Exit::Io)?;
        after.end_to_end = end_to_end.map(|met| (met.times, met.seen.resolution));
        Ok(tally.finish())
    }

    fn report(&self, outcome: &Outcome, after: After, client: Duration) -> Report {
        let Self { command, target, marks, life, .. } = self;
        let accepted = outcome.accepted(command.entries);
        let together = after.costs.iter().map(|cost| cost.cpu_seconds).sum();
        let commits = probe::commits(target).zip(self.commits_before);
        let (end_to_end, resolution) = after.end_to_end.unzip();
        Report {
            url: target.url.clone(),
            run: marks.name(),
            connections: command.connections,
            entries_per_request: command.entries,
            entry_bytes: command.entry_bytes,
            rate_per_second: command.rate,
            interrupted: life.is_stopping(),
            seconds: outcome.elapsed.as_secs_f64(),
            requests: outcome.fates.len() as u64,
            accepted,
            accepted_per_second: rate(accepted, outcome.elapsed),
            drained_per_second: after.drained.map(|time| rate(accepted, time)),
            latency_ms: outcome.latency.percentiles(),
            end_to_end_ms: end_to_end.and_then(|times| times.percentiles()),
            end_to_end_resolution_ms: resolution.map(|time| time.as_secs_f64() * 1000.0),
            errors: outcome.errors.clone(),
            retry_after_waits: outcome.retry_waits,
            cpu_seconds_per_million: match after.costs.is_empty() {
                true => None,
                false => per_million(together, accepted),
            },
            processes: after.costs,
            client_cpu_seconds_per_million: per_million(client.as_secs_f64(), accepted),
            server_state_commits: commits.map(|(now, then)| now.saturating_sub(then)),
            files_written: after.files,
            others_accepted: after.others,
            verified: after.verdict,
            not_verified: after.not_verified,
        }
    }
}

/// Waits until all messages that were accepted are in files.
fn drain(
    command: &BenchCommand,
    life: &Lifecycle,
    meter: &mut Meter,
    state: &State,
    expected: &Expected<'_>,
) -> Result<(Drained, Mark), Failure> {
    let bar = progress_bar(None);
    let patience = Duration::from_secs(command.drain_seconds);
    let mut sampled = Instant::now();
    let drained = drain::wait(expected, state, patience, life, |waiting| {
        if sampled.elapsed() >= load::TICK {
            sampled = Instant::now();
            meter.sample();
            bar.set_message(format!("{waiting} wait for files"));
        }
    });
    bar.finish_and_clear();
    drained.or_exit(Exit::Io)
}

/// The state environment of the server, which must be there already.
fn find_state(command: &BenchCommand) -> Result<State, Failure> {
    let dir = &command.state.state_dir;
    if !dir.is_dir() {
        let error = anyhow!(
            "state directory {} is not there: set STATE_DIR to the server's, or pass --no-drain \
             to measure without looking at files",
            dir.display()
        );
        return Err(Failure::new(Exit::CannotCreate, error));
    }
    let state = open_state(&command.state, &Lifecycle::new())?;
    if output::is_bound(&state).or_exit(Exit::Io)? {
        let path = output_path(command);
        let opening = || {
            let shown = path.display();
            format!("output directory {shown}: set DATA_OUTPUT_DIR to that of the server")
        };
        let disk = OutputDir::open(&path).with_context(opening).or_exit(Exit::CannotCreate)?;
        output::check(&state, &disk, disk.path()).or_exit(Exit::CannotCreate)?;
    }
    Ok(state)
}

fn output_path(command: &BenchCommand) -> PathBuf {
    let path = &command.output_dir.data_output_dir;
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
}

fn stuck(command: &BenchCommand, waiting: u64) -> Failure {
    let error = anyhow!(
        "{waiting} messages wait, and none has come into a file for {} s: is message-consumer \
         running with STATE_DIR {}?",
        command.drain_seconds,
        command.state.state_dir.display()
    );
    Failure::new(Exit::TemporaryFailure, error)
}

/// The CPU time of this process so far.
pub(super) fn client_cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// So many per second.
pub(super) fn rate(count: u64, time: Duration) -> f64 {
    as_f64(count) / time.as_secs_f64().max(1e-9)
}
