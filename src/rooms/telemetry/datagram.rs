//! The wire: one JSON object a datagram, R2's four members and a sequence number.
//!
//! ```text
//! {"timestamp":"2026-11-22T07:30:00.000123Z","description":"Battery Voltage","value":17,
//!  "unit":"V","sequence":42}
//! ```
//!
//! On the wire it is one line, with or without the number, which is R2's ships'. White space may
//! follow (RFC 8259, section 2): so the datagrams of a batch can be of one length. What is stored
//! is the object as it was received, with the ship's name before its members:
//!
//! ```text
//! {"ship":"TARDIS","timestamp":"2026-11-22T07:30:00.000123Z",…
//! ```

use std::borrow::Cow;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer};

use super::ship::ShipName;

/// The most bytes of a datagram; a longer one is counted as truncated.
pub const DATAGRAM_BYTES_MAX: usize = 2048;
/// What a ship measures.
pub const DESCRIPTION: &str = "Battery Voltage";
/// In which unit.
pub const UNIT: &str = "V";

/// What is read of a datagram; everything else in it is kept as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When it was measured.
    pub at: DateTime<Utc>,
    /// What was measured; finite.
    pub value: f64,
    /// Its number within its stream, from 0; `None` from a ship that does not count.
    pub sequence: Option<u64>,
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    value: f64,
    sequence: Option<u64>,
    #[serde(default, deserialize_with = "named")]
    ship: Option<ShipName>,
}

/// A ship without a name is none: not even `null` may stand there.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ShipName>, D::Error> {
    ShipName::deserialize(deserializer).map(Some)
}

/// Writes a datagram of battery telemetry after what is in `text`.
pub fn write(text: &mut String, at: DateTime<Utc>, value: u8, sequence: u64) {
    let at = at.to_rfc3339_opts(SecondsFormat::Micros, true);
    // A String takes all that is written.
    let _written = write!(
        text,
        "{{\"timestamp\":\"{at}\",\"description\":\"{DESCRIPTION}\",\"value\":{value},\
         \"unit\":\"{UNIT}\",\"sequence\":{sequence}}}"
    );
}

/// Reads a datagram: an object on one line with an RFC 3339 `timestamp` and a number `value`, but
/// without a `ship`. `None` if it is none.
#[must_use]
pub fn read(datagram: &[u8]) -> Option<Reading> {
    let (reading, ship) = read_object(datagram)?;
    ship.is_none().then_some(reading)
}

/// Reads a stored line, with or without its end: the ship and what it has measured. `None` if it is
/// none.
#[must_use]
pub fn read_line(line: &[u8]) -> Option<(ShipName, Reading)> {
    let (reading, ship) = read_object(line)?;
    Some((ship?, reading))
}

fn read_object(bytes: &[u8]) -> Option<(Reading, Option<ShipName>)> {
    let object = object(bytes)?;
    // Of what is not read it would not be checked (RFC 8259, section 8.1).
    let members: Members<'_> = serde_json::from_str(str::from_utf8(object).ok()?).ok()?;
    let at = DateTime::parse_from_rfc3339(&members.timestamp).ok()?.to_utc();
    let is_one_line = memchr::memchr2(b'\n', b'\r', object).is_none();
    let reading = Reading { at, value: members.value, sequence: members.sequence };
    (is_one_line && members.value.is_finite()).then_some((reading, members.ship))
}

/// The object of a datagram, without the white space about it.
fn object(datagram: &[u8]) -> Option<&[u8]> {
    let object = datagram.trim_ascii();
    let is_object = object.first() == Some(&b'{') && object.last() == Some(&b'}');
    is_object.then_some(object)
}

/// What the stored lines of a ship begin with.
#[must_use]
pub fn line_head(ship: &ShipName) -> String {
    // A name can always be written.
    let name = serde_json::to_string(ship).unwrap_or_default();
    format!("{{\"ship\":{name},")
}

/// Appends the line that is stored for a datagram that was [read](read): `head` is that of its
/// ship.
pub fn append_line(lines: &mut Vec<u8>, head: &str, datagram: &[u8]) {
    let object = object(datagram).unwrap_or_default();
    lines.extend_from_slice(head.as_bytes());
    lines.extend_from_slice(object.get(1..).unwrap_or_default().trim_ascii_start());
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const AT: &str = "2026-11-22T07:30:00.000123Z";

    #[test]
    fn what_a_ship_writes_a_capture_reads_and_stores_with_the_ship() {
        let at: DateTime<Utc> = AT.parse().unwrap();
        let mut text = String::from("before");
        write(&mut text, at, 17, 42);
        let datagram = text.strip_prefix("before").unwrap();
        let expected = concat!(
            r#"{"timestamp":"2026-11-22T07:30:00.000123Z","description":"Battery Voltage","#,
            r#""value":17,"unit":"V","sequence":42}"#,
        );
        assert_eq!(datagram, expected);
        let padded = format!("{datagram}   ");
        let reading = Reading { at, value: 17.0, sequence: Some(42) };
        assert_eq!(read(padded.as_bytes()), Some(reading));
        let mut lines = b"x\n".to_vec();
        append_line(&mut lines, &line_head(&"The \"E\"".parse().unwrap()), padded.as_bytes());
        let line = String::from_utf8(lines).unwrap();
        let line = line.strip_prefix("x\n").unwrap().strip_suffix('\n').unwrap();
        let stored: Value = serde_json::from_str(line).unwrap();
        assert_eq!(stored["ship"], "The \"E\"");
        assert_eq!(stored["sequence"], 42);
        assert_eq!(read_line(line.as_bytes()), Some(("The \"E\"".parse().unwrap(), reading)));
        assert_eq!(read_line(datagram.as_bytes()), None);
    }

    #[test]
    fn a_ship_of_r2_does_not_count() {
        let datagram = concat!(
            r#"{"timestamp": "2026-11-22T07:30:00+00:00", "description": "Battery Voltage", "#,
            r#""value": 5, "unit": "V"}"#,
        );
        let reading = read(datagram.as_bytes()).unwrap();
        assert_eq!((reading.value, reading.sequence), (5.0, None));
    }

    #[test]
    fn what_is_no_telemetry_is_malformed() {
        for datagram in [
            "",
            "[]",
            "{}",
            "\u{0}",
            r#"{"timestamp":"2026-11-22T07:30:00","value":5}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":"5"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":1e999}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5,"sequence":-1}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5}{}"#,
            "{\"timestamp\":\"2026-11-22T07:30:00Z\",\n\"value\":5}",
            // Whose it is, the capture says.
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5,"ship":"TARDIS"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5,"ship":null}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5,"\u0073hip":null}"#,
        ] {
            assert_eq!(read(datagram.as_bytes()), None, "{datagram}");
        }
        assert_eq!(read(b"\xff{}"), None);
        let text = br#"{"timestamp":"2026-11-22T07:30:00Z","value":5,"description":"?"}"#;
        assert!(read(text).is_some());
        let broken = text.map(|byte| if byte == b'?' { 0xff } else { byte });
        assert_eq!(read(&broken), None, "no text");
    }
}
