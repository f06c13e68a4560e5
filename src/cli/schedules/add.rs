//! `schedules add`: a request to the scheduler, made of flags.

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Map, Value};

use crate::cli::exit::{Exit, Failure, OrExit};
use crate::cli::tasks::session::{StoreSettings, failure, now_ms, on_store};
use crate::rooms::schedules;
use crate::rooms::telemetry::order;
use crate::store::schedules::ScheduleId;
use crate::task::Name;

pub(super) const EXAMPLES: &str = "\
What starts once needs a --start-time; what recurs --cron or --every-seconds. Without a scheduler
what starts once starts all the same; what recurs does not. Exit code 65 says what is wrong.

Examples:
  async-data-processor schedules add --ship-name TARDIS --duration 60 \\
    --start-time 2999-01-01T00:00:00Z
  async-data-processor schedules add --kind report --cron '30 6 * * MON-FRI' \\
    --time-zone Europe/Berlin --catch-up latest
  async-data-processor schedules add --kind echo --payload tick --every-seconds 10 --overlap allow";

/// `schedules add`.
#[derive(Debug, Args)]
pub(super) struct AddCommand {
    #[command(flatten)]
    store: StoreSettings,
    /// The ship whose telemetry is captured.
    #[arg(long, value_name = "NAME", required_unless_present = "kind")]
    ship_name: Option<String>,
    /// How long it is captured, in seconds.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u32>,
    /// A kind of task instead.
    #[arg(long, value_name = "KIND", conflicts_with_all = ["ship_name", "duration"])]
    kind: Option<Name>,
    /// What the task is told.
    #[arg(long, value_name = "TEXT", requires = "kind")]
    payload: Option<String>,
    /// When it starts, or from when on: RFC 3339 with an offset.
    #[arg(long, value_name = "TIME")]
    start_time: Option<String>,
    /// How late it may begin, in seconds.
    #[arg(long, value_name = "SECONDS")]
    lateness_seconds: Option<u32>,
    /// Again and again: minute, hour, day, month and weekday.
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "every_seconds")]
    cron: Option<String>,
    /// Again and again, so many seconds apart.
    #[arg(long, value_name = "SECONDS")]
    every_seconds: Option<u32>,
    /// Whose clock --cron means: an IANA name; unset: UTC.
    #[arg(long, value_name = "ZONE", requires = "cron")]
    time_zone: Option<String>,
    /// When it ends to recur: RFC 3339 with an offset.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// What becomes of times that no scheduler has seen: skip, latest or all.
    #[arg(long, value_name = "POLICY")]
    catch_up: Option<String>,
    /// What becomes of a time while what was started before runs: skip, allow or replace.
    #[arg(long, value_name = "POLICY")]
    overlap: Option<String>,
}

impl AddCommand {
    /// The request.
    fn body(&self) -> String {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let number = |number: Option<u32>| number.map(Value::from);
        let members = [
            ("ship_name", text(&self.ship_name)),
            ("duration", number(self.duration)),
            ("kind", self.kind.as_ref().map(|kind| Value::from(kind.as_str()))),
            ("payload", text(&self.payload)),
            ("start_time", text(&self.start_time)),
            ("lateness_seconds", number(self.lateness_seconds)),
            ("cron", text(&self.cron)),
            ("every_seconds", number(self.every_seconds)),
            ("time_zone", text(&self.time_zone)),
            ("until", text(&self.until)),
            ("catch_up", text(&self.catch_up)),
            ("overlap", text(&self.overlap)),
        ];
        let given = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>()).to_string()
    }
}

pub(super) fn run(command: &AddCommand) -> Result<Exit, Failure> {
    let capture: Name = order::KIND.parse().or_exit(Exit::Software)?;
    let (id, now_ms) = (ScheduleId::new(), now_ms());
    let schedule = schedules::read(command.body().as_bytes(), id, &capture, now_ms);
    let schedule = schedule.map_err(|wrong| anyhow!(wrong)).or_exit(Exit::DataError)?;
    on_store(&command.store, async |store| {
        store.add_schedule(schedule.clone(), now_ms).await.map_err(failure)?;
        writeln!(std::io::stdout(), "{id}").context("writing to stdout").or_exit(Exit::Io)?;
        Ok(Exit::Done)
    })
}
