//! The settings of whatever keeps or runs tasks.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::{BoolishValueParser, RangedU64ValueParser};

use super::settings::Servers;
use crate::rooms::calculations::order;
use crate::rooms::telemetry::order as capture_order;
use crate::task::Name;
use crate::tasks::echo;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How tasks are run.
#[derive(Debug, Clone, Args)]
pub(super) struct WorkerSettings {
    /// Tasks that run at once; 0: none do here. Unset: as many as there are cores.
    #[arg(long, env, value_name = "N")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(0..=256))]
    task_workers: Option<usize>,
    /// Programs that run tasks: KIND=COMMAND or KIND:SECONDS=COMMAND; several by newlines.
    #[arg(long, env, value_name = "KIND=COMMAND", value_delimiter = '\n')]
    task_exec: Vec<String>,
    /// How long a program of TASK_EXEC may take, unless it says otherwise, in seconds.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 3600)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=31_536_000))]
    task_timeout_seconds: u64,
    /// How long a calculation may take, in seconds.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 86_400)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=31_536_000))]
    calculation_timeout_seconds: u64,
    /// The most memory that a large calculation may use, in MiB.
    #[arg(long, env, value_name = "MIB", default_value_t = 2048)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(16..=1 << 20))]
    calculation_memory_mib: u64,
    /// Take the tasks of this endpoint instead of those for everybody; one process at a time does.
    #[arg(long, env, value_name = "NAME")]
    endpoint: Option<Name>,
    /// Take the endpoint over from the process that has it, at once.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    take_over: bool,
}

/// What becomes of tasks that have ended.
#[derive(Debug, Clone, Args)]
pub(super) struct RetentionSettings {
    /// How long ended tasks and schedules, and their results, are kept, in days; 0 is for ever.
    #[arg(long, env, value_name = "DAYS", default_value_t = 30)]
    task_retention_days: u32,
}

/// What a server does with tasks.
#[derive(Debug, Clone, Args)]
pub(super) struct TaskServerSettings {
    #[command(flatten)]
    pub(super) retention: RetentionSettings,
    /// The largest number whose factorial is calculated.
    #[arg(long, env, value_name = "N", default_value_t = 10_000_000)]
    pub(super) calculation_input_max: u64,
    /// Digits of a result that lists show.
    #[arg(long, env, value_name = "DIGITS", default_value_t = 20)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(super) max_length: usize,
}

/// A program that runs the tasks of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskProgram {
    pub(super) command: String,
    pub(super) timeout: Duration,
}

/// What runs tasks, with every text parsed.
#[derive(Debug, Clone)]
pub(super) struct CheckedWorker {
    pub(super) slots: Option<NonZeroUsize>,
    pub(super) programs: BTreeMap<Name, TaskProgram>,
    pub(super) calculation_timeout: Duration,
    pub(super) calculation_memory_bytes: u64,
    pub(super) endpoint: Option<Name>,
    pub(super) take_over: bool,
}

impl WorkerSettings {
    /// Parses the texts; every problem there is.
    pub(super) fn check(&self) -> Result<CheckedWorker, Vec<anyhow::Error>> {
        let mut problems = Vec::new();
        let mut programs = BTreeMap::new();
        for text in self.task_exec.iter().filter(|text| !text.trim().is_empty()) {
            match self.program(text) {
                Ok((kind, program)) => {
                    if programs.insert(kind.clone(), program).is_some() {
                        problems.push(anyhow!("TASK_EXEC has two programs for the kind {kind}"));
                    }
                }
                Err(error) => problems.push(error),
            }
        }
        if self.take_over && self.endpoint.is_none() {
            problems.push(anyhow!("TAKE_OVER is set, but ENDPOINT is not"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(CheckedWorker {
            slots: self.task_workers.map_or_else(|| Some(cores()), NonZeroUsize::new),
            programs,
            calculation_timeout: Duration::from_secs(self.calculation_timeout_seconds),
            calculation_memory_bytes: self.calculation_memory_mib << 20,
            endpoint: self.endpoint.clone(),
            take_over: self.take_over,
        })
    }

    fn program(&self, text: &str) -> anyhow::Result<(Name, TaskProgram)> {
        let Some((left, command)) = text.split_once('=') else {
            bail!("TASK_EXEC `{text}`: write KIND=COMMAND, or KIND:SECONDS=COMMAND");
        };
        let (kind, seconds) = match left.split_once(':') {
            Some((kind, seconds)) => {
                let parsed = seconds.trim().parse::<u64>().ok().filter(|seconds| *seconds > 0);
                let wrong = || format!("TASK_EXEC `{text}`: `{seconds}` is no number of seconds");
                (kind, parsed.with_context(wrong)?)
            }
            None => (left, self.task_timeout_seconds),
        };
        let kind = kind.trim();
        let name: Name = kind.parse().with_context(|| format!("TASK_EXEC `{text}`: `{kind}`"))?;
        if [echo::KIND, order::KIND, capture_order::KIND].contains(&name.as_str()) {
            bail!("TASK_EXEC `{text}`: {name} is a kind of our own");
        }
        let command = command.trim().to_owned();
        if command.is_empty() {
            bail!("TASK_EXEC `{text}`: there is no command");
        }
        Ok((name, TaskProgram { command, timeout: Duration::from_secs(seconds) }))
    }
}

impl CheckedWorker {
    /// Whether the tasks can be had as it is wanted.
    pub(super) fn fits(&self, servers: &Servers) -> Result<(), Vec<anyhow::Error>> {
        let nobody_sees = servers.broker.is_none() && servers.database.is_some();
        if self.endpoint.is_some() && nobody_sees {
            return Err(vec![anyhow!(
                "ENDPOINT with DATABASE_URL needs RABBITMQ_URL: only a broker sees to it that one \
                 process on one of many machines takes the endpoint's tasks"
            )]);
        }
        Ok(())
    }
}

impl RetentionSettings {
    /// How long they are kept; `None` is for ever.
    pub(super) fn keep_for(&self) -> Option<Duration> {
        (self.task_retention_days > 0).then(|| DAY * self.task_retention_days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(exec: &[&str]) -> WorkerSettings {
        WorkerSettings {
            task_workers: Some(0),
            task_exec: exec.iter().map(|text| (*text).to_owned()).collect(),
            task_timeout_seconds: 9,
            calculation_timeout_seconds: 1,
            calculation_memory_mib: 16,
            endpoint: None,
            take_over: false,
        }
    }

    #[test]
    fn programs_are_read_with_their_time() {
        let checked = settings(&["a=cat -n", " b:5 = wc=1", ""]).check().unwrap();
        let program = |name: &str| checked.programs[&name.parse::<Name>().unwrap()].clone();
        let seconds = Duration::from_secs;
        assert_eq!(program("a"), TaskProgram { command: "cat -n".into(), timeout: seconds(9) });
        assert_eq!(program("b"), TaskProgram { command: "wc=1".into(), timeout: seconds(5) });
        assert_eq!(checked.slots, None);
    }

    #[test]
    fn every_wrong_program_is_named() {
        let wrong =
            ["x", "a b=c", "a:0=c", "a:x=c", "a=", "echo=cat", "factorial=cat", "capture=cat"];
        let problems = settings(&wrong).check().unwrap_err();
        assert_eq!(problems.len(), wrong.len());
        assert_eq!(settings(&["a=1", "a=2"]).check().unwrap_err().len(), 1);
        let lonely = WorkerSettings { take_over: true, ..settings(&[]) };
        assert_eq!(lonely.check().unwrap_err().len(), 1);
    }
}
