//! The name of a ship: 1 to 64 characters, none of them a control character.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize};

use crate::message::ShardId;

/// The most characters of a name.
pub const CHARACTERS_MAX: usize = 64;

/// What stays as it is in a file name.
const KEPT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The name of a ship, such as `USS Enterprise`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ShipName(String);

/// A text that is no ship's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ship's name has 1 to {CHARACTERS_MAX} characters, none of them a control character, \
     and is not blank"
)]
pub struct NoShipName;

impl ShipName {
    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a file may have it, percent-encoded (RFC 3986, section 2.1).
    #[must_use]
    pub fn file_name(&self) -> String {
        utf8_percent_encode(&self.0, &KEPT).to_string()
    }

    /// The shard of a ship's telemetry: XXH3 (64 bits, seed 0) of its name modulo the shards.
    #[must_use]
    pub fn shard(&self, shards: NonZeroU16) -> ShardId {
        let hash = twox_hash::XxHash3_64::oneshot(self.0.as_bytes());
        // The remainder is below `shards`, a u16.
        ShardId(u16::try_from(hash % u64::from(shards.get())).unwrap_or(0))
    }
}

impl fmt::Display for ShipName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ShipName {
    type Err = NoShipName;

    fn from_str(text: &str) -> Result<Self, NoShipName> {
        let is_sound = !text.trim().is_empty()
            && text.chars().count() <= CHARACTERS_MAX
            && !text.chars().any(char::is_control);
        if is_sound { Ok(Self(text.to_owned())) } else { Err(NoShipName) }
    }
}

impl<'de> Deserialize<'de> for ShipName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", " ", "\u{a0}", "a\nb", "a\0", "\u{7f}", "\u{85}x", &"x".repeat(65)] {
            assert_eq!(text.parse::<ShipName>(), Err(NoShipName), "{text:?}");
            assert!(serde_json::from_value::<ShipName>(text.into()).is_err());
        }
        for text in ["TARDIS", "USS Enterprise", "🚀", "..", "/etc", &"ß".repeat(64)] {
            assert_eq!(text.parse::<ShipName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_name_leaves_no_directory() {
        for (name, file) in [
            ("TARDIS", "TARDIS"),
            ("USS Enterprise", "USS%20Enterprise"),
            ("..", "%2E%2E"),
            ("/etc/passwd", "%2Fetc%2Fpasswd"),
            ("ß", "%C3%9F"),
        ] {
            assert_eq!(name.parse::<ShipName>().unwrap().file_name(), file);
        }
    }

    #[test]
    fn golden_shards_stay_what_they_are() {
        let five = NonZeroU16::new(5).unwrap();
        let shard = |name: &str| name.parse::<ShipName>().unwrap().shard(five).0;
        let golden = ["TARDIS", "USS Enterprise", "Planet Express", "🚀"].map(shard);
        assert_eq!(golden, [2, 4, 3, 2]);
    }

    proptest! {
        #[test]
        fn every_name_has_a_shard_and_a_file_name(name in "[^\\p{Cc}]{1,64}", shards in 1_u16..) {
            if let Ok(name) = name.parse::<ShipName>() {
                prop_assert!(name.shard(NonZeroU16::new(shards).unwrap()).0 < shards);
                let file = name.file_name();
                prop_assert!(!file.contains(['/', '.', '\0']) && file.len() <= 768);
            }
        }
    }
}
