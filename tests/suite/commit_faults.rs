//! The commit protocol against a disk that fails and loses power, at every call there is.
//!
//! Each case publishes the same messages, consumes them with one fault, cuts the power, consumes
//! the rest with a sound disk, cuts the power again, and counts: every message exactly once.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_data_processor::batch::disk::Disk;
use async_data_processor::batch::journal::JournalRetention;
use async_data_processor::batch::name::Compression;
use async_data_processor::broker::append::shard_ends;
use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::broker::progress::Progress;
use async_data_processor::broker::take::TakePolicy;
use async_data_processor::broker::{Publish, Unit};
use async_data_processor::clock::SystemClock;
use async_data_processor::consumer::{Consumer, ConsumerSettings, Processing, TopicPart};
use async_data_processor::message::{Lines, ShardId, ShardKey, Topic};
use async_data_processor::pool::scale::Limits;
use async_data_processor::service::Lifecycle;
use async_data_processor::service::presence::Presence;
use async_data_processor::state::{State, StateOptions};
use tempfile::TempDir;

use crate::sim_disk::{Fault, SimDisk};
use crate::sim_tree::Loss;

const SHARDS: u16 = 2;
const MESSAGES_PER_SHARD: usize = 5;
const BATCH_MAX: u64 = 3;

/// A state environment with messages waiting in it, and a disk for them.
struct Rig {
    state: State,
    disk: SimDisk,
    _dir: TempDir,
}

fn settings() -> ConsumerSettings {
    ConsumerSettings {
        shards: NonZeroU16::new(SHARDS).unwrap(),
        // More than one, so that batches of a shard are committed out of order.
        workers: Limits { least: 2, most: 2 },
        compression: Compression::None,
        policy: TakePolicy {
            batch_min: 1,
            batch_max: BATCH_MAX,
            batch_bytes_max: 1 << 20,
            linger: Duration::ZERO,
            files_per_second: 0.0,
        },
        retention: JournalRetention { batches_max: 1, age_ms_max: u64::MAX },
        adopt_output: false,
        history_every: Duration::from_secs(3600),
    }
}

fn open_state(dir: &Path) -> State {
    State::open(StateOptions {
        dir: dir.to_owned(),
        map_bytes: 64 << 20,
        low_water_bytes: Some(0),
        on_poison: Box::new(|reason| panic!("poisoned: {reason}")),
    })
    .unwrap()
}

/// In memory if there is such a place: the state environment is not what is under test here.
fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn publish(state: &State) {
    let clock = Arc::new(SystemClock);
    let retention = KeyRetention { keys_max: 10, age_ms_max: 1000 };
    let broker = EmbeddedBroker::new(state.clone(), clock, retention).unwrap();
    for message in 0..MESSAGES_PER_SHARD {
        let part = |shard| {
            let mut lines = Lines::default();
            lines.push(format!("{{\"m\":\"{shard}-{message}\"}}").as_bytes());
            (ShardKey::new(Topic::Messages, ShardId(shard)), lines)
        };
        let parts = (0..SHARDS).map(part).collect();
        broker.publish(Unit { parts, key: None }).blocking_recv().unwrap().unwrap();
    }
}

impl Rig {
    fn new() -> Self {
        let dir = temporary();
        let state = open_state(dir.path());
        publish(&state);
        Self { state, disk: SimDisk::new(), _dir: dir }
    }

    fn waiting(&self) -> u64 {
        let txn = self.state.read().unwrap();
        let tables = self.state.tables();
        let ends = shard_ends(&txn, tables).unwrap();
        let waiting = |(key, end): (ShardKey, _)| {
            let progress = Progress::load(&txn, tables, key).unwrap();
            let end: async_data_processor::broker::append::ShardEnd = end;
            progress.waiting(end.offset)
        };
        ends.into_iter().map(waiting).sum()
    }

    /// Nothing waits, and every batch is in place.
    fn is_settled(&self) -> bool {
        let prepared = self.state.tables().prepared;
        self.waiting() == 0 && prepared.is_empty(&self.state.read().unwrap()).unwrap()
    }

    /// Consumes until `enough`, then stops gracefully; the failure it stopped by, if it did.
    fn consume_until(&self, enough: impl Fn(&Self) -> bool) -> Option<String> {
        self.consume_within(Duration::from_secs(120), enough)
    }

    /// The same, with a processing timeout.
    fn consume_within(
        &self,
        timeout: Duration,
        mut enough: impl FnMut(&Self) -> bool,
    ) -> Option<String> {
        let life = Lifecycle::new();
        let consumer = Consumer {
            state: self.state.clone(),
            disk: Arc::new(self.disk.clone()) as Arc<dyn Disk>,
            output: PathBuf::from("simulated"),
            clock: Arc::new(SystemClock),
            life: life.clone(),
            topics: vec![TopicPart::new(
                Topic::Messages,
                Processing { timeout, ..Processing::default() },
            )],
            settings: settings(),
            feed: None,
            presence: Presence::default(),
        };
        let thread = std::thread::spawn(move || consumer.run());
        while !enough(self) && !life.is_stopping() && !thread.is_finished() {
            std::thread::sleep(Duration::from_micros(200));
        }
        life.stop();
        let outcome = thread.join().unwrap();
        let failure = life.failure().map(|failure| failure.reason);
        failure.or_else(|| outcome.err().map(|error| error.to_string()))
    }

    fn assert_exactly_once(&self, case: &str) {
        let expected: HashMap<String, usize> = (0..SHARDS)
            .flat_map(|shard| (0..MESSAGES_PER_SHARD).map(move |m| (shard, m)))
            .map(|(shard, message)| (format!("{{\"m\":\"{shard}-{message}\"}}"), 1))
            .collect();
        let found = self.disk.committed_lines();
        assert_eq!(found, expected, "{case}; calls were:\n{}", self.disk.log());
    }

    /// With a sound disk everything ends up in files, and stays there without power.
    fn assert_recovers(&self, case: &str) {
        self.disk.inject(Fault::None);
        let failure = self.consume_until(Rig::is_settled);
        assert_eq!(failure, None, "{case}: recovery failed");
        assert_eq!(self.waiting(), 0, "{case}");
        assert_eq!(self.disk.staged(), Vec::<PathBuf>::new(), "{case}: staged files are left");
        self.disk.lose_power(Loss::All);
        self.assert_exactly_once(case);
    }
}

/// How many calls a run makes that meets no fault.
fn reference_calls() -> usize {
    let rig = Rig::new();
    rig.disk.inject(Fault::None);
    assert_eq!(rig.consume_until(Rig::is_settled), None);
    rig.assert_exactly_once("reference run");
    rig.disk.calls()
}

#[test]
fn power_loss_at_every_call_loses_and_doubles_nothing() {
    let calls = reference_calls();
    assert!(calls > 30, "the reference run is too short to mean anything: {calls} calls");
    for call in 0..calls {
        for loss in [Loss::All, Loss::Nothing, Loss::Some(call as u64 * 2 + 1)] {
            let rig = Rig::new();
            rig.disk.inject(Fault::From(call));
            rig.consume_until(|rig| rig.disk.failed() > 0 || rig.is_settled());
            rig.disk.lose_power(loss);
            rig.assert_recovers(&format!("power lost at call {call}, {loss:?}"));
        }
    }
}

#[test]
fn power_loss_during_recovery_loses_and_doubles_nothing() {
    let calls = reference_calls();
    for call in (0..calls).step_by(3) {
        for again in 0..12 {
            let rig = Rig::new();
            rig.disk.inject(Fault::From(call));
            rig.consume_until(|rig| rig.disk.failed() > 0 || rig.is_settled());
            rig.disk.lose_power(Loss::Some(call as u64));
            rig.disk.inject(Fault::From(again));
            rig.consume_until(|rig| rig.disk.failed() > 0 || rig.is_settled());
            rig.disk.lose_power(if again % 2 == 0 { Loss::All } else { Loss::Nothing });
            rig.assert_recovers(&format!("power lost at call {call}, then {again}"));
        }
    }
}

#[test]
fn one_failing_call_loses_and_doubles_nothing() {
    for call in 0..reference_calls() {
        for loss in [Loss::All, Loss::Nothing] {
            let rig = Rig::new();
            rig.disk.inject(Fault::Once(call));
            // Either it gets by, or it stops with a reason.
            let failure = rig.consume_until(Rig::is_settled);
            assert!(failure.is_some() || rig.waiting() == 0, "call {call}");
            rig.disk.lose_power(loss);
            rig.assert_recovers(&format!("call {call} failed once, {loss:?}; {failure:?}"));
        }
    }
}

#[test]
fn one_failing_call_during_recovery_loses_and_doubles_nothing() {
    let calls = reference_calls();
    for call in (calls / 2..calls).step_by(4) {
        for again in 0..16 {
            let rig = Rig::new();
            rig.disk.inject(Fault::From(call));
            rig.consume_until(|rig| rig.disk.failed() > 0 || rig.is_settled());
            rig.disk.inject(Fault::Once(again));
            let failure = rig.consume_until(Rig::is_settled);
            let failed_call = rig.disk.failed_call().unwrap_or_default();
            let is_folder_sync = rig.disk.failed() > 0 && failed_call.starts_with("sync folder");
            assert!(
                !is_folder_sync || failure.is_some(),
                "{failed_call} failed in recovery, and nothing stopped"
            );
            rig.disk.lose_power(Loss::All);
            rig.assert_recovers(&format!("call {call}, then {again} ({failed_call}) failed once"));
        }
    }
}

#[test]
fn a_worker_that_hangs_at_any_call_loses_its_batch_to_another_and_doubles_nothing() {
    let mut taken_over = 0;
    for call in 0..reference_calls() {
        let rig = Rig::new();
        rig.disk.inject(Fault::None);
        rig.disk.hang(call);
        let patience = Instant::now() + Duration::from_secs(2);
        let failure = rig.consume_within(Duration::from_millis(20), |rig| {
            // A call before the start, or after the commit point, is waited for as long as it
            // takes; then everything may still be settled but for this one.
            if rig.disk.is_hanging() && (rig.waiting() == 0 || Instant::now() > patience) {
                taken_over += usize::from(rig.waiting() == 0);
                rig.disk.release();
            }
            rig.is_settled() && !rig.disk.is_hanging()
        });
        assert_eq!(failure, None, "call {call} hung; calls were:\n{}", rig.disk.log());
        rig.assert_recovers(&format!("call {call} hung"));
    }
    assert!(taken_over > 10, "hardly any batch was taken over: {taken_over}");
}

#[test]
fn a_reader_that_takes_files_at_once_gets_each_message_once() {
    for call in 0..=reference_calls() {
        let rig = Rig::new();
        rig.disk.read_at_once();
        rig.disk.inject(Fault::From(call));
        rig.consume_until(|rig| rig.disk.failed() > 0 || rig.is_settled());
        // Killed, not without power: what the reader has seen has happened.
        rig.disk.lose_power(Loss::Nothing);
        rig.assert_recovers(&format!("killed at call {call} with a reader"));
    }
}

#[test]
fn a_damaged_batch_stops_the_start_and_is_named() {
    let calls = reference_calls();
    let mut found = 0;
    for call in 0..calls {
        let rig = Rig::new();
        rig.disk.inject(Fault::From(call));
        rig.consume_until(|rig| rig.disk.failed() > 0 || rig.is_settled());
        let prepared = rig.state.tables().prepared.len(&rig.state.read().unwrap()).unwrap();
        let damaged = rig
            .disk
            .tamper(|path| path.starts_with(".staging") && prepared > 0, |bytes| bytes.push(b'!'));
        rig.disk.inject(Fault::None);
        let before = rig.waiting();
        let failure = rig.consume_until(Rig::is_settled);
        if let Some(failure) = failure.filter(|_| damaged > 0) {
            found += 1;
            assert!(failure.contains("is damaged"), "{failure}");
            assert!(failure.contains(".staging/messages-"), "{failure}");
            assert!(rig.waiting() <= before);
        }
    }
    assert!(found > 0, "no case left a committed batch in staging");
}

#[test]
fn staged_files_of_a_shard_that_another_owns_are_left_alone() {
    use async_data_processor::broker::ownership::ShardLock;

    let rig = Rig::new();
    rig.disk.inject(Fault::None);
    assert_eq!(rig.consume_until(Rig::is_settled), None);
    let key = ShardKey::new(Topic::Messages, ShardId(0));
    let lock = ShardLock::try_take(rig.state.dir(), key).unwrap().unwrap();
    let staged = Path::new(".staging/messages-0/100-1-1-0");
    rig.disk.plant(staged, b"being written by the owner\n");
    publish(&rig.state);
    let rest = MESSAGES_PER_SHARD as u64;
    assert_eq!(rig.consume_until(|rig| rig.waiting() == rest), None);
    assert_eq!(rig.disk.staged(), [staged]);
    drop(lock);
    assert_eq!(rig.consume_until(Rig::is_settled), None);
    assert_eq!(rig.disk.staged(), Vec::<PathBuf>::new());
}
