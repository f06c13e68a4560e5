//! A receipt: which offsets a request's messages got, as a text that a client keeps.
//!
//! ```text
//! 3f2a9c41                       nothing was sent
//! 3f2a9c41_0-15-3_2-7-1          offsets 15, 16, 17 of shard 0 and 7 of shard 2
//! 3f2a9c41_t4-7-2                offsets 7 and 8 of telemetry's shard 4
//! ```
//!
//! The first part is the head of the state environment's identity, so that a receipt of another one
//! is not taken for one of this. Nothing is stored for it: the journal knows the rest.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::UNIT_MESSAGES_MAX;
use crate::message::{OffsetRange, ShardKey};

const IDENTITY_CHARS: usize = 8;
const MESSAGES_MAX: u64 = UNIT_MESSAGES_MAX as u64;

/// The offsets of one request, by shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    identity: String,
    ranges: Vec<(ShardKey, OffsetRange)>,
}

/// A text that is no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a receipt")]
pub struct NotAReceipt;

impl Receipt {
    /// A receipt of the environment `identity`.
    #[must_use]
    pub fn new(identity: &str, ranges: Vec<(ShardKey, OffsetRange)>) -> Self {
        Self { identity: identity.chars().take(IDENTITY_CHARS).collect(), ranges }
    }

    /// Whether the environment `identity` gave it.
    #[must_use]
    pub fn is_of(&self, identity: &str) -> bool {
        identity.starts_with(&self.identity)
    }

    /// The offsets, by shard.
    #[must_use]
    pub fn ranges(&self) -> &[(ShardKey, OffsetRange)] {
        &self.ranges
    }

    /// The shards, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<ShardKey> {
        self.ranges.iter().map(|(key, _)| *key).collect()
    }

    /// Whether its text reads back: one of more messages than a request may hold does not.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.count() <= MESSAGES_MAX
    }

    /// How many messages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(_, range)| range.count()).sum()
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity)?;
        for (key, range) in &self.ranges {
            write!(f, "_{}-{}-{}", key.short(), range.first, range.count())?;
        }
        Ok(())
    }
}

impl FromStr for Receipt {
    type Err = NotAReceipt;

    fn from_str(text: &str) -> Result<Self, NotAReceipt> {
        let mut parts = text.split('_');
        let identity = parts.next().unwrap_or_default();
        if identity.len() != IDENTITY_CHARS || !identity.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotAReceipt);
        }
        let ranges: Vec<_> = parts.map(parse_range).collect::<Option<_>>().ok_or(NotAReceipt)?;
        let receipt = Self { identity: identity.to_owned(), ranges };
        // Looking one up costs no more than what a request may hold, whatever a client makes up.
        let shards = receipt.ranges.iter().map(|(key, _)| key);
        let honest = receipt.ranges.iter().all(|(_, range)| range.count() <= MESSAGES_MAX)
            && receipt.count() <= MESSAGES_MAX
            && shards.is_sorted_by(|one, next| one < next);
        if honest { Ok(receipt) } else { Err(NotAReceipt) }
    }
}

fn parse_range(text: &str) -> Option<(ShardKey, OffsetRange)> {
    let mut numbers = text.splitn(3, '-');
    let key = ShardKey::parse_short(numbers.next()?)?;
    let first: u64 = number(numbers.next()?)?;
    let count: u64 = number(numbers.next()?)?;
    let end = first.checked_add(count).filter(|_| count > 0)?;
    Some((key, OffsetRange::new(first, end)))
}

/// Digits only: `parse` alone would take a sign.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ShardId, Topic};

    #[test]
    fn a_receipt_reads_back_and_knows_its_environment() {
        let key = |n| ShardKey::new(Topic::Messages, ShardId(n));
        let ranges = vec![(key(0), OffsetRange::new(15, 18)), (key(255), OffsetRange::new(7, 8))];
        let receipt = Receipt::new("3f2a9c41aaaabbbbccccdddd00001111", ranges);
        assert_eq!(receipt.to_string(), "3f2a9c41_0-15-3_255-7-1");
        assert_eq!(receipt.to_string().parse(), Ok(receipt.clone()));
        assert_eq!(receipt.count(), 4);
        let ship = (ShardKey::new(Topic::Telemetry, ShardId(4)), OffsetRange::new(7, 9));
        let telemetry = Receipt::new("3f2a9c41", vec![ship]);
        assert_eq!(telemetry.to_string(), "3f2a9c41_t4-7-2");
        assert_eq!(telemetry.to_string().parse(), Ok(telemetry));
        assert!(receipt.is_of("3f2a9c41aaaabbbbccccdddd00001111"));
        assert!(!receipt.is_of("4f2a9c41aaaabbbbccccdddd00001111"));
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        for text in [
            "",
            "3f2a9c4",
            "3f2a9c41_",
            "3f2a9c41_1-2",
            "3f2a9c41_1-2-0",
            "3f2a9c41_+1-2-3",
            "zzzzzzzz_1-2-3",
            "3f2a9c41_1-18446744073709551615-1",
            "3f2a9c41_70000-1-1",
            "3f2a9c41_0-0-10001",
            "3f2a9c41_0-0-1_0-1-1",
            "3f2a9c41_1-0-1_0-0-1",
        ] {
            assert_eq!(text.parse::<Receipt>(), Err(NotAReceipt), "{text}");
        }
    }
}
