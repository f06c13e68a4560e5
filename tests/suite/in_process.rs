//! What needs a hand on the clock, on a transaction or on a namespace: the library, from inside.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_data_processor::batch::Content;
use async_data_processor::batch::disk::OutputDir;
use async_data_processor::batch::journal::{self, JournalRetention, Staged};
use async_data_processor::batch::name::{BatchKind, Compression, WorkerName};
use async_data_processor::batch::output::bind;
use async_data_processor::batch::recovery::recover;
use async_data_processor::batch::verify::{Account, verify};
use async_data_processor::batch::writer::Writer;
use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::broker::ownership::ShardLock;
use async_data_processor::broker::progress::{Progress, Refused};
use async_data_processor::broker::source::Source;
use async_data_processor::broker::take::TakePolicy;
use async_data_processor::broker::{IdempotencyKey, Publish, Published, Unit};
use async_data_processor::clock::Clock;
use async_data_processor::consumer::{Consumer, ConsumerSettings, Processing, TopicPart};
use async_data_processor::message::{Lines, OffsetRange, ShardId, ShardKey, Topic};
use async_data_processor::pool::scale::Limits;
use async_data_processor::service::Lifecycle;
use async_data_processor::service::presence::Presence;
use async_data_processor::state::{Job, State, StateError, WriteTxn};
use chrono::{DateTime, TimeDelta, Utc};
use crossbeam_channel::{Receiver, Sender, bounded};
use tempfile::TempDir;

use crate::harness::{files_below, open_state, wait_for};

const KEY: ShardKey = ShardKey::new(Topic::Messages, ShardId(0));
const WORKER: WorkerName = WorkerName::new(KEY, 1);
/// The identity of an output directory, where none is bound.
const OUTPUT: &str = "00000000000000000000000000000000";

/// A clock on the wall that anybody may set.
#[derive(Debug)]
struct WallClock(Mutex<DateTime<Utc>>);

impl WallClock {
    fn at(text: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(text.parse().unwrap())))
    }

    fn turn(&self, minutes: i64) {
        *self.0.lock().unwrap() += TimeDelta::minutes(minutes);
    }
}

impl Clock for WallClock {
    fn wall(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

const POLICY: TakePolicy = TakePolicy {
    batch_min: 5,
    batch_max: 100,
    batch_bytes_max: 1 << 20,
    linger: Duration::from_millis(20),
    files_per_second: 0.0,
};

/// A state environment, an output directory and a clock.
struct Bench {
    dir: TempDir,
    state: State,
    clock: Arc<WallClock>,
    broker: EmbeddedBroker,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("output")).unwrap();
        let state = open_state(&dir.path().join("state"), 64 << 20).unwrap();
        let clock = WallClock::at("2026-11-22T07:30:00Z");
        let retention = KeyRetention { keys_max: 10, age_ms_max: HOUR_MS * 2 };
        let broker =
            EmbeddedBroker::new(state.clone(), Arc::clone(&clock) as Arc<dyn Clock>, retention);
        Self { dir, state, clock, broker: broker.unwrap() }
    }

    fn disk(&self) -> Arc<OutputDir> {
        Arc::new(OutputDir::open(&self.dir.path().join("output")).unwrap())
    }

    fn publish(&self, lines: &[String], key: Option<&str>) -> Published {
        let mut part = Lines::default();
        lines.iter().for_each(|line| part.push(line.as_bytes()));
        let key = key.map(|key| IdempotencyKey {
            principal: "anybody".into(),
            key: key.to_owned(),
            fingerprint: [7; 32],
        });
        let unit = Unit { parts: vec![(KEY, part)], key };
        self.broker.publish(unit).blocking_recv().unwrap().unwrap()
    }

    fn account(&self) -> Account {
        verify(&self.state, Some(self.disk().as_ref()), false).unwrap()
    }

    /// Waits until nothing waits and no batch is on its way.
    fn wait_settled(&self) -> Account {
        wait_for("everything to be in files", || {
            // In this order: a batch is prepared before its messages no longer wait.
            let waiting = self.account().waiting;
            let prepared = self.state.tables().prepared;
            let settled = prepared.is_empty(&self.state.read().unwrap()).unwrap();
            let account = self.account();
            (waiting == 0 && settled).then_some(account)
        })
    }

    fn writer(&self, life: &Lifecycle) -> Writer {
        let output = self.dir.path().join("output");
        let identity = bind(&self.state, self.disk().as_ref(), &output, false).unwrap();
        Writer::new(
            self.state.clone(),
            self.disk(),
            output,
            identity,
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            RETENTION,
            life.clone(),
        )
    }
}

const HOUR_MS: u64 = 60 * 60 * 1000;
const RETENTION: JournalRetention =
    JournalRetention { batches_max: u64::MAX, age_ms_max: HOUR_MS * 2 };

#[test]
fn a_clock_that_jumps_delays_and_loses_nothing() {
    let bench = Bench::new();
    let life = Lifecycle::new();
    let consumer = Consumer {
        state: bench.state.clone(),
        disk: bench.disk(),
        output: bench.dir.path().join("output"),
        clock: Arc::clone(&bench.clock) as Arc<dyn Clock>,
        life: life.clone(),
        feed: None,
        presence: Presence::default(),
        topics: vec![TopicPart::new(Topic::Messages, Processing::default())],
        settings: ConsumerSettings {
            shards: NonZeroU16::MIN,
            workers: Limits { least: 1, most: 1 },
            compression: Compression::None,
            policy: POLICY,
            retention: RETENTION,
            adopt_output: false,
            history_every: Duration::from_secs(3600),
        },
    };
    let thread = std::thread::spawn(move || consumer.run());
    let mut sent = Vec::new();
    // Hours: 7, 6, 6, 7, 7, 5; less than two hours apart, so that every row is kept.
    for (step, minutes) in [0, -60, 1, 60, 1, -100].into_iter().enumerate() {
        bench.clock.turn(minutes);
        // Fewer than make a batch due: they go when they have lingered, whatever the clock says.
        let lines: Vec<_> = (0..3).map(|n| format!("{{\"step\":{step},\"n\":{n}}}")).collect();
        bench.publish(&lines, None);
        let account = bench.wait_settled();
        assert!(account.ok, "{account:?}");
        assert_eq!(account.shards[0].pruned, 0, "{account:?}");
        sent.push(lines);
    }
    let mut found: Vec<String> = Vec::new();
    for (hour, steps) in [("05", &[5][..]), ("06", &[1, 2]), ("07", &[0, 3, 4])] {
        let folder = bench.dir.path().join("output/2026-11-22").join(hour);
        let texts = files_below(&folder).into_iter().map(std::fs::read_to_string);
        let text: String = texts.map(Result::unwrap).collect();
        let expected: Vec<_> = steps.iter().flat_map(|step| sent[*step].clone()).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "in the order of commits");
        found.extend(expected);
    }
    assert_eq!(found.len(), 18);
    // A day on, what is older than the retention is forgotten, and nothing is missed.
    bench.clock.turn(24 * 60);
    bench.publish(&["{}".to_owned()], None);
    let account = bench.wait_settled();
    assert!(account.ok && account.shards[0].pruned > 0, "{account:?}");
    life.stop();
    thread.join().unwrap().unwrap();
    assert_eq!(life.failure(), None);
}

#[test]
fn a_clock_set_back_forgets_no_idempotency_key() {
    let bench = Bench::new();
    let line = ["{}".to_owned()];
    let first = bench.publish(&line, Some("key"));
    bench.clock.turn(-60);
    let again = bench.publish(&line, Some("key"));
    assert_eq!(again, Published { replayed: true, ..first.clone() });
    bench.clock.turn(24 * 60);
    assert!(!bench.publish(&line, Some("key")).replayed);
    assert_eq!(bench.account().accepted, 2);
}

/// Everything that is stored, but for the lines.
fn dump(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let tables = state.tables();
    let txn = state.read().unwrap();
    let tables = [tables.progress, tables.prepared, tables.journal, tables.workers, tables.meta];
    let rows = tables.iter().flat_map(|table| table.iter(&txn).unwrap());
    rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

#[test]
fn a_stale_token_or_an_overlap_records_nothing() {
    let bench = Bench::new();
    bench.publish(&[(); 6].map(|()| "{}".to_owned()), None);
    let taken_over =
        |txn: &mut WriteTxn<'_>| Progress { epoch: 2, ..Progress::default() }.store(txn, KEY);
    bench.state.commit(taken_over).unwrap();
    let prepare = |epoch, first, end| {
        let staged = Staged {
            key: KEY,
            range: OffsetRange::new(first, end),
            epoch,
            kind: BatchKind::Data,
            bytes: 3 * (end - first),
            checksum: "0".repeat(16),
            outputs: None,
            worker: WORKER,
            compression: Compression::None,
            output: OUTPUT.to_owned(),
            path: "staged".into(),
            reason: String::new(),
            at: bench.clock.wall(),
        };
        let outcome = bench.state.commit(move |txn| journal::prepare(txn, &staged));
        outcome.unwrap().map(|(row, _)| row.number)
    };
    let empty = dump(&bench.state);
    assert_eq!(prepare(1, 0, 3), Err(Refused::Fenced { held: 1, current: 2 }));
    assert_eq!(prepare(3, 0, 3), Err(Refused::Fenced { held: 3, current: 2 }));
    assert_eq!(dump(&bench.state), empty);
    assert_eq!(prepare(2, 2, 4), Ok(1));
    let one = dump(&bench.state);
    assert_ne!(one, empty);
    for (first, end) in [(2, 4), (0, 3), (3, 6), (0, 6)] {
        let range = OffsetRange::new(first, end);
        assert_eq!(prepare(2, first, end), Err(Refused::Overlap { range }));
    }
    assert_eq!(dump(&bench.state), one);
    // The mark goes up to 4 with this one.
    assert_eq!(prepare(2, 0, 2), Ok(2));
    for (first, end) in [(0, 1), (3, 5)] {
        let range = OffsetRange::new(first, end);
        assert_eq!(prepare(2, first, end), Err(Refused::Overlap { range }));
    }
}

#[test]
fn a_worker_of_a_former_owner_commits_nothing() {
    let bench = Bench::new();
    bench.publish(&[(); 5].map(|()| "{}".to_owned()), None);
    let life = Lifecycle::new();
    let (former, next) = (bench.writer(&life), bench.writer(&life));
    // A child that another test is just starting may hold the lock's file for a moment.
    let free = || ShardLock::try_take(bench.state.dir(), KEY).unwrap();
    let take = || wait_for("the lock", free);
    let lock = take();
    let progress = recover(&former, &lock).unwrap();
    let (_tell, wake) = bounded(1);
    let clock = Arc::clone(&bench.clock) as Arc<dyn Clock>;
    let state = bench.state.clone();
    let source = Source::new(state, KEY, &progress, POLICY, clock, life.clone(), wake).unwrap();
    let delivery = source.next(&AtomicBool::new(false)).unwrap().unwrap();
    drop(lock);
    let _lock = take();
    recover(&next, &_lock).unwrap();
    let before = dump(&bench.state);
    let refused = former.commit(WORKER, &delivery, &Content::AsIs).unwrap_err();
    assert!(!refused.is_retry() && refused.to_string().contains("out of date"), "{refused}");
    assert_eq!(dump(&bench.state), before);
    let staging = bench.dir.path().join("output/.staging/messages-0");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
    assert_eq!(bench.account().waiting, 5);
}

/// Puts a value; waits at its first turn, if told to.
struct Put {
    name: &'static str,
    bytes: usize,
    pause: Option<(Sender<()>, Receiver<()>)>,
    turns: Arc<AtomicUsize>,
    settled: Sender<(&'static str, bool)>,
}

impl Job for Put {
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        if let Some((begun, go_on)) = self.pause.take() {
            begun.send(()).unwrap();
            go_on.recv().unwrap();
        }
        let value = vec![b'v'; self.bytes];
        Ok(txn.tables.workers.put(&mut txn.txn, self.name.as_bytes(), &value)?)
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        let full = matches!(outcome, Err(StateError::MapFull));
        assert!(full || outcome.is_ok(), "{outcome:?}");
        self.settled.send((self.name, !full)).unwrap();
    }
}

#[test]
fn in_a_group_what_does_not_fit_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = open_state(dir.path(), 1 << 20).unwrap();
    let (settled, outcomes) = bounded(4);
    let put = |name, bytes, pause| {
        let turns = Arc::new(AtomicUsize::new(0));
        let settled = settled.clone();
        state.submit(Box::new(Put { name, bytes, pause, turns: Arc::clone(&turns), settled }));
        turns
    };
    let (begun, is_begun) = bounded(1);
    let (go_on, may_go_on) = bounded(1);
    put("first", 10, Some((begun, may_go_on)));
    is_begun.recv().unwrap();
    // These wait for the first together.
    let turns = [put("small", 10, None), put("large", 2 << 20, None), put("late", 10, None)];
    go_on.send(()).unwrap();
    let outcomes: Vec<_> = outcomes.iter().take(4).collect();
    assert_eq!(outcomes, [("first", true), ("small", true), ("large", false), ("late", true)]);
    assert_eq!(turns[0].load(Ordering::Relaxed), 2, "they were no group");
    let txn = state.read().unwrap();
    let stored = state.tables().workers.iter(&txn).unwrap().map(|row| row.unwrap().0);
    assert_eq!(stored.collect::<Vec<_>>(), [&b"first"[..], b"late", b"small"]);
}
