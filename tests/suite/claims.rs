//! Workers that are too slow, parts of another size, pools that shrink at the wrong moment: one
//! shard in this process, its workers played by the test.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_data_processor::batch::Content;
use async_data_processor::batch::disk::OutputDir;
use async_data_processor::batch::journal::JournalRetention;
use async_data_processor::batch::name::WorkerName;
use async_data_processor::batch::output::bind;
use async_data_processor::batch::recovery::recover;
use async_data_processor::batch::writer::{WriteError, Writer};
use async_data_processor::broker::Delivery;
use async_data_processor::broker::append::Appender;
use async_data_processor::broker::ownership::ShardLock;
use async_data_processor::broker::progress::Progress;
use async_data_processor::broker::retry::Purpose;
use async_data_processor::broker::source::Source;
use async_data_processor::broker::take::TakePolicy;
use async_data_processor::clock::SystemClock;
use async_data_processor::message::{Lines, OffsetRange, ShardId, ShardKey, Topic};
use async_data_processor::pool::scale::Limits;
use async_data_processor::pool::{Handler, Pool};
use async_data_processor::service::Lifecycle;
use async_data_processor::state::{State, StateError, WriteTxn};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tempfile::TempDir;

use crate::harness::{open_state, wait_for};

const KEY: ShardKey = ShardKey::new(Topic::Messages, ShardId(0));
const WORKER: WorkerName = WorkerName::new(KEY, 1);

/// A shard with messages that wait.
struct Shard {
    state: State,
    writer: Writer,
    life: Lifecycle,
    _dir: TempDir,
}

impl Shard {
    fn with(messages: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("output");
        std::fs::create_dir(&output).unwrap();
        let state = open_state(&dir.path().join("state"), 64 << 20).unwrap();
        let append = move |txn: &mut WriteTxn<'_>| {
            let mut lines = Lines::default();
            (0..messages).for_each(|n| lines.push(format!("{{\"n\":{n}}}").as_bytes()));
            let mut appender = Appender::new(0);
            appender.append(txn, KEY, &lines)?;
            appender.finish(txn).map(drop)
        };
        state.commit(append).unwrap();
        let disk = Arc::new(OutputDir::open(&output).unwrap());
        let identity = bind(&state, disk.as_ref(), &output, false).unwrap();
        let retention = JournalRetention { batches_max: 100, age_ms_max: u64::MAX };
        let (clock, life) = (Arc::new(SystemClock), Lifecycle::new());
        let writer =
            Writer::new(state.clone(), disk, output, identity, clock, retention, life.clone());
        Self { state, writer, life, _dir: dir }
    }

    /// Takes the shard over, as a start does, with batches of at most so many messages.
    fn start(&self, batch_max: u64) -> Arc<Source> {
        let lock = ShardLock::try_take(self.state.dir(), KEY).unwrap().unwrap();
        let progress = recover(&self.writer, &lock).unwrap();
        let policy = TakePolicy {
            batch_min: 1,
            batch_max,
            batch_bytes_max: 1 << 20,
            linger: Duration::ZERO,
            files_per_second: 0.0,
        };
        let (_tell, wake) = bounded(1);
        let (state, life) = (self.state.clone(), self.life.clone());
        Source::new(state, KEY, &progress, policy, Arc::new(SystemClock), life, wake).unwrap()
    }

    fn write(&self, delivery: Delivery) -> Result<(), WriteError> {
        let (row, proof) = self.writer.commit(WORKER, &delivery, &Content::AsIs)?;
        delivery.settle(&proof);
        self.writer.place(KEY, &row)
    }

    fn progress(&self) -> Progress {
        Progress::load(&self.state.read().unwrap(), self.state.tables(), KEY).unwrap()
    }
}

fn next(source: &Arc<Source>) -> Delivery {
    source.next(&AtomicBool::new(false)).unwrap().unwrap()
}

/// What a process leaves that is killed with these in hand.
fn kill(deliveries: impl IntoIterator<Item = Delivery>) {
    deliveries.into_iter().for_each(std::mem::forget);
}

#[test]
fn a_smaller_batch_max_does_not_cut_what_failed_before() {
    let shard = Shard::with(200);
    let failed = next(&shard.start(200)).fail("why", 5).unwrap();
    assert!(failed.is_some());
    for batch_max in [20, 200, 20] {
        let again = next(&shard.start(batch_max));
        assert_eq!(again.range, OffsetRange::new(0, 200));
        kill([again]);
    }
    shard.write(next(&shard.start(20))).unwrap();
    assert_eq!(shard.progress().low, 200);
}

#[test]
fn what_was_in_hand_at_a_crash_comes_back_in_batches_with_their_whole_timeout() {
    let shard = Shard::with(60);
    let source = shard.start(10);
    let mut taken: Vec<_> = (0..6).map(|_| next(&source)).collect();
    shard.write(taken.remove(5)).unwrap();
    kill(taken);
    let source = shard.start(10);
    for first in [0, 10, 20, 30, 40] {
        let delivery = next(&source);
        assert_eq!(delivery.range, OffsetRange::new(first, first + 10));
        assert_eq!(delivery.purpose, Purpose::Process { of: 10 });
        shard.write(delivery).unwrap();
    }
    assert_eq!(shard.progress().low, 60);
}

#[test]
fn a_worker_that_wakes_up_after_its_messages_are_gone_only_gives_up() {
    let shard = Shard::with(5);
    let source = shard.start(10);
    let slow = next(&source);
    let now = Instant::now();
    assert!(slow.claim().renew(now) && slow.claim().revoke_if_late(now));
    source.take_from(slow.claim());
    shard.write(next(&source)).unwrap();
    shard.writer.finish_again();
    shard.state.commit(|_| Ok(())).unwrap();
    assert!(matches!(shard.write(slow), Err(WriteError::Lost)));
    assert_eq!(shard.life.failure(), None);
}

#[test]
fn a_slow_disk_keeps_no_pages_of_the_state_from_being_used_again() {
    let shard = Shard::with(5);
    let delivery = next(&shard.start(5));
    let churn = || {
        for n in 0..300_u64 {
            let put = move |txn: &mut WriteTxn<'_>| {
                Ok(txn.tables.meta.put(&mut txn.txn, b"churn", &n.to_be_bytes())?)
            };
            shard.state.commit(put).unwrap();
        }
        std::fs::metadata(shard.state.dir().join("data.mdb")).unwrap().len()
    };
    let before = churn();
    let visited = delivery.visit(|_| {
        assert!(churn() <= before + 64 * 1024);
        Ok::<_, StateError>(())
    });
    visited.unwrap();
}

/// The first worker waits once and then commits all that it gets; the second one hangs.
struct SecondHangs {
    shard: Arc<Shard>,
    go_on: Receiver<()>,
    wake_up: Receiver<()>,
    took: Sender<u16>,
}

impl Handler for SecondHangs {
    fn handle(&self, place: u16, delivery: Delivery) {
        assert!(delivery.claim().renew(Instant::now() + Duration::from_secs(120)));
        self.took.send(place).unwrap();
        if place == 1 {
            let _released = self.go_on.recv();
            self.shard.write(delivery).unwrap();
        } else {
            let _released = self.wake_up.recv();
        }
    }

    fn timed_out(&self, _: ShardKey, place: u16) {
        assert_eq!(place, 2);
    }
}

#[test]
fn a_worker_that_hangs_when_its_pool_shrinks_loses_its_messages_all_the_same() {
    let shard = Arc::new(Shard::with(15));
    let source = shard.start(5);
    let ((release, go_on), (wake, wake_up)) = (bounded::<()>(0), bounded::<()>(0));
    let (took, taken) = unbounded();
    let handler = SecondHangs { shard: Arc::clone(&shard), go_on, wake_up, took };
    let handler: Arc<dyn Handler> = Arc::new(handler);
    let limits = Limits { least: 1, most: 2 };
    let mut pool = Pool::start(limits, &source, &handler, &shard.life).unwrap();
    let began = Instant::now();
    assert_eq!(taken.recv().unwrap(), 1);
    // Nobody is free, and the messages were accepted in 1970: it grows.
    wait_for("the second worker", || {
        pool.supervise(began + Duration::from_secs(6));
        taken.try_recv().ok()
    });
    drop(release);
    let done =
        || shard.progress().low + shard.progress().ranges.iter().map(|r| r.count()).sum::<u64>();
    wait_for("the first worker to do the rest", || (done() == 10).then_some(()));
    for seconds in (20..=110).step_by(10) {
        pool.supervise(began + Duration::from_secs(seconds));
    }
    // Once: the first worker, which gets the messages, has its time from now on.
    pool.supervise(Instant::now() + Duration::from_secs(121));
    wait_for("the messages of the second one", || (shard.progress().low == 15).then_some(()));
    assert_eq!(shard.life.failure(), None);
    shard.life.stop();
    drop(wake);
    pool.join();
}
