//! Keeps a store: gives the tasks of dead workers to others, and clears away what is over.
//!
//! A worker signs while it lives, and a number goes up. Who watches that number needs no clock but
//! its own: one that stands still for [`SILENCE`] is a dead worker's. Every process with the store
//! watches, and burying is safe to do twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::service::Lifecycle;
use crate::store::{Millis, Store, StoreError, Sweep, WorkerBeat};
use crate::task::WorkerId;

/// How long a worker may be silent before its tasks are given to others.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a longer pause between two looks it was the keeper that slept: it begins anew.
const SLEPT: Duration = Duration::from_millis(1500);
/// How often is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// By how much the wall clock may fall behind the monotonic one without having jumped.
const JUMP_MS: i64 = 1000;
/// As many as a sweep removes at once.
const PRUNED_AT_ONCE: u64 = 1000;

/// Whether signs of life reach this process.
pub trait Hearing: Send + Sync + std::fmt::Debug {
    /// Since when all that workers say has been heard at once; `None` while it is not.
    fn hearing_since(&self) -> Option<Instant>;
}

/// What a keeper needs.
#[derive(Debug)]
pub struct Keeper {
    /// What it keeps.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ends it.
    pub life: Lifecycle,
    /// Whether signs of life reach this process; `None` if workers write them into the store.
    pub hearing: Option<Arc<dyn Hearing>>,
    /// How long ended tasks are kept; `None`: for ever.
    pub keep_for: Option<Duration>,
}

/// Tells the dead from the living. Pure: the caller brings the time.
#[derive(Debug, Default)]
pub struct Watch {
    seen: HashMap<WorkerId, (u64, Instant)>,
    looked_at: Option<Instant>,
}

impl Watch {
    /// Looks at the signs of life; who has been silent for too long. Nobody was silent while
    /// nobody listened: silence counts from `hearing_since` at the earliest.
    pub fn look(
        &mut self,
        beats: &[WorkerBeat],
        hearing_since: Option<Instant>,
        now: Instant,
    ) -> Vec<WorkerBeat> {
        let slept = self.looked_at.is_none_or(|at| now.saturating_duration_since(at) > SLEPT);
        self.looked_at = Some(now);
        let seen = std::mem::take(&mut self.seen);
        let mut dead = Vec::new();
        for &beat in beats {
            let since = match seen.get(&beat.worker) {
                Some(&(beats, since)) if beats == beat.beats && !slept => since,
                _ => now,
            };
            let since = hearing_since.map_or(now, |hearing| since.max(hearing));
            self.seen.insert(beat.worker, (beat.beats, since));
            if now.saturating_duration_since(since) >= SILENCE {
                dead.push(beat);
            }
        }
        dead
    }
}

impl Keeper {
    /// Keeps the store until the process stops.
    pub async fn run(self) {
        let mut watch = Watch::default();
        let mut wall = WallWatch::new(self.clock.as_ref());
        let (mut is_away, mut swept_at) = (false, None);
        let always = self.clock.monotonic();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.life.stopping() => return,
            }
            let now = self.clock.monotonic();
            let hearing = self.hearing.as_ref().map_or(Some(always), |h| h.hearing_since());
            let went_back = wall.went_back(self.clock.as_ref());
            let is_due = swept_at.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY);
            let mut kept = self.bury(&mut watch, hearing, now).await;
            if kept.is_ok() && (is_due || went_back) {
                swept_at = Some(now);
                let is_heard = |since| now.saturating_duration_since(since) >= SILENCE;
                let is_all_heard = self.hearing.is_some() && hearing.is_some_and(is_heard);
                kept = self.sweep(is_all_heard, went_back).await;
            }
            match kept {
                Ok(()) => is_away = false,
                Err(error) => {
                    // A clock that went back must not be forgotten because the store was away.
                    wall.forget(went_back);
                    if !std::mem::replace(&mut is_away, true) {
                        let store = self.store.name();
                        tracing::warn!(store, %error, "the tasks cannot be looked after now");
                    }
                }
            }
        }
    }

    async fn bury(
        &self,
        watch: &mut Watch,
        hearing: Option<Instant>,
        now: Instant,
    ) -> Result<(), StoreError> {
        let beats = self.store.workers().await?;
        for dead in watch.look(&beats, hearing, now) {
            let tasks = self.store.bury(dead, self.now_ms()).await?;
            if tasks > 0 {
                let (worker, seconds) = (dead.worker, SILENCE.as_secs());
                tracing::warn!(%worker, tasks, "a worker was silent for {seconds} s: its tasks \
                    are given to others");
            }
        }
        Ok(())
    }

    async fn sweep(&self, is_all_heard: bool, clock_went_back: bool) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let keep_ms = self.keep_for.map(|keep| Millis::try_from(keep.as_millis()));
        let ended_before_ms = keep_ms.and_then(Result::ok).map(|keep| now_ms.saturating_sub(keep));
        let mut sweep = Sweep { now_ms, ended_before_ms, is_all_heard, clock_went_back };
        loop {
            let swept = self.store.sweep(sweep).await?;
            if swept.missed > 0 {
                tracing::warn!(tasks = swept.missed, "tasks were not begun in time");
            }
            if swept.overdue > 0 {
                tracing::warn!(tasks = swept.overdue, "outside workers were not heard of in time");
            }
            if swept.pruned < PRUNED_AT_ONCE || self.life.is_stopping() {
                return Ok(());
            }
            sweep.clock_went_back = false;
        }
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }
}

/// Notices when the wall clock goes back, by the monotonic one.
#[derive(Debug)]
pub struct WallWatch {
    wall_ms: Millis,
    at: Instant,
    /// A start is like a jump: how the clock went before is not known.
    went_back: bool,
}

impl WallWatch {
    /// From now on.
    #[must_use]
    pub fn new(clock: &dyn Clock) -> Self {
        let wall_ms = clock.wall().timestamp_millis();
        Self { wall_ms, at: clock.monotonic(), went_back: true }
    }

    /// Whether it went back since this was asked last; the first time, it may have.
    pub fn went_back(&mut self, clock: &dyn Clock) -> bool {
        let (wall_ms, now) = (clock.wall().timestamp_millis(), clock.monotonic());
        let passed = now.saturating_duration_since(self.at).as_millis();
        let expected = self.wall_ms.saturating_add(Millis::try_from(passed).unwrap_or(0));
        (self.wall_ms, self.at) = (wall_ms, now);
        let jumped = wall_ms < expected - JUMP_MS;
        if jumped {
            tracing::warn!("the clock went back");
        }
        std::mem::take(&mut self.went_back) || jumped
    }

    /// Nothing was done about it: the next answer is yes again, if `went_back`.
    pub const fn forget(&mut self, went_back: bool) {
        self.went_back |= went_back;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn beat(worker: WorkerId, beats: u64) -> WorkerBeat {
        WorkerBeat { worker, beats }
    }

    #[test]
    fn a_number_that_stands_still_is_a_dead_worker_s() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let (dead, alive) = (WorkerId::new(), WorkerId::new());
        for step in 0..6 {
            let beats = [beat(dead, 7), beat(alive, u64::from(step))];
            assert_eq!(watch.look(&beats, Some(start), start + STEP * step), []);
        }
        let beats = [beat(dead, 7), beat(alive, 6)];
        assert_eq!(watch.look(&beats, Some(start), start + STEP * 6), [beat(dead, 7)]);
    }

    #[test]
    fn nobody_is_dead_while_nobody_listened() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let beats = [beat(WorkerId::new(), 7)];
        for step in 0..20 {
            assert_eq!(watch.look(&beats, None, start + STEP * step), []);
        }
        let again = start + STEP * 20;
        assert_eq!(watch.look(&beats, Some(again), again), []);
        let asleep = again + Duration::from_secs(60);
        assert_eq!(watch.look(&beats, Some(again), asleep), [], "it was the keeper that slept");
        for step in 1..6 {
            assert_eq!(watch.look(&beats, Some(again), asleep + STEP * step), []);
        }
        assert_eq!(watch.look(&beats, Some(again), asleep + SILENCE).len(), 1);
    }

    #[derive(Debug)]
    struct SetClock(Mutex<(DateTime<Utc>, Instant)>);

    impl SetClock {
        fn step(&self, wall_ms: i64, monotonic_ms: u64) {
            let mut now = self.0.lock().unwrap();
            now.0 += TimeDelta::milliseconds(wall_ms);
            now.1 += Duration::from_millis(monotonic_ms);
        }
    }

    impl Clock for SetClock {
        fn wall(&self) -> DateTime<Utc> {
            self.0.lock().unwrap().0
        }

        fn monotonic(&self) -> Instant {
            self.0.lock().unwrap().1
        }
    }

    #[test]
    fn a_clock_that_goes_back_is_noticed_and_not_forgotten() {
        let clock = SetClock(Mutex::new((DateTime::UNIX_EPOCH, Instant::now())));
        let mut wall = WallWatch::new(&clock);
        assert!(wall.went_back(&clock), "nobody knows how it went before the start");
        clock.step(500, 500);
        assert!(!wall.went_back(&clock));
        clock.step(3_600_000, 500);
        assert!(!wall.went_back(&clock), "forward is no harm");
        clock.step(-3_600_000, 500);
        assert!(wall.went_back(&clock));
        wall.forget(true);
        assert!(wall.went_back(&clock));
        assert!(!wall.went_back(&clock));
    }
}
