//! Counts equal lines in files, whenever a consumer is killed.

use std::collections::BTreeMap;

use async_data_processor::broker::PublishError;
use async_data_processor::rooms::telemetry::ships::table;
use chrono::TimeDelta;

use super::{Fleet, line, lines, now, rig, ship_lines};
use crate::harness::{Rig, wait_for};

/// How often a consumer is killed.
const KILLS: u64 = 12;
const SHIPS: [&str; 3] = ["TARDIS", "USS Enterprise", "\"E\", {\"ship\":\"F\"}"];

#[test]
fn counts_equal_lines_in_files_after_kills_at_any_moment() {
    let mut rig = rig();
    rig.set("BATCH_MAX", 50);
    let fleet = Fleet::of(&rig);
    let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for kill in 0..KILLS {
        let consumer = rig.start(&["message-consumer"]);
        for ship in SHIPS {
            let some = lines(ship, now(), 400 + kill);
            fleet.publish(ship, &some);
            sent.entry(ship).or_default().extend(some);
        }
        // Sooner or later each time: before, while and after files are written.
        let enough = kill * 3;
        wait_for("some files", || (rig.files().len() as u64 >= enough).then_some(()));
        consumer.kill();
    }
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    let published = sent.iter().map(|(ship, lines)| ((*ship).to_owned(), lines.len() as u64));
    assert_eq!(counted(&rig, &fleet), published.collect());
}

/// How many readings of each ship there are, by the accounts and by the files alike.
fn counted(rig: &Rig, fleet: &Fleet) -> BTreeMap<String, u64> {
    let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in ship_lines(rig) {
        let ship = serde_json::from_str::<serde_json::Value>(&line).unwrap();
        let (count, bytes) = found.entry(ship["ship"].as_str().unwrap().to_owned()).or_default();
        *count += 1;
        *bytes += line.len() as u64 + 1;
    }
    let txn = fleet.state.read().unwrap();
    let rows = table::ships(&txn, fleet.state.tables(), None, 1000).unwrap();
    let counted: BTreeMap<_, _> =
        rows.iter().map(|(name, row)| (name.to_string(), (row.count, row.bytes))).collect();
    assert_eq!(counted, found);
    // The figures of all seconds come to the same.
    let seconds = fleet.state.tables().ship_seconds;
    let in_seconds: u64 = seconds
        .iter(&txn)
        .unwrap()
        .map(|row| u64::from_be_bytes(row.unwrap().1[..8].try_into().unwrap()))
        .sum();
    assert_eq!(in_seconds, counted.values().map(|(count, _)| count).sum::<u64>());
    counted.into_iter().map(|(ship, (count, _))| (ship, count)).collect()
}

#[test]
fn telemetry_that_waits_is_stored_under_another_number_of_shards() {
    let mut rig = rig();
    rig.set("SHARDS_COUNT", 2);
    let fleet = Fleet::of(&rig);
    let ships: Vec<_> = (0..20).map(|n| format!("ship {n}")).collect();
    ships.iter().for_each(|ship| drop(fleet.publish(ship, &lines(ship, now(), 30))));
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    let expected = ships.into_iter().map(|ship| (ship, 30)).collect();
    assert_eq!(counted(&rig, &fleet), expected);
}

#[test]
fn counts_equal_lines_in_files_after_the_map_was_full() {
    let mut rig = rig();
    rig.set("STATE_MAP_BYTES", 16 << 20);
    let fleet = Fleet::with_map(&rig, 16 << 20);
    let mut sent = 0_u64;
    for turn in 0..3 {
        // A second each, so that the accounts take up room as well.
        let from = now() - TimeDelta::seconds(80_000 - turn * 1_000);
        let some: Vec<_> =
            (0..500).map(|n| line("TARDIS", from + TimeDelta::seconds(n), 5, 0)).collect();
        let mut unit = 0;
        let refused = loop {
            match fleet.try_publish("TARDIS", &some, &format!("{turn} {unit}")) {
                Ok(_) => (unit, sent) = (unit + 1, sent + 500),
                Err(refused) => break refused,
            }
        };
        assert!(unit > 0 && matches!(refused, PublishError::Full(_)), "{refused:?}");
        let consumer = rig.start(&["message-consumer"]);
        wait_for("some files", || (!rig.files().is_empty()).then_some(()));
        consumer.kill();
        let consumer = rig.start(&["message-consumer"]);
        rig.wait_drained();
        consumer.stop();
        assert_eq!(counted(&rig, &fleet), BTreeMap::from([("TARDIS".to_owned(), sent)]));
    }
}
