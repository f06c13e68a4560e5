//! The stored form of lines: a frame holds consecutive lines of one shard, of one or more requests.
//!
//! ```text
//! key    offset key of its first line
//! value  count u32 | accepted, ms since 1970 u64 | bytes before u64 | lines
//! ```
//!
//! All big-endian. *Bytes before* is what the shard had taken in before this frame, ever, so that
//! what waits is known in bytes without reading it. The lines are in their output form, each ended
//! by a newline. A frame is at most 16 pages, so that LMDB finds room for it in its free list.

/// Bytes before the lines.
pub const HEAD_BYTES: usize = 20;
/// The most bytes of a stored value: 16 pages of 4,096, less LMDB's page head.
pub const FRAME_BYTES_MAX: usize = 16 * 4096 - 16;
/// The most bytes of lines in a frame, and so of one message with its newline.
pub const LINES_BYTES_MAX: usize = FRAME_BYTES_MAX - HEAD_BYTES;

/// What stands before the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many lines.
    pub count: u32,
    /// When they were accepted, in milliseconds since 1970.
    pub accepted_ms: u64,
    /// Bytes of lines that the shard took in before these.
    pub bytes_before: u64,
}

impl Head {
    /// The stored head.
    #[must_use]
    pub fn encode(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let (count, rest) = bytes.split_at_mut(4);
        let (accepted, before) = rest.split_at_mut(8);
        count.copy_from_slice(&self.count.to_be_bytes());
        accepted.copy_from_slice(&self.accepted_ms.to_be_bytes());
        before.copy_from_slice(&self.bytes_before.to_be_bytes());
        bytes
    }
}

/// Splits a stored value into its head and its lines.
#[must_use]
pub fn decode(value: &[u8]) -> Option<(Head, &[u8])> {
    let (count, rest) = value.split_first_chunk::<4>()?;
    let (accepted, rest) = rest.split_first_chunk::<8>()?;
    let (before, lines) = rest.split_first_chunk::<8>()?;
    let head = Head {
        count: u32::from_be_bytes(*count),
        accepted_ms: u64::from_be_bytes(*accepted),
        bytes_before: u64::from_be_bytes(*before),
    };
    Some((head, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let head = Head { count: 7, accepted_ms: 1 << 41, bytes_before: u64::MAX - 1 };
        let mut value = head.encode().to_vec();
        value.extend_from_slice(b"line\n");
        assert_eq!(decode(&value), Some((head, b"line\n".as_slice())));
        assert_eq!(decode(&value[..HEAD_BYTES - 1]), None);
    }
}
