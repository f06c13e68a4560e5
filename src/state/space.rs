//! Room to publish: what is left of the map above its reserve, and of the disk above low water.
//!
//! Consuming also writes (journal rows, marks), so publishers stop while there is a reserve left
//! for it: draining always can go on, and by draining the room comes back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heed::{Env, WithoutTls};

use super::StateError;

/// The part of the map that publishers leave, at least.
const RESERVE_FRACTION: u64 = 16;
const RESERVE_MIN_BYTES: u64 = 2 * 1024 * 1024;
const RESERVE_MAX_BYTES: u64 = 256 * 1024 * 1024;
const LOW_WATER_MAX_BYTES: u64 = 256 * 1024 * 1024;
const LOW_WATER_FRACTION: u64 = 20;
/// How long publishing pauses when a transaction did not fit.
const FULL_FOR: Duration = Duration::from_millis(250);
/// Less than any group of jobs needs.
const FULL_DISK_BYTES: u64 = 1024 * 1024;
/// How long an answer about the disk or a nearly full map is good for.
const FRESH: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    map_bytes: u64,
    page_bytes: u64,
    low_water_bytes: Option<u64>,
    /// The latest answer, and until when it is good.
    answer: Mutex<(Instant, Result<(), StateError>)>,
}

impl Space {
    pub(super) fn new(dir: PathBuf, env: &Env<WithoutTls>, low_water_bytes: Option<u64>) -> Self {
        Self {
            dir,
            map_bytes: env.info().map_size as u64,
            page_bytes: u64::from(env.stat().page_size),
            low_water_bytes,
            answer: Mutex::new((Instant::now(), Ok(()))),
        }
    }

    pub(super) fn reserve_bytes(&self) -> u64 {
        (self.map_bytes / RESERVE_FRACTION).clamp(RESERVE_MIN_BYTES, RESERVE_MAX_BYTES)
    }

    /// Bytes in use and the most there may be. Cheap while the file has never been nearly full.
    pub(super) fn used(&self, env: &Env<WithoutTls>) -> Result<(u64, u64), StateError> {
        let high_bytes = (env.info().last_page_number as u64 + 1) * self.page_bytes;
        let used = if high_bytes + 2 * self.reserve_bytes() < self.map_bytes {
            high_bytes
        } else {
            // Pages once used and free again count as room.
            env.non_free_pages_size()?
        };
        Ok((used, self.map_bytes))
    }

    /// A transaction did not fit, whatever the count of pages says: some may be free, but held
    /// back by a reader.
    pub(super) fn note_map_full(&self) {
        *self.answer() = (Instant::now() + FULL_FOR, Err(StateError::MapFull));
    }

    /// Whether the file system of the state directory has next to nothing left.
    pub(super) fn is_disk_full(&self) -> bool {
        disk_bytes(&self.dir).is_ok_and(|(free, _)| free < FULL_DISK_BYTES)
    }

    pub(super) fn check(&self, env: &Env<WithoutTls>) -> Result<(), StateError> {
        let now = Instant::now();
        let mut latest = self.answer();
        if now >= latest.0 {
            *latest = (now + FRESH, self.check_map(env).and_then(|()| self.check_disk()));
        }
        latest.1.clone()
    }

    fn answer(&self) -> MutexGuard<'_, (Instant, Result<(), StateError>)> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether consuming has begun to use the reserve that publishers leave it.
    pub(super) fn is_pressed(&self, env: &Env<WithoutTls>) -> Result<bool, StateError> {
        let (used, most) = self.used(env)?;
        Ok(used + self.reserve_bytes() * 3 / 4 > most)
    }

    fn check_map(&self, env: &Env<WithoutTls>) -> Result<(), StateError> {
        let (used, most) = self.used(env)?;
        if used + self.reserve_bytes() > most { Err(StateError::MapFull) } else { Ok(()) }
    }

    pub(super) fn disk(&self) -> Result<DiskRoom, StateError> {
        let (free_bytes, total_bytes) = disk_bytes(&self.dir)
            .map_err(|error| StateError::Lmdb(format!("{}: {error}", self.dir.display())))?;
        let low_water_bytes = low_water_bytes(self.low_water_bytes, total_bytes);
        Ok(DiskRoom { free_bytes, total_bytes, low_water_bytes })
    }

    fn check_disk(&self) -> Result<(), StateError> {
        let DiskRoom { free_bytes: free, low_water_bytes: low_water, .. } = self.disk()?;
        if free < low_water {
            let dir = self.dir.display();
            return Err(StateError::NoSpace(format!(
                "{dir} has {free} bytes free, below the low-water mark of {low_water}"
            )));
        }
        Ok(())
    }
}

/// The disk of the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Free bytes below which publishing stops.
    pub low_water_bytes: u64,
}

/// Bytes free and in all of the file system of `path`, which is there.
///
/// # Errors
/// What the system said.
pub fn disk_bytes(path: &Path) -> io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Ok((bytes(disk.f_bavail), bytes(disk.f_blocks)))
}

/// Free bytes below which publishing stops on a file system of so many: what is set, if it is.
#[must_use]
pub fn low_water_bytes(set_bytes: Option<u64>, total_bytes: u64) -> u64 {
    set_bytes.unwrap_or_else(|| LOW_WATER_MAX_BYTES.min(total_bytes / LOW_WATER_FRACTION))
}
