//! One stream: a thread that sends datagrams until it is told to stop, or its time is over.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::super::ship::ShipName;
use super::metrics::StreamMetrics;
use super::pace::Pace;
use super::volley::{VOLLEY_DATAGRAMS, Volley};
use super::wire::{Sent, Wire};
use crate::clock::Clock;
use crate::service::held;

/// How long nobody may listen before a stream ends.
const REFUSED_MAX: Duration = Duration::from_secs(5);
/// Refusals within this time of each other have nothing but refusals between them: a stream of one
/// datagram per second meets one each second, and routers send no more of them either.
const REFUSED_GAP: Duration = Duration::from_secs(2);
/// How long a stream waits after a refusal, and where the kernel has no room.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What a stream is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where to, as it was given.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Whose stream it is.
    pub ship_name: ShipName,
    /// Datagrams per second; `None`: as fast as it can.
    pub rate: Option<NonZeroU32>,
    /// After how long it ends.
    pub lifetime: Duration,
    /// How long it goes on without being renewed; `None`: as long as it lives.
    pub lease: Option<Duration>,
    /// What its values come from.
    pub seed: u64,
}

/// Why a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It was asked to.
    Stopped,
    /// Its lifetime is over.
    Lifetime,
    /// Nobody has renewed its lease.
    Lease,
    /// Nobody listens.
    Refused,
    /// The kernel will not send.
    Failed,
    /// The spaceship stops.
    Shutdown,
}

/// When and why a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// When, for people.
    pub at: DateTime<Utc>,
    /// When, to count from.
    pub when: Instant,
}

/// What a stream has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams that the kernel took: the numbers below this one.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often it was told that nobody listens.
    pub refused: u64,
}

#[derive(Debug)]
struct Course {
    lease_until: Option<Instant>,
    /// Why it is about to end: from then on nothing renews it.
    ordered: Option<Reason>,
    end: Option<End>,
    /// Whether somebody has stopped it, and was told its count.
    is_collected: bool,
}

/// A stream, as its thread and everybody else see it.
pub struct Stream {
    /// Its name.
    pub key: Uuid,
    /// What it was asked to be.
    pub wish: Wish,
    /// Where its datagrams come from.
    pub source: std::net::SocketAddr,
    /// When it began.
    pub started_at: DateTime<Utc>,
    clock: Arc<dyn Clock>,
    began: Instant,
    sent: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    course: Mutex<Course>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("key", &self.key).field("wish", &self.wish).finish()
    }
}

impl Stream {
    /// Begins to send.
    ///
    /// # Errors
    /// There is no thread left.
    pub fn start(
        wish: Wish,
        wire: Wire,
        clock: Arc<dyn Clock>,
        metrics: &StreamMetrics,
    ) -> io::Result<Arc<Self>> {
        let (source, began) = (wire.source()?, clock.monotonic());
        let course = Course {
            lease_until: wish.lease.map(|lease| began + lease),
            ordered: None,
            end: None,
            is_collected: false,
        };
        let stream = Arc::new(Self {
            key: Uuid::now_v7(),
            source,
            started_at: clock.wall(),
            clock,
            began,
            sent: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            course: Mutex::new(course),
            thread: Mutex::new(None),
            wish,
        });
        let sender = Sender {
            volley: Volley::new(stream.wish.seed),
            stream: Arc::clone(&stream),
            wire,
            metrics: metrics.clone(),
            refusals: Refusals::default(),
        };
        let thread = std::thread::Builder::new().name("stream".to_owned());
        // Held until the handle is there, for whoever stops it at once.
        let mut handle = held(&stream.thread);
        metrics.active.inc();
        let spawned = thread.spawn(move || sender.run()).inspect_err(|_| {
            metrics.active.dec();
        });
        *handle = Some(spawned?);
        drop(handle);
        Ok(stream)
    }

    /// When and why it has ended.
    pub fn end(&self) -> Option<End> {
        held(&self.course).end
    }

    /// What it has sent so far; final once it has ended.
    pub fn tally(&self) -> Tally {
        Tally {
            sent: self.sent.load(Ordering::Acquire),
            bytes: self.bytes.load(Ordering::Acquire),
            refused: self.refused.load(Ordering::Acquire),
        }
    }

    /// Renews the lease; false where it is too late.
    pub fn renew(&self) -> bool {
        let now = self.clock.monotonic();
        let mut course = held(&self.course);
        if self.ordered(&mut course, now).is_some() {
            return false;
        }
        course.lease_until = self.wish.lease.map(|lease| now + lease);
        true
    }

    /// Whether nobody has stopped it yet; the first one to ask is told so.
    pub fn collect(&self) -> bool {
        !std::mem::replace(&mut held(&self.course).is_collected, true)
    }

    /// Asks it to end, unless it does so already.
    pub fn order(&self, reason: Reason) {
        held(&self.course).ordered.get_or_insert(reason);
        if let Some(thread) = held(&self.thread).as_ref() {
            thread.thread().unpark();
        }
    }

    /// Waits until its thread has ended: nothing is sent any more. To be called after [`order`].
    ///
    /// [`order`]: Self::order
    pub fn join(&self) {
        // Held meanwhile, so that a second one waits as well.
        let mut thread = held(&self.thread);
        if let Some(thread) = thread.take() {
            let _panicked = thread.join();
        }
    }

    /// Why it is to end, if it is.
    fn ordered(&self, course: &mut Course, now: Instant) -> Option<Reason> {
        if course.ordered.is_none() {
            if now.saturating_duration_since(self.began) >= self.wish.lifetime {
                course.ordered = Some(Reason::Lifetime);
            } else if course.lease_until.is_some_and(|until| now >= until) {
                course.ordered = Some(Reason::Lease);
            }
        }
        course.ordered
    }

    /// How long it may go on for now.
    ///
    /// # Errors
    /// Not at all, for this reason.
    fn time_left(&self) -> Result<Duration, Reason> {
        let now = self.clock.monotonic();
        let mut course = held(&self.course);
        if let Some(reason) = self.ordered(&mut course, now) {
            return Err(reason);
        }
        let lived = now.saturating_duration_since(self.began);
        let left = self.wish.lifetime.saturating_sub(lived);
        let lease = course.lease_until.map(|until| until.saturating_duration_since(now));
        Ok(lease.map_or(left, |lease| lease.min(left)))
    }

    fn ended(&self, reason: Reason) {
        let end = End { reason, at: self.clock.wall(), when: self.clock.monotonic() };
        let mut course = held(&self.course);
        course.ordered.get_or_insert(reason);
        course.end = Some(end);
    }
}

/// How long there was nothing but refusals. Pure: the caller brings the time.
#[derive(Debug, Default)]
struct Refusals {
    /// When they began, and the last one.
    run: Option<(Instant, Instant)>,
}

impl Refusals {
    /// Notes one; whether it has gone on for long enough.
    fn note(&mut self, now: Instant) -> bool {
        let goes_on = |last: Instant| now.saturating_duration_since(last) <= REFUSED_GAP;
        let began = self.run.filter(|(_, last)| goes_on(*last)).map_or(now, |(began, _)| began);
        self.run = Some((began, now));
        now.saturating_duration_since(began) >= REFUSED_MAX
    }
}

/// What the thread of a stream holds.
struct Sender {
    stream: Arc<Stream>,
    volley: Volley,
    wire: Wire,
    metrics: StreamMetrics,
    refusals: Refusals,
}

impl Sender {
    fn run(mut self) {
        let stream = Arc::clone(&self.stream);
        let wish = &stream.wish;
        let (key, ship, rate) = (stream.key, wish.ship_name.as_str(), wish.rate);
        tracing::info!(%key, ship, source = %stream.source, rate, "a stream begins");
        let reason = self.send_all();
        self.metrics.active.dec();
        // The port is free before anybody hears of the end.
        drop(self);
        stream.ended(reason);
        let Tally { sent, refused, .. } = stream.tally();
        let reason = format!("{reason:?}").to_lowercase();
        tracing::info!(%key, ship, reason, sent, refused, "a stream has ended");
    }

    fn send_all(&mut self) -> Reason {
        let mut pace = self.stream.wish.rate.map(Pace::new);
        loop {
            let elapsed =
                self.stream.clock.monotonic().saturating_duration_since(self.stream.began);
            let (due, wait) = match &mut pace {
                Some(pace) => (pace.take(elapsed), pace.wait(elapsed)),
                None => (VOLLEY_DATAGRAMS as u64, Duration::ZERO),
            };
            let gone_on = if due > 0 { self.send(due) } else { self.pause(wait) };
            if let Err(reason) = gone_on {
                return reason;
            }
        }
    }

    /// Sends so many datagrams.
    fn send(&mut self, datagrams: u64) -> Result<(), Reason> {
        let mut left = datagrams;
        while left > 0 {
            let count = left.min(VOLLEY_DATAGRAMS as u64);
            self.volley.load(self.stream.clock.wall(), count);
            left -= count;
            while !self.volley.unsent().is_empty() {
                self.stream.time_left()?;
                self.send_volley()?;
            }
        }
        Ok(())
    }

    /// Sends what the kernel takes of a volley.
    fn send_volley(&mut self) -> Result<(), Reason> {
        match self.wire.send(self.volley.unsent(), self.volley.datagram_bytes()) {
            Sent::Taken(datagrams) => {
                self.count(datagrams);
                Ok(())
            }
            Sent::Busy => self.pause(BUSY_PAUSE),
            Sent::Refused => {
                self.stream.refused.fetch_add(1, Ordering::Release);
                self.metrics.refusals.inc();
                if self.refusals.note(self.stream.clock.monotonic()) {
                    return Err(Reason::Refused);
                }
                self.pause(REFUSED_PAUSE)
            }
            Sent::Failed(error) => {
                tracing::warn!(key = %self.stream.key, %error, "a stream cannot send");
                Err(Reason::Failed)
            }
        }
    }

    fn count(&mut self, datagrams: usize) {
        let bytes = datagrams.saturating_mul(self.volley.datagram_bytes()) as u64;
        self.volley.sent(datagrams);
        self.stream.sent.fetch_add(datagrams as u64, Ordering::Release);
        self.stream.bytes.fetch_add(bytes, Ordering::Release);
        self.metrics.datagrams.inc_by(datagrams as u64);
        self.metrics.bytes.inc_by(bytes);
    }

    /// Waits, but no longer than the stream may go on.
    fn pause(&self, pause: Duration) -> Result<(), Reason> {
        std::thread::park_timeout(pause.min(self.stream.time_left()?));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_without_a_gap_for_five_seconds_are_enough() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut refusals = Refusals::default();
        assert!((0..5).all(|second| !refusals.note(at(second))));
        assert!(refusals.note(at(5)));
        let mut broken = Refusals::default();
        assert!([0, 1, 2, 3, 6, 7, 8, 9, 10].iter().all(|second| !broken.note(at(*second))));
        assert!(broken.note(at(11)));
    }
}
