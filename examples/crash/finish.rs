//! The load beside the cycles, and the verdict after them: drained, verified, compared.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::cycles::TERMINATE_PATIENCE;
use crate::json;
use crate::process::{Process, leashed};
use crate::world::World;

const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
const LOAD_PATIENCE: Duration = Duration::from_secs(40);
/// Long enough for every connection of the load to come back and publish.
const LAST_LOAD: Duration = Duration::from_secs(1);
const STOP_FILE: &str = "load.stop";
/// The loads' ledgers: requests without and with a key.
const LEDGERS: [&str; 2] = ["plain.ledger", "keys.ledger"];

/// The load clients, which run through all the cycles.
pub(crate) struct Loads {
    clients: Vec<(Process, PathBuf)>,
}

/// What the load clients counted.
#[derive(Default)]
pub(crate) struct Accepted {
    pub(crate) requests: u64,
    pub(crate) entries: u64,
    pub(crate) unknown_requests: u64,
}

impl Loads {
    /// Starts a load without and one with keys.
    pub(crate) fn start(world: &World) -> Result<Self, String> {
        let mut clients = Vec::new();
        for ledger in LEDGERS {
            let mut command = leashed(&world.options.oracle);
            command.arg("load").args(["--url", &world.url(), "--connections", "4"]);
            command.args(["--entries", "20", "--rate-pause-ms", "2"]);
            command.args(["--seed", &world.options.seed.to_string()]);
            command.arg("--ledger").arg(world.path(ledger));
            command.arg("--stop-file").arg(world.path(STOP_FILE));
            if ledger.starts_with("keys") {
                command.arg("--keys");
            }
            let results = world.path(&format!("{ledger}.summary"));
            let log = world.log("load");
            clients.push((Process::start("load", &mut command, &log, Some(&results))?, results));
        }
        Ok(Self { clients })
    }

    /// Ends the loads and reads what they counted.
    fn stop(&mut self, world: &World) -> Result<Accepted, String> {
        let mut accepted = Accepted::default();
        for (client, _) in &mut self.clients {
            client.check_alive()?;
        }
        std::fs::write(world.path(STOP_FILE), "").map_err(|error| error.to_string())?;
        for (client, results) in &mut self.clients {
            let status = client.wait(LOAD_PATIENCE)?;
            let summary = std::fs::read_to_string(results).map_err(|error| error.to_string())?;
            if !status.success() {
                return Err(format!("load: {status}: {summary}\n{}", client.log_tail()));
            }
            accepted.requests += number(&summary, "acked_requests")?;
            accepted.entries += number(&summary, "acked_entries")?;
            accepted.unknown_requests += number(&summary, "unknown_requests")?;
        }
        Ok(accepted)
    }
}

/// After the last cycle: lets the load go on for a moment, drains, ends everything and judges.
pub(crate) fn run(world: &mut World, loads: &mut Loads) -> Result<(Accepted, String), String> {
    world.wait_until_ready()?;
    std::thread::sleep(LAST_LOAD);
    let accepted = loads.stop(world)?;
    drain(world)?;
    for (_, process) in world.processes() {
        process.terminate(TERMINATE_PATIENCE, Duration::ZERO)?;
    }
    world.clear();
    let (verified, text) = verify(world)?;
    if !verified {
        return Err(format!("`verify` after the end failed:\n{text}"));
    }
    let report = check_files(world, false)?;
    if accepted.entries == 0 {
        return Err("nothing was accepted, so nothing was tested".to_owned());
    }
    Ok((accepted, report))
}

/// Waits until no message waits any more.
pub(crate) fn drain(world: &mut World) -> Result<(), String> {
    let since = Instant::now();
    loop {
        // What is not there any more is in the state directory, or was before.
        let is_taken = world.broker.as_ref().map_or(Ok(true), Broker::is_empty)?;
        let (verified, text) = verify(world)?;
        if is_taken && verified && number(&text, "waiting") == Ok(0) {
            return Ok(());
        }
        for (_, process) in world.processes() {
            process.check_alive()?;
        }
        if since.elapsed() > DRAIN_PATIENCE {
            let logs: Vec<String> =
                world.processes().map(|(_, process)| process.log_tail()).collect();
            let logs = logs.join("\n");
            return Err(format!(
                "not drained after 60 s (broker: {is_taken}); `verify` says:\n{text}\n{logs}"
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs `verify`; returns whether it exited with 0, and what it printed.
fn verify(world: &World) -> Result<(bool, String), String> {
    let mut command = world.command(&["verify", "--output", "json"]);
    run_to_end(world, "verify", &mut command)
}

/// Compares ledgers and files; returns the report.
pub(crate) fn check_files(world: &World, waiting_allowed: bool) -> Result<String, String> {
    let mut command = Command::new(&world.options.oracle);
    command.arg("check").arg("--output").arg(world.output());
    for ledger in LEDGERS {
        command.arg("--ledger").arg(world.path(ledger));
    }
    if waiting_allowed {
        command.arg("--allow-waiting");
    }
    if world.broker.is_some() {
        // Its shards are queues of their own: only who has a 201 knows that all have theirs.
        command.arg("--allow-torn");
    }
    let (well, report) = run_to_end(world, "check", &mut command)?;
    if well { Ok(report) } else { Err(format!("`oracle check` failed:\n{report}")) }
}

pub(crate) fn run_to_end(
    world: &World,
    name: &str,
    command: &mut Command,
) -> Result<(bool, String), String> {
    let results = world.path(&format!("{name}.json"));
    std::fs::remove_file(&results).ok();
    let log = world.log(name);
    let mut process = Process::start(name, command, &log, Some(&results))?;
    let status = process.wait(DRAIN_PATIENCE)?;
    let text = read(&results)?;
    let failure = if status.success() { String::new() } else { process.log_tail() };
    Ok((status.success(), text + &failure))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The whole number that the JSON object `text` has under `name`.
pub(crate) fn number(text: &str, name: &str) -> Result<u64, String> {
    let mut found = None;
    json::members(text, &mut |member, value| {
        if member == name {
            found = value.parse().ok();
        }
    })
    .map_err(|fault| format!("{fault} in {text:?}"))?;
    found.ok_or_else(|| format!("no number {name:?} in {text}"))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn only_a_number_of_the_outermost_object_counts() {
        assert_eq!(number(r#"{"shards":[{"waiting":3}],"waiting":0}"#, "waiting"), Ok(0));
        assert!(number(r#"{"shards":[{"waiting":0}]}"#, "waiting").is_err());
        assert!(number("waiting: 0", "waiting").is_err());
    }
}
