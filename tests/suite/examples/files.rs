//! The examples around files and pipes.

use std::collections::BTreeSet;
use std::path::Path;

use super::Example;
use crate::harness::{Rig, entry, post_entries};

#[test]
fn the_quickstart_shows_a_file_and_leaves_nothing_behind() {
    let printed = Example::new("quickstart.sh").succeed();
    assert!(printed.contains("{\"accepted\":2,\"receipt\":\""), "{printed}");
    assert!(printed.contains("\"value\": \"world\", \"source\": \"quickstart\"}\n"), "{printed}");
    let end = "accepted 2 = in files 2 + waiting 0 + dead 0\nok\n";
    assert!(printed.ends_with(end), "{printed}");
}

#[test]
fn the_quickstart_fails_without_a_binary() {
    for binary in ["false", "/nowhere/at/all"] {
        Example::new("quickstart.sh").env("BINARY", binary).fail();
    }
}

#[test]
fn the_library_alone_brings_messages_into_files() {
    let printed = Example::new("embed").succeed();
    assert!(printed.contains("\naccepted 3, in files 3\n"), "{printed}");
    assert!(printed.contains("-shard-0-worker-"), "{printed}");
    assert!(printed.contains("\"value\":\"again\",\"lamp\":3}\n"), "{printed}");
}

fn ship(rig: &Rig, target: &Path) -> Example {
    let script = Example::new("ship_files.sh").arg(target);
    script.env("STATE_DIR", rig.state()).env("DATA_OUTPUT_DIR", rig.output())
}

fn lines_in(target: &Path) -> Vec<String> {
    let files = std::fs::read_dir(target).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.map(|file| std::fs::read_to_string(file).unwrap());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn files_shipped_while_more_are_written_arrive_once() {
    let mut rig = Rig::new();
    rig.set("BATCH_MIN", 1).set("FILES_PER_SECOND", 0);
    let target = rig.dir.path().join("archive");
    let up = rig.serve(&["up"]);
    let mut posted = BTreeSet::new();
    for round in 0..5 {
        let entries: Vec<_> = (0..20).map(|n| entry(n, &format!("{round}-{n}"))).collect();
        post_entries(up.address(), &entries);
        posted.extend(entries);
        ship(&rig, &target).succeed();
    }
    crate::harness::wait_for("all to be in files", || {
        (rig.verify(&["--allow-taken-away"])["waiting"] == 0).then_some(())
    });
    up.stop();
    ship(&rig, &target).succeed();
    assert!(rig.files().is_empty(), "{:?}", rig.files());
    let shipped = lines_in(&target);
    assert_eq!(shipped.len(), posted.len());
    assert_eq!(shipped.into_iter().collect::<BTreeSet<_>>(), posted);
}

#[test]
fn a_shipper_that_was_killed_goes_on() {
    let rig = Rig::new();
    let target = rig.dir.path().join("archive");
    let up = rig.serve(&["up"]);
    post_entries(up.address(), &[entry(0, "a"), entry(1, "b")]);
    rig.wait_drained();
    up.stop();
    let files = rig.files();
    let arrived = |file: &Path| target.join(file.file_name().unwrap());
    std::fs::create_dir(&target).unwrap();
    // Killed between the rename and the removal, and within a copy.
    std::fs::copy(&files[0], arrived(&files[0])).unwrap();
    let part = format!(".{}.part", files[1].file_name().unwrap().to_str().unwrap());
    std::fs::write(target.join(part), "{\"tim").unwrap();
    let printed = ship(&rig, &target).succeed();
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert_eq!(lines_in(&target).len(), 2);
}

#[test]
fn a_shipper_overwrites_nothing_and_removes_only_what_has_arrived() {
    let rig = Rig::new();
    let target = rig.dir.path().join("archive");
    let up = rig.serve(&["up"]);
    post_entries(up.address(), &[entry(0, "ours")]);
    rig.wait_drained();
    up.stop();
    let file = rig.files().remove(0);
    let there = target.join(file.file_name().unwrap());
    std::fs::create_dir(&target).unwrap();
    std::fs::write(&there, "of another state directory").unwrap();
    let (code, said) = ship(&rig, &target).fail();
    assert_eq!(code, 1);
    assert!(said.contains("is there already, with other content"), "{said}");
    assert_eq!(std::fs::read_to_string(there).unwrap(), "of another state directory");
    assert!(file.exists());
}

#[test]
fn a_log_line_comes_out_as_it_went_in() {
    let rig = Rig::new();
    let pipe = |name: &str, text: &str| {
        let file = rig.dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        Example::new("publish_pipe.sh").stdin(&file).env("STATE_DIR", rig.state())
    };
    let log = "2026-11-22T07:30:00Z say \"hi\" to C:\\new\\\"x\\\\\n\
               2026-11-22T08:30:01.25+01:00   tab\there, ünï, 日本\n\
               2026-11-22T07:30:02Z\n";
    assert_eq!(pipe("good.log", log).succeed(), "{\"stored\":3,\"lines\":3}\n");
    let (code, said) = pipe("bad.log", "2026-11-22T07:30:03Z ok\nyesterday not\n").fail();
    assert_eq!(code, 65);
    assert!(said.contains("error: line 2: timestamp is not"), "{said}");
    let consumer = rig.start(&["message-consumer"]);
    rig.wait_drained();
    consumer.stop();
    let mut values: Vec<_> = rig
        .lines()
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["value"].clone())
        .map(|value| value.as_str().unwrap().to_owned())
        .collect();
    values.sort();
    let expected =
        ["", "  tab here, ünï, 日本", "ok", "say \"hi\" to C:\\new\\\"x\\\\"].map(str::to_owned);
    assert_eq!(values, expected);
}

#[test]
fn what_a_program_refuses_is_a_dead_letter_until_it_is_sent_again() {
    let printed = Example::new("through_program.sh").succeed();
    let expected = "{\"stored\":3,\"lines\":3}\none\nthree\n\"messages\":1,\n\
                    {\"files\":1,\"messages\":1}\none\nthree\ntwo\n";
    assert_eq!(printed, expected);
}

#[test]
fn a_backlog_is_drained_and_what_that_cost_is_told() {
    let printed = Example::new("drain.sh").env("IDLE_SECONDS", "1").arg("2000").succeed();
    assert!(printed.starts_with("2000 messages: ") && printed.contains(" of a core"), "{printed}");
}
