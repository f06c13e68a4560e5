//! What the other tests stand on: a fault that the rig only seems to inject proves nothing.

use std::process::{Command, Stdio};

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Event, PublisherConfirm};

use super::broker::{Depth, PrivateBroker, shared};
use super::certificates::Certificates;
use super::proxy::{Direction, Proxy};
use crate::harness::{PATIENCE, wait_for};

/// Awaits, but not for ever.
async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let come = tokio::time::timeout(PATIENCE, event).await;
    come.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

async fn connect(url: &str) -> lapin::Result<Connection> {
    soon("a connection", Connection::connect(url, ConnectionProperties::default())).await
}

/// A channel with confirms and a durable queue of a type.
async fn declare(connection: &Connection, queue: &str, queue_type: &str) -> Channel {
    let channel = soon("a channel", connection.create_channel()).await.unwrap();
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    soon("confirms", confirms).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.into()));
    let declared = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
    soon("a queue", declared).await.unwrap();
    channel
}

/// Sends a persistent message.
async fn send(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<PublisherConfirm> {
    let (options, persistent) =
        (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
    let sent = channel.basic_publish("".into(), queue.into(), options, body, persistent);
    soon("a frame to be sent", sent).await
}

/// The same; whether it was confirmed.
async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<bool> {
    Ok(soon("a confirm", send(channel, queue, body).await?).await?.is_ack())
}

async fn take(channel: &Channel, queue: &str) -> Option<Vec<u8>> {
    let message = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
    let message = soon("an answer", message).await.unwrap();
    message.map(|message| message.delivery.data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_starts_again_with_what_it_confirmed() {
    let broker = PrivateBroker::start();
    let connection = connect(&broker.url()).await.unwrap();
    let channel = declare(&connection, "kept", "quorum").await;
    assert!(publish(&channel, "kept", b"one").await.unwrap());
    broker.sync_declared();
    broker.kill();
    assert!(publish(&channel, "kept", b"two").await.is_err());
    broker.start_again();
    let connection = connect(&broker.url()).await.unwrap();
    let channel = declare(&connection, "kept", "quorum").await;
    assert_eq!(take(&channel, "kept").await.as_deref(), Some(&b"one"[..]));
    assert_eq!(take(&channel, "kept").await, None);
    broker.stop();
    assert!(connect(&broker.url()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_or_full_broker_confirms_nothing_until_that_ends() {
    let broker = PrivateBroker::start();
    let connection = connect(&broker.url()).await.unwrap();
    let mut events = connection.events_listener();
    let channel = declare(&connection, "later", "classic").await;
    broker.pause();
    let mut confirm = send(&channel, "later", b"one").await.unwrap();
    assert!((&mut confirm).now_or_never().is_none());
    broker.resume();
    assert!(soon("a confirm", confirm).await.unwrap().is_ack());
    for alarm in [PrivateBroker::memory_alarm, PrivateBroker::disk_alarm] {
        alarm(&broker, true);
        let confirm = send(&channel, "later", b"one").await.unwrap();
        let blocked =
            async { while !matches!(events.next().await, Some(Event::ConnectionBlocked(_))) {} };
        soon("the broker to block", blocked).await;
        alarm(&broker, false);
        assert!(soon("a confirm", confirm).await.unwrap().is_ack());
    }
    // Its password is changed here, where no other test connects.
    broker.change_password("guest", "other");
    assert!(connect(&broker.url()).await.is_err());
    assert_eq!(broker.connections(), 1);
    broker.close_connections();
    wait_for("the connection to be closed", || (broker.connections() == 0).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_seen_as_it_is() {
    let url = shared().vhost("seen");
    let connection = connect(&url).await.unwrap();
    for queue_type in ["classic", "quorum"] {
        let channel = declare(&connection, queue_type, queue_type).await;
        for body in [b"one", b"two", b"six"] {
            assert!(publish(&channel, queue_type, body).await.unwrap());
        }
        let manual = BasicGetOptions::default();
        let message = channel.basic_get(queue_type.into(), manual);
        assert!(soon("a message", message).await.unwrap().is_some());
        let depth = shared().depth("seen", queue_type);
        assert_eq!(depth, Depth { ready: 2, unacknowledged: 1 }, "{queue_type}");
        let arguments = shared().queue_arguments("seen", queue_type);
        assert_eq!(arguments, format!("[{{<<\"x-queue-type\">>,longstr,<<\"{queue_type}\">>}}]"));
    }
    assert_eq!(shared().queues("seen"), ["classic", "quorum"]);
    shared().delete_queue("seen", "classic");
    assert_eq!(shared().queues("seen"), ["quorum"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clients_that_trust_and_are_trusted_get_in() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::in_dir(dir.path());
    let broker = PrivateBroker::with_tls(&certificates, true);
    let read = |path| std::fs::read(path).unwrap();
    let identity = OwnedIdentity::PKCS8 {
        pem: read(&certificates.client),
        key: read(&certificates.client_key),
    };
    for (ca, identity, is_welcome) in [
        (&certificates.ca, Some(identity.clone()), true),
        (&certificates.ca, None, false),
        (&certificates.other_ca, Some(identity), false),
    ] {
        let cert_chain = Some(String::from_utf8(read(ca)).unwrap());
        let tls = OwnedTLSConfig { identity, cert_chain };
        let runtime = lapin::runtime::default_runtime().unwrap();
        let (url, options) = (broker.tls_url(), ConnectionProperties::default());
        let connected = Connection::connect_with_config(&url, options, tls, runtime);
        let connected = soon("a connection", connected).await;
        assert_eq!(connected.is_ok(), is_welcome, "{ca:?} {connected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_cuts_refuses_and_heals() {
    let proxy = Proxy::to(shared().port());
    let url = proxy.url(&shared().vhost("proxy-cuts"));
    let connection = connect(&url).await.unwrap();
    let channel = declare(&connection, "queue", "classic").await;
    proxy.delay(1);
    assert!(publish(&channel, "queue", b"one").await.unwrap());
    proxy.cut();
    assert!(publish(&channel, "queue", b"two").await.is_err());
    proxy.refuse();
    assert!(connect(&url).await.is_err());
    proxy.heal();
    let connection = connect(&url).await.unwrap();
    let channel = declare(&connection, "queue", "classic").await;
    assert_eq!((proxy.connections(), proxy.open()), (2, 1));
    // The frame of the method and half of the header's: the message never came.
    let before = proxy.bytes(Direction::ToBroker);
    proxy.cut_after(Direction::ToBroker, 30);
    assert!(publish(&channel, "queue", b"two").await.is_err());
    wait_for("the cut", || (!proxy.awaits_cut(Direction::ToBroker)).then_some(()));
    assert_eq!(proxy.bytes(Direction::ToBroker), before + 30);
    assert_eq!(shared().depth("proxy-cuts", "queue").ready, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_holds_and_swallows_without_closing() {
    let proxy = Proxy::to(shared().port());
    let url = proxy.url(&shared().vhost("proxy-holds"));
    let connection = connect(&url).await.unwrap();
    let channel = declare(&connection, "queue", "classic").await;
    let consumer = channel.basic_consume(
        "queue".into(),
        "tag".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = soon("a consumer", consumer).await.unwrap();
    proxy.hold(Direction::ToClient);
    let mut confirm = send(&channel, "queue", b"one").await.unwrap();
    // The broker has it, and the confirm and the delivery are on their way.
    wait_for("the message to be delivered to the proxy", || {
        (shared().depth("proxy-holds", "queue").unacknowledged == 1).then_some(())
    });
    assert!((&mut confirm).now_or_never().is_none());
    proxy.heal();
    assert!(soon("a confirm", confirm).await.unwrap().is_ack());
    assert_eq!(soon("a delivery", consumer.next()).await.unwrap().unwrap().data, b"one");
    proxy.swallow(Direction::ToBroker);
    let before = proxy.bytes(Direction::ToBroker);
    assert!(connection.create_channel().now_or_never().is_none());
    assert_eq!((proxy.bytes(Direction::ToBroker), proxy.open()), (before, 1));
}

/// Started by the test below, as a process of its own; alone it does nothing.
#[test]
fn a_process_that_is_killed() {
    if std::env::var_os("RABBITMQ_RIG_WAITS").is_some() {
        println!("broker {} in {:?}", shared().pid(), shared().directory());
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn no_broker_outlives_a_killed_test_process() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "rabbitmq::rig::a_process_that_is_killed", "--nocapture"]);
    command.env("RABBITMQ_RIG_WAITS", "1").stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line = lines.find_map(|line| line.unwrap().strip_prefix("broker ").map(str::to_owned));
    let line = line.unwrap();
    let (pid, directory) = line.split_once(" in ").unwrap();
    let gone = [format!("/proc/{pid}"), directory.trim_matches('"').to_owned()];
    assert!(gone.iter().all(|path| std::path::Path::new(path).exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the end of the broker and its files", || {
        (!gone.iter().any(|path| std::path::Path::new(path).exists())).then_some(())
    });
}
