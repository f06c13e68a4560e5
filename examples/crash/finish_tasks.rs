//! The load of tasks beside the cycles, and the verdict after them: all ended, and as they must.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cycles::TERMINATE_PATIENCE;
use crate::http::{Answer, Connection};
use crate::process::{Process, leashed};
use crate::programs::RUNS;
use crate::world::World;

pub(crate) const LEDGER: &str = "load.ledger";
const STOP_FILE: &str = "load.stop";
const SUMMARY: &str = "load.summary";
/// Requests are repeated for half a minute, if nobody answers.
const LOAD_PATIENCE: Duration = Duration::from_secs(60);
/// The pause after many failures is a minute long.
const END_PATIENCE: Duration = Duration::from_secs(150);
/// Long enough for every connection of the load to come back and submit.
pub(crate) const LAST_LOAD: Duration = Duration::from_secs(1);
/// How often the time is taken until the tasks of a killed worker run again.
const ORPHAN_ROUNDS: u64 = 2;
const ORPHANS: u64 = 3;
const ORPHAN_PATIENCE: Duration = Duration::from_secs(60);
const SIGNED: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// The load client, which runs through all the cycles.
pub(crate) struct Client {
    process: Process,
}

/// What a test of tasks has shown.
pub(crate) struct Verdict {
    /// What the load client counted, a JSON object.
    pub(crate) load: String,
    /// What the oracle says, a JSON object.
    pub(crate) report: String,
    /// The longest time from a worker's death to the next run of one of its tasks.
    pub(crate) orphaned_ms: u128,
}

impl Client {
    /// Starts `load` of the oracle, which publishes to `url`.
    pub(crate) fn start(
        world: &World,
        load: &str,
        url: &str,
        more: &[&str],
    ) -> Result<Self, String> {
        let mut command = leashed(&world.options.oracle);
        command.arg(load).args(["--url", url]).args(more);
        command.args(["--seed", &world.options.seed.to_string()]);
        command.arg("--ledger").arg(world.path(LEDGER));
        command.arg("--stop-file").arg(world.path(STOP_FILE));
        let results = world.path(SUMMARY);
        let process = Process::start("load", &mut command, &world.log("load"), Some(&results))?;
        Ok(Self { process })
    }

    /// Ends it; what it counted.
    pub(crate) fn stop(&mut self, world: &World) -> Result<String, String> {
        self.process.check_alive()?;
        std::fs::write(world.path(STOP_FILE), "").map_err(|error| error.to_string())?;
        let status = self.process.wait(LOAD_PATIENCE)?;
        let summary = read(world, SUMMARY)?;
        if status.success() {
            return Ok(summary);
        }
        Err(format!("load: {status}: {summary}\n{}", self.process.log_tail()))
    }
}

/// Starts the load of tasks.
pub(crate) fn start(world: &World) -> Result<Client, String> {
    let more = ["--connections", "4", "--rate-pause-ms", "15"];
    Client::start(world, "task-load", &world.url(), &more)
}

/// After the last cycle: lets the load go on for a moment, waits until all is quiet, and judges.
pub(crate) fn run(world: &mut World, load: &mut Client) -> Result<Verdict, String> {
    world.wait_until_ready()?;
    std::thread::sleep(LAST_LOAD);
    let load = load.stop(world)?;
    let report = check(world)?;
    if crate::finish::number(&report, "finished")? == 0 {
        return Err("nothing was finished, so nothing was tested".to_owned());
    }
    let mut orphaned_ms = 0;
    for round in 0..ORPHAN_ROUNDS {
        orphaned_ms = orphaned_ms.max(orphan(world, round)?.as_millis());
    }
    for (_, process) in world.processes() {
        process.terminate(TERMINATE_PATIENCE, Duration::ZERO)?;
    }
    world.clear();
    Ok(Verdict { load, report, orphaned_ms })
}

/// Lets the oracle wait until all is quiet, and compare.
fn check(world: &mut World) -> Result<String, String> {
    let results = world.path("check.json");
    let mut command = leashed(&world.options.oracle);
    command.arg("task-check").args(["--url", &world.url()]);
    command.args(["--patience-seconds", &END_PATIENCE.as_secs().to_string()]);
    command.arg("--ledger").arg(world.path(LEDGER)).arg("--runs").arg(world.path(RUNS));
    if world.broker.is_some() {
        command.arg("--allow-again");
    }
    let log = world.log("check");
    let mut oracle = Process::start("check", &mut command, &log, Some(&results))?;
    let status = oracle.wait(END_PATIENCE * 2)?;
    for (_, process) in world.processes() {
        process.check_alive()?;
    }
    let report = read(world, "check.json")?;
    if status.success() {
        return Ok(report);
    }
    Err(format!("`oracle task-check` failed:\n{report}{}", oracle.log_tail()))
}

/// Kills a worker that runs tasks; how long it takes until all of them run again.
fn orphan(world: &mut World, round: u64) -> Result<Duration, String> {
    let ids: Vec<String> = (0..ORPHANS)
        .map(|number| format!("00000000-0000-7000-8000-{round:06x}{number:06x}"))
        .collect();
    let entries = ids
        .iter()
        .map(|id| format!(r#"{{"id":"{id}","kind":"slow","payload":"30\n","failures_max":9}}"#));
    let body = format!("[{}]", entries.collect::<Vec<_>>().join(","));
    let answer = ask(world.address(), "POST", "/tasks", &body)?;
    if answer.status != 201 {
        return Err(format!("POST /tasks: {} {}", answer.status, answer.body));
    }
    let first = wait_for_runs(world, &ids, 1)?;
    // Long enough for a sign of life: until then a broker gives them to others at once.
    std::thread::sleep(SIGNED);
    let workers: Vec<(&'static str, u32)> =
        world.processes().map(|(name, process)| (name, process.id())).collect();
    let of = |worker: u32| first.values().filter(|run| run.worker == worker).count();
    let &(victim, worker) =
        workers.iter().max_by_key(|(_, worker)| of(*worker)).ok_or("nobody is running")?;
    world.process(victim)?.kill()?;
    let since = Instant::now();
    if victim == "up" {
        // With it went the server, without which nothing gets on.
        world.restart(victim)?;
    }
    let orphans: Vec<String> = ids
        .iter()
        .filter(|id| first.get(*id).is_some_and(|run| run.worker == worker))
        .cloned()
        .collect();
    wait_for_runs(world, &orphans, 2)?;
    let took = since.elapsed();
    if victim != "up" {
        world.restart(victim)?;
    }
    world.wait_until_ready()?;
    for id in &ids {
        let answer = ask(world.address(), "DELETE", &format!("/tasks/{id}"), "")?;
        if answer.status != 200 {
            return Err(format!("DELETE /tasks/{id}: {} {}", answer.status, answer.body));
        }
    }
    Ok(took)
}

/// The runs of a task.
#[derive(Default)]
struct Runs {
    count: u64,
    /// The process of the worker of the last one.
    worker: u32,
}

/// Waits until each of these has begun so often; how often, and where last. Over a broker the same
/// attempt may begin again.
fn wait_for_runs(
    world: &mut World,
    ids: &[String],
    count: u64,
) -> Result<HashMap<String, Runs>, String> {
    let since = Instant::now();
    loop {
        let mut runs: HashMap<String, Runs> = HashMap::new();
        for line in read(world, RUNS)?.lines() {
            let mut words = line.split(' ');
            let (id, worker) = (words.next(), words.nth(1).and_then(|word| word.parse().ok()));
            if let (Some(id), Some(worker)) = (id, worker) {
                let known = runs.entry(id.to_owned()).or_default();
                *known = Runs { count: known.count + 1, worker };
            }
        }
        if ids.iter().all(|id| runs.get(id).is_some_and(|runs| runs.count >= count)) {
            return Ok(runs);
        }
        if since.elapsed() > ORPHAN_PATIENCE {
            let logs: Vec<String> =
                world.processes().map(|(_, process)| process.log_tail()).collect();
            let logs = logs.join("\n");
            return Err(format!("{ids:?} have not begun {count} times after a minute\n{logs}"));
        }
        std::thread::sleep(POLL);
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Answer, String> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let place = |error: std::io::Error| format!("{method} {path}: {error}");
    let mut connection = Connection::open(address).map_err(place)?;
    connection.exchange(request.as_bytes()).map_err(place)
}

fn read(world: &World, name: &str) -> Result<String, String> {
    std::fs::read_to_string(world.path(name)).map_err(|error| format!("{name}: {error}"))
}
