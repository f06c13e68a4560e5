//! Several consumers of which one dies; a consumer without room.

use std::collections::HashSet;
use std::time::Instant;

use super::broker::shared;
use super::faults_pair::{
    Load, Pair, each_shard, post_until_stored, wait_in_files, wait_log_times, wait_taken,
};
use super::proxy::{Direction, Proxy};
use crate::harness::wait_for;
use crate::survive_signals::Ledger;
use crate::survive_space::SmallDisk;

#[test]
fn on_one_host_another_consumer_takes_over_and_doubles_nothing() {
    let vhost = "one-host";
    let mut pair = Pair::start(&shared().vhost(vhost));
    pair.consumer().wait_log("took over shards");
    let load = Load::start(pair.address);
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        let active = pair.take_consumer();
        pair.start_consumer();
        pair.consumer().wait_log("standing by");
        load.wait_accepted(60);
        let since = Instant::now();
        active.kill();
        pair.consumer().wait_log("took over shards");
        let taken_over = since.elapsed();
        pair.probe(&mut ledger);
        println!(
            "one host: took over {taken_over:?}, in files {:?} after the kill",
            since.elapsed()
        );
    }
    ledger.add(load.stop());
    pair.finish(shared(), vhost, &ledger);
}

/// The lines that are in files of both.
fn in_both(one: &Pair, other: &Pair) -> HashSet<String> {
    let lines: HashSet<_> = one.rig.lines().into_iter().collect();
    other.rig.lines().into_iter().filter(|line| lines.contains(line)).collect()
}

#[test]
fn on_another_host_a_consumer_takes_over_and_doubles_only_what_was_not_acknowledged() {
    let vhost = "taken-over";
    let url = shared().vhost(vhost);
    let proxy = Proxy::to(shared().port());
    let (mut first, mut second) = (Pair::start(&url), Pair::new(&url));
    first.consumer().wait_log("took over shards");
    let mut ledger = Ledger::default();
    first.probe(&mut ledger);
    second.consumer_url = proxy.url(&url);
    second.start_consumer();
    second.consumer().wait_log("connected to the broker");
    let load = Load::start(first.address);
    load.wait_accepted(100);
    assert!(second.rig.lines().is_empty());
    let since = Instant::now();
    first.take_consumer().kill();
    wait_for("the other to have files", || (!second.rig.lines().is_empty()).then_some(()));
    println!("two hosts: in files of the other {:?} after the kill", since.elapsed());
    load.wait_accepted(60);
    // What it had taken and not written, it writes when it comes back, and stands by.
    first.start_consumer();
    first.consumer().wait_log("connected to the broker");
    ledger.add(load.stop());
    wait_taken(shared(), vhost);
    first.rig.wait_drained();
    second.rig.wait_drained();
    let mut doubled = in_both(&first, &second);
    println!("two hosts: {} entries are in files of both after the kill", doubled.len());
    // Now the second is killed before any of its acknowledgements has come.
    proxy.hold(Direction::ToBroker);
    let unacknowledged = each_shard();
    post_until_stored(first.address, &unacknowledged, &mut ledger);
    wait_in_files(&second.rig, &unacknowledged);
    second.take_consumer().kill();
    proxy.cut();
    wait_in_files(&first.rig, &unacknowledged);
    doubled.extend(unacknowledged);
    assert_eq!(in_both(&first, &second), doubled);
    wait_taken(shared(), vhost);
    first.rig.wait_drained();
    first.take_server().stop();
    first.take_consumer().stop();
    ledger.clone().doubted().assert_exactly_once(&second.rig.lines());
    let others = second.rig.lines().into_iter().filter(|line| !doubled.contains(line));
    ledger.assert_exactly_once(&[first.rig.lines(), others.collect()].concat());
}

#[test]
fn a_consumer_without_room_leaves_messages_to_the_broker_until_there_is() {
    let vhost = "no-room";
    let url = shared().vhost(vhost);
    let mut server = Pair::new(&url);
    server.start_server();
    let mut consumer = Pair::new(&url);
    consumer.rig.set("DISK_LOW_WATER_BYTES", 0);
    let disk = SmallDisk::mount(&consumer.rig.state(), 12);
    consumer.start_consumer();
    let load = Load::start(server.address);
    load.wait_accepted(60);
    disk.fill(0);
    wait_log_times(consumer.consumer(), "not taken from the broker, yet", 1);
    let before = consumer.rig.lines().len();
    load.wait_accepted(60);
    disk.free();
    let mut ledger = Ledger::default();
    let entries = each_shard();
    let since = Instant::now();
    post_until_stored(server.address, &entries, &mut ledger);
    wait_in_files(&consumer.rig, &entries);
    println!("room again: in files after {:?}, {before} before", since.elapsed());
    ledger.add(load.stop());
    wait_taken(shared(), vhost);
    consumer.rig.wait_drained();
    server.take_server().stop();
    consumer.take_consumer().stop();
    ledger.assert_exactly_once(&consumer.rig.lines());
}
