//! The account of a batch, made while its file is written, stored in the transaction that commits
//! it.
//!
//! Every line counts for its ship. One that is dated more than [`AHEAD_MAX`] after its storing
//! counts, and is nothing else: a ship whose clock is wrong would stand in every chart's way.

use chrono::TimeDelta;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bucket::Bucket;
use super::line::{self, CommonForm, Read};
use super::{commits, table};
use crate::batch::journal::BatchRow;
use crate::batch::{Companion, Tally};
use crate::clock::Clock;
use crate::message::ShardKey;
use crate::rooms::telemetry::datagram;
use crate::rooms::telemetry::ship::ShipName;
use crate::state::{StateError, WriteTxn};

/// How far a reading may be dated ahead of its storing, and still be shown.
pub const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

const SECOND_US: i64 = 1_000_000;

/// For how long the figures of charts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// How many seconds back there are figures for each second.
    pub seconds: u64,
    /// How many minutes back there are figures for each minute.
    pub minutes: u64,
}

impl Kept {
    /// The first second, since 1970, that has figures of its own.
    #[must_use]
    pub fn first_second(self, now_s: i64) -> i64 {
        now_s.saturating_sub_unsigned(self.seconds)
    }

    /// The first minute, since 1970, that has figures of its own.
    #[must_use]
    pub const fn first_minute(self, now_s: i64) -> i64 {
        now_s.div_euclid(60).saturating_sub_unsigned(self.minutes)
    }
}

/// Keeps the accounts of ships.
#[derive(Debug)]
pub struct ShipAccounts {
    /// For what is ahead, and what is old.
    pub clock: Arc<dyn Clock>,
    /// What is old.
    pub kept: Kept,
}

impl Companion for ShipAccounts {
    fn begin(&self) -> Box<dyn Tally> {
        Box::new(BatchAccount::new(self.clock.wall().timestamp(), self.kept))
    }
}

/// The account of one batch.
#[derive(Debug)]
struct BatchAccount {
    now_s: i64,
    kept: Kept,
    form: CommonForm,
    ships: Vec<ShipAccount>,
    /// By what their lines begin with.
    by_head: HashMap<Vec<u8>, usize>,
    /// The ship of the last line: mostly that of the next as well.
    latest: usize,
    unreadable: u64,
}

/// The lines of one ship in a batch.
#[derive(Debug)]
pub(super) struct ShipAccount {
    pub(super) name: ShipName,
    head: Vec<u8>,
    pub(super) count: u64,
    /// Of the lines, with their ends.
    pub(super) bytes: u64,
    /// When its first and its last were measured, in microseconds since 1970, and the last.
    pub(super) dated: Option<Dated>,
    /// By second since 1970.
    pub(super) seconds: BTreeMap<i64, Bucket>,
    /// The second that is being counted.
    open: Option<(i64, Bucket)>,
}

/// What is dated soberly.
#[derive(Debug)]
pub(super) struct Dated {
    pub(super) first_us: i64,
    pub(super) last_us: i64,
    pub(super) latest: Vec<u8>,
}

impl BatchAccount {
    fn new(now_s: i64, kept: Kept) -> Self {
        Self {
            now_s,
            kept,
            form: CommonForm::new(),
            ships: Vec::new(),
            by_head: HashMap::new(),
            latest: 0,
            unreadable: 0,
        }
    }

    /// The last microsecond, since 1970, that is not too far ahead.
    fn ahead_us(&self) -> i64 {
        let ahead_s = self.now_s.saturating_add(AHEAD_MAX.num_seconds());
        ahead_s.saturating_mul(SECOND_US)
    }

    fn take(&mut self, line: &[u8], ahead_us: i64) {
        let known = self.read_common(line).or_else(|| self.read_json(line));
        let Some((at, read)) = known else {
            self.unreadable += 1;
            return;
        };
        self.latest = at;
        if let Some(ship) = self.ships.get_mut(at) {
            ship.add(line, read, ahead_us);
        }
    }

    /// Reads a line of a ship that is known here, if it has the common form.
    fn read_common(&mut self, line: &[u8]) -> Option<(usize, Read)> {
        let form = &mut self.form;
        let mut read = |at: usize| Some((at, form.read(line, &self.ships.get(at)?.head)?));
        if let Some(found) = read(self.latest) {
            return Some(found);
        }
        let name = line.strip_prefix(HEAD_START)?;
        let end = HEAD_START.len() + memchr::memchr(b'"', name)? + HEAD_END.len();
        read(*self.by_head.get(line.get(..end)?)?)
    }

    fn read_json(&mut self, line: &[u8]) -> Option<(usize, Read)> {
        let (name, read) = line::read(line)?;
        let head = datagram::line_head(&name).into_bytes();
        let at = self.by_head.get(&head).copied().unwrap_or_else(|| {
            let at = self.ships.len();
            self.by_head.insert(head.clone(), at);
            self.ships.push(ShipAccount::new(name, head));
            at
        });
        Some((at, read))
    }

    fn store(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        for ship in &mut self.ships {
            ship.close();
            table::add(txn, ship, self.kept, self.now_s)?;
            // As many others: or the rows of ships that went would stay behind those that come.
            table::trim_next(txn, self.kept, self.now_s)?;
        }
        Ok(())
    }
}

/// What a stored line begins with, and what follows its ship's name.
const HEAD_START: &[u8] = b"{\"ship\":\"";
const HEAD_END: &[u8] = b"\",";

impl Tally for BatchAccount {
    fn add(&mut self, lines: &[u8]) {
        let (mut from, ahead_us) = (0, self.ahead_us());
        for end in memchr::memchr_iter(b'\n', lines) {
            if let Some(line) = lines.get(from..end) {
                self.take(line, ahead_us);
            }
            from = end + 1;
        }
    }

    fn commit(
        &mut self,
        txn: &mut WriteTxn<'_>,
        key: ShardKey,
        row: &BatchRow,
    ) -> Result<(), StateError> {
        if self.unreadable > 0 {
            let (unreadable, batch) = (self.unreadable, row.number);
            tracing::warn!(
                unreadable,
                batch,
                "lines of telemetry name no ship, and count for none"
            );
        }
        self.store(txn)?;
        commits::note(txn, key, row)
    }
}

impl ShipAccount {
    fn new(name: ShipName, head: Vec<u8>) -> Self {
        let (seconds, open) = (BTreeMap::new(), None);
        Self { name, head, count: 0, bytes: 0, dated: None, seconds, open }
    }

    fn add(&mut self, line: &[u8], read: Read, ahead_us: i64) {
        let Read { at_us, value } = read;
        self.count += 1;
        self.bytes += line.len() as u64 + 1;
        if at_us > ahead_us {
            return;
        }
        match &mut self.dated {
            Some(dated) => dated.add(at_us, line),
            None => {
                let latest = line.to_vec();
                self.dated = Some(Dated { first_us: at_us, last_us: at_us, latest });
            }
        }
        let second = at_us.div_euclid(SECOND_US);
        match &mut self.open {
            Some((open, bucket)) if *open == second => bucket.add(Bucket::of(value)),
            _ => {
                self.close();
                self.open = Some((second, Bucket::of(value)));
            }
        }
    }

    fn close(&mut self) {
        if let Some((second, bucket)) = self.open.take() {
            let known = self.seconds.entry(second);
            known.and_modify(|known| known.add(bucket)).or_insert(bucket);
        }
    }
}

impl Dated {
    fn add(&mut self, at_us: i64, line: &[u8]) {
        self.first_us = self.first_us.min(at_us);
        if at_us >= self.last_us {
            self.last_us = at_us;
            self.latest.clear();
            self.latest.extend_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{State, StateOptions};

    /// 2026-11-22T07:30:00Z
    const NOW_S: i64 = 1_795_332_600;

    fn line(ship: &str, second: i64, value: &str) -> String {
        let at = chrono::DateTime::from_timestamp(NOW_S + second, 5_000).unwrap();
        let at = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let head = datagram::line_head(&ship.parse().unwrap());
        format!(
            "{head}\"timestamp\":\"{at}\",\"description\":\"Battery Voltage\",\
             \"value\":{value},\"unit\":\"V\"}}\n"
        )
    }

    fn account(lines: &[String]) -> BatchAccount {
        let kept = Kept { seconds: 86_400, minutes: 44_640 };
        let mut account = BatchAccount::new(NOW_S, kept);
        lines.iter().for_each(|line| account.add(line.as_bytes()));
        account.ships.iter_mut().for_each(ShipAccount::close);
        account
    }

    #[test]
    fn lines_count_for_their_ships_whatever_their_form_and_order() {
        let hostile = "\",\\u{2028}} \"";
        let lines = [
            line("a", 0, "5"),
            line(hostile, 1, "6"),
            line("a", 0, "7.5"),
            line("b", 0, "1"),
            line(hostile, 0, "8"),
            line("a", -1, "9"),
            line("a", 0, "-2"),
            "{}\n".to_owned(),
        ];
        let account = account(&lines);
        assert_eq!(account.unreadable, 1);
        let counts: Vec<_> =
            account.ships.iter().map(|ship| (ship.name.as_str(), ship.count)).collect();
        assert_eq!(counts, [("a", 4), (hostile, 2), ("b", 1)]);
        let [a, ..] = account.ships.as_slice() else { panic!() };
        let bytes: usize = [0, 2, 5, 6].iter().map(|at| lines[*at].len()).sum();
        assert_eq!(a.bytes, bytes as u64);
        let now = Bucket { count: 3, least: -2.0, most: 7.5, sum: 10.5 };
        assert_eq!(a.seconds, BTreeMap::from([(NOW_S - 1, Bucket::of(9.0)), (NOW_S, now)]));
        let dated = a.dated.as_ref().unwrap();
        assert_eq!(dated.latest, lines[6].trim_end().as_bytes());
        assert_eq!(dated.last_us - dated.first_us, SECOND_US);
    }

    fn state(dir: &std::path::Path) -> State {
        State::open(StateOptions {
            dir: dir.to_owned(),
            map_bytes: 64 << 20,
            low_water_bytes: Some(0),
            on_poison: Box::new(|reason| panic!("{reason}")),
        })
        .unwrap()
    }

    /// Stores lines of that second as a batch.
    fn store(state: &State, kept: Kept, second: i64, lines: &[String]) {
        let lines = lines.concat();
        let stored = state.commit(move |txn| {
            let mut account = BatchAccount::new(NOW_S + second, kept);
            account.add(lines.as_bytes());
            account.store(txn)
        });
        stored.unwrap();
    }

    /// How many readings the rows of a table are of.
    fn sum(state: &State, table: crate::state::Table) -> u64 {
        let txn = state.read().unwrap();
        let rows = table.iter(&txn).unwrap();
        rows.map(|row| Bucket::decode(row.unwrap().1).unwrap().count).sum()
    }

    #[test]
    fn a_clock_that_was_ahead_for_a_while_leaves_nothing_stale() {
        let kept = Kept { seconds: 7_200, minutes: 44_640 };
        for jump in [60 * 60, 24 * 60 * 60] {
            let dir = tempfile::tempdir().unwrap();
            let state = state(dir.path());
            let latest = || {
                let txn = state.read().unwrap();
                let row = table::ship(&txn, state.tables(), &"a".parse().unwrap()).unwrap();
                row.map(|row| (row.last_us.unwrap() / SECOND_US - NOW_S, row.latest)).unwrap()
            };
            for (second, value) in [(0, "5"), (jump, "6"), (60, "7"), (61, "8")] {
                let sent = line("a", second, value);
                store(&state, kept, second, std::slice::from_ref(&sent));
                let (last, shown) = latest();
                assert_eq!((last, shown.unwrap().get()), (second, sent.trim_end()), "{jump}");
            }
            // What comes late is not the latest.
            store(&state, kept, 62, &[line("a", 30, "9")]);
            assert_eq!(latest().0, 61);
            assert_eq!(sum(&state, state.tables().ship_minutes), 5);
            // What was dated ahead goes in its time.
            (0..2).for_each(|_| store(&state, kept, jump + 7_300, &[line("b", jump, "5")]));
            assert_eq!(sum(&state, state.tables().ship_seconds), 0);
        }
    }

    #[test]
    fn a_batch_of_many_ships_deletes_the_old_rows_of_as_many_others() {
        let dir = tempfile::tempdir().unwrap();
        let (state, kept) = (state(dir.path()), Kept { seconds: 60, minutes: 0 });
        for (second, prefix) in [(0, "a"), (100, "b"), (200, "b")] {
            let of = |ship: i64| line(&format!("{prefix}{ship}"), second, "5");
            let lines: Vec<_> = (0..10).map(of).collect();
            store(&state, kept, second, &lines);
        }
        assert_eq!(sum(&state, state.tables().ship_seconds), 10);
    }

    #[test]
    fn what_is_dated_far_ahead_counts_and_is_nothing_else() {
        let day = 24 * 60 * 60;
        let account = account(&[line("a", day + 1, "5"), line("a", day - 1, "6")]);
        let [a] = account.ships.as_slice() else { panic!() };
        assert_eq!((a.count, a.seconds.len()), (2, 1));
        assert_eq!(a.dated.as_ref().unwrap().last_us / SECOND_US, NOW_S + day - 1);
    }
}
