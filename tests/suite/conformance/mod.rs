//! What the product promises, held to every way that messages can take: one suite, a run for each.
//!
//! Where one of them promises less, [`PROMISES`] says so, and the README says the same.

mod consuming;
mod keys;
mod publishing;
mod telemetry;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::harness::{Answer, Rig, entry, request};
use crate::rabbitmq::broker::shared;
use crate::rabbitmq::wait::wait_taken;
use crate::readme::rows;

/// The way that messages take from the server to the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Embedded,
    RabbitMq,
    Interop,
}

/// A promise, and how far each backend keeps it.
struct Promise {
    text: &'static str,
    embedded: &'static str,
    rabbitmq: &'static str,
    interop: &'static str,
}

/// All of it.
const YES: &str = "yes";

/// Makes the table of promises, and a test of each promise for each backend.
macro_rules! promises {
    ($(
        $text:literal, $embedded:expr, $rabbitmq:expr, $interop:expr => $room:ident::$test:ident;
    )+) => {
        const PROMISES: &[Promise] = &[$(Promise {
            text: $text,
            embedded: $embedded,
            rabbitmq: $rabbitmq,
            interop: $interop,
        }),+];
        promises!(@module embedded Embedded $($room $test)+);
        promises!(@module rabbitmq RabbitMq $($room $test)+);
        promises!(@module interop Interop $($room $test)+);
    };
    (@module $module:ident $backend:ident $($room:ident $test:ident)+) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$room::$test(super::Backend::$backend);
            })+
        }
    };
}

promises! {
    "a request with a wrong entry leaves nothing behind", YES, YES, YES
        => publishing::a_request_with_a_wrong_entry_leaves_nothing_behind;
    "a request that was cut off is stored whole or not at all", YES,
        "whole once it is repeated with its key; before, perhaps a part", "as packed"
        => publishing::a_request_that_was_cut_off_is_whole_once_repeated;
    "what was answered 201 survives `kill -9` of everything, the broker included", YES, YES, YES
        => publishing::what_was_answered_survives_killing_everything;
    "the 201 says which offsets the messages got", YES, "no receipt", "no receipt"
        => publishing::the_answer_says_which_offsets_where_they_are_known;
    "an empty request is a 201", YES, YES, YES => publishing::an_empty_request_is_a_201;
    "10,000 entries are one request", YES, YES, YES
        => publishing::ten_thousand_entries_are_one_request;
    "the longest entry arrives as it was sent", YES, YES, YES
        => publishing::the_longest_entry_arrives_as_it_was_sent;
    "a timestamp before 1970 has a shard", YES, YES, YES
        => publishing::a_timestamp_before_1970_has_a_shard;
    "many requests at once are stored once each", YES, YES, YES
        => publishing::many_requests_at_once_are_stored_once_each;
    "a key that is repeated is stored once, also by two servers and after a restart", YES, YES, YES
        => keys::a_key_that_is_repeated_is_stored_once;
    "a repeated key is a replay on every server", YES, "on those of its state directory",
        "as packed" => keys::a_repeated_key_is_a_replay;
    "a key with another body is a 422 on every server", YES,
        "on those of its state directory; another stores it too", "as packed"
        => keys::a_key_with_another_body_is_a_422;
    "a key in flight is a 409", YES, "by the server that works on it", "as packed"
        => keys::a_key_in_flight_is_a_409;
    "the order of a publisher that waits for each answer is kept within a shard", YES, YES, YES
        => consuming::the_order_of_a_publisher_is_kept_within_a_shard;
    "a shard has one consumer, and a successor when that dies", YES,
        "also on another host, which may write again what the dead one had not acknowledged yet",
        "as packed" => consuming::a_shard_has_one_consumer_and_a_successor;
    "a batch that was begun and not finished is done once", YES, YES, YES
        => consuming::a_batch_that_was_not_finished_is_done_once;
    "`SHARDS_COUNT` may change", YES, "not while the queues are there: refused (78)",
        "it may grow; what is in the queues of a larger number waits for that"
        => consuming::the_number_of_shards_may_change;
    "telemetry is stored once, in the order of its ship", YES, YES, YES
        => telemetry::telemetry_is_stored_once_and_in_the_order_of_its_ship;
    "a unit of telemetry that is repeated with its key is stored once", YES, YES, YES
        => telemetry::a_repeated_unit_of_telemetry_is_stored_once;
    "a killed consumer loses and doubles no telemetry", YES, YES, YES
        => telemetry::a_killed_consumer_loses_and_doubles_no_telemetry;
}

#[test]
fn the_readme_says_what_is_weaker_where() {
    let cells = |promise: &Promise| {
        let Promise { text, embedded, rabbitmq, interop } = promise;
        [*text, embedded, rabbitmq, interop].map(str::to_owned).to_vec()
    };
    let is_weaker = |row: &Vec<String>| row[1..].iter().any(|cell| cell != YES);
    let expected: Vec<_> = PROMISES.iter().map(cells).filter(is_weaker).collect();
    let shown = expected.iter().map(|row| format!("| {} |\n", row.join(" | ")));
    let shown: String = shown.collect();
    assert!(rows("### What is weaker where") == expected, "the table must be:\n\n{shown}");
}

/// One host: its directories, and the settings that lead its processes to the broker, if any.
struct Host {
    rig: Rig,
    /// The virtual host, where there is one.
    vhost: Option<String>,
}

impl Backend {
    fn host(self) -> Host {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut host = Host { rig: Rig::new(), vhost: None };
        host.rig.set("BATCH_MIN", 1).set("FILES_PER_SECOND", 0);
        host.rig.set("WORKERS_COUNT", 1).set("WORKERS_MAX", 1);
        if self != Self::Embedded {
            let name = format!("conformance-{}", COUNT.fetch_add(1, Ordering::Relaxed));
            host.rig.set("RABBITMQ_URL", shared().vhost(&name));
            host.rig.set("RABBITMQ_INTEROP", self == Self::Interop);
            host.vhost = Some(name);
        }
        host
    }

    /// Another host that uses the same broker.
    fn host_beside(self, host: &Host) -> Host {
        let mut other = self.host();
        let name = host.vhost.clone().unwrap();
        other.rig.set("RABBITMQ_URL", shared().vhost(&name));
        other.vhost = Some(name);
        other
    }
}

impl Host {
    /// Waits until nothing is left in the broker, unacknowledged deliveries included.
    fn wait_taken(&self) {
        let Some(vhost) = &self.vhost else { return };
        wait_taken(shared(), vhost);
    }

    /// Waits until all that was answered is in files, where nothing else may be missing or doubled
    /// according to `verify`; the lines, sorted.
    fn wait_drained(&self) -> Vec<String> {
        self.wait_taken();
        self.rig.wait_drained();
        let mut lines = self.rig.lines();
        lines.sort();
        lines
    }
}

/// `count` entries of different seconds, and so in all shards.
fn entries(count: u32, value: &str) -> Vec<String> {
    (0..count).map(|n| entry(n, &format!("{value}-{n}"))).collect()
}

fn array(entries: &[String]) -> Vec<u8> {
    format!("[{}]", entries.join(",")).into_bytes()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Posts entries, which must be accepted.
fn publish(address: SocketAddr, entries: &[String]) {
    accepted(&request(address, "POST", "/message", &[], &array(entries)), entries.len());
}

/// Posts entries with a key; the answer, whatever it is.
fn publish_with(address: SocketAddr, key: &str, entries: &[String]) -> Answer {
    request(address, "POST", "/message", &[("Idempotency-Key", key)], &array(entries))
}

fn accepted(answer: &Answer, count: usize) {
    assert_eq!((answer.status, &answer.json()["accepted"]), (201, &Value::from(count)));
}

fn is_replayed(answer: &Answer) -> bool {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("idempotency-replayed") == Some("true")
}
