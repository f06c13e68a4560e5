//! What is kept of each ship, as `GET /ships` tells it, and what each tool says of telemetry.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{Fleet, line, lines, now, rig, ship_lines};
use crate::harness::{Process, Rig, post_entries, request, wait_for};

fn get(server: &Process, path: &str) -> (u16, Value) {
    let answer = request(server.address(), "GET", path, &[], b"");
    (answer.status, answer.json())
}

#[test]
fn telemetry_has_files_workers_and_an_account_of_its_own() {
    let mut rig = rig();
    // A program is for messages alone.
    rig.set("EXEC", "tr a-z A-Z");
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    post_entries(server.address(), &[crate::harness::entry(0, "a")]);
    let fleet = Fleet::of(&rig);
    let sent = lines("TARDIS", now(), 40);
    let receipt = fleet.publish("TARDIS", &sent).receipt.unwrap().to_string();
    let account = rig.wait_drained();
    assert_eq!(ship_lines(&rig), sent);
    let shards = account["shards"].as_array().unwrap();
    let of = |topic: Value| shards.iter().filter(move |shard| shard["topic"] == topic);
    assert_eq!(of(Value::Null).map(|s| s["in_files"].as_u64().unwrap()).sum::<u64>(), 1);
    let telemetry: Vec<_> = of("telemetry".into()).collect();
    assert_eq!((telemetry.len(), &telemetry[0]["in_files"]), (1, &json!(40)));
    let shard = telemetry[0]["shard"].as_u64().unwrap();
    let table = String::from_utf8(rig.run(&["verify"]).stdout).unwrap();
    assert!(table.contains(&format!("   t{shard}           40")), "{table}");
    let (status, report) = get(&server, &format!("/receipt/{receipt}"));
    assert!(receipt.contains(&format!("_t{shard}-0-40")), "{receipt}");
    assert_eq!(
        (status, &report["in_files"], &report["parts"][0]["topic"]),
        (200, &json!(40), &json!("telemetry"),)
    );
    let history = rig.run(&["history", "--output", "json"]).stdout;
    let history: Value = serde_json::from_slice(&history).unwrap();
    let messages = |prefix: &str| {
        let workers = history.as_array().unwrap().iter();
        let of = workers.filter(|row| row["worker"].as_str().unwrap().starts_with(prefix));
        of.map(|row| row["messages"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((messages("shard-"), messages(&format!("telemetry-shard-{shard}-"))), (1, 40));
    let metrics = request(server.address(), "GET", "/metrics", &[], b"").body;
    let metrics = String::from_utf8(metrics).unwrap();
    let total = format!("telemetry_accepted_total{{shard=\"{shard}\"}} 40");
    assert!(metrics.contains(&total), "{metrics}");
    consumer.stop();
    server.stop();
}

#[test]
fn what_waits_of_telemetry_is_seen_by_tap_and_readyz() {
    let rig = rig();
    let server = rig.serve(&["server"]);
    let fleet = Fleet::of(&rig);
    let sent = lines("TARDIS", now(), 3);
    fleet.publish("TARDIS", &sent);
    let tap = |more: &[&str]| {
        let arguments = [&["tap", "--from", "waiting", "--count", "3"], more].concat();
        String::from_utf8(rig.run(&arguments).stdout).unwrap()
    };
    assert_eq!(tap(&["--topic", "telemetry"]).lines().collect::<Vec<_>>(), sent);
    let unready = wait_for("readyz to say that nobody consumes", || {
        let answer = request(server.address(), "GET", "/readyz", &[], b"");
        (answer.status == 503).then(|| String::from_utf8(answer.body).unwrap())
    });
    assert!(unready.contains("telemetry shard") && unready.contains("nobody"), "{unready}");
    server.stop();
}

/// Stores lines and waits until they are in files.
fn stored(rig: &Rig, fleet: &Fleet, ship: &str, lines: &[String]) {
    fleet.publish(ship, lines);
    rig.wait_drained();
}

#[test]
fn ships_are_listed_by_name_with_their_latest() {
    let rig = rig();
    let up = rig.serve(&["up"]);
    let fleet = Fleet::of(&rig);
    let from = now() - TimeDelta::seconds(10);
    let hostile = "</ships>; \"..\" %2e 🚀,\\";
    stored(&rig, &fleet, "b", &[line("b", from, 7, 0), line("b", from - TimeDelta::days(2), 9, 1)]);
    stored(&rig, &fleet, hostile, &[line(hostile, from, 8, 0)]);
    let (status, list) = get(&up, "/ships");
    let at = from.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let expected = json!([
        { "name": hostile, "count": 1, "last_at": at, "value": 8.0 },
        { "name": "b", "count": 2, "last_at": at, "value": 7.0 },
    ]);
    assert_eq!((status, list), (200, expected));
    let first = request(up.address(), "GET", "/ships?limit=1", &[], b"");
    let link = first.header("link").unwrap().to_owned();
    let next = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    assert_eq!(get(&up, next).1[0]["name"], "b");
    let encoded = percent_encode(hostile);
    let (status, ship) = get(&up, &format!("/ships/{encoded}?points=1"));
    assert_eq!(
        (status, &ship["name"], &ship["latest"]["ship"]),
        (200, &json!(hostile), &json!(hostile),)
    );
    for (path, status, said) in [
        ("/ships/none", 404, "nothing is stored"),
        ("/ships/%00", 404, "nothing is stored"),
        ("/ships/%ff", 404, "nothing is stored"),
        ("/ships/b?points=2001", 400, "points"),
        ("/ships/b?from=yesterday", 400, "RFC 3339"),
        ("/ships/b?from=2026-11-22T07:30:00Z&to=2026-11-22T07:30:00Z", 400, "before"),
        ("/ships?after=%00", 400, "control"),
    ] {
        let (found, problem) = get(&up, path);
        assert_eq!((found, &problem["status"]), (status, &json!(status)), "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{path}: {problem}");
    }
    up.stop();
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[test]
fn a_chart_has_what_was_measured_and_its_gaps() {
    let rig = rig();
    let up = rig.serve(&["up"]);
    let fleet = Fleet::of(&rig);
    let from = now() - TimeDelta::seconds(100);
    let at = |second: i64, value| line("TARDIS", from + TimeDelta::seconds(second), value, 0);
    stored(&rig, &fleet, "TARDIS", &[at(0, 10), at(0, 20), at(1, 30), at(8, 5)]);
    // Of a second that another batch has begun.
    stored(&rig, &fleet, "TARDIS", &[at(1, 40)]);
    let rfc = |second| (from + TimeDelta::seconds(second)).to_rfc3339().replace("+00:00", "Z");
    let (status, ship) =
        get(&up, &format!("/ships/TARDIS?from={}&to={}&points=5", rfc(0), rfc(10)));
    let point = |second, count: u64, figures: Option<[f64; 3]>| {
        let [min, avg, max] = figures.map_or([None; 3], |figures| figures.map(Some));
        json!({ "at": rfc(second), "count": count, "min": min, "avg": avg, "max": max })
    };
    let gap = |second| point(second, 0, None);
    let expected = json!([
        point(0, 4, Some([10.0, 25.0, 40.0])),
        gap(2),
        gap(4),
        gap(6),
        point(8, 1, Some([5.0; 3])),
    ]);
    assert_eq!((status, &ship["bucket_seconds"], &ship["points"]), (200, &json!(2), &expected));
    assert_eq!((&ship["count"], &ship["latest"]["value"]), (&json!(5), &json!(5)));
    // Nothing is said: the hour up to the last, all of it in one point or the other.
    let (_, ship) = get(&up, "/ships/TARDIS");
    let points = ship["points"].as_array().unwrap();
    assert!(points.len() <= 300 && points.last().unwrap()["count"] != 0, "{ship}");
    assert_eq!(points.iter().map(|point| point["count"].as_u64().unwrap()).sum::<u64>(), 5);
    up.stop();
}

#[test]
fn old_figures_are_forgotten_and_counts_are_not() {
    let mut rig = rig();
    rig.set("SHIP_SECONDS_KEPT", 60).set("SHIP_MINUTES_KEPT", 30);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let from = now() - TimeDelta::seconds(40 * 60);
    // A second each: more than are deleted with one batch.
    let old: Vec<_> = (0..2_400).map(|n| line("old", from + TimeDelta::seconds(n), 7, 0)).collect();
    stored(&rig, &fleet, "old", &old);
    let rows = || {
        let txn = fleet.state.read().unwrap();
        let tables = fleet.state.tables();
        (tables.ship_seconds.len(&txn).unwrap(), tables.ship_minutes.len(&txn).unwrap())
    };
    let (seconds, minutes) = rows();
    assert!(seconds <= 61 && (30..=32).contains(&minutes), "{seconds} and {minutes}");
    consumer.stop();
    // With less to keep, the rows of a ship that sends no more go as others send.
    rig.set("SHIP_SECONDS_KEPT", 0).set("SHIP_MINUTES_KEPT", 0);
    let consumer = rig.start(&["message-consumer"]);
    wait_for("the old rows to be gone", || {
        stored(&rig, &fleet, "new", &[line("new", now() - TimeDelta::hours(1), 7, 0)]);
        (rows() == (0, 0)).then_some(())
    });
    consumer.stop();
    let server = rig.serve(&["server"]);
    let (_, list) = get(&server, "/ships");
    assert_eq!((&list[1]["name"], &list[1]["count"]), (&json!("old"), &json!(2_400)));
    server.stop();
}

#[test]
fn telemetry_shortens_nothing_that_is_known_of_messages() {
    let mut rig = rig();
    rig.set("JOURNAL_BATCHES", 3).set("WORKERS_COUNT", 1).set("WORKERS_MAX", 1);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let pruned = |topic: Value| {
        let account = rig.verify(&[]);
        let shards = account["shards"].as_array().unwrap().iter();
        let of = shards.filter(|shard| shard["topic"] == topic);
        of.map(|shard| shard["pruned"].as_u64().unwrap()).sum::<u64>()
    };
    post_entries(server.address(), &[crate::harness::entry(0, "a")]);
    rig.wait_drained();
    for _ in 0..8 {
        stored(&rig, &fleet, "TARDIS", &lines("TARDIS", now(), 1));
    }
    assert_eq!((pruned(Value::Null), pruned("telemetry".into())), (0, 5));
    for _ in 0..5 {
        post_entries(server.address(), &[crate::harness::entry(0, "a")]);
        rig.wait_drained();
    }
    assert_eq!((pruned(Value::Null), pruned("telemetry".into())), (3, 5));
    consumer.stop();
    server.stop();
}
