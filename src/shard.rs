//! Which shard a message goes to: unix seconds of its timestamp modulo the number of shards.
//!
//! The remainder is the Euclidean one, so that a second before 1970 has a shard as well. A leap
//! second belongs to the second before it, as in POSIX time.

use std::num::NonZeroU16;

use crate::message::ShardId;

/// The most shards there may be.
pub const SHARDS_MAX: u16 = 256;

/// The shard of `unix_seconds` among `shards`.
#[must_use]
pub fn of_unix_seconds(unix_seconds: i64, shards: NonZeroU16) -> ShardId {
    let remainder = unix_seconds.rem_euclid(i64::from(shards.get()));
    // The remainder is below `shards`, a u16.
    ShardId(u16::try_from(remainder).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_shards_stay_what_they_are() {
        let five = NonZeroU16::new(5).unwrap();
        let golden = [
            (0, 0),
            (1, 1),
            (4, 4),
            (5, 0),
            (1_763_769_600, 0),
            (-1, 4),
            (-5, 0),
            (-6, 4),
            (-62_167_219_200, 0), // 0000-01-01T00:00:00Z
            (-62_167_219_201, 4), // the second before it
            (253_402_300_799, 4), // 9999-12-31T23:59:59Z
            (i64::MIN, 2),
            (i64::MAX, 2),
        ];
        for (seconds, shard) in golden {
            assert_eq!(of_unix_seconds(seconds, five), ShardId(shard), "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn consecutive_seconds_go_to_consecutive_shards(
            seconds in i64::MIN..i64::MAX,
            count in 1..=SHARDS_MAX,
        ) {
            let shards = NonZeroU16::new(count).unwrap();
            let here = of_unix_seconds(seconds, shards).0;
            prop_assert!(here < count);
            prop_assert_eq!(of_unix_seconds(seconds + 1, shards).0, (here + 1) % count);
        }
    }
}
