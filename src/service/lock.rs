//! Files that one process at a time holds, by an exclusive `flock`.
//!
//! The kernel frees it when its holder dies, however it dies, and not while it is merely stopped
//! (SIGSTOP): there is no lease to expire and so no clock to trust.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

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
        loop {
            let file = open(path)?;
            if !try_flock(&file, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(None);
            }
            if is_there(&file)? {
                return Ok(Some(Self { _file: file }));
            }
        }
    }

    /// Takes the file at `path`, making it if it is not there, and waits while another holder has
    /// it: for files that others only look at, or remove with the lock in their hands.
    ///
    /// # Errors
    /// The file can't be made or locked.
    pub fn take(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            if is_there(&file)? {
                return Ok(Self { _file: file });
            }
        }
    }

    /// Whether anybody holds the file at `path` now.
    ///
    /// # Errors
    /// The file can't be read or locked.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        // Shared, and let go at once: who tries in this instant tries again.
        Ok(!try_flock(&file, FlockOperation::NonBlockingLockShared)?)
    }
}

/// Not if somebody removed it just before: nobody would see its lock.
fn is_there(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
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
