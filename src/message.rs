//! What travels: lines of a topic and shard, and the offsets that number them.
//!
//! A message is one line of JSON, kept as it was received. Within a topic and shard every accepted
//! message has an offset: 0, 1, 2, … without a gap. Everything that is promised about messages is
//! promised in terms of these offsets.
//!
//! Stored keys are big-endian, so that the order of bytes is the order of offsets:
//!
//! ```text
//! shard key    topic u8 | shard u16
//! offset key   topic u8 | shard u16 | offset u64
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a message within its topic and shard, from 0.
pub type Offset = u64;

/// A shard's number, from 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stream of messages with offsets of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// The entries of `POST /message`.
    Messages,
    /// What ships have measured.
    Telemetry,
}

impl Topic {
    /// Every topic there is.
    pub const ALL: [Self; 2] = [Self::Messages, Self::Telemetry];

    const fn code(self) -> u8 {
        match self {
            Self::Messages => 1,
            Self::Telemetry => 2,
        }
    }

    /// The name used in files and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Telemetry => "telemetry",
        }
    }

    /// Whether it is the first topic there was, which texts and JSON leave out for that reason.
    #[must_use]
    pub fn is_messages(&self) -> bool {
        *self == Self::Messages
    }
}

/// One shard of one topic: the unit of order and of ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    /// The topic.
    pub topic: Topic,
    /// The shard within it.
    pub shard: ShardId,
}

impl ShardKey {
    /// Bytes of a stored shard key.
    pub const BYTES: usize = 3;
    /// Bytes of a stored offset key.
    pub const OFFSET_BYTES: usize = 11;

    /// A shard of `topic`.
    #[must_use]
    pub const fn new(topic: Topic, shard: ShardId) -> Self {
        Self { topic, shard }
    }

    /// The shard in a word: `3`, or `t3` where it is telemetry's.
    #[must_use]
    pub fn short(self) -> String {
        match self.topic {
            Topic::Messages => self.shard.to_string(),
            Topic::Telemetry => format!("t{}", self.shard),
        }
    }

    /// Reads such a word; digits only, without a sign.
    #[must_use]
    pub fn parse_short(word: &str) -> Option<Self> {
        let (topic, digits) = match word.strip_prefix('t') {
            Some(digits) => (Topic::Telemetry, digits),
            None => (Topic::Messages, word),
        };
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        Some(Self::new(topic, ShardId(digits.parse().ok().filter(|_| is_number)?)))
    }

    /// The stored shard key.
    #[must_use]
    pub const fn key(self) -> [u8; Self::BYTES] {
        let [high, low] = self.shard.0.to_be_bytes();
        [self.topic.code(), high, low]
    }

    /// The stored key of one offset in this shard.
    #[must_use]
    pub fn offset_key(self, offset: Offset) -> [u8; Self::OFFSET_BYTES] {
        let [topic, high, low] = self.key();
        let [a, b, c, d, e, f, g, h] = offset.to_be_bytes();
        [topic, high, low, a, b, c, d, e, f, g, h]
    }

    /// Reads a stored shard key, or the head of a stored offset key.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [code, high, low, ..] = bytes else { return None };
        let topic = Topic::ALL.into_iter().find(|topic| topic.code() == *code)?;
        Some(Self::new(topic, ShardId(u16::from_be_bytes([*high, *low]))))
    }

    /// Reads the offset of a stored offset key.
    #[must_use]
    pub fn parse_offset(bytes: &[u8]) -> Option<Offset> {
        let tail = bytes.get(Self::BYTES..Self::OFFSET_BYTES)?;
        Some(Offset::from_be_bytes(tail.try_into().ok()?))
    }
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shard {}", self.topic.name(), self.shard)
    }
}

/// The offsets `first..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OffsetRange {
    /// The first offset.
    pub first: Offset,
    /// One past the last offset.
    pub end: Offset,
}

impl OffsetRange {
    /// The offsets `first..end`.
    #[must_use]
    pub const fn new(first: Offset, end: Offset) -> Self {
        Self { first, end }
    }

    /// How many offsets.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.first
    }

    /// Whether any offset is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first < other.end && other.first < self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end)
    }
}

/// Whole lines, each ended by a newline, and their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// The lines' bytes.
    pub bytes: Vec<u8>,
    /// How many lines.
    pub count: u32,
}

impl Lines {
    /// Appends `line`, which holds no newline, and ends it.
    pub fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.count = self.count.saturating_add(1);
    }
}

/// The bytes of the first `count` lines of `bytes`; all of it when there are fewer.
#[must_use]
pub fn line_prefix_bytes(bytes: &[u8], count: u64) -> usize {
    let Some(last) = count.checked_sub(1) else { return 0 };
    let nth = usize::try_from(last).unwrap_or(usize::MAX);
    memchr::memchr_iter(b'\n', bytes).nth(nth).map_or(bytes.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_shard_then_offset_and_read_back() {
        let shard = |n| ShardKey::new(Topic::Messages, ShardId(n));
        let keys = [(0, 0), (0, 255), (0, 256), (0, u64::MAX), (1, 0), (256, 3)]
            .map(|(n, offset)| shard(n).offset_key(offset));
        assert!(keys.is_sorted());
        assert_eq!(ShardKey::parse(&keys[5]), Some(shard(256)));
        assert_eq!(ShardKey::parse_offset(&keys[5]), Some(3));
        let telemetry = ShardKey::new(Topic::Telemetry, ShardId(0));
        assert!(telemetry.offset_key(0) > keys[5]);
        assert_eq!(ShardKey::parse(&telemetry.key()), Some(telemetry));
        assert_eq!(ShardKey::parse(&[9, 0, 0]), None);
        assert_eq!(ShardKey::parse_offset(&[1, 0, 0]), None);
    }

    #[test]
    fn a_shard_in_a_word_reads_back_with_its_topic() {
        for (topic, word) in [(Topic::Messages, "3"), (Topic::Telemetry, "t3")] {
            let key = ShardKey::new(topic, ShardId(3));
            assert_eq!((key.short().as_str(), ShardKey::parse_short(word)), (word, Some(key)));
        }
        for word in ["", "t", "x3", "+3", "t+3", "70000", "tt3"] {
            assert_eq!(ShardKey::parse_short(word), None, "{word}");
        }
    }

    #[test]
    fn a_prefix_of_lines_ends_after_its_newline() {
        let bytes = b"a\nbb\n\nc\n";
        assert_eq!([0, 1, 2, 3, 4, 9].map(|n| line_prefix_bytes(bytes, n)), [0, 2, 5, 6, 8, 8]);
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let range = OffsetRange::new(5, 10);
        assert!(!range.overlaps(OffsetRange::new(10, 12)));
        assert!(!range.overlaps(OffsetRange::new(0, 5)));
        assert!(range.overlaps(OffsetRange::new(9, 10)));
    }
}
