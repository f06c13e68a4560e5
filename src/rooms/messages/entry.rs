//! Checks the entries of a request and gathers them into lines by shard.
//!
//! An entry is a JSON object with a `timestamp` (RFC 3339, required) and perhaps a `value` (a
//! string of at most 48 KiB); other fields are kept. It is stored as it was received, on one line:
//! line breaks between its tokens are left out. JSON is held to RFC 7493 (I-JSON), since what one
//! reader takes for the last of two equal keys another takes for the first: no key twice in an
//! object, no lone surrogates, numbers within the range of a double.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, Utc};
use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::strict::{Keys, Strict, StringSeed, Text, TextSeed, end};
use crate::broker::UNIT_MESSAGES_MAX;
use crate::broker::frame::LINES_BYTES_MAX;
use crate::message::{Lines, ShardKey, Topic};
use crate::shard::of_unix_seconds;

/// The most bytes of a `value`, unescaped.
pub const VALUE_BYTES_MAX: usize = 48 * 1024;
/// The most bytes of an entry as it was sent.
pub const ENTRY_BYTES_MAX: usize = LINES_BYTES_MAX - 1;
/// The most entries of a request.
pub const ENTRIES_MAX: usize = UNIT_MESSAGES_MAX;

/// The checked entries of a request, in output form.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entries {
    lines: BTreeMap<ShardKey, Lines>,
    count: usize,
}

impl Entries {
    /// How many.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all lines.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.values().map(|lines| lines.bytes.len()).sum()
    }

    /// The lines of each shard.
    #[must_use]
    pub fn into_parts(self) -> Vec<(ShardKey, Lines)> {
        self.lines.into_iter().collect()
    }

    /// Checks one entry and adds it.
    ///
    /// # Errors
    /// What is wrong with it; nothing is added then.
    pub fn push(&mut self, entry: &str, shards: NonZeroU16) -> Result<(), Wrong> {
        if self.count >= ENTRIES_MAX {
            return Err(Wrong::TooMany);
        }
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(Wrong::EntryTooLong { bytes: entry.len() });
        }
        let timestamp = check(entry)?;
        let shard = of_unix_seconds(timestamp.timestamp(), shards);
        let lines = self.lines.entry(ShardKey::new(Topic::Messages, shard)).or_default();
        if memchr::memchr2(b'\n', b'\r', entry.as_bytes()).is_none() {
            lines.push(entry.as_bytes());
        } else {
            // Within a string they would have been escaped, so these stand between tokens.
            let kept = entry.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r'));
            lines.push(&kept.collect::<Vec<_>>());
        }
        self.count += 1;
        Ok(())
    }
}

/// What is wrong with a request or an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not UTF-8.
    #[error("the body is not UTF-8: byte {0} is the first that is wrong")]
    NotUtf8(usize),
    /// Not JSON.
    #[error("malformed JSON: {0}")]
    Malformed(String),
    /// Another type than expected.
    #[error("{0}")]
    Type(&'static str),
    /// No timestamp.
    #[error("timestamp is missing")]
    NoTimestamp,
    /// A timestamp that is none.
    #[error("timestamp is not an RFC 3339 date and time such as 2026-11-22T07:30:00Z: {0}")]
    Timestamp(String),
    /// A key twice.
    #[error("the key {0:?} stands twice in one object")]
    DuplicateKey(String),
    /// A value that is too long.
    #[error("value has {bytes} bytes, more than {VALUE_BYTES_MAX}")]
    ValueTooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// An entry that is too long.
    #[error("the entry has {bytes} bytes, more than {ENTRY_BYTES_MAX}")]
    EntryTooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// Too many entries.
    #[error("more than {ENTRIES_MAX} entries in one request")]
    TooMany,
}

/// What is wrong, and where: the index of the entry from 0, or the number of the line from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where, in words: "entry 17" or "line 18".
    pub place: Option<String>,
    /// What.
    pub wrong: Wrong,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.wrong),
            None => self.wrong.fmt(f),
        }
    }
}

fn text(body: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(body)
        .map_err(|error| Refused { place: None, wrong: Wrong::NotUtf8(error.valid_up_to()) })
}

/// Reads a body that is a JSON array of entries: all of them, or what is wrong with the first bad
/// one.
///
/// # Errors
/// See [`Wrong`].
pub fn read_array(body: &[u8], shards: NonZeroU16) -> Result<Entries, Refused> {
    let text = text(body)?;
    let (mut entries, mut refused) = (Entries::default(), None);
    let mut json = serde_json::Deserializer::from_str(text);
    let array = ArrayVisitor { entries: &mut entries, shards, refused: &mut refused };
    let outcome = json.deserialize_any(array).and_then(|()| json.end());
    match (outcome, refused) {
        (Ok(()), None) => Ok(entries),
        (_, Some(refused)) => Err(refused),
        (Err(error), None) => {
            Err(Refused { place: None, wrong: Wrong::Malformed(error.to_string()) })
        }
    }
}

/// Reads a body of lines (`application/x-ndjson`), each an entry; blank ones are passed over.
///
/// # Errors
/// See [`Wrong`].
pub fn read_lines(body: &[u8], shards: NonZeroU16) -> Result<Entries, Refused> {
    let mut entries = Entries::default();
    for (number, line) in text(body)?.split('\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        entries
            .push(line, shards)
            .map_err(|wrong| Refused { place: Some(format!("line {}", number + 1)), wrong })?;
    }
    Ok(entries)
}

struct ArrayVisitor<'a> {
    entries: &'a mut Entries,
    shards: NonZeroU16,
    refused: &'a mut Option<Refused>,
}

impl<'de> Visitor<'de> for ArrayVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(raw) = array.next_element::<&RawValue>()? {
            if let Err(wrong) = self.entries.push(raw.get(), self.shards) {
                let place = Some(format!("entry {}", self.entries.count));
                *self.refused = Some(Refused { place, wrong });
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// Checks one entry, which is well-formed only as far as its brackets; its timestamp.
fn check(entry: &str) -> Result<DateTime<FixedOffset>, Wrong> {
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_str(entry);
    let outcome = json.deserialize_any(EntryVisitor { wrong: &mut wrong });
    let timestamp = outcome.and_then(|timestamp| json.end().map(|()| timestamp));
    match (timestamp, wrong) {
        (Ok(timestamp), None) => timestamp.ok_or(Wrong::NoTimestamp),
        (_, Some(wrong)) => Err(wrong),
        (Err(error), None) if error.is_data() => Err(Wrong::Type("an entry must be an object")),
        (Err(error), None) => Err(Wrong::Malformed(error.to_string())),
    }
}

/// Reads the object of an entry; what is wrong goes out beside the error, which only ends it.
struct EntryVisitor<'a> {
    wrong: &'a mut Option<Wrong>,
}

impl<'de> Visitor<'de> for EntryVisitor<'_> {
    type Value = Option<DateTime<FixedOffset>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut keys = Keys::default();
        let mut timestamp = None;
        while let Some(Text(key)) = object.next_key_seed(TextSeed)? {
            let field = key.clone();
            if let Err(wrong) = keys.add(key) {
                return end(self.wrong, wrong);
            }
            let read = match field.as_ref() {
                "timestamp" => match object.next_value_seed(StringSeed)? {
                    Some(text) => read_timestamp(&text).map(|read| timestamp = Some(read)),
                    None => Err(Wrong::Type("timestamp must be a string")),
                },
                "value" => match object.next_value_seed(StringSeed)? {
                    Some(text) if text.len() > VALUE_BYTES_MAX => {
                        Err(Wrong::ValueTooLong { bytes: text.len() })
                    }
                    Some(_) => Ok(()),
                    None => Err(Wrong::Type("value must be a string")),
                },
                _ => {
                    object.next_value_seed(Strict { wrong: &mut *self.wrong })?;
                    Ok(())
                }
            };
            if let Err(wrong) = read {
                return end(self.wrong, wrong);
            }
        }
        Ok(timestamp)
    }
}

fn read_timestamp(text: &str) -> Result<DateTime<FixedOffset>, Wrong> {
    let wrong = || Wrong::Timestamp(format!("{:?}", text.chars().take(64).collect::<String>()));
    // The parser also takes U+2212 for a minus sign, as ISO 8601 does; RFC 3339 is ASCII.
    if !text.is_ascii() {
        return Err(wrong());
    }
    let timestamp = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
    // RFC 3339, 5.7: a 60th second is inserted at the end of a month, at 23:59:60 UTC.
    let is_leap_second = timestamp.timestamp_subsec_nanos() >= 1_000_000_000;
    if is_leap_second && !ends_a_month(timestamp.to_utc()) {
        return Err(wrong());
    }
    Ok(timestamp)
}

fn ends_a_month(at: DateTime<Utc>) -> bool {
    let tomorrow = at.date_naive().succ_opt();
    at.timestamp().rem_euclid(86_400) == 86_399
        && tomorrow.as_ref().is_some_and(|day: &NaiveDate| day.day() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: NonZeroU16 = NonZeroU16::new(5).unwrap();

    fn wrong(body: &str) -> Wrong {
        read_array(body.as_bytes(), FIVE).unwrap_err().wrong
    }

    fn timestamp(text: &str) -> Result<DateTime<FixedOffset>, Wrong> {
        check(&format!("{{\"timestamp\":\"{text}\"}}"))
    }

    #[test]
    fn entries_are_kept_as_received_on_one_line() {
        let body = "[ {\"timestamp\" : \"1970-01-01T00:00:01Z\",\r\n  \"x\": [1, 2e3]} ,\n\
                    {\"timestamp\":\"1969-12-31T23:59:59Z\",\"value\":\"a\\nb\"}]";
        let parts = read_array(body.as_bytes(), FIVE).unwrap().into_parts();
        let lines: Vec<_> = parts
            .iter()
            .map(|(key, lines)| (key.shard.0, std::str::from_utf8(&lines.bytes).unwrap()))
            .collect();
        assert_eq!(
            lines,
            [
                (1, "{\"timestamp\" : \"1970-01-01T00:00:01Z\",  \"x\": [1, 2e3]}\n"),
                (4, "{\"timestamp\":\"1969-12-31T23:59:59Z\",\"value\":\"a\\nb\"}\n"),
            ]
        );
    }

    #[test]
    fn an_empty_array_holds_no_entries() {
        assert_eq!(read_array(b" [ ] ", FIVE).unwrap(), Entries::default());
        assert_eq!(read_lines(b"\n \r\n", FIVE).unwrap(), Entries::default());
    }

    #[test]
    fn a_bad_entry_is_named_by_its_index() {
        let good = "{\"timestamp\":\"2026-11-22T00:00:00Z\"}";
        let body = format!("[{good},{good},{{\"timestamp\":5}}]");
        let refused = read_array(body.as_bytes(), FIVE).unwrap_err();
        assert_eq!(refused.to_string(), "entry 2: timestamp must be a string");
        let lines = format!("{good}\n\n{{}}\n");
        let refused = read_lines(lines.as_bytes(), FIVE).unwrap_err();
        assert_eq!(refused.to_string(), "line 3: timestamp is missing");
    }

    #[test]
    fn malformed_json_of_every_kind_is_refused() {
        for body in [
            "",
            " ",
            "[",
            "]",
            "[,]",
            "{\"timestamp\":\"2026-11-22T00:00:00Z\"}",
            "null",
            "7",
            "\"[]\"",
            "[]]",
            "[] []",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\",}]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\"},]",
            "[{'timestamp':1}]",
            "[NaN]",
            "[// c\n]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\" \"a\":1}]",
            "[{timestamp:1}]",
            "\u{feff}[]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\",\"a\":01}]",
            "[{\"timestamp\":\"a\nb\"}]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\",\"a\":\"\\x\"}]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\",\"a\":\"\\ud800\"}]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\",\"value\":\"\\udc00\\ud800\"}]",
            "[{\"timestamp\":\"2026-11-22T00:00:00Z\",\"a\":1e999}]",
        ] {
            assert!(matches!(wrong(body), Wrong::Malformed(_)), "{body}: {:?}", wrong(body));
        }
        assert_eq!(read_array(b"[\"\xff\"]", FIVE).unwrap_err().wrong, Wrong::NotUtf8(2));
    }

    #[test]
    fn entries_of_another_type_are_refused() {
        for body in ["[1]", "[null]", "[[]]", "[\"a\"]", "[true]", "[1.5]"] {
            assert_eq!(wrong(body), Wrong::Type("an entry must be an object"), "{body}");
        }
        for value in ["1", "null", "true", "{}", "[\"a\"]", "-1", "1.5"] {
            let body = format!("[{{\"timestamp\":{value}}}]");
            assert_eq!(wrong(&body), Wrong::Type("timestamp must be a string"), "{body}");
            let body = format!("[{{\"timestamp\":\"2026-11-22T00:00:00Z\",\"value\":{value}}}]");
            assert_eq!(wrong(&body), Wrong::Type("value must be a string"), "{body}");
        }
    }

    #[test]
    fn a_key_twice_is_refused_at_any_depth_and_however_written() {
        let at = "\"timestamp\":\"2026-11-22T00:00:00Z\"";
        for (body, key) in [
            (format!("[{{{at},{at}}}]"), "timestamp"),
            (format!("[{{{at},\"time\\u0073tamp\":1}}]"), "timestamp"),
            (format!("[{{{at},\"a\":{{\"b\":[{{\"c\":1,\"c\":2}}]}}}}]"), "c"),
        ] {
            assert_eq!(wrong(&body), Wrong::DuplicateKey(key.to_owned()), "{body}");
        }
        let many: Vec<_> = (0..5000).map(|n| format!("\"{n}\":0")).collect();
        let body = format!("[{{{at},{},\"4999\":0}}]", many.join(","));
        assert_eq!(wrong(&body), Wrong::DuplicateKey("4999".to_owned()));
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(9000), close.repeat(9000));
            let body = format!("[{{\"timestamp\":\"2026-11-22T00:00:00Z\",\"a\":{deep}}}]");
            assert!(matches!(wrong(&body), Wrong::Malformed(_)));
        }
        assert!(matches!(wrong(&"[".repeat(100_000)), Wrong::Malformed(_)));
    }

    #[test]
    fn timestamps_are_rfc_3339_and_have_a_shard_in_every_year() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00.123456789z", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:59:59.5-00:00", -1),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
            ("0000-01-01T00:00:00+23:59", -62_167_305_540),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139),
            ("2016-12-31T23:59:60Z", 1_483_228_799),
            ("2017-01-01T00:59:60.5+01:00", 1_483_228_799),
            ("2000-02-29T00:00:00Z", 951_782_400),
        ] {
            assert_eq!(timestamp(text).map(|at| at.timestamp()), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:60:00Z",
            "2026-11-22T00:00:61Z",
            "2026-11-22T12:30:60Z",
            "2026-11-22T23:59:60Z",
            "2026-11-22T00:00:00+24:00",
            "10000-01-01T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "2026-11-22T00:00:00.Z",
            " 2026-11-22T00:00:00Z",
            "2026-11-22T00:00:00Z ",
            "2026-11-22T00:00Z",
            "20261122T000000Z",
            "1763769600",
            "2026-11-22T00:00:00+0100",
            "2026-11-22T00:00:00\u{2212}01:00",
        ] {
            assert!(matches!(timestamp(text), Err(Wrong::Timestamp(_))), "{text}");
        }
    }

    #[test]
    fn sizes_are_held_to_their_limits() {
        let entry = |value: usize| {
            format!(
                "{{\"timestamp\":\"2026-11-22T00:00:00Z\",\"value\":\"{}\"}}",
                "v".repeat(value)
            )
        };
        let body = |value| format!("[{}]", entry(value));
        assert_eq!(read_array(body(VALUE_BYTES_MAX).as_bytes(), FIVE).unwrap().count(), 1);
        let too_long = VALUE_BYTES_MAX + 1;
        assert_eq!(wrong(&body(too_long)), Wrong::ValueTooLong { bytes: too_long });
        let bytes = entry(ENTRY_BYTES_MAX).len();
        assert_eq!(wrong(&body(ENTRY_BYTES_MAX)), Wrong::EntryTooLong { bytes });
        let many = |count| format!("[{}]", vec![entry(0); count].join(","));
        assert_eq!(read_array(many(ENTRIES_MAX).as_bytes(), FIVE).unwrap().count(), ENTRIES_MAX);
        assert_eq!(wrong(&many(ENTRIES_MAX + 1)), Wrong::TooMany);
    }
}
