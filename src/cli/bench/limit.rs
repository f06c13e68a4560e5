//! `bench limit`: what the parts alone cost on this machine, so that a figure of the whole can be
//! read as a ratio.
//!
//! Files: one thread that does with the standard load what no exactly-once landing of messages can
//! do without: parse and check it, bring it into order by shard, write and sync it. HTTP: a bare
//! server on the same client's load. Each alone, so neither includes the other. Datagrams:
//! [`super::limit_datagrams`]. RabbitMQ, if there is one: [`super::limit_rabbitmq`].

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::latency::Percentiles;
use super::limit_datagrams::{self, DatagramLimit};
use super::limit_rabbitmq::{self, RabbitmqLimits};
use super::load::{self, Plan};
use super::marks::{ENTRY_BYTES_MIN, Marks};
use super::meter::{Meter, per_million};
use super::request::Request;
use super::run::{client_cpu, rate};
use super::target::Target;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::settings::{Broker, RabbitSettings};
use crate::cli::signals;
use crate::message::{Lines, ShardId, ShardKey};
use crate::rooms::messages::entry::read_array;
use crate::service::Lifecycle;

pub(super) const EXAMPLES: &str = "\
Needs no server. The load is that of `bench`: 51 bytes an entry over a minute of timestamps. Files
are made in a folder of its own in --directory, which should lie on the disk of DATA_OUTPUT_DIR.
RabbitMQ is measured if RABBITMQ_URL names one: a loop of publishing, confirms, deliveries and acks.

Examples:
  async-data-processor bench limit
  async-data-processor bench limit --seconds 10 --output json | jq .files.together";

/// The shards and the messages of a file, as they are by default.
const SHARDS: NonZeroU16 = NonZeroU16::MIN.saturating_add(4);
const FILE_MESSAGES: u32 = 10_000;
const ENTRIES: u64 = 100;
const SPREAD_SECONDS: u32 = 60;
/// Requests that are made before the clock runs, and used again and again.
const REQUESTS: u64 = 500;
/// Entries and connections of the two loads on the bare server.
const HTTP_LOADS: [(u64, u64); 2] = [(1, 64), (100, 16)];

/// `bench limit`.
#[derive(Debug, Args)]
pub(super) struct LimitCommand {
    /// Directory to write files into and remove them again.
    #[arg(long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Measured as well, on queues of its own that it deletes again.
    #[command(flatten)]
    rabbitmq: RabbitSettings,
    /// How long each part is measured, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    seconds: u64,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// The keys of the JSON.
#[derive(Debug, Serialize)]
struct Limits {
    files: FileLimits,
    bare_http: Vec<HttpLimit>,
    datagrams: Vec<DatagramLimit>,
    /// `null` without RABBITMQ_URL.
    rabbitmq: Option<RabbitmqLimits>,
}

/// One thread on files.
#[derive(Debug, Serialize)]
struct FileLimits {
    /// From the bytes of a request's body to checked lines by shard.
    parse_and_check: Step,
    /// From lines of requests to the bytes of a file.
    format: Step,
    /// From bytes to a synced file.
    write_and_sync: Step,
    /// All three, one after the other.
    together: Step,
    files: u64,
}

/// A step, as one thread does it.
#[derive(Debug, Serialize)]
struct Step {
    messages_per_second: f64,
    cpu_seconds_per_million: Option<f64>,
}

/// A bare HTTP server.
#[derive(Debug, Serialize)]
struct HttpLimit {
    entries_per_request: u64,
    connections: u64,
    requests_per_second: f64,
    messages_per_second: f64,
    /// Of the server.
    cpu_seconds_per_million: Option<f64>,
    client_cpu_seconds_per_million: Option<f64>,
    latency_ms: Option<Percentiles>,
}

pub(super) fn run(command: &LimitCommand) -> Result<Exit, Failure> {
    let broker = command.rabbitmq.check(NonZeroU16::MIN).map_err(Failure::of_settings)?;
    let life = signals::watch()?;
    let duration = Duration::from_secs(command.seconds);
    let files = measure_files(&command.directory, duration, &life)?;
    let mut bare_http = Vec::new();
    for (entries, connections) in HTTP_LOADS {
        bare_http.push(measure_http(entries, connections, duration, &life)?);
    }
    let datagrams = limit_datagrams::measure(duration, &life)?;
    let measure = |broker: Broker| limit_rabbitmq::measure(&broker.address, duration, &life);
    let rabbitmq = broker.map(measure).transpose()?;
    let limits = Limits { files, bare_http, datagrams, rabbitmq };
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &limits),
        Output::Table => limits.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(if life.is_stopping() { Exit::Interrupted } else { Exit::Done })
}

/// Wall time and this thread's CPU time of what is done again and again.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

impl Spent {
    /// Does it, and counts its time.
    fn on<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let thread_cpu =
            || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        let (wall, cpu) = (Instant::now(), thread_cpu());
        let done = work();
        self.wall += wall.elapsed();
        self.cpu += thread_cpu().saturating_sub(cpu);
        done
    }

    fn step(self, messages: u64) -> Step {
        Step {
            messages_per_second: rate(messages, self.wall),
            cpu_seconds_per_million: per_million(self.cpu.as_secs_f64(), messages),
        }
    }
}

/// A folder that is removed with what is in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays to be seen, beneath a name that says whose it is.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

fn measure_files(
    directory: &Path,
    duration: Duration,
    life: &Lifecycle,
) -> Result<FileLimits, Failure> {
    let path = directory.join(format!("bench-limit-{}", std::process::id()));
    let shown = path.display().to_string();
    let writing = || format!("writing files into {shown}: set --directory");
    std::fs::create_dir(&path).with_context(writing).or_exit(Exit::CannotCreate)?;
    let folder = Folder(path);
    let bodies = bodies().context("making requests").or_exit(Exit::Software)?;
    let (mut parse, mut format, mut write) = (Spent::default(), Spent::default(), Spent::default());
    let (mut messages, mut files) = (0, 0_u64);
    let mut waiting = Vec::new();
    let mut file_bytes = Vec::new();
    let began = Instant::now();
    let mut body = bodies.iter().cycle();
    while began.elapsed() < duration && !life.is_stopping() {
        // As many requests as fill a file in each shard.
        let requests = u64::from(FILE_MESSAGES) * u64::from(SHARDS.get()) / ENTRIES;
        parse.on(|| gather(&mut body, requests, &mut waiting)).or_exit(Exit::Software)?;
        for shard in 0..SHARDS.get() {
            format.on(|| format_file(&waiting, shard, &mut file_bytes));
            let file = folder.0.join(files.to_string());
            let written = write.on(|| write_and_sync(&file, &file_bytes));
            written.with_context(writing).or_exit(Exit::Io)?;
            files += 1;
        }
        messages += requests * ENTRIES;
        waiting.clear();
    }
    let together = [parse, format, write].into_iter().fold(Spent::default(), |sum, part| Spent {
        wall: sum.wall + part.wall,
        cpu: sum.cpu + part.cpu,
    });
    Ok(FileLimits {
        parse_and_check: parse.step(messages),
        format: format.step(messages),
        write_and_sync: write.step(messages),
        together: together.step(messages),
        files,
    })
}

/// The bodies of requests.
fn bodies() -> anyhow::Result<Vec<Vec<u8>>> {
    let target = Target::parse("http://127.0.0.1:1", None)?;
    let marks = Marks::random(SPREAD_SECONDS, ENTRY_BYTES_MIN)?;
    let mut request = Request::new(&target, marks, ENTRIES);
    let body = |number| {
        request.set_number(number);
        request.body().to_vec()
    };
    Ok((0..REQUESTS).map(body).collect())
}

/// Parses and checks so many requests.
fn gather<'a>(
    bodies: &mut impl Iterator<Item = &'a Vec<u8>>,
    requests: u64,
    waiting: &mut Vec<(ShardKey, Lines)>,
) -> anyhow::Result<()> {
    for (_, body) in (0..requests).zip(bodies) {
        let entries = read_array(body, SHARDS).map_err(|refused| anyhow!("{refused}"))?;
        waiting.extend(entries.into_parts());
    }
    Ok(())
}

/// Brings the lines of a shard together, as a file has them.
fn format_file(waiting: &[(ShardKey, Lines)], shard: u16, file_bytes: &mut Vec<u8>) {
    file_bytes.clear();
    let of_shard = waiting.iter().filter(|(key, _)| key.shard == ShardId(shard));
    of_shard.for_each(|(_, lines)| file_bytes.extend_from_slice(&lines.bytes));
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// The bare server as a child: it ends when this value, and so its stdin, does.
struct Bare {
    child: Child,
    address: String,
}

impl Bare {
    fn start(entries: u64) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(binary);
        command.args(["bench", "bare", "--accepted", &entries.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the bare server")?;
        let mut address = String::new();
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("the bare server is mute"))?;
        let read = BufReader::new(stdout).read_line(&mut address);
        let bare = Self { child, address: address.trim().to_owned() };
        read.context("the bare server's address")?;
        Ok(bare)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It has ended by itself, or never started.
        let _ended = self.child.wait();
    }
}

fn measure_http(
    entries: u64,
    connections: u64,
    duration: Duration,
    life: &Lifecycle,
) -> Result<HttpLimit, Failure> {
    let bare = Bare::start(entries).or_exit(Exit::Unavailable)?;
    let target = Target::parse(&format!("http://{}", bare.address), None);
    let target = target.or_exit(Exit::Unavailable)?;
    let marks = Marks::random(SPREAD_SECONDS, ENTRY_BYTES_MIN);
    let marks = marks.context("random bits").or_exit(Exit::Unavailable)?;
    let meter = Meter::start(&[bare.child.id()]);
    let client_before = client_cpu();
    let plan = Plan {
        request: Request::new(&target, marks, entries),
        target,
        entries,
        connections,
        schedule: None,
        duration: Some(duration),
        requests_max: u64::MAX,
        keep_sent: false,
    };
    let outcome = load::run(plan, life, |_, _| {}).context("starting the client");
    let outcome = outcome.or_exit(Exit::Unavailable)?;
    let client = client_cpu().saturating_sub(client_before);
    let accepted = outcome.accepted(entries);
    let cost = meter.costs(accepted).into_iter().next();
    Ok(HttpLimit {
        entries_per_request: entries,
        connections,
        requests_per_second: rate(outcome.fates.len() as u64, outcome.elapsed),
        messages_per_second: rate(accepted, outcome.elapsed),
        cpu_seconds_per_million: cost.and_then(|cost| cost.cpu_seconds_per_million),
        client_cpu_seconds_per_million: per_million(client.as_secs_f64(), accepted),
        latency_ms: outcome.latency.percentiles(),
    })
}

impl Limits {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let known = |figure: Option<f64>| figure.map(|figure| format!("{figure:.4}"));
        let row = |out: &mut dyn Write, name: &str, rate: f64, cpu: Option<f64>| {
            let cpu = known(cpu).unwrap_or_default();
            writeln!(out, "{name:<38} {rate:>14.0} {cpu:>18}")
        };
        writeln!(out, "{:<38} {:>14} {:>18}", "one thread", "messages/s", "CPU s per million")?;
        let FileLimits { parse_and_check, format, write_and_sync, together, .. } = &self.files;
        for (name, step) in [
            ("parse and check", parse_and_check),
            ("format", format),
            ("write and sync files of 10000", write_and_sync),
            ("together", together),
        ] {
            row(out, name, step.messages_per_second, step.cpu_seconds_per_million)?;
        }
        writeln!(out, "{:<38} {:>14} {:>18}", "bare HTTP", "messages/s", "CPU s per million")?;
        for limit in &self.bare_http {
            let HttpLimit { entries_per_request, connections, requests_per_second, .. } = limit;
            let name = format!("{entries_per_request} a request, {connections} connections");
            row(out, &name, limit.messages_per_second, limit.cpu_seconds_per_million)?;
            let name = format!("  its client, {requests_per_second:.0} requests/s");
            let cpu = known(limit.client_cpu_seconds_per_million).unwrap_or_default();
            writeln!(out, "{name:<53} {cpu:>18}")?;
        }
        writeln!(out, "{:<38} {:>14} {:>18}", "one stream", "datagrams/s", "CPU s per million")?;
        for limit in &self.datagrams {
            limit.print(out)?;
        }
        self.rabbitmq.as_ref().map_or(Ok(()), |rabbitmq| rabbitmq.print(out))
    }
}
