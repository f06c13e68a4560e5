//! The load: connections that post until the time, or the number of messages, is up.
//!
//! One thread does it all, so that the client takes at most one core from what it measures. Closed
//! loop: a connection sends its next request when the last one is answered. Open loop: requests are
//! due by the [`Schedule`], and a connection that is free takes the oldest; those that fall behind
//! are sent all the same, and their latency counts from when they were due.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::http::{Answer, Connection};
use super::latency::Times;
use super::pacer::{Pace, add};
use super::request::Request;
use super::schedule::Schedule;
use super::target::Target;
use crate::service::Lifecycle;

/// How long an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// How long outstanding answers are waited for once the run is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server that was there may be gone before the run ends, and how often it is tried.
const GONE_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The most of a `Retry-After` that is waited.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);
/// How often the caller is told how far it is.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Bytes of a refusal that are kept to be shown.
const REFUSAL_BYTES: usize = 256;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Answered 201: all its messages are promised.
    Accepted,
    /// Answered in a way that says that nothing was stored.
    Refused,
    /// No answer, or one that leaves it open: stored whole or not at all.
    Unknown,
}

/// What to send, and for how long.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) request: Request,
    pub(super) entries: u64,
    pub(super) connections: u64,
    pub(super) schedule: Option<Schedule>,
    pub(super) duration: Option<Duration>,
    pub(super) requests_max: u64,
    /// Keep when each request was sent.
    pub(super) keep_sent: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What became of each request, by number.
    pub(super) fates: Vec<Fate>,
    /// When it began: all times count from here.
    pub(super) began: Instant,
    /// When each request was sent, or due; empty if it was not to be kept.
    pub(super) sent: Vec<Duration>,
    /// From sent, or due, to 201.
    pub(super) latency: Times,
    /// How often what else came: a status, or what went wrong, attempts to connect included.
    pub(super) errors: BTreeMap<String, u64>,
    /// The first answer that was no 201.
    pub(super) first_refusal: Option<String>,
    /// How often a `Retry-After` was waited for.
    pub(super) retry_waits: u64,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
    /// The server could no longer be reached.
    pub(super) is_gone: bool,
}

impl Outcome {
    /// Messages that were answered 201.
    pub(super) fn accepted(&self, entries: u64) -> u64 {
        self.fates.iter().filter(|fate| **fate == Fate::Accepted).count() as u64 * entries
    }
}

/// What the connections share, all on one thread.
struct Shared {
    plan: Plan,
    life: Lifecycle,
    /// What a 201 for all messages begins with.
    expected: Vec<u8>,
    /// A permit for each request that is due; no limit in a closed loop.
    due: Option<Arc<Semaphore>>,
    /// How many requests there are at most.
    last: u64,
    began: Instant,
    accepted: Cell<u64>,
    outcome: RefCell<Outcome>,
}

/// Runs the load to its end; `tick` is told now and then how many messages are accepted, and how
/// long it has been running.
///
/// # Errors
/// The runtime does not start.
pub(super) fn run(
    plan: Plan,
    life: &Lifecycle,
    mut tick: impl FnMut(u64, Duration),
) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Rc::new(Shared::new(plan, life.clone()));
    let (pace, due, connections) = (shared.pace(), shared.due.clone(), shared.plan.connections);
    let over = Lifecycle::new();
    std::thread::scope(|scope| {
        let pacing = over.clone();
        scope.spawn(move || {
            if let (Some(pace), Some(due)) = (pace, due) {
                pace.keep(&due, connections, &pacing);
            }
        });
        LocalSet::new().block_on(&runtime, shared.talk(&mut tick));
        over.stop();
    });
    // Tasks that were cut off still hold it.
    Ok(shared.outcome.replace(Outcome::new(shared.began)))
}

impl Outcome {
    fn new(began: Instant) -> Self {
        Self {
            began,
            fates: Vec::new(),
            sent: Vec::new(),
            latency: Times::new(),
            errors: BTreeMap::new(),
            first_refusal: None,
            retry_waits: 0,
            elapsed: Duration::ZERO,
            is_gone: false,
        }
    }
}

impl Shared {
    fn new(plan: Plan, life: Lifecycle) -> Self {
        let last = match (plan.schedule, plan.duration) {
            (Some(schedule), Some(duration)) => schedule.count(duration).min(plan.requests_max),
            _ => plan.requests_max,
        };
        let began = Instant::now();
        Self {
            last,
            began,
            expected: format!("{{\"accepted\":{}", plan.entries).into_bytes(),
            due: plan.schedule.map(|_| Arc::new(Semaphore::new(0))),
            accepted: Cell::new(0),
            outcome: RefCell::new(Outcome::new(began)),
            plan,
            life,
        }
    }

    /// Which requests are due, in an open loop.
    fn pace(&self) -> Option<Pace> {
        let schedule = self.plan.schedule?;
        Some(Pace { schedule, began: self.began, last: self.last })
    }

    /// All connections, until the last one has nothing more to do.
    async fn talk(self: &Rc<Self>, tick: &mut impl FnMut(u64, Duration)) {
        let mut tasks = JoinSet::new();
        for _ in 0..self.plan.connections {
            let shared = Rc::clone(self);
            tasks.spawn_local(async move { shared.converse().await });
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cut = pin!(async {
            self.life.stopping().await;
            if let Some(due) = &self.due {
                add(due, self.plan.connections);
            }
            sleep(STOP_PATIENCE).await;
        });
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { return },
                _ = ticks.tick() => tick(self.accepted.get(), self.began.elapsed()),
                () = &mut cut => return,
            }
        }
    }

    /// The number of the next request, when it is its time; `None` at the end.
    async fn next(&self) -> Option<u64> {
        if let Some(due) = &self.due {
            due.acquire().await.ok()?.forget();
        }
        let number = self.outcome.borrow().fates.len() as u64;
        let elapsed = self.began.elapsed();
        let in_time = self.plan.schedule.is_some()
            || self.plan.duration.is_none_or(|duration| elapsed < duration);
        if !in_time || number >= self.last || self.life.is_stopping() {
            return None;
        }
        let sent = self.plan.schedule.map_or(elapsed, |schedule| schedule.intended(number));
        let mut outcome = self.outcome.borrow_mut();
        outcome.fates.push(Fate::Unknown);
        if self.plan.keep_sent {
            outcome.sent.push(sent);
        }
        Some(number)
    }

    /// One connection, and those that replace it, to the end.
    async fn converse(&self) {
        let mut request = self.plan.request.clone();
        let mut open = None;
        while let Some(mut connection) = self.connect(open.take()).await {
            let Some(number) = self.next().await else { return };
            // The server may have closed it while the next request was not due yet.
            if connection.is_closed() {
                match Connection::open(self.plan.target.address).await {
                    Ok(fresh) => connection = fresh,
                    Err(error) => {
                        self.count(cannot_connect(&error));
                        continue;
                    }
                }
            }
            request.set_number(number);
            open = self.exchange(connection, &request, number).await;
        }
    }

    /// An open connection; `None` if the server stays gone, or the run ends.
    async fn connect(&self, open: Option<Connection>) -> Option<Connection> {
        if open.is_some() {
            return open;
        }
        let began = Instant::now();
        while !self.life.is_stopping() {
            match Connection::open(self.plan.target.address).await {
                Ok(connection) => return Some(connection),
                Err(error) => self.count(cannot_connect(&error)),
            }
            if began.elapsed() > GONE_PATIENCE {
                self.outcome.borrow_mut().is_gone = true;
                return None;
            }
            sleep(CONNECT_PAUSE).await;
        }
        None
    }

    /// Sends one request; the connection, if it can be used again.
    async fn exchange(
        &self,
        mut connection: Connection,
        request: &Request,
        number: u64,
    ) -> Option<Connection> {
        let since = match self.plan.schedule {
            Some(schedule) => self.began + schedule.intended(number),
            None => Instant::now(),
        };
        let exchanged = timeout(ANSWER_PATIENCE, connection.exchange(request.bytes())).await;
        let answer = match exchanged {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.count(error_name(&error));
                return None;
            }
            Err(_) => {
                self.count(format!("no answer within {} s", ANSWER_PATIENCE.as_secs()));
                return None;
            }
        };
        let reusable = !answer.is_last;
        if let Some(pause) = self.take(&answer, number, since) {
            sleep(pause).await;
        }
        reusable.then_some(connection)
    }

    /// Takes note of an answer; how long to pause after it.
    fn take(&self, answer: &Answer<'_>, number: u64, since: Instant) -> Option<Duration> {
        let mut outcome = self.outcome.borrow_mut();
        outcome.elapsed = self.began.elapsed();
        let rest = answer.body.strip_prefix(self.expected.as_slice());
        let whole = rest.is_some_and(|rest| rest.starts_with(b",") || rest.starts_with(b"}"));
        let accepted = answer.status == 201 && whole;
        let fate = match answer.status {
            201 if accepted => Fate::Accepted,
            408 => Fate::Unknown,
            400..500 | 507 => Fate::Refused,
            _ => Fate::Unknown,
        };
        if let Some(known) = usize::try_from(number).ok().and_then(|n| outcome.fates.get_mut(n)) {
            *known = fate;
        }
        if accepted {
            outcome.latency.record(since.elapsed());
            self.accepted.set(self.accepted.get() + self.plan.entries);
            return None;
        }
        *outcome.errors.entry(answer.status.to_string()).or_default() += 1;
        outcome.first_refusal.get_or_insert_with(|| shown(answer));
        let pause = answer.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        outcome.retry_waits += u64::from(pause.is_some());
        pause
    }

    fn count(&self, error: String) {
        *self.outcome.borrow_mut().errors.entry(error).or_default() += 1;
    }
}

fn cannot_connect(error: &io::Error) -> String {
    format!("cannot connect: {}", error.kind())
}

fn error_name(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed without an answer".to_owned(),
        kind => kind.to_string(),
    }
}

/// An answer as it can be shown to people.
pub(super) fn shown(answer: &Answer<'_>) -> String {
    let text = answer.body.get(..answer.body.len().min(REFUSAL_BYTES)).unwrap_or_default();
    format!("{} {}", answer.status, String::from_utf8_lossy(text).escape_debug())
}
