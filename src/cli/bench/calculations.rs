//! `bench calculations`: how long it takes from asking for a small factorial until it is there.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use serde_json::Value;

use super::command::progress_bar;
use super::latency::{Percentiles, Times};
use super::report::{print_times, print_times_head, row};
use super::target::{Target, read_token};
use super::tasks_client::Client;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::settings::LogSettings;
use crate::cli::signals;
use crate::service::Lifecycle;

pub(super) const EXAMPLES: &str = "\
Asks for one factorial after the other, each when the last one is there, of numbers that differ as
far as --input-max allows, and looks every half a millisecond whether it is there. A number that was
asked for before, by this run or an earlier one, is not calculated again: it is answered at once,
and counted apart (known_before). Exit code 1 if a calculation failed.

Keys of the JSON: requests, distinct, known_before, failed: counts. latency_ms: p50, p90, p99,
p99_9, max from POST /factorial to the answer that has the result, of what was calculated anew.

Examples:
  async-data-processor bench calculations
  async-data-processor bench calculations --requests 5000 --input-max 10000
  async-data-processor bench calculations --output json | jq .latency_ms.p99";

/// How long it is waited before the next look. A thread sleeps that exactly; tokio rounds up to
/// milliseconds.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// `bench calculations`.
#[derive(Debug, Args)]
pub(super) struct CalculationsBench {
    #[command(flatten)]
    log: LogSettings,
    /// Where the server listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// File with the bearer token to send, on its first line.
    #[arg(long, env, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How many factorials to ask for.
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=10_000_000))]
    requests: u64,
    /// The largest number to ask for.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(0..=10_000_000))]
    input_max: u64,
    /// Give up when one takes longer than this, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    wait_seconds: u64,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// The keys of the JSON.
#[derive(Debug, Serialize)]
struct Report {
    url: String,
    input_max: u64,
    interrupted: bool,
    requests: u64,
    /// Different numbers among them.
    distinct: u64,
    /// Numbers that the store knew already.
    known_before: u64,
    failed: u64,
    latency_ms: Option<Percentiles>,
}

/// How a calculation went.
enum Went {
    Calculated(Duration),
    KnownBefore,
    Failed,
}

pub(super) fn run(command: &CalculationsBench) -> Result<Exit, Failure> {
    crate::cli::logging::start(&command.log)?;
    let life = signals::watch()?;
    let token = command.token_file.as_deref().map(read_token).transpose().or_exit(Exit::Config)?;
    let target = Target::parse(&command.url, token).or_exit(Exit::Config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the client").or_exit(Exit::Unavailable)?;
    let report = runtime.block_on(measure(command, target, &life))?;
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => report.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(match report {
        Report { failed: 1.., .. } => Exit::CheckFailed,
        Report { interrupted: true, .. } => Exit::Interrupted,
        _ => Exit::Done,
    })
}

async fn measure(
    command: &CalculationsBench,
    target: Target,
    life: &Lifecycle,
) -> Result<Report, Failure> {
    let mut bits = [0; 8];
    let drawn = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    drawn.context("random bits").or_exit(Exit::Unavailable)?;
    // Another window of numbers in each run, since those of earlier ones are known.
    let first = u64::from_ne_bytes(bits) % (command.input_max + 1);
    let bar = progress_bar(Some(command.requests));
    let mut client = Client::new(target);
    let (mut times, mut requests, mut known_before, mut failed) = (Times::new(), 0, 0, 0);
    while requests < command.requests && !life.is_stopping() {
        let input = (first + requests) % (command.input_max + 1);
        let patience = Duration::from_secs(command.wait_seconds);
        match calculate(&mut client, input, patience).await? {
            Went::Calculated(time) => times.record(time),
            Went::KnownBefore => known_before += 1,
            Went::Failed => failed += 1,
        }
        requests += 1;
        bar.set_position(requests);
    }
    bar.finish_and_clear();
    Ok(Report {
        url: command.url.clone(),
        input_max: command.input_max,
        interrupted: life.is_stopping(),
        requests,
        distinct: requests.min(command.input_max + 1),
        known_before,
        failed,
        latency_ms: times.percentiles(),
    })
}

/// Asks for one, and looks until it is there.
async fn calculate(client: &mut Client, input: u64, patience: Duration) -> Result<Went, Failure> {
    let began = Instant::now();
    let order = format!("{{\"input\":{input}}}");
    let item = client.post("/factorial", &order).await.or_exit(Exit::Unavailable)?;
    if status(&item) == "finished" {
        return Ok(match is_older(&item) {
            true => Went::KnownBefore,
            false => Went::Calculated(began.elapsed()),
        });
    }
    let id = item.get("id").and_then(Value::as_str);
    let id = id.ok_or_else(|| anyhow!("what answers is not this program: {item}"));
    let path = format!("/factorial/{}", id.or_exit(Exit::Unavailable)?);
    loop {
        std::thread::sleep(LOOK_EVERY);
        let item = client.get(&path).await.or_exit(Exit::Unavailable)?;
        match status(&item) {
            "finished" => return Ok(Went::Calculated(began.elapsed())),
            "pending" if began.elapsed() < patience => {}
            "pending" => {
                let seconds = patience.as_secs();
                let error = anyhow!(
                    "{input}! is not there after {seconds} s: does anything run tasks (`up`, \
                     `message-consumer`, `task-worker`)?"
                );
                return Err(Failure::new(Exit::TemporaryFailure, error));
            }
            _ => return Ok(Went::Failed),
        }
    }
}

fn status(item: &Value) -> &str {
    text(item, "status")
}

/// Whether the calculation began before it was asked for, and so for somebody else: a quick one
/// may be over when its order is answered. Times of the same form are in order as texts.
fn is_older(item: &Value) -> bool {
    text(item, "calcStartedAt") < text(item, "createdAt")
}

fn text<'a>(item: &'a Value, name: &str) -> &'a str {
    item.get(name).and_then(Value::as_str).unwrap_or_default()
}

impl Report {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { url, input_max, requests, distinct, known_before, failed, .. } = self;
        writeln!(out, "{url}: one factorial after the other, of numbers up to {input_max}")?;
        row(out, "requests", &requests.to_string(), &format!("of {distinct} different numbers"))?;
        row(out, "known before", &known_before.to_string(), "of them, left out of the times")?;
        if *failed > 0 {
            row(out, "failed", &failed.to_string(), "calculations")?;
        }
        match &self.latency_ms {
            Some(times) => {
                print_times_head(out)?;
                print_times(out, "to the result", times)
            }
            None => writeln!(out, "nothing was calculated anew"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quick_calculation_is_not_taken_for_one_that_was_known() {
        let item = |began: &str| json!({ "calcStartedAt": began, "createdAt": "07:30:00.250Z" });
        assert!(is_older(&item("07:30:00.249Z")));
        assert!(!is_older(&item("07:30:00.250Z")));
        assert!(!is_older(&item("07:30:01.000Z")));
    }
}
