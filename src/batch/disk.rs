//! Every call on batch files, behind one trait, so that tests can fail and cut off each of them.
//!
//! # Fault model
//! What a disk may do, and what the commit protocol therefore relies on:
//!
//! - A file's bytes survive power loss only if `sync` on it returned `Ok` after they were written.
//! - A name in a folder (created, renamed, removed) survives only if `sync_dir` on that folder
//!   returned `Ok` after the change. Until then, either state may be found.
//! - After a failed sync the bytes may be gone although a later sync says `Ok`: the kernel marks
//!   pages clean that it could not write (Rebello et al., "Can Applications Recover from fsync
//!   Failures?", USENIX ATC 2020). So a failed sync is never retried on the same file.
//! - After a failed `sync_dir` the names may be there or not; the process stops. File systems end
//!   their journal then, so that a later `Ok` is not said in error.
//! - A rename is atomic: either name is found with the whole file, never neither.
//! - A call that failed with `ENOSPC`, `EDQUOT`, `EROFS` or `EACCES` changed nothing that a later
//!   call cannot undo.
//!
//! Paths are relative to the output directory, which is held open: no symbolic link that somebody
//! puts into it is followed at the end of a path.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

/// A file that is being written.
pub trait NewFile: Send {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the system said; some of it may be written.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far survive power loss.
    ///
    /// # Errors
    /// What the system said: the file is lost then, even if a second call succeeds.
    fn sync(&mut self) -> io::Result<()>;
}

/// What tells a folder from another one that has its name later: an inode number may be used again,
/// but not by one born at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderIdentity {
    /// The inode's number; the device is the output directory's.
    pub inode: u64,
    /// When it was made, in seconds and nanoseconds of the file system's clock.
    pub born: (i64, u32),
}

/// The calls on the output directory; see the module for what may fail and how.
#[expect(clippy::missing_errors_doc, reason = "every error is what the system said")]
pub trait Disk: Send + Sync {
    /// Fails if the output directory is no longer the one that was opened.
    fn check_root(&self) -> io::Result<()>;
    /// Makes a folder; it may be there already.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that must not be there.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Makes the names in a folder survive power loss; which folder that was, if it can be told.
    fn sync_dir(&self, path: &Path) -> io::Result<Option<FolderIdentity>>;
    /// Renames, and fails if the new name is taken.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for reading; `None` if there is none.
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read>>>;
    /// The names in a folder; none if there is no such folder.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
}

/// The real disk.
#[derive(Debug)]
pub struct OutputDir {
    path: PathBuf,
    root: OwnedFd,
}

impl OutputDir {
    /// Opens the folder `path`, which must exist.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, root })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        // The empty path is the output directory itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.root, path, flags, Mode::from_raw_mode(0o640))?)
    }
}

impl NewFile for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Disk for OutputDir {
    fn check_root(&self) -> io::Result<()> {
        let opened = rustix::fs::fstat(&self.root)?;
        let now = std::fs::metadata(&self.path)?;
        if (now.dev(), now.ino()) == (opened.st_dev, opened.st_ino) {
            return Ok(());
        }
        Err(io::Error::other("another directory has taken its place"))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = self.open_at(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        Ok(Box::new(File::from(file)))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<Option<FolderIdentity>> {
        let dir = self.open_at(path, OFlags::DIRECTORY | OFlags::RDONLY)?;
        rustix::fs::fsync(&dir)?;
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        // Old kernels and some file systems do not tell.
        let told = rustix::fs::statx(&dir, "", AtFlags::EMPTY_PATH, wanted).ok();
        let told = told.filter(|told| told.stx_mask & wanted.bits() == wanted.bits());
        Ok(told.map(|told| FolderIdentity {
            inode: told.stx_ino,
            born: (told.stx_btime.tv_sec, told.stx_btime.tv_nsec),
        }))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let root = self.root.as_fd();
        Ok(rustix::fs::renameat_with(root, from, root, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::empty())?)
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read>>> {
        // Without waiting, should somebody have put a pipe there.
        match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => Ok(Some(Box::new(File::from(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let dir = match self.open_at(path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}
