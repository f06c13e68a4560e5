//! What is written into the file of a delivery.

use std::io::{self, Write};
use std::path::Path;

use super::companion::Tally;
use super::disk::NewFile;
use super::name::{BatchKind, Compression};
use super::writer::{WriteError, retry};
use crate::broker::Delivery;
use crate::state::StateError;

/// What a file is to hold.
#[derive(Debug)]
pub enum Content {
    /// The lines as they came.
    AsIs,
    /// The lines that a program made of them; none, no file.
    Made(Vec<u8>),
    /// Dead letters, and why the first of them is dead.
    Dead(Vec<u8>, String),
}

impl Content {
    pub(super) const fn kind(&self) -> BatchKind {
        match self {
            Self::AsIs | Self::Made(_) => BatchKind::Data,
            Self::Dead(..) => BatchKind::Dead,
        }
    }

    /// Whether each line is that of a message.
    pub(super) const fn is_as_is(&self) -> bool {
        matches!(self, Self::AsIs)
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Self::AsIs | Self::Made(_) => "",
            Self::Dead(_, reason) => reason,
        }
    }

    /// Dead letters are for people: never compressed.
    pub(super) const fn compression(&self, wanted: Compression) -> Compression {
        match self {
            Self::AsIs | Self::Made(_) => wanted,
            Self::Dead(..) => Compression::None,
        }
    }
}

/// What was written and synced.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) checksum: String,
    /// Lines of a program; not counted where they are those of the messages.
    pub(super) lines: u64,
}

/// Counts and hashes what goes into a file.
struct Measured {
    file: Box<dyn NewFile>,
    hash: twox_hash::XxHash3_64,
    bytes: u64,
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        std::hash::Hasher::write(&mut self.hash, bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the content of a new file, and syncs it.
pub(super) fn write(
    file: Box<dyn NewFile>,
    path: &Path,
    delivery: &Delivery,
    content: &Content,
    compression: Compression,
    tally: Option<&mut (dyn Tally + 'static)>,
) -> Result<Written, WriteError> {
    let mut out = Measured { file, hash: twox_hash::XxHash3_64::new(), bytes: 0 };
    match compression {
        Compression::None => write_lines(&mut out, path, delivery, content, tally)?,
        Compression::Zstd => {
            let level = zstd::DEFAULT_COMPRESSION_LEVEL;
            let compressor = zstd::Encoder::new(&mut out, level);
            let mut compressor = compressor.map_err(retry("compressing", path))?;
            // So that `zstd --test` finds damage as well.
            compressor.include_checksum(true).map_err(retry("compressing", path))?;
            write_lines(&mut compressor, path, delivery, content, tally)?;
            compressor.finish().map_err(retry("writing", path))?;
        }
    }
    let Measured { mut file, hash, bytes } = out;
    // Not the same file again: the next try has another name.
    file.sync().map_err(retry("syncing", path))?;
    let checksum = format!("{:016x}", std::hash::Hasher::finish(&hash));
    let lines = match content {
        Content::Made(made) => memchr::memchr_iter(b'\n', made).count() as u64,
        Content::AsIs | Content::Dead(..) => 0,
    };
    Ok(Written { bytes, checksum, lines })
}

fn write_lines(
    out: &mut impl Write,
    path: &Path,
    delivery: &Delivery,
    content: &Content,
    mut tally: Option<&mut (dyn Tally + 'static)>,
) -> Result<(), WriteError> {
    match content {
        Content::AsIs => delivery.visit(|lines| {
            if let Some(tally) = &mut tally {
                tally.add(lines);
            }
            out.write_all(lines).map_err(retry("writing", path))
        }),
        Content::Made(lines) | Content::Dead(lines, _) => {
            out.write_all(lines).map_err(retry("writing", path))
        }
    }
}

impl From<StateError> for WriteError {
    fn from(error: StateError) -> Self {
        match error.is_space() {
            true => Self::NoRoom(error),
            false => Self::Fatal(format!("the state environment: {error}")),
        }
    }
}
