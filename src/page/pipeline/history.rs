//! The last minutes of all shards: what came in and what went out, looked at once a second.
//!
//! A rate is that of the real time between two looks. Where no look was in time, nothing is known,
//! and that is a gap: also everything before the server started.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::broker::append::shard_ends;
use crate::broker::progress::Progress;
use crate::clock::Clock;
use crate::message::ShardKey;
use crate::service::{Lifecycle, held};
use crate::state::{State, StateError};

/// The time between two looks.
const STEP: Duration = Duration::from_secs(1);
/// The longest time between two looks that says anything of what was between them.
const STEP_MAX: Duration = Duration::from_millis(2500);
/// How far the clocks may come apart between two looks.
const CLOCK_JUMP: Duration = Duration::from_secs(1);
/// The time that is remembered.
pub(super) const SPAN: Duration = Duration::from_secs(600);
/// The time that a rate of [`History::slow`] stands for.
pub(super) const SLOW_STEP: Duration = Duration::from_secs(5);

/// What one shard had done at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) key: ShardKey,
    /// Messages accepted, ever.
    pub(super) accepted: u64,
    /// Of these, in committed files, or dead.
    pub(super) done: u64,
}

/// All shards at one moment.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    /// The same in milliseconds since 1970.
    wall_ms: u64,
    shards: Vec<Counts>,
}

impl Look {
    /// The sums of the shards chosen. A shard that is not there yet has taken nothing.
    fn sums(&self, is_chosen: &dyn Fn(ShardKey) -> bool) -> (u64, u64) {
        let chosen = self.shards.iter().filter(|counts| is_chosen(counts.key));
        chosen.fold((0, 0), |(accepted, done), counts| {
            (accepted + counts.accepted, done + counts.done)
        })
    }
}

/// Messages per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) into: f64,
    pub(super) out_of: f64,
}

/// The rates at a moment, in milliseconds since 1970; `None` where nothing is known.
pub(super) type Rated = (u64, Option<Rates>);

/// The looks of the last minutes.
#[derive(Debug)]
pub(super) struct History {
    began_at: Instant,
    looks: VecDeque<Look>,
    /// The wall time of the last one, in milliseconds since 1970: all others are told from it, so
    /// that a clock that jumps moves all of them and turns none around.
    last_wall_ms: u64,
    /// How many there were, ever.
    count: u64,
}

impl History {
    pub(super) fn new(now: Instant) -> Self {
        Self { began_at: now, looks: VecDeque::new(), last_wall_ms: 0, count: 0 }
    }

    pub(super) fn push(&mut self, at: Instant, wall_ms: u64, shards: Vec<Counts>) {
        self.looks.push_back(Look { at, wall_ms, shards });
        (self.last_wall_ms, self.count) = (wall_ms, self.count + 1);
        while self.looks.front().is_some_and(|look| at.duration_since(look.at) > SPAN) {
            self.looks.pop_front();
        }
    }

    /// Changes with every look.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// When the last look was, in milliseconds since 1970.
    pub(super) fn last_wall_ms(&self) -> u64 {
        self.last_wall_ms
    }

    /// How many whole steps of [`SLOW_STEP`] there were.
    pub(super) fn slow_count(&self) -> u64 {
        let last = self.looks.back().map_or(self.began_at, |look| look.at);
        last.saturating_duration_since(self.began_at).as_secs() / SLOW_STEP.as_secs()
    }

    fn wall_ms(&self, at: Instant) -> u64 {
        let last = self.looks.back().map_or(at, |look| look.at);
        let before = last.saturating_duration_since(at).as_millis();
        self.last_wall_ms.saturating_sub(u64::try_from(before).unwrap_or(u64::MAX))
    }

    /// What the shards chosen did between each two looks: how many came in and went out, within
    /// which time; `None` where that is not known.
    fn steps<'a>(
        &'a self,
        is_chosen: &'a dyn Fn(ShardKey) -> bool,
    ) -> impl Iterator<Item = (Instant, Option<Step>)> + 'a {
        let pairs = self.looks.iter().zip(self.looks.iter().skip(1));
        pairs.map(|(from, to)| (to.at, step(from, to, is_chosen)))
    }

    /// The rates of the shards chosen, look by look.
    pub(super) fn rates(&self, is_chosen: &dyn Fn(ShardKey) -> bool) -> Vec<Rated> {
        let steps = self.steps(is_chosen);
        steps.map(|(at, step)| (self.wall_ms(at), step.map(rates))).collect()
    }

    /// The latest of them.
    pub(super) fn latest(&self, is_chosen: &dyn Fn(ShardKey) -> bool) -> Option<Rates> {
        let (from, to) = (self.looks.iter().nth_back(1)?, self.looks.back()?);
        step(from, to, is_chosen).map(rates)
    }

    /// The mean rates of the shards chosen in each whole step of [`SLOW_STEP`] within [`SPAN`], the
    /// oldest first.
    pub(super) fn slow(&self, is_chosen: &dyn Fn(ShardKey) -> bool) -> Vec<Option<Rates>> {
        let steps = usize::try_from(SPAN.as_millis() / SLOW_STEP.as_millis()).unwrap_or(0);
        let end = self.slow_count();
        let mut sums: Vec<Option<Step>> = vec![None; steps];
        for (at, step) in self.steps(is_chosen) {
            let Some((into, out_of, within)) = step else { continue };
            let ran = at.saturating_duration_since(self.began_at);
            let place = ran.as_secs() / SLOW_STEP.as_secs();
            // What has not ended yet is not drawn.
            let ago = end.checked_sub(place + 1).and_then(|ago| usize::try_from(ago).ok());
            let place = ago.and_then(|ago| steps.checked_sub(ago + 1));
            let Some(sum) = place.and_then(|place| sums.get_mut(place)) else { continue };
            let (all_in, all_out, all) = sum.unwrap_or_default();
            *sum = Some((all_in + into, all_out + out_of, all + within));
        }
        sums.into_iter().map(|sum| sum.map(rates)).collect()
    }
}

/// What came in and went out, and within which time.
type Step = (u64, u64, Duration);

fn step(from: &Look, to: &Look, is_chosen: &dyn Fn(ShardKey) -> bool) -> Option<Step> {
    let (before, after) = (from.sums(is_chosen), to.sums(is_chosen));
    let within = to.at.saturating_duration_since(from.at);
    let (into, out_of) = (after.0.checked_sub(before.0)?, after.1.checked_sub(before.1)?);
    // Where the clocks came apart, the machine was suspended, or one of them was set.
    let wall_step = Duration::from_millis(to.wall_ms.saturating_sub(from.wall_ms));
    let is_known = within.abs_diff(wall_step) <= CLOCK_JUMP && !within.is_zero();
    Some((into, out_of, within)).filter(|_| is_known && within <= STEP_MAX)
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 a rate may be off by one")]
fn rates((into, out_of, within): Step) -> Rates {
    let seconds = within.as_secs_f64();
    Rates { into: into as f64 / seconds, out_of: out_of as f64 / seconds }
}

/// Looks at the shards of a state environment until `life` stops. Needs a tokio runtime.
pub(super) fn watch(state: State, clock: Arc<dyn Clock>, life: Lifecycle) -> Arc<Mutex<History>> {
    let history = Arc::new(Mutex::new(History::new(clock.monotonic())));
    let kept = Arc::clone(&history);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = life.stopping() => return,
                _ = ticks.tick() => {}
            }
            let (state, clock, kept) = (state.clone(), Arc::clone(&clock), Arc::clone(&kept));
            let looking = tokio::task::spawn_blocking(move || {
                let Ok(shards) = look(&state) else { return };
                let (at, wall_ms) = (clock.monotonic(), clock.wall_ms());
                held(&kept).push(at, wall_ms, shards);
            });
            // What was not seen is a gap.
            let _gap = looking.await;
        }
    });
    history
}

fn look(state: &State) -> Result<Vec<Counts>, StateError> {
    let (txn, tables) = (state.read()?, state.tables());
    let mut shards = Vec::new();
    for (key, end) in shard_ends(&txn, tables)? {
        let waiting = Progress::load(&txn, tables, key)?.waiting(end.offset);
        shards.push(Counts { key, accepted: end.offset, done: end.offset.saturating_sub(waiting) });
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ShardId, Topic};

    fn key(shard: u16) -> ShardKey {
        ShardKey::new(Topic::Messages, ShardId(shard))
    }

    fn counts(shard: u16, accepted: u64, done: u64) -> Counts {
        Counts { key: key(shard), accepted, done }
    }

    /// A history with looks at these times, in ms, of one shard.
    fn history(looks: &[(u64, u64, u64)]) -> History {
        let start = Instant::now();
        let mut history = History::new(start);
        for (at_ms, accepted, done) in looks {
            let at = start + Duration::from_millis(*at_ms);
            history.push(at, 1_000_000 + at_ms, vec![counts(0, *accepted, *done)]);
        }
        history
    }

    fn all(_: ShardKey) -> bool {
        true
    }

    #[test]
    fn a_rate_is_that_of_the_real_time_between_two_looks() {
        let history = history(&[(0, 100, 100), (1000, 110, 100), (3000, 150, 130)]);
        let rates = history.rates(&all);
        let expected = [
            (1_001_000, Some(Rates { into: 10.0, out_of: 0.0 })),
            (1_003_000, Some(Rates { into: 20.0, out_of: 15.0 })),
        ];
        assert_eq!(rates, expected);
        assert_eq!(history.latest(&all), expected[1].1);
    }

    #[test]
    fn where_nothing_was_seen_in_time_nothing_is_said() {
        let history = history(&[(0, 0, 0), (1000, 5, 5), (9000, 900, 900), (10_000, 901, 901)]);
        let rates: Vec<_> = history.rates(&all).into_iter().map(|(_, rates)| rates).collect();
        assert_eq!(rates.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        // Offsets that went back are those of another state: no rate is made of them.
        let replaced = super::tests::history(&[(0, 9, 9), (1000, 3, 3)]);
        assert_eq!(replaced.latest(&all), None);
    }

    #[test]
    fn nothing_is_said_of_a_step_in_which_the_clocks_came_apart() {
        let start = Instant::now();
        let mut history = History::new(start);
        for (second, wall_ms) in [(0, 0), (1, 1000), (2, 3_602_000), (3, 3_603_000)] {
            history.push(start + STEP * second, wall_ms, vec![counts(0, 0, 0)]);
        }
        let rates: Vec<_> = history.rates(&all).into_iter().map(|(_, rates)| rates).collect();
        assert_eq!(rates.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn shards_are_told_apart_and_a_new_one_begins_at_nothing() {
        let start = Instant::now();
        let mut history = History::new(start);
        history.push(start, 0, vec![counts(0, 7, 7)]);
        history.push(start + STEP, 1000, vec![counts(0, 8, 7), counts(1, 4, 1)]);
        let one = |shard| history.latest(&move |of| of == key(shard)).unwrap();
        assert_eq!((one(0).into, one(0).out_of), (1.0, 0.0));
        assert_eq!((one(1).into, one(1).out_of), (4.0, 1.0));
        assert_eq!(history.latest(&all).unwrap().into, 5.0);
    }

    #[test]
    fn only_the_last_minutes_are_remembered_and_a_clock_set_back_moves_all_of_them() {
        let start = Instant::now();
        let mut history = History::new(start);
        for second in 0..2000_u32 {
            // The wall clock goes back by an hour on the way.
            let wall_ms =
                u64::from(second) * 1000 + if second < 1900 { 7_200_000 } else { 3_600_000 };
            history.push(start + STEP * second, wall_ms, vec![counts(0, 0, 0)]);
        }
        let rates = history.rates(&all);
        assert_eq!(rates.len(), 600);
        assert!(rates.is_sorted_by(|one, next| one.0 < next.0));
        assert_eq!(rates.last().unwrap().0, 1_999_000 + 3_600_000);
    }

    #[test]
    fn slow_rates_are_means_of_whole_steps() {
        // A look a second; ten messages a second in the first ten seconds, none after.
        let looks: Vec<_> = (0..=17).map(|s| (s * 1000, s.min(10) * 10, 0)).collect();
        let history = history(&looks);
        let slow = history.slow(&all);
        assert_eq!(slow.len(), 120);
        let into: Vec<_> = slow.iter().rev().map(|rates| rates.map(|rates| rates.into)).collect();
        // The look at 10 s tells of the second before it.
        assert_eq!(into[..4], [Some(2.0), Some(10.0), Some(10.0), None]);
    }
}
