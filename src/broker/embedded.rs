//! The embedded publisher: requests go straight into the state environment.
//!
//! Requests that arrive while a commit syncs are gathered into the next one, their lines into
//! shared frames. The answer goes out when the commit is synced, never before.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::append::Appender;
use super::idempotency::{self, KeyRetention, StoredKey};
use super::wake::Waker;
use super::{Publish, PublishError, Published, Receipt, Unit};
use crate::clock::Clock;
use crate::message::ShardKey;
use crate::service::held;
use crate::state::{Job, State, StateError, WriteTxn};

/// Requests that may wait for a commit, and bytes of lines in them: a commit can take long, when
/// another process holds the write lock.
const WAITING_MAX: usize = 8192;
const WAITING_BYTES_MAX: u64 = 32 << 20;
/// How long those who were just answered have for coming again before the next commit begins. A
/// commit costs as much as dozens of requests, however few are in it.
const GATHERING: Duration = Duration::from_micros(500);
/// Groups that are not waited for after one that did not come: its clients do not send one request
/// after the other, and a wait would only delay them.
const GROUPS_IN_PASSING: u32 = 10;

type Answer = Result<Published, PublishError>;

/// Publishes into a state environment of this machine.
#[derive(Debug, Clone)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: State,
    clock: Arc<dyn Clock>,
    waker: Waker,
    retention: KeyRetention,
    waiting: Mutex<Waiting>,
    /// Rung when enough of them wait.
    gathered: Condvar,
    keys_in_flight: Mutex<HashSet<StoredKey>>,
}

/// What waits for the next commit.
#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: u64,
    /// How many requests make a group that need not wait for more.
    enough: usize,
    /// How many groups are still to be taken as they are.
    in_passing: u32,
}

impl Waiting {
    fn take(&mut self) -> Vec<Request> {
        (self.bytes, self.enough) = (0, 0);
        std::mem::take(&mut self.requests)
    }
}

#[derive(Debug)]
struct Request {
    unit: Unit,
    /// The stored form of the unit's key, while it is marked as being worked on.
    key: Option<StoredKey>,
    reply: oneshot::Sender<Answer>,
    answer: Option<Answer>,
}

impl EmbeddedBroker {
    /// A publisher into `state`.
    ///
    /// # Errors
    /// The folder of the wake-up sockets can't be made.
    pub fn new(state: State, clock: Arc<dyn Clock>, retention: KeyRetention) -> io::Result<Self> {
        let waker = Waker::new(state.dir())?;
        Ok(Self {
            shared: Arc::new(Shared {
                state,
                clock,
                waker,
                retention,
                waiting: Mutex::default(),
                gathered: Condvar::new(),
                keys_in_flight: Mutex::default(),
            }),
        })
    }
}

impl Request {
    fn bytes(&self) -> u64 {
        self.unit.parts.iter().map(|(_, lines)| lines.bytes.len() as u64).sum()
    }
}

impl Publish for EmbeddedBroker {
    fn publish(&self, unit: Unit) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let key = unit.key.as_ref().map(idempotency::stored_key);
        let in_flight = key.is_some_and(|key| !held(&self.shared.keys_in_flight).insert(key));
        let key = key.filter(|_| !in_flight);
        let request = Request { unit, key, reply, answer: None };
        if in_flight {
            self.shared.answer(request, Err(PublishError::KeyInFlight));
            return answer;
        }
        let bytes = request.bytes();
        let mut waiting = held(&self.shared.waiting);
        // One group must not use up what is reserved for draining.
        let bytes_max = WAITING_BYTES_MAX.min(self.shared.state.reserve_bytes() / 2);
        let full = waiting.bytes + bytes > bytes_max && waiting.bytes > 0;
        if full || waiting.requests.len() >= WAITING_MAX {
            drop(waiting);
            self.shared.answer(request, Err(PublishError::Busy));
            return answer;
        }
        waiting.requests.push(request);
        waiting.bytes += bytes;
        if waiting.requests.len() == waiting.enough {
            self.shared.gathered.notify_one();
        }
        // The first to wait sends for the committer, which then takes all that wait.
        if waiting.requests.len() == 1 {
            let gather =
                Gather { shared: Arc::clone(&self.shared), taken: Vec::new(), woken: vec![] };
            if self.shared.state.try_submit(Box::new(gather)).is_err() {
                for refused in waiting.take() {
                    self.shared.answer(refused, Err(PublishError::Busy));
                }
            }
        }
        answer
    }
}

impl Shared {
    fn answer(&self, request: Request, answer: Answer) {
        if let Some(key) = &request.key {
            held(&self.keys_in_flight).remove(key);
        }
        // A client that went away does not need its answer.
        let _gone = request.reply.send(answer);
    }

    /// Waits until nearly all of those just answered wait again, but not for long: clients that
    /// send one request after the other are then in one group and not in two by turns. A request
    /// that comes after a pause never waits here.
    fn let_gather(&self, answered: usize) {
        let mut waiting = held(&self.waiting);
        if waiting.in_passing > 0 {
            waiting.in_passing -= 1;
            return;
        }
        let all = waiting.requests.len() + answered;
        let enough = all - all / 8;
        waiting.enough = enough;
        let few = |waiting: &mut Waiting| waiting.requests.len() < enough;
        let waited = self.gathered.wait_timeout_while(waiting, GATHERING, few);
        let (mut waiting, late) = waited.unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            waiting.in_passing = GROUPS_IN_PASSING;
        }
    }
}

/// Takes every request that waits into one transaction.
#[derive(Debug)]
struct Gather {
    shared: Arc<Shared>,
    taken: Vec<Request>,
    woken: Vec<ShardKey>,
}

impl Gather {
    /// Whoever waits no longer has been told that the outcome is unknown, and may have sent the
    /// same again: better not stored than twice.
    fn leave_out_abandoned(&mut self) {
        for request in std::mem::take(&mut self.taken) {
            if request.reply.is_closed() {
                self.shared.answer(request, Err(PublishError::Busy));
            } else {
                self.taken.push(request);
            }
        }
    }
}

impl Job for Gather {
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        self.taken.append(&mut held(&self.shared.waiting).take());
        self.leave_out_abandoned();
        let room = self.shared.state.room_to_publish();
        let now_ms = self.shared.clock.wall_ms();
        let mut appender = Appender::new(now_ms);
        for request in &mut self.taken {
            let known = self.shared.first_answer(txn, request, now_ms)?;
            request.answer = Some(match (known, &room) {
                (Some(known), _) => known,
                (None, Ok(())) => self.shared.store(txn, &mut appender, request, now_ms)?,
                (None, Err(error)) => Err(PublishError::Full(error.to_string())),
            });
        }
        self.woken = appender.finish(txn)?;
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        let Self { shared, mut taken, woken } = *self;
        let settled = taken.len();
        if outcome.is_err() {
            // When no transaction could begin, those that wait were not even taken.
            taken.append(&mut held(&shared.waiting).take());
        }
        for mut request in taken {
            let stored = request.answer.take();
            let answer = match &outcome {
                Ok(()) => stored.unwrap_or(Err(PublishError::Busy)),
                Err(error) if error.is_space() => Err(PublishError::Full(error.to_string())),
                Err(error) => Err(PublishError::Unknown(error.to_string())),
            };
            shared.answer(request, answer);
        }
        if outcome.is_ok() && !woken.is_empty() {
            shared.waker.wake(&woken);
        }
        shared.let_gather(settled);
    }
}

impl Shared {
    /// The first answer to the key of a request that was stored already.
    fn first_answer(
        &self,
        txn: &WriteTxn<'_>,
        request: &Request,
        now_ms: u64,
    ) -> Result<Option<Answer>, StateError> {
        let Some((key, sent)) = request.key.as_ref().zip(request.unit.key.as_ref()) else {
            return Ok(None);
        };
        let known =
            idempotency::find(&txn.txn, txn.tables, key, sent.fingerprint, self.retention, now_ms)?;
        Ok(known
            .map(|first| first.map(|receipt| Published { receipt: Some(receipt), replayed: true })))
    }

    /// Stores one request. The outer error ends the transaction.
    fn store(
        &self,
        txn: &mut WriteTxn<'_>,
        appender: &mut Appender,
        request: &Request,
        now_ms: u64,
    ) -> Result<Answer, StateError> {
        let unit = &request.unit;
        let mut ranges = Vec::with_capacity(unit.parts.len());
        for (key, lines) in unit.parts.iter().filter(|(_, lines)| lines.count > 0) {
            ranges.push((*key, appender.append(txn, *key, lines)?));
        }
        let receipt = Receipt::new(self.state.identity(), ranges);
        if let Some((key, sent)) = request.key.as_ref().zip(unit.key.as_ref()) {
            let fingerprint = sent.fingerprint;
            idempotency::remember(txn, key, fingerprint, &receipt, self.retention, now_ms)?;
        }
        Ok(Ok(Published { receipt: Some(receipt), replayed: false }))
    }
}
