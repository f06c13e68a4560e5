//! Results on their way, kept on this machine's disk until they are safe elsewhere.
//!
//! ```text
//! <folder>/<random>/lock               flock: its process lives
//!                  /running            which attempt each slot runs: one record a slot
//!                  /<task>-<attempt>.result          a result that is no small one
//!                  /<number>.group     a group of outcomes that is being delivered
//! ```
//!
//! Each engine has a folder of its own in the state directory, [`RESULTS`] or [`ACCOUNTS`]: what
//! the dead have left is delivered the way it was to go.
//!
//! A group is a JSON array, written under another name, synced and renamed; bytes are in base64.
//! A process that starts takes over the folders whose process is dead: their groups are delivered,
//! and what no group names (of runs that were cut off) is removed with the folder. What ran when it
//! died may be why it died, unlike all else it had in hand: that is told as well.
//!
//! ```text
//! record of a slot   <task> <attempt>, padded with spaces to 63 bytes, and a newline; or blank
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};

use super::supply::{Body, Done};
use crate::service::held;
use crate::store::Millis;
use crate::task::{Attempt, Outcome, ResultHead, TaskId};

/// The folder of results.
pub const RESULTS: &str = "results";
/// The folder of the accounts of captures.
pub const ACCOUNTS: &str = "accounts";

const LOCK: &str = "lock";
const RUNNING: &str = "running";
const GROUP: &str = "group";

/// The bytes of a record of `running`: a write of so few is not torn by the end of the process.
const RECORD_BYTES: usize = 64;

/// The folder of a process.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    _lock: File,
    /// Not synced: it tells of dead processes, not of dead machines.
    running: File,
    groups: AtomicU64,
    /// The tasks whose results dead processes have left, until they are delivered.
    left: Mutex<HashSet<TaskId>>,
}

/// A group on disk.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
}

/// What a dead process left.
#[derive(Debug)]
pub struct Left {
    folder: PathBuf,
    _lock: File,
    /// What it had not delivered.
    pub groups: Vec<Vec<Done>>,
    /// What it ran when it died.
    pub ran: Vec<(TaskId, Attempt)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    id: TaskId,
    attempt: Attempt,
    #[serde(flatten)]
    outcome: Outcome,
    /// The head of a result.
    head: String,
    body: Option<RowBody>,
    began_at_ms: Option<Millis>,
    at_ms: Millis,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RowBody {
    Bytes(String),
    /// A file of this folder.
    File(String),
}

impl Spool {
    /// Makes a folder for this process in that of its engine, beneath the state directory, and
    /// takes over those of the dead.
    ///
    /// # Errors
    /// A folder or a file cannot be made, read or removed.
    pub fn open(state_dir: &Path, folder: &str) -> io::Result<(Self, Vec<Left>)> {
        let all = state_dir.join(folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        // One that starts after the other: nobody takes over a folder that is just being made.
        let turn = File::open(&all)?;
        retry_on_intr(|| flock(&turn, FlockOperation::LockExclusive))?;
        let left = take_over(&all)?;
        let folder = all.join(TaskId::new().to_string());
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let lock = own_file(&folder.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let running = own_file(&folder.join(RUNNING))?;
        sync_folder(&all)?;
        let ids = left.iter().flat_map(|left| &left.groups).flatten().map(|done| done.id);
        let ids = Mutex::new(ids.collect());
        let groups = AtomicU64::new(0);
        Ok((Self { folder, _lock: lock, running, groups, left: ids }, left))
    }

    /// Whether a dead process has left a result of the task that is not delivered yet.
    #[must_use]
    pub fn holds(&self, id: TaskId) -> bool {
        held(&self.left).contains(&id)
    }

    /// What a dead process left of these tasks was delivered.
    pub(super) fn delivered(&self, group: &[Done]) {
        held(&self.left).retain(|id| group.iter().all(|done| done.id != *id));
    }

    /// Notes what a slot runs from now on, if anything.
    pub(super) fn note_running(&self, slot: usize, run: Option<(TaskId, Attempt)>) {
        let text = run.map(|(id, attempt)| format!("{id} {attempt}")).unwrap_or_default();
        let record = format!("{text:<width$}\n", width = RECORD_BYTES - 1);
        let written = self.running.write_all_at(record.as_bytes(), (slot * RECORD_BYTES) as u64);
        if let Err(error) = written {
            // Only what a death of this process is put down to suffers.
            tracing::debug!(%error, "what runs cannot be noted");
        }
    }

    /// Where a run writes its result.
    #[must_use]
    pub fn result_path(&self, id: TaskId, attempt: Attempt) -> PathBuf {
        self.folder.join(format!("{id}-{attempt}.result"))
    }

    /// Keeps a group until it is delivered. Their files are synced first.
    ///
    /// # Errors
    /// It cannot be written or synced.
    pub fn keep(&self, group: &[Done]) -> io::Result<Kept> {
        for done in group {
            if let Some(Body::File(path)) = &done.body {
                File::open(path)?.sync_all()?;
            }
        }
        let number = self.groups.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{number}.new"));
        let path = self.folder.join(format!("{number}.{GROUP}"));
        let written = self.write(group, &unfinished, &path);
        if written.is_err() {
            // A disk that is full is not to be filled further.
            discard(&unfinished);
            discard(&path);
        }
        written.map(|()| Kept { path })
    }

    fn write(&self, group: &[Done], unfinished: &Path, path: &Path) -> io::Result<()> {
        let rows: Vec<Row> = group.iter().map(Row::of).collect();
        let mut options = File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(unfinished)?;
        file.write_all(&serde_json::to_vec(&rows)?)?;
        file.sync_all()?;
        fs::rename(unfinished, path)?;
        sync_folder(&self.folder)
    }
}

impl Drop for Spool {
    /// A folder that holds no results is of no use to the next process.
    fn drop(&mut self) {
        let is_own =
            |entry: fs::DirEntry| [LOCK, RUNNING].iter().any(|own| entry.file_name() == *own);
        let is_empty = fs::read_dir(&self.folder)
            .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_own)));
        if is_empty {
            let _left_for_the_next = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Kept {
    /// It is safe elsewhere.
    pub fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a delivered result stays; it will be sent again");
        }
    }
}

impl Left {
    /// All of it is safe elsewhere, or of no use.
    pub fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            let path = self.folder.display();
            tracing::warn!(%path, %error, "what a dead process left stays");
        }
    }
}

/// Removes the file of a result that was delivered or is not wanted.
pub fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a result of no more use stays");
    }
}

fn take_over(all: &Path) -> io::Result<Vec<Left>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(all)? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        let lock = match own_file(&folder.join(LOCK)) {
            // Another process that starts has taken it over.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let groups = match read_groups(&folder) {
                // Whoever has taken it over is removing it, its lock first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                groups => groups?,
            };
            let ran = read_running(&folder);
            left.push(Left { folder, _lock: lock, groups, ran });
        }
    }
    Ok(left)
}

fn read_groups(folder: &Path) -> io::Result<Vec<Vec<Done>>> {
    let mut groups = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == GROUP) {
            match read_group(&fs::read(&path)?, folder) {
                Ok(group) => groups.push(group),
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "damaged results are left out: what they were \
                        of runs again");
                }
            }
        }
    }
    Ok(groups)
}

fn read_group(bytes: &[u8], folder: &Path) -> io::Result<Vec<Done>> {
    let rows: Vec<Row> = serde_json::from_slice(bytes)?;
    let group = rows.into_iter().map(|row| row.done(folder));
    group.collect::<Result<_, _>>().map_err(io::Error::other)
}

/// What a process ran when it died, as far as it is known.
fn read_running(folder: &Path) -> Vec<(TaskId, Attempt)> {
    let records = fs::read(folder.join(RUNNING)).unwrap_or_default();
    let run = |record: &[u8]| {
        let (id, attempt) = str::from_utf8(record).ok()?.trim_end().split_once(' ')?;
        Some((id.parse().ok()?, attempt.parse().ok()?))
    };
    records.chunks(RECORD_BYTES).filter_map(run).collect()
}

fn own_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    options.open(path)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Row {
    fn of(done: &Done) -> Self {
        let head = match &done.outcome {
            Outcome::Finished(result) => BASE64_STANDARD.encode(&result.head),
            _ => String::new(),
        };
        let body = done.body.as_ref().map(|body| match body {
            Body::Bytes(bytes) => RowBody::Bytes(BASE64_STANDARD.encode(bytes)),
            Body::File(path) => {
                let name = path.file_name().unwrap_or_default();
                RowBody::File(name.to_string_lossy().into_owned())
            }
        });
        let Done { id, attempt, began_at_ms, at_ms, .. } = *done;
        Self { id, attempt, outcome: done.outcome.clone(), head, body, began_at_ms, at_ms }
    }

    fn done(self, folder: &Path) -> Result<Done, base64::DecodeError> {
        let outcome = match self.outcome {
            Outcome::Finished(ResultHead { bytes, .. }) => {
                Outcome::Finished(ResultHead { bytes, head: BASE64_STANDARD.decode(self.head)? })
            }
            other => other,
        };
        let body = match self.body {
            Some(RowBody::Bytes(text)) => Some(Body::Bytes(BASE64_STANDARD.decode(text)?)),
            Some(RowBody::File(name)) => Some(Body::File(folder.join(name))),
            None => None,
        };
        let Self { id, attempt, began_at_ms, at_ms, .. } = self;
        Ok(Done { id, attempt, outcome, body, began_at_ms, at_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(body: Option<Body>) -> Done {
        let head = ResultHead { bytes: 5000, head: vec![0, 1, 255] };
        let (id, outcome) = (TaskId::new(), Outcome::Finished(head));
        Done { id, attempt: 3, outcome, body, began_at_ms: Some(-9), at_ms: -7 }
    }

    #[test]
    fn what_a_dead_process_kept_is_taken_over_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, left) = Spool::open(dir.path(), RESULTS).unwrap();
        assert!(left.is_empty());
        let path = spool.result_path(TaskId::new(), 1);
        fs::write(&path, "digits").unwrap();
        let failed = Outcome::Failed { reason: "no".to_owned(), is_final: true };
        let failed = Done { outcome: failed, body: None, ..finished(None) };
        let group = vec![
            finished(Some(Body::Bytes(vec![7; 2000]))),
            finished(Some(Body::File(path.clone()))),
            failed,
        ];
        let _kept = spool.keep(&group).unwrap();
        spool.keep(&[finished(None)]).unwrap().remove();
        let (_second, of_the_living) = Spool::open(dir.path(), RESULTS).unwrap();
        assert!(of_the_living.is_empty(), "its process lives");
        drop(spool);
        let (_third, left) = Spool::open(dir.path(), RESULTS).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].groups, [group]);
        let (_fourth, again) = Spool::open(dir.path(), RESULTS).unwrap();
        assert!(again.is_empty(), "it is being delivered");
        left.into_iter().for_each(Left::remove);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_on_its_way_elsewhere_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _none) = Spool::open(dir.path(), ACCOUNTS).unwrap();
        let _kept = spool.keep(&[finished(None)]).unwrap();
        drop(spool);
        let (_results, left) = Spool::open(dir.path(), RESULTS).unwrap();
        assert!(left.is_empty());
        let (_accounts, left) = Spool::open(dir.path(), ACCOUNTS).unwrap();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn what_ran_when_a_process_died_is_known_and_what_had_ended_is_not_put_down_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _none) = Spool::open(dir.path(), RESULTS).unwrap();
        let (one, two) = (TaskId::new(), TaskId::new());
        spool.note_running(0, Some((one, 4_000_000_000)));
        spool.note_running(0, Some((two, 1)));
        spool.note_running(2, Some((one, 2)));
        spool.note_running(3, Some((one, 3)));
        spool.note_running(3, None);
        let _kept = spool.keep(&[finished(None)]).unwrap();
        drop(spool);
        let (_next, left) = Spool::open(dir.path(), RESULTS).unwrap();
        assert_eq!(left[0].ran, [(two, 1), (one, 2)]);
    }

    #[test]
    fn a_damaged_group_is_left_out_and_the_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _none) = Spool::open(dir.path(), RESULTS).unwrap();
        let group = vec![finished(None)];
        let _kept = spool.keep(&group).unwrap();
        fs::write(spool.folder.join("9.group"), "[{").unwrap();
        drop(spool);
        let (_next, left) = Spool::open(dir.path(), RESULTS).unwrap();
        assert_eq!(left[0].groups, [group]);
    }

    #[test]
    fn a_group_that_was_not_written_whole_and_cut_off_runs_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _none) = Spool::open(dir.path(), RESULTS).unwrap();
        fs::write(spool.folder.join("0.new"), "[{").unwrap();
        fs::write(spool.result_path(TaskId::new(), 1), "half").unwrap();
        drop(spool);
        let (_next, left) = Spool::open(dir.path(), RESULTS).unwrap();
        assert!(left[0].groups.is_empty());
        left.into_iter().for_each(Left::remove);
        assert_eq!(fs::read_dir(dir.path().join(RESULTS)).unwrap().count(), 1);
    }
}
