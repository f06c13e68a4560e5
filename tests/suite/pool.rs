//! A pool of workers over a whole process: it grows, shrinks, and never beyond its limits.

use std::collections::BTreeSet;

use crate::harness::{Rig, entry, wait_for};

#[test]
fn a_pool_grows_when_nobody_is_free_and_shrinks_again_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let go_on = dir.path().join("go-on");
    let mut rig = Rig::new();
    let program = format!("while ! test -e {}; do sleep 0.05; done; cat", go_on.display());
    rig.set("EXEC", program).set("SHARDS_COUNT", 1).set("BATCH_MAX", 5);
    rig.set("FILES_PER_SECOND", 0).set("HISTORY_SECONDS", 1);
    let lines: String = (0..200).map(|n| entry(n, &n.to_string()) + "\n").collect();
    assert!(rig.run_with_input(&["publish"], lines.as_bytes()).status.success());
    let consumer = rig.start(&["message-consumer"]);
    let grows = consumer.wait_log("a pool grows");
    assert!(grows.contains("\"workers\":4"), "{grows}");
    std::fs::write(&go_on, "").unwrap();
    rig.wait_drained();
    wait_for("a fourth worker in the history", || {
        consumer.log().lines().find(|line| line.contains("shard-0-worker-4")).map(str::to_owned)
    });
    let shrinks = consumer.wait_log("a pool shrinks");
    assert!(shrinks.contains("\"workers\":3"), "{shrinks}");
    let log = consumer.stop();
    let named: BTreeSet<_> = log
        .lines()
        .filter(|line| line.contains("worker history"))
        .filter_map(|line| {
            Some(line.split("shard-0-worker-").nth(1)?.split('"').next()?.to_owned())
        })
        .collect();
    let four: BTreeSet<_> = (1..=4).map(|place| place.to_string()).collect();
    assert_eq!(named, four, "{log}");
    assert_eq!(rig.lines().len(), 200);
    // What each worker did survives the restart.
    let history = || String::from_utf8(rig.run(&["history"]).stdout).unwrap();
    let before = history();
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    consumer.stop();
    assert_eq!(history(), before);
    assert!(before.contains("shard-0-worker-4"), "{before}");
}
