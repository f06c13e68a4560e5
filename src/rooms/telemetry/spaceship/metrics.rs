//! How many streams there are and what they send, for `/metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The figures of all streams of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct StreamMetrics {
    /// Streams that send.
    pub active: Gauge,
    /// Datagrams that the kernel took.
    pub datagrams: Counter,
    /// Their bytes.
    pub bytes: Counter,
    /// How often a stream was told that nobody listens.
    pub refusals: Counter,
}

impl StreamMetrics {
    /// Creates the figures and registers them, under the registry's prefix.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("streams", "Streams that send", metrics.active.clone());
        registry.register("stream_datagrams", "Datagrams sent", metrics.datagrams.clone());
        let bytes = metrics.bytes.clone();
        registry.register_with_unit("stream_sent", "Bytes of datagrams sent", Unit::Bytes, bytes);
        let refusals = metrics.refusals.clone();
        registry.register("stream_refusals", "Refusals by receivers that are gone", refusals);
        metrics
    }
}
