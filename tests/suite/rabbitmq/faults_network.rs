//! Connections that are cut at any byte, or on which nothing comes any more.

use std::time::Instant;

use super::broker::shared;
use super::faults_pair::{Load, Pair, report, wait_log_times};
use super::proxy::{Direction, Proxy};
use crate::harness::wait_for;
use crate::survive_signals::Ledger;

const BOTH: [Direction; 2] = [Direction::ToBroker, Direction::ToClient];
/// Handshake and declaring take some 1500 bytes to the broker and 900 to the client; after these
/// come publishing, confirms, deliveries and acknowledgements.
const CUTS_AFTER_BYTES: [u64; 8] = [1, 120, 480, 700, 1000, 1400, 1700, 2100];

/// A pair whose two connections go by way of a proxy each.
struct Proxied {
    pair: Pair,
    server: Proxy,
    consumer: Proxy,
}

impl Proxied {
    fn start(vhost: &str, query: &str) -> Self {
        let url = format!("{}{query}", shared().vhost(vhost));
        let (server, consumer) = (Proxy::to(shared().port()), Proxy::to(shared().port()));
        let mut pair = Pair::new(&url);
        pair.server_url = server.url(&url);
        pair.consumer_url = consumer.url(&url);
        pair.start_server();
        pair.start_consumer();
        pair.wait_both_log("connected to the broker", 1);
        Self { pair, server, consumer }
    }
}

#[test]
fn a_connection_that_is_cut_at_any_byte_costs_no_message() {
    let Proxied { pair, server, consumer } = Proxied::start("cut", "");
    let load = Load::start(pair.address);
    let (since, mut ledger) = (Instant::now(), Ledger::default());
    for (number, bytes) in (0..).zip(CUTS_AFTER_BYTES) {
        for direction in BOTH {
            pair.probe(&mut ledger);
            for proxy in [&server, &consumer] {
                proxy.cut();
                // Counts from the beginning of the next connection.
                proxy.cut_after(direction, bytes + number % 3);
            }
            for proxy in [&server, &consumer] {
                wait_for("the cut", || (!proxy.awaits_cut(direction)).then_some(()));
            }
        }
    }
    let times = pair.probe(&mut ledger);
    println!("{} cuts in {:?}, then {times:?}", 4 * CUTS_AFTER_BYTES.len(), since.elapsed());
    ledger.add(load.stop());
    pair.finish(shared(), "cut", &ledger);
}

type Fault = fn(&Proxy, Direction);

/// What comes late of a connection that was given up, and what never comes.
const HALF_OPEN: [(&str, Fault, &[Direction]); 4] = [
    ("holds-to-broker", Proxy::hold, &[Direction::ToBroker]),
    ("holds-both", Proxy::hold, &BOTH),
    ("swallows-to-client", Proxy::swallow, &[Direction::ToClient]),
    ("swallows-both", Proxy::swallow, &BOTH),
];

fn is_half_open(proxied: Proxied, vhost: &str, fault: Fault, directions: &[Direction]) {
    let Proxied { pair, server, consumer } = proxied;
    let load = Load::start(pair.address);
    load.wait_accepted(60);
    let lost = |process: &crate::harness::Process| process.log().matches("is lost").count();
    let before = [pair.server(), pair.consumer()].map(lost);
    let since = Instant::now();
    for proxy in [&server, &consumer] {
        directions.iter().for_each(|direction| fault(proxy, *direction));
    }
    for (process, before) in [pair.server(), pair.consumer()].into_iter().zip(before) {
        wait_log_times(process, "is lost", before + 1);
    }
    let noticed = since.elapsed();
    server.heal();
    consumer.heal();
    let mut ledger = Ledger::default();
    let times = pair.probe(&mut ledger);
    report(&format!("{vhost}: noticed after {noticed:?}, accepted and in files after {times:?}"));
    load.wait_accepted(30);
    ledger.add(load.stop());
    pair.finish(shared(), vhost, &ledger);
}

#[test]
fn a_half_open_connection_is_noticed_and_costs_no_message() {
    std::thread::scope(|scope| {
        for (vhost, fault, directions) in HALF_OPEN {
            let proxied = Proxied::start(vhost, "?heartbeat=2");
            scope.spawn(move || is_half_open(proxied, vhost, fault, directions));
        }
    });
}
