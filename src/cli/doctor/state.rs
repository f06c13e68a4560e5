//! The state directory: is it there, does it open, does it sync, is there room in disk and map?

use std::fs::File;
use std::io;
use std::path::Path;

use indicatif::HumanBytes;

use super::super::settings::StateSettings;
use super::disk;
use super::finding::{Finding, Level};
use crate::state::{State, StateError, holds_state};

const CHECK: &str = "state";
const FULL: &str = "No messages are taken (507); what waits still goes into files.";

/// What is found, and the state environment if there is one that opens.
pub(super) fn check(settings: &StateSettings) -> (Vec<Finding>, Option<State>) {
    let dir = &settings.state_dir;
    let standing = disk::standing(dir);
    let kind = disk::kind("state disk", &standing, true);
    let space = disk::space("state disk", &standing, settings.disk_low_water_bytes, FULL);
    let is_refused = kind.level == Level::Problem;
    let (there, state) = match is_there(dir, &standing) {
        // What is refused by a start is not opened here either.
        Err(finding) => (finding, None),
        Ok(()) if is_refused => (Finding::unknown(CHECK, "it was not opened there"), None),
        Ok(()) => open(settings),
    };
    let map = state.as_ref().map(map);
    ([there, kind, space].into_iter().chain(map).collect(), state)
}

/// Whether there is a state environment; else what to say instead.
fn is_there(dir: &Path, standing: &Path) -> Result<(), Finding> {
    let shown = dir.display();
    let unusable = |said: String| {
        Finding::problem(CHECK, said)
            .means("Nothing starts with it.")
            .advise("set STATE_DIR to a directory that this user may make and write to")
    };
    match (std::fs::metadata(dir), holds_state(dir)) {
        (Ok(found), _) if !found.is_dir() => {
            Err(unusable(format!("{shown} is there, but is no directory")))
        }
        (Ok(_), Ok(true)) => {
            let synced = File::open(dir).and_then(|folder| folder.sync_all());
            synced.map_err(|error| unusable(format!("{shown} cannot be synced: {error}")))
        }
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            Err(unusable(format!("{shown}: {error}")))
        }
        _ => Err(match disk::may_write(standing) {
            Err(error) => unusable(format!("{shown} cannot be made: {error}")),
            Ok(()) => Finding::note(CHECK, format!("{shown} holds nothing yet"))
                .means("The first server, consumer or publish makes it.")
                .advise("if something was stored before, STATE_DIR is another one"),
        }),
    }
}

fn open(settings: &StateSettings) -> (Finding, Option<State>) {
    match State::open(settings.options(Box::new(|_| {}))) {
        Ok(state) => {
            let shown = state.dir().display();
            let found = format!("{shown} opens and syncs; its processes are in one PID namespace");
            (Finding::ok(CHECK, found), Some(state))
        }
        Err(error) => {
            let finding = Finding::problem(CHECK, error.to_string());
            (finding.means("Nothing starts with it; what is stored stays as it is."), None)
        }
    }
}

fn map(state: &State) -> Finding {
    const CHECK: &str = "state map";
    let (used, most) = match state.used_bytes() {
        Ok(bytes) => bytes,
        Err(error) => return Finding::problem(CHECK, error.to_string()),
    };
    let is_full = matches!(state.room_to_publish(), Err(StateError::MapFull));
    judge_map(used, most.saturating_sub(state.reserve_bytes()), is_full)
}

/// Of a map of which publishers may use so much.
fn judge_map(used: u64, most: u64, is_full: bool) -> Finding {
    const CHECK: &str = "state map";
    let found = format!("{} of {} are in use", HumanBytes(used), HumanBytes(most));
    let advice = "start consumers if none runs, or raise STATE_MAP_BYTES for all processes";
    if is_full || used > most {
        Finding::problem(CHECK, found).means(FULL).advise(advice)
    } else if used > most / 5 * 4 {
        let means = format!("It is nearly used up. When it is: {FULL}");
        Finding::warning(CHECK, found).means(means).advise(advice)
    } else {
        Finding::ok(CHECK, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_warns_before_it_is_full() {
        assert_eq!(judge_map(80, 100, false).level, Level::Ok);
        assert_eq!(judge_map(81, 100, false).level, Level::Warning);
        assert_eq!(judge_map(101, 100, false).level, Level::Problem);
        assert_eq!(judge_map(1, 100, true).level, Level::Problem);
    }
}
