//! `ship-data`: how much is stored of each ship, or the readings themselves.

mod readings;

use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};

use super::dead::open_output;
use super::exit::{Exit, Failure, OrExit};
use super::pipe::Pipe;
use super::process::{network_runtime, open_existing_state};
use super::settings::{OutputSettings, RedisSettings, StateSettings};
use super::signals;
use crate::clock::{Clock, SystemClock};
use crate::rooms::telemetry::ship::ShipName;
use crate::rooms::telemetry::ships::commits::Commits;
use crate::rooms::telemetry::ships::{redis, table};
use crate::service::Lifecycle;
use crate::state::State;
use readings::{CSV_HEADER, Filter, Missing, Reader};

pub(super) const EXAMPLES: &str = "\
Prints a line `<ship>: <count>` for each ship: the readings stored by this state directory, ever;
with --from-redis those that Redis was given by all hosts, ever. With --ship, --since, --follow or
--output it prints readings instead, from the files, in the order in which these were committed.

Examples:
  async-data-processor ship-data
  async-data-processor ship-data --ship TARDIS --since 10m | jq .value
  async-data-processor ship-data --follow --output csv
  REDIS_URL=redis://127.0.0.1/ async-data-processor ship-data --from-redis";

/// Ships that are read at once.
const SHIPS_PAGE: usize = 1000;
/// How often it is looked for what was committed since.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// `ship-data`.
#[derive(Debug, Args)]
pub(super) struct ShipDataCommand {
    #[command(flatten)]
    state: StateSettings,
    #[command(flatten)]
    output_dir: OutputSettings,
    #[command(flatten)]
    redis: RedisSettings,
    /// Print the counts that are kept in Redis.
    #[arg(long, conflicts_with_all = ["ship", "since", "follow", "output"])]
    from_redis: bool,
    /// Only readings of this ship.
    #[arg(long, value_name = "NAME")]
    ship: Option<ShipName>,
    /// Only readings from then on: RFC 3339, or how long ago, such as 90s, 10m, 2h or 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Go on with what is committed from now on; without --since, begin with it.
    #[arg(long)]
    follow: bool,
    /// How readings are printed.
    #[arg(long, value_name = "FORMAT")]
    output: Option<Format>,
}

/// How readings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON lines, as they are stored.
    Json,
    /// CSV for spreadsheets, with a header row.
    Csv,
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::At(at.to_utc()));
    }
    let ago = || {
        let unit = text.chars().last()?;
        let number = text.strip_suffix(unit)?;
        let number: u32 = number.parse().ok().filter(|_| !number.starts_with('+'))?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        Some(Since::Ago(TimeDelta::seconds(i64::from(number) * seconds)))
    };
    ago().ok_or_else(|| "it may be 2026-11-22T07:30:00Z, or 90s, 10m, 2h, 7d".to_owned())
}

impl ShipDataCommand {
    fn prints_readings(&self) -> bool {
        self.ship.is_some() || self.since.is_some() || self.follow || self.output.is_some()
    }
}

pub(super) fn run(command: &ShipDataCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let stop = signals::watch()?;
    if command.from_redis {
        return print_counts(&mut Pipe::new(stop), counts_in_redis(&command.redis)?);
    }
    let state = open_existing_state(&command.state)?;
    if command.prints_readings() {
        return print_readings(command, state, stop);
    }
    print_counts(&mut Pipe::new(stop), counts(&state)?)
}

fn counts(state: &State) -> Result<Vec<(String, u64)>, Failure> {
    let mut counts: Vec<(String, u64)> = Vec::new();
    let mut after: Option<ShipName> = None;
    loop {
        let txn = state.read().or_exit(Exit::Io)?;
        let page = table::ships(&txn, state.tables(), after.as_ref(), SHIPS_PAGE);
        let page = page.or_exit(Exit::Io)?;
        let Some((last, _)) = page.last() else { return Ok(counts) };
        after = Some(last.clone());
        counts.extend(page.iter().map(|(name, row)| (name.to_string(), row.count)));
    }
}

fn counts_in_redis(settings: &RedisSettings) -> Result<Vec<(String, u64)>, Failure> {
    let address = settings.check().map_err(Failure::of_settings)?;
    let address = address.ok_or_else(|| {
        Failure::new(Exit::Config, anyhow!("REDIS_URL is not set: --from-redis needs it"))
    })?;
    let counted = network_runtime(1)?.block_on(redis::counts(&address));
    counted.with_context(|| format!("asking {address}")).or_exit(Exit::Unavailable)
}

fn print_counts(out: &mut Pipe, counts: Vec<(String, u64)>) -> Result<Exit, Failure> {
    for (ship, count) in counts {
        let line = format!("{ship}: {count}\n");
        out.write_all(line.as_bytes()).context("writing to stdout").or_exit(Exit::Io)?;
    }
    Ok(Exit::Done)
}

fn print_readings(
    command: &ShipDataCommand,
    state: State,
    stop: Lifecycle,
) -> Result<Exit, Failure> {
    let disk = open_output(&state, &command.output_dir)?;
    let now = SystemClock.wall();
    let since = command.since.map(|since| match since {
        Since::At(at) => at,
        Since::Ago(ago) => now.checked_sub_signed(ago).unwrap_or(DateTime::<Utc>::MIN_UTC),
    });
    let begins_now = command.follow && since.is_none();
    let commits =
        if begins_now { Commits::from_now(state) } else { Ok(Commits::from_start(state)) };
    let mut commits = commits.or_exit(Exit::Io)?;
    tracing::debug!("following");
    let mut reader = Reader {
        disk: &disk,
        filter: Filter { ship: command.ship.clone(), since },
        as_csv: command.output == Some(Format::Csv),
        out: Pipe::new(stop.clone()),
        missing: Missing::default(),
    };
    if reader.as_csv {
        let header = CSV_HEADER.as_bytes();
        reader.out.write_all(header).context("writing to stdout").or_exit(Exit::Io)?;
    }
    while reader.out.goes_on().context("waiting for stdout").or_exit(Exit::Io)? {
        match commits.next().or_exit(Exit::Io)? {
            Some((key, next)) => {
                let place = reader.read(next).context("reading a file").or_exit(Exit::Io)?;
                commits.go_to(key, place);
            }
            None if !command.follow => break,
            None => {
                reader.tell_missing();
                if stop.wait_stopping(FOLLOW_POLL) {
                    break;
                }
            }
        }
    }
    reader.tell_missing();
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_date_or_how_long_ago() {
        let at = DateTime::from_timestamp(1_795_332_600, 0).unwrap();
        assert_eq!(parse_since("2026-11-22T08:30:00+01:00"), Ok(Since::At(at)));
        assert_eq!(parse_since("10m"), Ok(Since::Ago(TimeDelta::minutes(10))));
        assert_eq!(parse_since("7d"), Ok(Since::Ago(TimeDelta::days(7))));
        for wrong in ["", "m", "10", "-1m", "+1m", "1w", "2026-11-22", "1\u{fc}"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }
}
