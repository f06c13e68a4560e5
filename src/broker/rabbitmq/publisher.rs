//! The publisher: requests become packets, and are answered when all of theirs are confirmed.
//!
//! A few lanes take turns: each takes all that waits, publishes it on a channel of its own, and
//! waits for every confirm. What comes meanwhile goes with the next free lane. A channel carries
//! one group at a time, so whatever the broker says on it is about that group.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::address::Address;
use super::id;
use super::lane::Lane;
use super::link::Link;
use super::packing::{Packing, bytes};
use super::queues::Queues;
use super::topology::Topology;
use crate::broker::idempotency::{self, KeyRetention, StoredKey};
use crate::broker::{Publish, PublishError, Published, Unit};
use crate::clock::Clock;
use crate::service::{Lifecycle, held};
use crate::state::{State, StateError};

/// Groups that may be on their way at once. More would be smaller, and cost the broker more than
/// they save in waiting.
const LANES: usize = 2;
/// Requests that may wait for a lane, and bytes of lines in them.
const WAITING_MAX: usize = 8192;
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Bytes of lines that one lane takes, at least, when so many wait.
const GROUP_BYTES: usize = 1 << 20;
/// How long the broker may be away before requests are refused, of which nothing was sent.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(5);

pub(super) type Answer = Result<Published, PublishError>;

/// Publishes over RabbitMQ.
#[derive(Debug, Clone)]
pub struct RabbitPublisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) state: State,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) retention: KeyRetention,
    waiting: Mutex<Waiting>,
    /// Rung when something waits.
    pub(super) arrived: Notify,
    keys_in_flight: Mutex<HashSet<StoredKey>>,
    pub(super) packing: Mutex<Packing>,
    queues: Queues,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) unit: Unit,
    /// The stored form of the unit's key, while it is marked as being worked on.
    pub(super) key: Option<StoredKey>,
    pub(super) reply: oneshot::Sender<Answer>,
}

impl RabbitPublisher {
    /// A publisher to the broker at `address`; `state` remembers the Idempotency-Keys. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no random bits to name the session with.
    pub fn start(
        address: Address,
        topology: Topology,
        state: State,
        clock: Arc<dyn Clock>,
        retention: KeyRetention,
        life: Lifecycle,
    ) -> std::io::Result<Self> {
        let packing = Packing::new(id::new_session()?, topology.format);
        let link = Link::start(address, "publisher", topology, life);
        let shared = Arc::new(Shared {
            queues: Queues::watch(link.clone()),
            link,
            state,
            clock,
            retention,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            keys_in_flight: Mutex::default(),
            packing: Mutex::new(packing),
        });
        for _ in 0..LANES {
            tokio::spawn(Lane::new(Arc::clone(&shared)).run());
        }
        Ok(Self { shared })
    }

    /// What stands in the way of messages now, in words for a person.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let trouble = self.shared.link.trouble().map(|trouble| trouble.text);
        trouble.into_iter().chain(self.shared.queues.problems()).collect()
    }

    /// Whether the broker takes messages now, as far as is known.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.shared.link.trouble().is_none()
    }

    /// The broker's queues.
    #[must_use]
    pub fn queues(&self) -> &Queues {
        &self.shared.queues
    }

    /// Closes the connection in order; what still waits is refused.
    pub async fn close(&self) {
        self.shared.link.close().await;
        // One lane after the other wakes up and ends, and wakes the next.
        self.shared.arrived.notify_one();
    }
}

impl Publish for RabbitPublisher {
    fn publish(&self, unit: Unit) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let shared = &self.shared;
        let key = unit.key.as_ref().map(idempotency::stored_key);
        let in_flight = key.is_some_and(|key| !held(&shared.keys_in_flight).insert(key));
        let request = Request { unit, key: key.filter(|_| !in_flight), reply };
        if in_flight {
            shared.answer(request, Err(PublishError::KeyInFlight));
        } else if let Some(away) = shared.away() {
            shared.answer(request, Err(PublishError::Unavailable(away)));
        } else {
            shared.enqueue(request);
        }
        answer
    }
}

impl Shared {
    pub(super) fn answer(&self, request: Request, answer: Answer) {
        if let Some(key) = &request.key {
            held(&self.keys_in_flight).remove(key);
        }
        // A client that went away does not need its answer.
        let _gone = request.reply.send(answer);
    }

    /// Why nothing can be sent, when that has been so for long.
    fn away(&self) -> Option<String> {
        self.link.trouble().filter(|t| t.since.elapsed() > AWAY_MAX).map(|t| t.text)
    }

    fn enqueue(&self, request: Request) {
        let bytes = bytes(&request.unit);
        let mut waiting = held(&self.waiting);
        let full = waiting.bytes + bytes > WAITING_BYTES_MAX && waiting.bytes > 0;
        if full || waiting.requests.len() >= WAITING_MAX {
            drop(waiting);
            return self.answer(request, Err(PublishError::Busy));
        }
        waiting.bytes += bytes;
        waiting.requests.push(request);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// What a lane takes: all that waits, but not much more than [`GROUP_BYTES`].
    pub(super) fn take(&self) -> Vec<Request> {
        let mut waiting = held(&self.waiting);
        let (mut count, mut taken) = (0, 0);
        for request in &waiting.requests {
            if taken >= GROUP_BYTES {
                break;
            }
            taken += bytes(&request.unit);
            count += 1;
        }
        waiting.bytes = waiting.bytes.saturating_sub(taken);
        let rest = waiting.requests.split_off(count);
        if !rest.is_empty() {
            self.arrived.notify_one();
        }
        std::mem::replace(&mut waiting.requests, rest)
    }
}

impl Request {
    /// The key and the fingerprint of what it was sent for, as they are stored.
    pub(super) fn stored(&self) -> Option<(StoredKey, [u8; 32])> {
        Some((self.key?, self.unit.key.as_ref()?.fingerprint))
    }
}

/// Work that may wait for the disk, on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StateError::Stopped))
}
