//! `schedules`: what is to start when, and what came of it: list, show, cancel, delete, add.
//!
//! | room | what it holds |
//! |---|---|
//! | [`list`], [`show`], [`change`], [`add`] | the commands |
//! | [`row`] | a schedule, printed: the same JSON as over HTTP, or a table of it |

mod add;
mod change;
mod list;
mod row;
mod show;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure};

pub(super) const EXAMPLES: &str = "\
Each sub-command explains itself: `schedules add --help`.

Examples:
  async-data-processor schedules add --kind echo --start-time 2999-01-01T00:00:00Z
  async-data-processor schedules add --kind echo --payload hi --cron '30 6 * * MON-FRI'
  async-data-processor schedules list --state active
  async-data-processor schedules cancel 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a";

/// `schedules`.
#[derive(Debug, Args)]
pub(super) struct SchedulesCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists schedules, newest first.
    #[command(after_help = list::EXAMPLES)]
    List(list::ListCommand),
    /// Shows all that is known of a schedule, with the last times of one that recurs.
    #[command(after_help = show::EXAMPLES)]
    Show(show::ShowCommand),
    /// Cancels schedules: they start nothing more, and what they have started is stopped.
    #[command(after_help = change::CANCEL_EXAMPLES)]
    Cancel(change::ChangeCommand),
    /// Cancels schedules and removes them; their tasks stay until they are too old.
    #[command(after_help = change::DELETE_EXAMPLES)]
    Delete(change::ChangeCommand),
    /// Adds a schedule, and prints its id.
    #[command(after_help = add::EXAMPLES)]
    Add(add::AddCommand),
}

pub(super) fn run(command: &SchedulesCommand) -> Result<Exit, Failure> {
    match &command.action {
        Action::List(command) => list::run(command),
        Action::Show(command) => show::run(command),
        Action::Cancel(command) => change::cancel(command),
        Action::Delete(command) => change::delete(command),
        Action::Add(command) => add::run(command),
    }
}
