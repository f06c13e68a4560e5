//! Digits that come in, of any number: a part in memory, the rest in a file without a name.
//!
//! They are all here, and known to be sound, before anything is changed in the store.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::task::{PART_BYTES, ResultHead, TaskId};

/// The digits.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    head: ResultHead,
    /// The parts that are in the file; all are whole.
    filed: Option<Filed>,
    /// What follows them.
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Filed {
    file: Arc<File>,
    parts: u32,
}

impl Spool {
    /// An empty one, whose file would be made in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        let head = ResultHead { bytes: 0, head: Vec::new() };
        Self { folder: folder.to_owned(), head, filed: None, rest: Vec::new() }
    }

    /// How many there are, and the first of them.
    pub(super) fn head(&self) -> &ResultHead {
        &self.head
    }

    /// Adds digits.
    pub(super) async fn push(&mut self, mut digits: &[u8]) -> io::Result<()> {
        let of_head = (ResultHead::BYTES_MAX - self.head.head.len()).min(digits.len());
        self.head.head.extend_from_slice(digits.get(..of_head).unwrap_or_default());
        self.head.bytes += digits.len() as u64;
        while !digits.is_empty() {
            let (now, later) = digits.split_at(digits.len().min(PART_BYTES - self.rest.len()));
            self.rest.extend_from_slice(now);
            digits = later;
            if self.rest.len() == PART_BYTES {
                self.file_part().await?;
            }
        }
        Ok(())
    }

    async fn file_part(&mut self) -> io::Result<()> {
        let part = std::mem::take(&mut self.rest);
        let folder = self.folder.clone();
        let filed = self.filed.take();
        let write = move || {
            let (file, parts) = match filed {
                Some(Filed { file, parts }) => (file, parts),
                None => (Arc::new(nameless(&folder)?), 0),
            };
            file.write_all_at(&part, u64::from(parts) * PART_BYTES as u64)?;
            Ok::<_, io::Error>((Filed { file, parts: parts + 1 }, part))
        };
        let (filed, mut part) = spawn_blocking(write).await.map_err(io::Error::other)??;
        part.clear();
        (self.filed, self.rest) = (Some(filed), part);
        Ok(())
    }

    /// A part of them, as results are stored.
    pub(super) async fn part(&self, index: u32) -> io::Result<Vec<u8>> {
        let Some(Filed { file, .. }) = self.filed.as_ref().filter(|filed| index < filed.parts)
        else {
            return Ok(self.rest.clone());
        };
        let file = Arc::clone(file);
        let read = move || {
            let mut part = vec![0; PART_BYTES];
            file.read_exact_at(&mut part, u64::from(index) * PART_BYTES as u64)?;
            Ok(part)
        };
        spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// A file that is gone with its handle, however the process ends.
fn nameless(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!("upload-{}", TaskId::new()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn digits_come_back_in_parts_and_leave_no_file() {
        for bytes in [0, 1, 1024, 1025, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 7] {
            let dir = tempfile::tempdir().unwrap();
            let digits: Vec<u8> =
                (0..bytes).map(|n| b'0' + u8::try_from(n % 10).unwrap()).collect();
            let mut spool = Spool::new(dir.path());
            for chunk in digits.chunks(70_001) {
                spool.push(chunk).await.unwrap();
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            let head = spool.head();
            assert_eq!(head.bytes, bytes as u64);
            assert_eq!(head.head, digits[..bytes.min(ResultHead::BYTES_MAX)]);
            let mut found = Vec::new();
            for index in 0..u32::try_from(head.parts()).unwrap() {
                found.extend(spool.part(index).await.unwrap());
            }
            if !head.is_whole() {
                assert_eq!(found, digits);
            }
        }
    }
}
