//! Reads one stored line that no capture has made: published as telemetry by somebody else, or sent
//! again in place of a dead letter.

use std::num::NonZeroU16;

use crate::broker::frame::LINES_BYTES_MAX;
use crate::message::{Lines, ShardKey, Topic};
use crate::rooms::telemetry::datagram;

/// The line that `body` is; the queue has said which shard it is.
///
/// # Errors
/// It is none; why, in words for a person.
pub fn read(body: &[u8]) -> Result<Lines, String> {
    place(body, NonZeroU16::MIN).map(|(_, lines)| lines)
}

/// The shard of the line that `body` is, among `shards`, and the line.
///
/// # Errors
/// As [`read`].
pub fn place(body: &[u8], shards: NonZeroU16) -> Result<(ShardKey, Lines), String> {
    let line = body.trim_ascii();
    // With its end it must fit into a frame.
    if line.len() >= LINES_BYTES_MAX {
        return Err(format!("it has {} bytes, which no frame holds", line.len()));
    }
    let (ship, _) = datagram::read_line(line)
        .ok_or("it is no object on one line with a ship, a timestamp (RFC 3339) and a value")?;
    let mut lines = Lines::default();
    lines.push(line);
    Ok((ShardKey::new(Topic::Telemetry, ship.shard(shards)), lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_ship_is_read_and_nothing_else() {
        let line = br#"{"ship":"TARDIS","timestamp":"2026-11-22T07:30:00Z","value":5}"#;
        let lines = read(&[b" ", line.as_slice(), b"\n"].concat()).unwrap();
        assert_eq!((lines.bytes, lines.count), ([line.as_slice(), b"\n"].concat(), 1));
        for wrong in [
            "",
            "{}",
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5}"#,
            r#"{"ship":"","timestamp":"2026-11-22T07:30:00Z","value":5}"#,
            "{\"ship\":\"a\",\n\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":5}",
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let long = format!("{{\"ship\":\"a\",\"x\":\"{}\"}}", "x".repeat(LINES_BYTES_MAX));
        assert!(read(long.as_bytes()).unwrap_err().contains("bytes"));
    }
}
