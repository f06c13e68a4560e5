//! Queues that are deleted under us, or are not ours; a broker that does not want us.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use super::broker::{PrivateBroker, shared};
use super::faults_pair::{Load, Pair, SHARDS, queue, wait_taken};
use crate::harness::Process;
use crate::survive_signals::Ledger;

/// What of these queues is deleted.
fn delete(vhost: &str, queues: &[String]) {
    queues.iter().for_each(|queue| shared().delete_queue(vhost, queue));
}

#[test]
fn deleted_queues_come_back_and_lose_nothing_that_is_published_then() {
    let vhost = "deleted";
    let pair = Pair::start(&shared().vhost(vhost));
    let mut ledger = Ledger::default();
    pair.probe(&mut ledger);
    let all = shared().queues(vhost);
    // Of both topics: the shards and what was given up; and the pin.
    assert_eq!(all.len(), 2 * (usize::from(SHARDS) + 1) + 1);
    for gone in [&[queue(1)][..], &all] {
        // While nothing happens: nothing is in them.
        wait_taken(shared(), vhost);
        delete(vhost, gone);
        println!("idle, {} gone: {:?}", gone.len(), pair.probe(&mut ledger));
        assert_eq!(shared().queues(vhost), all);
        let load = Load::start(pair.address);
        load.wait_accepted(60);
        delete(vhost, gone);
        // What is sent from now on must arrive; what was sent before may have been deleted.
        let later = Load::start(pair.address);
        println!("under load, {} gone: {:?}", gone.len(), pair.probe(&mut ledger));
        later.wait_accepted(60);
        ledger.add(load.stop().doubted());
        ledger.add(later.stop());
        assert_eq!(shared().queues(vhost), all);
    }
    pair.finish(shared(), vhost, &ledger);
}

/// Waits until a process has ended for what a person must change; its log.
fn ended_for_settings(mut process: Process, reason: &str) -> String {
    assert_eq!(process.wait().code(), Some(78), "{}", process.log());
    let log = process.log();
    assert!(log.contains(reason), "{reason}: {log}");
    assert!(!log.contains("s3cret"), "{log}");
    log
}

/// Starts both, which must end with the reason.
fn both_end(pair: &mut Pair, reason: &str) {
    pair.start_server();
    pair.start_consumer();
    ended_for_settings(pair.take_server(), reason);
    ended_for_settings(pair.take_consumer(), reason);
}

#[test]
fn another_number_of_shards_or_another_queue_is_refused() {
    let vhost = "not-ours";
    let url = shared().vhost(vhost);
    let pair = Pair::start(&url);
    let mut ledger = Ledger::default();
    pair.probe(&mut ledger);
    let mut others = Pair::new(&url);
    others.rig.set("SHARDS_COUNT", 5);
    let text = "the broker's queues are for 3 shards, and SHARDS_COUNT is 5: set SHARDS_COUNT=3";
    both_end(&mut others, text);
    pair.finish(shared(), vhost, &ledger);
    shared().delete_queue(vhost, &queue(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (options, none) = (QueueDeclareOptions::durable(), FieldTable::default());
        channel.queue_declare(queue(0).into(), options, none).await.unwrap();
    });
    let text = "the queue async-data-processor.messages.0 is there with other properties";
    both_end(&mut Pair::new(&url), text);
}

#[test]
fn a_wrong_password_or_virtual_host_ends_with_the_reason() {
    let url = shared().vhost("wrong-login");
    let text = "check user and password in RABBITMQ_URL";
    both_end(&mut Pair::new(&url.replace(":guest@", ":s3cret@")), text);
    let text = "check the virtual host in RABBITMQ_URL";
    both_end(&mut Pair::new(&url.replace("wrong-login", "nowhere")), text);
}

#[test]
fn a_revoked_password_ends_both_and_loses_nothing() {
    let (broker, vhost) = (PrivateBroker::start(), "revoked");
    let mut pair = Pair::start(&broker.vhost(vhost));
    let load = Load::start(pair.address);
    load.wait_accepted(100);
    broker.change_password("guest", "s3cret");
    broker.close_connections();
    for process in [pair.take_server(), pair.take_consumer()] {
        ended_for_settings(process, "check user and password in RABBITMQ_URL");
    }
    broker.change_password("guest", "guest");
    pair.start_server();
    pair.start_consumer();
    let mut ledger = Ledger::default();
    println!("with the password again: {:?}", pair.probe(&mut ledger));
    load.wait_accepted(30);
    ledger.add(load.stop());
    pair.finish(&broker, vhost, &ledger);
}
