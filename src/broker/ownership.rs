//! One process per shard: an exclusive `flock` on `<state>/shards/<topic>-<shard>.lock`.
//!
//! The kernel frees it when its holder dies, however it dies, and not while it is merely stopped
//! (SIGSTOP): there is no lease to expire and so no clock to trust. Whoever waits for a shard tries
//! again every [`RETRY`], which bounds the take-over.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::message::ShardKey;

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

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            options.open(path)
        }
        opened => opened,
    }
}

/// True if the lock was taken, false if another holds it.
fn try_flock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
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

/// A file that one process at a time holds, until this is dropped or the process dies.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the file at `path`, making it if it is not there; `None` while another holder has it.
    ///
    /// # Errors
    /// The file can't be made or locked.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let taken = try_flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(taken.then_some(Self { _file: file }))
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
        if is_locked(&entry?.path())? {
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
    is_locked(&lock_path(state_dir, key))
}

fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    // Shared, and let go at once: a consumer that tries in this instant tries again.
    Ok(!try_flock(&file, FlockOperation::NonBlockingLockShared)?)
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
