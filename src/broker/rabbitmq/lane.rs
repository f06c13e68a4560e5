//! A lane of the publisher: takes a group of requests, and sees it through to its answers.
//!
//! A nack, a return, a timeout or a lost channel: the group is published again, with the same ids,
//! on a fresh channel; what was stored already is known to the bridge and counts once. When that
//! does not help either, the outcome is unknown, unless nothing was ever sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

use super::error::{BrokerError, Doing, within};
use super::intake::APP_ID;
use super::link::Up;
use super::packing::Packet;
use super::publisher::{AWAY_MAX, Answer, Request, Shared, blocking};
use super::topology::{CALL_TIMEOUT, Format, GONE_PAUSE};
use crate::broker::idempotency::{self, KeyRetention, StoredKey};
use crate::broker::{PublishError, Published, Receipt};
use crate::service::{held, jittered};
use crate::state::StateError;

/// How long a group is tried before its outcome is called unknown; less than a request waits.
const TRIED_FOR: Duration = Duration::from_secs(20);
/// How often a group is tried that the broker itself refuses, and the pause between any two tries.
const REFUSALS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
const PERSISTENT: u8 = 2;

/// Why a group was given up.
enum GivenUp {
    /// Before anything of it was sent.
    Unsent(String),
    /// Afterwards: some of it may be stored.
    Unknown(String),
}

/// Publishes one group after the other.
pub(super) struct Lane {
    shared: Arc<Shared>,
    channel: Option<(Up, Channel)>,
}

impl Lane {
    /// A lane without a channel yet.
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, channel: None }
    }

    /// Publishes until the link is closed.
    pub(super) async fn run(mut self) {
        while !self.shared.link.is_closed() {
            let group = self.shared.take();
            if group.is_empty() {
                self.shared.arrived.notified().await;
            } else {
                self.publish(group).await;
            }
        }
        for request in self.shared.take() {
            let stopping = "the process is stopping".to_owned();
            self.shared.answer(request, Err(PublishError::Unavailable(stopping)));
        }
        // The next lane, if it sleeps.
        self.shared.arrived.notify_one();
    }

    async fn publish(&mut self, mut group: Vec<Request>) {
        // Whoever waits no longer has been told that the outcome is unknown, and may have sent the
        // same again: better not stored than twice.
        for request in group.extract_if(.., |request| request.reply.is_closed()) {
            self.shared.answer(request, Err(PublishError::Busy));
        }
        if let Err(error) = self.answer_known(&mut group).await {
            let error = PublishError::Unavailable(error.to_string());
            return self.answer_all(group, &Err(error));
        }
        let packets = held(&self.shared.packing).pack(group.iter().map(|request| &request.unit));
        let answer = match self.send(&packets).await {
            Ok(()) => {
                // Confirmed is stored; a repeat of it would have the same ids, and count once.
                if let Err(error) = self.remember(&group).await {
                    tracing::warn!(%error, "keys of stored requests are not remembered");
                }
                Ok(Published { receipt: None, replayed: false })
            }
            Err(GivenUp::Unsent(reason)) => Err(PublishError::Unavailable(reason)),
            Err(GivenUp::Unknown(reason)) => Err(PublishError::Unknown(reason)),
        };
        self.answer_all(group, &answer);
    }

    fn answer_all(&self, group: Vec<Request>, answer: &Answer) {
        group.into_iter().for_each(|request| self.shared.answer(request, answer.clone()));
    }

    /// Answers the requests whose keys are known, and takes them out of the group.
    async fn answer_known(&self, group: &mut Vec<Request>) -> Result<(), StateError> {
        let keys: Vec<_> = group.iter().filter_map(Request::stored).collect();
        let (state, retention) = (self.shared.state.clone(), self.shared.retention);
        if keys.is_empty() || retention == KeyRetention::NONE {
            return Ok(());
        }
        let now_ms = self.shared.clock.wall_ms();
        let found = blocking(move || {
            let txn = state.read()?;
            let find = |(stored, fingerprint): (StoredKey, _)| {
                let known = idempotency::find(
                    &txn,
                    state.tables(),
                    &stored,
                    fingerprint,
                    retention,
                    now_ms,
                );
                known.map(|known| known.map(|first| (stored, first.map(drop))))
            };
            keys.into_iter().filter_map(|key| find(key).transpose()).collect::<Result<Vec<_>, _>>()
        });
        for (stored, first) in found.await? {
            for request in group.extract_if(.., |request| request.key == Some(stored)) {
                let published = Published { receipt: None, replayed: true };
                self.shared.answer(request, first.clone().map(|()| published));
            }
        }
        Ok(())
    }

    /// Remembers the keys of what was just published.
    async fn remember(&self, group: &[Request]) -> Result<(), StateError> {
        let keys: Vec<_> = group.iter().filter_map(Request::stored).collect();
        let (state, retention) = (self.shared.state.clone(), self.shared.retention);
        if keys.is_empty() || retention == KeyRetention::NONE {
            return Ok(());
        }
        let now_ms = self.shared.clock.wall_ms();
        blocking(move || {
            let nowhere = Receipt::new(state.identity(), Vec::new());
            state.commit(move |txn| {
                for (stored, fingerprint) in &keys {
                    let print = *fingerprint;
                    idempotency::remember(txn, stored, print, &nowhere, retention, now_ms)?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Publishes the packets until all are confirmed, or it takes too long.
    async fn send(&mut self, packets: &[Packet]) -> Result<(), GivenUp> {
        let deadline = Instant::now() + TRIED_FOR;
        let (mut sent, mut refusals) = (false, 0);
        loop {
            let away_until = if sent { deadline } else { Instant::now() + AWAY_MAX };
            let error = match self.shared.link.usable(away_until).await {
                Ok(up) => match self.attempt(&up, packets, deadline, &mut sent).await {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        self.channel = None;
                        self.mend(&up, &error).await;
                        if error.is_refused_access() {
                            return Err(GivenUp::Unknown(format!(
                                "{error}: the user of RABBITMQ_URL needs the right to write to \
                                 amq.default"
                            )));
                        }
                        refusals += u32::from(matches!(error, BrokerError::Refused { .. }));
                        error.to_string()
                    }
                },
                Err(away) if !sent => return Err(GivenUp::Unsent(away)),
                Err(away) => away,
            };
            if refusals >= REFUSALS_MAX || Instant::now() >= deadline {
                return Err(GivenUp::Unknown(error));
            }
            tracing::debug!(error, packets = packets.len(), "publishing again");
            tokio::time::sleep(jittered(PAUSE)).await;
        }
    }

    async fn attempt(
        &mut self,
        up: &Up,
        packets: &[Packet],
        deadline: Instant,
        sent: &mut bool,
    ) -> Result<(), BrokerError> {
        let topology = self.shared.link.topology();
        let channel = self.channel(up).await?;
        *sent = true;
        let each = packets.iter().map(|packet| {
            channel.basic_publish(
                "".into(),
                topology.queue(packet.key).into(),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                &packet.body,
                properties(packet, topology.format),
            )
        });
        let confirms = within(CALL_TIMEOUT, Doing::Publishing, try_join_all(each)).await?;
        for (packet, confirm) in packets.iter().zip(confirms) {
            let left = deadline.saturating_duration_since(Instant::now()).min(CALL_TIMEOUT);
            let queue = || topology.queue(packet.key);
            match within(left, Doing::Confirming, confirm).await? {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                    return Err(BrokerError::Returned { queue: queue() });
                }
                Confirmation::Nack(None) | Confirmation::NotRequested => {
                    return Err(BrokerError::Refused { queue: queue() });
                }
            }
        }
        Ok(())
    }

    /// The lane's channel on this connection.
    async fn channel(&mut self, up: &Up) -> Result<Channel, BrokerError> {
        if let Some((of, channel)) = &self.channel
            && of.is_same(up)
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let opened = up.connection.create_channel();
        let channel = within(CALL_TIMEOUT, Doing::Opening, opened).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        within(CALL_TIMEOUT, Doing::Opening, confirms).await?;
        self.channel = Some((up.clone(), channel.clone()));
        Ok(channel)
    }

    /// Does what may help before the next try.
    async fn mend(&self, up: &Up, error: &BrokerError) {
        match error {
            BrokerError::Returned { queue } => {
                tracing::warn!(queue, "a queue is gone: declaring it again");
                tokio::time::sleep(GONE_PAUSE).await;
                if let Err(error) = self.shared.link.declare(up).await {
                    tracing::warn!(%error, "the queues cannot be declared");
                    self.shared.link.give_up(up);
                }
            }
            // A broker in alarm reads nothing; it is there all the same.
            BrokerError::TimedOut { .. } if !up.connection.status().blocked() => {
                self.shared.link.give_up(up);
            }
            _ => {}
        }
    }
}

fn properties(packet: &Packet, format: Format) -> BasicProperties {
    let content_type = match format.of(packet.key.topic) {
        Format::Packed => "application/x-ndjson",
        Format::Interop => "application/json",
    };
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(content_type.into())
        .with_app_id(APP_ID.into())
        .with_message_id(packet.id.to_string().into())
}
