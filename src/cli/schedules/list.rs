//! `schedules list`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::row;
use crate::cli::answer::{Output, print_json};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::pipe::say;
use crate::cli::tasks::session::{StoreSettings, failure, on_existing};
use crate::rooms::schedules::view::View;
use crate::store::Store;
use crate::store::schedules::{ScheduleFilter, ScheduleState};

pub(super) const EXAMPLES: &str = "\
The JSON has a line for each schedule, as GET /scheduler/ shows it.

Examples:
  async-data-processor schedules list
  async-data-processor schedules list --ship-name 'USS Enterprise' --state pending,running
  async-data-processor schedules list --state missed --limit 100000 --output json | jq -r .error";

/// Schedules that are held at once.
const AT_ONCE: usize = 100;

/// `schedules list`.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// Those of this ship.
    #[arg(long, value_name = "NAME")]
    ship_name: Option<String>,
    /// Those in these states, separated by commas.
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = read_state)]
    state: Vec<ScheduleState>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

fn read_state(word: &str) -> Result<ScheduleState, String> {
    let words = ScheduleState::ALL.map(ScheduleState::word).join(", ");
    ScheduleState::from_word(word).ok_or_else(|| format!("a state is one of {words}"))
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
    let is_table = matches!(command.output, Output::Table);
    if is_table {
        row::print_head(out).context("writing to stdout").or_exit(Exit::Io)?;
    }
    let (mut before, mut left) = (None, command.limit);
    loop {
        let filter = ScheduleFilter {
            label: command.ship_name.clone(),
            states: command.state.clone(),
            before,
            schedules_max: left.min(AT_ONCE),
        };
        let page = store.schedules(filter).await.map_err(failure)?;
        left = left.saturating_sub(page.schedules.len());
        for schedule in page.schedules {
            let shown = row::value(&View::new(schedule))?;
            let printed = match is_table {
                true => row::print_line(out, &shown),
                false => print_json(out, &shown),
            };
            printed.context("writing to stdout").or_exit(Exit::Io)?;
        }
        before = page.next;
        if before.is_some() && left == 0 {
            say("there are more: --limit is how many are listed");
        }
        if before.is_none() || left == 0 {
            return Ok(Exit::Done);
        }
    }
}
