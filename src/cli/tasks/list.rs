//! `tasks list`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::row::{self, Row};
use super::session::{Pages, StoreSettings, on_existing};
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::store::{Filter, Store, TaskState};
use crate::task::{Name, TaskId};

pub(super) const EXAMPLES: &str = "\
`attempt` is how often a task was given out, `failed` how often it failed. The JSON has a line for
each task, with all that is known of it, payload included: text as it is, other bytes as an object
with the key base64. `result_head` is the result up to 1 KiB; `tasks show ID --result` writes all.

Examples:
  async-data-processor tasks list
  async-data-processor tasks list --kind factorial --state pending,queued,running
  async-data-processor tasks list --state failed --output json | jq -r .error
  async-data-processor tasks list --before 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a";

/// `tasks list`.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// Only tasks of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<Name>,
    /// Only tasks in these states, separated by commas: pending, queued, running, finished, failed,
    /// cancelled, missed.
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = read_state)]
    state: Vec<TaskState>,
    /// Only tasks of this endpoint.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<Name>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// Only tasks that are older than this one: the last of the page before.
    #[arg(long, value_name = "ID")]
    before: Option<TaskId>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// A state by its word.
pub(super) fn read_state(word: &str) -> Result<TaskState, String> {
    TaskState::from_word(word).ok_or_else(|| {
        let words = TaskState::ALL.map(TaskState::word).join(", ");
        format!("a state is one of {words}")
    })
}

pub(super) fn run(command: &ListCommand) -> Result<Exit, Failure> {
    on_existing(&command.store, async |store| {
        list(command, store.as_ref(), &mut std::io::stdout().lock()).await
    })
}

async fn list(
    command: &ListCommand,
    store: &dyn Store,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let filter = Filter {
        kind: command.kind.clone(),
        states: command.state.clone(),
        endpoint: command.endpoint.clone(),
        before: command.before,
        tasks_max: command.limit,
    };
    let mut pages = Pages::new(store, filter);
    let (mut listed, mut last) = (0, None);
    loop {
        let tasks = pages.next().await?;
        let Some(oldest) = tasks.last() else { break };
        last = Some(oldest.id);
        let mut printed = match (command.output, listed) {
            (Output::Table, 0) => row::print_head(out),
            _ => Ok(()),
        };
        listed += tasks.len();
        for task in &tasks {
            printed = printed.and_then(|()| match command.output {
                Output::Json => print_json(out, &Row::from(task)),
                Output::Table => row::print_line(out, task),
            });
        }
        printed.context("writing to stdout").or_exit(Exit::Io)?;
    }
    let closing = match (command.output, last) {
        (Output::Table, None) => writeln!(out, "no tasks"),
        (Output::Table, Some(last)) if listed == command.limit => {
            writeln!(out, "older ones, if there are: --before {last}")
        }
        _ => Ok(()),
    };
    closing.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}
