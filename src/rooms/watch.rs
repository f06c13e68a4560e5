//! Whether messages and telemetry get on: what `/readyz` says and `/metrics` shows of the pipeline.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::batch::journal;
use crate::batch::unsent::{Sum, Unsent, unsent};
use crate::broker::append::{ShardEnd, shard_ends};
use crate::broker::frames::oldest_waiting_ms;
use crate::broker::ownership::is_owned;
use crate::broker::progress::Progress;
use crate::clock::Clock;
use crate::message::{Offset, ShardKey, Topic};
use crate::service::held;
use crate::state::{State, StateError};
use crate::web::Readiness;

/// How long messages may wait while nobody consumes their shard.
const UNOWNED_MAX: Duration = Duration::from_secs(10);
/// How long a shard's consumer may commit nothing while messages wait: more than a batch may take.
const STALLED_MAX: Duration = Duration::from_secs(150);
/// How long a process may hold the write lock.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// One shard at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardView {
    /// The shard.
    pub key: ShardKey,
    /// What it has taken in, ever.
    pub end: ShardEnd,
    /// How many messages wait.
    pub waiting: u64,
    /// When the oldest of them was accepted, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// How long the oldest has waited.
    pub age: Duration,
    /// Changes with every commit of the shard.
    committed: (Offset, u64),
}

/// What a shard had committed, and since when.
type Seen = ((Offset, u64), Instant);

/// Watches the pipeline of one state environment.
#[derive(Debug)]
pub struct Watch {
    state: State,
    clock: Arc<dyn Clock>,
    /// What each shard had committed, and since when.
    seen: Mutex<HashMap<ShardKey, Seen>>,
}

impl Watch {
    /// A watch over `state`.
    #[must_use]
    pub fn new(state: State, clock: Arc<dyn Clock>) -> Self {
        Self { state, clock, seen: Mutex::default() }
    }

    /// Every shard that ever took a message, in order.
    ///
    /// # Errors
    /// A read failed, or a row is damaged.
    pub fn view(&self) -> Result<Vec<ShardView>, StateError> {
        let tables = self.state.tables();
        let now_ms = self.clock.wall_ms();
        let txn = self.state.read()?;
        let mut views = Vec::new();
        for (key, end) in shard_ends(&txn, tables)? {
            let progress = Progress::load(&txn, tables, key)?;
            let waiting = progress.waiting(end.offset);
            let oldest_ms = match waiting {
                0 => None,
                _ => oldest_waiting_ms(&txn, &self.state, key, progress.low)?,
            };
            let age_ms = oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
            let committed = (progress.low, waiting.wrapping_sub(end.offset));
            let age = Duration::from_millis(age_ms);
            views.push(ShardView { key, end, waiting, oldest_ms, age, committed });
        }
        Ok(views)
    }

    /// How long the shard has committed nothing, as far as was watched.
    fn stalled_for(&self, view: &ShardView) -> Duration {
        let now = self.clock.monotonic();
        let mut seen = held(&self.seen);
        let (committed, since) = seen.entry(view.key).or_insert((view.committed, now));
        if *committed != view.committed || view.waiting == 0 {
            (*committed, *since) = (view.committed, now);
        }
        now.saturating_duration_since(*since)
    }

    /// Why the messages of a shard do not get on, if they do not.
    #[must_use]
    pub fn standstill(&self, view: &ShardView) -> Option<Standstill> {
        let stalled = self.stalled_for(view);
        if view.waiting == 0 {
            return None;
        }
        let owned = is_owned(self.state.dir(), view.key).unwrap_or(true);
        if !owned && view.age > UNOWNED_MAX {
            return Some(Standstill::NobodyConsumes);
        }
        (owned && stalled > STALLED_MAX).then_some(Standstill::NothingCommitted)
    }

    fn shard_problem(&self, view: &ShardView) -> Option<String> {
        let ShardView { key, waiting, age, .. } = view;
        let seconds = age.as_secs();
        let why = self.standstill(view)?;
        Some(format!("{key}: {waiting} messages wait, the oldest for {seconds} s, and {why}"))
    }
}

/// Why the messages of a shard do not get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standstill {
    /// No process has taken the shard.
    NobodyConsumes,
    /// One has, and commits nothing.
    NothingCommitted,
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyConsumes => {
                f.write_str("nobody consumes them: start message-consumer with the same STATE_DIR")
            }
            Self::NothingCommitted => {
                write!(f, "none was committed for more than {} s", STALLED_MAX.as_secs())
            }
        }
    }
}

impl Readiness for Watch {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = self.state.room_to_publish() {
            problems.push(error.to_string());
        }
        if let Some((waited, pid)) = self.state.write_lock_wait().filter(|w| w.0 > LOCK_WAIT_MAX) {
            let seconds = waited.as_secs();
            problems.push(format!("process {pid} holds the state environment for {seconds} s"));
        }
        match self.view() {
            Ok(views) => problems.extend(views.iter().filter_map(|view| self.shard_problem(view))),
            Err(error) => problems.push(error.to_string()),
        }
        problems
    }
}

/// The pipeline's figures for `/metrics`, read when they are asked for.
#[derive(Debug)]
pub struct PipelineMetrics(pub Arc<Watch>);

type Figure<'a> = (&'a str, &'a str, &'a dyn Fn(&ShardView) -> Metric);

enum Metric {
    Counter(u64),
    Gauge(f64),
}

impl EncodeMetric for Metric {
    fn encode(
        &self,
        encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        match self {
            Self::Counter(value) => ConstCounter::new(*value).encode(encoder),
            Self::Gauge(value) => ConstGauge::new(*value).encode(encoder),
        }
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        match self {
            Self::Counter(_) => prometheus_client::metrics::MetricType::Counter,
            Self::Gauge(_) => prometheus_client::metrics::MetricType::Gauge,
        }
    }
}

/// A double holds every integer that these figures reach.
#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 a metric may be off by one")]
fn gauge(value: u64) -> Metric {
    Metric::Gauge(value as f64)
}

/// Figures of shards; nothing where there is none.
fn encode_shards(
    encoder: &mut DescriptorEncoder<'_>,
    figures: &[Figure<'_>],
    views: &[&ShardView],
) -> Result<(), fmt::Error> {
    for (name, help, figure) in figures {
        let Some(first) = views.first() else { break };
        let kind = figure(first).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for view in views {
            let labels = [("shard", view.key.shard.to_string())];
            figure(view).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

impl Collector for PipelineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(views) = self.0.view() else { return Ok(()) };
        let age = |v: &ShardView| Metric::Gauge(v.age.as_secs_f64());
        let messages: [Figure<'_>; 4] = [
            ("messages_accepted", "Messages accepted, ever", &|v| Metric::Counter(v.end.offset)),
            ("messages_accepted_bytes", "Bytes of them", &|v| Metric::Counter(v.end.bytes)),
            ("messages_waiting", "Messages that wait", &|v| gauge(v.waiting)),
            ("backlog_age_seconds", "Age of the oldest", &age),
        ];
        let telemetry: [Figure<'_>; 4] = [
            ("telemetry_accepted", "Readings accepted, ever", &|v| Metric::Counter(v.end.offset)),
            ("telemetry_accepted_bytes", "Bytes of them", &|v| Metric::Counter(v.end.bytes)),
            ("telemetry_waiting", "Readings that wait", &|v| gauge(v.waiting)),
            ("telemetry_backlog_age_seconds", "Age of the oldest", &age),
        ];
        for (topic, figures) in [(Topic::Messages, messages), (Topic::Telemetry, telemetry)] {
            let views = views.iter().filter(|view| view.key.topic == topic);
            encode_shards(&mut encoder, &figures, &views.collect::<Vec<_>>())?;
        }
        let state = &self.0.state;
        let batches = state.read().and_then(|txn| journal::batches(&txn, state.tables()));
        // What cannot be read is left out, as 0 would be a lie.
        let unsent = unsent(state).ok();
        let dead = |of: fn(Unsent) -> Sum| unsent.map(|unsent| gauge(of(unsent).messages));
        let (of_messages, of_telemetry) = (dead(|of| of.messages), dead(|of| of.telemetry));
        let commits = Some(Metric::Counter(state.commits()));
        let (used, most) =
            state.used_bytes().map(|(used, most)| (gauge(used), gauge(most))).ok().unzip();
        for (name, help, figure) in [
            ("batches_committed", "Batches ever committed", batches.ok().map(Metric::Counter)),
            ("messages_dead", "Dead letters that were not sent again", of_messages),
            ("telemetry_dead", "Readings among dead letters, likewise", of_telemetry),
            ("state_commits", "Commits synced by this process", commits),
            ("state_used_bytes", "Bytes used of the state map", used),
            ("state_map_bytes", "Bytes that the state map may use", most),
        ] {
            let Some(figure) = figure else { continue };
            let family = encoder.encode_descriptor(name, help, None, figure.metric_type())?;
            figure.encode(family)?;
        }
        Ok(())
    }
}
