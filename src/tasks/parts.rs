//! A result that is longer than a head, read in parts: one at a time is in memory.

use std::io;
use std::path::Path;

use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::supply::{Body, SupplyError};
use crate::task::PART_BYTES;

/// A result, and how far it was read.
#[derive(Debug)]
pub(super) enum Parts<'a> {
    Bytes(&'a [u8]),
    File(&'a Path, File),
}

impl<'a> Parts<'a> {
    pub(super) async fn open(body: &'a Body) -> Result<Self, SupplyError> {
        match body {
            Body::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            Body::File(path) => {
                let file = File::open(path).await.map_err(|error| unreadable(path, &error))?;
                Ok(Self::File(path, file))
            }
        }
    }

    /// The next part: [`PART_BYTES`] bytes, but for the last one; `None` after it.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, SupplyError> {
        let part = self.read(PART_BYTES).await?;
        Ok((!part.is_empty()).then_some(part))
    }

    /// So many bytes, or what is left.
    pub(super) async fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, SupplyError> {
        match self {
            Self::Bytes(bytes) => {
                let (part, rest) = bytes.split_at(bytes.len().min(bytes_max));
                *bytes = rest;
                Ok(part.to_vec())
            }
            Self::File(path, file) => {
                let mut part = Vec::new();
                let read = file.take(bytes_max as u64).read_to_end(&mut part).await;
                read.map_err(|error| unreadable(path, &error))?;
                Ok(part)
            }
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> SupplyError {
    SupplyError(format!("the result in {} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_and_bytes_come_in_the_same_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result");
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES] {
            let whole: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
            std::fs::write(&path, &whole).unwrap();
            for body in [Body::Bytes(whole.clone()), Body::File(path.clone())] {
                let (mut parts, mut found) = (Parts::open(&body).await.unwrap(), Vec::new());
                while let Some(part) = parts.next().await.unwrap() {
                    assert!(part.len() == PART_BYTES || found.len() + part.len() == bytes);
                    found.extend(part);
                }
                assert!(found == whole, "{bytes}");
            }
        }
        std::fs::remove_file(&path).unwrap();
        let error = Parts::open(&Body::File(path)).await.unwrap_err().to_string();
        assert!(error.contains("result cannot be read: No such file"), "{error}");
    }
}
