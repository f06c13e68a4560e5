//! What the processes of a server cost, as the kernel accounts for them: CPU time in steps of 10 ms
//! (`/proc/PID/stat`), anonymous memory in KiB (`RssAnon` of `/proc/PID/status`; the mapped pages
//! of the state environment are the page cache's).

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Clock ticks per second of `/proc/PID/stat`: 100 on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;
/// Commands of ours that hold a state directory but do not work on its messages for long.
const TOOLS: [&str; 8] =
    ["publish", "verify", "history", "config", "bench", "tasks", "schedules", "calculate"];
const SERVICES: [&str; 5] = ["server", "message-consumer", "task-worker", "scheduler", "up"];
/// The file that every process of a state directory has open (`state`).
const STATE_FILE: &str = "data.mdb";

/// A process that is measured.
#[derive(Debug)]
struct Measured {
    pid: u32,
    command: String,
    cpu_before: f64,
    anonymous_kib_peak: u64,
}

/// What a process has cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) pid: u32,
    /// `server`, `message-consumer`, `up`, or the name of the program.
    pub(super) command: String,
    pub(super) cpu_seconds: f64,
    pub(super) cpu_seconds_per_million: Option<f64>,
    /// The most that was seen.
    pub(super) anonymous_kib: u64,
}

/// Measures processes from its making on.
#[derive(Debug)]
pub(super) struct Meter(Vec<Measured>);

impl Meter {
    /// Begins to measure `pids`; those that are not there are left out.
    pub(super) fn start(pids: &[u32]) -> Self {
        let measure = |pid: &u32| {
            let cpu_before = cpu_seconds(*pid)?;
            Some(Measured { pid: *pid, command: command(*pid)?, cpu_before, anonymous_kib_peak: 0 })
        };
        let mut meter = Self(pids.iter().filter_map(measure).collect());
        meter.sample();
        meter
    }

    /// Looks at the memory in use.
    pub(super) fn sample(&mut self) {
        for process in &mut self.0 {
            let now = anonymous_kib(process.pid).unwrap_or(0);
            process.anonymous_kib_peak = process.anonymous_kib_peak.max(now);
        }
    }

    /// What each has cost, for so many messages. One that has ended since is left out.
    pub(super) fn costs(&self, messages: u64) -> Vec<Cost> {
        let cost = |process: &Measured| {
            let cpu_seconds = cpu_seconds(process.pid)? - process.cpu_before;
            Some(Cost {
                pid: process.pid,
                command: process.command.clone(),
                cpu_seconds,
                cpu_seconds_per_million: per_million(cpu_seconds, messages),
                anonymous_kib: process.anonymous_kib_peak,
            })
        };
        self.0.iter().filter_map(cost).collect()
    }
}

/// So much for each million; `None` for nothing.
pub(super) fn per_million(amount: f64, messages: u64) -> Option<f64> {
    (messages > 0).then(|| amount / as_f64(messages) * 1e6)
}

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "a count of messages is far below 2^53")]
pub(super) const fn as_f64(count: u64) -> f64 {
    count as f64
}

/// User and system time of a process so far, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: the state is the first, user time the 12th.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The command of ours that a process runs, or the name of its program.
fn command(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.split('\0');
    let program = words.next()?;
    let ours = words.find(|word| SERVICES.contains(word) || TOOLS.contains(word));
    let name = || Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
    ours.map(str::to_owned).or_else(name)
}

/// The processes of this machine that listen on `address` or have `state_dir` open, tools of ours
/// aside. Those of other users can't be seen, unless root asks.
pub(super) fn find(address: SocketAddr, state_dir: Option<&Path>) -> Vec<u32> {
    let mut wanted: HashSet<PathBuf> = listeners(address.port());
    wanted.extend(state_dir.map(|dir| dir.join(STATE_FILE)));
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut links = files.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.any(|link| wanted.contains(&link))
    };
    let is_tool = |pid: u32| command(pid).is_some_and(|name| TOOLS.contains(&name.as_str()));
    let own = std::process::id();
    let mut found: Vec<_> =
        pids.filter(|pid| *pid != own && !is_tool(*pid) && holds(pid)).collect();
    found.sort_unstable();
    found
}

/// The sockets that listen on a port, as `/proc/PID/fd` names them.
fn listeners(port: u16) -> HashSet<PathBuf> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let tables: Vec<_> = tables.into_iter().filter_map(Result::ok).collect();
    let sockets = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
        // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let of_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok() == Some(port);
        (of_port && *state == "0A").then(|| PathBuf::from(format!("socket:[{inode}]")))
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_socket_but_never_measured_as_the_server() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listeners(address.port()).len(), 1);
        assert!(!find(address, None).contains(&std::process::id()));
    }

    #[test]
    fn a_process_that_is_there_has_figures_and_another_has_none() {
        let own = std::process::id();
        let mut meter = Meter::start(&[own, u32::MAX]);
        meter.sample();
        let costs = meter.costs(1_000_000);
        assert_eq!(costs.len(), 1);
        assert!(costs[0].anonymous_kib > 0 && costs[0].cpu_seconds >= 0.0);
        assert_eq!(costs[0].cpu_seconds_per_million, Some(costs[0].cpu_seconds));
        assert_eq!(per_million(1.0, 0), None);
    }
}
