//! Processes that are killed at any moment, while the broker is well and while it is not.

use super::broker::PrivateBroker;
use super::faults_pair::{Load, Pair};
use super::proxy::Proxy;
use crate::survive_signals::Ledger;

/// What else happens at the time of a kill.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Nothing,
    Alarm,
    Cut,
    BrokerKilled,
    BrokerStopped,
}

use Meanwhile::{Alarm, BrokerKilled, BrokerStopped, Cut, Nothing};

/// Again and again in this order, each with a kill of the server, the consumer, or both.
const ROUNDS: [Meanwhile; 13] = [
    Nothing,
    Cut,
    Nothing,
    BrokerKilled,
    Nothing,
    Alarm,
    Cut,
    BrokerStopped,
    Cut,
    Nothing,
    Alarm,
    Nothing,
    BrokerKilled,
];

/// The server, the consumer, or both, in turn.
fn victims(number: usize) -> (bool, bool) {
    [(true, false), (false, true), (true, true)][number % 3]
}

fn kill(pair: &mut Pair, (server, consumer): (bool, bool)) {
    if server {
        pair.take_server().kill();
    }
    if consumer {
        pair.take_consumer().kill();
    }
}

fn start(pair: &mut Pair, (server, consumer): (bool, bool)) {
    if server {
        pair.start_server();
    }
    if consumer {
        pair.start_consumer();
    }
}

fn round(pair: &mut Pair, broker: &PrivateBroker, proxy: &Proxy, number: usize, what: Meanwhile) {
    let victims = victims(number);
    match what {
        Nothing => {
            kill(pair, victims);
            start(pair, victims);
            // Again, before it has recovered from the first time.
            kill(pair, victims);
        }
        Alarm => {
            broker.memory_alarm(true);
            kill(pair, victims);
            broker.memory_alarm(false);
        }
        Cut => {
            proxy.cut();
            kill(pair, victims);
        }
        BrokerKilled => {
            broker.kill();
            kill(pair, victims);
            broker.start_again();
        }
        BrokerStopped => {
            broker.stop();
            kill(pair, victims);
            broker.start_again();
        }
    }
    start(pair, victims);
}

#[test]
fn processes_killed_at_any_moment_cost_no_message() {
    let (broker, vhost) = (PrivateBroker::start(), "kills");
    let url = broker.vhost(vhost);
    let proxy = Proxy::to(broker.port());
    let mut pair = Pair::start(&proxy.url(&url));
    broker.sync_declared();
    let load = Load::start(pair.address);
    for (number, what) in ROUNDS.into_iter().enumerate() {
        load.wait_accepted(7 * number % 40);
        round(&mut pair, &broker, &proxy, number, what);
    }
    let mut ledger = Ledger::default();
    println!("after {} rounds: {:?}", ROUNDS.len(), pair.probe(&mut ledger));
    ledger.add(load.stop());
    pair.finish(&broker, vhost, &ledger);
}
