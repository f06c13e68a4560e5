//! Reads what somebody else has published as telemetry: one stored line.

use crate::broker::frame::LINES_BYTES_MAX;
use crate::message::Lines;
use crate::rooms::telemetry::datagram;

/// The line that `body` is.
///
/// # Errors
/// It is none; why, in words for a person.
pub fn read(body: &[u8]) -> Result<Lines, String> {
    let line = body.trim_ascii();
    // With its end it must fit into a frame.
    if line.len() >= LINES_BYTES_MAX {
        return Err(format!("it has {} bytes, which no frame holds", line.len()));
    }
    if datagram::read_line(line).is_none() {
        let text = "it is no object on one line with a ship, a timestamp (RFC 3339) and a value";
        return Err(text.to_owned());
    }
    let mut lines = Lines::default();
    lines.push(line);
    Ok(lines)
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
