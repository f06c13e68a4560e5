//! Reads back what the run brought into files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::arrival::Seen;
use super::latency::Times;
use super::marks::Marks;
use super::tally::Tally;
use crate::batch::disk::Disk;
use crate::batch::name;

/// The batch files with numbers above `newest`, whether the journal knows them or not: what was
/// committed since, and whatever claims to be.
///
/// # Errors
/// A folder can't be read.
pub(super) fn newer_than(disk: &dyn Disk, newest: u64) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let names = disk.list(&folder).with_context(|| format!("{}", folder.display()))?;
        for file in names {
            match name::parse_final(&file) {
                Some(number) if number > newest => found.push((number, folder.join(file))),
                Some(_) => {}
                // What no worker could do is in no file as it should be; and no ship is measured.
                None if file == name::DEAD || file == name::SHIPS => {}
                None if name::is_folder(&folder, &file) => open.push(folder.join(file)),
                None => {}
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// When the messages of the run were sent, and their files seen.
#[derive(Debug)]
pub(super) struct EndToEnd<'a> {
    /// By request, after `began`.
    pub(super) sent: &'a [Duration],
    pub(super) began: Instant,
    pub(super) entries: u64,
    pub(super) seen: &'a Seen,
    /// From sent to seen.
    pub(super) times: Times,
}

impl EndToEnd<'_> {
    fn meet(&mut self, number: u64, file: u64) {
        let request = usize::try_from(number / self.entries).unwrap_or(usize::MAX);
        if let (Some(sent), Some(seen)) = (self.sent.get(request), self.seen.at.get(&file)) {
            self.times.record(seen.saturating_duration_since(self.began + *sent));
        }
    }
}

/// Reads `files` and counts the messages of the run; how many others were met.
///
/// # Errors
/// A file can't be read.
pub(super) fn read_back(
    disk: &dyn Disk,
    files: &[(u64, PathBuf)],
    marks: &Marks,
    tally: &mut Tally<'_>,
    mut end_to_end: Option<&mut EndToEnd<'_>>,
) -> anyhow::Result<u64> {
    let mut others = 0;
    let mut bytes = Vec::new();
    for (file, path) in files {
        read(disk, path, &mut bytes).with_context(|| format!("{}", path.display()))?;
        let shown = path.display();
        for line in lines(&bytes) {
            let Some(number) = marks.read(line) else {
                others += 1;
                continue;
            };
            tally.meet(number, &shown);
            if let Some(end_to_end) = &mut end_to_end {
                end_to_end.meet(number, *file);
            }
        }
    }
    Ok(others)
}

/// A file taken away meanwhile holds nothing.
fn read(disk: &dyn Disk, path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    match disk.open(path)? {
        Some(mut file) => file.read_to_end(bytes).map(drop),
        None => Ok(()),
    }
}

/// The lines, each without its end. One that is cut off is a line as well, and read as it is.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest.get(..end).filter(|_| !rest.is_empty())?;
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::disk::OutputDir;
    use crate::cli::bench::load::Fate;

    fn name(number: u64) -> String {
        format!("2026-11-22/07/{number:012}-shard-0-worker-1.jsonl")
    }

    #[test]
    fn only_files_since_then_are_read_wherever_they_come_from() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["2026-11-22/07", "dead/2026-11-22/07", ".staging/messages-0"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let marks = Marks::random(60, 51).unwrap();
        let line = |number| {
            let mut line = marks.blank();
            marks.write(&mut line, number);
            [line.as_slice(), b"\n"].concat()
        };
        let write = |path: String, text: &[u8]| std::fs::write(dir.path().join(path), text);
        write(name(4), &line(0)).unwrap();
        write(name(5), &[line(0), b"{}\n".to_vec(), line(1)].concat()).unwrap();
        write(name(6), &line(2)[..51]).unwrap();
        write(format!("dead/{}", name(7)), &line(3)).unwrap();
        let disk = OutputDir::open(dir.path()).unwrap();
        let files = newer_than(&disk, 4).unwrap();
        assert_eq!(files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [5, 6]);
        let mut tally = Tally::new(&[Fate::Accepted; 4], 1);
        let began = Instant::now();
        let seen = Seen { at: [(5, began + Duration::from_secs(9))].into(), ..Seen::default() };
        let (sent, seen, times) = (&[Duration::from_secs(1); 4], &seen, Times::new());
        let mut end_to_end = EndToEnd { sent, began, entries: 1, seen, times };
        let others = read_back(&disk, &files, &marks, &mut tally, Some(&mut end_to_end)).unwrap();
        let verdict = tally.finish();
        assert_eq!((others, verdict.in_files, verdict.lost, verdict.doubled), (1, 3, 1, 0));
        let times = end_to_end.times.percentiles().unwrap();
        assert_eq!((times.count, (times.p50 / 100.0).round()), (2, 80.0));
    }
}
