//! How the broker's queues stand: what waits in them, and whether anybody consumes it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::Channel;

use super::error::{BrokerError, Doing, within};
use super::link::Link;
use super::topology::CALL_TIMEOUT;
use crate::message::{ShardKey, Topic};
use crate::service::held;

/// How often the queues are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long messages may wait while nobody consumes their queue.
const UNCONSUMED_MAX: Duration = Duration::from_secs(10);

/// One queue when it was last looked at.
#[derive(Debug, Clone, Copy)]
pub struct QueueView {
    /// The shard.
    pub key: ShardKey,
    /// Packets that wait, without those that a consumer has and did not acknowledge yet.
    pub packets: u32,
    /// Consumers, those that stand by included.
    pub consumers: u32,
    /// Since when packets wait while nobody consumes.
    unconsumed_since: Option<Instant>,
}

/// The queues, looked at from time to time.
#[derive(Debug, Clone, Default)]
pub struct Queues {
    views: Arc<Mutex<Vec<QueueView>>>,
}

impl Queues {
    /// Looks at the queues of a link until it is closed. Must be called within a tokio runtime.
    #[must_use]
    pub(super) fn watch(link: Link) -> Self {
        let queues = Self::default();
        let views = Arc::clone(&queues.views);
        tokio::spawn(async move {
            while let Some(up) = link.up().await {
                let opened = within(CALL_TIMEOUT, Doing::Opening, up.connection.create_channel());
                if let Ok(channel) = opened.await {
                    while let Ok(looked) = look(&link, &channel, &views).await {
                        *held(&views) = looked;
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
                held(&views).clear();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        queues
    }

    /// Each shard's queue; none while the broker cannot be asked.
    #[must_use]
    pub fn views(&self) -> Vec<QueueView> {
        held(&self.views).clone()
    }

    /// Queues in which messages wait that nobody consumes.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let views = self.views();
        let forsaken = views.iter().filter(|view| {
            view.unconsumed_since.is_some_and(|since| since.elapsed() > UNCONSUMED_MAX)
        });
        let told = forsaken.map(|QueueView { key, packets, .. }| {
            format!(
                "{key}: {packets} packets wait in the broker's queue, and nobody consumes it: \
                 start message-consumer with the same RABBITMQ_URL"
            )
        });
        told.collect()
    }
}

async fn look(
    link: &Link,
    channel: &Channel,
    before: &Mutex<Vec<QueueView>>,
) -> Result<Vec<QueueView>, BrokerError> {
    let before = held(before).clone();
    let topology = link.topology();
    let mut views = Vec::new();
    for key in Topic::ALL.into_iter().flat_map(|topic| topology.shards_of(topic)) {
        let (packets, consumers) = topology.look(channel, key).await?;
        let known = before.iter().find(|view| view.key == key);
        let since = known.and_then(|view| view.unconsumed_since);
        let unconsumed_since =
            (packets > 0 && consumers == 0).then(|| since.unwrap_or_else(Instant::now));
        views.push(QueueView { key, packets, consumers, unconsumed_since });
    }
    Ok(views)
}
