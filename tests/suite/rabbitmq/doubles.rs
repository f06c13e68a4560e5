//! Two hosts have both written what one of them could not acknowledge: `doubles` names it.

use serde_json::Value;

use super::broker::shared;
use super::proxy::{Direction, Proxy};
use crate::harness::{Process, Rig, entry, post_entries, wait_for};

fn doubles(here: &Rig, there: &Rig) -> (Option<i32>, Value) {
    let other = there.state();
    let output = here.run(&["doubles", "--output", "json", other.to_str().unwrap()]);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("doubles: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn consumer(rig: &Rig, url: &str) -> Process {
    let mut command = rig.command(&["message-consumer"]);
    command.env("RABBITMQ_URL", url);
    let consumer = Process::start(command);
    consumer.wait_log("connected to the broker");
    consumer
}

fn wait_lines(rig: &Rig, count: usize) -> Vec<String> {
    wait_for("lines in files", || Some(rig.lines()).filter(|lines| lines.len() == count))
}

/// The lines of a file that a side of a double names.
fn named_lines(side: &Value, rig: &Rig) -> Vec<String> {
    let place = &side[0];
    let text = std::fs::read_to_string(rig.output().join(place["file"].as_str().unwrap())).unwrap();
    let skip = usize::try_from(place["first_line"].as_u64().unwrap()).unwrap() - 1;
    let take = usize::try_from(place["messages"].as_u64().unwrap()).unwrap();
    text.lines().skip(skip).take(take).map(str::to_owned).collect()
}

#[test]
fn what_two_hosts_have_both_written_is_named_line_by_line() {
    let url = shared().vhost("doubles");
    let proxy = Proxy::to(shared().port());
    let (mut here, mut there) = (Rig::new(), Rig::new());
    for rig in [&mut here, &mut there] {
        rig.set("SHARDS_COUNT", 1).set("FILES_PER_SECOND", 0).set("BATCH_MIN", 1);
    }
    let mut command = here.command(&["server"]);
    command.env("RABBITMQ_URL", &url);
    let server = Process::start(command);
    let address = server.address();
    server.wait_log("connected to the broker");

    let cut_off = consumer(&here, &proxy.url(&url));
    post_entries(address, &[entry(0, "before"), entry(1, "before")]);
    wait_lines(&here, 2);
    wait_for("the broker to be told", || {
        let depth = shared().depth("doubles", "async-data-processor.messages.0");
        (depth.ready + depth.unacknowledged == 0).then_some(())
    });
    // It goes on taking, and nobody hears of it.
    proxy.swallow(Direction::ToBroker);
    let (first, second) = (entry(2, "twice"), entry(3, "twice"));
    post_entries(address, &[first.clone(), second.clone()]);
    wait_lines(&here, 4);
    cut_off.kill();
    proxy.cut();

    let successor = consumer(&there, &url);
    assert_eq!(wait_lines(&there, 2), [first.clone(), second.clone()]);
    post_entries(address, &[entry(4, "after")]);
    wait_lines(&there, 3);
    successor.stop();
    server.stop();

    for (one, other) in [(&here, &there), (&there, &here)] {
        let (code, report) = doubles(one, other);
        assert_eq!((code, &report["unnamed_packets"]), (Some(1), &Value::from(0)), "{report}");
        let named = report["doubles"].as_array().unwrap();
        assert_eq!((named.len(), &named[0]["messages"]), (1, &Value::from(2)), "{report}");
        for (side, rig) in [("here", one), ("there", other)] {
            assert_eq!(named_lines(&named[0][side], rig), [first.clone(), second.clone()]);
        }
    }
    let text = here.run(&["doubles", there.state().to_str().unwrap()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("double: shard 0, packet s.") && text.contains("here: "), "{text}");
}

#[test]
fn hosts_that_shared_their_work_have_no_doubles() {
    let url = shared().vhost("no-doubles");
    let (mut here, mut there) = (Rig::new(), Rig::new());
    for rig in [&mut here, &mut there] {
        rig.set("SHARDS_COUNT", 1).set("BATCH_MIN", 1).set("RABBITMQ_URL", &url);
    }
    let server = here.serve(&["server"]);
    server.wait_log("connected to the broker");
    for (rig, value) in [(&here, "one"), (&there, "other")] {
        let consumer = consumer(rig, &url);
        post_entries(server.address(), &[entry(0, value)]);
        wait_lines(rig, 1);
        consumer.stop();
    }
    server.stop();
    let (code, report) = doubles(&here, &there);
    assert_eq!((code, &report["doubles"]), (Some(0), &Value::from(Vec::<Value>::new())));
    let missing = here.run(&["doubles", "/nowhere/state"]);
    assert_eq!(missing.status.code(), Some(73));
}
