//! Whose turn it is to write: two locks of our own, since SQLite's busy handler sleeps and tries
//! again, and starves whoever sleeps while others come and go.
//!
//! A writer takes the turnstile, then the lock, then lets go of the turnstile. Whoever waits for
//! the lock stands in the turnstile, so that the last holder has to queue up behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

#[derive(Debug)]
pub(super) struct Turn {
    turnstile: File,
    lock: File,
}

impl Turn {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let open = |name| {
            let mut options = File::options();
            options.create(true).truncate(false).write(true).mode(0o600).open(dir.join(name))
        };
        Ok(Self { turnstile: open("tasks.turnstile")?, lock: open("tasks.lock")? })
    }

    /// Waits for its turn.
    pub(super) fn take(&self) -> io::Result<Taken<'_>> {
        lock(&self.turnstile)?;
        let taken = lock(&self.lock).map(|()| Taken(&self.lock));
        unlock(&self.turnstile);
        taken
    }
}

fn lock(file: &File) -> io::Result<()> {
    Ok(retry_on_intr(|| flock(file, FlockOperation::LockExclusive))?)
}

fn unlock(file: &File) {
    // Cannot fail for an open file; if it did, the end of the process unlocks.
    let _unlocked = flock(file, FlockOperation::Unlock);
}

/// The turn, until dropped.
#[derive(Debug)]
pub(super) struct Taken<'a>(&'a File);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        unlock(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn one_that_waits_is_not_starved_by_one_that_comes_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let turn = Turn::open(dir.path()).unwrap();
                while !ended.load(Ordering::Relaxed) {
                    drop(turn.take().unwrap());
                }
            });
            let turn = Turn::open(dir.path()).unwrap();
            (0..100).for_each(|_| drop(turn.take().unwrap()));
            ended.store(true, Ordering::Relaxed);
        });
    }
}
