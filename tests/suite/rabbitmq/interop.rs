//! Other programs that share plain queues: one persistent JSON object per message, in durable
//! classic queues `task_queue_<shard>`, on the default exchange, without ids and without confirms.

use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::broker::shared;
use super::wait::{rig_over, wait_in_files, wait_taken};
use crate::harness::{Rig, entry, post, wait_for};

const SHARDS: u32 = 5;

/// Another program, server and consumer in one.
struct Other {
    runtime: Runtime,
    channel: Channel,
    _connection: Connection,
}

/// An entry as it reads it.
#[derive(Debug, Deserialize)]
struct Entry {
    timestamp: String,
    value: Option<String>,
}

impl Other {
    fn connect(url: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let connected = Connection::connect(url, ConnectionProperties::default());
        let connection = runtime.block_on(connected).unwrap();
        let channel = runtime.block_on(connection.create_channel()).unwrap();
        Self { runtime, channel, _connection: connection }
    }

    fn declare(&self) -> &Self {
        for shard in 0..SHARDS {
            let (queue, durable) = (format!("task_queue_{shard}"), QueueDeclareOptions::durable());
            let asked = self.channel.queue_declare(queue.into(), durable, FieldTable::default());
            self.runtime.block_on(asked).unwrap();
        }
        self
    }

    fn publish(&self, shard: u32, body: &[u8]) {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        let (queue, options) = (format!("task_queue_{shard}"), BasicPublishOptions::default());
        let sent = self.channel.basic_publish("".into(), queue.into(), options, body, properties);
        self.runtime.block_on(async { sent.await.unwrap().await.unwrap() });
    }

    /// Takes what is in a queue.
    fn take(&self, shard: u32) -> Vec<Vec<u8>> {
        let get = || {
            let (queue, options) =
                (format!("task_queue_{shard}"), BasicGetOptions { no_ack: true });
            self.runtime.block_on(self.channel.basic_get(queue.into(), options)).unwrap()
        };
        std::iter::from_fn(get).map(|message| message.delivery.data).collect()
    }
}

fn rig(url: &str) -> Rig {
    let mut rig = rig_over(url);
    rig.set("RABBITMQ_INTEROP", true);
    rig
}

/// Entries that belong into a shard.
fn entries(shard: u32, count: u32) -> Vec<String> {
    (0..count).map(|n| entry(SHARDS * n + shard, &format!("{shard}-{n}"))).collect()
}

#[test]
fn what_another_server_publishes_lands_in_files_whoever_declares_first() {
    for (vhost, ours_first) in [("interop-in-1", true), ("interop-in-2", false)] {
        let url = shared().vhost(vhost);
        let (rig, other) = (rig(&url), Other::connect(&url));
        let start = || {
            let consumer = rig.start(&["message-consumer"]);
            consumer.wait_log("\"connected to the broker\"");
            consumer
        };
        let early = ours_first.then(start);
        other.declare();
        for shard in 0..SHARDS {
            entries(shard, 40).iter().for_each(|entry| other.publish(shard, entry.as_bytes()));
        }
        let consumer = early.unwrap_or_else(start);
        let mut lines = wait_in_files(shared(), vhost, &rig);
        let mut expected: Vec<_> = (0..SHARDS).flat_map(|shard| entries(shard, 40)).collect();
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);
        consumer.stop();
    }
}

#[test]
fn another_consumer_reads_what_our_server_publishes_whoever_declares_first() {
    for (vhost, ours_first) in [("interop-out-1", true), ("interop-out-2", false)] {
        let url = shared().vhost(vhost);
        let (rig, other) = (rig(&url), Other::connect(&url));
        if !ours_first {
            other.declare();
        }
        let server = rig.serve(&["server"]);
        server.wait_log("\"connected to the broker\"");
        if ours_first {
            other.declare();
        }
        let sent: Vec<_> = (0..SHARDS).flat_map(|shard| entries(shard, 20)).collect();
        let body = format!("[{}]", sent.join(", \n"));
        assert_eq!(post(server.address(), body.as_bytes()).status, 201);
        for shard in 0..SHARDS {
            let taken = other.take(shard);
            let read = |body: &Vec<u8>| serde_json::from_slice::<Entry>(body).unwrap();
            let values: Vec<_> = taken.iter().map(|body| read(body).value.unwrap()).collect();
            let expected: Vec<_> = (0..20).map(|n| format!("{shard}-{n}")).collect();
            assert_eq!(values, expected, "in the order of the request");
            assert!(taken.iter().all(|body| read(body).timestamp.starts_with("2026-11-22T07:")));
        }
        server.stop();
    }
}

/// What is no entry, and why.
fn wrong_bodies() -> Vec<(Vec<u8>, &'static str)> {
    let start = "{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"";
    let long = format!("{start}{}\"}}", "x".repeat(48 * 1024 + 1));
    vec![
        (b"not JSON".to_vec(), "malformed JSON"),
        (b"{\"value\":\"no time\"}".to_vec(), "timestamp is missing"),
        (b"{\"timestamp\":\"\xff\"}".to_vec(), "not UTF-8"),
        (long.into_bytes(), "value"),
        (format!("{start}{}\"}}", "y".repeat(1 << 20)).into_bytes(), "bytes"),
        (format!("[{}]", entry(0, "in an array")).into_bytes(), "object"),
        (Vec::new(), "malformed JSON"),
    ]
}

/// The dead letters as `dead show` prints them.
fn dead_letters(rig: &Rig) -> (Vec<String>, Vec<Value>) {
    let listed = rig.run(&["dead", "list", "--output", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let numbers: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| row["number"].to_string()).collect();
    let words = ["dead", "show"].into_iter().chain(numbers.iter().map(String::as_str));
    let shown = rig.run(&words.collect::<Vec<_>>());
    let lines = String::from_utf8(shown.stdout).unwrap();
    (numbers, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn what_is_no_entry_is_a_dead_letter_and_its_neighbours_are_in_files_in_order() {
    let vhost = "interop-wrong";
    let url = shared().vhost(vhost);
    let (rig, other) = (rig(&url), Other::connect(&url));
    other.declare();
    let good = entries(0, 14);
    for (half, wrong) in wrong_bodies().chunks(4).enumerate() {
        for (n, (body, _)) in wrong.iter().enumerate() {
            other.publish(0, good[half * 7 + n].as_bytes());
            other.publish(0, body);
        }
        good[half * 7 + wrong.len()..half * 7 + 7]
            .iter()
            .for_each(|entry| other.publish(0, entry.as_bytes()));
        let consumer = rig.start(&["message-consumer"]);
        wait_taken(shared(), vhost);
        // Whatever of it is in files by now.
        consumer.kill();
    }
    let consumer = rig.start(&["message-consumer"]);
    let is_entry = |line: &String| !line.starts_with("{\"shard\":");
    let stored = wait_in_files(shared(), vhost, &rig).into_iter().filter(is_entry);
    assert_eq!(stored.collect::<Vec<_>>(), good);
    consumer.stop();
    let account = rig.verify(&[]);
    assert_eq!((&account["dead"], &account["in_files"]), (&7.into(), &14.into()), "{account}");
    let (numbers, letters) = dead_letters(&rig);
    assert_eq!(letters.len(), 7);
    for (letter, (body, reason)) in letters.iter().zip(wrong_bodies()) {
        let said = letter["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{said}");
        match String::from_utf8(body) {
            Ok(text) => assert!(letter["message"]["body"] == text, "{said}"),
            Err(_) => assert!(letter["message"]["body_base64"].is_string(), "{letter}"),
        }
    }
    for arguments in [vec!["dead", "resend", "--all"], vec!["dead", "resend", &numbers[0]]] {
        let output = rig.run(&arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(65), "{said}");
        assert!(said.contains("is no entry (") && said.contains("`dead show "), "{said}");
        assert_eq!(output.stdout, b"{\"files\":0,\"messages\":0}\n");
    }
    assert_eq!(rig.verify(&[])["accepted"], 21);
}

#[test]
fn a_second_consumer_of_plain_queues_stands_by_and_takes_over() {
    let vhost = "interop-second";
    let url = shared().vhost(vhost);
    let (first_host, second_host, other) = (rig(&url), rig(&url), Other::connect(&url));
    let first = first_host.start(&["message-consumer"]);
    first.wait_log("\"connected to the broker\"");
    other.declare();
    other.publish(0, entry(0, "one").as_bytes());
    assert_eq!(wait_in_files(shared(), vhost, &first_host), [entry(0, "one")]);
    let second = second_host.start(&["message-consumer"]);
    second.wait_log("another consumer has the queue: standing by for it");
    other.publish(0, entry(5, "two").as_bytes());
    wait_in_files(shared(), vhost, &first_host);
    assert!(second_host.lines().is_empty());
    first.kill();
    other.publish(0, entry(10, "three").as_bytes());
    wait_for("the second to take over", || (!second_host.lines().is_empty()).then_some(()));
    assert_eq!(wait_in_files(shared(), vhost, &second_host), [entry(10, "three")]);
    assert_eq!(first_host.lines(), [entry(0, "one"), entry(5, "two")]);
    second.stop();
}

#[test]
fn a_queue_that_another_program_keeps_to_itself_costs_the_others_nothing() {
    let url = shared().vhost("interop-kept");
    let other = Other::connect(&url);
    other.declare();
    let keeps = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let kept =
        other.channel.basic_consume("task_queue_0".into(), "".into(), keeps, FieldTable::default());
    let _kept = other.runtime.block_on(kept).unwrap();
    let rig = rig(&url);
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("another consumer has the queue");
    let mut expected = Vec::new();
    // For as long as it takes to be refused a few times more.
    for round in 0..30 {
        for shard in 1..SHARDS {
            let line = entry(SHARDS * round + shard, &format!("{shard}-{round}"));
            other.publish(shard, line.as_bytes());
            expected.push(line);
        }
        wait_for("files", || (rig.lines().len() >= expected.len()).then_some(()));
    }
    let log = consumer.stop();
    let connected = log.lines().filter(|line| line.contains("connected to the broker"));
    let connected = connected.filter(|line| line.contains("async-data-processor consumer "));
    assert_eq!(connected.count(), 1, "{log}");
    assert_eq!(log.matches("another consumer has the queue").count(), 1, "{log}");
    assert_eq!(rig.lines().len(), expected.len());
}
