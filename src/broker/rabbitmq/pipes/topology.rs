//! Exchanges and queues of the pipes: R3's names, so that its programs meet ours in them.
//!
//! | exchange | sort | what for |
//! |---|---|---|
//! | `tasks` | direct | tasks, by the name of their queue |
//! | `results` | topic | what workers say, by `<endpoint>.results` |
//! | `async-data-processor.control` | fanout | orders to all workers |
//!
//! | queue | sort | who takes |
//! |---|---|---|
//! | `async-data-processor.tasks` | quorum | any number of workers |
//! | `async-data-processor.<kind>.tasks` | quorum | those of them that know a kind apart |
//! | `<endpoint>.tasks` | quorum, one active consumer | the worker of the endpoint |
//! | `results`, bound to `*.results` | quorum, one active consumer | one of the servers |
//!
//! A queue or an exchange that is there with other properties (R3's own queues are classic ones),
//! or that this user may not declare, is used as it is.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind, Queue};

use crate::broker::rabbitmq::error::{BrokerError, Doing, within};
use crate::broker::rabbitmq::topology::{CALL_TIMEOUT, Declares, quorum_arguments, text};
use crate::service::held;
use crate::task::Name;

pub(super) const TASKS: &str = "tasks";
pub(super) const RESULTS: &str = "results";
pub(super) const CONTROL: &str = "async-data-processor.control";
/// Stands where the name of an endpoint stands, for the workers of the shared queue.
const SHARED: &str = env!("CARGO_PKG_NAME");

/// What the pipes of a process need.
#[derive(Debug, Clone)]
pub(super) struct Pipework {
    /// The endpoint whose worker this is.
    pub(super) endpoint: Option<Name>,
    /// Kinds that not every worker of the shared queue knows, and so have one of their own.
    apart: Arc<[Name]>,
    /// Queues that are there, but not as we declare them.
    foreign: Arc<Mutex<HashSet<String>>>,
}

/// The queue of an endpoint, or the shared one; also the routing key of its tasks.
pub(super) fn task_queue(endpoint: Option<&Name>) -> String {
    format!("{}.tasks", endpoint.map_or(SHARED, Name::as_str))
}

/// The queue of a kind apart; also the routing key of its tasks. No endpoint has a name like it.
pub(super) fn kind_queue(kind: &Name) -> String {
    format!("{SHARED}.{kind}.tasks")
}

/// The routing key of what the worker of an endpoint says.
pub(super) fn result_key(endpoint: Option<&Name>) -> String {
    format!("{}.results", endpoint.map_or(SHARED, Name::as_str))
}

/// Whose routing key it is; `None` if nobody's.
pub(super) fn endpoint_of(key: &str) -> Option<Option<Name>> {
    let name = key.strip_suffix(".results")?;
    if name == SHARED { Some(None) } else { name.parse().ok().map(Some) }
}

impl Pipework {
    pub(super) fn new(endpoint: Option<Name>, apart: &[Name]) -> Self {
        Self { endpoint, apart: apart.into(), foreign: Arc::default() }
    }

    /// The queue for tasks of this endpoint, or of any worker's, and of this kind.
    pub(super) fn queue_of(&self, endpoint: Option<&Name>, kind: &Name) -> String {
        match endpoint {
            None if self.apart.contains(kind) => kind_queue(kind),
            _ => task_queue(endpoint),
        }
    }

    /// Whether the queue is one that we, or others like us, have declared.
    pub(super) fn is_ours(&self, queue: &str) -> bool {
        !held(&self.foreign).contains(queue)
    }

    /// Declares the queue of an endpoint, or those that are shared; how many tasks wait in them,
    /// and whether all of them are ours.
    pub(super) async fn declare_tasks(
        &self,
        connection: &Connection,
        endpoint: Option<&Name>,
    ) -> Result<(u32, bool), BrokerError> {
        let mut setup = Setup { connection, channel: None };
        let apart: &[Name] = if endpoint.is_some() { &[] } else { &self.apart };
        let (mut waiting, mut are_ours) = (0_u32, true);
        for name in std::iter::once(task_queue(endpoint)).chain(apart.iter().map(kind_queue)) {
            let queue = self.queue(&mut setup, &name, endpoint.is_some(), TASKS, &name).await?;
            waiting = waiting.saturating_add(queue.message_count());
            are_ours &= self.is_ours(&name);
        }
        Ok((waiting, are_ours))
    }

    async fn queue(
        &self,
        setup: &mut Setup<'_>,
        name: &str,
        single: bool,
        exchange: &str,
        key: &str,
    ) -> Result<Queue, BrokerError> {
        let declared = setup.queue(name, false, arguments(single)).await;
        let (queue, may_bind) = match declared {
            Ok(queue) => {
                held(&self.foreign).remove(name);
                (queue, true)
            }
            Err(error) if error.is_precondition() || error.is_refused_access() => {
                let queue = setup.queue(name, true, FieldTable::default()).await?;
                if held(&self.foreign).insert(name.to_owned()) {
                    tracing::info!(queue = name, "used as it is: it is not one of ours");
                }
                (queue, error.is_precondition())
            }
            Err(error) => return Err(error),
        };
        if may_bind {
            let channel = setup.channel().await?;
            let bound = channel.queue_bind(
                name.into(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            within(CALL_TIMEOUT, Doing::Declaring, bound).await?;
            setup.channel = Some(channel);
        }
        Ok(queue)
    }
}

impl Declares for Pipework {
    async fn declare(&self, connection: &Connection) -> Result<(), BrokerError> {
        let mut setup = Setup { connection, channel: None };
        setup.exchange(TASKS, ExchangeKind::Direct).await?;
        setup.exchange(RESULTS, ExchangeKind::Topic).await?;
        setup.exchange(CONTROL, ExchangeKind::Fanout).await?;
        self.queue(&mut setup, RESULTS, true, RESULTS, "*.results").await?;
        self.declare_tasks(connection, self.endpoint.as_ref()).await.map(drop)
    }
}

fn arguments(single: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    if single {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments.insert("x-overflow".into(), text("reject-publish"));
    quorum_arguments(arguments)
}

/// A channel to declare on: the broker closes it when it refuses.
struct Setup<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
}

impl Setup<'_> {
    async fn channel(&mut self) -> Result<Channel, BrokerError> {
        match self.channel.take() {
            Some(channel) => Ok(channel),
            None => within(CALL_TIMEOUT, Doing::Opening, self.connection.create_channel()).await,
        }
    }

    async fn exchange(&mut self, name: &str, kind: ExchangeKind) -> Result<(), BrokerError> {
        match self.try_exchange(name, kind.clone(), false).await {
            Err(error) if error.is_precondition() || error.is_refused_access() => {
                self.try_exchange(name, kind, true).await
            }
            declared => declared,
        }
    }

    async fn try_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        passive: bool,
    ) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let options =
            ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
        let asked = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
        within(CALL_TIMEOUT, Doing::Declaring, asked).await?;
        self.channel = Some(channel);
        Ok(())
    }

    async fn queue(
        &mut self,
        name: &str,
        passive: bool,
        arguments: FieldTable,
    ) -> Result<Queue, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { passive, ..QueueDeclareOptions::durable() };
        let asked = channel.queue_declare(name.into(), options, arguments);
        let queue = within(CALL_TIMEOUT, Doing::Declaring, asked).await?;
        self.channel = Some(channel);
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_known_by_its_routing_key() {
        let lab: Name = "lab-1".parse().unwrap();
        assert_eq!(endpoint_of(&result_key(Some(&lab))), Some(Some(lab)));
        assert_eq!(endpoint_of(&result_key(None)), Some(None));
        let captures = Pipework::new(None, &["capture".parse().unwrap()]);
        let queue = |endpoint, kind: &str| captures.queue_of(endpoint, &kind.parse().unwrap());
        assert_eq!(queue(None, "capture"), "async-data-processor.capture.tasks");
        assert_eq!(queue(None, "echo"), task_queue(None));
        let own: Name = "lab".parse().unwrap();
        assert_eq!(queue(Some(&own), "capture"), "lab.tasks");
        for nobodys in ["results", ".results", "a b.results", "lab-1.tasks"] {
            assert_eq!(endpoint_of(nobodys), None, "{nobodys}");
        }
    }
}
