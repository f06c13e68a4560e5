//! What is wished of ships, and the ledger of it as the checker knows it. Each wish is for a ship
//! of its own, so that its name tells them apart.
//!
//! Lines, in the order in which things happened: `sent <ship> <wish>` before a request leaves, then
//! `acked <ship> <id>`, `refused <ship> <status>` or `unknown <ship>`; `cancel <ship>` before a
//! schedule is cancelled, then `cancelled <ship>` or `late <ship>` (it had ended); `delete <ship>`
//! and `deleted <ship>` likewise; or nothing, where the answer got lost.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::book::Outcome;
use crate::random::SplitMix64;
use crate::task_book::Cancel;

/// Windows that a schedule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// When the first begins, in milliseconds since 1970.
    pub(crate) start_ms: u64,
    pub(crate) duration_seconds: u64,
    pub(crate) again: Option<Again>,
}

/// How it recurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) every_seconds: u64,
    pub(crate) times: u64,
    pub(crate) overlap: String,
    pub(crate) catch_up: String,
}

impl Wish {
    /// One that begins soon after `now_ms`: short mostly, or long enough to survive its capture.
    pub(crate) fn draw(random: &mut SplitMix64, now_ms: u64) -> Self {
        let duration_seconds = match random.below(5) {
            0 => random.between(6, 12),
            _ => random.between(1, 3),
        };
        let mut pick = |words: [&str; 3]| {
            let number = usize::try_from(random.below(3)).unwrap_or(0);
            words.get(number).copied().unwrap_or_default().to_owned()
        };
        let (overlap, catch_up) =
            (pick(["skip", "allow", "replace"]), pick(["skip", "latest", "all"]));
        let again = random.chance(25).then(|| Again {
            every_seconds: random.between(1, 3),
            times: random.between(1, 5),
            overlap,
            catch_up,
        });
        Self { start_ms: now_ms + random.between(1000, 3000), duration_seconds, again }
    }

    /// The request's body.
    pub(crate) fn body(&self, ship: &str) -> String {
        let Self { start_ms, duration_seconds, again } = self;
        let start = time(*start_ms);
        let mut body =
            format!(r#""ship_name":"{ship}","start_time":"{start}","duration":{duration_seconds}"#);
        if let Some(Again { every_seconds, times, overlap, catch_up }) = again {
            let until = time(self.due_ms(times.saturating_sub(1)));
            body += &format!(r#","every_seconds":{every_seconds},"until":"{until}""#);
            body += &format!(r#","overlap":"{overlap}","catch_up":"{catch_up}""#);
        }
        format!("{{{body}}}")
    }

    /// When time `number`, counted from 0, is due.
    pub(crate) fn due_ms(&self, number: u64) -> u64 {
        let every_seconds = self.again.as_ref().map_or(0, |again| again.every_seconds);
        self.start_ms + number * every_seconds * 1000
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('/');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (start_ms, duration_seconds) = (number()?, number()?);
        let Some(every_seconds) = number() else {
            return Some(Self { start_ms, duration_seconds, again: None });
        };
        let times = number()?;
        let mut word = || words.next().map(str::to_owned);
        let again = Some(Again { every_seconds, times, overlap: word()?, catch_up: word()? });
        Some(Self { start_ms, duration_seconds, again })
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start_ms, self.duration_seconds)?;
        let Some(again) = &self.again else { return Ok(()) };
        let Again { every_seconds, times, overlap, catch_up } = again;
        write!(f, "/{every_seconds}/{times}/{overlap}/{catch_up}")
    }
}

/// A time as RFC 3339 has it, with milliseconds and a Z; later ones are greater as text, too.
pub(crate) fn time(since_1970_ms: u64) -> String {
    let (days, ms) = (since_1970_ms / 86_400_000, since_1970_ms % 86_400_000);
    // Years that begin in March, of eras of 400 years (Hinnant, days_from_civil).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// A schedule of the ledger.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) wish: Wish,
    pub(crate) outcome: Outcome,
    pub(crate) id: Option<String>,
    pub(crate) cancel: Cancel,
    pub(crate) delete: Cancel,
}

/// Everything that a ledger says, by ship.
#[derive(Default)]
pub(crate) struct ShipBook {
    pub(crate) entries: HashMap<String, Entry>,
}

impl ShipBook {
    /// Reads the ledger at `path`. Half a line at its end was never relied on and is left out.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let place = |what: String| format!("{}: {what}", path.display());
        let file = std::fs::File::open(path).map_err(|error| place(error.to_string()))?;
        let mut book = Self::default();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|error| place(error.to_string()))?;
            let line = String::from_utf8_lossy(&line);
            book.add(&line).map_err(|what| place(format!("{line}: {what}")))?;
        }
        Ok(book)
    }

    /// Adds one line of a ledger.
    pub(crate) fn add(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let (kind, ship) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let more = words.next();
        if kind == "sent" {
            let wish = more.and_then(Wish::parse).ok_or("it has no wish")?;
            let (outcome, never) = (Outcome::Sent, Cancel::Never);
            let entry = Entry { wish, outcome, id: None, cancel: never, delete: never };
            return match self.entries.insert(ship.to_owned(), entry) {
                None => Ok(()),
                Some(_) => Err("the ship is there twice".to_owned()),
            };
        }
        let entry = self.entries.get_mut(ship).ok_or("it was never sent")?;
        match kind {
            "acked" => {
                entry.outcome = Outcome::Acked;
                entry.id = Some(more.ok_or("it has no id")?.to_owned());
            }
            "refused" => entry.outcome = Outcome::Refused,
            "unknown" => entry.outcome = Outcome::Unknown,
            "cancel" => entry.cancel = Cancel::Tried,
            "cancelled" => entry.cancel = Cancel::Done,
            "late" => entry.cancel = Cancel::Late,
            "delete" => entry.delete = Cancel::Tried,
            "deleted" => entry.delete = Cancel::Done,
            _ => return Err("no kind of line".to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ShipBook, Wish, time};
    use crate::book::Outcome;
    use crate::json;
    use crate::random::SplitMix64;
    use crate::task_book::Cancel;

    #[test]
    fn times_are_written_as_calendars_have_them() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_795_332_600_123, "2026-11-22T07:30:00.123Z"),
            (1_798_761_599_999, "2026-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(ms), expected);
        }
    }

    #[test]
    fn wishes_are_json_and_read_back_from_the_ledger() {
        let mut random = SplitMix64::new(1, 0);
        for _ in 0..200 {
            let wish = Wish::draw(&mut random, 1_795_332_600_123);
            assert_eq!(Wish::parse(&wish.to_string()), Some(wish.clone()));
            json::members(&wish.body("a"), &mut |_, _| ()).unwrap();
        }
    }

    #[test]
    fn the_last_word_on_a_ship_counts_and_a_broken_ledger_is_an_error() {
        let mut book = ShipBook::default();
        for line in ["sent a 5/1", "acked a 7", "cancel a", "late a", "sent b 5/1/2/3/skip/all"] {
            book.add(line).unwrap();
        }
        let (a, b) = (&book.entries["a"], &book.entries["b"]);
        assert_eq!((a.outcome, a.cancel, a.delete), (Outcome::Acked, Cancel::Late, Cancel::Never));
        assert_eq!((b.outcome, b.wish.due_ms(2)), (Outcome::Sent, 4005));
        for line in ["sent a 5/1", "sent c", "sent c 5/x", "acked b", "acked c 9", "lost a", ""] {
            assert!(book.add(line).is_err(), "{line} was taken");
        }
    }
}
