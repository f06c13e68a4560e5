//! Readings from files, filtered, as JSON lines or CSV.

use std::borrow::Cow;
use std::io::{self, BufRead};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::batch::disk::Disk;
use crate::batch::journal::BatchRow;
use crate::batch::lines::{self, Opened};
use crate::cli::pipe::{Pipe, say};
use crate::rooms::telemetry::datagram;
use crate::rooms::telemetry::ship::ShipName;
use crate::rooms::telemetry::ships::commits::{Next, Place};
use crate::rooms::telemetry::ships::companion::AHEAD_MAX;

/// The first line of CSV.
pub(super) const CSV_HEADER: &str = "ship,timestamp,description,value,unit,sequence\n";

/// Which readings are printed.
pub(super) struct Filter {
    pub(super) ship: Option<ShipName>,
    pub(super) since: Option<DateTime<Utc>>,
}

impl Filter {
    /// Whether a batch may hold such readings.
    fn may_be_in(&self, row: &BatchRow) -> bool {
        self.since.is_none_or(|since| last_date(row) >= since)
    }

    /// Whether it may be missed that files are gone which were committed before `before_ms`.
    fn misses_before(&self, before_ms: Option<u64>) -> bool {
        let before = before_ms.and_then(date);
        self.since.zip(before).is_none_or(|(since, before)| since < before)
    }

    /// Whether a line of a batch is such a reading.
    fn holds(&self, row: &BatchRow, line: &[u8]) -> bool {
        if self.ship.is_none() && self.since.is_none() {
            return true;
        }
        datagram::read_line(line).is_some_and(|(ship, reading)| {
            let at = reading.at.to_utc();
            self.ship.as_ref().is_none_or(|wanted| *wanted == ship)
                && self.since.is_none_or(|since| (since..=last_date(row)).contains(&at))
        })
    }
}

/// What is dated later than this in a batch is too far ahead of its storing, as in charts.
fn last_date(row: &BatchRow) -> DateTime<Utc> {
    let last = date(row.committed_ms).and_then(|at| at.checked_add_signed(AHEAD_MAX));
    last.unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn date(at_ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(at_ms).ok()?)
}

/// Prints readings from files.
pub(super) struct Reader<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) filter: Filter,
    pub(super) as_csv: bool,
    pub(super) out: Pipe,
    pub(super) missing: Missing,
}

impl Reader<'_> {
    /// Says on stderr what could not be printed since it was last said.
    pub(super) fn tell_missing(&mut self) {
        // Whose they are is not known without their files.
        let of_all = if self.filter.ship.is_some() { " of all ships" } else { "" };
        std::mem::take(&mut self.missing).tell(of_all);
    }

    /// Prints what comes next; the place behind it.
    pub(super) fn read(&mut self, next: Next) -> io::Result<Place> {
        let (row, skip, end) = match next {
            Next::Batch { row, skip, end } => (row, skip, end),
            Next::Gone { lines, end, before_ms } => {
                if self.filter.misses_before(before_ms) {
                    self.missing.forgotten += lines;
                }
                return Ok(end);
            }
        };
        if !self.filter.may_be_in(&row) {
            return Ok(end);
        }
        let left = row.range.count().saturating_sub(skip);
        match lines::open(self.disk, &row)? {
            Opened::Lines(lines) => self.print(&row, lines, skip)?,
            Opened::TakenAway => {
                self.missing.taken_away_files += 1;
                self.missing.taken_away += left;
            }
            Opened::Damaged(found) => {
                say(format_args!("ship-data: {} is damaged: {found}", row.file.display()));
                self.missing.damaged += left;
            }
        }
        Ok(end)
    }

    fn print(&mut self, row: &BatchRow, mut lines: Box<dyn BufRead>, skip: u64) -> io::Result<()> {
        let (mut line, mut text, mut at) = (Vec::new(), Vec::new(), 0);
        while self.out.goes_on()? {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            at += 1;
            if at > skip && self.filter.holds(row, &line) {
                self.take(&line, &mut text);
            }
            if text.len() >= PRINTED_BYTES {
                self.out.write_all(&text)?;
                text.clear();
            }
        }
        self.out.write_all(&text)
    }

    fn take(&self, line: &[u8], text: &mut Vec<u8>) {
        if self.as_csv {
            match csv_row(line) {
                Some(row) => text.extend_from_slice(row.as_bytes()),
                None => say("ship-data: a line that is no reading is left out"),
            }
        } else {
            text.extend_from_slice(line);
        }
    }
}

/// What is gathered before it is printed.
const PRINTED_BYTES: usize = 16 * 1024;

/// What could not be printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    taken_away_files: u64,
    taken_away: u64,
    forgotten: u64,
    damaged: u64,
}

impl Missing {
    fn tell(self, of_all: &str) {
        let Self { taken_away_files, taken_away, forgotten, damaged } = self;
        let gone = match taken_away_files {
            1 => "a file that was taken away".to_owned(),
            files => format!("{files} files that were taken away"),
        };
        for (readings, place) in [
            (taken_away, gone.as_str()),
            (forgotten, "files that the journal no longer knows"),
            (damaged, "damaged files, see verify"),
        ] {
            if readings > 0 {
                let s = if readings == 1 { "" } else { "s" };
                say(format_args!("ship-data: not shown: {readings} reading{s}{of_all} in {place}"));
            }
        }
    }
}

/// The members that have a column. Values stand as they were sent.
#[derive(Deserialize)]
struct Members<'a> {
    ship: ShipName,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    description: Option<&'a RawValue>,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(borrow)]
    unit: Option<&'a RawValue>,
    #[serde(borrow)]
    sequence: Option<&'a RawValue>,
}

/// A row as in RFC 4180, but that a newline alone ends it.
fn csv_row(line: &[u8]) -> Option<String> {
    let members: Members<'_> = serde_json::from_slice(line).ok()?;
    let raw = |value: Option<&RawValue>| {
        let json = value.map(RawValue::get).unwrap_or_default();
        serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
    };
    let fields = [
        members.ship.to_string(),
        members.timestamp.into_owned(),
        raw(members.description),
        raw(Some(members.value)),
        raw(members.unit),
        raw(members.sequence),
    ];
    Some(fields.map(quoted).join(",") + "\n")
}

fn quoted(field: String) -> String {
    match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_csv_is_quoted_where_it_must_be() {
        let common = concat!(
            r#"{"ship":"TARDIS","timestamp":"2026-11-22T07:30:00.000123Z","#,
            r#""description":"Battery Voltage","value":17,"unit":"V","sequence":42}"#,
        );
        let odd = concat!(
            r#"{"ship":"a,\"b\"","timestamp":"2026-11-22T07:30:00Z","#,
            r#""value":1.50,"unit":"x\ny"}"#,
        );
        for (line, row) in [
            (common, "TARDIS,2026-11-22T07:30:00.000123Z,Battery Voltage,17,V,42\n"),
            (odd, "\"a,\"\"b\"\"\",2026-11-22T07:30:00Z,,1.50,\"x\ny\",\n"),
        ] {
            assert_eq!(csv_row(line.as_bytes()).unwrap(), row);
        }
        assert_eq!(csv_row(b"{}\n"), None);
    }
}
