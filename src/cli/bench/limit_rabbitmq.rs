//! `bench limit` on RabbitMQ: one process that publishes into as many queues as there are shards
//! and takes everything out again. It promises what the backend has to: persistent, confirmed, and
//! acknowledged by hand.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, PublisherConfirm};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::latency::{Percentiles, Times};
use super::marks::ENTRY_BYTES_MIN;
use super::meter::per_million;
use super::run::{client_cpu, rate};
use crate::broker::rabbitmq::address::{Address, Open};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::service::Lifecycle;

/// The shards as they are by default.
const QUEUES: usize = 5;
/// Frames of a queue that are sent and not yet confirmed, and delivered and not yet acknowledged.
const WINDOW: u16 = 1_000;
/// One acknowledgement for so many deliveries.
const DELIVERIES_PER_ACK: usize = 100;
/// A broker that is silent for longer than this, after the time measured, has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Queues that could not be deleted go by themselves.
const EXPIRES_MS: i32 = 120_000;
/// Where one frame at a time is published.
const LATENCY_BYTES: usize = 512;
const PERSISTENT: u8 = 2;
/// What is measured: the type of the queues and about how many bytes are packed into a frame, none
/// where each message is a frame of its own.
const LOADS: [(&str, usize); 4] =
    [("classic", 0), ("quorum", 0), ("quorum", 16 << 10), ("quorum", 64 << 10)];

/// The keys of the JSON.
#[derive(Debug, Serialize)]
pub(super) struct RabbitmqLimits {
    loops: Vec<LoopLimit>,
    /// From a frame of 512 bytes published on a quorum queue to its confirm, one at a time.
    confirm_latency_ms: Option<Percentiles>,
}

/// Published, confirmed, delivered and acknowledged.
#[derive(Debug, Serialize)]
struct LoopLimit {
    queue_type: &'static str,
    messages_per_frame: usize,
    frames_per_second: f64,
    messages_per_second: f64,
    /// Of this process, which publishes and consumes.
    client_cpu_seconds_per_million: Option<f64>,
}

/// Measures each load, and the latency, for `duration`.
///
/// # Errors
/// RabbitMQ is not there, or did not do as it must. Its queues are deleted in any case.
pub(super) fn measure(
    address: &Address,
    duration: Duration,
    life: &Lifecycle,
) -> Result<RabbitmqLimits, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build();
    let runtime = runtime.context("starting threads").or_exit(Exit::Software)?;
    let all = async {
        let mut loops = Vec::new();
        for (queue_type, frame_bytes) in LOADS {
            let queues = Queues::named(queue_type, QUEUES);
            let measured = queues.run_loop(address, frame_bytes, duration, life).await;
            loops.push(queues.delete_after(address, measured).await?);
        }
        let queues = Queues::named("quorum", 1);
        let measured = queues.run_latency(address, duration, life).await;
        let confirm_latency_ms = queues.delete_after(address, measured).await?;
        anyhow::Ok(RabbitmqLimits { loops, confirm_latency_ms })
    };
    let measured = runtime.block_on(all).context("RabbitMQ at RABBITMQ_URL");
    measured.or_exit(Exit::Unavailable)
}

/// Queues of this process alone.
struct Queues {
    queue_type: &'static str,
    names: Vec<String>,
}

impl Queues {
    fn named(queue_type: &'static str, count: usize) -> Self {
        let process = std::process::id();
        let name = |place| format!("async-data-processor.bench.{process}.{queue_type}.{place}");
        Self { queue_type, names: (0..count).map(name).collect() }
    }

    async fn declare(&self, connection: &Connection) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(self.queue_type.into()));
        arguments.insert("x-expires".into(), AMQPValue::LongInt(EXPIRES_MS));
        for name in &self.names {
            let options = QueueDeclareOptions::durable();
            channel.queue_declare(name.as_str().into(), options, arguments.clone()).await?;
        }
        Ok(())
    }

    /// Deletes them, whatever came of the measuring.
    async fn delete_after<T>(
        &self,
        address: &Address,
        measured: anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let delete = async {
            let connection = connect(address).await?;
            let channel = connection.create_channel().await?;
            for name in &self.names {
                channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?;
            }
            lapin::Result::Ok(())
        };
        let deleted = timeout(PATIENCE, delete).await;
        let figures = measured?;
        deleted.context("deleting queues takes too long")?.context("deleting queues")?;
        Ok(figures)
    }

    async fn run_loop(
        &self,
        address: &Address,
        frame_bytes: usize,
        duration: Duration,
        life: &Lifecycle,
    ) -> anyhow::Result<LoopLimit> {
        let entry = vec![b'x'; ENTRY_BYTES_MIN];
        let line = [entry.as_slice(), b"\n"].concat();
        let messages_per_frame = (frame_bytes / line.len()).max(1);
        let body = if frame_bytes == 0 { entry } else { line.repeat(messages_per_frame) };
        let (publisher, consumer) = (connect(address).await?, connect(address).await?);
        self.declare(&publisher).await?;
        let cpu_before = client_cpu();
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for name in &self.names {
            let (channel, name) = (consumer.create_channel().await?, name.clone());
            tasks.spawn(async move { consume(&channel, &name).await.map(|()| 0) });
        }
        for name in &self.names {
            let (channel, name) = (publisher.create_channel().await?, name.clone());
            let (body, life) = (body.clone(), life.clone());
            let until = began + duration;
            tasks.spawn(async move { publish(&channel, &name, &body, until, &life).await });
        }
        let mut frames = 0;
        while let Some(ended) = timeout(duration + PATIENCE, tasks.join_next()).await? {
            frames += ended??;
        }
        let elapsed = began.elapsed();
        let messages = frames * messages_per_frame as u64;
        let cpu = client_cpu().saturating_sub(cpu_before);
        Ok(LoopLimit {
            queue_type: self.queue_type,
            messages_per_frame,
            frames_per_second: rate(frames, elapsed),
            messages_per_second: rate(messages, elapsed),
            client_cpu_seconds_per_million: per_million(cpu.as_secs_f64(), messages),
        })
    }

    async fn run_latency(
        &self,
        address: &Address,
        duration: Duration,
        life: &Lifecycle,
    ) -> anyhow::Result<Option<Percentiles>> {
        let connection = connect(address).await?;
        self.declare(&connection).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let body = [b'x'; LATENCY_BYTES];
        let mut times = Times::new();
        let began = Instant::now();
        for name in self.names.iter().cycle() {
            if began.elapsed() > duration || life.is_stopping() {
                break;
            }
            let sent_at = Instant::now();
            let sent = send(&channel, name, &body).await?;
            timeout(PATIENCE, confirmed(sent)).await??;
            times.record(sent_at.elapsed());
        }
        Ok(times.percentiles())
    }
}

async fn connect(address: &Address) -> lapin::Result<Open> {
    address.connect("async-data-processor bench limit").await
}

async fn send(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    channel.basic_publish("".into(), queue.into(), options, body, properties).await
}

async fn confirmed(sent: PublisherConfirm) -> anyhow::Result<()> {
    let confirmation = sent.await?;
    if !confirmation.is_ack() || confirmation.take_message().is_some() {
        bail!("a frame was not taken");
    }
    Ok(())
}

/// Publishes until it is time, and an empty frame as the last one; how many before that.
async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    until: Instant,
    life: &Lifecycle,
) -> anyhow::Result<u64> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut unconfirmed = VecDeque::new();
    let mut frames = 0;
    while Instant::now() < until && !life.is_stopping() {
        if unconfirmed.len() >= usize::from(WINDOW)
            && let Some(oldest) = unconfirmed.pop_front()
        {
            confirmed(oldest).await?;
        }
        unconfirmed.push_back(send(channel, queue, body).await?);
        frames += 1;
    }
    unconfirmed.push_back(send(channel, queue, b"").await?);
    for sent in unconfirmed {
        confirmed(sent).await?;
    }
    Ok(frames)
}

/// Takes and acknowledges everything up to the empty frame.
async fn consume(channel: &Channel, queue: &str) -> anyhow::Result<()> {
    channel.basic_qos(WINDOW, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let tag = "bench".into();
    let mut deliveries = channel.basic_consume(queue.into(), tag, options, arguments).await?;
    let mut unacknowledged = 0;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let is_last = delivery.data.is_empty();
        unacknowledged += 1;
        if is_last || unacknowledged == DELIVERIES_PER_ACK {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
            unacknowledged = 0;
        }
        if is_last {
            return Ok(());
        }
    }
    Err(anyhow!("the queue is gone"))
}

impl RabbitmqLimits {
    /// Prints it for people.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:<38} {:>14} {:>18}", "RabbitMQ", "messages/s", "CPU s per million")?;
        for limit in &self.loops {
            let LoopLimit { queue_type, messages_per_frame, messages_per_second, .. } = limit;
            let name = format!("{QUEUES} {queue_type} queues, {messages_per_frame} a frame");
            let cpu = limit.client_cpu_seconds_per_million;
            let cpu = cpu.map(|cpu| format!("{cpu:.4}")).unwrap_or_default();
            writeln!(out, "{name:<38} {messages_per_second:>14.0} {cpu:>18}")?;
        }
        match self.confirm_latency_ms {
            Some(Percentiles { p50, p99, .. }) => {
                writeln!(out, "confirm on quorum: p50 {p50:.3} ms, p99 {p99:.3} ms")
            }
            None => Ok(()),
        }
    }
}
