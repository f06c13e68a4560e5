//! What both directories need of their disks.

use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use rustix::fs::Access;

use super::finding::Finding;
use crate::state::{FileSystem, disk_bytes, file_system, low_water_bytes};

/// The part of a path that is there: where the rest would be made.
pub(super) fn standing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Whether this user may make files in a folder that is there.
pub(super) fn may_write(folder: &Path) -> Result<(), rustix::io::Errno> {
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
}

/// Is the file system one that keeps what it has synced?
pub(super) fn kind(check: &'static str, folder: &Path, is_state: bool) -> Finding {
    let shown = folder.display();
    match file_system(folder) {
        Ok(FileSystem::Local) => Finding::ok(check, format!("{shown} is on a local file system")),
        Ok(FileSystem::Forgetful(kind)) => Finding::warning(check, format!("{shown} is on {kind}"))
            .means(
                "What is there ends with the machine's uptime, or with its container: messages \
                 that were answered 201 are lost then.",
            )
            .advise("choose a directory on a disk; in a container, mount a volume there"),
        Ok(FileSystem::Network(kind)) if is_state => {
            Finding::problem(check, format!("{shown} is on {kind}"))
                .means("Shared memory maps and locks do not hold there: nothing starts.")
                .advise("set STATE_DIR to a directory on a local disk")
        }
        Ok(FileSystem::Network(kind)) => Finding::warning(check, format!("{shown} is on {kind}"))
            .means("Whether a synced file survives is up to the other side.")
            .advise(
                "set DATA_OUTPUT_DIR to a directory on a local disk, and ship files from there",
            ),
        Err(error) => Finding::unknown(check, format!("{shown}: {error}")),
    }
}

/// Is there room? `means` says what happens without.
pub(super) fn space(
    check: &'static str,
    folder: &Path,
    low_water: Option<u64>,
    means: &str,
) -> Finding {
    let (free, total) = match disk_bytes(folder) {
        Ok(bytes) => bytes,
        Err(error) => return Finding::unknown(check, format!("{}: {error}", folder.display())),
    };
    judge_space(check, free, low_water_bytes(low_water, total), means)
}

fn judge_space(check: &'static str, free: u64, mark: u64, means: &str) -> Finding {
    let found = format!("{} free, low-water mark {}", HumanBytes(free), HumanBytes(mark));
    let advice = "free some disk, or use a larger one";
    if free < mark {
        Finding::problem(check, found).means(means).advise(advice)
    } else if free < mark.saturating_mul(2) {
        Finding::warning(check, found)
            .means(format!("It is nearly full. At the mark: {means}"))
            .advise(advice)
    } else {
        Finding::ok(check, found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_disk_is_full_below_the_mark_and_nearly_full_below_twice_the_mark() {
        for (free, level) in [(9, Level::Problem), (19, Level::Warning), (20, Level::Ok)] {
            assert_eq!(judge_space("disk", free, 10, "stops").level, level, "{free}");
        }
        assert_eq!(judge_space("disk", 0, 0, "no mark was wanted").level, Level::Ok);
    }

    #[test]
    fn what_is_not_there_stands_on_what_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(standing(&dir.path().join("a/b")), dir.path());
        assert_eq!(standing(dir.path()), dir.path());
    }
}
