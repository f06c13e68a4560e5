//! The figures, for people and for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::latency::Percentiles;
use super::meter::Cost;
use super::tally::Verdict;

/// What was measured. The keys of the JSON; `null` is what could not be known.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) url: String,
    /// The first timestamp of this run's messages.
    pub(super) run: String,
    pub(super) connections: u64,
    pub(super) entries_per_request: u64,
    pub(super) entry_bytes: usize,
    /// Messages per second asked for; `null` in a closed loop.
    pub(super) rate_per_second: Option<u64>,
    /// Ctrl-C came before the end.
    pub(super) interrupted: bool,
    pub(super) seconds: f64,
    pub(super) requests: u64,
    /// Messages answered 201.
    pub(super) accepted: u64,
    pub(super) accepted_per_second: f64,
    /// Accepted messages by the time from the first request to the last file.
    pub(super) drained_per_second: Option<f64>,
    /// From the request sent, or due, to its 201, in milliseconds.
    pub(super) latency_ms: Option<Percentiles>,
    /// From the request sent, or due, to its messages' files in place, in milliseconds.
    pub(super) end_to_end_ms: Option<Percentiles>,
    /// By how much a file may have been seen too late, in milliseconds.
    pub(super) end_to_end_resolution_ms: Option<f64>,
    /// What came instead of a 201, by status or reason, attempts to connect included.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) retry_after_waits: u64,
    /// The processes of the server, to the last file in place.
    pub(super) processes: Vec<Cost>,
    /// Of all these processes.
    pub(super) cpu_seconds_per_million: Option<f64>,
    /// Of this client, while it sent.
    pub(super) client_cpu_seconds_per_million: Option<f64>,
    /// Synced commits of the server's process, from its `/metrics`.
    pub(super) server_state_commits: Option<u64>,
    pub(super) files_written: Option<u64>,
    /// Messages that others sent at the same time.
    pub(super) others_accepted: Option<u64>,
    /// `null` if it was not looked.
    pub(super) verified: Option<Verdict>,
    /// Why it was not looked.
    pub(super) not_verified: Option<String>,
}

impl Report {
    /// Prints it for people.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { url, connections, entries_per_request, entry_bytes, requests, .. } = self;
        let pace = match self.rate_per_second {
            Some(rate) => format!("{rate} messages/s asked for"),
            None => "as fast as it answers".to_owned(),
        };
        writeln!(
            out,
            "{url}: {connections} connections, {entries_per_request} entries of {entry_bytes} \
             bytes a request, {pace}"
        )?;
        row(out, "accepted", &count(self.accepted), "messages")?;
        row(out, "", &count(*requests), "requests sent")?;
        row(out, "", &format!("{:.2}", self.seconds), "seconds")?;
        row(out, "", &format!("{:.0}", self.accepted_per_second), "messages/s")?;
        let drained = self.drained_per_second.map(|rate| format!("{rate:.0}"));
        row(out, "in files", drained.as_deref().unwrap_or("unknown"), "messages/s")?;
        self.print_times(out)?;
        self.print_costs(out)?;
        for (error, count) in &self.errors {
            row(out, "not accepted", &count.to_string(), &format!("times: {error}"))?;
        }
        if self.retry_after_waits > 0 {
            row(out, "", &count(self.retry_after_waits), "waits, as Retry-After asked")?;
        }
        self.print_verdict(out)
    }

    fn print_times(&self, out: &mut impl Write) -> io::Result<()> {
        if self.latency_ms.is_none() && self.end_to_end_ms.is_none() {
            return Ok(());
        }
        print_times_head(out)?;
        for (name, times) in [("to 201", self.latency_ms), ("to a file", self.end_to_end_ms)] {
            if let Some(times) = times {
                print_times(out, name, &times)?;
            }
        }
        match self.end_to_end_resolution_ms {
            Some(resolution) => {
                writeln!(out, "{:<13} a file may be seen up to {resolution:.3} ms late", "")
            }
            None => Ok(()),
        }
    }

    fn print_costs(&self, out: &mut impl Write) -> io::Result<()> {
        print_processes(out, &self.processes, self.cpu_seconds_per_million)?;
        let client = known(self.client_cpu_seconds_per_million);
        writeln!(out, "{:<26} {client:>24}", "this client")?;
        if let Some(commits) = self.server_state_commits {
            row(out, "commits", &count(commits), "synced, by the server")?;
        }
        match self.files_written {
            Some(files) => row(out, "files", &count(files), "written"),
            None => Ok(()),
        }
    }

    fn print_verdict(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(others) = self.others_accepted.filter(|others| *others > 0) {
            row(out, "others", &count(others), "messages at the same time: the figures share")?;
        }
        let Some(verdict) = &self.verified else {
            let why = self.not_verified.as_deref().unwrap_or_default();
            return writeln!(out, "not verified: {why}");
        };
        let Verdict { in_files, lost, doubled, unasked, unanswered_in_files, .. } = verdict;
        writeln!(
            out,
            "accepted {} = in files {in_files} + lost {lost}; doubled {doubled}, not asked for \
             {unasked}, in files without an answer {unanswered_in_files}",
            self.accepted
        )?;
        verdict.findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
        writeln!(out, "{}", if verdict.ok { "ok" } else { "NOT OK" })
    }
}

/// What the processes of the server have cost, alone and together.
pub(super) fn print_processes(
    out: &mut impl Write,
    processes: &[Cost],
    together: Option<f64>,
) -> io::Result<()> {
    writeln!(out, "{:<26} {:>24} {:>20}", "process", "CPU s per million", "anonymous KiB")?;
    for Cost { pid, command, cpu_seconds_per_million, anonymous_kib, .. } in processes {
        let cost = known(*cpu_seconds_per_million);
        let name = format!("{command} (pid {pid})");
        writeln!(out, "{name:<26} {cost:>24} {anonymous_kib:>20}")?;
    }
    match processes.len() {
        0 => writeln!(out, "{:<26} not found on this machine: name it with --pids", "server"),
        1 => Ok(()),
        _ => writeln!(out, "{:<26} {:>24}", "together", known(together)),
    }
}

/// The head of a table of percentiles.
pub(super) fn print_times_head(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<13} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "milliseconds", "p50", "p90", "p99", "p99.9", "max"
    )
}

/// A row of it.
pub(super) fn print_times(out: &mut impl Write, name: &str, times: &Percentiles) -> io::Result<()> {
    let Percentiles { p50, p90, p99, p99_9, max, .. } = times;
    writeln!(out, "{name:<13} {p50:>11.3} {p90:>11.3} {p99:>11.3} {p99_9:>11.3} {max:>11.3}")
}

pub(super) fn row(out: &mut impl Write, name: &str, figure: &str, unit: &str) -> io::Result<()> {
    writeln!(out, "{name:<13} {figure:>14} {unit}")
}

pub(super) fn known(figure: Option<f64>) -> String {
    figure.map_or_else(|| "unknown".to_owned(), |figure| format!("{figure:.3}"))
}

fn count(number: u64) -> String {
    number.to_string()
}
