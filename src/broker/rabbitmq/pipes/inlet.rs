//! Out of the pipes: a subscription that is kept, and what of it is in hand.
//!
//! From a queue that many share, no more is taken than somebody here waits for: when nobody waits
//! for a while, the subscription ends and what waits here goes back, for others to take. From a
//! queue with one active consumer everything is ours, and the subscription stays.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::hand::{Hand, Turn};
use super::topology::Pipework;
use crate::broker::pipes::{PipeError, Tag};
use crate::broker::rabbitmq::error::{BrokerError, Doing, within};
use crate::broker::rabbitmq::link::{Link, Up};
use crate::broker::rabbitmq::topology::{CALL_TIMEOUT, GONE_PAUSE};
use crate::service::{held, jittered};

/// How long nobody may wait before what waits here is for others.
const PATIENCE: Duration = Duration::from_millis(100);
/// The pause before subscribing again, after it failed.
const PAUSE: Duration = Duration::from_millis(500);
/// How long who was asked to step back lets another one be the active consumer.
const STEP_BACK: Duration = Duration::from_secs(2);
/// How often it is looked at what has waited here for long.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// How long a subscription waits for orders to be heard. Without them it works, but for them.
const HEARING_MAX: Duration = Duration::from_secs(5);
/// How long the end may take.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Which queue, and how.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) queue: String,
    /// How many deliveries may be unacknowledged, where all of them are ours; `None`: the queue is
    /// shared, and it is as many as are waited for.
    pub(super) window: Option<u16>,
}

/// A subscription to a queue.
#[derive(Debug)]
pub(super) struct Inlet {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    link: Link<Pipework>,
    source: Source,
    hand: Mutex<Hand>,
    /// Held while acknowledgements are sent: one for "all up to here" must not overtake another.
    settling: tokio::sync::Mutex<()>,
    /// Rung when something has come.
    arrived: Notify,
    /// Rung when what is wanted has changed.
    wanted: Notify,
    subscribed: watch::Sender<bool>,
    /// The connection on which orders are heard, if this is to obey them.
    obeying: Option<watch::Receiver<Option<Up>>>,
    closing: CancellationToken,
}

/// What becomes of deliveries.
#[derive(Debug, Clone, Copy)]
enum Settling {
    Acknowledge,
    GiveBack,
}

/// Why a subscription ended.
#[derive(Debug)]
enum Ended {
    Closing,
    Broken(BrokerError),
    /// The queue is gone.
    Cancelled,
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        Self::Broken(error)
    }
}

impl Inlet {
    /// Starts to subscribe, by way of this link; if it is `obeying`, when orders are heard on the
    /// same connection. Must be called within a tokio runtime.
    pub(super) fn start(
        link: Link<Pipework>,
        source: Source,
        obeying: Option<watch::Receiver<Option<Up>>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            link,
            hand: Mutex::new(Hand::new(source.window)),
            source,
            settling: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            wanted: Notify::new(),
            subscribed: watch::Sender::new(false),
            obeying,
            closing: CancellationToken::new(),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Self { shared, task: Mutex::new(Some(task)) }
    }

    /// Waits for deliveries, and takes some: at least one, `count_max` at most.
    pub(super) async fn take(&self, count_max: usize) -> Result<Vec<(Tag, Delivery)>, PipeError> {
        let shared = &self.shared;
        loop {
            if shared.closing.is_cancelled() {
                return Err(PipeError::Closed);
            }
            let (taken, is_more) = {
                let mut hand = held(&shared.hand);
                (hand.take(count_max), hand.holds_any())
            };
            if !taken.is_empty() {
                if is_more {
                    shared.arrived.notify_one();
                }
                return Ok(taken);
            }
            let _waiting = Waiting::begin(shared);
            tokio::select! {
                () = shared.arrived.notified() => {}
                () = shared.closing.cancelled() => {}
            }
        }
    }

    pub(super) async fn acknowledge(&self, tags: &[Tag]) {
        self.shared.settle(tags, Settling::Acknowledge).await;
    }

    pub(super) async fn give_back(&self, tags: &[Tag]) {
        self.shared.settle(tags, Settling::GiveBack).await;
    }

    /// Lets another consumer be the active one, if one stands by.
    pub(super) fn step_back(&self) {
        held(&self.shared.hand).step_back();
        self.shared.wanted.notify_one();
    }

    /// Waits until the broker knows of this consumer.
    pub(super) async fn subscribed(&self) {
        let mut subscribed = self.shared.subscribed.subscribe();
        let _never_closed = subscribed.wait_for(|is| *is).await;
    }

    /// Ends; what is in hand goes back with the connection.
    pub(super) async fn close(&self) {
        self.shared.closing.cancel();
        let task = held(&self.task).take();
        if let Some(task) = task {
            let _late = tokio::time::timeout(END_TIMEOUT, task).await;
        }
    }
}

/// Somebody waits, as long as this lives.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        held(&shared.hand).wait(true);
        shared.wanted.notify_one();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        held(&self.0.hand).wait(false);
        self.0.wanted.notify_one();
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let (closing, mut told) = (self.closing.clone(), None);
        while let Some(Some(up)) = closing.run_until_cancelled(self.link.up()).await {
            let ended = self.serve(&up).await;
            self.subscribed.send_replace(false);
            held(&self.hand).drop_all();
            match ended {
                Ended::Closing => break,
                Ended::Broken(error) => self.mend(&up, &error, &mut told),
                Ended::Cancelled => {
                    let queue = &self.source.queue;
                    tracing::warn!(queue, "the broker has cancelled a subscription");
                    closing.run_until_cancelled(tokio::time::sleep(GONE_PAUSE)).await;
                    if let Err(error) = self.link.declare(&up).await {
                        self.mend(&up, &error, &mut told);
                    }
                }
            }
            closing.run_until_cancelled(tokio::time::sleep(jittered(PAUSE))).await;
        }
    }

    fn mend(&self, up: &Up, error: &BrokerError, told: &mut Option<String>) {
        if matches!(error, BrokerError::TimedOut { .. }) {
            self.link.give_up(up);
        }
        if let Some(text) = up.untold(error, told) {
            let queue = &self.source.queue;
            match error.is_exclusive_use() {
                true => tracing::info!(queue, "another consumer has the queue: standing by"),
                false => tracing::warn!(queue, error = text, "a subscription broke"),
            }
        }
    }

    async fn serve(&self, up: &Up) -> Ended {
        let opened = within(CALL_TIMEOUT, Doing::Opening, up.connection.create_channel()).await;
        let channel = match opened {
            Ok(channel) => channel,
            Err(error) => return Ended::Broken(error),
        };
        held(&self.hand).begin(channel.clone());
        self.wait_heard(up).await;
        loop {
            let window = match self.wait_wanted(&channel).await {
                Ok(window) => window,
                Err(ended) => return ended,
            };
            let ended = match self.subscribe(&channel, window).await {
                Ok(consumer) => self.pump(&channel, consumer, window).await,
                Err(error) => Err(Ended::Broken(error)),
            };
            if let Err(ended) = ended {
                return ended;
            }
        }
    }

    /// Whoever has an endpoint must hear that another one takes over: that is said once.
    async fn wait_heard(&self, up: &Up) {
        let Some(mut obeying) = self.obeying.clone() else { return };
        let is_heard = |on: &Option<Up>| on.as_ref().is_some_and(|on| !on.is_before(up));
        let heard = tokio::time::timeout(HEARING_MAX, obeying.wait_for(is_heard));
        let _late_or_closing = self.closing.run_until_cancelled(heard).await;
    }

    /// Waits until somebody waits, where the queue is shared; for how many deliveries.
    async fn wait_wanted(&self, channel: &Channel) -> Result<u16, Ended> {
        loop {
            if let Some(window) = held(&self.hand).window() {
                return Ok(window);
            }
            tokio::select! {
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(PAUSE) => {
                    if !channel.status().connected() {
                        return Err(Ended::Broken(BrokerError::TimedOut {
                            doing: Doing::Subscribing,
                            after: PAUSE,
                        }));
                    }
                    // Nobody has waited for so long: what came when the last one left is others'.
                    let left_over = held(&self.hand).give_up_waiting();
                    self.settle(&left_over, Settling::GiveBack).await;
                }
                () = self.closing.cancelled() => return Err(Ended::Closing),
            }
        }
    }

    async fn subscribe(&self, channel: &Channel, window: u16) -> Result<Consumer, BrokerError> {
        let limited = channel.basic_qos(window, BasicQosOptions::default());
        within(CALL_TIMEOUT, Doing::Subscribing, limited).await?;
        let queue = self.source.queue.as_str();
        // Somebody else's classic queue knows no single active consumer.
        let exclusive = self.source.window.is_some() && !self.link.topology().is_ours(queue);
        let options = BasicConsumeOptions { exclusive, ..BasicConsumeOptions::default() };
        let asked = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = within(CALL_TIMEOUT, Doing::Subscribing, asked).await?;
        self.subscribed.send_replace(true);
        Ok(consumer)
    }

    /// Takes what comes until the subscription is to be another one, or none.
    async fn pump(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        window: u16,
    ) -> Result<(), Ended> {
        loop {
            let pause = if self.source.window.is_some() { RENEW_EVERY } else { PATIENCE };
            tokio::select! {
                delivery = consumer.next() => self.push(delivery, &mut consumer)?,
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(pause) => {
                    let stale = held(&self.hand).stale();
                    self.settle(&stale, Settling::GiveBack).await;
                }
                () = self.closing.cancelled() => {
                    self.unsubscribe(channel, consumer).await?;
                    return Err(Ended::Closing);
                }
            }
            let turn = held(&self.hand).turn(window, PATIENCE);
            match turn {
                Turn::Stay => continue,
                Turn::Resize => return self.unsubscribe(channel, consumer).await,
                Turn::Pause | Turn::StepBack => {}
            }
            self.unsubscribe(channel, consumer).await?;
            let waiting = held(&self.hand).give_up_waiting();
            self.settle(&waiting, Settling::GiveBack).await;
            if turn == Turn::StepBack {
                let queue = &self.source.queue;
                tracing::info!(queue, "another worker takes over: standing by");
                let pause = tokio::time::sleep(STEP_BACK);
                self.closing.run_until_cancelled(pause).await.ok_or(Ended::Closing)?;
                held(&self.hand).stepped_back();
            }
            return Ok(());
        }
    }

    /// Keeps a delivery, and those that have come with it.
    fn push(
        &self,
        first: Option<lapin::Result<Delivery>>,
        consumer: &mut Consumer,
    ) -> Result<(), Ended> {
        let mut next = Some(first);
        while let Some(come) = next {
            match come {
                None => return Err(Ended::Cancelled),
                Some(Err(source)) => {
                    return Err(BrokerError::Failed { doing: Doing::Subscribing, source }.into());
                }
                Some(Ok(delivery)) => held(&self.hand).push(delivery),
            }
            next = consumer.next().now_or_never();
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Ends the subscription; what was on its way is kept.
    async fn unsubscribe(&self, channel: &Channel, mut consumer: Consumer) -> Result<(), Ended> {
        self.subscribed.send_replace(false);
        let ended = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        within(CALL_TIMEOUT, Doing::Subscribing, ended).await?;
        while let Some(Some(Ok(delivery))) = consumer.next().now_or_never() {
            held(&self.hand).push(delivery);
        }
        self.arrived.notify_one();
        Ok(())
    }

    async fn settle(&self, tags: &[Tag], how: Settling) {
        if tags.is_empty() {
            return;
        }
        let _in_order = self.settling.lock().await;
        let (channel, calls) = held(&self.hand).settle(tags);
        let Some(channel) = channel else { return };
        for (number, multiple) in calls {
            let sent = match how {
                Settling::Acknowledge => {
                    let asked = channel.basic_ack(number, BasicAckOptions { multiple });
                    within(CALL_TIMEOUT, Doing::Acknowledging, asked).await
                }
                Settling::GiveBack => {
                    let options = BasicNackOptions { multiple, requeue: true };
                    let asked = channel.basic_nack(number, options);
                    within(CALL_TIMEOUT, Doing::Acknowledging, asked).await
                }
            };
            if let Err(error) = sent {
                // The channel is lost, and with it every delivery: they come again.
                tracing::debug!(%error, queue = self.source.queue, "not acknowledged");
                return;
            }
        }
    }
}
