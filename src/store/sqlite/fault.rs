//! What SQLite says when it fails, in the words of a store; and the poison: after a failed sync or
//! a damaged page nothing is known of the file any more, so nothing is asked of it either.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::StoreError;

/// Whether the file can be trusted, and how to speak of it.
#[derive(Debug)]
pub(super) struct Health {
    path: PathBuf,
    poison: OnceLock<String>,
}

impl Health {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), poison: OnceLock::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// The file was given up before.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.poison.get().map_or(Ok(()), |reason| Err(StoreError::Broken(reason.clone())))
    }

    /// Gives the file up. The first reason is kept.
    pub(super) fn poison(&self, what: &str) -> StoreError {
        let reason = self.poison.get_or_init(|| {
            let reason = format!(
                "the tasks in {} are not touched any more, since it is unknown what the disk \
                 holds: {what}; look at the disk, then start the program again",
                self.path.display(),
            );
            tracing::error!(reason, "the store of the tasks is given up");
            reason
        });
        StoreError::Broken(reason.clone())
    }

    /// What has happened when `doing` failed.
    pub(super) fn explain(&self, doing: &str, error: &Error) -> StoreError {
        let path = self.path.display();
        let said = format!("cannot {doing} the tasks in {path}: {error}");
        let Error::SqliteFailure(failure, _) = error else {
            return StoreError::Broken(format!("{said}; the file was written by something else"));
        };
        match (failure.code, failure.extended_code) {
            (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => {
                self.poison(&format!("a sync failed ({error})"))
            }
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => {
                self.poison(&format!("the file is damaged ({error})"))
            }
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => {
                StoreError::Full(format!("{said}; free some room on the disk of {path}"))
            }
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => {
                StoreError::Unavailable(format!("{said}; another program holds the file"))
            }
            (ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory, _) => {
                StoreError::Unavailable(said)
            }
            (ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied, _) => {
                StoreError::Broken(format!(
                    "{said}; this process must be able to write the file and its directory"
                ))
            }
            _ => StoreError::Broken(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: std::ffi::c_int) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn a_failed_sync_is_never_followed_by_another_try() {
        let health = Health::new(Path::new("/state/tasks.sqlite"));
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_IOERR_WRITE] {
            let told = health.explain("write", &failure(code));
            assert!(!matches!(told, StoreError::Broken(_)), "{told}");
            assert_eq!(health.check(), Ok(()));
        }
        let told = health.explain("write", &failure(ffi::SQLITE_IOERR_FSYNC));
        assert!(matches!(&told, StoreError::Broken(_)));
        assert_eq!(health.check(), Err(told.clone()));
        health.explain("write", &failure(ffi::SQLITE_CORRUPT));
        assert_eq!(health.check(), Err(told));
    }

    #[test]
    fn a_damaged_file_is_given_up() {
        for code in [ffi::SQLITE_CORRUPT_INDEX, ffi::SQLITE_NOTADB, ffi::SQLITE_IOERR_DIR_FSYNC] {
            let health = Health::new(Path::new("/state/tasks.sqlite"));
            health.explain("read", &failure(code));
            assert!(health.check().is_err(), "{code}");
        }
    }
}
