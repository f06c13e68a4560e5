//! `schedules cancel`, `schedules delete`.

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::Args;

use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::tasks::session::{StoreSettings, failure, now_ms, on_existing};
use crate::store::Store;
use crate::store::schedules::{ScheduleId, ScheduleState};

pub(super) const CANCEL_EXAMPLES: &str = "\
Exit code 1 if one of them is not there or has ended otherwise; the rest is cancelled all the same.

Examples:
  async-data-processor schedules cancel 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor schedules list --state active --output json | jq -r .id |
    xargs async-data-processor schedules cancel";

pub(super) const DELETE_EXAMPLES: &str = "\
Exit code 1 if one of them is not there; the rest is deleted all the same.

Examples:
  async-data-processor schedules delete 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a
  async-data-processor schedules list --state finished --output json | jq -r .id |
    xargs async-data-processor schedules delete";

/// `schedules cancel` and `schedules delete`.
#[derive(Debug, Args)]
pub(super) struct ChangeCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// The schedules.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ScheduleId>,
}

pub(super) fn cancel(command: &ChangeCommand) -> Result<Exit, Failure> {
    each(command, async |store, id| {
        store.cancel_schedule(id, now_ms()).await.map_err(failure)?;
        let schedule = store.schedule(id).await.map_err(failure)?;
        Ok(match schedule.map(|schedule| schedule.state) {
            Some(ScheduleState::Cancelled) => Ok(format!("{id} is cancelled")),
            Some(state) => Err(format!("the schedule {id} is {state}, and stays so")),
            None => Err(format!("there is no schedule {id}")),
        })
    })
}

pub(super) fn delete(command: &ChangeCommand) -> Result<Exit, Failure> {
    each(command, async |store, id| {
        let is_gone = store.delete_schedule(id, now_ms()).await.map_err(failure)?;
        let none = || format!("there is no schedule {id}");
        Ok(is_gone.then(|| format!("{id} is deleted")).ok_or_else(none))
    })
}

/// Changes each by itself: what was done is printed, what was not is told at the end.
fn each(
    command: &ChangeCommand,
    change: impl AsyncFn(&dyn Store, ScheduleId) -> Result<Result<String, String>, Failure>,
) -> Result<Exit, Failure> {
    on_existing(&command.store, async |store| {
        let mut out = std::io::stdout().lock();
        let mut wrong = Vec::new();
        for id in &command.ids {
            match change(store.as_ref(), *id).await? {
                Ok(done) => {
                    writeln!(out, "{done}").context("writing to stdout").or_exit(Exit::Io)?
                }
                Err(why) => wrong.push(why),
            }
        }
        match wrong.is_empty() {
            true => Ok(Exit::Done),
            false => Err(Failure::new(Exit::CheckFailed, anyhow!(wrong.join("; ")))),
        }
    })
}
