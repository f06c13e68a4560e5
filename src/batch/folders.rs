//! The folders of the output directory: made when needed, their names durable before a file in them
//! counts as placed, and made again when a reader has taken one away.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Disk, FolderIdentity};
use super::writer::{WriteError, retry};
use crate::service::{Lifecycle, held};

/// How long to wait for a descriptor.
const RETRY: Duration = Duration::from_millis(200);

/// What this process knows of the folders.
pub(super) struct Folders {
    disk: Arc<dyn Disk>,
    output: PathBuf,
    life: Lifecycle,
    /// Those made, their parents synced, by this process.
    made: Mutex<HashSet<PathBuf>>,
    /// Those found in place, all names that lead to them synced since.
    durable: Mutex<HashMap<PathBuf, FolderIdentity>>,
}

impl Folders {
    pub(super) fn new(disk: Arc<dyn Disk>, output: PathBuf, life: Lifecycle) -> Self {
        Self { disk, output, life, made: Mutex::default(), durable: Mutex::default() }
    }

    /// Makes a folder and what leads to it; a new name in a folder needs that folder synced.
    pub(super) fn make(&self, folder: &Path) -> Result<(), WriteError> {
        if folder.as_os_str().is_empty() || held(&self.made).contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(Path::new(""));
        self.make(parent)?;
        match self.disk.create_dir(folder) {
            // A reader took the parent away, in spite of what we remember: look again next time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget();
                return Err(retry("making folder", folder)(error));
            }
            made => made.map_err(retry("making folder", folder))?,
        }
        self.sync(parent)?;
        held(&self.made).insert(folder.to_owned());
        Ok(())
    }

    /// Makes the names in a folder durable; one that a reader took away has none to keep.
    pub(super) fn sync(&self, folder: &Path) -> Result<Option<FolderIdentity>, WriteError> {
        loop {
            match self.disk.sync_dir(folder) {
                Ok(identity) => return Ok(identity),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // The folder could not even be opened: nothing was synced, and nothing failed to.
                Err(error) if is_out_of_descriptors(&error) => {
                    tracing::warn!(%error, folder = %folder.display(), "cannot be synced, yet");
                    if self.life.wait_stopping(RETRY) {
                        return Err(WriteError::Stopping(folder.to_owned()));
                    }
                }
                Err(error) => return Err(self.sync_failed(folder, &error)),
            }
        }
    }

    /// The same, and the names that lead to the folder: whoever made it again after a reader took
    /// it away, in this process or another, may not have synced its name yet. A folder that is
    /// still the one whose names were synced needs no more than itself.
    pub(super) fn sync_with_path(&self, folder: &Path) -> Result<(), WriteError> {
        let identity = self.sync(folder)?;
        if identity.is_some() && held(&self.durable).get(folder) == identity.as_ref() {
            return Ok(());
        }
        for above in folder.ancestors().skip(1) {
            self.sync(above)?;
        }
        if let Some(identity) = identity {
            held(&self.durable).insert(folder.to_owned(), identity);
        }
        Ok(())
    }

    pub(super) fn forget(&self) {
        held(&self.made).clear();
        held(&self.durable).clear();
    }

    fn sync_failed(&self, folder: &Path, error: &io::Error) -> WriteError {
        WriteError::Fatal(format!(
            "syncing folder {} failed ({error}): what it holds may be lost. Check the disk, then \
             start again",
            self.output.join(folder).display()
        ))
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::disk::OutputDir;

    #[test]
    fn a_folder_made_again_by_others_has_the_names_that_lead_to_it_synced() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(OutputDir::open(dir.path()).unwrap());
        let folders = Folders::new(disk, dir.path().to_owned(), Lifecycle::new());
        let hour = Path::new("2026-11-22/07");
        folders.make(hour).unwrap();
        folders.sync_with_path(hour).unwrap();
        let known = |path: &Path| held(&folders.durable).get(path).copied();
        let first = known(hour);
        assert!(first.is_some(), "this file system does not tell folders apart");
        folders.sync_with_path(hour).unwrap();
        assert_eq!(known(hour), first);
        // Its inode number may be used again at once, but not at the same tick of the kernel.
        let again = || {
            std::fs::remove_dir(dir.path().join(hour)).unwrap();
            std::fs::create_dir(dir.path().join(hour)).unwrap();
            folders.sync(hour).unwrap()
        };
        let ticked = (0..10_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            again() != first
        });
        assert!(ticked, "this file system does not tell when a folder was made");
        folders.sync_with_path(hour).unwrap();
        assert_ne!(known(hour), first, "taken for the one that is gone");
    }
}
