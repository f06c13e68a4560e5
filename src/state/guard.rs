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
    /// Takes the directory, and the size of the map that its first process chose: with another,
    /// the smaller map would fail once the file has outgrown it.
    pub(super) fn take(dir: &Path, map_bytes: usize) -> Result<(Self, usize), GuardError> {
        refuse_network_file_system(dir)?;
        let path = dir.join("namespace");
        let io = |source| GuardError::Io { path: path.clone(), source };
        let ours = Users { namespace: namespace_id().map_err(io)?, map_bytes };
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let agreed = take_lock(&lock, &ours).map_err(io)?;
        if agreed.namespace != ours.namespace {
            let (theirs, ours) = (agreed.namespace, ours.namespace);
            return Err(GuardError::OtherNamespace { path: dir.to_owned(), theirs, ours });
        }
        if agreed.map_bytes != map_bytes {
            let in_force = agreed.map_bytes;
            tracing::warn!(map_bytes, in_force, "STATE_MAP_BYTES is the first process's");
        }
        Ok((Self { _lock: lock }, agreed.map_bytes))
    }
}

/// What the file says of the processes that use the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Users {
    namespace: String,
    map_bytes: usize,
}

impl Users {
    fn text(&self) -> String {
        format!("{}\nmap {}\n", self.namespace, self.map_bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let (namespace, map) = text.split_once('\n')?;
        let map_bytes = map.strip_prefix("map ")?.trim_end().parse().ok()?;
        Some(Self { namespace: namespace.to_owned(), map_bytes })
    }
}

/// Takes the shared lock, as the first or after others; what holds for all of them.
fn take_lock(lock: &File, ours: &Users) -> io::Result<Users> {
    loop {
        if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nobody else: whatever is written there is of the dead. The same again is left as it
            // is, so that a full disk does not keep a process from starting.
            let text = ours.text();
            if read(lock)? != text {
                lock.write_all_at(text.as_bytes(), 0)?;
                lock.set_len(text.len() as u64)?;
            }
        }
        // Going from exclusive to shared lets go for an instant, so read again what is written.
        flock(lock, FlockOperation::LockShared)?;
        if let Some(users) = Users::parse(&read(lock)?) {
            return Ok(users);
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
        let users = |name: &str, map_bytes| Users { namespace: name.to_owned(), map_bytes };
        let (one, two) = (users("one", 1000), users("two", 20));
        let first = lock_file(dir.path());
        assert_eq!(take_lock(&first, &one).unwrap(), one);
        let same = lock_file(dir.path());
        assert_eq!(take_lock(&same, &users("one", 5)).unwrap(), one, "the first one's map");
        assert_eq!(take_lock(&lock_file(dir.path()), &two).unwrap(), one);
        drop((first, same));
        assert_eq!(take_lock(&lock_file(dir.path()), &two).unwrap(), two);
    }

    #[test]
    fn a_local_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let _first = NamespaceGuard::take(dir.path(), 1).unwrap();
        assert_eq!(NamespaceGuard::take(dir.path(), 2).unwrap().1, 1);
    }
}
