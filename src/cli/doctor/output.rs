//! The output directory: is it there, is it the one used so far, can it be written to?

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::settings::{OutputSettings, StateSettings};
use super::disk;
use super::finding::Finding;
use crate::batch::disk::OutputDir;
use crate::batch::output;
use crate::state::State;

const CHECK: &str = "output";
const FULL: &str = "Messages wait in the state directory until there is room again.";

/// What is found; `state` is the state environment, if it is there.
pub(super) fn check(
    settings: &OutputSettings,
    state_settings: &StateSettings,
    state: Option<&State>,
) -> Vec<Finding> {
    let dir = &settings.data_output_dir;
    let standing = disk::standing(dir);
    let there = is_there(dir, &standing, state);
    // The consumer waits for room, however little: the mark is the state directory's default.
    let mut space = disk::space("output disk", &standing, None, FULL);
    let state_dir = disk::standing(&state_settings.state_dir);
    space.found += match is_one_disk(&standing, &state_dir) {
        true => "; it is the state directory's disk",
        false => "; not the state directory's disk",
    };
    vec![there, disk::kind("output disk", &standing, false), space]
}

fn is_one_disk(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    device(one) == device(other)
}

fn is_there(dir: &Path, standing: &Path, state: Option<&State>) -> Finding {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let shown = absolute.display();
    let unusable = |said: String| {
        Finding::problem(CHECK, said)
            .means("No consumer starts; messages wait in the state directory.")
            .advise("set DATA_OUTPUT_DIR to a directory that this user may make and write to")
    };
    let opened = match std::fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return unusable(format!("{shown} is there, but is no directory"));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return unusable(format!("{shown}: {error}"));
        }
        found => found.is_ok(),
    };
    if let Err(error) = disk::may_write(standing) {
        let cannot = if opened { "written to" } else { "made" };
        return unusable(format!("{shown} cannot be {cannot}: {error}"));
    }
    match (opened, state.map(|state| (state, output::is_bound(state)))) {
        (_, Some((_, Err(error)))) => Finding::unknown(CHECK, format!("{shown}: {error}")),
        (true, Some((state, Ok(true)))) => compare(dir, state),
        (false, Some((_, Ok(true)))) => {
            Finding::problem(CHECK, format!("{shown} is not there, but was used before"))
                .means("No consumer starts; files that were there count as missing.")
                .advise("mount its disk, or set DATA_OUTPUT_DIR to where it is now")
        }
        (true, _) => Finding::ok(CHECK, format!("{shown} can be written to")),
        (false, _) => Finding::note(CHECK, format!("{shown} is not there yet"))
            .means("The first consumer makes it."),
    }
}

fn compare(dir: &Path, state: &State) -> Finding {
    let checked = OutputDir::open(dir)
        .map_err(|source| output::OutputError::Io { output: dir.to_owned(), source })
        .and_then(|disk| output::check(state, &disk, disk.path()).map(|()| disk));
    match checked {
        Ok(disk) => {
            let shown = disk.path().display();
            Finding::ok(CHECK, format!("{shown} can be written to; it is this state directory's"))
        }
        Err(error) => Finding::problem(CHECK, error.to_string())
            .means("No consumer starts; messages wait in the state directory."),
    }
}
