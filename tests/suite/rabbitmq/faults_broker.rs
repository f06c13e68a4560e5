//! A broker that is not there, dies, is restarted or stands still. What was accepted is in files
//! once.

use std::time::Instant;

use super::broker::PrivateBroker;
use super::faults_pair::{Load, Pair, report, try_post};
use crate::survive_signals::{Ledger, unique_entry};

/// The broker is there again: both go on by themselves.
fn goes_on(pair: &Pair, load: &Load, ledger: &mut Ledger, after: &str) {
    let since = Instant::now();
    pair.probe(ledger);
    report(&format!("{after}: accepted and in files after {:?}", since.elapsed()));
    load.wait_accepted(30);
}

#[test]
fn a_broker_that_comes_late_dies_and_is_restarted_costs_no_message() {
    let broker = PrivateBroker::start();
    let url = broker.vhost("comes-and-goes");
    broker.stop();
    let mut pair = Pair::new(&url);
    pair.start_server();
    pair.start_consumer();
    let mut ledger = Ledger::default();
    let entries = [unique_entry(20)];
    let told = try_post(pair.address, &entries, None).unwrap();
    ledger.note(told.status, &entries);
    assert_eq!(told.status, 503, "{}", told.text);
    assert!(told.text.contains("nothing was stored"), "{}", told.text);
    assert!(told.text.to_lowercase().contains("\r\nretry-after: "), "{}", told.text);
    pair.wait_ready_says("connecting to the broker");
    pair.wait_both_log("connecting to the broker", 1);
    broker.start_again();
    let load = Load::start(pair.address);
    goes_on(&pair, &load, &mut ledger, "a broker that was absent");
    broker.sync_declared();
    for end in [PrivateBroker::kill, PrivateBroker::stop] {
        let told = pair.server().log().matches("is lost").count();
        end(&broker);
        pair.wait_both_log("is lost", told + 1);
        broker.start_again();
        goes_on(&pair, &load, &mut ledger, "a broker that ended");
    }
    // Again at once: what is published here is hardly stored when it ends.
    load.wait_accepted(30);
    broker.kill();
    broker.start_again();
    goes_on(&pair, &load, &mut ledger, "a broker that was killed");
    ledger.add(load.stop());
    pair.finish(&broker, "comes-and-goes", &ledger);
}

#[test]
fn a_broker_that_stands_still_is_noticed_and_costs_no_message() {
    let broker = PrivateBroker::start();
    let pair = Pair::start(&broker.vhost("stands-still"));
    let load = Load::start(pair.address);
    load.wait_accepted(100);
    let since = Instant::now();
    broker.pause();
    // As long as two heartbeats do not come.
    pair.wait_both_log("is lost", 1);
    println!("a broker that stands still: noticed after {:?}", since.elapsed());
    load.wait_unknown();
    broker.resume();
    let mut ledger = Ledger::default();
    goes_on(&pair, &load, &mut ledger, "a broker that stood still");
    ledger.add(load.stop());
    pair.finish(&broker, "stands-still", &ledger);
}
