//! How many tasks stand where, for `/metrics`.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::sleep;

use crate::service::{Lifecycle, held};
use crate::store::{Count, Store};

/// How often the store is asked: counting may read all of it, so no scrape does.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// The figures, counted in the background. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct TaskMetrics {
    /// None while they are not known: old figures would look like new ones.
    counts: Arc<Mutex<Option<Vec<Count>>>>,
    /// Why they are not.
    problem: Arc<Mutex<Option<String>>>,
}

impl TaskMetrics {
    /// Counts from now on, until `life` stops. Needs a tokio runtime.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, life: Lifecycle) -> Self {
        let metrics = Self::default();
        let counting = metrics.clone();
        tokio::spawn(async move {
            let count = async {
                loop {
                    let counts = store.counts().await;
                    let problem = counts.as_ref().err();
                    *held(&counting.problem) =
                        problem.map(|error| format!("the store of the tasks: {error}"));
                    *held(&counting.counts) = counts.ok();
                    sleep(COUNT_EVERY).await;
                }
            };
            tokio::select! {
                () = life.stopping() => {}
                () = count => {}
            }
        });
        metrics
    }
}

impl TaskMetrics {
    /// What is wrong with the store, in words for a person, if anything was when it was asked last.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        held(&self.problem).clone()
    }
}

impl Collector for TaskMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = held(&self.counts).clone().unwrap_or_default();
        if counts.is_empty() {
            return Ok(());
        }
        let help = "Tasks, by kind and state";
        let mut family = encoder.encode_descriptor("tasks", help, None, MetricType::Gauge)?;
        for Count { kind, state, tasks } in &counts {
            let labels = [("kind", kind.as_str()), ("state", state.word())];
            let tasks = i64::try_from(*tasks).unwrap_or(i64::MAX);
            ConstGauge::new(tasks).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::store::TaskState;

    #[test]
    fn figures_are_shown_by_kind_and_state_and_none_before_they_are_known() {
        let metrics = TaskMetrics::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let shown = || {
            let mut body = String::new();
            text::encode(&mut body, &registry).unwrap();
            body
        };
        assert_eq!(shown(), "# EOF\n");
        let count = Count { kind: "echo".parse().unwrap(), state: TaskState::Pending, tasks: 7 };
        *held(&metrics.counts) = Some(vec![count]);
        assert!(shown().contains("tasks{kind=\"echo\",state=\"pending\"} 7\n"), "{}", shown());
    }
}
