//! Its streams: what is sent, how fast, how many.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::receiver::Datagram;
use super::{Receiver, Spaceship};
use crate::harness::Rig;

fn values(datagrams: &[Datagram]) -> Vec<u64> {
    datagrams.iter().map(|datagram| datagram.object["value"].as_u64().unwrap()).collect()
}

#[test]
fn what_was_sent_is_what_arrives_and_nothing_comes_after_the_stop() {
    let mut rig = Rig::new();
    let ship = Spaceship::start(&mut rig);
    for (rate, count) in [(50, 5), (1000, 2000)] {
        let receiver = Receiver::new();
        let key = ship.stream(&receiver, &json!({"rate": rate}));
        receiver.wait(count);
        let stopped = ship.delete(&key);
        let sent = stopped["sent"].as_u64().unwrap();
        let taken = receiver.wait(sent);
        assert_eq!(taken.len() as u64, sent, "datagrams came after the stop");
        let sequences = taken.iter().map(Datagram::sequence);
        assert!(sequences.eq(0..sent), "a number is missing, twice, or out of order");
        let bytes: usize = taken.iter().map(|datagram| datagram.bytes).sum();
        assert_eq!(stopped["bytes"].as_u64().unwrap(), bytes as u64);
        assert_eq!(ship.show(&key)["sent"], sent, "what is final has changed");
    }
}

#[test]
fn a_stream_as_fast_as_it_can_is_counted_and_stops_as_well() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let key = ship.stream(&receiver, &json!({"rate": 0}));
    receiver.wait(20_000);
    let stopped = ship.delete(&key);
    let sent = stopped["sent"].as_u64().unwrap();
    let taken = receiver.taken();
    // Some may be lost in a full buffer, and are not the last ones to be counted then.
    assert!(taken.iter().all(|datagram| datagram.sequence() < sent));
    let mut sequences: Vec<u64> = taken.iter().map(Datagram::sequence).collect();
    sequences.dedup();
    assert!(sequences.is_sorted() && sequences.len() == taken.len());
}

#[test]
fn a_rate_is_never_exceeded_and_a_lifetime_ends_it() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let key = ship.stream(&receiver, &json!({"rate": 500, "lifetime_seconds": 2}));
    let ended = ship.wait_ended(&key);
    assert_eq!(ended["reason"], "lifetime");
    let sent = ended["sent"].as_u64().unwrap();
    assert!(sent <= 1000, "{sent} in 2 s");
    let taken = receiver.wait(sent);
    let began: DateTime<Utc> = ended["started_at"].as_str().unwrap().parse().unwrap();
    for datagram in &taken {
        let at: DateTime<Utc> = datagram.object["timestamp"].as_str().unwrap().parse().unwrap();
        let elapsed = (at - began).num_microseconds().unwrap() as f64 / 1e6;
        // A tick of 10 ms is sent at its beginning, and the two clocks are not read at once.
        let due = 500.0 * (elapsed + 0.010) + 2.0;
        let sequence = datagram.sequence();
        assert!(sequence as f64 + 1.0 <= due, "{sequence} after {elapsed} s");
    }
    assert_eq!(ship.active(), 0);
    // Its count is fetched once, and seen for a while.
    assert_eq!(ship.delete(&key)["sent"], sent);
    assert_eq!(ship.ask(&format!("DELETE /stream/{key}"), &Value::Null).status, 404);
    assert_eq!(ship.show(&key)["reason"], "lifetime");
}

#[test]
fn ships_of_one_process_do_not_mix_and_a_seed_says_what_they_send() {
    let mut rig = Rig::new();
    let ship = Spaceship::start(&mut rig);
    let ships = [("TARDIS", 7), ("Planet Express", 7), ("USS Enterprise", 8)];
    let streams = ships.map(|(name, seed)| {
        let receiver = Receiver::new();
        let members = json!({"ship_name": name, "seed": seed, "rate": 1000});
        let key = ship.stream(&receiver, &members);
        (receiver, key)
    });
    let [one, same, other] = streams.map(|(receiver, key)| {
        let taken = receiver.wait(100);
        let source = ship.show(&key)["source"].as_str().unwrap().to_owned();
        assert!(taken.iter().all(|datagram| datagram.from.to_string() == source));
        values(&taken[..100])
    });
    assert_eq!(one, same);
    assert_ne!(one, other);
}

#[test]
fn no_more_streams_begin_than_may_be_active() {
    let mut rig = Rig::new();
    let (ship, receiver) = (Spaceship::start(&mut rig), Receiver::new());
    let begin = || ship.stream(&receiver, &json!({"rate": 1}));
    let keys: Vec<String> = (0..100).map(|_| begin()).collect();
    assert_eq!(ship.active(), 100);
    let body = json!({"host": "127.0.0.1", "port": receiver.port()});
    let answer = ship.ask("POST /stream/", &body);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("5")), "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("100 streams are active"));
    receiver.wait(100);
    ship.delete(&keys[50]);
    begin();
    let metrics = ship.ask("GET /metrics", &Value::Null);
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("\nasync_data_processor_streams 100\n"), "{text}");
    for name in ["stream_datagrams_total", "stream_sent_bytes_total", "stream_refusals_total"] {
        assert!(text.contains(&format!("\nasync_data_processor_{name} ")), "{text}");
    }
    let log = ship.process.stop();
    assert_eq!(log.matches("a stream has ended").count(), 101, "a stream was left");
}
