//! The Redis sink: each datagram in the list of its ship once, whatever happens to either side.

use chrono::{DateTime, Utc};

use super::redis_server::PrivateRedis;
use super::{Fleet, datagram_at, line, lines, now, rig, ship_lines};
use crate::harness::{Rig, request, wait_for};

pub(super) fn rig_with(redis: &PrivateRedis) -> Rig {
    let mut rig = rig();
    // So that files are committed in the order in which their lines were published.
    rig.set("REDIS_URL", redis.url()).set("WORKERS_COUNT", 1).set("WORKERS_MAX", 1);
    rig
}

/// What ships have sent for the lines that [`lines`] makes.
pub(super) fn datagrams(from: DateTime<Utc>, count: u64) -> Vec<String> {
    let lines = lines("x", from, count);
    lines.iter().map(|line| line.replacen(r#"{"ship":"x","#, "{", 1)).collect()
}

pub(super) fn wait_pushed(redis: &PrivateRedis, ship: &str, count: u64) {
    wait_for(&format!("{count} datagrams of {ship}"), || {
        (redis.count(ship) >= count).then_some(())
    });
}

#[test]
fn each_ship_has_a_list_of_its_datagrams_as_it_has_sent_them() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    // More than one piece, and names that are no names of ours.
    let hostile = "async-data-processor:ships";
    let odd = "*\" ] {\u{2028}🚀";
    let from = now();
    for some in lines("TARDIS", from, 5_000).chunks(2_500) {
        fleet.publish("TARDIS", some);
    }
    fleet.publish(hostile, &[line(hostile, from, 5, 0)]);
    fleet.publish(odd, &[line(odd, from, 6, 0)]);
    wait_pushed(&redis, "TARDIS", 5_000);
    wait_pushed(&redis, hostile, 1);
    wait_pushed(&redis, odd, 1);
    assert_eq!(redis.list("TARDIS"), datagrams(from, 5_000));
    assert_eq!(redis.list(hostile), [datagram_at(from, 5, 0)]);
    assert_eq!(redis.list(odd), [datagram_at(from, 6, 0)]);
    // R2's tools take every key of the database for a ship.
    assert_eq!(redis.ask(1, &["DBSIZE"]), "3");
    let counted = rig.run(&["ship-data", "--from-redis"]);
    let expected = format!("{odd}: 1\nTARDIS: 5000\n{hostile}: 1\n");
    assert_eq!(String::from_utf8(counted.stdout).unwrap(), expected);
    consumer.stop();
}

#[test]
fn a_list_is_trimmed_and_its_count_is_not() {
    let redis = PrivateRedis::start();
    let mut rig = rig_with(&redis);
    rig.set("SHIP_LIST_MAX", 100);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    let all = datagrams(from, 450);
    for some in lines("TARDIS", from, 450).chunks(150) {
        fleet.publish("TARDIS", some);
    }
    wait_pushed(&redis, "TARDIS", 450);
    assert_eq!((redis.list("TARDIS"), redis.count("TARDIS")), (all[350..].to_vec(), 450));
    consumer.stop();
    rig.set("SHIP_LIST_MAX", 0);
    let consumer = rig.start(&["message-consumer"]);
    fleet.publish("TARDIS", &lines("TARDIS", from, 450));
    wait_pushed(&redis, "TARDIS", 900);
    assert_eq!(redis.length("TARDIS"), 550);
    consumer.stop();
}

#[test]
fn a_redis_and_a_consumer_killed_in_the_middle_have_each_line_once() {
    let redis = PrivateRedis::start();
    let mut rig = rig_with(&redis);
    rig.set("BATCH_MAX", 700).set("WORKERS_COUNT", 3).set("WORKERS_MAX", 4);
    let fleet = Fleet::of(&rig);
    let from = now();
    let (all, mut expected) = (lines("TARDIS", from, 30_000), datagrams(from, 30_000));
    let mut consumer = rig.start(&["message-consumer"]);
    for (turn, some) in all.chunks(3_000).enumerate() {
        fleet.publish("TARDIS", some);
        // Sooner or later in what is pushed then.
        let enough = 3_000 * turn as u64 + 150 * turn as u64;
        wait_for("some to be pushed", || (redis.count("TARDIS") >= enough).then_some(()));
        match turn % 3 {
            0 => {
                redis.kill();
                redis.start_again();
            }
            1 => {
                consumer.kill();
                consumer = rig.start(&["message-consumer"]);
            }
            _ => {
                // Its answers are late, and some are given up.
                redis.pause();
                consumer.kill();
                consumer = rig.start(&["message-consumer"]);
                redis.resume();
            }
        }
    }
    wait_pushed(&redis, "TARDIS", 30_000);
    // Several workers commit in whatever order they get done.
    let mut found = redis.list("TARDIS");
    found.sort();
    expected.sort();
    assert!(found == expected, "not each line once");
    let stored = ship_lines(&rig);
    let stored: Vec<_> = stored.iter().map(|l| l.replacen("\"ship\":\"TARDIS\",", "", 1)).collect();
    assert!(redis.list("TARDIS") == stored, "not in the order of the files");
    assert_eq!(redis.count("TARDIS"), 30_000);
    consumer.stop();
}

#[test]
fn a_redis_that_is_away_is_told_and_gets_all_when_it_is_back() {
    let redis = PrivateRedis::stopped(false);
    let rig = rig_with(&redis);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    fleet.publish("TARDIS", &lines("TARDIS", from, 1_000));
    rig.wait_drained();
    let told = consumer.wait_log("readings are in files, and go on to it when it is back");
    assert!(told.contains("Redis at 127.0.0.1") && !told.contains("s3cret"), "{told}");
    let ready = || request(server.address(), "GET", "/readyz", &[], b"");
    let unready = wait_for("readyz to say so", || Some(ready()).filter(|a| a.status == 503));
    let said = String::from_utf8(unready.body).unwrap();
    assert!(said.contains("Redis at 127.0.0.1"), "{said}");
    redis.start_again();
    wait_pushed(&redis, "TARDIS", 1_000);
    wait_for("readyz to be well", || (ready().status == 200).then_some(()));
    // It forgets all, as nothing was persisted; and gets all again.
    redis.kill();
    redis.start_again();
    wait_pushed(&redis, "TARDIS", 1_000);
    assert_eq!(redis.list("TARDIS"), datagrams(from, 1_000));
    // One that is no longer wanted is no trouble.
    redis.kill();
    wait_for("readyz to say so again", || (ready().status == 503).then_some(()));
    consumer.kill();
    let mut without = rig;
    without.set("REDIS_URL", "");
    let consumer = without.start(&["message-consumer"]);
    wait_for("readyz to be well", || (ready().status == 200).then_some(()));
    consumer.stop();
    server.stop();
}

#[test]
fn a_file_that_was_taken_away_is_told_and_passed_over() {
    let redis = PrivateRedis::stopped(true);
    let mut rig = rig();
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    fleet.publish("TARDIS", &lines("TARDIS", from, 7));
    rig.wait_drained();
    consumer.stop();
    std::fs::remove_dir_all(rig.output().join("ships")).unwrap();
    redis.start_again();
    rig.set("REDIS_URL", redis.url());
    let consumer = rig.start(&["message-consumer"]);
    fleet.publish("TARDIS", &[line("TARDIS", from, 9, 9)]);
    wait_pushed(&redis, "TARDIS", 1);
    assert_eq!(redis.list("TARDIS"), [datagram_at(from, 9, 9)]);
    let told = consumer.wait_log("readings are in no list");
    assert!(told.contains("taken away") && told.contains("\"lines\":7"), "{told}");
    consumer.stop();
}

#[test]
fn a_key_that_is_no_list_holds_up_and_breaks_nothing() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    redis.ask(1, &["SET", "b", "not ours"]);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now();
    // In one batch, if they are in one shard; in any case nothing is half done.
    fleet.publish("a", &[line("a", from, 5, 0)]);
    fleet.publish("b", &[line("b", from, 6, 0)]);
    consumer.wait_log("is no list: b");
    assert_eq!(redis.ask(1, &["GET", "b"]), "not ours");
    redis.ask(1, &["DEL", "b"]);
    wait_pushed(&redis, "a", 1);
    wait_pushed(&redis, "b", 1);
    assert_eq!(
        (redis.list("a"), redis.list("b")),
        (vec![datagram_at(from, 5, 0)], vec![datagram_at(from, 6, 0)],)
    );
    consumer.stop();
}

#[test]
fn two_consumers_of_one_directory_push_each_line_once() {
    let redis = PrivateRedis::start();
    let rig = rig_with(&redis);
    let first = rig.start(&["message-consumer"]);
    first.wait_log("pushing telemetry into lists");
    let second = rig.start(&["message-consumer"]);
    second.wait_log("another process pushes to Redis");
    let fleet = Fleet::of(&rig);
    let from = now();
    fleet.publish("TARDIS", &lines("TARDIS", from, 3_000));
    wait_for("some to be pushed", || (redis.count("TARDIS") > 0).then_some(()));
    first.kill();
    second.wait_log("pushing telemetry into lists");
    wait_pushed(&redis, "TARDIS", 3_000);
    assert_eq!(redis.list("TARDIS"), datagrams(from, 3_000));
    second.stop();
}

#[test]
fn a_url_that_is_none_or_names_another_database_is_refused() {
    for (url, said) in
        [("redis://host/3", "leave the database out"), ("http://host", "it is no URL such as")]
    {
        let mut rig = rig();
        rig.set("REDIS_URL", url);
        let refused = rig.run(&["message-consumer"]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(78), "{told}");
        assert!(told.contains("REDIS_URL") && told.contains(said), "{told}");
    }
    let rig = rig();
    let refused = rig.run(&["ship-data", "--from-redis"]);
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let mut rig = Rig::new();
    rig.set("REDIS_URL", "redis://127.0.0.1:1");
    let refused = rig.run(&["ship-data", "--from-redis"]);
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
}
