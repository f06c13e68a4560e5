//! Orders to all workers: each process listens on a queue of its own, which ends with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Consumer};
use tokio::sync::watch;

use super::outlet::Outgoing;
use super::topology::{CONTROL, Pipework};
use crate::broker::pipes::Order;
use crate::broker::rabbitmq::error::{BrokerError, Doing, within};
use crate::broker::rabbitmq::link::{Link, Up};
use crate::broker::rabbitmq::topology::CALL_TIMEOUT;
use crate::service::{held, jittered};

/// The pause before listening again.
const PAUSE: Duration = Duration::from_millis(500);
/// The most orders that wait to be read: an order that is lost is given again.
const ORDERS_MAX: usize = 1024;

/// The orders that have come.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    waiting: Arc<Mutex<Vec<Order>>>,
    rung: watch::Sender<u64>,
}

/// The connection on which orders are heard now.
pub(super) type HeardOn = watch::Sender<Option<Up>>;

/// An order as a message.
pub(super) fn outgoing(order: &Order) -> Outgoing {
    Outgoing {
        exchange: CONTROL,
        key: String::new(),
        properties: BasicProperties::default().with_content_type("application/json".into()),
        // Names and numbers: nothing in them cannot be written.
        body: serde_json::to_vec(order).unwrap_or_default(),
        mandatory: false,
    }
}

impl Orders {
    /// Listens until the link is closed, and says on which connection; `obeyed` says which orders
    /// are no more to be kept.
    pub(super) fn listen(
        link: Link<Pipework>,
        heard_on: HeardOn,
        obeyed: impl Fn(&Order) -> bool + Send + Sync + 'static,
    ) -> Self {
        let orders = Self { waiting: Arc::default(), rung: watch::Sender::new(0) };
        let listening = orders.clone();
        tokio::spawn(async move {
            let mut told = None;
            while let Some(up) = link.up().await {
                match subscribe(&up).await {
                    Ok(mut consumer) => {
                        told = None;
                        heard_on.send_replace(Some(up));
                        while let Some(Ok(delivery)) = consumer.next().await {
                            listening.read(&delivery.data, &obeyed);
                        }
                        heard_on.send_replace(None);
                    }
                    Err(error) => {
                        if let Some(error) = up.untold(&error, &mut told) {
                            tracing::warn!(error, "orders are not heard; trying again");
                        }
                    }
                }
                tokio::time::sleep(jittered(PAUSE)).await;
            }
        });
        orders
    }

    fn read(&self, body: &[u8], obeyed: &(impl Fn(&Order) -> bool + Send + Sync)) {
        // A later version may give orders that this one does not know.
        let Ok(order) = serde_json::from_slice(body) else { return };
        if obeyed(&order) {
            return;
        }
        let mut waiting = held(&self.waiting);
        if waiting.len() < ORDERS_MAX {
            waiting.push(order);
        }
        drop(waiting);
        self.rung.send_modify(|rung| *rung += 1);
    }

    pub(super) fn take(&self) -> Vec<Order> {
        std::mem::take(&mut *held(&self.waiting))
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.rung.subscribe()
    }
}

async fn subscribe(up: &Up) -> Result<Consumer, BrokerError> {
    let channel = within(CALL_TIMEOUT, Doing::Opening, up.connection.create_channel()).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare("".into(), options, FieldTable::default());
    let queue = within(CALL_TIMEOUT, Doing::Declaring, declared).await?;
    let bound = channel.queue_bind(
        queue.name().clone(),
        CONTROL.into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    within(CALL_TIMEOUT, Doing::Declaring, bound).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let asked =
        channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default());
    within(CALL_TIMEOUT, Doing::Subscribing, asked).await
}
