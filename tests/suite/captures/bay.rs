//! Captures in this process: into a state environment, by a clock that the test sets forward.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::frames::Frames;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::clock::{Clock, SystemClock};
use async_data_processor::message::{ShardKey, Topic};
use async_data_processor::rooms::telemetry::capture::outbox::Budget;
use async_data_processor::rooms::telemetry::capture::ship::Spaceship;
use async_data_processor::rooms::telemetry::capture::socket::SocketSettings;
use async_data_processor::rooms::telemetry::capture::work::{Capturer, PAUSES};
use async_data_processor::rooms::telemetry::datagram;
use async_data_processor::rooms::telemetry::order::{KIND, Order};
use async_data_processor::rooms::telemetry::road::{Network, Road};
use async_data_processor::rooms::telemetry::ship::ShipName;
use async_data_processor::state::State;
use async_data_processor::task::TaskId;
use async_data_processor::tasks::handler::{Ended, Handler, Job, Product, Run};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::open_state;

/// The window of captures that are over when the clock is set forward.
pub(super) const WINDOW: Duration = Duration::from_secs(3600);
const SHARDS: NonZeroU16 = NonZeroU16::new(5).unwrap();

/// The system's clock, set forward.
#[derive(Debug, Default)]
pub(super) struct JumpClock {
    by: Mutex<Duration>,
    /// By how much somebody has set the wall clock, in seconds.
    set_by_seconds: AtomicI64,
    pub(super) is_broken: AtomicBool,
}

impl JumpClock {
    /// Sets the wall clock, forward or back.
    pub(super) fn set_wall(&self, by_seconds: i64) {
        self.set_by_seconds.store(by_seconds, Ordering::SeqCst);
    }

    /// The window is over.
    pub(super) fn end_window(&self) {
        *self.by.lock().unwrap() += WINDOW;
    }
}

impl Clock for JumpClock {
    fn wall(&self) -> DateTime<Utc> {
        let set_by = chrono::Duration::seconds(self.set_by_seconds.load(Ordering::SeqCst));
        SystemClock.wall() + *self.by.lock().unwrap() + set_by
    }

    fn monotonic(&self) -> Instant {
        assert!(!self.is_broken.load(Ordering::SeqCst), "the clock is broken");
        Instant::now() + *self.by.lock().unwrap()
    }
}

pub(super) struct Bay {
    _dir: TempDir,
    state: State,
    _runtime: Runtime,
    pub(super) clock: Arc<JumpClock>,
    pub(super) capturer: Capturer,
}

/// A capture that runs in a thread.
pub(super) struct Capturing {
    pub(super) run: Run,
    thread: JoinHandle<Ended>,
}

impl Capturing {
    pub(super) fn ended(self) -> Ended {
        self.thread.join().unwrap()
    }

    /// The account of a capture that came to its end.
    pub(super) fn account(self) -> Value {
        let ended = self.ended();
        let Ended::Finished(Product::Bytes(json)) = ended else { panic!("{ended:?}") };
        assert!(json.len() < 1024);
        let account: Value = serde_json::from_slice(&json).unwrap();
        let count = |key: &str| account[key].as_u64().unwrap();
        if let Some(sent) = account["sent"].as_u64() {
            let found = count("stored") + count("malformed") + count("truncated") + count("lost");
            assert_eq!(sent, found, "{account}");
        } else {
            assert_eq!(account["lost"], Value::Null, "{account}");
        }
        account
    }
}

pub(super) fn job(ship: &str, until: DateTime<Utc>) -> Job {
    let order = Order { ship_name: ship.parse().unwrap(), until_ms: until.timestamp_millis() };
    let kind = KIND.parse().unwrap();
    Job { id: TaskId::new(), attempt: 1, kind, expires_at_ms: None, payload: order.payload() }
}

impl Bay {
    pub(super) fn new(spaceship: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = open_state(dir.path(), 1 << 30).unwrap();
        let clock = Arc::new(JumpClock::default());
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let broker =
            EmbeddedBroker::new(state.clone(), Arc::new(SystemClock), KeyRetention::NONE).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let spaceship = Spaceship::new(Road::Network(
            Network::new(&format!("http://{spaceship}"), None, None).unwrap(),
        ));
        let capturer = Capturer {
            spaceship: Arc::new(spaceship),
            pauses: vec![Duration::from_millis(1); PAUSES.len()],
            socket: SocketSettings {
                host: "127.0.0.1".parse().unwrap(),
                ports: None,
                buffer_bytes: 8 << 20,
            },
            publisher: Arc::new(broker),
            shards: SHARDS,
            budget: Budget::default(),
            runtime: runtime.handle().clone(),
            clock: time,
        };
        Self { _dir: dir, state, _runtime: runtime, clock, capturer }
    }

    /// Captures a ship, until the window is over.
    pub(super) fn capture(&self, ship: &str) -> Capturing {
        let (job, capturer) = (job(ship, self.clock.wall() + WINDOW), self.capturer.clone());
        let run = Run::new(Path::new("unused"), capturer.timeout(&job));
        let running = run.clone();
        let thread = std::thread::spawn(move || capturer.run(&job, &running));
        Capturing { run, thread }
    }

    /// The numbers of what is stored of a ship, in order.
    pub(super) fn stored(&self, ship: &str) -> Vec<Option<u64>> {
        let ship: ShipName = ship.parse().unwrap();
        let key = ShardKey::new(Topic::Telemetry, ship.shard(SHARDS));
        let txn = self.state.read().unwrap();
        let mut numbers = Vec::new();
        for frame in Frames::from(&txn, &self.state, key, 0).unwrap() {
            for line in frame.unwrap().1.split_inclusive(|byte| *byte == b'\n') {
                let (of, reading) = datagram::read_line(line).unwrap();
                if of == ship {
                    numbers.push(reading.sequence);
                }
            }
        }
        numbers
    }
}
