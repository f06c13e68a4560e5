//! Checks the entries of a request and gathers them into lines by shard.
//!
//! An entry is a JSON object with a `timestamp` (RFC 3339, required) and perhaps a `value` (a
//! string of at most 48 KiB); other fields are kept. It is stored as it was received, on one line:
//! line breaks between its tokens are left out. JSON is held to RFC 7493 (I-JSON), since what one
//! reader takes for the last of two equal keys another takes for the first: no key twice in an
//! object, no lone surrogates, numbers within the range of a double.
//!
//! Nearly all requests are good, so an array is first read by the quick road, which reads each byte
//! once and only knows *good* or *not*; module `plain` recognizes most entries before it needs to
//! read any JSON. What it does not take, the slow road reads again: it finds the end of an entry
//! before it looks into it, and so can tell which entry is wrong and how.

use std::fmt;
use std::num::NonZeroU16;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::plain;
use super::strict::{Keys, Strict, StringSeed, Text, TextSeed, end};
use super::timestamp::unix_seconds;
use crate::broker::UNIT_MESSAGES_MAX;
use crate::broker::frame::LINES_BYTES_MAX;
use crate::message::{Lines, ShardId, ShardKey, Topic};
use crate::shard::of_unix_seconds;

/// The most bytes of a `value`, unescaped.
pub const VALUE_BYTES_MAX: usize = 48 * 1024;
/// The most bytes of an entry as it was sent.
pub const ENTRY_BYTES_MAX: usize = LINES_BYTES_MAX - 1;
/// The most entries of a request.
pub const ENTRIES_MAX: usize = UNIT_MESSAGES_MAX;

/// JSON's white space (RFC 8259, section 2).
const WHITE_SPACE: [char; 4] = [' ', '\n', '\t', '\r'];

/// The checked entries of a request, in output form.
#[derive(Debug, Default)]
pub struct Entries {
    /// By the number of the shard.
    lines: Vec<Lines>,
    count: usize,
    /// What a shard probably gets, in bytes.
    expected_bytes: usize,
}

impl Entries {
    /// For a body of `bytes`, which is probably spread evenly over `shards`.
    fn expecting(bytes: usize, shards: NonZeroU16) -> Self {
        let evenly = bytes / usize::from(shards.get());
        Self { expected_bytes: evenly + evenly / 4, ..Self::default() }
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all lines.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.iter().map(|lines| lines.bytes.len()).sum()
    }

    /// The lines of each shard that has some.
    #[must_use]
    pub fn into_parts(self) -> Vec<(ShardKey, Lines)> {
        let shards = (0..=u16::MAX).map(|shard| ShardKey::new(Topic::Messages, ShardId(shard)));
        shards.zip(self.lines).filter(|(_, lines)| lines.count > 0).collect()
    }

    /// Checks one entry and adds it.
    ///
    /// # Errors
    /// What is wrong with it; nothing is added then.
    pub fn push(&mut self, entry: &str, shards: NonZeroU16) -> Result<(), Wrong> {
        match plain::read(entry).filter(|plain| plain.behind.is_empty()) {
            Some(plain) => {
                self.has_room(entry)?;
                self.add_line(entry, of_unix_seconds(plain.unix_seconds, shards));
                Ok(())
            }
            None => self.push_as_json(entry, shards),
        }
    }

    /// The same, whatever its shape.
    pub(super) fn push_as_json(&mut self, entry: &str, shards: NonZeroU16) -> Result<(), Wrong> {
        self.has_room(entry)?;
        let unix_seconds = check(entry)?;
        self.add(entry, of_unix_seconds(unix_seconds, shards));
        Ok(())
    }

    /// Whether another entry of this size may be added.
    const fn has_room(&self, entry: &str) -> Result<(), Wrong> {
        if self.count >= ENTRIES_MAX {
            return Err(Wrong::TooMany);
        }
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(Wrong::EntryTooLong { bytes: entry.len() });
        }
        Ok(())
    }

    /// Adds an entry that was checked.
    fn add(&mut self, entry: &str, shard: ShardId) {
        if memchr::memchr2(b'\n', b'\r', entry.as_bytes()).is_none() {
            self.add_line(entry, shard);
        } else {
            // Within a string they would have been escaped, so these stand between tokens.
            self.add_line(&entry.replace(['\n', '\r'], ""), shard);
        }
    }

    /// Adds an entry that was checked and has no line breaks.
    fn add_line(&mut self, entry: &str, shard: ShardId) {
        let place = usize::from(shard.0);
        if place >= self.lines.len() {
            self.lines.resize_with(place + 1, Lines::default);
        }
        let Some(lines) = self.lines.get_mut(place) else { return };
        if lines.count == 0 {
            lines.bytes.reserve(self.expected_bytes);
        }
        lines.push(entry.as_bytes());
        self.count += 1;
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

impl Wrong {
    /// The key stands twice.
    pub(super) fn duplicate_key(key: &str) -> Self {
        Self::DuplicateKey(key.chars().take(64).collect())
    }
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
    accept_array(text, shards).map_or_else(|| explain_array(text, shards), Ok)
}

/// The quick road: takes what [`explain_array`] takes, but `None` stands for every refusal and for
/// the empty array.
fn accept_array(text: &str, shards: NonZeroU16) -> Option<Entries> {
    let mut entries = Entries::expecting(text.len(), shards);
    let mut rest = text.trim_start_matches(WHITE_SPACE).strip_prefix('[')?;
    loop {
        rest = rest.trim_start_matches(WHITE_SPACE);
        let behind = if let Some(plain) = plain::read(rest) {
            entries.has_room(plain.entry).ok()?;
            entries.add_line(plain.entry, of_unix_seconds(plain.unix_seconds, shards));
            plain.behind
        } else {
            let mut json = serde_json::Deserializer::from_str(rest).into_iter::<Good>();
            let Good { unix_seconds } = json.next()?.ok()?;
            let (entry, behind) = rest.split_at_checked(json.byte_offset())?;
            entries.has_room(entry).ok()?;
            entries.add(entry, of_unix_seconds(unix_seconds, shards));
            behind
        };
        rest = behind.trim_start_matches(WHITE_SPACE);
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    let end = rest.strip_prefix(']')?;
    end.trim_start_matches(WHITE_SPACE).is_empty().then_some(entries)
}

/// The slow road, which says what is wrong.
fn explain_array(text: &str, shards: NonZeroU16) -> Result<Entries, Refused> {
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
    let mut entries = Entries::expecting(body.len(), shards);
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

/// Checks one entry, which is well-formed only as far as its brackets; its timestamp in unix
/// seconds.
fn check(entry: &str) -> Result<i64, Wrong> {
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

/// An entry with nothing wrong.
struct Good {
    /// Its timestamp.
    unix_seconds: i64,
}

impl<'de> Deserialize<'de> for Good {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let mut wrong = None;
        let timestamp = json.deserialize_any(EntryVisitor { wrong: &mut wrong })?;
        let unix_seconds = timestamp.ok_or_else(|| D::Error::custom("refused"))?;
        Ok(Self { unix_seconds })
    }
}

/// Reads the object of an entry, to its timestamp in unix seconds; what is wrong goes out beside
/// the error, which only ends it.
struct EntryVisitor<'a> {
    wrong: &'a mut Option<Wrong>,
}

impl<'de> Visitor<'de> for EntryVisitor<'_> {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut others = Keys::default();
        let (mut timestamp, mut has_value) = (None, false);
        while let Some(Text(key)) = object.next_key_seed(TextSeed)? {
            let read = match key.as_ref() {
                "timestamp" if timestamp.is_some() => Err(Wrong::duplicate_key(&key)),
                "timestamp" => match object.next_value_seed(StringSeed)? {
                    Some(text) => unix_seconds(&text).map(|read| timestamp = Some(read)),
                    None => Err(Wrong::Type("timestamp must be a string")),
                },
                "value" if has_value => Err(Wrong::duplicate_key(&key)),
                "value" => match object.next_value_seed(StringSeed)? {
                    Some(text) if text.len() > VALUE_BYTES_MAX => {
                        Err(Wrong::ValueTooLong { bytes: text.len() })
                    }
                    Some(_) => {
                        has_value = true;
                        Ok(())
                    }
                    None => Err(Wrong::Type("value must be a string")),
                },
                _ => match others.add(key) {
                    Ok(()) => {
                        object.next_value_seed(Strict { wrong: &mut *self.wrong })?;
                        Ok(())
                    }
                    Err(wrong) => Err(wrong),
                },
            };
            if let Err(wrong) = read {
                return end(self.wrong, wrong);
            }
        }
        Ok(timestamp)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIVE: NonZeroU16 = NonZeroU16::new(5).unwrap();

    fn wrong(body: &str) -> Wrong {
        read_array(body.as_bytes(), FIVE).unwrap_err().wrong
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
        assert_eq!(read_array(b" [ ] ", FIVE).unwrap().into_parts(), []);
        assert_eq!(read_lines(b"\n \r\n", FIVE).unwrap().into_parts(), []);
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

    const GOOD_ENTRIES: [&str; 7] = [
        r#"{"timestamp":"2026-11-22T07:30:01Z","value":"0001"}"#,
        r#"{"value":"a\nb\"\u00e9\ud83d\ude80","timestamp":"2026-11-22T07:30:02Z"}"#,
        "{\n  \"timestamp\" : \"2026-11-22T07:30:03.25+01:00\",\r\n\t\"x\": [1, 2e3, null]\n}",
        r#"{"timestamp":"2016-12-31T23:59:60Z","a":{"b":{"c":true}},"é":-0.5}"#,
        r#"{"time\u0073tamp":"2000-02-29T00:00:00Z","Timestamp":"","":[]}"#,
        r#"{"timestamp":"0000-01-01T00:00:00Z","value":""}"#,
        r#"{"timestamp":"1969-12-31T23:59:59Z","a":[[],{}],"b":[{"a":1},{"a":2}]}"#,
    ];
    /// What stands in the place of something else in a damaged body.
    const DAMAGE: [&str; 24] = [
        "",
        " ",
        "\n",
        "\"",
        "\\",
        ",",
        ":",
        "[",
        "]",
        "{",
        "}",
        "0",
        "1e999",
        "-",
        "null",
        "Z",
        "value",
        "timestamp",
        "\\ud800",
        "\u{1}",
        "é",
        "{}",
        "\"value\":\"\",",
        "60",
    ];

    /// Whether both roads take the same, as the same lines.
    fn agree(body: &str) -> Result<(), TestCaseError> {
        let slow = explain_array(body, FIVE).ok().filter(|entries| entries.count > 0);
        let quick = accept_array(body, FIVE);
        prop_assert_eq!(quick.map(Entries::into_parts), slow.map(Entries::into_parts), "{}", body);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn both_roads_take_the_same_however_a_body_is_damaged(
            entries in prop::collection::vec(prop::sample::select(&GOOD_ENTRIES), 1..4),
            gap in prop::sample::select(&["", " ", "\r\n\t", "\u{a0}", "\u{feff}"]),
            damages in prop::collection::vec(
                (any::<prop::sample::Index>(), 0..4_usize, prop::sample::select(&DAMAGE)),
                0..4,
            ),
        ) {
            let mut body: Vec<_> = format!("{gap}[{gap}{}]{gap}", entries.join(&format!("{gap},")))
                .chars()
                .collect();
            for (place, bytes, instead) in damages {
                let first = place.index(body.len() + 1);
                let end = body.len().min(first + bytes);
                body.splice(first..end, instead.chars());
            }
            agree(&body.iter().collect::<String>())?;
        }
    }

    #[test]
    fn the_quick_road_takes_what_is_good() {
        for entry in GOOD_ENTRIES {
            let body = format!(" [{entry},\n{entry} , {entry}] ");
            assert_eq!(accept_array(&body, FIVE).map(|entries| entries.count), Some(3), "{body}");
            agree(&body).unwrap();
        }
    }
}
