//! One process at a time takes the tasks of an endpoint, as long as all are on one machine: a lock
//! file of the state directory. Over RabbitMQ the broker sees to it instead.
//!
//! ```text
//! <state>/endpoints/<name>.lock   flock: held by the process that takes the tasks
//!                  /<name>.wish   there while somebody wants to take over: the holder lets go
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::service::Lifecycle;
use crate::task::Name;

/// How often it is looked whether the endpoint is free, or wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a holder that let go leaves it to others.
const LET_OTHERS: Duration = Duration::from_secs(2);

/// An endpoint of the machine.
#[derive(Debug)]
pub struct Endpoint {
    lock: PathBuf,
    wish: PathBuf,
    name: Name,
}

/// The right to take its tasks; given back when dropped.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

impl Endpoint {
    /// An endpoint beneath the state directory.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(state_dir: &Path, name: &Name) -> io::Result<Self> {
        let folder = state_dir.join("endpoints");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let file = |what: &str| folder.join(format!("{name}.{what}"));
        Ok(Self { lock: file("lock"), wish: file("wish"), name: name.clone() })
    }

    /// Waits until no other process has it; `take_over` asks the one that has it to let go, again
    /// and again, since whoever gets it first takes the wish away. `None` when the process stops
    /// first.
    ///
    /// # Errors
    /// A file cannot be made or locked.
    pub async fn acquire(&self, take_over: bool, life: &Lifecycle) -> io::Result<Option<Held>> {
        let mut told = false;
        loop {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true).mode(0o600);
            let lock = options.open(&self.lock)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    self.withdraw()?;
                    return Ok(Some(Held { _lock: lock }));
                }
                Err(error) if error == rustix::io::Errno::WOULDBLOCK => {}
                Err(error) => return Err(error.into()),
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!(endpoint = %self.name, "another process has it: standing by");
            }
            if take_over {
                File::create(&self.wish)?;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = life.stopping() => {
                    if take_over {
                        self.withdraw()?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Resolves when another process wants it.
    pub async fn wanted(&self) {
        while !self.wish.exists() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tracing::info!(endpoint = %self.name, "another process takes over");
    }

    /// Waits a while, so that whoever wanted it gets it.
    pub async fn leave_to_others(&self, life: &Lifecycle) {
        tokio::select! {
            () = tokio::time::sleep(LET_OTHERS) => {}
            () = life.stopping() => {}
        }
    }

    fn withdraw(&self) -> io::Result<()> {
        match fs::remove_file(&self.wish) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_has_it_and_another_stands_by_until_it_is_dropped_or_wanted() {
        let (dir, life) = (tempfile::tempdir().unwrap(), Lifecycle::new());
        let name: Name = "lab".parse().unwrap();
        let one = Endpoint::new(dir.path(), &name).unwrap();
        let held = one.acquire(false, &life).await.unwrap().unwrap();
        let other = Endpoint::new(dir.path(), &name).unwrap();
        let stopped = Lifecycle::new();
        stopped.stop();
        assert!(other.acquire(false, &stopped).await.unwrap().is_none());
        let waits = tokio::spawn({
            let life = life.clone();
            async move { other.acquire(true, &life).await.unwrap() }
        });
        one.wanted().await;
        assert!(!waits.is_finished());
        drop(held);
        let held = waits.await.unwrap();
        assert!(held.is_some());
        assert!(!one.wish.exists());
    }

    #[tokio::test]
    async fn a_wish_lasts_until_it_is_granted_or_its_process_stops() {
        let (dir, life) = (tempfile::tempdir().unwrap(), Lifecycle::new());
        let name: Name = "lab".parse().unwrap();
        let one = Endpoint::new(dir.path(), &name).unwrap();
        let _held = one.acquire(false, &life).await.unwrap().unwrap();
        let other = Endpoint::new(dir.path(), &name).unwrap();
        let stops = Lifecycle::new();
        let waits = tokio::spawn({
            let stops = stops.clone();
            async move { other.acquire(true, &stops).await.unwrap().is_none() }
        });
        for _ in 0..2 {
            one.wanted().await;
            // As one does that has got it in between.
            one.withdraw().unwrap();
        }
        one.wanted().await;
        stops.stop();
        assert!(waits.await.unwrap());
        assert!(!one.wish.exists());
    }
}
