//! The bridge: deliveries of the broker go into the state environment, then they are acknowledged.
//!
//! A task per shard that this process owns subscribes to the shard's queue and takes, again and
//! again, all that has come: one transaction, one ack for all of it. It stops taking while much
//! waits locally, and the broker then keeps the rest. After a lost connection every old delivery
//! tag is forgotten; what was not acknowledged comes again, and is known.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::error::{BrokerError, Doing, within};
use super::intake::{Check, Intake, Packet, Report};
use super::link::{Link, Up};
use super::publisher::blocking;
use super::taken;
use super::topology::{CALL_TIMEOUT, Format, GONE_PAUSE, Topology};
use crate::broker::Feed;
use crate::broker::frames::waiting_bytes;
use crate::broker::wake::Waker;
use crate::clock::Clock;
use crate::message::{ShardKey, Topic};
use crate::service::{Lifecycle, held, jittered};
use crate::state::{State, StateError};

/// Deliveries that may be on their way to a shard, unacknowledged: of up to 64 KiB each, or of one
/// entry.
const PREFETCH_PACKED: u16 = 64;
const PREFETCH_INTEROP: u16 = 1000;
/// Bytes of lines that are taken in one transaction, at most, but for the last delivery.
const TAKEN_BYTES: usize = 1 << 20;
/// How often a transaction takes what has come, at most, in a steady stream.
const GATHERING: Duration = Duration::from_millis(4);
/// Bytes of lines that may wait locally in a shard before no more are taken from the broker.
const BACKLOG_BYTES: u64 = 16 << 20;
/// How often it is looked whether the backlog is gone.
const BACKLOG_POLL: Duration = Duration::from_millis(50);
/// The pause before the next try: to subscribe, where another one has the queue or it failed; to
/// store, where there is no room.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the end may take.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Brings what comes over RabbitMQ into the shards that this process owns.
#[derive(Debug)]
pub struct Bridge {
    runtime: Handle,
    inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    state: State,
    clock: Arc<dyn Clock>,
    waker: Waker,
    keyed_max: u64,
    check_of: fn(Topic) -> Check,
    life: Lifecycle,
    ending: CancellationToken,
    started: Instant,
}

/// What a bridge needs.
#[derive(Debug)]
pub struct BridgeParts {
    /// The broker.
    pub address: Address,
    /// Its queues.
    pub topology: Topology,
    /// Where messages go.
    pub state: State,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How many requests with a key are remembered (`IDEMPOTENCY_KEYS`).
    pub keys_max: u64,
    /// Reads what others have published under a topic.
    pub check_of: fn(Topic) -> Check,
    /// The process.
    pub life: Lifecycle,
}

impl Bridge {
    /// A bridge that connects at once and takes nothing yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The folder of the wake-up sockets can't be made.
    pub fn start(parts: BridgeParts) -> std::io::Result<Self> {
        let BridgeParts { address, topology, state, clock, keys_max, check_of, life } = parts;
        let inner = Inner {
            link: Link::start(address, "consumer", topology, life.clone()),
            waker: Waker::new(state.dir())?,
            state,
            clock,
            keyed_max: keys_max,
            check_of,
            life,
            ending: CancellationToken::new(),
            started: Instant::now(),
        };
        Ok(Self { runtime: Handle::current(), inner: Arc::new(inner), tasks: Mutex::default() })
    }
}

impl Feed for Bridge {
    fn begin(&self, key: ShardKey) {
        // Shards of another number than today's have no queue.
        if key.shard.0 >= self.inner.link.topology().shards.get() {
            return;
        }
        let shard = Shard { inner: Arc::clone(&self.inner), key, standing_by: false, told: None };
        held(&self.tasks).push(self.runtime.spawn(shard.run()));
    }

    fn end(&self) {
        self.inner.ending.cancel();
        let tasks = std::mem::take(&mut *held(&self.tasks));
        self.runtime.block_on(async {
            let all = futures_util::future::join_all(tasks);
            if tokio::time::timeout(END_TIMEOUT, all).await.is_err() {
                tracing::warn!("the broker does not let go in time; what it sent comes again");
            }
            self.inner.link.close().await;
        });
    }
}

impl Inner {
    /// Under load, lets more come before the next transaction, which costs as much for one packet
    /// as for many; and all shards wait for the same instant, so that they share it.
    async fn gather(&self, taken_at: Option<Instant>) {
        if taken_at.is_some_and(|at| at.elapsed() < GATHERING) {
            let into = self.started.elapsed().as_micros() % GATHERING.as_micros();
            let into = Duration::from_micros(u64::try_from(into).unwrap_or(0));
            tokio::time::sleep(GATHERING - into).await;
        }
    }
}

/// One shard's queue.
struct Shard {
    inner: Arc<Inner>,
    key: ShardKey,
    standing_by: bool,
    /// What was last said to be wrong.
    told: Option<String>,
}

/// Why a subscription ended.
enum Ended {
    /// The process stops, or cannot go on.
    Stopping,
    /// The broker: try again.
    Broken(BrokerError),
    /// The queue is gone, or the consumer was cancelled.
    Cancelled,
    /// The channel is closed, while its deliveries waited for room.
    Lost,
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        Self::Broken(error)
    }
}

impl Shard {
    async fn run(mut self) {
        let ending = self.inner.ending.clone();
        ending.run_until_cancelled(self.forget_stale_sessions()).await;
        while let Some(Some(up)) = ending.run_until_cancelled(self.inner.link.up()).await {
            match self.serve(&up).await {
                Ended::Stopping => return,
                Ended::Broken(error) => self.mend(&up, &error),
                Ended::Lost => {}
                Ended::Cancelled => {
                    tracing::warn!(key = %self.key, "the broker has cancelled a subscription");
                    ending.run_until_cancelled(tokio::time::sleep(GONE_PAUSE)).await;
                    if let Err(error) = self.inner.link.declare(&up).await {
                        self.mend(&up, &error);
                    }
                }
            }
            ending.run_until_cancelled(tokio::time::sleep(jittered(PAUSE))).await;
        }
    }

    fn mend(&mut self, up: &Up, error: &BrokerError) {
        let (key, link) = (self.key, &self.inner.link);
        if error.is_final() {
            return self.inner.life.fail_settings(error.to_string());
        }
        if error.is_exclusive_use() {
            if !self.standing_by {
                tracing::info!(%key, "another consumer has the queue: standing by for it");
            }
            self.standing_by = true;
            return;
        }
        if matches!(error, BrokerError::TimedOut { .. }) {
            link.give_up(up);
        }
        if let Some(error) = up.untold(error, &mut self.told) {
            tracing::warn!(%key, error, "a subscription broke");
        }
    }

    async fn serve(&mut self, up: &Up) -> Ended {
        match self.subscribe(up).await {
            Ok((channel, consumer)) => {
                (self.standing_by, self.told) = (false, None);
                self.drain(&channel, consumer).await
            }
            Err(error) => Ended::Broken(error),
        }
    }

    async fn subscribe(&self, up: &Up) -> Result<(Channel, Consumer), BrokerError> {
        let topology = self.inner.link.topology();
        let (prefetch, exclusive) = match topology.format.of(self.key.topic) {
            Format::Packed => (PREFETCH_PACKED, false),
            // R1's classic queues know no single active consumer.
            Format::Interop => (PREFETCH_INTEROP, true),
        };
        let opened = up.connection.create_channel();
        let channel = within(CALL_TIMEOUT, Doing::Opening, opened).await?;
        let limited = channel.basic_qos(prefetch, BasicQosOptions::default());
        within(CALL_TIMEOUT, Doing::Subscribing, limited).await?;
        let options = BasicConsumeOptions { exclusive, ..BasicConsumeOptions::default() };
        let queue = topology.queue(self.key);
        let asked = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = within(CALL_TIMEOUT, Doing::Subscribing, asked).await?;
        tracing::debug!(key = %self.key, "subscribed");
        Ok((channel, consumer))
    }

    /// Takes what comes until the subscription ends.
    async fn drain(&self, channel: &Channel, mut consumer: Consumer) -> Ended {
        let ending = &self.inner.ending;
        let (mut taken_at, check) = (None, (self.inner.check_of)(self.key.topic));
        loop {
            let first = match ending.run_until_cancelled(consumer.next()).await {
                None => return Ended::Stopping,
                Some(None) => return Ended::Cancelled,
                Some(Some(delivery)) => delivery,
            };
            self.inner.gather(taken_at).await;
            let (mut packets, mut bytes, mut last) = (Vec::new(), 0, 0);
            // A cancellation is told once: whoever asked again would wait for ever.
            let (mut next, mut is_cancelled) = (Some(first), false);
            while let Some(delivery) = next.take() {
                let delivery: Delivery = match delivery {
                    Ok(delivery) => delivery,
                    Err(source) => {
                        let doing = Doing::Subscribing;
                        return Ended::Broken(BrokerError::Failed { doing, source });
                    }
                };
                last = delivery.delivery_tag;
                let packet = Packet::read(delivery, check);
                bytes += packet.bytes();
                packets.push(packet);
                if bytes >= TAKEN_BYTES {
                    break;
                }
                match consumer.next().now_or_never() {
                    Some(None) => is_cancelled = true,
                    come => next = come.flatten(),
                }
            }
            let report = match self.take(channel, Arc::new(packets)).await {
                Ok(report) => report,
                Err(ended) => return ended,
            };
            taken_at = Some(Instant::now());
            let all = BasicAckOptions { multiple: true };
            let acked = within(CALL_TIMEOUT, Doing::Acknowledging, channel.basic_ack(last, all));
            if let Err(error) = acked.await {
                return Ended::Broken(error);
            }
            if is_cancelled {
                return Ended::Cancelled;
            }
            if report.waiting_bytes > BACKLOG_BYTES && !self.wait_for_room().await {
                return Ended::Stopping;
            }
        }
    }

    /// Stores packets, however long there is no room, as long as they are ours: when the channel is
    /// lost, the broker gives them to somebody, and perhaps not to us.
    async fn take(&self, channel: &Channel, packets: Arc<Vec<Packet>>) -> Result<Report, Ended> {
        let Inner { state, clock, keyed_max, ending, .. } = self.inner.as_ref();
        let mut told = false;
        loop {
            if !channel.status().connected() {
                return Err(Ended::Lost);
            }
            let now_ms = clock.wall_ms();
            let (job, answer) = Intake::new(state, self.key, &packets, *keyed_max, now_ms);
            let submitted = state.try_submit(job);
            let stored = match submitted {
                Ok(()) => answer.await.unwrap_or(Err(StateError::Stopped)),
                // The queue of the committer is full for an instant.
                Err(_) => Err(StateError::NoSpace("the committer is busy".to_owned())),
            };
            match stored {
                Ok(report) => {
                    self.inner.waker.wake(&[self.key]);
                    self.tell(&report);
                    return Ok(report);
                }
                Err(error) if error.is_space() => {
                    if !told {
                        tracing::warn!(key = %self.key, %error, "not taken from the broker, yet");
                    }
                    told = true;
                }
                Err(error) => {
                    self.inner.life.fail(error.to_string());
                    return Err(Ended::Stopping);
                }
            }
            let pause = tokio::time::sleep(jittered(PAUSE));
            ending.run_until_cancelled(pause).await.ok_or(Ended::Stopping)?;
        }
    }

    fn tell(&self, report: &Report) {
        let (key, Report { known, wrong, .. }) = (self.key, report);
        if *known > 0 {
            tracing::debug!(%key, known, "packets came again that were taken before");
        }
        if *wrong > 0 {
            tracing::warn!(%key, wrong, "messages of the queue are no entries: they are dead");
        }
    }

    /// Waits until little waits locally; false if the process stops before.
    async fn wait_for_room(&self) -> bool {
        loop {
            let (state, key) = (self.inner.state.clone(), self.key);
            match blocking(move || waiting_bytes(&*state.read()?, state.tables(), key)).await {
                Ok(bytes) if bytes <= BACKLOG_BYTES / 2 => return true,
                Ok(_) => {}
                Err(error) => {
                    self.inner.life.fail(error.to_string());
                    return false;
                }
            }
            let pause = tokio::time::sleep(BACKLOG_POLL);
            if self.inner.ending.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        }
    }

    async fn forget_stale_sessions(&self) {
        let (state, key, now_ms) = (self.inner.state.clone(), self.key, self.inner.clock.wall_ms());
        let forgotten = blocking(move || {
            let stale = taken::stale(&*state.read()?, state.tables(), key, now_ms)?;
            if stale.is_empty() {
                return Ok(());
            }
            state.commit(move |txn| {
                for row in &stale {
                    txn.tables.sessions.delete(&mut txn.txn, row)?;
                }
                Ok(())
            })
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%key, %error, "old sessions cannot be forgotten");
        }
    }
}
