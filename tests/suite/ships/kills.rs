//! Counts equal lines in files, whenever a consumer is killed.

use std::collections::BTreeMap;

use async_data_processor::rooms::telemetry::ships::table;

use super::{Fleet, lines, now, rig, ship_lines};
use crate::harness::wait_for;

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
    let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in ship_lines(&rig) {
        let ship = serde_json::from_str::<serde_json::Value>(&line).unwrap();
        let (count, bytes) = found.entry(ship["ship"].as_str().unwrap().to_owned()).or_default();
        *count += 1;
        *bytes += line.len() as u64 + 1;
    }
    let txn = fleet.state.read().unwrap();
    let rows = table::ships(&txn, fleet.state.tables(), None, 10).unwrap();
    let counted: BTreeMap<_, _> =
        rows.iter().map(|(name, row)| (name.to_string(), (row.count, row.bytes))).collect();
    assert_eq!(counted, found);
    let published: BTreeMap<_, _> =
        sent.iter().map(|(ship, lines)| ((*ship).to_owned(), lines.len() as u64)).collect();
    assert_eq!(
        counted.iter().map(|(n, c)| (n.clone(), c.0)).collect::<BTreeMap<_, _>>(),
        published
    );
    // The figures of all seconds come to the same.
    let seconds = fleet.state.tables().ship_seconds;
    let in_seconds: u64 = seconds
        .iter(&txn)
        .unwrap()
        .map(|row| u64::from_be_bytes(row.unwrap().1[..8].try_into().unwrap()))
        .sum();
    assert_eq!(in_seconds, published.values().sum::<u64>());
}
