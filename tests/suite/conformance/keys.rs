//! `Idempotency-Key`: what is repeated is stored once.

use std::net::SocketAddr;
use std::sync::mpsc;

use super::{Backend, accepted, array, entries, is_replayed, publish, publish_with, sorted};
use crate::harness::{Answer, request, wait_for};
use crate::idempotency::Hold;
use crate::rabbitmq::broker::shared;
use crate::rabbitmq::proxy::{Direction, Proxy};

/// Posts one body under one key from many clients, to each server in turn, until each client has
/// its 201.
fn race(addresses: &[SocketAddr], key: &str) {
    std::thread::scope(|scope| {
        for client in 0..12 {
            let address = addresses[client % addresses.len()];
            scope.spawn(move || {
                wait_for("a 201", || {
                    let answer = publish_with(address, key, &entries(3, key));
                    assert!([201, 409].contains(&answer.status), "{answer:?}");
                    (answer.status == 201).then_some(())
                })
            });
        }
    });
}

pub(super) fn a_key_that_is_repeated_is_stored_once(backend: Backend) {
    let host = backend.host();
    let mut servers = vec![host.rig.serve(&["server"]), host.rig.serve(&["server"])];
    let consumer = host.rig.start(&["message-consumer"]);
    let other = (backend != Backend::Embedded).then(|| backend.host_beside(&host));
    servers.extend(other.iter().map(|other| other.rig.serve(&["server"])));
    let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let keys: Vec<_> = (0..5).map(|round| format!("key-{round}")).collect();
    keys.iter().for_each(|key| race(&addresses, key));
    servers.into_iter().for_each(|server| drop(server.stop()));
    host.wait_drained();
    consumer.kill();
    let consumer = host.rig.start(&["message-consumer"]);
    let server = host.rig.serve(&["server"]);
    keys.iter().for_each(|key| race(&[server.address()], key));
    publish(server.address(), &entries(1, "end"));
    let expected = keys.iter().flat_map(|key| entries(3, key)).chain(entries(1, "end"));
    assert_eq!(host.wait_drained(), sorted(expected.collect()));
    consumer.stop();
    server.stop();
}

pub(super) fn a_repeated_key_is_a_replay(backend: Backend) {
    let host = backend.host();
    let servers = [host.rig.serve(&["server"]), host.rig.serve(&["server"])];
    let addresses = servers.each_ref().map(|server| server.address());
    let first = publish_with(addresses[0], "one", &entries(3, "a"));
    assert!(!is_replayed(&first));
    let again = |address| {
        let answer = publish_with(address, "one", &entries(3, "a"));
        assert_eq!(answer.body, first.body);
        is_replayed(&answer)
    };
    assert!(addresses.into_iter().all(again));
    servers.into_iter().for_each(|server| drop(server.stop()));
    let server = host.rig.serve(&["server"]);
    assert!(again(server.address()), "it was forgotten by a restart");
    if backend != Backend::Embedded {
        let other = backend.host_beside(&host);
        let elsewhere = other.rig.serve(&["server"]);
        assert!(!again(elsewhere.address()));
        elsewhere.stop();
        let consumer = host.rig.start(&["message-consumer"]);
        assert_eq!(host.wait_drained(), sorted(entries(3, "a")));
        consumer.stop();
    }
    server.stop();
}

pub(super) fn a_key_with_another_body_is_a_422(backend: Backend) {
    let host = backend.host();
    let servers = [host.rig.serve(&["server"]), host.rig.serve(&["server"])];
    let consumer = host.rig.start(&["message-consumer"]);
    accepted(&publish_with(servers[0].address(), "one", &entries(2, "a")), 2);
    for server in &servers {
        for other in [entries(2, "b"), entries(3, "a"), Vec::new()] {
            let answer = publish_with(server.address(), "one", &other);
            assert_eq!(answer.status, 422, "{answer:?}");
        }
    }
    let mut expected = entries(2, "a");
    if backend != Backend::Embedded {
        let other = backend.host_beside(&host);
        let elsewhere = other.rig.serve(&["server"]);
        assert!(!is_replayed(&publish_with(elsewhere.address(), "one", &entries(2, "b"))));
        elsewhere.stop();
        // Rather both than one of them lost.
        expected.extend(entries(2, "b"));
    }
    assert_eq!(host.wait_drained(), sorted(expected));
    consumer.stop();
    servers.into_iter().for_each(|server| drop(server.stop()));
}

/// What keeps a request from getting on, until it is let go.
enum Held {
    WriteLock(Hold),
    Answers(Proxy),
}

impl Held {
    /// The proxy goes on being the way to the broker.
    fn let_go(self) -> Option<Proxy> {
        match self {
            Self::WriteLock(hold) => {
                hold.let_go();
                None
            }
            Self::Answers(proxy) => {
                proxy.heal();
                Some(proxy)
            }
        }
    }
}

pub(super) fn a_key_in_flight_is_a_409(backend: Backend) {
    let mut host = backend.host();
    let proxy = host.vhost.as_ref().map(|vhost| {
        let proxy = Proxy::to(shared().port());
        let url = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", shared().port());
        (proxy.url(&url), proxy)
    });
    let proxy = proxy.map(|(url, proxy)| {
        host.rig.set("RABBITMQ_URL", url);
        proxy
    });
    let server = host.rig.serve(&["server"]);
    let address = server.address();
    publish(address, &entries(1, "first"));
    let held = match proxy {
        None => Held::WriteLock(Hold::take(&host.rig)),
        Some(proxy) => {
            proxy.hold(Direction::ToClient);
            Held::Answers(proxy)
        }
    };
    let (told, answers) = mpsc::channel();
    let ask = move || -> Answer {
        let body = array(&entries(2, "a"));
        request(address, "POST", "/message", &[("Idempotency-Key", "one")], &body)
    };
    for _ in 0..4 {
        let told = told.clone();
        std::thread::spawn(move || told.send(ask()));
    }
    for _ in 0..3 {
        let answer = answers.recv().unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (409, Some("1")), "{answer:?}");
    }
    let _way = held.let_go();
    assert!(!is_replayed(&answers.recv().unwrap()));
    assert!(is_replayed(&ask()));
    server.stop();
}
