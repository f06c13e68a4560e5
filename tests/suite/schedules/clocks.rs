//! The starter in this process, by a clock that the test sets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_data_processor::clock::Clock;
use async_data_processor::rooms::schedules;
use async_data_processor::rooms::schedules::metrics::ScheduleMetrics;
use async_data_processor::rooms::schedules::starter::Starter;
use async_data_processor::service::Lifecycle;
use async_data_processor::store::postgres::PostgresStore;
use async_data_processor::store::postgres::address::Address;
use async_data_processor::store::schedules::{
    NewSchedule, Occurrence, ScheduleId, ScheduleState, Start,
};
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{Claim, Filter, Millis, Store};
use async_data_processor::task::WorkerId;
use async_data_processor::tasks::keeper::Keeper;
use chrono::{DateTime, Utc};
use prometheus_client::registry::Registry;

use super::every;
use crate::harness::PATIENCE;
use crate::postgres::server::shared;

const T0: Millis = 1_795_332_600_000;
const MINUTE_MS: Millis = 60_000;
const DAY_MS: Millis = 24 * 60 * MINUTE_MS;

/// A clock whose hands the test moves.
#[derive(Debug)]
struct SetClock(Mutex<(DateTime<Utc>, Instant)>);

impl Clock for SetClock {
    fn wall(&self) -> DateTime<Utc> {
        self.0.lock().unwrap().0
    }

    fn monotonic(&self) -> Instant {
        self.0.lock().unwrap().1
    }
}

/// A starter at work.
struct Town {
    store: Arc<dyn Store>,
    clock: Arc<SetClock>,
    life: Lifecycle,
}

impl Town {
    fn new(store: Arc<dyn Store>) -> Self {
        let at = DateTime::from_timestamp_millis(T0).unwrap();
        let clock = Arc::new(SetClock(Mutex::new((at, Instant::now()))));
        let metrics = ScheduleMetrics::register(&mut Registry::default());
        let capture = "capture".parse().unwrap();
        let starter = Starter::new(Arc::clone(&store), clock.clone(), capture, metrics);
        let life = Lifecycle::new();
        tokio::spawn(starter.run(life.clone()));
        Self { store, clock, life }
    }

    /// Adds a schedule that is due each minute from [`T0`] on.
    async fn minutely(&self, catch_up: &str, overlap: &str) -> ScheduleId {
        let new = every(60, T0, catch_up, overlap);
        let id = new.id;
        self.store.add_schedule(new, T0).await.unwrap();
        id
    }

    fn set(&self, at_ms: Millis) {
        self.clock.0.lock().unwrap().0 = DateTime::from_timestamp_millis(at_ms).unwrap();
    }

    /// So much passes until the clock shows another time than it should.
    fn jump(&self, passed: Duration, at_ms: Millis) {
        self.clock.0.lock().unwrap().1 += passed;
        self.set(at_ms);
    }

    async fn wait_state(&self, id: ScheduleId, state: ScheduleState) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.store.schedule(id).await.unwrap().unwrap().state;
            if found == state {
                break;
            }
            assert!(Instant::now() < deadline, "{id} is {found}, not {state}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a schedule is due next at this time; what was decided, in order.
    async fn wait_next(&self, id: ScheduleId, next_at_ms: Millis) -> Vec<Occurrence> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let schedule = self.store.schedule(id).await.unwrap().unwrap();
            assert_eq!(schedule.state, ScheduleState::Active);
            if schedule.next_at_ms == Some(next_at_ms) {
                break;
            }
            let late = schedule.next_at_ms.map(|next| next - T0);
            assert!(Instant::now() < deadline, "it is due next at {late:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut all = self.store.occurrences(id, None, 1000).await.unwrap();
        all.reverse();
        all
    }

    async fn tasks(&self) -> usize {
        let filter = Filter { tasks_max: 10_000, ..Filter::default() };
        self.store.tasks(filter).await.unwrap().len()
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.life.stop();
    }
}

/// What was decided, and of how many times.
fn shown(all: &[Occurrence]) -> Vec<(&'static str, u64)> {
    all.iter().map(|one| (one.decision.word(), one.times.count)).collect()
}

macro_rules! in_each_store {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() {
                let dir = tempfile::tempdir().unwrap();
                let store = super::SqliteStore::open(dir.path()).unwrap();
                super::$test(super::Town::new(std::sync::Arc::new(store))).await;
            })+
        }
        mod database {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() {
                let url = super::shared().database(concat!("clocks_", stringify!($test)));
                let address = super::Address::new(&url, None).unwrap();
                let life = super::Lifecycle::new();
                let store = super::PostgresStore::connect(&address, &life);
                super::$test(super::Town::new(std::sync::Arc::new(store))).await;
            })+
        }
    };
}

in_each_store!(
    a_clock_put_forward_by_a_day_is_an_absence,
    a_clock_put_back_starts_nothing_twice_and_delays_nothing,
    an_absence_after_a_clock_put_back_is_told_whole,
    a_start_is_not_replaced_by_its_own_time,
    what_starts_once_is_neither_lost_nor_early_when_clocks_jump,
    a_plan_that_cannot_be_read_is_told,
);

async fn a_clock_put_forward_by_a_day_is_an_absence(town: Town) {
    let (skips, latest) =
        (town.minutely("skip", "allow").await, town.minutely("latest", "allow").await);
    town.set(T0 + 7);
    for id in [skips, latest] {
        assert_eq!(shown(&town.wait_next(id, T0 + MINUTE_MS).await), [("started", 1)]);
    }
    let far = T0 + DAY_MS + 30_000;
    town.set(far);
    let next = T0 + DAY_MS + MINUTE_MS;
    let minutes = (DAY_MS / MINUTE_MS).unsigned_abs();
    let decided = town.wait_next(skips, next).await;
    assert_eq!(shown(&decided), [("started", 1), ("missed", minutes)]);
    assert!(decided[1].reason.as_ref().unwrap().contains("no scheduler was there"));
    let decided = town.wait_next(latest, next).await;
    assert_eq!(shown(&decided), [("started", 1), ("missed", minutes - 1), ("started", 1)]);
    let late = town.store.task(decided[2].task.unwrap()).await.unwrap().unwrap();
    assert_eq!((late.run_at_ms, late.expires_at_ms), (far, Some(far + 5000)));
    assert_eq!(town.tasks().await, 3);
}

async fn a_clock_put_back_starts_nothing_twice_and_delays_nothing(town: Town) {
    let id = town.minutely("skip", "allow").await;
    town.set(T0 + 7);
    town.wait_next(id, T0 + MINUTE_MS).await;
    // An hour ahead by mistake, for two minutes.
    let ahead = T0 + 60 * MINUTE_MS;
    town.set(ahead + 30_000);
    town.wait_next(id, ahead + MINUTE_MS).await;
    town.set(ahead + MINUTE_MS + 7);
    let decided = town.wait_next(id, ahead + 2 * MINUTE_MS).await;
    assert_eq!(shown(&decided), [("started", 1), ("missed", 60), ("started", 1)]);
    // Right again: the times that are yet to come come, but for the one that was started.
    town.set(T0 + 2 * MINUTE_MS + 30_000);
    town.wait_next(id, T0 + 3 * MINUTE_MS).await;
    for minute in 3..=62 {
        town.set(T0 + minute * MINUTE_MS + 3);
        town.wait_next(id, T0 + (minute + 1) * MINUTE_MS).await;
    }
    let decided = town.wait_next(id, T0 + 63 * MINUTE_MS).await;
    let starts: Vec<Millis> = decided
        .iter()
        .filter(|one| one.decision.word() == "started")
        .map(|one| (one.times.due_at_ms - T0) / MINUTE_MS)
        .collect();
    let expected: Vec<Millis> = [0].into_iter().chain(3..=62).collect();
    assert_eq!(starts, expected);
    assert_eq!(town.tasks().await, expected.len());
    // The two that had been missed before stay so.
    assert_eq!(decided.len(), expected.len() + 1);
    assert_eq!((decided[1].decision.word(), decided[1].times.count), ("missed", 2));
    assert_eq!(decided[1].times.last_due_at_ms, T0 + 2 * MINUTE_MS);
}

async fn an_absence_after_a_clock_put_back_is_told_whole(town: Town) {
    let id = town.minutely("skip", "allow").await;
    town.set(T0 + 7);
    town.wait_next(id, T0 + MINUTE_MS).await;
    // An hour ahead by mistake, when one is started.
    town.set(T0 + 60 * MINUTE_MS + 7);
    town.wait_next(id, T0 + 61 * MINUTE_MS).await;
    town.set(T0 + 30_000);
    town.wait_next(id, T0 + MINUTE_MS).await;
    town.set(T0 + 90 * MINUTE_MS + 30_000);
    let decided = town.wait_next(id, T0 + 91 * MINUTE_MS).await;
    let expected = [("started", 1), ("missed", 59), ("started", 1), ("missed", 30)];
    assert_eq!(shown(&decided), expected);
    assert_eq!(town.tasks().await, 2);
}

async fn a_start_is_not_replaced_by_its_own_time(town: Town) {
    let id = town.minutely("skip", "replace").await;
    town.set(T0 + 7);
    town.wait_next(id, T0 + MINUTE_MS).await;
    town.set(T0 + MINUTE_MS + 7);
    town.wait_next(id, T0 + 2 * MINUTE_MS).await;
    town.set(T0 + 30_000);
    town.wait_next(id, T0 + MINUTE_MS).await;
    town.set(T0 + MINUTE_MS + 7);
    let decided = town.wait_next(id, T0 + 2 * MINUTE_MS).await;
    let states = decided.iter().map(|one| one.run.as_ref().unwrap().state.word());
    assert_eq!(states.collect::<Vec<_>>(), ["cancelled", "pending"]);
}

async fn what_starts_once_is_neither_lost_nor_early_when_clocks_jump(town: Town) {
    let keeper = Keeper {
        store: Arc::clone(&town.store),
        clock: town.clock.clone(),
        life: town.life.clone(),
        hearing: None,
        keep_for: None,
    };
    tokio::spawn(keeper.run());
    let (hour, at_ms) = (60 * MINUTE_MS, T0 + 360 * MINUTE_MS);
    let once = |kind: &str, more: &str| {
        let at = DateTime::from_timestamp_millis(at_ms).unwrap().to_rfc3339();
        let body = format!(r#"{{{kind},"start_time":"{at}"{more}}}"#);
        let capture = "capture".parse().unwrap();
        schedules::read(body.as_bytes(), ScheduleId::new(), &capture, T0).unwrap()
    };
    let capture = once(r#""ship_name":"TARDIS","duration":60"#, "");
    let (strict, patient) =
        (once(r#""kind":"echo""#, r#","lateness_seconds":5"#), once(r#""kind":"echo""#, ""));
    let ids = [capture.id, strict.id, patient.id];
    for new in [capture, strict, patient] {
        town.store.add_schedule(new, T0).await.unwrap();
    }
    // An hour ahead, which misses nothing, and a day.
    let passed = Duration::from_secs(6);
    town.jump(passed, T0 + hour);
    town.jump(passed, T0 + DAY_MS);
    for id in &ids[..2] {
        town.wait_state(*id, ScheduleState::Missed).await;
    }
    town.jump(passed, T0 + hour);
    for id in ids {
        town.wait_state(id, ScheduleState::Pending).await;
    }
    let claim = |now_ms| {
        let kinds = ["capture", "echo"].map(|kind| kind.parse().unwrap()).to_vec();
        let worker = WorkerId::new();
        town.store.claim(Claim { worker, endpoint: None, kinds, tasks_max: 9, now_ms })
    };
    let early = claim(at_ms - 1).await.unwrap();
    assert_eq!((early.tasks.len(), early.next_due_ms), (0, Some(at_ms)));
    assert_eq!(claim(at_ms).await.unwrap().tasks.len(), 3);
}

async fn a_plan_that_cannot_be_read_is_told(town: Town) {
    let id = ScheduleId::new();
    let new = NewSchedule { id, label: None, plan: b"{}".to_vec(), start: Start::Recurring(T0) };
    town.store.add_schedule(new, T0).await.unwrap();
    town.set(T0 + 1);
    let deadline = Instant::now() + PATIENCE;
    while town.store.schedule(id).await.unwrap().unwrap().state != ScheduleState::Ended {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let decided = town.store.occurrences(id, None, 9).await.unwrap();
    assert_eq!(shown(&decided), [("missed", 1)]);
    assert!(decided[0].reason.as_ref().unwrap().contains("cannot be read"));
    assert_eq!(town.tasks().await, 0);
}
