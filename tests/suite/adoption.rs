//! Adopting another output directory while somebody may still take over shards for the old one.

use std::path::Path;
use std::sync::Arc;

use async_data_processor::batch::disk::OutputDir;
use async_data_processor::batch::journal::JournalRetention;
use async_data_processor::batch::output::bind;
use async_data_processor::batch::recovery::recover;
use async_data_processor::batch::writer::Writer;
use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::broker::ownership::ShardLock;
use async_data_processor::broker::{Publish, Unit};
use async_data_processor::clock::SystemClock;
use async_data_processor::message::{Lines, ShardId, ShardKey, Topic};
use async_data_processor::service::Lifecycle;
use async_data_processor::state::{State, StateOptions};

const KEY: ShardKey = ShardKey::new(Topic::Messages, ShardId(0));

fn publish(state: &State) {
    let retention = KeyRetention { keys_max: 0, age_ms_max: 0 };
    let broker = EmbeddedBroker::new(state.clone(), Arc::new(SystemClock), retention).unwrap();
    let mut lines = Lines::default();
    lines.push(b"{}");
    let unit = Unit { parts: vec![(KEY, lines)], key: None };
    broker.publish(unit).blocking_recv().unwrap().unwrap();
}

/// A writer into `path`, bound as a process that starts with it binds it.
fn writer(state: &State, path: &Path, adopt: bool) -> Writer {
    std::fs::create_dir_all(path).unwrap();
    let disk = OutputDir::open(path).unwrap();
    let identity = bind(state, &disk, path, adopt).unwrap();
    let retention = JournalRetention { batches_max: 10, age_ms_max: u64::MAX };
    let (clock, life) = (Arc::new(SystemClock), Lifecycle::new());
    Writer::new(state.clone(), Arc::new(disk), path.to_owned(), identity, clock, retention, life)
}

#[test]
fn whoever_stood_by_for_the_old_directory_takes_nothing_over_after_an_adoption() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(StateOptions {
        dir: dir.path().join("state"),
        map_bytes: 16 << 20,
        low_water_bytes: Some(0),
        on_poison: Box::new(|reason| panic!("poisoned: {reason}")),
    })
    .unwrap();
    publish(&state);
    let old = writer(&state, &dir.path().join("old"), false);
    let take = || ShardLock::try_take(state.dir(), KEY).unwrap().unwrap();
    let before = recover(&old, &take()).unwrap();
    let new = writer(&state, &dir.path().join("new"), true);
    let refused = recover(&old, &take()).unwrap_err().to_string();
    assert!(refused.contains("has been adopted"), "{refused}");
    let after = recover(&new, &take()).unwrap();
    // One for the adoption, which fences whoever had the shard, and one for the new owner.
    assert_eq!(after.epoch, before.epoch + 2);
}
