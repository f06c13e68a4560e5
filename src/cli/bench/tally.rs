//! Is every accepted message in the files exactly once? Counted message by message.
//!
//! Two bits a message are not needed: the first sight sets a bit, and every further one is a
//! finding. A run of 10 million messages takes 1.2 MB.

use serde::Serialize;

use super::load::Fate;

/// Findings that are told one by one.
const TOLD_MAX: usize = 10;

/// Counts the messages of a run as they are met.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    fates: &'a [Fate],
    entries: u64,
    /// A bit for each message.
    seen: Vec<u64>,
    verdict: Verdict,
}

/// What was found, in messages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Verdict {
    /// Whether nothing is wrong.
    pub(super) ok: bool,
    /// Accepted and in a committed file.
    pub(super) in_files: u64,
    /// Accepted, but in no committed file.
    pub(super) lost: u64,
    /// Met again after the first time.
    pub(super) doubled: u64,
    /// In a file, though the answer said that nothing was stored, or never sent.
    pub(super) unasked: u64,
    /// Of requests without a clear answer, messages that are in files: each whole, or it is lost.
    pub(super) unanswered_in_files: u64,
    /// Some of what is wrong, in words.
    pub(super) findings: Vec<String>,
}

impl<'a> Tally<'a> {
    /// Expects the messages of requests of these fates, `entries` each.
    pub(super) fn new(fates: &'a [Fate], entries: u64) -> Self {
        let messages = fates.len() as u64 * entries;
        let words = usize::try_from(messages.div_ceil(64)).unwrap_or(0);
        Self { fates, entries, seen: vec![0; words], verdict: Verdict::default() }
    }

    /// A message of the run was met in the file `file`.
    pub(super) fn meet(&mut self, number: u64, file: &dyn std::fmt::Display) {
        let request = usize::try_from(number / self.entries).unwrap_or(usize::MAX);
        let fate = self.fates.get(request).copied();
        if matches!(fate, None | Some(Fate::Refused)) {
            self.verdict.unasked += 1;
            self.tell(|| format!("message {number} is in {file}, but was not accepted"));
        }
        let word = usize::try_from(number / 64).ok().and_then(|at| self.seen.get_mut(at));
        let Some(word) = word else { return };
        let bit = 1 << (number % 64);
        let again = *word & bit != 0;
        *word |= bit;
        if again {
            self.verdict.doubled += 1;
            self.tell(|| format!("message {number} is in {file}, and was met before"));
        }
    }

    /// The verdict, when all files are read.
    pub(super) fn finish(mut self) -> Verdict {
        for (request, fate) in (0_u64..).zip(self.fates) {
            let first = request * self.entries;
            let there = (first..first + self.entries).filter(|number| self.is_seen(*number));
            let there = there.count() as u64;
            let missing = self.entries - there;
            match fate {
                Fate::Accepted => self.verdict.in_files += there,
                Fate::Unknown => self.verdict.unanswered_in_files += there,
                Fate::Refused => continue,
            }
            if missing > 0 && (there > 0 || *fate == Fate::Accepted) {
                self.verdict.lost += missing;
                let end = first + self.entries;
                let lost = (first..end).find(|number| !self.is_seen(*number)).unwrap_or(first);
                self.tell(|| {
                    format!("{missing} messages of request {request} are in no file, as {lost}")
                });
            }
        }
        let Verdict { lost, doubled, unasked, .. } = self.verdict;
        self.verdict.ok = lost + doubled + unasked == 0;
        self.verdict
    }

    fn is_seen(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.seen.get(at));
        word.is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.verdict.findings.len() < TOLD_MAX {
            self.verdict.findings.push(text());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(fates: &[Fate], entries: u64, met: &[u64]) -> Verdict {
        let mut tally = Tally::new(fates, entries);
        met.iter().for_each(|number| tally.meet(*number, &"a file"));
        tally.finish()
    }

    #[test]
    fn an_unanswered_request_is_in_files_whole_or_not_at_all() {
        let fates = [Fate::Unknown, Fate::Accepted];
        assert!(verdict(&fates, 2, &[2, 3]).ok);
        let whole = verdict(&fates, 2, &[0, 1, 2, 3]);
        assert_eq!((whole.ok, whole.in_files, whole.unanswered_in_files), (true, 2, 2));
        let part = verdict(&fates, 2, &[1, 2, 3]);
        assert_eq!((part.ok, part.lost), (false, 1));
        assert_eq!(part.findings, ["1 messages of request 0 are in no file, as 0"]);
    }

    #[test]
    fn what_was_refused_or_never_sent_is_not_expected() {
        let found = verdict(&[Fate::Refused, Fate::Accepted], 1, &[0, 1, 2]);
        assert_eq!((found.ok, found.unasked, found.in_files), (false, 2, 1));
        assert!(verdict(&[Fate::Refused], 1, &[]).ok);
    }

    proptest! {
        #[test]
        fn any_message_lost_or_doubled_is_found(
            requests in 1..40_usize,
            entries in 1..20_u64,
            pick: prop::sample::Index,
        ) {
            let fates = vec![Fate::Accepted; requests];
            let all: Vec<_> = (0..requests as u64 * entries).collect();
            let right = verdict(&fates, entries, &all);
            prop_assert!(right.ok && right.in_files == all.len() as u64);
            let one = pick.index(all.len());
            let mut less = all.clone();
            less.remove(one);
            let found = verdict(&fates, entries, &less);
            prop_assert!(!found.ok && found.lost == 1 && found.doubled == 0);
            let mut more = all;
            more.push(one as u64);
            let found = verdict(&fates, entries, &more);
            prop_assert!(!found.ok && found.doubled == 1 && found.lost == 0);
        }
    }
}
