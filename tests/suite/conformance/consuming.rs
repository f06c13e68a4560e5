//! From the broker into files: order, owners, restarts, shards.

use super::{Backend, array, entries, publish, sorted};
use crate::harness::{Process, entry, post, wait_for};

pub(super) fn the_order_of_a_publisher_is_kept_within_a_shard(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let consumer = host.rig.start(&["message-consumer"]);
    let mut sent = Vec::new();
    for round in 0..60 {
        // Five seconds on is the same shard again.
        let some: Vec<_> = (0..3).map(|n| entry(5 * n, &format!("{round}-{n}"))).collect();
        publish(server.address(), &some);
        sent.extend(some);
    }
    host.wait_drained();
    // In the order of the files' names, which is that of their commits.
    assert_eq!(host.rig.lines(), sent);
    consumer.stop();
    server.stop();
}

pub(super) fn a_shard_has_one_consumer_and_a_successor(backend: Backend) {
    let host = backend.host();
    let server = host.rig.serve(&["server"]);
    let first = host.rig.start(&["message-consumer"]);
    first.wait_log("\"took over shards\"");
    let second = host.rig.start(&["message-consumer"]);
    second.wait_log("\"consuming into files\"");
    let publish_more = |name: &str| publish(server.address(), &entries(50, name));
    publish_more("one");
    host.wait_drained();
    assert!(!second.log().contains("took over"), "{}", second.log());
    first.kill();
    publish_more("two");
    host.wait_drained();
    second.wait_log("\"took over shards\"");
    let both = sorted([entries(50, "one"), entries(50, "two")].concat());
    assert_eq!(sorted(host.rig.lines()), both);
    if backend != Backend::Embedded {
        let other = backend.host_beside(&host);
        let third = other.rig.start(&["message-consumer"]);
        third.wait_log("\"connected to the broker\"");
        publish_more("three");
        host.wait_drained();
        assert!(other.rig.lines().is_empty(), "two hosts had a shard at once");
        second.kill();
        publish_more("four");
        assert_eq!(other.wait_drained(), sorted(entries(50, "four")));
        third.stop();
    }
    server.stop();
}

pub(super) fn a_batch_that_was_not_finished_is_done_once(backend: Backend) {
    let mut host = backend.host();
    let server = host.rig.serve(&["server"]);
    let begun = host.rig.dir.path().join("begun");
    host.rig.set("EXEC", format!("cat; echo > {}; exec sleep 3600 >&-", begun.display()));
    let consumer = host.rig.start(&["message-consumer"]);
    publish(server.address(), &entries(50, "v"));
    wait_for("a batch to be begun", || begun.exists().then_some(()));
    consumer.kill();
    assert!(host.rig.lines().is_empty());
    host.rig.set("EXEC", "");
    let consumer = host.rig.start(&["message-consumer"]);
    assert_eq!(host.wait_drained(), sorted(entries(50, "v")));
    consumer.stop();
    server.stop();
}

/// Expects a process to end because the broker's queues are for another number of shards.
fn refused(mut process: Process) {
    assert_eq!(process.wait().code(), Some(78), "{}", process.log());
    assert!(process.log().contains("SHARDS_COUNT=5"), "{}", process.log());
}

pub(super) fn the_number_of_shards_may_change(backend: Backend) {
    let mut host = backend.host();
    let server = host.rig.serve(&["server"]);
    let mut sent = entries(50, "five");
    publish(server.address(), &sent);
    server.stop();
    host.rig.set("SHARDS_COUNT", 11);
    if backend == Backend::RabbitMq {
        refused(host.rig.start(&["server"]));
        refused(host.rig.start(&["message-consumer"]));
        host.rig.set("SHARDS_COUNT", 5);
    }
    let server = host.rig.serve(&["server"]);
    let more = entries(50, "eleven");
    publish(server.address(), &more);
    sent.extend(more);
    let consumer = host.rig.start(&["message-consumer"]);
    assert_eq!(host.wait_drained(), sorted(sent));
    consumer.stop();
    server.stop();
    if backend == Backend::Interop {
        fewer_shards_leave_the_other_queues(&mut host);
    }
}

fn fewer_shards_leave_the_other_queues(host: &mut super::Host) {
    let server = host.rig.serve(&["server"]);
    // Of second 0 on; of eleven shards this is more than the first.
    assert_eq!(post(server.address(), &array(&entries(11, "left"))).status, 201);
    server.stop();
    host.rig.set("SHARDS_COUNT", 1);
    let consumer = host.rig.start(&["message-consumer"]);
    wait_for("the first queue to be emptied", || {
        (host.rig.verify(&[])["in_files"] == 101).then_some(())
    });
    consumer.stop();
    host.rig.set("SHARDS_COUNT", 11);
    let consumer = host.rig.start(&["message-consumer"]);
    host.wait_drained();
    assert_eq!(host.rig.verify(&[])["in_files"], 111);
    consumer.stop();
}
