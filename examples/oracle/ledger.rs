//! The ledger: what the load client is about to send and what was answered, synced to disk.
//!
//! Lines, in the order in which things happened: `sent <request> <id>…` before a request leaves,
//! then at most one of `acked <request>`, `refused <request> <status>` (nothing was stored) and
//! `unknown <request>`. A request without a second line counts as unknown.
//!
//! One thread writes for every connection, all that waits with one sync, so that the ledger does
//! not limit the load.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

struct Note {
    lines: String,
    synced: SyncSender<Result<(), String>>,
}

/// The sending side of the ledger's writer; clones write to the same ledger.
#[derive(Clone)]
pub(crate) struct Ledger {
    notes: SyncSender<Note>,
}

impl Ledger {
    /// Opens the ledger at `path`, for this process alone, and starts its writer, which ends with
    /// the last clone of the ledger.
    pub(crate) fn open(path: &Path) -> Result<(Self, JoinHandle<()>), String> {
        let file = open_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (notes, waiting) = sync_channel(1024);
        let writer = std::thread::spawn(move || keep(file, &waiting));
        Ok((Self { notes }, writer))
    }

    /// Appends `lines` and returns when they are on disk.
    pub(crate) fn record(&self, lines: String) -> Result<(), String> {
        let (synced, answer) = sync_channel(1);
        let gone = |_| "the ledger's writer is gone".to_owned();
        self.notes.send(Note { lines, synced }).map_err(|error| gone(error.to_string()))?;
        answer.recv().map_err(|error| gone(error.to_string()))?
    }
}

/// Opens or creates the file, locks it and cuts off half a line that a killed client left.
fn open_file(path: &Path) -> Result<File, Box<dyn std::error::Error>> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.try_lock().map_err(|error| format!("another load client writes here: {error}"))?;
    let mut whole_bytes = 0;
    let mut reader = BufReader::new(&file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            whole_bytes += u64::try_from(line.len())?;
        }
        line.clear();
    }
    file.set_len(whole_bytes)?;
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

fn keep(mut file: File, notes: &Receiver<Note>) {
    let mut failed: Option<String> = None;
    while let Ok(first) = notes.recv() {
        let mut waiting = vec![first];
        waiting.extend(notes.try_iter());
        let lines: String = waiting.iter().map(|note| note.lines.as_str()).collect();
        if failed.is_none() {
            let outcome = file.write_all(lines.as_bytes()).and_then(|()| file.sync_data());
            // After a failure the file's state is not known: nothing is written any more.
            failed = outcome.err().map(|error| format!("ledger: {error}"));
        }
        for note in waiting {
            // A connection that no longer waits has ended, and nobody is left to be told.
            note.synced.send(failed.clone().map_or(Ok(()), Err)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;
    use std::fs;

    #[test]
    fn lines_are_appended_and_half_a_line_is_cut_off() {
        let name = format!("oracle-ledger-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "sent r1 a b\nacked r").unwrap();
        let (ledger, writer) = Ledger::open(&path).unwrap();
        assert!(Ledger::open(&path).is_err(), "two load clients on one ledger");
        ledger.record("unknown r1\n".to_owned()).unwrap();
        ledger.record("sent r2 c\n".to_owned()).unwrap();
        drop(ledger);
        writer.join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "sent r1 a b\nunknown r1\nsent r2 c\n");
        fs::remove_file(&path).unwrap();
    }
}
