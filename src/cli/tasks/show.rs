//! `tasks show`: all of a task, or its result.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;

use super::session::{StoreSettings, failure, on_existing};
use super::{result, row};
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::store::{Store, Task, TaskState};
use crate::task::TaskId;

pub(super) const EXAMPLES: &str = "\
The result is written byte by byte as it is, however long. Exit code 1 if there is no such task, or
if it has no result.

Examples:
  async-data-processor tasks show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor tasks show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a --output json | jq .state
  async-data-processor tasks show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a --result | wc -c
  async-data-processor tasks show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a --result-to digits.txt";

/// `tasks show`.
#[derive(Debug, Args)]
pub(super) struct ShowCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// The task.
    #[arg(value_name = "ID")]
    id: TaskId,
    /// Write its result to stdout, and nothing else.
    #[arg(long, conflicts_with_all = ["result_to", "output"])]
    result: bool,
    /// Write its result to this file, which appears when it is whole.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    result_to: Option<PathBuf>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

pub(super) fn run(command: &ShowCommand) -> Result<Exit, Failure> {
    on_existing(&command.store, async |store| {
        show(command, &store, &mut std::io::stdout().lock()).await
    })
}

async fn show(
    command: &ShowCommand,
    store: &Arc<dyn Store>,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let id = command.id;
    let task = store.task(id).await.map_err(failure)?;
    let none = || Failure::new(Exit::CheckFailed, anyhow!("there is no task {id}"));
    let task = task.ok_or_else(none)?;
    if let Some(path) = &command.result_to {
        result::save(store, &finished(task)?, path).await?;
        return Ok(Exit::Done);
    }
    if command.result {
        result::write(store, &finished(task)?, out).await?;
    } else {
        let printed = match command.output {
            Output::Json => print_json(out, &row::Row::from(&task)),
            Output::Table => row::print_all(out, &task),
        };
        printed.context("writing to stdout").or_exit(Exit::Io)?;
    }
    out.flush().context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}

/// A task that has a result.
fn finished(task: Task) -> Result<Task, Failure> {
    match task.state {
        TaskState::Finished => Ok(task),
        state => {
            let error = anyhow!("the task {} is {state}: it has no result", task.id);
            Err(Failure::new(Exit::CheckFailed, error))
        }
    }
}
