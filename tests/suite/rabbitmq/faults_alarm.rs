//! A broker that takes no messages: for want of memory or disk, or because a queue is full.

use std::time::Instant;

use super::broker::{PrivateBroker, shared};
use super::faults_pair::{Load, Pair, each_shard, post_until_stored, try_post, wait_in_files};
use crate::harness::wait_for;
use crate::survive_signals::{Ledger, unique_entry};

#[test]
fn an_alarm_refuses_what_comes_and_holds_up_nothing_that_is_there() {
    let broker = PrivateBroker::start();
    let mut pair = Pair::start(&broker.vhost("alarm"));
    let mut ledger = Ledger::default();
    for (alarm, name) in [
        (PrivateBroker::memory_alarm as fn(&PrivateBroker, bool), "memory"),
        (PrivateBroker::disk_alarm, "disk"),
    ] {
        pair.take_consumer().stop();
        let waiting = each_shard();
        post_until_stored(pair.address, &waiting, &mut ledger);
        let load = Load::start(pair.address);
        load.wait_accepted(30);
        alarm(&broker, true);
        pair.wait_ready_says(&format!("because of an alarm (low on {name})"));
        let since = Instant::now();
        pair.start_consumer();
        wait_in_files(&pair.rig, &waiting);
        if name == "memory" {
            // What was sent when the alarm came.
            load.wait_unknown();
            println!("{name}: unknown after {:?}", since.elapsed());
            let entries = [unique_entry(20)];
            let told = try_post(pair.address, &entries, None).unwrap();
            ledger.note(told.status, &entries);
            assert_eq!(told.status, 503, "{}", told.text);
            assert!(told.text.contains("nothing was stored"), "{}", told.text);
        }
        assert!(pair.ready().contains("alarm"));
        alarm(&broker, false);
        let since = Instant::now();
        pair.probe(&mut ledger);
        println!("{name}: accepted and in files {:?} after the alarm", since.elapsed());
        assert!(!pair.ready().contains("alarm"));
        pair.server().wait_log("the broker takes messages again");
        ledger.add(load.stop());
    }
    pair.finish(&broker, "alarm", &ledger);
}

/// Limits the length of the shards' queues, or no longer.
fn limit_queues(vhost: &str, length: Option<u32>) {
    let done = match length {
        Some(length) => format!(
            r#"rabbit_policy:set(<<"{vhost}">>, <<"limit">>, <<"messages[.][0-9]+$">>,
                [{{<<"max-length">>, {length}}}], 0, <<"queues">>, <<"test">>)"#
        ),
        None => {
            format!(r#"rabbit_policy:delete(<<"{vhost}">>, <<"limit">>, <<"test">>)"#)
        }
    };
    assert_eq!(shared().eval(&done), "ok");
}

#[test]
fn a_full_queue_refuses_and_drops_nothing() {
    let mut pair = Pair::start(&shared().vhost("full"));
    pair.take_consumer().stop();
    limit_queues("full", Some(2));
    let mut ledger = Ledger::default();
    wait_for("the queue to be full", || {
        let entries = [unique_entry(20)];
        let told = try_post(pair.address, &entries, None).unwrap();
        ledger.note(told.status, &entries);
        assert!(matches!(told.status, 201 | 503), "{}", told.text);
        (told.status == 503).then_some(())
    });
    let load = Load::start(pair.address);
    load.wait_unknown();
    limit_queues("full", None);
    load.wait_accepted(30);
    pair.start_consumer();
    pair.probe(&mut ledger);
    ledger.add(load.stop());
    pair.finish(shared(), "full", &ledger);
}
