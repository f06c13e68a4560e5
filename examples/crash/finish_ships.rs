//! The load of spacecraft beside the cycles, and the verdict after them: each schedule has its
//! outcome, no stream and no port is left, and files are as the accounts say.

use std::time::{Duration, Instant};

use crate::cycles::TERMINATE_PATIENCE;
use crate::finish::{drain, number, run_to_end};
use crate::finish_tasks::{Client, LAST_LOAD, LEDGER, ask};
use crate::ports::udp_ports;
use crate::process::leashed;
use crate::world::World;

/// Longer than any schedule of the load lasts, with what its captures may take beyond it.
const END_PATIENCE: Duration = Duration::from_secs(90);
/// A stream whose capture has died ends with its lease, after 10 s; nothing else takes longer.
const QUIET_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// Starts the load.
pub(crate) fn start(world: &World) -> Result<Client, String> {
    let url = format!("http://{}", world.scheduler());
    Client::start(world, "ship-load", &url, &["--connections", "3", "--rate-pause-ms", "300"])
}

/// After the last cycle: lets the load go on for a moment, waits until all is quiet, and judges;
/// what the load counted, and what the oracle says.
pub(crate) fn run(world: &mut World, load: &mut Client) -> Result<(String, String), String> {
    world.wait_until_ready()?;
    std::thread::sleep(LAST_LOAD);
    let load = load.stop(world)?;
    wait_for(world, END_PATIENCE, open_work)?;
    wait_for(world, QUIET_PATIENCE, left_behind)?;
    drain(world)?;
    let (counted, counts) = run_to_end(world, "ship-data", &mut world.command(&["ship-data"]))?;
    if !counted {
        return Err(format!("`ship-data` failed:\n{counts}"));
    }
    let report = check(world)?;
    if number(&report, "finished")? == 0 {
        return Err("no capture finished, so nothing was tested".to_owned());
    }
    for (_, process) in world.processes() {
        process.terminate(TERMINATE_PATIENCE, Duration::ZERO)?;
    }
    world.clear();
    Ok((load, report))
}

/// Waits until there is nothing more of what is looked for.
fn wait_for(
    world: &mut World,
    patience: Duration,
    look: impl Fn(&mut World) -> Result<Option<String>, String>,
) -> Result<(), String> {
    let since = Instant::now();
    while let Some(found) = look(world)? {
        for (_, process) in world.processes() {
            process.check_alive()?;
        }
        if since.elapsed() > patience {
            let logs: Vec<String> =
                world.processes().map(|(_, process)| process.log_tail()).collect();
            let (seconds, logs) = (patience.as_secs(), logs.join("\n"));
            return Err(format!("after {seconds} s there is still {found}\n{logs}"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// What has not ended.
fn open_work(world: &mut World) -> Result<Option<String>, String> {
    let (server, scheduler) = (world.address(), world.scheduler());
    let schedules = ["active", "pending", "running"].map(|state| (scheduler, "scheduler/", state));
    let tasks = ["pending", "queued", "running"].map(|state| (server, "tasks", state));
    for (address, what, state) in schedules.into_iter().chain(tasks) {
        let answer = ask(address, "GET", &format!("/{what}?limit=1&state={state}"), "")?;
        if answer.status != 200 || answer.body.trim() != "[]" {
            return Ok(Some(answer.body));
        }
    }
    Ok(None)
}

/// Streams and ports of captures that have ended.
fn left_behind(world: &mut World) -> Result<Option<String>, String> {
    let answer = ask(world.spaceship(), "GET", "/stream/", "")?;
    if answer.status != 200 || number(&answer.body, "number_of_active_streams")? > 0 {
        return Ok(Some(answer.body));
    }
    for (name, process) in world.processes() {
        let ports = udp_ports(process.id());
        if !ports.is_empty() {
            return Ok(Some(format!("{name} with the UDP ports {ports:?}")));
        }
    }
    Ok(None)
}

/// Lets the oracle compare.
fn check(world: &World) -> Result<String, String> {
    let mut command = leashed(&world.options.oracle);
    command.arg("ship-check").args(["--url", &world.url()]);
    command.args(["--scheduler", &format!("http://{}", world.scheduler())]);
    command.arg("--ledger").arg(world.path(LEDGER)).arg("--output").arg(world.output());
    command.arg("--counts").arg(world.path("ship-data.json"));
    if world.broker.is_some() {
        command.arg("--allow-again");
    }
    let (well, report) = run_to_end(world, "check", &mut command)?;
    if well { Ok(report) } else { Err(format!("`oracle ship-check` failed:\n{report}")) }
}
