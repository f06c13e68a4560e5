//! `schedules show`.

use anyhow::{Context, anyhow};
use clap::Args;

use super::row;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::tasks::session::{StoreSettings, failure, on_existing};
use crate::rooms::schedules::view::Whole;
use crate::store::schedules::ScheduleId;

pub(super) const EXAMPLES: &str = "\
Exit code 1 if there is no such schedule.

Examples:
  async-data-processor schedules show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor schedules show 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a --output json |
    jq .outcome";

/// `schedules show`.
#[derive(Debug, Args)]
pub(super) struct ShowCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// The schedule.
    #[arg(value_name = "ID")]
    id: ScheduleId,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

pub(super) fn run(command: &ShowCommand) -> Result<Exit, Failure> {
    on_existing(&command.store, async |store| {
        let whole = Whole::read(store.as_ref(), command.id).await.map_err(failure)?;
        let none = || anyhow!("there is no schedule {}", command.id);
        let whole = whole.ok_or_else(none).or_exit(Exit::CheckFailed)?;
        let (shown, mut out) = (row::value(&whole)?, std::io::stdout().lock());
        let printed = match command.output {
            Output::Json => print_json(&mut out, &shown),
            Output::Table => row::print_all(&mut out, &shown),
        };
        printed.context("writing to stdout").or_exit(Exit::Io)?;
        Ok(Exit::Done)
    })
}
