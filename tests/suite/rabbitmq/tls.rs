//! amqps: who is trusted, who is let in, and what is said and kept when that is not so.

use std::path::Path;

use super::broker::PrivateBroker;
use super::certificates::Certificates;
use super::wait::{rig_over, wait_in_files};
use crate::harness::{Rig, entry, post, request, wait_for};

/// A rig that trusts an authority, and shows a certificate if it has one.
fn rig(broker: &PrivateBroker, authority: &Path, identity: Option<(&Path, &Path)>) -> Rig {
    let mut rig = rig_over(&broker.tls_url());
    rig.set("RABBITMQ_CA", authority.display());
    if let Some((certificate, key)) = identity {
        rig.set("RABBITMQ_CERT", certificate.display()).set("RABBITMQ_KEY", key.display());
    }
    rig
}

fn publish(rig: &Rig, values: &[&str]) -> std::process::Output {
    let lines: Vec<_> = values.iter().map(|value| entry(0, value)).collect();
    rig.run_with_input(&["publish"], lines.join("\n").as_bytes())
}

#[test]
fn whoever_trusts_the_broker_and_is_trusted_sends_and_gets_messages() {
    let dir = tempfile::tempdir().unwrap();
    let files = Certificates::in_dir(dir.path());
    let broker = PrivateBroker::with_tls(&files, true);
    let rig = rig(&broker, &files.ca, Some((&files.client, &files.client_key)));
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let body = format!("[{}]", entry(0, "posted"));
    assert_eq!(post(server.address(), body.as_bytes()).status, 201);
    assert_eq!(publish(&rig, &["piped"]).status.code(), Some(0));
    let mut lines = wait_in_files(&broker, "/", &rig);
    lines.sort();
    assert_eq!(lines, [entry(0, "piped"), entry(0, "posted")]);
    consumer.stop();
    server.stop();
}

/// Expects that server, consumer and `publish` say `reason` and what to do, that nothing is taken
/// that could be lost, and that the processes go on trying.
fn refused(rig: &Rig, host: &str, reason: &str) {
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    for process in [&server, &consumer] {
        // A broker that hangs up may do so before what it says is read: then the next try tells.
        let line = process.wait_log(reason);
        assert!(line.contains("\"WARN\"") && line.contains(host), "{line}");
        assert!(line.contains("connecting to the broker") && line.contains("RABBITMQ_"), "{line}");
    }
    let body = format!("[{}]", entry(0, "posted"));
    let answer = post(server.address(), body.as_bytes());
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 503 && said.contains("nothing was stored"), "{said}");
    wait_for("/readyz to tell the reason", || {
        let ready = request(server.address(), "GET", "/readyz", &[], b"");
        assert_eq!(ready.status, 503);
        String::from_utf8_lossy(&ready.body).contains(reason).then_some(())
    });
    let piped = publish(rig, &["piped"]);
    let said = String::from_utf8_lossy(&piped.stderr).into_owned();
    assert_eq!(piped.status.code(), Some(75), "{said}");
    assert!(said.contains(reason) && said.contains(host), "{said}");
    assert_eq!(piped.stdout, b"{\"stored\":0,\"lines\":0}\n");
    // Both are there still, and end in order.
    consumer.stop();
    server.stop();
}

#[test]
fn an_unknown_authority_a_wrong_name_or_no_certificate_is_told_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Certificates::in_dir(dir.path());
    let broker = PrivateBroker::with_tls(&files, true);
    let identity = Some((files.client.as_path(), files.client_key.as_path()));
    std::thread::scope(|scope| {
        let wrong = rig(&broker, &files.other_ca, identity);
        scope.spawn(move || refused(&wrong, "@localhost:", "RABBITMQ_CA"));
        let bare = rig(&broker, &files.ca, None);
        scope.spawn(move || refused(&bare, "@localhost:", "RABBITMQ_CERT"));
    });
    drop(broker);
    (files.server, files.server_key) = (files.stranger.clone(), files.stranger_key.clone());
    let stranger = PrivateBroker::with_tls(&files, false);
    refused(&rig(&stranger, &files.ca, None), "@localhost:", "name");
}
