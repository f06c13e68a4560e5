//! Reads one entry that did not come by a request: published to the broker by somebody else, as
//! R1's server writes it, or sent again in place of a dead letter.

use std::num::NonZeroU16;

use super::entry::{Entries, Wrong};
use crate::message::{Lines, ShardKey};

/// The line of the entry that `body` is; the queue has said which shard it is.
///
/// # Errors
/// It is none; why, in words for a person.
pub fn read(body: &[u8]) -> Result<Lines, String> {
    place(body, NonZeroU16::MIN).map(|(_, lines)| lines)
}

/// The shard of the entry that `body` is, among `shards`, and its line.
///
/// # Errors
/// As [`read`].
pub fn place(body: &[u8], shards: NonZeroU16) -> Result<(ShardKey, Lines), String> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Wrong::NotUtf8(error.valid_up_to()).to_string())?;
    let mut entries = Entries::default();
    entries.push(text.trim_ascii(), shards).map_err(|wrong| wrong.to_string())?;
    let placed = entries.into_parts().into_iter().next();
    // What was taken is there.
    placed.ok_or_else(|| Wrong::Type("an entry must be an object").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_whatever_its_layout() {
        let line = b"{\"timestamp\":\"1969-12-31T23:59:59Z\",\"value\":\"x\"}\n";
        let read = |text: &[u8]| read(text).map(|lines| (lines.bytes, lines.count));
        assert_eq!(read(line), Ok((line.to_vec(), 1)));
        let wide = b" {\n\"timestamp\":\"2026-11-22T07:30:00Z\"\n}\n";
        assert_eq!(read(wide), Ok((b"{\"timestamp\":\"2026-11-22T07:30:00Z\"}\n".to_vec(), 1)));
    }

    #[test]
    fn what_is_no_entry_says_why() {
        for (body, why) in [
            (b"".as_slice(), "malformed"),
            (b"\xff", "UTF-8"),
            (b"[]", "object"),
            (b"{\"value\":\"x\"}", "timestamp is missing"),
            (b"{\"timestamp\":\"2026-11-22T07:30:00Z\"}{}", "malformed"),
        ] {
            let said = read(body).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
