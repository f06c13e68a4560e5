//! What is done about times that are due: pure, so that every case can be tried.
//!
//! A time is started unless it is late, by more than its schedule allows; unless what it started
//! before still runs; or unless too many are due at once. What is not started is skipped, if the
//! schedule wants it so, or missed. Times in a row of which the same is decided are one entry.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::store::Millis;
use crate::store::schedules::Times;

/// How many times are started at once at most.
pub(super) const STARTS_MAX: usize = 100;
/// How many due times are gone through at once: the rest is decided right after.
pub(super) const DUE_MAX: u64 = 1_000_000;

const AWAY: &str = "no scheduler was there at its time, or in time after it";
const TOO_MANY: &str = "too many were due at once";
const STILL_RUNS: &str = "what was started before had not ended";
const EARLIER: &str = "an earlier one was due at once, and was started";
const REPLACED: &str = "a later one was due at once, and is started in its place";

/// What becomes of times that are late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CatchUp {
    /// They are missed.
    #[default]
    Skip,
    /// If no other is started, the last one is started late.
    Latest,
    /// They are started late, so many at once as may be and the overlap allows.
    All,
}

/// What becomes of a time while what was started before still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Overlap {
    /// It is skipped.
    #[default]
    Skip,
    /// Both run.
    Allow,
    /// What was started before is cancelled.
    Replace,
}

/// A schedule that is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    /// Its first time of which is to be decided.
    pub(super) next_at_ms: Millis,
    /// Times from then on of which something was decided before, in their order.
    pub(super) decided: &'a [Millis],
    /// The wall time.
    pub(super) now_ms: Millis,
    /// By how much a time may be late, and is started all the same.
    pub(super) lateness_ms: Millis,
    /// What it has started before has not ended.
    pub(super) previous_runs: bool,
    pub(super) catch_up: CatchUp,
    pub(super) overlap: Overlap,
}

/// What is done about some times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The one is started, as if it were due at this time.
    Start(Millis),
    Skip(&'static str),
    Miss(&'static str),
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decided {
    /// In the order of the times.
    pub(super) entries: Vec<(Times, What)>,
    /// The first time of which nothing is decided now; `None`: there is none.
    pub(super) next_at_ms: Option<Millis>,
    /// What was started before is to be cancelled.
    pub(super) replaces: bool,
}

/// Times that are due.
struct Due<'a> {
    /// Those that are too many, and come first.
    passed: Row<'a>,
    /// The last ones.
    last: VecDeque<Millis>,
    next_at_ms: Option<Millis>,
}

/// Decides about every time that is due; `after` tells the time that follows one.
pub(super) fn decide(moment: &Moment<'_>, after: impl Fn(Millis) -> Option<Millis>) -> Decided {
    let Due { passed: mut missed, last, next_at_ms } = gather(moment, after);
    let is_late = |due_ms: Millis| moment.now_ms.saturating_sub(due_ms) > moment.lateness_ms;
    let in_time = last.iter().position(|due_ms| !is_late(*due_ms)).unwrap_or(last.len());
    let first = match moment.catch_up {
        CatchUp::All => 0,
        CatchUp::Latest if in_time == last.len() && moment.decided.is_empty() => {
            last.len().saturating_sub(1)
        }
        CatchUp::Skip | CatchUp::Latest => in_time,
    };
    last.iter().take(first).for_each(|due_ms| missed.add(*due_ms));
    let why = |times: &Times| match moment.catch_up {
        CatchUp::Skip | CatchUp::Latest if is_late(times.last_due_at_ms) => AWAY,
        _ => TOO_MANY,
    };
    let miss = |times: Times| (times.clone(), What::Miss(why(&times)));
    let mut entries: Vec<(Times, What)> = missed.entries.into_iter().map(miss).collect();
    let wanted: Vec<Millis> = last.into_iter().skip(first).collect();
    let start = |due_ms: Millis| {
        let at_ms = if is_late(due_ms) { moment.now_ms } else { due_ms };
        (one(due_ms), What::Start(at_ms))
    };
    let skip = |due: &[Millis], why| {
        let mut row = Row::new(moment);
        due.iter().for_each(|due_ms| row.add(*due_ms));
        row.entries.into_iter().map(move |times| (times, What::Skip(why)))
    };
    match (moment.overlap, wanted.as_slice()) {
        (Overlap::Allow, all) => entries.extend(all.iter().copied().map(start)),
        (Overlap::Skip, all) if moment.previous_runs => entries.extend(skip(all, STILL_RUNS)),
        (Overlap::Skip, [first, rest @ ..]) => {
            entries.push(start(*first));
            entries.extend(skip(rest, EARLIER));
        }
        (Overlap::Replace, [earlier @ .., last]) => {
            entries.extend(skip(earlier, REPLACED));
            entries.push(start(*last));
        }
        (Overlap::Skip | Overlap::Replace, []) => {}
    }
    let replaces = moment.overlap == Overlap::Replace && moment.previous_runs && !wanted.is_empty();
    Decided { entries, next_at_ms, replaces }
}

fn gather<'a>(moment: &Moment<'a>, after: impl Fn(Millis) -> Option<Millis>) -> Due<'a> {
    let (passed, last) = (Row::new(moment), VecDeque::new());
    let mut due = Due { passed, last, next_at_ms: Some(moment.next_at_ms) };
    let mut looked_at = 0;
    while let Some(due_ms) = due.next_at_ms.filter(|due_ms| *due_ms <= moment.now_ms) {
        if looked_at == DUE_MAX {
            // More follow: none of these is among the last.
            due.last.drain(..).for_each(|due_ms| due.passed.add(due_ms));
            break;
        }
        looked_at += 1;
        if moment.decided.binary_search(&due_ms).is_err() {
            due.last.push_back(due_ms);
        }
        if due.last.len() > STARTS_MAX
            && let Some(first) = due.last.pop_front()
        {
            due.passed.add(first);
        }
        due.next_at_ms = after(due_ms);
    }
    due
}

/// Times in a row of which the same is decided.
struct Row<'a> {
    decided: &'a [Millis],
    entries: Vec<Times>,
}

impl<'a> Row<'a> {
    const fn new(moment: &Moment<'a>) -> Self {
        Self { decided: moment.decided, entries: Vec::new() }
    }

    /// The row goes on, unless something else was decided in between.
    fn add(&mut self, due_ms: Millis) {
        let before = |at_ms: Millis| self.decided.partition_point(|decided| *decided < at_ms);
        match self.entries.last_mut() {
            Some(times) if before(times.last_due_at_ms) == before(due_ms) => {
                times.last_due_at_ms = due_ms;
                times.count += 1;
            }
            _ => self.entries.push(one(due_ms)),
        }
    }
}

const fn one(due_at_ms: Millis) -> Times {
    Times { due_at_ms, last_due_at_ms: due_at_ms, count: 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE_MS: Millis = 60_000;

    /// Due each minute from 0 on, and looked at some minutes and milliseconds later.
    fn moment(minutes: Millis, ms: Millis) -> Moment<'static> {
        Moment {
            next_at_ms: 0,
            decided: &[],
            now_ms: minutes * MINUTE_MS + ms,
            lateness_ms: 30_000,
            previous_runs: false,
            catch_up: CatchUp::Skip,
            overlap: Overlap::Skip,
        }
    }

    fn minutely(moment: &Moment<'_>) -> Decided {
        decide(moment, |due_ms| Some(due_ms + MINUTE_MS))
    }

    fn times(first: Millis, last: Millis) -> Times {
        Times {
            due_at_ms: first * MINUTE_MS,
            last_due_at_ms: last * MINUTE_MS,
            count: (last - first).unsigned_abs() + 1,
        }
    }

    #[test]
    fn what_is_due_is_started_and_what_is_not_waits() {
        let decided = minutely(&moment(0, 7));
        assert_eq!(decided.entries, [(times(0, 0), What::Start(0))]);
        assert_eq!((decided.next_at_ms, decided.replaces), (Some(MINUTE_MS), false));
        let early = minutely(&Moment { next_at_ms: 9, now_ms: 8, ..moment(0, 0) });
        assert_eq!((early.entries, early.next_at_ms), (vec![], Some(9)));
        let last = decide(&moment(0, 7), |_| None);
        assert_eq!((last.entries.len(), last.next_at_ms), (1, None));
    }

    #[test]
    fn a_long_absence_is_one_entry_with_a_count() {
        let away = moment(60 * 24 * 30, 45_000);
        let last = 60 * 24 * 30;
        let decided = minutely(&away);
        assert_eq!(decided.entries, [(times(0, last), What::Miss(AWAY))]);
        assert_eq!(decided.next_at_ms, Some((last + 1) * MINUTE_MS));

        let latest = minutely(&Moment { catch_up: CatchUp::Latest, ..away });
        let expected =
            [(times(0, last - 1), What::Miss(AWAY)), (times(last, last), What::Start(away.now_ms))];
        assert_eq!(latest.entries, expected);
        // One that is in time is started, and makes up for those that are not.
        let in_time = minutely(&Moment { catch_up: CatchUp::Latest, ..moment(last, 5) });
        assert_eq!(in_time.entries[1], (times(last, last), What::Start(last * MINUTE_MS)));
        assert_eq!(in_time.entries.len(), 2);
    }

    #[test]
    fn everything_is_caught_up_with_as_far_as_it_may_be() {
        let all = Moment { catch_up: CatchUp::All, overlap: Overlap::Allow, ..moment(149, 45_000) };
        let decided = minutely(&all);
        assert_eq!(decided.entries[0], (times(0, 49), What::Miss(TOO_MANY)));
        assert_eq!(decided.entries.len(), 1 + STARTS_MAX);
        assert_eq!(decided.entries[1], (times(50, 50), What::Start(all.now_ms)));
        // Where only one may run, only one starts.
        let one = minutely(&Moment { overlap: Overlap::Skip, ..all });
        assert_eq!(one.entries[2], (times(51, 149), What::Skip(EARLIER)));
        let last = minutely(&Moment { overlap: Overlap::Replace, ..all });
        assert_eq!(last.entries[1], (times(50, 148), What::Skip(REPLACED)));
        assert_eq!(last.entries[2], (times(149, 149), What::Start(all.now_ms)));
    }

    #[test]
    fn what_still_runs_is_left_alone_or_replaced() {
        let runs = Moment { previous_runs: true, ..moment(0, 7) };
        assert_eq!(minutely(&runs).entries, [(times(0, 0), What::Skip(STILL_RUNS))]);
        let allowed = minutely(&Moment { overlap: Overlap::Allow, ..runs });
        assert_eq!((allowed.entries[0].1.clone(), allowed.replaces), (What::Start(0), false));
        let replaced = minutely(&Moment { overlap: Overlap::Replace, ..runs });
        assert_eq!((replaced.entries[0].1.clone(), replaced.replaces), (What::Start(0), true));
        let away = Moment { overlap: Overlap::Replace, ..runs };
        let away = minutely(&Moment { now_ms: 45_000, ..away });
        assert!(!away.replaces, "nothing is started in its place");
    }

    #[test]
    fn a_clock_put_forward_is_an_absence_and_one_put_back_starts_nothing() {
        let before = moment(0, 7);
        let decided = minutely(&before);
        let next_at_ms = decided.next_at_ms.unwrap();
        let forward = Moment { next_at_ms, ..moment(60 * 24, 45_000) };
        let jumped = minutely(&forward);
        assert_eq!(jumped.entries, [(times(1, 60 * 24), What::Miss(AWAY))]);
        let back = Moment { next_at_ms: jumped.next_at_ms.unwrap(), ..before };
        assert_eq!(minutely(&back).entries, []);
    }

    #[test]
    fn what_was_decided_before_is_left_out() {
        let decided = [10, 11, 60].map(|minute| minute * MINUTE_MS);
        let known = Moment { decided: &decided, ..moment(60, 45_000) };
        let missed = |first, last| (times(first, last), What::Miss(AWAY));
        let expected = [missed(0, 9), missed(12, 59)];
        assert_eq!(minutely(&known).entries, expected);
        // The latest was started already.
        assert_eq!(minutely(&Moment { catch_up: CatchUp::Latest, ..known }).entries, expected);
        let runs = Moment { previous_runs: true, overlap: Overlap::Replace, ..known };
        let again = minutely(&Moment { next_at_ms: 60 * MINUTE_MS, ..runs });
        assert_eq!((again.entries, again.replaces), (vec![], false));
        assert_eq!(again.next_at_ms, Some(61 * MINUTE_MS));
    }

    #[test]
    fn more_than_can_be_gone_through_is_decided_in_pieces() {
        let seconds = |due_ms: Millis| Some(due_ms + 1);
        let now_ms = Millis::try_from(DUE_MAX).unwrap() + 50;
        let moment = Moment {
            now_ms,
            lateness_ms: 0,
            catch_up: CatchUp::All,
            overlap: Overlap::Allow,
            ..moment(0, 0)
        };
        let first = decide(&moment, seconds);
        assert_eq!((first.entries.len(), first.entries[0].0.count), (1, DUE_MAX));
        let rest = decide(&Moment { next_at_ms: first.next_at_ms.unwrap(), ..moment }, seconds);
        assert_eq!((rest.entries.len(), rest.next_at_ms), (51, Some(now_ms + 1)));
    }

    fn any_moment() -> impl Strategy<Value = (Moment<'static>, Millis, Option<Millis>)> {
        let catch_up = prop::sample::select(vec![CatchUp::Skip, CatchUp::Latest, CatchUp::All]);
        let overlap = prop::sample::select(vec![Overlap::Skip, Overlap::Allow, Overlap::Replace]);
        let times = (-5000_i64..5000, -5000_i64..5000, 0_i64..3000, 1_i64..500);
        (times, any::<bool>(), catch_up, overlap, prop::option::of(-5000_i64..5000)).prop_map(
            |(
                (next_at_ms, now_ms, lateness_ms, every_ms),
                previous_runs,
                catch_up,
                overlap,
                until,
            )| {
                let moment = Moment {
                    next_at_ms,
                    decided: &[],
                    now_ms,
                    lateness_ms,
                    previous_runs,
                    catch_up,
                    overlap,
                };
                (moment, every_ms, until)
            },
        )
    }

    proptest! {
        #[test]
        fn every_due_time_has_one_outcome_and_none_is_early(
            (moment, every_ms, until_ms) in any_moment(),
            known in prop::collection::vec(any::<bool>(), 0..9),
        ) {
            let after = |due_ms: Millis| {
                Some(due_ms + every_ms).filter(|next| until_ms.is_none_or(|until| *next <= until))
            };
            let next = |due_ms: &Millis| after(*due_ms);
            let due: Vec<Millis> = std::iter::successors(Some(moment.next_at_ms), next)
                .take_while(|due_ms| *due_ms <= moment.now_ms)
                .collect();
            let known: Vec<Millis> =
                due.iter().zip(known).filter(|(_, known)| *known).map(|(due, _)| *due).collect();
            let due: Vec<Millis> = due.into_iter().filter(|due| !known.contains(due)).collect();
            let decided = decide(&Moment { decided: &known, ..moment }, after);
            let told: u64 = decided.entries.iter().map(|(times, _)| times.count).sum();
            prop_assert_eq!(told, due.len() as u64);
            let mut left = due.as_slice();
            let mut starts = 0;
            for (times, what) in &decided.entries {
                let (these, rest) = left.split_at(usize::try_from(times.count).unwrap());
                prop_assert_eq!(these.first(), Some(&times.due_at_ms));
                prop_assert_eq!(these.last(), Some(&times.last_due_at_ms));
                left = rest;
                let span = times.due_at_ms..=times.last_due_at_ms;
                prop_assert!(known.iter().all(|known| !span.contains(known)));
                if let What::Start(at_ms) = what {
                    starts += 1;
                    prop_assert_eq!(times.count, 1);
                    prop_assert!(times.due_at_ms <= *at_ms && *at_ms <= moment.now_ms);
                    let late_ms = moment.now_ms - times.due_at_ms;
                    let is_late = late_ms > moment.lateness_ms;
                    prop_assert_eq!(*at_ms, if is_late { moment.now_ms } else { times.due_at_ms });
                    prop_assert!(!is_late || moment.catch_up != CatchUp::Skip);
                }
            }
            prop_assert!(starts <= STARTS_MAX);
            match moment.overlap {
                Overlap::Skip => prop_assert!(starts <= usize::from(!moment.previous_runs)),
                Overlap::Replace => {
                    prop_assert!(starts <= 1);
                    prop_assert_eq!(decided.replaces, moment.previous_runs && starts == 1);
                }
                Overlap::Allow => {
                    let in_time =
                        due.iter().filter(|due_ms| moment.now_ms - **due_ms <= moment.lateness_ms);
                    prop_assert!(starts >= in_time.count().min(STARTS_MAX));
                }
            }
            prop_assert!(decided.next_at_ms.is_none_or(|next| next > moment.now_ms));
        }
    }
}
