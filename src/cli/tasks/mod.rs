//! `tasks`: what there is to do and what came of it: list, show, cancel, retry, submit.
//!
//! | room | what it holds |
//! |---|---|
//! | [`session`] | the store, opened for one command |
//! | [`list`], [`show`], [`change`], [`submit`] | the commands |
//! | [`row`] | a task, printed |
//! | [`result`] | a result, written to stdout or into a file |

mod change;
mod list;
pub(super) mod result;
mod row;
pub(super) mod session;
mod show;
mod submit;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure};

pub(super) const EXAMPLES: &str = "\
Each sub-command explains itself: `tasks list --help`.

Examples:
  async-data-processor tasks list --state pending,running
  async-data-processor tasks show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor tasks cancel 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor tasks retry --all --kind thumbnail
  echo hello | async-data-processor tasks submit --kind echo";

/// `tasks`.
#[derive(Debug, Args)]
pub(super) struct TasksCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists tasks, newest first.
    #[command(after_help = list::EXAMPLES)]
    List(list::ListCommand),
    /// Shows all that is known of a task, or writes its result.
    #[command(after_help = show::EXAMPLES)]
    Show(show::ShowCommand),
    /// Cancels tasks: those that wait never run, those that run are stopped.
    #[command(after_help = change::CANCEL_EXAMPLES)]
    Cancel(change::CancelCommand),
    /// Runs failed, cancelled or missed tasks again, as if they had never failed.
    #[command(after_help = change::RETRY_EXAMPLES)]
    Retry(change::RetryCommand),
    /// Adds a task whose payload comes from stdin, or one for each line of it.
    #[command(after_help = submit::EXAMPLES)]
    Submit(submit::SubmitCommand),
}

pub(super) fn run(command: &TasksCommand) -> Result<Exit, Failure> {
    match &command.action {
        Action::List(command) => list::run(command),
        Action::Show(command) => show::run(command),
        Action::Cancel(command) => change::cancel(command),
        Action::Retry(command) => change::retry(command),
        Action::Submit(command) => submit::run(command),
    }
}
