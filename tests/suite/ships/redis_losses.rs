//! What a Redis has lost, refuses or never had, and what comes of it.

use std::path::Path;
use std::process::Command;

use super::redis::{datagrams, rig_with, wait_pushed};
use super::redis_server::PrivateRedis;
use super::{Fleet, lines, now, rig};
use crate::harness::{Process, Rig, request, wait_for};

/// What `/readyz` says, while it says that not all is well.
fn unready(server: &Process) -> Option<String> {
    let answer = request(server.address(), "GET", "/readyz", &[], b"");
    (answer.status == 503).then(|| String::from_utf8(answer.body).unwrap())
}

#[test]
fn a_redis_that_was_emptied_is_filled_again_though_nothing_new_comes() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    // In two shards, of which one is silent while the other one is sent to.
    for ship in ["a", "TARDIS"] {
        fleet.publish(ship, &lines(ship, from, 2_500));
        wait_pushed(&redis, ship, 2_500);
    }
    redis.ask(0, &["FLUSHALL"]);
    for ship in ["a", "TARDIS"] {
        wait_pushed(&redis, ship, 2_500);
        assert_eq!(redis.list(ship), datagrams(from, 2_500));
    }
    redis.ask(0, &["FLUSHALL"]);
    wait_for("a silent shard to be filled beside a busy one", || {
        fleet.publish("TARDIS", &lines("TARDIS", from, 1));
        (redis.count("a") == 2_500).then_some(())
    });
    assert_eq!(redis.list("a"), datagrams(from, 2_500));
    consumer.stop();
}

#[test]
fn a_loss_of_database_0_alone_is_told_and_doubles_nothing() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    fleet.publish("TARDIS", &lines("TARDIS", from, 9));
    wait_pushed(&redis, "TARDIS", 9);
    redis.ask(0, &["FLUSHDB"]);
    consumer.wait_log("database 0 was emptied and database 1 was not");
    let said = wait_for("readyz to say so", || unready(&server));
    assert!(said.contains("database 0 was emptied"), "{said}");
    fleet.publish("TARDIS", &lines("TARDIS", from, 9)[..1]);
    rig.wait_drained();
    assert_eq!(redis.list("TARDIS"), datagrams(from, 9));
    redis.ask(1, &["FLUSHDB"]);
    wait_pushed(&redis, "TARDIS", 10);
    assert_eq!(redis.length("TARDIS"), 10);
    // Lists that were lost alone are no reason to push anything twice.
    redis.ask(1, &["FLUSHDB"]);
    fleet.publish("TARDIS", &lines("TARDIS", from, 3));
    wait_pushed(&redis, "TARDIS", 13);
    assert_eq!(redis.list("TARDIS"), datagrams(from, 3));
    consumer.stop();
    server.stop();
}

#[test]
fn a_redis_that_answers_and_takes_nothing_is_one_trouble_until_the_consumer_stops() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    let server = rig.serve(&["server"]);
    let fleet = Fleet::of(&rig);
    let (from, mut sent) = (now(), 0);
    for (begin, end, error) in [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "OOM"),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
            "NOREPLICAS",
        ),
    ] {
        redis.ask(0, &begin);
        let consumer = rig.start(&["message-consumer"]);
        fleet.publish("TARDIS", &lines("TARDIS", from, 40));
        sent += 40;
        let refused = format!("errorstat_{error}:count=");
        wait_for("it to refuse several times", || {
            let stats = redis.ask(0, &["INFO", "errorstats"]);
            let count = stats.lines().find_map(|line| line.trim().strip_prefix(&refused))?;
            count.parse::<u32>().ok().filter(|count| *count >= 4)
        });
        rig.wait_drained();
        let said = unready(&server).unwrap_or_default();
        assert!(said.contains("Redis at"), "{said}");
        let log = consumer.stop();
        assert_eq!(log.matches("go on to it when it is back").count(), 1, "{log}");
        let is_told_well = |line: &str| line.contains("INFO") && line.contains(" is back\"");
        assert!(!log.lines().any(is_told_well), "{log}");
        let said = unready(&server).unwrap_or_default();
        assert!(!said.contains("Redis"), "{said}");
        redis.ask(0, &end);
        let consumer = rig.start(&["message-consumer"]);
        wait_pushed(&redis, "TARDIS", sent);
        assert_eq!(redis.length("TARDIS"), sent);
        consumer.stop();
    }
    server.stop();
}

#[test]
fn a_file_that_cannot_be_read_now_is_pushed_when_it_can() {
    let redis = PrivateRedis::stopped(true);
    let mut rig = rig();
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    fleet.publish("TARDIS", &lines("TARDIS", from, 7));
    rig.wait_drained();
    consumer.stop();
    // A folder in its place: it opens, and reading it fails.
    let (file, aside) = (rig.files().remove(0), rig.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    redis.start_again();
    rig.set("REDIS_URL", redis.url());
    let consumer = rig.start(&["message-consumer"]);
    let told = consumer.wait_log("cannot be read");
    assert!(told.contains(&*file.file_name().unwrap().to_string_lossy()), "{told}");
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    wait_pushed(&redis, "TARDIS", 7);
    assert_eq!(redis.list("TARDIS"), datagrams(from, 7));
    consumer.stop();
}

fn copied(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// Publishes, and waits until it is in files.
fn store(rig: &Rig, ship: &str, lines: &[String]) {
    let fleet = Fleet::of(rig);
    fleet.publish(ship, lines);
    rig.wait_drained();
}

#[test]
fn a_restored_state_directory_goes_on_pushing() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    let from = now();
    let consumer = rig.start(&["message-consumer"]);
    store(&rig, "TARDIS", &lines("TARDIS", from, 10));
    wait_pushed(&redis, "TARDIS", 10);
    consumer.stop();
    let both = [rig.state(), rig.output()].map(|dir| (dir.with_extension("copy"), dir));
    both.iter().for_each(|(copy, dir)| copied(dir, copy));
    let consumer = rig.start(&["message-consumer"]);
    // The second ship is one that the copy knows nothing of.
    for ship in ["TARDIS", "a"] {
        store(&rig, ship, &lines(ship, from, 20));
        wait_pushed(&redis, ship, 20);
    }
    wait_pushed(&redis, "TARDIS", 30);
    consumer.stop();
    for (copy, dir) in &both {
        std::fs::remove_dir_all(dir).unwrap();
        copied(copy, dir);
    }
    let consumer = rig.start(&["message-consumer"]);
    let told = consumer.wait_log("as after a restore");
    assert!(told.contains("\"lines_pushed\":"), "{told}");
    consumer.wait_log("pushing telemetry into lists");
    let new = from + chrono::TimeDelta::seconds(1);
    for (ship, before) in [("TARDIS", 30), ("a", 20)] {
        store(&rig, ship, &lines(ship, new, 5));
        wait_pushed(&redis, ship, before + 5);
        let found = redis.list(ship);
        assert_eq!(found[found.len() - 5..], datagrams(new, 5));
        assert_eq!(found.len() as u64, before + 5);
    }
    consumer.stop();
}
