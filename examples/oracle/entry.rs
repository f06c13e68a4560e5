//! One entry: how the load client writes it and how the checker takes it apart again.
//!
//! An entry is `{"timestamp": …, "value": …}` with value `<id>|<sum>|<padding>`. The sum (FNV-1a of
//! timestamp and padding, 16 hexadecimal digits) finds entries whose content was changed or mixed
//! up on the way. `<id>` alone and `<id>|<padding>` are read, too: others may write ledgers.

use crate::json::{self, Fault};
use crate::random::SplitMix64;

/// Ends the id within a value; never part of an id.
pub(crate) const ID_END: char = '|';

const SUM_DIGITS: usize = 16;

fn sum(timestamp: &str, padding: &str) -> String {
    let bytes = timestamp.bytes().chain([0]).chain(padding.bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    format!("{hash:0width$x}", width = SUM_DIGITS)
}

/// A new entry with the id `id`: mostly short and plain, sometimes long or written in a way that a
/// careless program would store wrongly.
pub(crate) fn build(random: &mut SplitMix64, id: &str) -> String {
    let timestamp = timestamp(random);
    let padding = padding(random);
    let plain = format!("{id}{ID_END}{}{ID_END}{padding}", sum(&timestamp, &padding));
    let value = encode(random, &plain);
    match random.below(40) {
        0 => format!(r#"{{"value":"{value}","timestamp":"{timestamp}"}}"#),
        1 => format!(r#"{{ "timestamp" : "{timestamp}" , "value" : "{value}" }}"#),
        // Legal between members, and it must not become two lines in a file of lines.
        2 => format!("{{\r\n\t\"timestamp\": \"{timestamp}\",\n\t\"value\": \"{value}\"\n}}"),
        3 => {
            format!(r#"{{"timestamp":"{timestamp}","note":{{"value":"inner"}},"value":"{value}"}}"#)
        }
        4 => format!(
            r#"{{"timestamp":"{timestamp}","value":"{value}","n":[1,-2.5e3,true,null],"ü":"{{"}}"#
        ),
        _ => format!(r#"{{"timestamp":"{timestamp}","value":"{value}"}}"#),
    }
}

/// A valid RFC 3339 time; the seconds spread the entries over the shards.
fn timestamp(random: &mut SplitMix64) -> String {
    let minute = match random.below(12) {
        0 => "1969-12-31T23:59",
        1 => "1901-02-03T04:05",
        2 => "2038-01-19T03:14",
        3 => "2024-02-29T00:00",
        _ => "2025-06-07T08:09",
    };
    let second = random.below(60);
    let fraction = match random.below(10) {
        0 => ".5",
        1 => ".123456789",
        2 => ".000001",
        _ => "",
    };
    let offset = match random.below(12) {
        0 => "+02:00",
        1 => "-07:30",
        2 => "+05:45",
        3 => "+00:00",
        _ => "Z",
    };
    format!("{minute}:{second:02}{fraction}{offset}")
}

fn padding(random: &mut SplitMix64) -> String {
    match random.below(100) {
        0..=2 => {
            let length = random.between(300, 20_000);
            (0..length).map(|_| if random.chance(2) { ' ' } else { letter(random) }).collect()
        }
        3..=6 => {
            let length = random.between(1, 60);
            (0..length).map(|_| odd_character(random)).collect()
        }
        _ => String::new(),
    }
}

fn letter(random: &mut SplitMix64) -> char {
    let step = u8::try_from(random.below(26)).unwrap_or(0);
    char::from(b'a' + step)
}

fn odd_character(random: &mut SplitMix64) -> char {
    match random.below(12) {
        0 => '"',
        1 => '\\',
        2 => '\n',
        3 => '\r',
        4 => '\t',
        5 => '\u{0}',
        6 => 'ü',
        7 => '漢',
        8 => '🚀',
        9 => '\u{2028}',
        10 => ID_END,
        _ => letter(random),
    }
}

/// `plain` as the inside of a JSON string; characters outside ASCII now raw, now escaped.
fn encode(random: &mut SplitMix64, plain: &str) -> String {
    let mut text = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            ' '..='~' => text.push(character),
            _ if character >= ' ' && random.chance(50) => text.push(character),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    text
}

/// The inside of a JSON string (already found to be well-formed) as plain text.
fn decode(raw: &str) -> Result<String, Fault> {
    if !raw.contains('\\') {
        return Ok(raw.to_owned());
    }
    let mut units = Vec::with_capacity(raw.len());
    let mut characters = raw.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
            continue;
        }
        units.push(match characters.next() {
            Some('b') => 0x08,
            Some('f') => 0x0C,
            Some('n') => 0x0A,
            Some('r') => 0x0D,
            Some('t') => 0x09,
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                u16::from_str_radix(&digits, 16).map_err(|_| "a broken \\u escape")?
            }
            Some(other) => u16::try_from(u32::from(other)).map_err(|_| "an unknown escape")?,
            None => return Err("a broken escape"),
        });
    }
    String::from_utf16(&units).map_err(|_| "half of a surrogate pair")
}

/// The id of the entry that `line` (without its newline) holds, or why it holds none.
pub(crate) fn read(line: &str) -> Result<String, Fault> {
    let mut timestamps = Vec::new();
    let mut values = Vec::new();
    json::members(line, &mut |name, raw| match name {
        "timestamp" => timestamps.push(raw),
        "value" => values.push(raw),
        _ => (),
    })?;
    let [value] = values.as_slice() else { return Err("not exactly one value") };
    let [timestamp] = timestamps.as_slice() else { return Err("not exactly one timestamp") };
    let value = decode(inside(value).ok_or("a value that is no string")?)?;
    let timestamp = decode(inside(timestamp).ok_or("a timestamp that is no string")?)?;
    let Some((id, rest)) = value.split_once(ID_END) else { return Ok(value) };
    let summed = rest.split_once(ID_END).filter(|(digits, _)| {
        digits.len() == SUM_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    match summed {
        Some((digits, padding)) if digits != sum(&timestamp, padding) => {
            Err("content that is not what was sent")
        }
        _ => Ok(id.to_owned()),
    }
}

fn inside(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::{build, decode, encode, read};
    use crate::random::SplitMix64;

    #[test]
    fn what_is_built_is_read_again() {
        let mut random = SplitMix64::new(1, 0);
        for number in 0..5000 {
            let id = format!("1-run-{number}");
            // A program must turn line breaks between members into something else.
            let entry = build(&mut random, &id).replace(['\r', '\n'], " ");
            assert_eq!(read(&entry).as_deref(), Ok(id.as_str()), "{entry}");
        }
    }

    #[test]
    fn encoding_keeps_every_character() {
        let mut random = SplitMix64::new(2, 0);
        let plain = "a\"\\/\n\r\t\u{0}\u{8}\u{c}\u{7f}ü漢🚀\u{2028}|";
        for _ in 0..100 {
            assert_eq!(decode(&encode(&mut random, plain)).unwrap(), plain);
        }
        assert_eq!(decode(r"\/\b\f\ud83d\ude80").unwrap(), "/\u{8}\u{c}🚀");
        assert!(decode(r"\ud83d").is_err());
    }

    #[test]
    fn changed_content_is_found() {
        let mut random = SplitMix64::new(3, 0);
        let entry = build(&mut random, "id").replace("2025-06-07", "2025-06-08");
        let entry = entry.replace("1969-", "1968-").replace("1901-", "1902-");
        let entry = entry.replace("2038-", "2039-").replace("2024-", "2023-");
        assert_eq!(read(&entry), Err("content that is not what was sent"));
    }

    #[test]
    fn ids_of_others_are_read() {
        assert_eq!(read(r#"{"timestamp":"t","value":"a-1"}"#).unwrap(), "a-1");
        assert_eq!(read(r#"{"timestamp":"t","value":"a-1|xxx|y"}"#).unwrap(), "a-1");
    }

    #[test]
    fn a_line_without_exactly_one_entry_is_a_fault() {
        for line in [
            r#"{"timestamp":"t"}"#,
            r#"{"value":"a"}"#,
            r#"{"timestamp":"t","value":7}"#,
            r#"{"timestamp":"t","value":"a","value":"b"}"#,
            r#"{"timestamp":"t","value":"a"}{"timestamp":"t","value":"b"}"#,
            r#"{"timestamp":"t","val"#,
        ] {
            assert!(read(line).is_err(), "{line} was taken");
        }
    }
}
