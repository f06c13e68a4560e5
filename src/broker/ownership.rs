//! One process per shard: an exclusive `flock` on `<state>/shards/<topic>-<shard>.lock`.
//!
//! Whoever waits for a shard tries again every [`RETRY`], which bounds the take-over.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::message::ShardKey;
use crate::service::lock::FileLock;

/// How often a process that wants a shard tries again.
pub const RETRY: Duration = Duration::from_millis(200);

/// The ownership of a shard, until dropped or until the process dies.
#[derive(Debug)]
pub struct ShardLock {
    key: ShardKey,
    _lock: FileLock,
}

fn lock_path(state_dir: &Path, key: ShardKey) -> PathBuf {
    state_dir.join("shards").join(format!("{}-{:05}.lock", key.topic.name(), key.shard.0))
}

impl ShardLock {
    /// Takes the shard; `None` while another process (or another holder in this one) owns it.
    ///
    /// # Errors
    /// The lock file can't be made or locked.
    pub fn try_take(state_dir: &Path, key: ShardKey) -> io::Result<Option<Self>> {
        let lock = FileLock::try_take(&lock_path(state_dir, key))?;
        Ok(lock.map(|lock| Self { key, _lock: lock }))
    }

    /// The shard.
    #[must_use]
    pub const fn key(&self) -> ShardKey {
        self.key
    }
}

/// Whether any process owns any shard now.
///
/// # Errors
/// A lock file can't be read or locked.
pub fn any_owned(state_dir: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(state_dir.join("shards")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    for entry in entries {
        if FileLock::is_held(&entry?.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any process owns the shard now.
///
/// # Errors
/// The lock file can't be read or locked.
pub fn is_owned(state_dir: &Path, key: ShardKey) -> io::Result<bool> {
    FileLock::is_held(&lock_path(state_dir, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ShardId, Topic};

    #[test]
    fn a_shard_has_one_owner_and_is_free_when_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let key = ShardKey::new(Topic::Messages, ShardId(3));
        assert!(!is_owned(dir.path(), key).unwrap());
        assert!(!any_owned(dir.path()).unwrap());
        let owner = ShardLock::try_take(dir.path(), key).unwrap().unwrap();
        assert_eq!(owner.key(), key);
        assert!(is_owned(dir.path(), key).unwrap());
        assert!(any_owned(dir.path()).unwrap());
        assert!(ShardLock::try_take(dir.path(), key).unwrap().is_none());
        let other = ShardKey::new(Topic::Messages, ShardId(4));
        assert!(ShardLock::try_take(dir.path(), other).unwrap().is_some());
        drop(owner);
        assert!(!is_owned(dir.path(), key).unwrap());
        assert!(ShardLock::try_take(dir.path(), key).unwrap().is_some());
    }
}
