//! Folders whose names survive power loss.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes the folder `dir` and what leads to it, with `mode` where new; each name on the way is
/// durable when this comes back, also one that an earlier process made and did not live to sync.
///
/// # Errors
/// What the system said.
pub fn create_durable(dir: &Path, mode: u32) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !parent.is_dir() {
        create_durable(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made?,
    }
    match File::open(parent) {
        // A folder above that may be passed but not read was not made by us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync_all(),
    }
}
