//! All of spacecraft in this process, by a wall clock that jumps by an hour and by a day: one
//! outcome for each start, none early, none silent.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::clock::{Clock, SystemClock};
use async_data_processor::rooms::schedules::metrics::ScheduleMetrics;
use async_data_processor::rooms::schedules::starter::Starter;
use async_data_processor::rooms::telemetry::capture::outbox::Budget;
use async_data_processor::rooms::telemetry::capture::ship::Spaceship as Ship;
use async_data_processor::rooms::telemetry::capture::socket::SocketSettings;
use async_data_processor::rooms::telemetry::capture::work::{Capturer, PAUSES};
use async_data_processor::rooms::telemetry::order::{KIND, Order};
use async_data_processor::rooms::telemetry::road::Road;
use async_data_processor::rooms::telemetry::spaceship::api::{self, Spaceship};
use async_data_processor::rooms::telemetry::spaceship::entry::Defaults;
use async_data_processor::rooms::telemetry::spaceship::fleet::Fleet;
use async_data_processor::rooms::telemetry::spaceship::metrics::StreamMetrics;
use async_data_processor::rooms::telemetry::spaceship::target::Rules;
use async_data_processor::service::Lifecycle;
use async_data_processor::store::schedules::{
    Decision, NewSchedule, Occurrence, Run, ScheduleId, Start,
};
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{Filter, Millis, Store, TaskState};
use async_data_processor::task::Name;
use async_data_processor::tasks::direct::DirectSupply;
use async_data_processor::tasks::engine::Engine;
use async_data_processor::tasks::handler::Handler;
use async_data_processor::tasks::keeper::Keeper;
use async_data_processor::tasks::spool::{ACCOUNTS, Spool};
use async_data_processor::web::{Auth, BodyReader, BodySettings, Budget as Bodies, HttpMetrics};
use chrono::{DateTime, TimeDelta, Utc};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::harness::{PATIENCE, open_state};

const SHARDS: NonZeroU16 = NonZeroU16::MIN;
const RETENTION: KeyRetention = KeyRetention { keys_max: 1000, age_ms_max: 86_400_000 };
const MINUTE_MS: Millis = 60_000;
const HOUR_MS: Millis = 60 * MINUTE_MS;
const DAY_MS: Millis = 24 * HOUR_MS;
/// How long a window is.
const WINDOW_MS: Millis = 2000;

/// The system's clock, whose hands the test moves.
#[derive(Debug, Default)]
struct JumpClock(Mutex<TimeDelta>);

impl Clock for JumpClock {
    fn wall(&self) -> DateTime<Utc> {
        SystemClock.wall() + *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

/// Everything that schedules, streams, captures and stores.
struct Universe {
    _dir: TempDir,
    clock: Arc<JumpClock>,
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
    life: Lifecycle,
    engine: JoinHandle<std::io::Result<()>>,
}

fn ship(clock: &Arc<JumpClock>) -> Arc<Spaceship> {
    let mut registry = Registry::default();
    let metrics = StreamMetrics::register(&mut registry);
    let budget = Bodies::new(Bodies::DEFAULT_BYTES, &HttpMetrics::register(&mut registry));
    Arc::new(Spaceship {
        fleet: Arc::new(Fleet::new(100, clock.clone(), metrics)),
        rules: Rules { allowed: Vec::new(), has_low_ports: false },
        defaults: Defaults { rate: 500, lifetime_seconds: 3600 },
        bodies: BodyReader::new(BodySettings::default(), budget),
    })
}

impl Universe {
    fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(JumpClock::default()));
        let time = || Arc::clone(&clock) as Arc<dyn Clock>;
        let (life, kind) = (Lifecycle::new(), KIND.parse::<Name>().unwrap());
        let state = open_state(dir.path(), 1 << 30).unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let metrics = ScheduleMetrics::register(&mut Registry::default());
        let starter = Starter::new(Arc::clone(&store), time(), kind.clone(), metrics);
        tokio::spawn(starter.run(life.clone()));
        let (hearing, keep_for) = (None, Some(Duration::from_secs(7 * 86_400)));
        let (kept, keeping) = (Arc::clone(&store), life.clone());
        let keeper = Keeper { store: kept, clock: time(), life: keeping, hearing, keep_for };
        tokio::spawn(keeper.run());
        let spaceship = ship(&clock);
        let fleet = Arc::clone(&spaceship.fleet);
        let capturer = Capturer {
            spaceship: Arc::new(Ship::new(Road::Within(
                api::room(spaceship, &Auth::open()).router,
            ))),
            pauses: PAUSES.to_vec(),
            socket: SocketSettings {
                host: "127.0.0.1".parse().unwrap(),
                ports: None,
                buffer_bytes: 1 << 20,
            },
            publisher: Arc::new(EmbeddedBroker::new(state, time(), RETENTION).unwrap()),
            shards: SHARDS,
            budget: Budget::default(),
            runtime: Handle::current(),
            clock: time(),
        };
        let (spool, left) = Spool::open(dir.path(), ACCOUNTS).unwrap();
        let kinds = vec![kind.clone()];
        let supply = DirectSupply::new(Arc::clone(&store), time(), None, kinds, false);
        let engine = Engine {
            supply: Arc::new(supply),
            handlers: HashMap::from([(kind, Arc::new(capturer) as Arc<dyn Handler>)]),
            slots: 10,
            spool: Arc::new(spool),
            left,
            clock: time(),
            life: life.clone(),
            finish_within: Duration::from_secs(1),
        };
        let engine = tokio::spawn(engine.run());
        Self { _dir: dir, clock, store, fleet, life, engine }
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    /// Moves the hands by so much.
    fn jump(&self, by_ms: Millis) {
        *self.clock.0.lock().unwrap() += TimeDelta::milliseconds(by_ms);
    }

    /// A window that begins once.
    async fn once(&self, name: &str, start_ms: Millis) -> ScheduleId {
        let (id, ship_name) = (ScheduleId::new(), name.parse().unwrap());
        let until_ms = start_ms + WINDOW_MS;
        let order = Order { ship_name, until_ms };
        let task = order.task(KIND.parse().unwrap(), id.task(), start_ms, until_ms);
        let (label, plan, start) = (Some(name.to_owned()), b"{}".to_vec(), Start::Once(task));
        let new = NewSchedule { id, label, plan, start };
        self.store.add_schedule(new, self.now_ms()).await.unwrap();
        id
    }

    /// Windows that begin every ten minutes.
    async fn again(&self, name: &str, start_ms: Millis) -> ScheduleId {
        let start_time = DateTime::from_timestamp_millis(start_ms).unwrap().to_rfc3339();
        let seconds = WINDOW_MS / 1000;
        let plan = json!({
            "work": {"capture": {"ship_name": name, "duration_seconds": seconds}},
            "start_time": start_time, "lateness_seconds": null, "recurrence": {
                "steps": {"every": {"seconds": 600}}, "until": null, "catch_up": "skip",
                "overlap": "allow",
            },
        });
        let (id, plan) = (ScheduleId::new(), plan.to_string().into_bytes());
        let (label, start) = (Some(name.to_owned()), Start::Recurring(start_ms));
        let new = NewSchedule { id, label, plan, start };
        self.store.add_schedule(new, self.now_ms()).await.unwrap();
        id
    }

    async fn wait<T>(&self, what: &str, mut event: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(come) = event().await {
                return come;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How a schedule that starts once has ended.
    async fn ended(&self, id: ScheduleId) -> Run {
        self.wait("the end of a window", async || {
            let run = self.store.schedule(id).await.unwrap().unwrap().run.unwrap();
            run.state.is_terminal().then_some(run)
        })
        .await
    }

    /// What was decided of times, in order.
    async fn times(&self, id: ScheduleId) -> Vec<Occurrence> {
        let mut all = self.store.occurrences(id, None, 1000).await.unwrap();
        all.reverse();
        all
    }

    /// Everything has ended, and nothing is left behind.
    async fn close(self) {
        self.wait("all streams to end", async || self.fleet.active().is_empty().then_some(()))
            .await;
        for task in self.store.tasks(Filter { tasks_max: 1000, ..Filter::default() }).await.unwrap()
        {
            assert!(task.state.is_terminal(), "{task:?}");
        }
        self.life.stop();
        self.engine.await.unwrap().unwrap();
    }
}

/// A window that was captured, from its due time on, and whose sum is right.
fn assert_captured(run: &Run, due_ms: Millis) {
    assert_eq!(run.state, TaskState::Finished, "{run:?}");
    assert!(run.started_at_ms >= Some(due_ms), "early: {run:?}");
    let account: Value = serde_json::from_slice(&run.result.as_ref().unwrap().head).unwrap();
    let count = |member: &str| account[member].as_u64().unwrap();
    let told = ["stored", "malformed", "truncated", "lost"].map(count);
    assert_eq!(count("sent"), told.iter().sum::<u64>(), "{account}");
    assert!(count("stored") > 0, "{account}");
}

async fn a_clock_jumps(by_ms: Millis) {
    let universe = Universe::new();
    let now_ms = universe.now_ms();
    let (later_ms, again_ms) = (now_ms + 30 * MINUTE_MS, now_ms + 5 * MINUTE_MS);
    let runs = universe.once("Runs", now_ms).await;
    let waits = universe.once("Waits", later_ms).await;
    let recurs = universe.again("Recurs", again_ms).await;
    universe
        .wait("a stream", async || {
            universe.fleet.active().iter().any(|stream| stream.tally().sent > 0).then_some(())
        })
        .await;
    universe.jump(by_ms);
    // What has begun goes on to its end, whatever the clock says.
    assert_captured(&universe.ended(runs).await, now_ms);
    if by_ms > 0 {
        let run = universe.ended(waits).await;
        assert_eq!(run.state, TaskState::Missed, "{run:?}");
        assert!(run.error.is_some());
        let is_decided = async || universe.times(recurs).await.pop();
        let decided = universe.wait("what was due meanwhile", is_decided).await;
        assert_eq!((decided.decision, decided.times.due_at_ms), (Decision::Missed, again_ms));
        assert!(decided.reason.is_some());
        let times = (by_ms - 5 * MINUTE_MS) / (10 * MINUTE_MS) + 1;
        assert_eq!(decided.times.count, times.unsigned_abs());
    } else {
        let run = universe.store.schedule(waits).await.unwrap().unwrap().run.unwrap();
        assert_eq!((run.state, run.started_at_ms), (TaskState::Pending, None));
        assert!(universe.times(recurs).await.is_empty());
    }
    // Right again: what is yet to come comes, once, also what was missed by mistake.
    universe.jump(-by_ms);
    let is_back = async || {
        let schedule = universe.store.schedule(recurs).await.unwrap().unwrap();
        (schedule.next_at_ms == Some(again_ms)).then_some(())
    };
    universe.wait("its time to be yet to come", is_back).await;
    universe.jump(again_ms - universe.now_ms());
    let has_ended = async || {
        let run = universe.times(recurs).await.pop()?.run?;
        run.state.is_terminal().then_some(run)
    };
    let run = universe.wait("the end of the first time", has_ended).await;
    assert_captured(&run, again_ms);
    let times = universe.times(recurs).await;
    assert_eq!(times.len(), 1, "a time is decided twice: {times:?}");
    universe.jump(later_ms - universe.now_ms());
    assert_captured(&universe.ended(waits).await, later_ms);
    universe.close().await;
}

macro_rules! jumps {
    ($($test:ident: $by_ms:expr),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() {
            a_clock_jumps($by_ms).await;
        })+
    };
}

jumps! {
    an_hour_forward_and_back_loses_nothing_that_is_yet_to_come: HOUR_MS,
    an_hour_back_and_forward_begins_nothing_early: -HOUR_MS,
    a_day_forward_and_back_loses_nothing_that_is_yet_to_come: DAY_MS,
    a_day_back_and_forward_begins_nothing_early: -DAY_MS,
}
