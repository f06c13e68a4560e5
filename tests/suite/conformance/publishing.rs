//! Requests: whole, durable, of every size.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{Backend, accepted, array, entries, publish, publish_with, sorted};
use crate::harness::{post, wait_for};
use crate::rabbitmq::broker::PrivateBroker;

pub(super) fn a_request_with_a_wrong_entry_leaves_nothing_behind(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    let good = entries(40, "good");
    let mut bad = good.clone();
    bad[39] = "{\"timestamp\":\"yesterday\"}".to_owned();
    assert_eq!(post(server.address(), &array(&bad)).status, 400);
    publish(server.address(), &good);
    assert_eq!(host.wait_drained(), sorted(good));
    consumer.stop();
    server.stop();
}

/// Posts under a key of its own, again and again until the server dies; the keys, and how many were
/// answered.
fn publish_until_death(address: SocketAddr, name: &str, body: &[u8]) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        let key = format!("{name}-{}", keys.len());
        let head = format!(
            "POST /message HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        keys.push(key);
        let answered = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        if !answered().is_ok_and(|text| text.starts_with("HTTP/1.1 201 ")) {
            return keys;
        }
    }
}

pub(super) fn a_request_that_was_cut_off_is_whole_once_repeated(backend: Backend) {
    const ENTRIES: u32 = 200;
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let address = server.address();
    let consumer = host.rig.start(&["message-consumer"]);
    let body = array(&entries(ENTRIES, "cut"));
    let keys = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let body = &body;
                scope.spawn(move || publish_until_death(address, &client.to_string(), body))
            })
            .collect();
        wait_for("some to be in files", || (!host.rig.files().is_empty()).then_some(()));
        server.kill();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let before = u32::try_from(host.wait_drained().len()).unwrap();
    if backend == Backend::Embedded {
        assert_eq!(before % ENTRIES, 0, "a part of a request is stored");
    }
    let server = host.rig.serve(&["server"]);
    for key in &keys {
        accepted(&publish_with(server.address(), key, &entries(ENTRIES, "cut")), 200);
    }
    let each = entries(ENTRIES, "cut");
    let expected = keys.iter().flat_map(|_| each.clone()).collect();
    assert!(host.wait_drained() == sorted(expected), "not {} times the same", keys.len());
    consumer.stop();
    server.stop();
}

pub(super) fn what_was_answered_survives_killing_everything(backend: Backend) {
    let mut host = backend.host();
    let broker = (backend != Backend::Embedded).then(PrivateBroker::start);
    if let Some(broker) = &broker {
        host.rig.set("RABBITMQ_URL", broker.url());
    }
    let server = host.rig.serve(&["server"]);
    publish(server.address(), &entries(100, "first"));
    if let Some(broker) = &broker {
        broker.sync_declared();
    }
    publish(server.address(), &entries(100, "last"));
    server.kill();
    if let Some(broker) = &broker {
        broker.kill();
        broker.start_again();
    }
    let consumer = host.rig.start(&["message-consumer"]);
    wait_for("all to be in files", || {
        let made = host.rig.state().join("data.mdb").exists();
        (made && host.rig.verify(&[])["in_files"] == 200).then_some(())
    });
    let expected = [entries(100, "first"), entries(100, "last")].concat();
    assert_eq!(sorted(host.rig.lines()), sorted(expected));
    consumer.stop();
}

pub(super) fn the_answer_says_which_offsets_where_they_are_known(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let answer = post(server.address(), &array(&entries(2, "a")));
    accepted(&answer, 2);
    let is_told = backend == Backend::Embedded;
    assert_eq!(answer.json().get("receipt").is_some(), is_told, "{answer:?}");
    assert_eq!(answer.header("location").is_some(), is_told, "{answer:?}");
    server.stop();
}

pub(super) fn an_empty_request_is_a_201(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    accepted(&post(server.address(), b"[]"), 0);
    accepted(&publish_with(server.address(), "empty", &[]), 0);
    publish(server.address(), &entries(1, "a"));
    assert_eq!(host.wait_drained(), entries(1, "a"));
    consumer.stop();
    server.stop();
}

pub(super) fn ten_thousand_entries_are_one_request(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    let sent = entries(10_000, "v");
    publish(server.address(), &sent);
    assert!(host.wait_drained() == sorted(sent));
    let more = array(&entries(10_001, "v"));
    assert_eq!(post(server.address(), &more).status, 413);
    consumer.stop();
    server.stop();
}

pub(super) fn the_longest_entry_arrives_as_it_was_sent(backend: Backend) {
    const ENTRY_BYTES_MAX: usize = 65_499;
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    let start = "{\"timestamp\":\"2026-11-22T07:30:00Z\",\"more\":\"";
    let long = |bytes: usize| format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2));
    let sent = vec![long(ENTRY_BYTES_MAX), long(ENTRY_BYTES_MAX), long(100)];
    publish(server.address(), &sent);
    let longer = array(&[long(ENTRY_BYTES_MAX + 1)]);
    assert_eq!(post(server.address(), &longer).status, 413);
    assert!(host.wait_drained() == sorted(sent));
    consumer.stop();
    server.stop();
}

pub(super) fn a_timestamp_before_1970_has_a_shard(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    let times = ["1969-12-31T23:59:59Z", "1969-12-31T23:59:58.5Z", "0001-01-01T00:00:00Z"];
    let sent: Vec<_> = times.iter().map(|time| format!("{{\"timestamp\":\"{time}\"}}")).collect();
    publish(server.address(), &sent);
    assert_eq!(host.wait_drained(), sorted(sent));
    consumer.stop();
    server.stop();
}

pub(super) fn many_requests_at_once_are_stored_once_each(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    let address = server.address();
    let batch = |client, round| entries(7, &format!("{client}-{round}"));
    std::thread::scope(|scope| {
        for client in 0..24 {
            scope.spawn(move || (0..20).for_each(|round| publish(address, &batch(client, round))));
        }
    });
    let sent = (0..24).flat_map(|client| (0..20).flat_map(move |round| batch(client, round)));
    assert!(host.wait_drained() == sorted(sent.collect()));
    consumer.stop();
    server.stop();
}
