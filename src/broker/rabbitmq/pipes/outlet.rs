//! Into the pipes: groups of messages, each on a channel of its own, answered when confirmed.
//!
//! The client gives a message that came back to whichever confirm comes next; so a channel carries
//! one group at a time, and of the group, all that went the way of one that came back are said to
//! have come back.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::topology::Pipework;
use crate::broker::pipes::PipeError;
use crate::broker::rabbitmq::error::{BrokerError, Doing, within};
use crate::broker::rabbitmq::link::{Link, Up};
use crate::broker::rabbitmq::topology::{CALL_TIMEOUT, Declares, GONE_PAUSE};
use crate::service::held;
use crate::task::Name;

/// How long a broker that is away may come back before it is said that nothing was sent.
const AWAY_MAX: Duration = Duration::from_secs(2);

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) exchange: &'static str,
    pub(super) key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
    /// Whether it is an error that nobody gets it.
    pub(super) mandatory: bool,
}

/// What became of the messages of a group, in their order.
pub(super) type Sent = Vec<Result<(), PipeError>>;

/// A publisher of groups.
#[derive(Debug)]
pub(super) struct Outlet {
    link: Link<Pipework>,
    idle: Mutex<Vec<Lane>>,
    /// Queues of endpoints that are known to be there, since they were declared on this connection.
    declared: Mutex<Option<(Up, HashSet<Name>)>>,
}

/// A channel with confirms.
#[derive(Debug)]
struct Lane {
    up: Up,
    channel: Channel,
}

impl Outlet {
    pub(super) fn new(link: Link<Pipework>) -> Self {
        Self { link, idle: Mutex::default(), declared: Mutex::default() }
    }

    /// Publishes a group.
    pub(super) async fn send(&self, group: &[Outgoing]) -> Sent {
        if group.is_empty() {
            return Vec::new();
        }
        let up = match self.up().await {
            Ok(up) => up,
            Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
        };
        let lane = match self.lane(&up).await {
            Ok(lane) => lane,
            Err(error) => {
                self.mend(&up, &error).await;
                let error = PipeError::Unsent(error.to_string());
                return group.iter().map(|_| Err(error.clone())).collect();
            }
        };
        let (sent, broken) = publish(&lane.channel, group).await;
        match broken {
            None => held(&self.idle).push(lane),
            Some(error) => self.mend(&up, &error).await,
        }
        sent
    }

    /// A connection on which the broker takes messages.
    async fn up(&self) -> Result<Up, PipeError> {
        let closed = || self.link.is_closed().then_some(PipeError::Closed);
        match closed() {
            Some(closed) => Err(closed),
            None => {
                let usable = self.link.usable(Instant::now() + AWAY_MAX).await;
                usable.map_err(|away| closed().unwrap_or(PipeError::Unsent(away)))
            }
        }
    }

    async fn lane(&self, up: &Up) -> Result<Lane, BrokerError> {
        let idle = {
            let mut idle = held(&self.idle);
            idle.retain(|lane| lane.up.is_same(up) && lane.channel.status().connected());
            idle.pop()
        };
        if let Some(lane) = idle {
            return Ok(lane);
        }
        let opened = up.connection.create_channel();
        let channel = within(CALL_TIMEOUT, Doing::Opening, opened).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        within(CALL_TIMEOUT, Doing::Opening, confirms).await?;
        Ok(Lane { up: up.clone(), channel })
    }

    /// Sees to it that the queue of an endpoint is there, so that what is sent waits in it for a
    /// worker to come.
    pub(super) async fn declare(&self, endpoint: &Name) -> Result<(), PipeError> {
        let up = self.up().await?;
        {
            let mut declared = held(&self.declared);
            match declared.as_ref() {
                Some((of, known)) if of.is_same(&up) => {
                    if known.contains(endpoint) {
                        return Ok(());
                    }
                }
                _ => *declared = Some((up.clone(), HashSet::new())),
            }
        }
        let declared = self.link.topology().declare_tasks(&up.connection, Some(endpoint)).await;
        declared.map_err(|error| PipeError::Unsent(error.to_string()))?;
        if let Some((of, known)) = held(&self.declared).as_mut()
            && of.is_same(&up)
        {
            known.insert(endpoint.clone());
        }
        Ok(())
    }

    /// How many messages wait in the queue of an endpoint, or in those that are shared; `None` if
    /// one is not ours.
    pub(super) async fn waiting(&self, endpoint: Option<&Name>) -> Result<Option<u32>, PipeError> {
        let (up, pipework) = (self.up().await?, self.link.topology());
        let declared = pipework.declare_tasks(&up.connection, endpoint).await;
        let told = declared.map_err(|error| PipeError::Unsent(error.to_string()));
        told.map(|(waiting, are_ours)| are_ours.then_some(waiting))
    }

    /// Does what may help before the next group.
    async fn mend(&self, up: &Up, error: &BrokerError) {
        match error {
            BrokerError::Returned { queue } => {
                tracing::warn!(queue, "a queue is gone: declaring it again");
                *held(&self.declared) = None;
                tokio::time::sleep(GONE_PAUSE).await;
                if let Err(error) = self.link.topology().declare(&up.connection).await {
                    tracing::warn!(%error, "the queues of the pipes cannot be declared");
                    self.link.give_up(up);
                }
            }
            // A broker in alarm reads nothing; it is there all the same.
            BrokerError::TimedOut { .. } if !up.connection.status().blocked() => {
                self.link.give_up(up);
            }
            _ => {}
        }
    }
}

/// Publishes a group; what became of each, and of the channel, if it is of no more use.
async fn publish(channel: &Channel, group: &[Outgoing]) -> (Sent, Option<BrokerError>) {
    let mut confirms = Vec::with_capacity(group.len());
    for message in group {
        match put(channel, message).await {
            Ok(confirm) => confirms.push(confirm),
            // Those before it will not be confirmed any more either.
            Err(error) => return (unknown(group, &error), Some(error)),
        }
    }
    let (mut sent, mut returned) = (Vec::with_capacity(group.len()), HashSet::new());
    let mut broken = None;
    for (message, confirm) in group.iter().zip(confirms) {
        let confirmation = match within(CALL_TIMEOUT, Doing::Confirming, confirm).await {
            Ok(confirmation) => confirmation,
            Err(error) => return (unknown(group, &error), Some(error)),
        };
        let is_taken = matches!(confirmation, Confirmation::Ack(_));
        if let Some(back) = confirmation.take_message() {
            returned.insert(back.routing_key.as_str().to_owned());
        }
        sent.push(if is_taken { Ok(()) } else { Err(refused(&message.key)) });
    }
    for (message, sent) in group.iter().zip(&mut sent) {
        if message.mandatory && returned.contains(&message.key) {
            let error = BrokerError::Returned { queue: message.key.clone() };
            *sent = Err(PipeError::Unsent(error.to_string()));
            broken = Some(error);
        }
    }
    (sent, broken)
}

fn refused(key: &str) -> PipeError {
    PipeError::Unsent(BrokerError::Refused { queue: key.to_owned() }.to_string())
}

fn unknown(group: &[Outgoing], error: &BrokerError) -> Sent {
    group.iter().map(|_| Err(PipeError::Unknown(error.to_string()))).collect()
}

async fn put(channel: &Channel, message: &Outgoing) -> Result<PublisherConfirm, BrokerError> {
    let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
    let published = channel.basic_publish(
        message.exchange.into(),
        message.key.as_str().into(),
        options,
        &message.body,
        message.properties.clone(),
    );
    within(CALL_TIMEOUT, Doing::Publishing, published).await
}
