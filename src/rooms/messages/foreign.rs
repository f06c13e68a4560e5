//! Reads what somebody else has published to the broker: one entry, as R1's server writes it.

use std::num::NonZeroU16;

use super::entry::{Entries, Wrong};
use crate::message::Lines;

/// The line of the entry that `body` is.
///
/// # Errors
/// It is none; why, in words for a person.
pub fn read(body: &[u8]) -> Result<Lines, String> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Wrong::NotUtf8(error.valid_up_to()).to_string())?;
    let mut entries = Entries::default();
    // The queue has said which shard it is.
    entries.push(text.trim_ascii(), NonZeroU16::MIN).map_err(|wrong| wrong.to_string())?;
    let lines = entries.into_parts().into_iter().next().map(|(_, lines)| lines);
    Ok(lines.unwrap_or_default())
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
