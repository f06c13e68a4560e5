//! The plain entry: an object of a few strings without escapes, its timestamp in whole seconds of
//! UTC. Nearly all entries are plain, and a plain one is recognized in a fifth of the time that it
//! takes to read JSON. Whatever is not recognized is no worse for it: it is read as JSON.

use super::entry::VALUE_BYTES_MAX;
use super::timestamp::usual;

/// The most members of a plain entry.
const MEMBERS_MAX: usize = 4;

/// A plain entry at the start of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plain<'a> {
    /// The entry, which has no line breaks.
    pub(super) entry: &'a str,
    /// What stands behind it.
    pub(super) behind: &'a str,
    /// Its timestamp.
    pub(super) unix_seconds: i64,
}

/// Recognizes a plain entry; everything that it takes is an entry with nothing wrong.
pub(super) fn read(text: &str) -> Option<Plain<'_>> {
    let mut rest = text.strip_prefix('{')?;
    let (mut keys, mut unix_seconds) = ([""; MEMBERS_MAX], None);
    for member in 0..MEMBERS_MAX {
        let (key, behind) = string(rest)?;
        let (value, behind) = string(skip_space(behind.strip_prefix(':')?))?;
        let before = keys.get_mut(..=member)?;
        match key {
            "timestamp" => unix_seconds = Some(usual(value)?),
            "value" if value.len() > VALUE_BYTES_MAX => return None,
            _ => {}
        }
        let (last, before) = before.split_last_mut()?;
        if before.contains(&key) {
            return None;
        }
        *last = key;
        match behind.strip_prefix(',') {
            Some(next) => rest = skip_space(next),
            None => {
                let behind = behind.strip_prefix('}')?;
                let entry = text.get(..text.len() - behind.len())?;
                return Some(Plain { entry, behind, unix_seconds: unix_seconds? });
            }
        }
    }
    None
}

/// One space, which some write after a colon or comma.
fn skip_space(text: &str) -> &str {
    text.strip_prefix(' ').unwrap_or(text)
}

/// A string without escapes, and what stands behind it.
fn string(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('"')?;
    let end = memchr::memchr2(b'"', b'\\', text.as_bytes())?;
    let (string, behind) = text.split_at_checked(end)?;
    let behind = behind.strip_prefix('"')?;
    // RFC 8259, section 7: control characters must be escaped.
    let is_printable = string.bytes().fold(true, |so_far, byte| so_far & (byte >= 0x20));
    is_printable.then_some((string, behind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rooms::messages::entry::Entries;

    const MINUTE: i64 = 1_795_332_600;

    #[test]
    fn what_clients_send_is_plain() {
        for entry in [
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":"hello"}"#,
            r#"{"timestamp": "2026-11-22T07:30:00Z", "value": "hello"}"#,
            r#"{"value":"größer","timestamp":"2026-11-22T07:30:00Z"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z"}"#,
            r#"{"a":"1","timestamp":"2026-11-22T07:30:00Z","b":"","value":"x"}"#,
        ] {
            let text = format!("{entry},{{");
            let plain = read(&text);
            assert_eq!(plain, Some(Plain { entry, behind: ",{", unix_seconds: MINUTE }));
        }
    }

    #[test]
    fn what_is_wrong_or_unusual_is_not_plain() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for entry in [
            r#"{"timestamp":"2026-11-22T07:30:00Z","timestamp":"2026-11-22T07:30:00Z"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","a":"","a":""}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":5}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","value":"a\nb"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z","timest\u0061mp":"x"}"#,
            r#"{"timestamp":"2026-02-30T07:30:00Z"}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z",}"#,
            r#"{"timestamp":"2026-11-22T07:30:00Z" "value":"x"}"#,
            r#"{"value":"x"}"#,
            r#"{}"#,
            "{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"a\tb\"}",
            &format!(r#"{{"timestamp":"2026-11-22T07:30:00Z","value":"{long}"}}"#),
        ] {
            assert_eq!(read(entry), None, "{entry}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_for_plain_is_read_alike_as_json(
            members in prop::collection::vec(
                (
                    prop::sample::select(vec!["timestamp", "value", "a", "\\u0061", ""]),
                    prop_oneof![
                        Just("\"2026-11-22T07:30:00Z\"".to_owned()),
                        Just("\"1969-12-31T23:59:59Z\"".to_owned()),
                        "\"[ -~\u{1}-\u{1f}äé\u{2028}]{0,9}\"",
                        "[0-9\\[\\]{}tn\"]{0,5}",
                    ],
                    prop_oneof![Just(""), Just(" "), Just("  "), Just("\n")],
                ),
                0..6,
            ),
        ) {
            let member = |(key, value, space): &(&str, String, &str)| {
                format!("\"{key}\":{space}{value}")
            };
            let members: Vec<_> = members.iter().map(member).collect();
            let text = format!("{{{}}}", members.join(","));
            if let Some(plain) = read(&text) {
                let shards = std::num::NonZeroU16::new(97).unwrap();
                let (mut plainly, mut as_json) = (Entries::default(), Entries::default());
                prop_assert_eq!(plain.entry.len() + plain.behind.len(), text.len());
                as_json.push_as_json(plain.entry, shards).unwrap();
                plainly.push(plain.entry, shards).unwrap();
                prop_assert_eq!(as_json.into_parts(), plainly.into_parts());
            }
        }
    }
}
