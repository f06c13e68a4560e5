//! `doctor` against brokers that are well, and against each thing that may be wrong with one.

use std::fs;
use std::process::Output;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;

use super::broker::{PrivateBroker, shared};
use super::certificates::Certificates;
use super::ports::free_port;
use crate::harness::{Rig, wait_for};

const ENTRY: &[u8] = b"{\"timestamp\":\"2026-11-22T07:30:00Z\"}\n";
const SHARD_0: &str = "async-data-processor.messages.0";
const RETURNED: &str = "async-data-processor.messages.returned";

/// A rig whose processes use the broker at `url`.
fn rig(url: &str) -> Rig {
    let mut rig = Rig::new();
    rig.set("RABBITMQ_URL", url);
    rig
}

/// What `doctor` finds, whose exit code must be this one.
fn examine(rig: &Rig, code: i32) -> Value {
    let output = rig.run(&["doctor", "--output", "json"]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], report["counts"]["problems"] == 0, "{report}");
    report
}

/// The findings of a level: which check found what.
fn found(report: &Value, level: &str) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let of_level = findings.iter().filter(|finding| finding["level"] == level);
    of_level.map(|finding| (text(finding, "check"), text(finding, "found"))).collect()
}

/// The one finding of a check and a level.
fn the(report: &Value, level: &str, check: &str) -> String {
    let mut found = found(report, level);
    found.retain(|(name, _)| name == check);
    assert_eq!(found.len(), 1, "{level} {check} in {report:#}");
    found.remove(0).1
}

fn publish(rig: &Rig) {
    let published = rig.run_with_input(&["publish"], ENTRY);
    assert!(published.status.success(), "{published:?}");
}

async fn declare_and_send(url: &str, queue: &str, passive: bool) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { passive, ..QueueDeclareOptions::durable() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish("".into(), queue.into(), options, b"x", properties).await;
    assert!(sent.unwrap().await.unwrap().is_ack());
    connection.close(200, "OK".into()).await.unwrap();
}

#[test]
fn a_healthy_installation_is_ok_and_stays_as_it_is() {
    let rig = rig(&shared().vhost("doctor-healthy"));
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("connected to the broker");
    wait_for("the queues to be consumed", || {
        let sound = found(&examine(&rig, 0), "ok");
        let is_consumed = |said: &str| said.contains("consumers of each: 1 or more");
        sound.iter().any(|(check, said)| check == "queues" && is_consumed(said)).then_some(())
    });
    let before = shared().queues("doctor-healthy");
    let report = examine(&rig, 0);
    assert_eq!(found(&report, "problem"), []);
    // The user of the tests, and nothing else.
    assert!(the(&report, "warning", "login").contains("guest"));
    assert_eq!(report["counts"]["warnings"], 1, "{report:#}");
    assert!(the(&report, "unknown", "management").contains("policies"));
    for check in ["state", "state map", "output", "transport", "broker"] {
        the(&report, "ok", check);
    }
    let last_line = |output: Output| {
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().last().unwrap().to_owned()
    };
    assert_eq!(last_line(rig.run(&["doctor"])), "ok");
    assert_eq!(shared().queues("doctor-healthy"), before);
    consumer.stop();
}

#[test]
fn nothing_is_made_where_nothing_is_yet() {
    let rig = rig(&shared().vhost("doctor-empty"));
    let report = examine(&rig, 0);
    for check in ["state", "output", "queues"] {
        the(&report, "note", check);
    }
    assert_eq!(shared().queues("doctor-empty"), [""; 0]);
    assert_eq!(fs::read_dir(rig.dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classic_queue_in_place_of_ours_is_a_problem() {
    let url = shared().vhost("doctor-classic");
    declare_and_send(&url, SHARD_0, false).await;
    let report = examine(&rig(&url), 1);
    let said = the(&report, "problem", "queues");
    assert!(said.contains(SHARD_0) && said.contains("other properties"), "{said}");
    assert_eq!(shared().queues("doctor-classic"), [SHARD_0], "it made queues");
    assert_eq!(shared().depth("doctor-classic", SHARD_0).ready, 1);
}

#[test]
fn another_number_of_shards_is_a_problem() {
    let mut rig = rig(&shared().vhost("doctor-shards"));
    publish(&rig);
    rig.set("SHARDS_COUNT", 6);
    let said = the(&examine(&rig, 1), "problem", "queues");
    assert!(said.contains("are for 5 shards, and SHARDS_COUNT is 6"), "{said}");
    rig.set("SHARDS_COUNT", 5);
    let report = examine(&rig, 0);
    let mut warnings = found(&report, "warning");
    warnings.retain(|(check, _)| check == "queues");
    assert!(warnings[0].1.contains("nobody consumes"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_gave_up_is_a_problem() {
    let url = shared().vhost("doctor-returned");
    let rig = rig(&url);
    publish(&rig);
    examine(&rig, 0);
    declare_and_send(&url, RETURNED, true).await;
    wait_for("the packet to be counted", || {
        let output = rig.run(&["doctor", "--output", "json"]);
        (output.status.code() == Some(1)).then_some(())
    });
    let said = the(&examine(&rig, 1), "problem", "returned");
    assert_eq!(said, format!("{RETURNED} holds 1 packets"));
}

#[test]
fn a_broker_that_is_not_there_or_refuses_is_told_apart() {
    let port = shared().port();
    for (url, code, said) in [
        (format!("amqp://ann:s3cret@127.0.0.1:{}/%2f", free_port()), 69, "cannot be reached"),
        (format!("amqp://guest:s3cret@127.0.0.1:{port}/%2f"), 1, "it refuses the user guest"),
        (format!("amqp://guest:guest@127.0.0.1:{port}/none"), 1, "\"none\" is not there"),
    ] {
        let report = examine(&rig(&url), code);
        assert!(the(&report, "problem", "broker").contains(said), "{report:#}");
        the(&report, "unknown", "queues");
        the(&report, "note", "state");
    }
}

#[test]
fn what_stands_in_the_way_of_a_start_is_a_problem() {
    let mut rig = Rig::new();
    fs::write(rig.state(), "").unwrap();
    fs::write(rig.output(), "").unwrap();
    let report = examine(&rig, 1);
    for check in ["state", "output"] {
        assert!(the(&report, "problem", check).ends_with("is there, but is no directory"));
    }
    fs::remove_file(rig.state()).unwrap();
    fs::remove_file(rig.output()).unwrap();
    rig.set("DISK_LOW_WATER_BYTES", u64::MAX);
    let report = examine(&rig, 1);
    assert!(the(&report, "problem", "state disk").contains("low-water mark"));
    rig.set("DISK_LOW_WATER_BYTES", "");
    publish(&rig);
    let up = rig.start(&["message-consumer"]);
    rig.wait_drained();
    up.stop();
    examine(&rig, 0);
    fs::rename(rig.output(), rig.dir.path().join("moved")).unwrap();
    let report = examine(&rig, 1);
    assert!(the(&report, "problem", "output").ends_with("is not there, but was used before"));
}

#[test]
fn a_broker_is_asked_over_tls_with_our_trust() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::in_dir(dir.path());
    let broker = PrivateBroker::with_tls(&certificates, true);
    let mut rig = rig(&broker.tls_url());
    rig.set("RABBITMQ_CA", certificates.ca.display());
    rig.set("RABBITMQ_CERT", certificates.client.display());
    rig.set("RABBITMQ_KEY", certificates.client_key.display());
    let report = examine(&rig, 0);
    assert!(the(&report, "ok", "transport").contains("is encrypted"));
    assert!(the(&report, "note", "version").starts_with("RabbitMQ 3."));
    the(&report, "ok", "broker");
    rig.set("RABBITMQ_CA", certificates.other_ca.display());
    let said = the(&examine(&rig, 69), "problem", "broker");
    assert!(said.contains("cannot be reached: invalid peer certificate"), "{said}");
}

/// A broker with the plugin of the management API, and its port.
fn with_management() -> (PrivateBroker, u16) {
    let (broker, port) = (PrivateBroker::start(), free_port());
    broker.stop();
    let dir = broker.directory();
    let linked = fs::read_dir(dir.join("libraries")).unwrap().next().unwrap().unwrap();
    let plugins = fs::read_link(linked.path()).unwrap().parent().unwrap().to_owned();
    for plugin in fs::read_dir(plugins).unwrap().map(|plugin| plugin.unwrap()) {
        let name = plugin.file_name().into_string().unwrap();
        if ["rabbitmq_management", "rabbitmq_web_dispatch"].iter().any(|p| name.starts_with(p)) {
            let link = dir.join("libraries").join(name);
            std::os::unix::fs::symlink(plugin.path(), link).unwrap();
        }
    }
    fs::write(dir.join("enabled_plugins"), "[rabbitmq_management].").unwrap();
    let config = fs::read_to_string(dir.join("rabbitmq.config")).unwrap();
    let more = format!(
        r#", {{rabbitmq_management, [{{tcp_config, [{{ip, "127.0.0.1"}}, {{port, {port}}}]}}]}}]."#
    );
    fs::write(dir.join("rabbitmq.config"), config.trim_end_matches("].").to_owned() + &more)
        .unwrap();
    broker.start_again();
    (broker, port)
}

#[test]
fn the_management_api_tells_of_policies_and_limits() {
    let (broker, port) = with_management();
    let mut rig = rig(&broker.url());
    publish(&rig);
    rig.set("RABBITMQ_MANAGEMENT_URL", format!("http://guest:guest@127.0.0.1:{port}/"));
    let report = wait_for("the API to know the queues", || {
        let output = rig.run(&["doctor", "--output", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let members = found(&report, "ok").into_iter().find(|(check, _)| check == "members");
        let knows_nodes = !found(&report, "unknown").iter().any(|(check, _)| check == "nodes");
        let is_whole = |said: &str| said.starts_with("all of 13 quorum queues") && knows_nodes;
        members.filter(|(_, said)| is_whole(said)).map(|_| report)
    });
    the(&report, "ok", "policies");
    the(&report, "note", "nodes");
    assert!(the(&report, "warning", "nodes").contains("disk_free_limit is only"));
    let done = broker.eval(
        r#"rabbit_policy:set(<<"/">>, <<"short">>, <<"^async">>, [{<<"max-length">>, 9},
            {<<"message-ttl">>, 60000}], 0, <<"queues">>, <<"test">>)"#,
    );
    assert_eq!(done, "ok");
    // It learns of one queue after the other.
    let expected = [
        "the policy \"short\" sets max-length to 9 on 2 queues",
        "the policy \"short\" sets message-ttl to 60000 on 12 queues",
    ];
    let report = wait_for("the API to know the policy", || {
        let output = rig.run(&["doctor", "--output", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let problems = found(&report, "problem").into_iter().map(|(_, said)| said);
        let are_all = problems.collect::<Vec<_>>() == expected;
        are_all.then_some(report)
    });
    let warned = the(&report, "warning", "policies");
    assert_eq!(warned, "the policy \"short\" sets max-length to 9 on 10 queues");
    rig.set("RABBITMQ_MANAGEMENT_URL", format!("http://guest:s3cret@127.0.0.1:{port}/"));
    let report = examine(&rig, 0);
    assert!(the(&report, "unknown", "management").contains("401 Unauthorized"), "{report:#}");
    assert!(!report.to_string().contains("s3cret"));
}

#[test]
fn passwords_of_urls_are_never_printed() {
    let mut rig = Rig::new();
    let none = free_port();
    let url = "http://ann:s3cret@127.0.0.1:1/";
    let refused = rig.run(&["doctor", "--rabbitmq-management-url", url]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    rig.set("RABBITMQ_URL", format!("amqp://ann:s3cret@127.0.0.1:{none}/"));
    rig.set("RABBITMQ_MANAGEMENT_URL", url).set("LOG", "trace");
    let mut outputs = vec![refused];
    for arguments in [
        &["doctor"][..],
        &["doctor", "--output", "json"],
        &["doctor", "--help"],
        &["config", "check"],
    ] {
        outputs.push(rig.run(arguments));
    }
    let shown = String::from_utf8_lossy(&outputs[4].stdout).into_owned();
    assert!(shown.contains("rabbitmq_management_url = http://ann@127.0.0.1:1/    #"), "{shown}");
    rig.set("RABBITMQ_MANAGEMENT_URL", "ftp://ann:s3cret@127.0.0.1:1/");
    for (arguments, code) in [(&["doctor"][..], 78), (&["config", "check"], 1)] {
        let output = rig.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        outputs.push(output);
    }
    for output in outputs {
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!text.contains("s3cret"), "{text}");
    }
}
