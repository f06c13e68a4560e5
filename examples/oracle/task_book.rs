//! The ledger of tasks as the checker knows it.
//!
//! Lines, in the order in which things happened: `sent <request> <id>:<work>…` before a request
//! leaves (the id is `-` where the server gives it), then `acked <request> [<id>]`, `refused
//! <request> <status>` or `unknown <request>`; `cancel <id>` before a task is cancelled, then
//! `cancelled <id>` or `late <id>` (it had ended), or nothing, where the answer got lost.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::book::Outcome;
use crate::work::Work;

/// Whether a task was cancelled, as far as the client knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cancel {
    #[default]
    Never,
    /// It was tried, and the answer got lost.
    Tried,
    /// So the server said.
    Done,
    /// It had ended, the server said.
    Late,
}

/// A task of the ledger.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) work: Work,
    pub(crate) request: usize,
    pub(crate) cancel: Cancel,
}

/// A request of the ledger.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) ids: Vec<String>,
    /// What a task does to which the server gives the id.
    unnamed: Option<Work>,
}

/// Everything that a ledger says.
#[derive(Default)]
pub(crate) struct TaskBook {
    pub(crate) requests: Vec<Request>,
    pub(crate) entries: HashMap<String, Entry>,
    names: HashMap<String, usize>,
}

impl TaskBook {
    /// Reads the ledger at `path`. Half a line at its end was never relied on and is left out.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let place = |what: String| format!("{}: {what}", path.display());
        let file = std::fs::File::open(path).map_err(|error| place(error.to_string()))?;
        let mut reader = BufReader::new(file);
        let (mut book, mut line) = (Self::default(), String::new());
        while reader.read_line(&mut line).map_err(|error| place(error.to_string()))? > 0 {
            let Some(whole) = line.strip_suffix('\n') else { break };
            book.add(whole).map_err(|what| place(format!("{whole}: {what}")))?;
            line.clear();
        }
        Ok(book)
    }

    /// Adds one line of a ledger.
    pub(crate) fn add(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match kind {
            "sent" => self.add_request(name, words),
            "acked" => self.answered(name, Outcome::Acked, words.next()),
            "refused" => self.answered(name, Outcome::Refused, None),
            "unknown" => self.answered(name, Outcome::Unknown, None),
            "cancel" => self.cancel(name, Cancel::Tried),
            "cancelled" => self.cancel(name, Cancel::Done),
            "late" => self.cancel(name, Cancel::Late),
            _ => Err("no kind of line".to_owned()),
        }
    }

    fn add_request<'a>(
        &mut self,
        name: &str,
        tasks: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let number = self.requests.len();
        if self.names.insert(name.to_owned(), number).is_some() {
            return Err("the request is there twice".to_owned());
        }
        let (mut ids, mut unnamed) = (Vec::new(), None);
        for task in tasks {
            let (id, work) = task.split_once(':').ok_or("a task without its work")?;
            let work = Work::parse(work).ok_or_else(|| format!("{work:?} is no work"))?;
            if id == "-" {
                unnamed = Some(work);
            } else {
                self.add_entry(id, work, number)?;
                ids.push(id.to_owned());
            }
        }
        let name = name.to_owned();
        self.requests.push(Request { name, outcome: Outcome::Sent, ids, unnamed });
        Ok(())
    }

    fn add_entry(&mut self, id: &str, work: Work, request: usize) -> Result<(), String> {
        let entry = Entry { work, request, cancel: Cancel::Never };
        match self.entries.insert(id.to_owned(), entry) {
            None => Ok(()),
            Some(_) => Err(format!("id {id} is there twice")),
        }
    }

    fn answered(&mut self, name: &str, outcome: Outcome, id: Option<&str>) -> Result<(), String> {
        let number = *self.names.get(name).ok_or("it was never sent")?;
        let request = self.requests.get_mut(number).ok_or("it was never sent")?;
        request.outcome = request.outcome.max(outcome);
        if let (Some(id), Some(work)) = (id, request.unnamed.take()) {
            request.ids.push(id.to_owned());
            self.add_entry(id, work, number)?;
        }
        Ok(())
    }

    fn cancel(&mut self, id: &str, cancel: Cancel) -> Result<(), String> {
        self.entries.get_mut(id).ok_or("it was never sent")?.cancel = cancel;
        Ok(())
    }

    /// What became of the request with this number.
    pub(crate) fn outcome(&self, number: usize) -> Outcome {
        self.requests.get(number).map_or(Outcome::Sent, |request| request.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cancel, TaskBook};
    use crate::book::Outcome;

    #[test]
    fn tasks_are_known_by_the_ids_that_were_sent_or_answered() {
        let mut book = TaskBook::default();
        for line in [
            "sent r1 a:echo/3 b:slow/20",
            "sent r2 -:factorial/5",
            "acked r2 c",
            "cancel b",
            "cancelled b",
            "unknown r1",
        ] {
            book.add(line).unwrap();
        }
        assert_eq!((book.outcome(0), book.outcome(1)), (Outcome::Unknown, Outcome::Acked));
        assert_eq!(book.entries["b"].cancel, Cancel::Done);
        assert_eq!(book.entries["c"].work.to_string(), "factorial/5");
        assert_eq!((book.entries["c"].request, book.requests[1].ids.len()), (1, 1));
    }

    #[test]
    fn a_broken_ledger_is_an_error() {
        for lines in [
            vec!["sent r1 a:echo/1", "sent r1 b:echo/1"],
            vec!["sent r1 a:echo/1", "sent r2 a:echo/1"],
            vec!["acked r1"],
            vec!["cancel a"],
            vec!["sent r1 a"],
            vec!["sent r1 a:ecko/1"],
            vec!["took r1"],
            vec![""],
        ] {
            let mut book = TaskBook::default();
            let taken = lines.iter().try_for_each(|line| book.add(line));
            assert!(taken.is_err(), "{lines:?} was taken");
        }
    }
}
