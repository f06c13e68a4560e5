//! Whether a server hears the workers: only then may it take those for dead that it does not hear.
//!
//! Of many servers one gets what workers say, and nobody tells it that it is the one. So each says
//! something to itself, by way of the same queue: who hears its own words soon has heard all that
//! was said before them.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::service::held;
use crate::task::WorkerId;
use crate::tasks::keeper::Hearing;

/// How often a server listens for itself.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(500);
/// A server that has not heard its own words of so long ago does not hear.
const STALE: Duration = Duration::from_millis(1500);
/// Its own words that may be on their way.
const PROBES_MAX: usize = 16;

/// Listens for the server's own words.
#[derive(Debug, Default)]
pub(super) struct Ear {
    own: WorkerId,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    said: VecDeque<(u64, Instant)>,
    /// When that was said which was heard last, and since when it has always been heard soon.
    heard: Option<(Instant, Instant)>,
}

impl Ear {
    /// Who listens.
    pub(super) const fn own(&self) -> WorkerId {
        self.own
    }

    /// The number of what is said next.
    pub(super) fn probe(&self, now: Instant) -> u64 {
        let mut inner = held(&self.inner);
        inner.last += 1;
        let number = inner.last;
        inner.said.push_back((number, now));
        if inner.said.len() > PROBES_MAX {
            inner.said.pop_front();
        }
        number
    }

    /// Its own words were heard, and all before them.
    pub(super) fn heard(&self, number: u64, now: Instant) {
        let mut inner = held(&self.inner);
        let Some(&(_, said_at)) = inner.said.iter().find(|(said, _)| *said == number) else {
            return;
        };
        inner.said.retain(|(said, _)| *said > number);
        let is_soon = |from, to: Instant| to.saturating_duration_since(from) <= STALE;
        inner.heard = match inner.heard {
            _ if !is_soon(said_at, now) => None,
            Some((last, since)) if is_soon(last, said_at) => Some((said_at, since)),
            _ => Some((said_at, said_at)),
        };
    }

    fn hearing_at(&self, now: Instant) -> Option<Instant> {
        let (last, since) = held(&self.inner).heard?;
        (now.saturating_duration_since(last) <= STALE).then_some(since)
    }
}

impl Hearing for Ear {
    fn hearing_since(&self) -> Option<Instant> {
        self.hearing_at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn who_hears_its_own_words_soon_hears_and_who_hears_them_late_or_not_does_not() {
        let (ear, start) = (Ear::default(), Instant::now());
        assert_eq!(ear.hearing_at(start), None);
        for step in 0..10 {
            let number = ear.probe(at(start, step * 500));
            ear.heard(number, at(start, step * 500 + 10));
        }
        assert_eq!(ear.hearing_at(at(start, 4600)), Some(start));
        assert_eq!(ear.hearing_at(at(start, 6001)), None, "the last was said at 4500");
        let late = ear.probe(at(start, 7000));
        ear.heard(late, at(start, 9000));
        assert_eq!(ear.hearing_at(at(start, 9000)), None);
        let number = ear.probe(at(start, 9500));
        ear.heard(number, at(start, 9600));
        assert_eq!(ear.hearing_at(at(start, 9600)), Some(at(start, 9500)), "it begins anew");
        ear.heard(77, at(start, 9700));
    }
}
