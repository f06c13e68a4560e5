//! The output directory, bound to one state environment by a marker.
//!
//! ```text
//! <output>/.async-data-processor   the identity of the output, 32 hexadecimal digits and a newline
//! table meta, "output"             the same identity
//! table meta, "output_bound"       1 once the marker is known to be there
//! table meta, "output_path"        its absolute path, where whoever bound it last has found it
//! ```
//!
//! Recovery takes an absent file for one that a reader took away. That is sound only in the
//! directory where it was written: in another one, or under a mount that is not there, everything
//! would look taken away. So a directory with another marker, or with none, is refused.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::disk::{Disk, OutputDir};
use crate::broker::append::shard_ends;
use crate::broker::ownership;
use crate::broker::progress::Progress;
use crate::state::{State, StateError, Tables, WriteTxn, random_identity};

const MARKER: &str = ".async-data-processor";
const IDENTITY: &[u8] = b"output";
const BOUND: &[u8] = b"output_bound";
const PATH: &[u8] = b"output_path";

/// Why an output directory may not be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It belongs to another state directory.
    #[error(
        "output directory {output} belongs to another state directory than {state} \
         (its marker {MARKER} says {theirs}): use its own STATE_DIR, or another DATA_OUTPUT_DIR"
    )]
    Foreign {
        /// The output directory.
        output: PathBuf,
        /// The state directory.
        state: PathBuf,
        /// What the marker says.
        theirs: String,
    },
    /// It is not the one that was used so far.
    #[error(
        "output directory {output} is not the one that state directory {state} writes to: it has \
         no marker {MARKER}. Is a disk not mounted? Mount it, or set DATA_OUTPUT_DIR to the old \
         directory; to go on in this one, pass --adopt-output-dir"
    )]
    Unmarked {
        /// The output directory.
        output: PathBuf,
        /// The state directory.
        state: PathBuf,
    },
    /// Batches are on their way into the old directory.
    #[error(
        "state directory {state} has {batches} batches on their way into its old output \
         directory: start once with that one, then adopt {output}"
    )]
    Unfinished {
        /// The output directory.
        output: PathBuf,
        /// The state directory.
        state: PathBuf,
        /// How many.
        batches: u64,
    },
    /// Somebody writes into the old directory.
    #[error(
        "another message-consumer of state directory {state} is running: stop it before this one \
         adopts another output directory"
    )]
    InUse {
        /// The state directory.
        state: PathBuf,
    },
    /// Nobody has bound one, or said where it is.
    #[error(
        "state directory {state} does not say yet where its output directory is: start its \
         message-consumer"
    )]
    Unrecorded {
        /// The state directory.
        state: PathBuf,
    },
    /// It cannot be reached from here.
    #[error(
        "output directory {output} cannot be reached from here: {source}. Is it on another host or \
         in another container, or is its disk not mounted?"
    )]
    Unreachable {
        /// The output directory.
        output: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It can't be used.
    #[error("output directory {output}: {source}; set DATA_OUTPUT_DIR to one you may write to")]
    Io {
        /// The output directory.
        output: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state environment refused.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Checks that `disk` (at `output`) is the output directory of `state`, and binds a new one; its
/// identity.
///
/// # Errors
/// It belongs to another, is not the one used so far, or can't be used.
pub fn bind(
    state: &State,
    disk: &dyn Disk,
    output: &Path,
    adopt: bool,
) -> Result<String, OutputError> {
    let io = |source| OutputError::Io { output: output.to_owned(), source };
    let marker = read_marker(disk).map_err(io)?;
    if adopt && marker.is_none() {
        if ownership::any_owned(state.dir()).map_err(io)? {
            return Err(OutputError::InUse { state: state.dir().to_owned() });
        }
        // A new identity: the old directory must not be taken for this one later.
        let batches = state.commit(forget_identity)?;
        if batches > 0 {
            let (output, state) = (output.to_owned(), state.dir().to_owned());
            return Err(OutputError::Unfinished { output, state, batches });
        }
    }
    let (identity, bound) = known_identity(state)?;
    if marker.is_some() || bound {
        compare(state, output, marker, &identity)?;
    } else {
        write_marker(disk, &identity).map_err(io)?;
    }
    let path = std::path::absolute(output).map_err(io)?;
    let is_recorded = recorded_path(state)?.is_some_and(|recorded| recorded == path);
    if !bound || !is_recorded {
        state.commit(move |txn| {
            let meta = txn.tables.meta;
            meta.put(&mut txn.txn, BOUND, b"1")?;
            Ok(meta.put(&mut txn.txn, PATH, path.as_os_str().as_bytes())?)
        })?;
    }
    Ok(identity)
}

/// Opens the output directory of `state` where its consumer has it, if that is there from here.
///
/// # Errors
/// It is not known, not there, or not the one of `state`.
pub fn open(state: &State) -> Result<OutputDir, OutputError> {
    let unrecorded = || OutputError::Unrecorded { state: state.dir().to_owned() };
    let output = recorded_path(state)?.ok_or_else(unrecorded)?;
    let disk = OutputDir::open(&output)
        .map_err(|source| OutputError::Unreachable { output: output.clone(), source })?;
    check(state, &disk, &output)?;
    Ok(disk)
}

fn recorded_path(state: &State) -> Result<Option<PathBuf>, StateError> {
    let txn = state.read()?;
    let stored = state.tables().meta.get(&txn, PATH)?;
    Ok(stored.map(|bytes| PathBuf::from(OsStr::from_bytes(bytes))))
}

/// Whether `state` has an output directory.
///
/// # Errors
/// A read failed.
pub fn is_bound(state: &State) -> Result<bool, StateError> {
    let txn = state.read()?;
    Ok(state.tables().meta.get(&txn, BOUND)?.is_some())
}

/// Checks that `disk` (at `output`) is the output directory of `state`; changes nothing.
///
/// # Errors
/// It is not, or can't be read.
pub fn check(state: &State, disk: &dyn Disk, output: &Path) -> Result<(), OutputError> {
    let marker = read_marker(disk)
        .map_err(|source| OutputError::Io { output: output.to_owned(), source })?;
    let identity = identity(&*state.read()?, state.tables())?;
    compare(state, output, marker, &identity.unwrap_or_default())
}

/// The marker of `output` must say the identity that `state` knows.
fn compare(
    state: &State,
    output: &Path,
    marker: Option<String>,
    identity: &str,
) -> Result<(), OutputError> {
    let (output, state) = (output.to_owned(), state.dir().to_owned());
    match marker {
        Some(theirs) if theirs == identity => Ok(()),
        Some(theirs) => Err(OutputError::Foreign { output, state, theirs }),
        None => Err(OutputError::Unmarked { output, state }),
    }
}

/// The identity of the output directory that is in force.
///
/// # Errors
/// A read failed.
pub fn identity(txn: &heed::RoTxn<'_>, tables: Tables) -> Result<Option<String>, StateError> {
    let stored = tables.meta.get(txn, IDENTITY)?;
    Ok(stored.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// Forgets the output directory, unless batches are on their way into it: how many. Whoever owns a
/// shard at this moment is fenced off, since it writes into the old one.
fn forget_identity(txn: &mut WriteTxn<'_>) -> Result<u64, StateError> {
    let batches = txn.tables.prepared.len(&txn.txn)?;
    if batches == 0 {
        let meta = txn.tables.meta;
        meta.delete(&mut txn.txn, IDENTITY)?;
        meta.delete(&mut txn.txn, BOUND)?;
        for (key, _) in shard_ends(&txn.txn, txn.tables)? {
            let mut progress = Progress::load(&txn.txn, txn.tables, key)?;
            progress.epoch += 1;
            progress.store(txn, key)?;
        }
    }
    Ok(batches)
}

/// The identity of the output, and whether its marker was ever seen in place. Made up on first
/// use, and recorded before the marker is written: so a crash in between is no riddle.
fn known_identity(state: &State) -> Result<(String, bool), StateError> {
    let known = identity(&*state.read()?, state.tables())?;
    if let Some(known) = known {
        return Ok((known, is_bound(state)?));
    }
    let fresh = random_identity()
        .map_err(|error| StateError::Lmdb(format!("random bits for an identity: {error}")))?;
    let identity = state.commit(move |txn: &mut WriteTxn<'_>| {
        // Another process may have been first.
        if let Some(theirs) = identity(&txn.txn, txn.tables)? {
            return Ok(theirs);
        }
        txn.tables.meta.put(&mut txn.txn, IDENTITY, fresh.as_bytes())?;
        Ok(fresh.clone())
    })?;
    Ok((identity, false))
}

fn read_marker(disk: &dyn Disk) -> io::Result<Option<String>> {
    let Some(file) = disk.open(Path::new(MARKER))? else { return Ok(None) };
    let mut text = String::new();
    file.take(256).read_to_string(&mut text)?;
    Ok(Some(text.trim().to_owned()))
}

/// Written aside and renamed, so that a marker is whole or absent.
fn write_marker(disk: &dyn Disk, identity: &str) -> io::Result<()> {
    let aside = PathBuf::from(format!("{MARKER}.{}", random_identity()?));
    let mut file = disk.create_new(&aside)?;
    file.write_all(format!("{identity}\n").as_bytes())?;
    file.sync()?;
    match disk.rename_new(&aside, Path::new(MARKER)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.remove(&aside)?,
        renamed => renamed?,
    }
    disk.sync_dir(Path::new("")).map(drop)
}
