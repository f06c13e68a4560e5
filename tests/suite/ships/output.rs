//! What `ship-data` prints.

use std::path::PathBuf;
use std::process::Output;

use chrono::TimeDelta;

use super::{Fleet, line, lines, now, rig};
use crate::harness::{Process, Rig, wait_for};

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// What it prints, where it has nothing to say beside.
fn printed(rig: &Rig, flags: &[&str]) -> String {
    let (code, printed, told) = said(&rig.run(&[&["ship-data"], flags].concat()));
    assert_eq!((code, told.as_str()), (0, ""), "{flags:?}");
    printed
}

/// Stores lines of two ships, of which the second has an odd name, in several files.
fn two_ships(rig: &Rig) -> (Fleet, [Vec<String>; 2]) {
    let fleet = Fleet::of(rig);
    let from = now() - TimeDelta::seconds(100);
    let ships = [lines("TARDIS", from, 4), lines(ODD, from + TimeDelta::seconds(90), 3)];
    for (ship, lines) in ["TARDIS", ODD].iter().zip(&ships) {
        for some in lines.chunks(2) {
            fleet.publish(ship, some);
            rig.wait_drained();
        }
    }
    (fleet, ships)
}

const ODD: &str = "the \"E\", 1: 2";

#[test]
fn counts_are_a_line_for_each_ship() {
    let rig = rig();
    let consumer = rig.start(&["message-consumer"]);
    let (fleet, _) = two_ships(&rig);
    assert_eq!(printed(&rig, &[]), format!("TARDIS: 4\n{ODD}: 3\n"));
    // What waits is not stored yet; what was taken away was.
    consumer.stop();
    fleet.publish("TARDIS", &lines("TARDIS", now(), 9));
    std::fs::remove_dir_all(rig.output().join("ships")).unwrap();
    assert_eq!(printed(&rig, &[]), format!("TARDIS: 4\n{ODD}: 3\n"));
}

#[test]
fn nothing_is_made_where_nothing_is() {
    let (code, printed, told) = said(&rig().run(&["ship-data"]));
    assert_eq!((code, printed.as_str()), (73, ""), "{told}");
}

#[test]
fn readings_come_in_the_order_of_their_commits_and_are_filtered() {
    let mut rig = rig();
    rig.set("COMPRESS", "zstd");
    let consumer = rig.start(&["message-consumer"]);
    let (_fleet, [tardis, odd]) = two_ships(&rig);
    let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let all = [tardis.clone(), odd.clone()].concat();
    assert_eq!(printed(&rig, &["--output", "json"]), text(&all));
    assert_eq!(printed(&rig, &["--ship", ODD]), text(&odd));
    assert_eq!(printed(&rig, &["--since", "50s"]), text(&odd));
    let at = (now() - TimeDelta::days(1)).to_rfc3339();
    assert_eq!(printed(&rig, &["--ship", "TARDIS", "--since", &at]), text(&tardis));
    assert_eq!(printed(&rig, &["--ship", "nobody"]), "");
    let csv = printed(&rig, &["--output", "csv", "--ship", ODD]);
    let rows: Vec<_> = odd
        .iter()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let timestamp = line["timestamp"].as_str().unwrap();
            let (value, sequence) = (&line["value"], &line["sequence"]);
            format!("\"the \"\"E\"\", 1: 2\",{timestamp},Battery Voltage,{value},V,{sequence}\n")
        })
        .collect();
    assert_eq!(csv, "ship,timestamp,description,value,unit,sequence\n".to_owned() + &rows.concat());
    consumer.stop();
}

#[test]
fn what_was_taken_away_or_is_damaged_is_told() {
    let rig = rig();
    let consumer = rig.start(&["message-consumer"]);
    let (_fleet, [tardis, odd]) = two_ships(&rig);
    consumer.stop();
    let files = rig.files();
    std::fs::remove_file(&files[0]).unwrap();
    let damaged = std::fs::read(&files[3]).unwrap();
    std::fs::write(&files[3], &damaged[1..]).unwrap();
    let (code, printed, told) = said(&rig.run(&["ship-data", "--output", "json"]));
    let whole: Vec<_> =
        tardis[2..].iter().chain(&odd[..2]).map(|line| format!("{line}\n")).collect();
    assert_eq!((code, printed), (0, whole.concat()));
    let name = files[3].strip_prefix(rig.output()).unwrap().display().to_string();
    let told: Vec<_> = told.lines().collect();
    assert!(told[0].starts_with(&format!("ship-data: {name} is damaged: ")), "{told:?}");
    assert_eq!(
        told[1..],
        [
            "ship-data: not shown: 2 readings in a file that was taken away",
            "ship-data: not shown: 1 reading in damaged files, see verify",
        ]
    );
}

#[test]
fn what_the_journal_has_forgotten_is_told() {
    let mut rig = rig();
    rig.set("JOURNAL_BATCHES", 1).set("WORKERS_COUNT", 1).set("WORKERS_MAX", 1);
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    for _ in 0..5 {
        fleet.publish("TARDIS", &lines("TARDIS", now(), 2));
        rig.wait_drained();
    }
    consumer.stop();
    let (_, printed, told) = said(&rig.run(&["ship-data", "--output", "json"]));
    let missing = 10 - printed.lines().count();
    assert!((6..10).contains(&missing), "{printed}");
    let expected = format!(
        "ship-data: not shown: {missing} readings in files that the journal no longer knows\n"
    );
    assert_eq!(told, expected);
    let told = |flags: &[&str]| said(&rig.run(&[&["ship-data"], flags].concat())).2;
    assert_eq!(told(&["--ship", "x"]), expected.replace("readings in", "readings of all ships in"));
    assert_eq!(told(&["--since", "1h"]), expected);
    // All that is asked for is known.
    assert_eq!(told(&["--since", "0s"]), "");
}

#[test]
fn what_is_dated_far_ahead_is_left_out_of_what_is_new() {
    let rig = rig();
    let consumer = rig.start(&["message-consumer"]);
    let fleet = Fleet::of(&rig);
    let at = |hours| line("TARDIS", now() + TimeDelta::hours(hours), 5, 0);
    let [today, ahead] = [at(0), at(25)];
    fleet.publish("TARDIS", &[today.clone(), ahead.clone()]);
    rig.wait_drained();
    assert_eq!(printed(&rig, &["--since", "1h"]), format!("{today}\n"));
    assert_eq!(printed(&rig, &["--ship", "TARDIS"]), format!("{today}\n{ahead}\n"));
    consumer.stop();
}

/// A `ship-data --follow` whose stdout goes into a file.
fn follow(rig: &Rig, file: &str, flags: &[&str]) -> (Process, PathBuf) {
    let redirected = format!("exec \"$0\" \"$@\" >{file}");
    let wrapper = ["bash", "-c", &redirected];
    let mut command = rig.wrapped(&wrapper, &[&["ship-data", "--follow"], flags].concat());
    command.env("LOG", "debug");
    let process = Process::start(command);
    process.wait_log("following");
    (process, rig.dir.path().join(file))
}

#[test]
fn follow_goes_on_with_what_is_committed_and_ends_by_ctrl_c() {
    let rig = rig();
    let consumer = rig.start(&["message-consumer"]);
    let (fleet, [_, odd]) = two_ships(&rig);
    let (mut live, shown) = follow(&rig, "live", &["--ship", "TARDIS"]);
    let (mut since, shown_since) = follow(&rig, "since", &["--since", "50s"]);
    let at = now();
    fleet.publish("TARDIS", &[line("TARDIS", at, 5, 0)]);
    fleet.publish(ODD, &[line(ODD, at, 6, 0)]);
    fleet.publish("TARDIS", &[line("TARDIS", at, 7, 1)]);
    let lines_of = |file: &PathBuf| {
        let mut lines: Vec<_> =
            std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut new = vec![line("TARDIS", at, 5, 0), line("TARDIS", at, 7, 1)];
    wait_for("the new readings", || (lines_of(&shown) == new).then_some(()));
    new.push(line(ODD, at, 6, 0));
    new.extend(odd);
    new.sort();
    wait_for("the old ones as well", || (lines_of(&shown_since) == new).then_some(()));
    for process in [&mut live, &mut since] {
        process.signal("INT");
        assert_eq!(process.wait().code(), Some(0), "{}", process.log());
    }
    consumer.stop();
}
