//! The names of batch files; no other module makes or reads one.
//!
//! ```text
//! final    <UTC date>/<hour>/<number>-shard-<shard>-worker-<worker>.jsonl
//!          2026-11-22/07/000000000042-shard-3-worker-1.jsonl       (or .jsonl.zst)
//! ships    ships/<UTC date>/…                                (telemetry)
//! dead     dead/<UTC date>/…, dead/ships/<UTC date>/…        (what no worker could do)
//! staged   .staging/<topic>-<shard>/<first offset>-<count>-<epoch>-<nonce>
//! ```
//!
//! The number counts every batch of the state environment at its commit point, so within a folder
//! names sort in commit order whatever the clock does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::{OffsetRange, ShardId, ShardKey, Topic};

/// Where files are written before they are committed; readers pass over names with a dot.
pub const STAGING: &str = ".staging";
/// The folder of messages that no worker could do.
pub const DEAD: &str = "dead";
/// The folder of telemetry.
pub const SHIPS: &str = "ships";
/// What the name of a worker of telemetry begins with, but not that of its files: their folder says
/// it.
const TELEMETRY_PREFIX: &str = "telemetry-";
/// What a batch file ends in.
const SUFFIX: &str = ".jsonl";
/// What follows when it is compressed.
const ZSTD_SUFFIX: &str = ".zst";

/// A worker: a place in the pool of a shard, the same one after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerName {
    /// The topic.
    pub topic: Topic,
    /// The shard.
    pub shard: ShardId,
    /// The place in its pool, from 1.
    pub place: u16,
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.topic {
            Topic::Messages => "",
            Topic::Telemetry => TELEMETRY_PREFIX,
        };
        write!(f, "{prefix}{}", self.in_file_name())
    }
}

impl WorkerName {
    /// The worker at `place` of a shard's pool.
    #[must_use]
    pub const fn new(key: ShardKey, place: u16) -> Self {
        Self { topic: key.topic, shard: key.shard, place }
    }

    fn in_file_name(self) -> String {
        format!("shard-{}-worker-{}", self.shard, self.place)
    }
}

/// A text that is no worker's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a worker's name")]
pub struct NotAWorker;

impl FromStr for WorkerName {
    type Err = NotAWorker;

    fn from_str(text: &str) -> Result<Self, NotAWorker> {
        let (topic, rest) = match text.strip_prefix(TELEMETRY_PREFIX) {
            Some(rest) => (Topic::Telemetry, rest),
            None => (Topic::Messages, text),
        };
        let numbers = rest.strip_prefix("shard-").and_then(|rest| rest.split_once("-worker-"));
        let (shard, place) = numbers.ok_or(NotAWorker)?;
        let shard = shard.parse().map(ShardId).map_err(|_| NotAWorker)?;
        Ok(Self { topic, shard, place: place.parse().map_err(|_| NotAWorker)? })
    }
}

impl Serialize for WorkerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchKind {
    /// Messages that were processed.
    Data,
    /// Messages that no worker could do.
    Dead,
}

/// How the lines stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// As one Zstandard frame (RFC 8878).
    Zstd,
}

/// The folder of a batch that is committed at `at`, relative to the output directory.
#[must_use]
pub fn final_folder(topic: Topic, kind: BatchKind, at: DateTime<Utc>) -> PathBuf {
    let mut folder = PathBuf::new();
    if kind == BatchKind::Dead {
        folder.push(DEAD);
    }
    if topic == Topic::Telemetry {
        folder.push(SHIPS);
    }
    folder.join(at.format("%Y-%m-%d/%H").to_string())
}

/// The name of a batch in its folder.
#[must_use]
pub fn final_name(number: u64, worker: WorkerName, compression: Compression) -> String {
    let compressed = match compression {
        Compression::None => "",
        Compression::Zstd => ZSTD_SUFFIX,
    };
    format!("{number:012}-{}{SUFFIX}{compressed}", worker.in_file_name())
}

/// The number in the name of a batch file; `None` for any other file.
#[must_use]
pub fn parse_final(file_name: &str) -> Option<u64> {
    let plain = file_name.strip_suffix(ZSTD_SUFFIX).unwrap_or(file_name);
    let (number, worker) = plain.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = number.len() >= 12 && number.bytes().all(|b| b.is_ascii_digit());
    let is_worker = worker.parse().is_ok_and(|worker: WorkerName| worker.topic.is_messages());
    number.parse().ok().filter(|_| digits && is_worker)
}

/// How the lines stand in a batch file of this name.
#[must_use]
pub fn compression_of(file: &Path) -> Compression {
    match file.to_string_lossy().ends_with(ZSTD_SUFFIX) {
        true => Compression::Zstd,
        false => Compression::None,
    }
}

/// Whether `name` in `folder` is one of the folders that batch files are put into.
#[must_use]
pub fn is_folder(folder: &Path, name: &str) -> bool {
    let above = folder;
    let folder = above.strip_prefix(DEAD).unwrap_or(above);
    let folder = folder.strip_prefix(SHIPS).unwrap_or(folder);
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match folder.iter().count() {
        0 if name == DEAD => above.as_os_str().is_empty(),
        0 if name == SHIPS => above.as_os_str().is_empty() || above == Path::new(DEAD),
        0 => name.len() >= 10 && digits(name),
        1 => name.len() == 2 && digits(name),
        _ => false,
    }
}

/// The staging folder of a shard, relative to the output directory.
#[must_use]
pub fn staging_dir(key: ShardKey) -> PathBuf {
    Path::new(STAGING).join(format!("{}-{}", key.topic.name(), key.shard))
}

/// A staged path that was never used before: `nonce` differs within an epoch.
#[must_use]
pub fn staged_path(key: ShardKey, range: OffsetRange, epoch: u64, nonce: u64) -> PathBuf {
    staging_dir(key).join(format!("{}-{}-{epoch}-{nonce}", range.first, range.count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_name_says_worker_and_shard_and_reads_back() {
        let worker = WorkerName { topic: Topic::Messages, shard: ShardId(3), place: 1 };
        let at = DateTime::from_timestamp(1_795_330_800, 0).unwrap();
        let folder = |topic, kind| final_folder(topic, kind, at);
        assert_eq!(folder(Topic::Messages, BatchKind::Data), Path::new("2026-11-22/07"));
        assert_eq!(folder(Topic::Messages, BatchKind::Dead), Path::new("dead/2026-11-22/07"));
        assert_eq!(folder(Topic::Telemetry, BatchKind::Data), Path::new("ships/2026-11-22/07"));
        let dead = folder(Topic::Telemetry, BatchKind::Dead);
        assert_eq!(dead, Path::new("dead/ships/2026-11-22/07"));
        let plain = final_name(42, worker, Compression::None);
        assert_eq!(plain, "000000000042-shard-3-worker-1.jsonl");
        assert_eq!(parse_final(&plain), Some(42));
        let compressed = final_name(42, worker, Compression::Zstd);
        assert_eq!(compressed, "000000000042-shard-3-worker-1.jsonl.zst");
        assert_eq!(parse_final(&compressed), Some(42));
        assert_eq!(compression_of(Path::new(&compressed)), Compression::Zstd);
        let telemetry = WorkerName { topic: Topic::Telemetry, ..worker };
        assert_eq!(final_name(42, telemetry, Compression::None), plain);
    }

    #[test]
    fn workers_of_two_topics_are_told_apart() {
        let messages = WorkerName { topic: Topic::Messages, shard: ShardId(3), place: 1 };
        let telemetry = WorkerName { topic: Topic::Telemetry, ..messages };
        for (worker, name) in
            [(messages, "shard-3-worker-1"), (telemetry, "telemetry-shard-3-worker-1")]
        {
            assert_eq!((worker.to_string().as_str(), name.parse()), (name, Ok(worker)));
        }
    }

    #[test]
    fn every_folder_of_files_is_walked_into_and_no_other() {
        for (folder, name) in [
            ("", "2026-11-22"),
            ("2026-11-22", "07"),
            ("", "ships"),
            ("ships", "2026-11-22"),
            ("ships/2026-11-22", "07"),
            ("", "dead"),
            ("dead", "2026-11-22"),
            ("dead", "ships"),
            ("dead/ships", "2026-11-22"),
            ("dead/ships/2026-11-22", "07"),
        ] {
            assert!(is_folder(Path::new(folder), name), "{folder} {name}");
        }
        for (folder, name) in [
            ("", ".staging"),
            ("", "notes"),
            ("ships", "ships"),
            ("ships", "dead"),
            ("dead", "dead"),
            ("dead/ships", "dead"),
            ("2026-11-22", "ships"),
            ("2026-11-22/07", "07"),
        ] {
            assert!(!is_folder(Path::new(folder), name), "{folder} {name}");
        }
    }

    #[test]
    fn names_sort_in_commit_order() {
        let worker = |place| WorkerName::new(ShardKey::new(Topic::Messages, ShardId(place)), place);
        let name = |number, place| final_name(number, worker(place), Compression::None);
        assert!(name(9, 4) < name(10, 1));
        assert!(name(999_999, 2) < name(1_000_000, 1));
    }

    #[test]
    fn other_files_are_not_taken_for_batches() {
        for name in [
            "1-shard-0-worker-1.jsonl",
            "notes.jsonl",
            "000000000001-shard-0.jsonl",
            "000000000001-shard-0-worker-1.jsonl.tmp",
            "+00000000001-shard-0-worker-1.jsonl",
            "000000000001-telemetry-shard-0-worker-1.jsonl",
        ] {
            assert_eq!(parse_final(name), None, "{name}");
        }
    }

    #[test]
    fn staged_names_of_two_tries_differ() {
        let key = ShardKey::new(Topic::Messages, ShardId(0));
        let range = OffsetRange::new(0, 5);
        assert_ne!(staged_path(key, range, 1, 0), staged_path(key, range, 1, 1));
        assert_ne!(staged_path(key, range, 1, 0), staged_path(key, range, 2, 0));
    }
}
