//! The kind `capture`: one capture from start to end.
//!
//! A capture begins a stream and receives until its window is over. A stream that ends before that
//! (the spaceship was started anew, the stream's lifetime is over) is followed by another one, for
//! the rest of the window; the account is that of all of them. A capture whose process dies is
//! begun again by whoever runs the tasks: what it had stored stays, and its account is lost.
//!
//! The window ends when the wall clock says so at the beginning; from then on no clock that jumps
//! changes it.

use std::io;
use std::num::NonZeroU16;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::account::Sums;
use super::intake::Intake;
use super::outbox::{Budget, Outbox};
use super::ship::{ShipError, Spaceship, Stream};
use super::socket::{Socket, SocketSettings};
use crate::broker::Publish;
use crate::clock::Clock;
use crate::message::{ShardKey, Topic};
use crate::rooms::telemetry::order::Order;
use crate::rooms::telemetry::ship::ShipName;
use crate::service::Lifecycle;
use crate::task::{Attempt, Permille};
use crate::tasks::handler::{Ended, Handler, Job, Product, Run};

/// How long a capture may take beyond its window: to stop its stream, and to have everything
/// stored.
const GRACE: Duration = Duration::from_secs(10);
/// How long a capture that is not wanted any more may take for the same.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How long it is waited for datagrams, before it is looked what else is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same, when the end of the stream is near.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// How long nothing must have come of a stream that has ended, so that nothing more comes; and of
/// one that has not, for the spaceship to be asked whether it has.
const SILENCE: Duration = Duration::from_millis(250);
/// How often it is asked that, at most.
const DOUBT_EVERY: Duration = Duration::from_secs(1);

/// The pauses between the five tries to begin a stream, as R2's ingestors have them.
pub const PAUSES: [Duration; 4] = [
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(10),
    Duration::from_secs(10),
];

/// Runs captures.
#[derive(Clone)]
pub struct Capturer {
    /// Whose streams are captured.
    pub spaceship: Arc<Spaceship>,
    /// The pauses before it is asked again.
    pub pauses: Vec<Duration>,
    /// Where captures listen.
    pub socket: SocketSettings,
    /// Where lines go.
    pub publisher: Arc<dyn Publish>,
    /// Into how many shards.
    pub shards: NonZeroU16,
    /// What all captures of the process may have on their way.
    pub budget: Budget,
    /// What runs everything that speaks to the network.
    pub runtime: Handle,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Capturer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capturer").field("spaceship", &self.spaceship).finish_non_exhaustive()
    }
}

impl Handler for Capturer {
    fn run(&self, job: &Job, run: &Run) -> Ended {
        let Some(order) = Order::read(&job.payload) else {
            return failed("the payload is no order of a capture".to_owned(), true);
        };
        let window = self.window(&order);
        if window.is_zero() {
            let reason = match job.attempt {
                ..=1 => "its window was over before it began",
                _ => "its window was over before it began again; what was stored stays",
            };
            return Ended::Missed { reason: reason.to_owned() };
        }
        let socket = match Socket::bind(&self.socket) {
            Ok(socket) => socket,
            Err(error) => return failed(format!("no port to receive on: {error}"), false),
        };
        tell_of_small_buffers(socket.buffer_bytes(), self.socket.buffer_bytes);
        Capture::new(self, run, &order.ship_name, window, socket).run(job.attempt)
    }

    fn timeout(&self, job: &Job) -> Duration {
        let window = Order::read(&job.payload).map(|order| self.window(&order));
        // Each of its waits ends by itself; this is for one that does not.
        window.unwrap_or_default().saturating_add(GRACE * 6)
    }
}

impl Capturer {
    /// What is left of the window.
    fn window(&self, order: &Order) -> Duration {
        let left_ms = order.until_ms.saturating_sub(self.clock.wall().timestamp_millis());
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }
}

fn tell_of_small_buffers(bytes: usize, wanted_bytes: usize) {
    static TOLD: Once = Once::new();
    if bytes < wanted_bytes {
        TOLD.call_once(|| {
            tracing::warn!(
                bytes,
                wanted_bytes,
                "the kernel gives smaller receive buffers than CAPTURE_BUFFER_BYTES: datagrams \
                 that come in bursts may be lost; raise net.core.rmem_max (sysctl)"
            );
        });
    }
}

fn failed(reason: String, is_final: bool) -> Ended {
    Ended::Failed { reason, is_final }
}

/// The result. The keys of its JSON; times are RFC 3339.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    ship_name: &'a ShipName,
    /// Of the last stream.
    event_key: Option<Uuid>,
    #[serde(flatten)]
    sums: Sums,
    /// Of the datagrams that are stored, as they were received.
    bytes: u64,
    began_at: String,
    ended_at: String,
    ended_by: EndedBy,
    /// How many streams it had, one after the other.
    streams: u32,
    /// Which attempt at the task this is the account of.
    attempt: Attempt,
}

/// What a capture ended by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum EndedBy {
    /// Its window was over.
    Window,
    /// The spaceship ended its stream, or is gone, and began none for the rest of the window.
    Spaceship,
}

/// Why there is no stream.
#[derive(Debug)]
enum NoStream {
    /// The capture is not wanted any more.
    Stopping,
    /// The spaceship begins none.
    Refused {
        reason: String,
        /// Whether it would not help to try again.
        is_final: bool,
    },
}

/// A capture that runs.
struct Capture<'a> {
    capturer: &'a Capturer,
    run: &'a Run,
    ship: &'a ShipName,
    began_at: DateTime<Utc>,
    began: Instant,
    window: Duration,
    intake: Intake,
    /// The last stream.
    event_key: Option<Uuid>,
    /// How many there were.
    streams: u32,
}

impl<'a> Capture<'a> {
    fn new(
        capturer: &'a Capturer,
        run: &'a Run,
        ship: &'a ShipName,
        window: Duration,
        socket: Socket,
    ) -> Self {
        let Capturer { publisher, shards, budget, runtime, clock, .. } = capturer;
        let shard = ShardKey::new(Topic::Telemetry, ship.shard(*shards));
        let outbox = Outbox::new(Arc::clone(publisher), shard, budget.clone(), runtime.clone());
        let intake = Intake::new(socket, outbox, ship, Arc::clone(clock));
        let (began_at, began) = (clock.wall(), clock.monotonic());
        let (event_key, streams) = (None, 0);
        Self { capturer, run, ship, began_at, began, window, intake, event_key, streams }
    }

    fn run(mut self, attempt: Attempt) -> Ended {
        let ended_by = loop {
            let stream = match self.begin() {
                Ok(stream) => stream,
                Err(NoStream::Stopping) => return self.stop(),
                Err(NoStream::Refused { reason, .. }) if self.streams > 0 => {
                    tracing::warn!(
                        ship = self.ship.as_str(),
                        reason,
                        "a capture has no stream any more"
                    );
                    break EndedBy::Spaceship;
                }
                Err(NoStream::Refused { reason, is_final }) => return failed(reason, is_final),
            };
            self.event_key = Some(stream.event_key);
            self.streams += 1;
            if let Err(error) = self.follow(&stream) {
                return failed(format!("receiving: {error}"), false);
            }
            if self.run.life.is_stopping() {
                return self.stop();
            }
            if self.elapsed() >= self.window {
                break EndedBy::Window;
            }
            tracing::warn!(ship = self.ship.as_str(), "a stream has ended before its capture");
        };
        self.finish(ended_by, attempt)
    }

    /// How long it has run.
    fn elapsed(&self) -> Duration {
        self.capturer.clock.monotonic().saturating_duration_since(self.began)
    }

    /// Begins a stream, for the rest of the window.
    fn begin(&self) -> Result<Stream, NoStream> {
        self.capturer.runtime.block_on(async {
            tokio::select! {
                begun = self.try_to_begin() => begun,
                () = self.run.life.stopping() => Err(NoStream::Stopping),
            }
        })
    }

    async fn try_to_begin(&self) -> Result<Stream, NoStream> {
        let Capturer { spaceship, pauses, .. } = self.capturer;
        // Who has streamed before is waited for until the window is over.
        let last = pauses.last().filter(|_| self.streams > 0);
        let (mut pauses, mut tried) = (pauses.iter(), 0);
        loop {
            tried += 1;
            let error = match spaceship.begin(self.intake.address(), self.ship).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let is_final = error.is_final();
            let pause = pauses.next().or(last).copied().filter(|_| !is_final);
            match pause {
                Some(pause) if self.elapsed() + pause < self.window => {
                    tracing::warn!(%spaceship, %error, tried, "no stream yet; trying again");
                    tokio::time::sleep(pause).await;
                }
                pause => {
                    let is_over = pause.is_some();
                    let reason = refusal(spaceship, &error, tried, is_over);
                    return Err(NoStream::Refused { reason, is_final: is_final || is_over });
                }
            }
        }
    }

    /// Receives what a stream sends, until all of it is there, or nobody waits for more.
    fn follow(&mut self, stream: &Stream) -> io::Result<()> {
        let (port, event_key) = (self.intake.address().port(), stream.event_key);
        tracing::info!(ship = self.ship.as_str(), %event_key, port, "capturing");
        self.intake.begin(event_key, stream.source);
        let (mut ended_at, mut stopped_at, mut doubted_at) = (None, None, None);
        loop {
            let (now, elapsed) = (self.capturer.clock.monotonic(), self.elapsed());
            self.run.tell(share(elapsed, self.window));
            let left = self.window.saturating_sub(elapsed);
            let is_stopping = self.run.life.is_stopping();
            if is_stopping || left.is_zero() {
                stream.stop();
                stopped_at.get_or_insert(now);
            }
            let patience = stopped_at.or(ended_at).map_or(LOOK_EVERY.min(left), |_| LOOK_SOON);
            self.intake.step(patience.max(LOOK_SOON))?;
            let is_past = |since: Instant, time| now.saturating_duration_since(since) >= time;
            let is_quiet = is_past(self.intake.heard_at(), SILENCE);
            if is_quiet && doubted_at.is_none_or(|at| is_past(at, DOUBT_EVERY)) {
                stream.doubt();
                doubted_at = Some(now);
            }
            let end = stream.end();
            let sent = end.and_then(|end| end.sent);
            let is_silent =
                end.is_some() && is_quiet && is_past(*ended_at.get_or_insert(now), SILENCE);
            let may_take = if is_stopping { STOP_PATIENCE } else { GRACE };
            let is_late = stopped_at.is_some_and(|at| is_past(at, may_take));
            let has_all = end.is_some() && (is_stopping || self.intake.has_all(sent));
            if has_all || is_silent || is_late {
                self.intake.end(sent);
                return Ok(());
            }
        }
    }

    /// Nobody wants it any more: what was received is stored all the same.
    fn stop(self) -> Ended {
        let ship = self.ship.as_str();
        let (Sums { stored, lost, .. }, _) = self.intake.settle(STOP_PATIENCE, &Lifecycle::new());
        tracing::info!(ship, stored, lost, "a capture stops before its window is over");
        Ended::Stopped
    }

    fn finish(self, ended_by: EndedBy, attempt: Attempt) -> Ended {
        let ended_at = self.capturer.clock.wall();
        let Self { ship, began_at, event_key, streams, .. } = self;
        let (sums, bytes) = self.intake.settle(GRACE, &self.run.life);
        let rfc = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let (began_at, ended_at) = (rfc(began_at), rfc(ended_at));
        let Sums { sent, stored, lost, .. } = sums;
        tracing::info!(ship = ship.as_str(), sent, stored, lost, "captured");
        let outcome = Outcome {
            ship_name: ship,
            event_key,
            sums,
            bytes,
            began_at,
            ended_at,
            ended_by,
            streams,
            attempt,
        };
        match serde_json::to_vec(&outcome) {
            Ok(json) => Ended::Finished(Product::Bytes(json)),
            Err(error) => failed(format!("its account cannot be written: {error}"), true),
        }
    }
}

/// Why there is no stream; `is_over`: and none would begin within the window.
fn refusal(spaceship: &Spaceship, error: &ShipError, tried: u32, is_over: bool) -> String {
    let times = if tried == 1 { "once".to_owned() } else { format!("{tried} times") };
    let over = if is_over { "; before it could be asked again its window was over" } else { "" };
    format!("the spaceship at {spaceship} begins no stream, asked {times}: {error}{over}")
}

/// How much of the window is over.
fn share(elapsed: Duration, window: Duration) -> Permille {
    let permille = elapsed.as_millis().saturating_mul(1000) / window.as_millis().max(1);
    Permille::try_from(permille.min(1000)).unwrap_or(1000)
}
