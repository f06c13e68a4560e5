//! Lines on their way into storage: tried again until they are there, or nobody waits any more.
//!
//! All captures of a process share one budget of bytes that are on their way. When storage is slow
//! it is used up; then nothing is received, the receive buffers fill, and the kernel counts what it
//! drops. Each parcel goes under a key of its own, so that one of which it is unknown whether it
//! was stored is not stored twice: over a broker it has the same ids then. Nobody else repeats it,
//! so that its key need not be remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::broker::{IdempotencyKey, Publish, PublishError, UNIT_MESSAGES_MAX, Unit};
use crate::message::{Lines, ShardKey};
use crate::service::jittered;

/// Bytes of lines on their way, in all captures of a process.
const ON_THEIR_WAY_BYTES: usize = 16 << 20;
/// The unit of the budget, in bytes.
const GRAIN_BYTES: usize = 1 << 10;
/// The most bytes of a parcel, but for what its last line has beyond.
const PARCEL_BYTES: usize = 1 << 20;
/// The pause before another try; doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What captures of a process may have on their way.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ON_THEIR_WAY_BYTES / GRAIN_BYTES)))
    }
}

/// Lines of one stream that are stored together, or not at all.
#[derive(Debug)]
pub struct Parcel {
    /// The stream, by a name that no other one has.
    pub stream: Uuid,
    /// How many lines of it are in the parcels before this one.
    pub first: u64,
    /// The lines.
    pub lines: Lines,
    /// Bytes of the datagrams in them, as they were received.
    pub datagram_bytes: u64,
}

impl Parcel {
    /// An empty one.
    #[must_use]
    pub fn new(stream: Uuid, first: u64) -> Self {
        Self { stream, first, lines: Lines::default(), datagram_bytes: 0 }
    }

    /// Whether no more fits in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lines.count as usize >= UNIT_MESSAGES_MAX || self.lines.bytes.len() >= PARCEL_BYTES
    }
}

/// How much is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Lines, and so datagrams.
    pub lines: u64,
    /// Bytes of the datagrams.
    pub datagram_bytes: u64,
}

/// The way into storage of one capture. What is not stored when it is dropped is given up.
pub struct Outbox {
    carrier: Carrier,
    budget: Budget,
    runtime: Handle,
    sending: JoinSet<Stored>,
    stored: Stored,
}

/// What brings a parcel into storage.
#[derive(Clone)]
struct Carrier {
    publisher: Arc<dyn Publish>,
    shard: ShardKey,
    principal: Arc<str>,
    is_told: Arc<AtomicBool>,
}

impl Outbox {
    /// Nothing is on its way.
    #[must_use]
    pub fn new(
        publisher: Arc<dyn Publish>,
        shard: ShardKey,
        budget: Budget,
        runtime: Handle,
    ) -> Self {
        let (principal, is_told) = (Arc::from("capture"), Arc::default());
        let carrier = Carrier { publisher, shard, principal, is_told };
        Self { carrier, budget, runtime, sending: JoinSet::new(), stored: Stored::default() }
    }

    /// Sends a parcel off; `Some`, if there was no room for it within `patience`.
    pub fn send(&mut self, parcel: Parcel, patience: Duration) -> Option<Parcel> {
        while let Some(ended) = self.sending.try_join_next() {
            self.stored.add(ended.unwrap_or_default());
        }
        let grains = parcel.lines.bytes.len().div_ceil(GRAIN_BYTES);
        let grains = u32::try_from(grains).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.budget.0).acquire_many_owned(grains);
        let room = self.runtime.block_on(async { tokio::time::timeout(patience, room).await });
        let Ok(Ok(permit)) = room else { return Some(parcel) };
        let carrier = self.carrier.clone();
        self.sending.spawn_on(async move { carrier.carry(parcel, permit).await }, &self.runtime);
        None
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sending.is_empty()
    }

    /// Waits, at most so long, until everything that was sent off is stored; how much is.
    pub fn settle(&mut self, patience: Duration) -> Stored {
        let Self { sending, stored, runtime, .. } = self;
        runtime.block_on(async {
            let all = async {
                while let Some(ended) = sending.join_next().await {
                    stored.add(ended.unwrap_or_default());
                }
            };
            let _given_up = tokio::time::timeout(patience, all).await;
        });
        *stored
    }
}

impl Stored {
    const fn add(&mut self, more: Self) {
        self.lines += more.lines;
        self.datagram_bytes += more.datagram_bytes;
    }
}

impl Carrier {
    /// Tries until it is stored; what is.
    async fn carry(self, parcel: Parcel, _on_its_way: OwnedSemaphorePermit) -> Stored {
        let Parcel { stream, first, lines, datagram_bytes } = parcel;
        let mut pause = PAUSE;
        loop {
            let key = IdempotencyKey {
                principal: Arc::clone(&self.principal),
                key: format!("{stream}/{first}"),
                // The lines of a key are always the same.
                fingerprint: [0; 32],
            };
            let unit = Unit { parts: vec![(self.shard, lines.clone())], key: Some(key) };
            match self.publisher.publish(unit).await {
                Ok(Ok(_)) => return Stored { lines: lines.count.into(), datagram_bytes },
                Ok(Err(error)) => self.tell(&error),
                // The process stops.
                Err(_) => {}
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn tell(&self, error: &PublishError) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "telemetry is not stored yet; trying again");
        }
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("sending", &self.sending.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::sync::oneshot;

    use super::*;
    use crate::broker::Published;
    use crate::message::{ShardId, Topic};

    type Answer = Result<Published, PublishError>;

    /// Answers as it is told, then never; notes what it was asked.
    #[derive(Default)]
    struct Storage {
        answers: Mutex<VecDeque<Answer>>,
        asked: Mutex<Vec<(String, Vec<u8>)>>,
        unanswered: Mutex<Vec<oneshot::Sender<Answer>>>,
    }

    impl Publish for Storage {
        fn publish(&self, unit: Unit) -> oneshot::Receiver<Answer> {
            let (reply, answer) = oneshot::channel();
            let lines = unit.parts.into_iter().next().unwrap().1;
            self.asked.lock().unwrap().push((unit.key.unwrap().key, lines.bytes));
            match self.answers.lock().unwrap().pop_front() {
                Some(told) => reply.send(told).unwrap(),
                None => self.unanswered.lock().unwrap().push(reply),
            }
            answer
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    const STORED: Answer = Ok(Published { receipt: None, replayed: false });

    fn outbox(storage: &Arc<Storage>, budget: &Budget, runtime: &Handle) -> Outbox {
        let shard = ShardKey::new(Topic::Telemetry, ShardId(3));
        let publisher = Arc::clone(storage) as Arc<dyn Publish>;
        Outbox::new(publisher, shard, budget.clone(), runtime.clone())
    }

    fn parcel(first: u64, bytes: usize) -> Parcel {
        let lines = Lines { bytes: vec![b'\n'; bytes], count: 1 };
        Parcel { lines, datagram_bytes: 5, ..Parcel::new(Uuid::nil(), first) }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn a_parcel_of_unknown_fate_is_sent_again_under_the_same_key() {
        let (runtime, storage) = (runtime(), Arc::new(Storage::default()));
        let unknown = || Err(PublishError::Unknown("lost".to_owned()));
        *storage.answers.lock().unwrap() = [unknown(), Err(PublishError::Busy), STORED].into();
        let mut outbox = outbox(&storage, &Budget::default(), runtime.handle());
        assert!(outbox.send(parcel(7, 2), LONG).is_none());
        assert_eq!(outbox.settle(LONG), Stored { lines: 1, datagram_bytes: 5 });
        let key = format!("{}/7", Uuid::nil());
        assert_eq!(*storage.asked.lock().unwrap(), vec![(key, vec![b'\n'; 2]); 3]);
    }

    #[test]
    fn what_is_on_its_way_is_bounded_and_what_was_given_up_makes_room() {
        let (runtime, storage) = (runtime(), Arc::new(Storage::default()));
        let budget = Budget::default();
        let mut slow = outbox(&storage, &budget, runtime.handle());
        for first in 0..16 {
            assert!(slow.send(parcel(first, 1 << 20), LONG).is_none());
        }
        let mut other = outbox(&storage, &budget, runtime.handle());
        let refused = other.send(parcel(0, 1), Duration::from_millis(1));
        assert!(refused.is_some(), "the budget is that of all captures");
        assert_eq!(slow.settle(Duration::from_millis(1)), Stored::default());
        drop(slow);
        assert!(other.send(parcel(0, 1), LONG).is_none());
    }
}
