//! Reading the lines of a committed batch, wherever its file is by now.

use std::io::{self, BufRead, BufReader, Read};

use super::disk::Disk;
use super::journal::BatchRow;
use super::name::{self, Compression};
use super::recovery::{Found, inspect};

/// What is found of a batch.
pub enum Opened {
    /// Its lines, each ended by a newline; what was committed, to the last byte.
    Lines(Box<dyn BufRead>),
    /// Its file was taken away.
    TakenAway,
    /// Its file is not what was committed.
    Damaged(String),
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lines(_) => "Lines",
            Self::TakenAway => "TakenAway",
            Self::Damaged(_) => "Damaged",
        })
    }
}

/// Opens the file of a batch, in its place or where it is staged, if it is what was committed.
///
/// # Errors
/// What the system said.
pub fn open(disk: &dyn Disk, row: &BatchRow) -> io::Result<Opened> {
    if !row.has_file() {
        return Ok(Opened::Lines(Box::new(io::empty())));
    }
    // The last time because it may have been renamed between the two looks before.
    for path in [&row.file, &row.staged, &row.file] {
        match inspect(disk, path, row)? {
            Found::Absent => {}
            Found::Damaged(found) => return Ok(Opened::Damaged(found)),
            Found::Whole => {
                if let Some(file) = disk.open(path)? {
                    return Ok(Opened::Lines(reader(row, file)?));
                }
            }
        }
    }
    Ok(Opened::TakenAway)
}

fn reader(row: &BatchRow, file: Box<dyn Read>) -> io::Result<Box<dyn BufRead>> {
    Ok(match name::compression_of(&row.file) {
        Compression::None => Box::new(BufReader::new(file)),
        Compression::Zstd => Box::new(BufReader::new(zstd::Decoder::new(file)?)),
    })
}
