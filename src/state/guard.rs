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

/// LMDB's name of the file that holds everything.
const ENVIRONMENT: &str = "data.mdb";

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
    let io = |source| GuardError::Io { path: dir.to_owned(), source };
    match file_system(dir).map_err(io)? {
        FileSystem::Network(kind) => {
            Err(GuardError::NetworkFileSystem { path: dir.to_owned(), kind })
        }
        FileSystem::Forgetful(_) | FileSystem::Local => Ok(()),
    }
}

/// What a file system is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// Of a network, a cluster or FUSE: maps and locks may not hold.
    Network(&'static str),
    /// Local, but it ends with the machine's uptime or with its container.
    Forgetful(&'static str),
    /// Local, as far as is known.
    Local,
}

/// What the file system of `path`, which is there, is good for.
///
/// # Errors
/// What the system said.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let magic = i128::from(rustix::fs::statfs(path)?.f_type);
    Ok(match (network_kind(magic), magic) {
        (Some(kind), _) => FileSystem::Network(kind),
        (None, 0x0102_1994) => FileSystem::Forgetful("tmpfs"),
        (None, 0x8584_58f6) => FileSystem::Forgetful("ramfs"),
        (None, 0x794c_7630) => FileSystem::Forgetful("overlayfs"),
        (None, _) => FileSystem::Local,
    })
}

/// The kind of a network, cluster or FUSE file system by its magic number (statfs(2)); `None` for
/// a local one. What a FUSE file system keeps of maps and locks is up to its program, and a local
/// disk behind one (ntfs-3g) has the same number: so all of them are refused.
fn network_kind(magic: i128) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB 2",
        0x0102_1997 => "9P",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x1983_0326 => "BeeGFS",
        0x4750_4653 => "GPFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x6573_5546 => "FUSE",
        0x786f_4256 => "a VirtualBox shared folder",
        0xbacb_acbc => "a VMware shared folder",
        _ => return None,
    })
}

/// Whether `dir` holds a state environment; changes nothing.
///
/// # Errors
/// It cannot be told: what the system said.
pub fn holds_state(dir: &Path) -> io::Result<bool> {
    dir.join(ENVIRONMENT).try_exists()
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
    fn file_systems_of_a_network_a_cluster_or_a_program_are_told_from_local_ones() {
        let refused = [
            (0x6969, "NFS"),
            (0xff53_4d42, "CIFS"),
            (0x6573_5546, "FUSE"),
            (0x4750_4653, "GPFS"),
            (0x7461_636f, "OCFS2"),
        ];
        for (magic, kind) in refused {
            assert_eq!(network_kind(magic), Some(kind));
        }
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS.
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(network_kind(magic), None, "{magic:x}");
        }
    }

    #[test]
    fn a_local_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let _first = NamespaceGuard::take(dir.path(), 1).unwrap();
        assert_eq!(NamespaceGuard::take(dir.path(), 2).unwrap().1, 1);
    }
}
