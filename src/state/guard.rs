//! Who may use a state directory: processes of one PID namespace, on a local file system.
//!
//! LMDB tells dead readers from live ones by their pids, and its locks are shared memory. Two
//! containers on one volume see each other's pids as dead, and clear each other's locks: data loss
//! without an error. So the first process writes its namespace into `<state>/namespace` and keeps
//! a shared `flock` on it; a process of another namespace is refused while any of the first lives.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why the directory may not be used from here.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Another PID namespace uses it.
    #[error(
        "state directory {path} is in use from another PID namespace ({theirs}; this process is \
         in {ours}): two containers must not share it; run both in one, or share the PID namespace"
    )]
    OtherNamespace {
        /// The directory.
        path: PathBuf,
        /// The namespace that uses it.
        theirs: String,
        /// The namespace of this process.
        ours: String,
    },
    /// It is on a network file system.
    #[error(
        "state directory {path} is on {kind}, where shared memory maps and locks do not hold: \
         set STATE_DIR to a directory on a local disk"
    )]
    NetworkFileSystem {
        /// The directory.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// The lock file can't be used.
    #[error("state directory {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Holds the directory for this namespace until dropped.
#[derive(Debug)]
pub(super) struct NamespaceGuard {
    _lock: File,
}

impl NamespaceGuard {
    pub(super) fn take(dir: &Path) -> Result<Self, GuardError> {
        refuse_network_file_system(dir)?;
        let path = dir.join("namespace");
        let io = |source| GuardError::Io { path: path.clone(), source };
        let ours = namespace_id().map_err(io)?;
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match take_lock(&lock, &ours).map_err(io)? {
            None => Ok(Self { _lock: lock }),
            Some(theirs) => Err(GuardError::OtherNamespace { path: dir.to_owned(), theirs, ours }),
        }
    }
}

/// Takes the shared lock; `Some` names the other namespace that holds it.
fn take_lock(lock: &File, ours: &str) -> io::Result<Option<String>> {
    loop {
        if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nobody else: whatever is written there is of the dead. The same again is left as it
            // is, so that a full disk does not keep a process from starting.
            if read(lock)? != ours {
                lock.set_len(0)?;
                lock.write_all_at(ours.as_bytes(), 0)?;
            }
        }
        // Going from exclusive to shared lets go for an instant, so read again what is written.
        flock(lock, FlockOperation::LockShared)?;
        let theirs = read(lock)?;
        if theirs == ours {
            return Ok(None);
        }
        if !theirs.is_empty() {
            return Ok(Some(theirs));
        }
        // A creator died before it wrote: try to be the first.
        flock(lock, FlockOperation::Unlock)?;
    }
}

fn read(mut lock: &File) -> io::Result<String> {
    let mut text = String::new();
    lock.seek(SeekFrom::Start(0))?;
    lock.read_to_string(&mut text)?;
    Ok(text)
}

/// The boot and the PID namespace within it; without `/proc`, the boot alone.
fn namespace_id() -> io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = match std::fs::read_link("/proc/self/ns/pid") {
        Ok(link) => link.to_string_lossy().into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "no /proc".to_owned(),
        Err(error) => return Err(error),
    };
    Ok(format!("{namespace} boot {}", boot.trim()))
}

fn refuse_network_file_system(dir: &Path) -> Result<(), GuardError> {
    // Magic numbers of statfs(2).
    const NETWORK: [(i64, &str); 8] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB 2"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
        (0x00c3_6400, "Ceph"),
        (0x0bd0_0bd0, "Lustre"),
    ];
    let io =
        |source: rustix::io::Errno| GuardError::Io { path: dir.to_owned(), source: source.into() };
    let kind = rustix::fs::statfs(dir).map_err(io)?.f_type;
    match NETWORK.iter().find(|(magic, _)| i128::from(*magic) == i128::from(kind)) {
        Some((_, kind)) => Err(GuardError::NetworkFileSystem { path: dir.to_owned(), kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_file(dir: &Path) -> File {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(dir.join("namespace")).unwrap()
    }

    #[test]
    fn a_second_namespace_is_refused_only_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock_file(dir.path());
        assert_eq!(take_lock(&first, "one").unwrap(), None);
        let same = lock_file(dir.path());
        assert_eq!(take_lock(&same, "one").unwrap(), None);
        assert_eq!(take_lock(&lock_file(dir.path()), "two").unwrap().as_deref(), Some("one"));
        drop((first, same));
        assert_eq!(take_lock(&lock_file(dir.path()), "two").unwrap(), None);
    }

    #[test]
    fn a_local_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let _first = NamespaceGuard::take(dir.path()).unwrap();
        NamespaceGuard::take(dir.path()).unwrap();
    }
}
