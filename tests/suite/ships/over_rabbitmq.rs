//! Telemetry that comes through queues: into Redis, and what is none.

use std::time::Duration;

use async_data_processor::broker::rabbitmq::topology::Format;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use tokio::runtime::Runtime;

use super::redis::{datagrams, wait_pushed};
use super::redis_server::PrivateRedis;
use super::{Fleet, line, lines, now, ship_lines};
use crate::harness::{Rig, wait_for};
use crate::rabbitmq::broker::shared;
use crate::rabbitmq::wait::{rig_over, wait_in_files};

#[test]
fn what_came_through_queues_is_in_lists_once() {
    let (vhost, redis) = ("ships-redis", PrivateRedis::start());
    let url = shared().vhost(vhost);
    let mut rig = rig_over(&url);
    rig.set("REDIS_URL", redis.url());
    let fleet = Fleet::over(&rig, &url, Format::Packed);
    let (from, all) = (now(), lines("TARDIS", now(), 4_000));
    for (turn, some) in all.chunks(1_000).enumerate() {
        let consumer = rig.start(&["message-consumer"]);
        fleet.publish("TARDIS", some);
        wait_pushed(&redis, "TARDIS", 1_000 * turn as u64 + 1);
        consumer.kill();
    }
    let consumer = rig.start(&["message-consumer"]);
    wait_pushed(&redis, "TARDIS", 4_000);
    wait_in_files(shared(), vhost, &rig);
    assert_eq!((redis.list("TARDIS").len(), redis.count("TARDIS")), (4_000, 4_000));
    assert_eq!(redis.list("TARDIS")[0], datagrams(from, 1)[0]);
    consumer.stop();
}

/// Publishes what another program might put into a queue of telemetry.
fn publish_as_another(url: &str, queue: &str, bodies: &[&[u8]]) {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let connected = Connection::connect(url, ConnectionProperties::default());
        let connection = connected.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        for body in bodies {
            // A queue that was just made takes nothing yet.
            loop {
                let persistent = BasicProperties::default().with_delivery_mode(2);
                let sent =
                    channel.basic_publish("".into(), queue.into(), options, body, persistent);
                if sent.await.unwrap().await.unwrap() == Confirmation::Ack(None) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
}

fn said(rig: &Rig, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = rig.run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_is_no_telemetry_is_a_dead_letter_and_counts_for_no_ship() {
    let vhost = "ships-wrong";
    let url = shared().vhost(vhost);
    let rig = rig_over(&url);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::over(&rig, &url, Format::Packed);
    fleet.publish("TARDIS", &[line("TARDIS", now(), 5, 0)]);
    let good = line("TARDIS", now(), 6, 1);
    let no_ship = br#"{"timestamp":"2026-11-22T07:30:00Z","value":5}"#;
    let bodies: [&[u8]; 4] = [b"not JSON", good.as_bytes(), no_ship, b"\xff\n\0"];
    publish_as_another(&url, "async-data-processor.telemetry.2", &bodies);
    wait_for("all to be taken", || (rig.verify(&[])["accepted"] == 5).then_some(()));
    let account = rig.wait_drained();
    consumer.stop();
    assert_eq!((&account["dead"], &account["in_files"]), (&3.into(), &2.into()), "{account}");
    assert!(ship_lines(&rig).contains(&good));
    assert_eq!(said(&rig, &["ship-data"]).1, "TARDIS: 2\n");
    let (_, listed, _) = said(&rig, &["dead", "list"]);
    assert!(listed.contains("t2") && listed.contains("timestamp"), "{listed}");
    let (_, listed, _) = said(&rig, &["dead", "list", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let number = listed[0]["number"].to_string();
    let (_, shown, _) = said(&rig, &["dead", "show", &number]);
    assert!(shown.contains("not JSON") || shown.contains("07:30:00Z"), "{shown}");
    let (code, _, told) = said(&rig, &["dead", "resend", "--all"]);
    assert_eq!(code, Some(65), "{told}");
    assert_eq!(rig.verify(&[])["accepted"], 5);
}
