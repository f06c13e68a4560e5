//! The ledger as the checker knows it: every request with its outcome, every id with its request.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::names::Names;

/// What the load client learnt about a request. The strongest line of the ledger counts: a refusal
/// says that nothing was stored only if no earlier try of the same request got lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Sent; no second line.
    Sent,
    /// Refused: nothing of it may be in the files.
    Refused,
    /// No answer, or one that leaves it open: all of it or nothing may be in the files.
    Unknown,
    /// Answered 201: all of it must be in the files.
    Acked,
}

/// One request of the ledger.
pub(crate) struct Request {
    pub(crate) outcome: Outcome,
    /// How many entries it has.
    pub(crate) entries: u32,
    /// How many of them were found, each counted once.
    pub(crate) present: u32,
}

/// One entry of the ledger.
pub(crate) struct Entry {
    pub(crate) request: u32,
    /// How often it was found.
    pub(crate) seen: u32,
    /// The number of the file where it was found first.
    pub(crate) first_file: u32,
}

/// Everything that the ledgers say, and what was found of it.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) request_names: Names,
    pub(crate) requests: Vec<Request>,
    pub(crate) ids: Names,
    pub(crate) entries: Vec<Entry>,
}

impl Book {
    /// Adds the ledger at `path`. Half a line at its end was never relied on and is left out.
    pub(crate) fn read(&mut self, path: &Path) -> Result<(), String> {
        let place = |what: String| format!("{}: {what}", path.display());
        let file = std::fs::File::open(path).map_err(|error| place(error.to_string()))?;
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let mut line = String::new();
        let mut number = 0_u64;
        while reader.read_line(&mut line).map_err(|error| place(error.to_string()))? > 0 {
            number += 1;
            let Some(whole) = line.strip_suffix('\n') else { break };
            self.add(whole).map_err(|what| place(format!("line {number}: {what}")))?;
            line.clear();
        }
        Ok(())
    }

    /// Adds one line of a ledger.
    pub(crate) fn add(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let request = words.next().filter(|name| !name.is_empty()).ok_or("no request is named")?;
        let outcome = match kind {
            "sent" => return self.add_request(request, words),
            "acked" => Outcome::Acked,
            "refused" => Outcome::Refused,
            "unknown" => Outcome::Unknown,
            _ => return Err(format!("{kind:?} is no kind of line")),
        };
        let number = self.request_names.find(request);
        let known = number.and_then(|number| self.request_mut(number));
        let known = known.ok_or_else(|| format!("request {request} was never sent"))?;
        known.outcome = known.outcome.max(outcome);
        Ok(())
    }

    fn add_request<'a>(
        &mut self,
        name: &str,
        ids: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let inserted = self.request_names.insert(name);
        let request = inserted.ok_or_else(|| format!("request {name} is there twice"))?;
        let mut entries = 0;
        for id in ids.filter(|id| !id.is_empty()) {
            self.ids.insert(id).ok_or_else(|| format!("id {id} is there twice"))?;
            self.entries.push(Entry { request, seen: 0, first_file: 0 });
            entries += 1;
        }
        self.requests.push(Request { outcome: Outcome::Sent, entries, present: 0 });
        Ok(())
    }

    /// The request with this number.
    pub(crate) fn request_mut(&mut self, number: u32) -> Option<&mut Request> {
        self.requests.get_mut(usize::try_from(number).ok()?)
    }

    /// The entry with this number.
    pub(crate) fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number).ok()?)
    }

    /// What became of the request with this number.
    pub(crate) fn outcome(&self, number: u32) -> Outcome {
        let request = usize::try_from(number).ok().and_then(|number| self.requests.get(number));
        request.map_or(Outcome::Sent, |request| request.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::{Book, Outcome};

    #[test]
    fn the_strongest_outcome_counts() {
        let mut book = Book::default();
        for line in ["sent r1 a b", "sent r2 c", "sent r3", "unknown r1", "refused r1 422"] {
            book.add(line).unwrap();
        }
        assert_eq!(book.outcome(0), Outcome::Unknown);
        book.add("acked r1").unwrap();
        book.add("refused r2 400").unwrap();
        let outcomes: Vec<_> = (0..3).map(|number| book.outcome(number)).collect();
        assert_eq!(outcomes, [Outcome::Acked, Outcome::Refused, Outcome::Sent]);
        assert_eq!(book.entries.iter().map(|entry| entry.request).collect::<Vec<_>>(), [0, 0, 1]);
    }

    #[test]
    fn a_broken_ledger_is_an_error_and_half_a_line_at_its_end_is_not() {
        for lines in [
            vec!["sent r1 a", "sent r1 b"],
            vec!["sent r1 a", "sent r2 a"],
            vec!["acked r1"],
            vec!["sent"],
            vec!["took r1"],
            vec![""],
        ] {
            let mut book = Book::default();
            let taken = lines.iter().try_for_each(|line| book.add(line));
            assert!(taken.is_err(), "{lines:?} was taken");
        }
        let path = std::env::temp_dir().join(format!("oracle-book-{}", std::process::id()));
        std::fs::write(&path, "sent r1 a b\nack").unwrap();
        let mut book = Book::default();
        book.read(&path).unwrap();
        assert_eq!(book.outcome(0), Outcome::Sent);
        std::fs::remove_file(&path).unwrap();
    }
}
