//! Measures the task pipe on a RabbitMQ against a bare loop of the same client in the same run.
//!
//! ```text
//! cargo run --release --example pipes -- amqp://guest:guest@127.0.0.1:5672/ 20000
//! ```
//!
//! The second argument is the number of messages, 1 to 512 bytes each; 1,000 of them may be on
//! their way at once. Both go through a quorum queue with one active consumer, are persistent,
//! mandatory, confirmed, and acknowledged one by one as far as the receiver is concerned. Then, in
//! both, one message at a time measures the time from sending to taking. Deletes the queues it has
//! made.
#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::time::{Duration, Instant};

use async_data_processor::broker::pipes::{ServerPipes, TaskMessage, WorkerPipes};
use async_data_processor::broker::rabbitmq::address::{Address, TlsFiles};
use async_data_processor::broker::rabbitmq::pipes::{RabbitServerPipes, RabbitWorkerPipes};
use async_data_processor::service::Lifecycle;
use async_data_processor::task::{Name, TaskId};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesOrdered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer, PublisherConfirm};

/// Messages on their way at once.
const WINDOW: u16 = 1000;
/// Groups of ours that are on their way at once.
const GROUPS: usize = 4;
const ROUNDS: usize = 3;
const LATENCIES: usize = 500;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or("usage: pipes AMQP_URL [MESSAGES]")?;
    let messages: usize = args.next().map_or(Ok(20_000), |text| text.parse())?;
    let address = Address::new(&url, &TlsFiles::default())?;
    let name: Name = format!("pipes-{}", std::process::id()).parse()?;
    let connection = address.connect("pipes, bare").await?;
    let (raw, own) = (format!("{name}.raw"), format!("{name}.tasks"));
    // What was acknowledged last may come again to the next consumer, and at once.
    let raw_one_by_one = format!("{name}.raw-one-by-one");
    let pipes = Pipes::start(&address, &name);
    let payloads: Vec<Vec<u8>> = (0..messages).map(|i| vec![b'x'; 1 + i * 7919 % 512]).collect();
    let (mut best_raw, mut best_own) = (0.0_f64, 0.0_f64);
    for round in 1..=ROUNDS {
        let bare = rate(messages, bare(&connection, &raw, &payloads).await?);
        let ours = rate(messages, pipes.throughput(&payloads).await?);
        println!("round {round}: bare loop {bare:.0}/s, task pipe {ours:.0}/s");
        best_raw = best_raw.max(bare);
        best_own = best_own.max(ours);
    }
    println!("best: bare loop {best_raw:.0}/s, task pipe {best_own:.0}/s");
    println!("ratio {:.2} (at least 0.8)", best_own / best_raw);
    tell("bare loop", bare_latencies(&connection, &raw_one_by_one).await?)?;
    tell("task pipe, at most 1.5 ms on average", pipes.latencies().await?)?;
    pipes.close().await;
    let channel = connection.create_channel().await?;
    for queue in [raw, raw_one_by_one, own] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    connection.close(200, "OK".into()).await?;
    Ok(())
}

fn tell(whose: &str, mut latencies: Vec<Duration>) -> Outcome<()> {
    latencies.sort();
    let average = latencies.iter().sum::<Duration>() / u32::try_from(latencies.len())?;
    let (min, max) = (latencies.first().ok_or("none")?, latencies.last().ok_or("none")?);
    println!("latency of the {whose}: min {min:.2?}, average {average:.2?}, max {max:.2?}");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
fn rate(messages: usize, took: Duration) -> f64 {
    messages as f64 / took.as_secs_f64()
}

/// A publisher and a consumer of a queue that is made for them.
async fn open(connection: &Connection, queue: &str) -> Outcome<(Channel, Channel, Consumer)> {
    let (publisher, consumer) =
        (connection.create_channel().await?, connection.create_channel().await?);
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let declared = QueueDeclareOptions::durable();
    publisher.queue_declare(queue.into(), declared, arguments).await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    consumer.basic_qos(WINDOW, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let none = FieldTable::default();
    let deliveries = consumer.basic_consume(queue.into(), "".into(), options, none).await?;
    Ok((publisher, consumer, deliveries))
}

async fn put(publisher: &Channel, queue: &str, payload: &[u8]) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let persistent = BasicProperties::default().with_delivery_mode(2);
    publisher.basic_publish("".into(), queue.into(), options, payload, persistent).await
}

/// What anybody would write first: a publisher with a window, and a consumer.
async fn bare(connection: &Connection, queue: &str, payloads: &[Vec<u8>]) -> Outcome<Duration> {
    let (publisher, consumer, mut deliveries) = open(connection, queue).await?;
    let began = Instant::now();
    let publish = async {
        let mut window = FuturesOrdered::new();
        for payload in payloads {
            if window.len() >= usize::from(WINDOW) {
                window.next().await.transpose()?;
            }
            window.push_back(put(&publisher, queue, payload).await?);
        }
        while window.next().await.transpose()?.is_some() {}
        Ok::<_, lapin::Error>(())
    };
    let consume = async {
        for _ in payloads {
            let Some(delivery) = deliveries.next().await.transpose()? else { break };
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok::<_, lapin::Error>(())
    };
    tokio::try_join!(publish, consume)?;
    let took = began.elapsed();
    publisher.close(200, "OK".into()).await?;
    consumer.close(200, "OK".into()).await?;
    Ok(took)
}

/// The same with one message at a time.
async fn bare_latencies(connection: &Connection, queue: &str) -> Outcome<Vec<Duration>> {
    let (publisher, consumer, mut deliveries) = open(connection, queue).await?;
    let mut latencies = Vec::with_capacity(LATENCIES);
    for index in 0..LATENCIES {
        let payload = vec![b'x'; 1 + index % 512];
        let began = Instant::now();
        let confirmed = async { put(&publisher, queue, &payload).await?.await };
        let taken = async {
            let delivery = deliveries.next().await;
            (began.elapsed(), delivery)
        };
        let (confirmed, (latency, delivery)) = tokio::join!(confirmed, taken);
        confirmed?;
        delivery.transpose()?.ok_or("the queue is gone")?.ack(BasicAckOptions::default()).await?;
        latencies.push(latency);
    }
    publisher.close(200, "OK".into()).await?;
    consumer.close(200, "OK".into()).await?;
    Ok(latencies)
}

/// Both ends of our pipe.
struct Pipes {
    name: Name,
    server: RabbitServerPipes,
    worker: RabbitWorkerPipes,
}

impl Pipes {
    fn start(address: &Address, name: &Name) -> Self {
        let life = Lifecycle::new();
        let endpoint = Some(name.clone());
        let worker = RabbitWorkerPipes::with_window(address, endpoint, Some(WINDOW), &life);
        Self { name: name.clone(), server: RabbitServerPipes::start(address, &[], &life), worker }
    }

    fn task(&self, payload: &[u8]) -> TaskMessage {
        TaskMessage {
            id: TaskId::new(),
            attempt: 1,
            kind: self.name.clone(),
            endpoint: Some(self.name.clone()),
            expires_at_ms: None,
            payload: payload.to_vec(),
        }
    }

    async fn throughput(&self, payloads: &[Vec<u8>]) -> Outcome<Duration> {
        let began = Instant::now();
        let groups = std::sync::Mutex::new(payloads.chunks(usize::from(WINDOW) / GROUPS));
        let next = || groups.lock().map_or(None, |mut groups| groups.next());
        let lane = async || {
            while let Some(group) = next() {
                let tasks = group.iter().map(|payload| self.task(payload)).collect();
                self.server.send(tasks).await.into_iter().collect::<Result<Vec<()>, _>>()?;
            }
            Ok::<_, Box<dyn Error>>(())
        };
        let send = async {
            join_all((0..GROUPS).map(|_| lane())).await.into_iter().collect::<Outcome<Vec<()>>>()
        };
        let take = async {
            let mut left = payloads.len();
            while left > 0 {
                let taken = self.worker.take(usize::from(WINDOW)).await?;
                left = left.saturating_sub(taken.len());
                self.worker.acknowledge(taken.iter().map(|taken| taken.tag).collect()).await;
            }
            Ok(())
        };
        tokio::try_join!(send, take)?;
        Ok(began.elapsed())
    }

    async fn latencies(&self) -> Outcome<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(LATENCIES);
        for index in 0..LATENCIES {
            let task = self.task(&vec![b'x'; 1 + index % 512]);
            let began = Instant::now();
            let take = async {
                let taken = self.worker.take(1).await;
                (began.elapsed(), taken)
            };
            let (sent, (latency, taken)) = tokio::join!(self.server.send(vec![task]), take);
            sent.into_iter().collect::<Result<Vec<()>, _>>()?;
            self.worker.acknowledge(taken?.iter().map(|taken| taken.tag).collect()).await;
            latencies.push(latency);
        }
        Ok(latencies)
    }

    async fn close(&self) {
        tokio::join!(self.server.close(), self.worker.close());
    }
}
