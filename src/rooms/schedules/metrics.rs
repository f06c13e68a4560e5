//! How well recurring schedules are kept, for `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::store::schedules::{Decision, NewOccurrence};

/// Seconds; a start is a synced commit after its time, and a look comes once a second.
const LATENESS_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
}

/// The figures. Clones share them.
#[derive(Debug, Clone)]
pub struct ScheduleMetrics(Arc<Figures>);

#[derive(Debug)]
struct Figures {
    due: Gauge,
    decided: Family<DecisionLabels, Counter>,
    lateness: Histogram,
}

impl ScheduleMetrics {
    /// Makes them and registers them, under the registry's prefix.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let figures = Figures {
            due: Gauge::default(),
            decided: Family::default(),
            lateness: Histogram::new(LATENESS_BUCKETS),
        };
        registry.register(
            "schedules_due",
            "Recurring schedules that were due when it was looked last",
            figures.due.clone(),
        );
        registry.register(
            "schedule_times",
            "Due times of recurring schedules, by what this process has decided of them",
            figures.decided.clone(),
        );
        registry.register_with_unit(
            "schedule_start_lateness",
            "From the due time of a recurring schedule to its start by this process",
            Unit::Seconds,
            figures.lateness.clone(),
        );
        Self(Arc::new(figures))
    }

    /// So many are due.
    pub(super) fn look(&self, due: usize) {
        self.0.due.set(i64::try_from(due).unwrap_or(i64::MAX));
    }

    /// This was decided, and stands.
    pub(super) fn count(&self, occurrence: &NewOccurrence, now_ms: i64) {
        let labels = DecisionLabels { decision: occurrence.decision.word() };
        self.0.decided.get_or_create(&labels).inc_by(occurrence.times.count);
        if occurrence.decision == Decision::Started {
            let late_ms = now_ms.saturating_sub(occurrence.times.due_at_ms);
            let late = Duration::from_millis(u64::try_from(late_ms).unwrap_or(0));
            self.0.lateness.observe(late.as_secs_f64());
        }
    }
}
