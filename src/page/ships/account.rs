//! The account of a capture, as it stands in the result of its task.

use serde::Deserialize;

use crate::page::format::Count;
use crate::rooms::telemetry::capture::account::Sums;
use crate::task::ResultHead;

/// What became of every datagram: sent = stored + malformed + truncated + lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Account(Sums);

/// A figure of it, and what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// What is counted.
    pub name: &'static str,
    /// How many; `None`, if nobody knows.
    pub count: Option<Count>,
    /// Whether it is to be looked at.
    pub is_bad: bool,
}

impl Account {
    /// That of a result, if it is one.
    #[must_use]
    pub fn read(result: &ResultHead) -> Option<Self> {
        serde_json::from_slice(&result.head).ok().filter(|_| result.is_whole())
    }

    /// The figures of the sum, and those beside it.
    #[must_use]
    pub fn figures(&self) -> [Figure; 8] {
        let known = |name, count, can_be_bad| Figure {
            name,
            count: Some(Count(count)),
            is_bad: can_be_bad && count > 0,
        };
        let maybe = |name, count: Option<u64>, can_be_bad| Figure {
            name,
            count: count.map(Count),
            is_bad: can_be_bad && count.is_some_and(|count| count > 0),
        };
        [
            maybe("sent", self.0.sent, false),
            known("stored", self.0.stored, false),
            known("malformed", self.0.malformed, true),
            known("truncated", self.0.truncated, true),
            maybe("lost", self.0.lost, true),
            known("duplicates", self.0.duplicates, false),
            known("foreign", self.0.foreign, false),
            known("kernel drops", self.0.dropped_by_kernel, true),
        ]
    }

    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        let stored = Count(self.0.stored);
        let bad = self.0.malformed + self.0.truncated;
        let unread = if bad > 0 { format!(", {} unreadable", Count(bad)) } else { String::new() };
        match (self.0.sent, self.0.lost) {
            (Some(sent), Some(lost)) => {
                format!("{stored} of {} stored, {} lost{unread}", Count(sent), Count(lost))
            }
            _ => format!("{stored} stored{unread}; how many were sent is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Option<Account> {
        let head = text.as_bytes().to_vec();
        Account::read(&ResultHead { bytes: head.len() as u64, head })
    }

    #[test]
    fn what_a_capture_says_is_read_and_what_others_say_is_not() {
        let text = r#"{"ship_name":"TARDIS","sent":10,"stored":7,"bytes":1,"malformed":1,
            "truncated":0,"lost":2,"duplicates":3,"foreign":0,"dropped_by_kernel":0}"#;
        let read = account(text).unwrap();
        assert_eq!(read.words(), "7 of 10 stored, 2 lost, 1 unreadable");
        let bad: Vec<_> = read.figures().into_iter().filter(|figure| figure.is_bad).collect();
        assert_eq!(bad.iter().map(|figure| figure.name).collect::<Vec<_>>(), ["malformed", "lost"]);
        let uncounted = text.replace("\"sent\":10", "\"sent\":null").replace(":2,", ":null,");
        let words = account(&uncounted).unwrap().words();
        assert_eq!(words, "7 stored, 1 unreadable; how many were sent is not known");
        assert_eq!(account("{\"sent\":1}"), None);
        assert_eq!(account("x"), None);
    }
}
