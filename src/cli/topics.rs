//! The topics, and what is done with each: the one place where they meet the rooms.

use std::sync::Arc;

use super::process::Process;
use super::settings::BatchSettings;
use crate::batch::resend::Place;
use crate::broker::rabbitmq::Check;
use crate::consumer::TopicPart;
use crate::message::Topic;
use crate::rooms::messages::foreign;
use crate::rooms::telemetry::ships;

/// What reads a line that somebody else has published under a topic.
pub(super) fn check_of(topic: Topic) -> Check {
    match topic {
        Topic::Messages => foreign::read,
        Topic::Telemetry => ships::foreign::read,
    }
}

/// What reads a message of a topic that goes again, and says where.
pub(super) fn place_of(topic: Topic) -> Place {
    match topic {
        Topic::Messages => foreign::place,
        Topic::Telemetry => ships::foreign::place,
    }
}

/// The topics that a consumer drains. Where a broker may hold telemetry, its queues are subscribed
/// to from the start; else no thread waits for it until there is some.
pub(super) fn consumed(
    batch: &BatchSettings,
    process: &Process,
    over_broker: bool,
) -> Vec<TopicPart> {
    let messages = TopicPart::new(Topic::Messages, batch.processing(process.shutdown));
    let telemetry = TopicPart::new(Topic::Telemetry, batch.as_is());
    let telemetry = telemetry.with(batch.ships.companion(Arc::clone(&process.clock)));
    let telemetry = if over_broker { telemetry } else { telemetry.once_it_waits() };
    vec![messages, telemetry]
}
