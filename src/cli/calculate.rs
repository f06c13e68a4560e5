//! `calculate`: has a factorial calculated by whoever runs tasks, and prints it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::answer::print_json;
use super::exit::{Exit, Failure, OrExit};
use super::signals;
use super::tasks::result;
use super::tasks::session::{StoreSettings, failure, now_ms, on_store, submit};
use crate::rooms::calculations::order::{KIND, Order};
use crate::service::Lifecycle;
use crate::store::{Store, StoreError, Task, TaskState};
use crate::task::TaskId;

pub(super) const EXAMPLES: &str = "\
The calculation is a task: `up`, `message-consumer` or `task-worker` runs it. Each number is
calculated once, and then taken from the store. Ctrl-C ends the waiting (exit code 130), but not the
calculation. Exit code 1 if it failed or was cancelled. With --save one line of JSON is printed,
with the keys id, input, digits (how many) and file; the file holds the digits and nothing else.

Examples:
  async-data-processor calculate 42
  async-data-processor calculate 1000000 --save digits.txt
  async-data-processor tasks cancel $(async-data-processor calculate 10000000 --no-wait)";

/// How often it is looked whether the calculation is done, in case a bell was lost.
const SLOW_POLL: Duration = Duration::from_millis(500);
/// How long bells are gathered before the next look.
const NEWS_GAP: Duration = Duration::from_millis(10);
/// After which time without any worker it is said.
const LONELY: Duration = Duration::from_secs(3);

/// `calculate`.
#[derive(Debug, Args)]
pub(super) struct CalculateCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// Whose factorial: a whole number, 0 or greater.
    #[arg(value_name = "N", allow_negative_numbers = true, value_parser = read_input)]
    input: u64,
    /// The largest number whose factorial is calculated.
    #[arg(long, env, value_name = "N", default_value_t = 10_000_000)]
    calculation_input_max: u64,
    /// Write the digits into this file, which appears when it is whole.
    #[arg(long, value_name = "FILE", conflicts_with = "no_wait")]
    save: Option<PathBuf>,
    /// Print the id of the task, and do not wait for it.
    #[arg(long)]
    no_wait: bool,
}

/// What is printed with `--save`.
#[derive(Debug, Serialize)]
struct Saved<'a> {
    id: TaskId,
    input: u64,
    digits: u64,
    file: &'a str,
}

/// A number, with the words of the HTTP API for what is none.
fn read_input(text: &str) -> Result<u64, &'static str> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.strip_prefix('-') {
        Some(rest) if is_digits(rest) => Err("Must be a positive number"),
        _ if !is_digits(text) => Err("Must be a whole number"),
        // More digits than fit are too large whatever the limit is.
        _ => Ok(text.parse().unwrap_or(u64::MAX)),
    }
}

pub(super) fn run(command: &CalculateCommand) -> Result<Exit, Failure> {
    if command.input > command.calculation_input_max {
        let max = command.calculation_input_max;
        let error = anyhow!("N: Must be at most {max} (CALCULATION_INPUT_MAX)");
        return Err(Failure::new(Exit::Usage, error));
    }
    on_store(&command.store, async |store| {
        let mut out = std::io::stdout().lock();
        let stop = signals::watch()?;
        let id = order(store.as_ref(), command.input).await?;
        if command.no_wait {
            writeln!(out, "{id}").context("writing to stdout").or_exit(Exit::Io)?;
            return Ok(Exit::Done);
        }
        let task = wait(store.as_ref(), id, &stop).await?;
        deliver(command, &store, &finished(task)?, &mut out).await
    })
}

/// Submits the calculation, which follows the one of the same number, if there is one.
async fn order(store: &dyn Store, input: u64) -> Result<TaskId, Failure> {
    let id = TaskId::new();
    let kind = KIND.parse().or_exit(Exit::Software)?;
    let task = Order::task(kind, id, input, now_ms());
    submit(store, &[task]).await?;
    Ok(id)
}

/// Waits until the task has ended.
async fn wait(store: &dyn Store, id: TaskId, stop: &Lifecycle) -> Result<Task, Failure> {
    let mut news = store.bells().news;
    let mut watch = Watch::new();
    let ended = loop {
        // Before the look, so that what comes after it rings.
        news.mark_unchanged();
        match store.task(id).await {
            Ok(Some(task)) if task.state.is_terminal() => break task,
            Ok(Some(task)) => watch.see(store, &task).await,
            Ok(None) => {
                let error = anyhow!("the task {id} was removed from the store");
                return Err(Failure::new(Exit::CheckFailed, error));
            }
            Err(StoreError::Unavailable(reason)) => watch.lose(&reason),
            Err(error) => return Err(failure(error)),
        }
        tokio::select! {
            Ok(()) = news.changed() => tokio::time::sleep(NEWS_GAP).await,
            () = tokio::time::sleep(SLOW_POLL) => {}
            () = stop.stopping() => {
                watch.bar.finish_and_clear();
                let error = anyhow!(
                    "stopped waiting; the calculation goes on: `tasks show {id} --result` prints \
                     what comes of it, `tasks cancel {id}` ends it"
                );
                return Err(Failure::new(Exit::Interrupted, error));
            }
        }
    };
    watch.bar.finish_and_clear();
    Ok(ended)
}

/// What is told while it waits.
struct Watch {
    bar: ProgressBar,
    began: Instant,
    lonely_told: bool,
    lost_told: bool,
}

impl Watch {
    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now(), lonely_told: false, lost_told: false }
    }

    async fn see(&mut self, store: &dyn Store, task: &Task) {
        self.lost_told = false;
        self.bar.set_position(task.progress.into());
        self.bar.set_message(task.state.word());
        let waits = matches!(task.state, TaskState::Pending | TaskState::Queued);
        if !waits || self.lonely_told || self.began.elapsed() < LONELY {
            return;
        }
        let nobody = store.workers().await.is_ok_and(|workers| workers.is_empty());
        if nobody {
            self.lonely_told = true;
            self.bar.suspend(|| {
                tracing::warn!(
                    task = %task.id,
                    "nobody seems to run tasks: start `async-data-processor up` or `task-worker`; \
                     the calculation waits for it"
                );
            });
        }
    }

    fn lose(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.lost_told, true) {
            self.bar.suspend(|| {
                tracing::warn!(reason, "the store of tasks is away; the calculation is not lost");
            });
        }
    }
}

/// A calculation that has a result.
fn finished(task: Task) -> Result<Task, Failure> {
    let reason = match (task.state, task.error.as_deref()) {
        (TaskState::Finished, _) => return Ok(task),
        (state, Some(reason)) => format!("{state}: {}", crate::web::printable(reason)),
        (state, None) => state.to_string(),
    };
    let id = task.id;
    let error = anyhow!("the calculation is {reason} (`tasks retry {id}` has it tried again)");
    Err(Failure::new(Exit::CheckFailed, error))
}

/// Brings the digits to where they are wanted.
async fn deliver(
    command: &CalculateCommand,
    store: &Arc<dyn Store>,
    task: &Task,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let printed = match &command.save {
        Some(path) => {
            result::save(store, task, path).await?;
            let digits = task.result.as_ref().map_or(0, |result| result.bytes);
            let file = &path.display().to_string();
            print_json(out, &Saved { id: task.id, input: command.input, digits, file })
        }
        None => {
            result::write(store, task, out).await?;
            writeln!(out)
        }
    };
    printed.and_then(|()| out.flush()).context("writing to stdout").or_exit(Exit::Io)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_the_http_api_reads_it() {
        assert_eq!(read_input("0"), Ok(0));
        assert_eq!(read_input("10000000"), Ok(10_000_000));
        assert_eq!(read_input("99999999999999999999"), Ok(u64::MAX), "refused as too large");
        assert_eq!(read_input("-1"), Err("Must be a positive number"));
        for wrong in ["", "-", "1.5", "-1.5", "x", "+1", "0x1", " 1", "1e3"] {
            assert_eq!(read_input(wrong), Err("Must be a whole number"), "{wrong}");
        }
    }
}
