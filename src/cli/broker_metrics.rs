//! What `/metrics` shows of a broker elsewhere: its queues as they were last looked at.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::broker::rabbitmq::QueueView;
use crate::broker::rabbitmq::publisher::RabbitPublisher;
use crate::message::Topic;

/// The figures of the broker, as the server sees it.
#[derive(Debug)]
pub(super) struct BrokerMetrics(pub(super) RabbitPublisher);

const PACKETS: &str = "Packets in the queue of a shard";
const CONSUMERS: &str = "Consumers of it, standing by or not";

type Figure<'a> = (&'a str, &'a str, &'a dyn Fn(&QueueView) -> u32);

impl Collector for BrokerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (name, help) = ("broker_usable", "1 while the broker takes messages, else 0");
        let usable = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(u32::from(self.0.is_usable())).encode(usable)?;
        let views = self.0.queues().views();
        let (packets, consumers) =
            (|view: &QueueView| view.packets, |view: &QueueView| view.consumers);
        let figures: [(Topic, Figure<'_>); 4] = [
            (Topic::Messages, ("broker_packets_waiting", PACKETS, &packets)),
            (Topic::Messages, ("broker_consumers", CONSUMERS, &consumers)),
            (Topic::Telemetry, ("broker_telemetry_packets_waiting", PACKETS, &packets)),
            (Topic::Telemetry, ("broker_telemetry_consumers", CONSUMERS, &consumers)),
        ];
        for (topic, (name, help, figure)) in figures {
            if views.is_empty() {
                break;
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for view in views.iter().filter(|view| view.key.topic == topic) {
                let labels = [("shard", view.key.shard.to_string())];
                ConstGauge::new(figure(view)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
