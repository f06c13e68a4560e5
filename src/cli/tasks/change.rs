//! `tasks cancel`, `tasks retry`.

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;

use super::list::read_state;
use super::session::{Pages, StoreSettings, failure, now_ms, on_existing};
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::store::{Filter, Store, TaskState};
use crate::task::{Name, TaskId};

pub(super) const CANCEL_EXAMPLES: &str = "\
Exit code 1 if one of the tasks is not there or has ended otherwise; the rest is cancelled all the
same.

Examples:
  async-data-processor tasks cancel 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor tasks list --state pending --output json | jq -r .id |
    xargs async-data-processor tasks cancel";

pub(super) const RETRY_EXAMPLES: &str = "\
Exit code 1 if one of the tasks is not there or has finished; the rest is retried all the same. One
that waits or runs is left as it is.

Examples:
  async-data-processor tasks retry 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor tasks retry --all --kind thumbnail
  async-data-processor tasks retry --all --state failed,missed --output json | jq -r .id";

/// The states that a retry can leave.
const RETRIED: [TaskState; 3] = [TaskState::Failed, TaskState::Cancelled, TaskState::Missed];

/// `tasks cancel`.
#[derive(Debug, Args)]
pub(super) struct CancelCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// The tasks.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<TaskId>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// `tasks retry`.
#[derive(Debug, Args)]
pub(super) struct RetryCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// The tasks.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
    ids: Vec<TaskId>,
    /// All tasks of --kind and --state instead.
    #[arg(long)]
    all: bool,
    /// Those of this kind.
    #[arg(long, value_name = "KIND", requires = "all")]
    kind: Option<Name>,
    /// Those in these states, separated by commas: failed, cancelled, missed.
    #[arg(long, value_name = "STATE", requires = "all", value_delimiter = ',')]
    #[arg(default_value = "failed", value_parser = read_retried)]
    state: Vec<TaskState>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

fn read_retried(word: &str) -> Result<TaskState, String> {
    let state = read_state(word)?;
    match RETRIED.contains(&state) {
        true => Ok(state),
        false => Err("only failed, cancelled and missed tasks are retried".to_owned()),
    }
}

/// What a task is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Cancelled,
    Pending,
}

/// What became of a task.
#[derive(Debug, Serialize)]
struct Change {
    id: TaskId,
    was: &'static str,
    now: &'static str,
}

pub(super) fn cancel(command: &CancelCommand) -> Result<Exit, Failure> {
    on_existing(&command.store, async |store| {
        let mut out = std::io::stdout().lock();
        change_named(store.as_ref(), Aim::Cancelled, &command.ids, command.output, &mut out).await
    })
}

pub(super) fn retry(command: &RetryCommand) -> Result<Exit, Failure> {
    on_existing(&command.store, async |store| {
        let mut out = std::io::stdout().lock();
        match command.all {
            true => retry_all(store.as_ref(), command, &mut out).await,
            false => {
                let ids = &command.ids;
                change_named(store.as_ref(), Aim::Pending, ids, command.output, &mut out).await
            }
        }
    })
}

impl Aim {
    async fn apply(self, store: &dyn Store, id: TaskId) -> Result<Option<TaskState>, Failure> {
        let was = match self {
            Self::Cancelled => store.cancel(id, now_ms()).await,
            Self::Pending => store.retry(id, now_ms()).await,
        };
        was.map_err(failure)
    }

    /// The state of a task that was in `was`.
    fn now(self, was: TaskState) -> TaskState {
        match self {
            Self::Cancelled if !was.is_terminal() => TaskState::Cancelled,
            Self::Pending if RETRIED.contains(&was) => TaskState::Pending,
            _ => was,
        }
    }

    /// Whether a task in this state is as it should be.
    const fn is_met(self, now: TaskState) -> bool {
        match self {
            Self::Cancelled => matches!(now, TaskState::Cancelled),
            Self::Pending => !now.is_terminal(),
        }
    }
}

/// Changes the tasks of these names, each by itself.
async fn change_named(
    store: &dyn Store,
    aim: Aim,
    ids: &[TaskId],
    output: Output,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let mut wrong = Vec::new();
    for id in ids {
        let Some(was) = aim.apply(store, *id).await? else {
            wrong.push(format!("there is no task {id}"));
            continue;
        };
        let now = aim.now(was);
        if aim.is_met(now) {
            print(out, output, *id, was, now)?;
        } else {
            wrong.push(format!("the task {id} is {now}, and stays so"));
        }
    }
    match wrong.is_empty() {
        true => Ok(Exit::Done),
        false => Err(Failure::new(Exit::CheckFailed, anyhow!(wrong.join("; ")))),
    }
}

/// Retries every task that passes the filter.
async fn retry_all(
    store: &dyn Store,
    command: &RetryCommand,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let filter = Filter {
        kind: command.kind.clone(),
        states: command.state.clone(),
        tasks_max: usize::MAX,
        ..Filter::default()
    };
    let mut pages = Pages::new(store, filter);
    loop {
        let tasks = pages.next().await?;
        if tasks.is_empty() {
            return Ok(Exit::Done);
        }
        for task in tasks {
            // One that was removed since, or has gone on, needs no retry.
            if let Some(was) = Aim::Pending.apply(store, task.id).await? {
                print(out, command.output, task.id, was, Aim::Pending.now(was))?;
            }
        }
    }
}

fn print(
    out: &mut impl Write,
    output: Output,
    id: TaskId,
    was: TaskState,
    now: TaskState,
) -> Result<(), Failure> {
    let printed = match output {
        Output::Json => print_json(out, &Change { id, was: was.word(), now: now.word() }),
        Output::Table if was == now => writeln!(out, "{id} was {was} already"),
        Output::Table => writeln!(out, "{id} was {was}, is {now}"),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_task_is_never_called_cancelled_and_a_finished_one_never_retried() {
        for was in TaskState::ALL {
            let cancelled = Aim::Cancelled.is_met(Aim::Cancelled.now(was));
            assert_eq!(cancelled, !was.is_terminal() || was == TaskState::Cancelled, "{was}");
            let waits = Aim::Pending.is_met(Aim::Pending.now(was));
            assert_eq!(waits, was != TaskState::Finished, "{was}");
        }
        assert_eq!(Aim::Pending.now(TaskState::Running), TaskState::Running);
    }

    #[test]
    fn what_cannot_be_retried_is_no_state_to_retry() {
        for state in TaskState::ALL {
            assert_eq!(read_retried(state.word()).is_ok(), RETRIED.contains(&state));
        }
    }
}
