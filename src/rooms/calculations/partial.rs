//! The body of a PUT, of any length: an object of which only `output` may be long.
//!
//! A scanner goes over the bytes as they come. It hands out the digits of the member `output`, and
//! keeps everything else as the skeleton of the object, which is read as JSON at the end. So the
//! scanner need only be right about JSON that is sound; what is not fails there.

use chrono::DateTime;
use serde::Deserialize;

use crate::store::Millis;

/// The most bytes of a body beside its output.
pub(super) const SKELETON_BYTES_MAX: usize = 64 << 10;
/// What is kept in the skeleton where the digits stood.
const PLACE: &str = "";

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// 413.
    #[error("the body is longer than {SKELETON_BYTES_MAX} bytes, beside its output")]
    TooLong,
    /// 400.
    #[error("output must be decimal digits in one string, without escapes")]
    NoDigits,
    /// 400.
    #[error("output is there twice")]
    Twice,
    /// 400.
    #[error("the body: {0}")]
    Malformed(String),
    /// 400.
    #[error("{0} must be a date such as 2026-11-22T07:30:00.000Z")]
    NoDate(&'static str),
}

/// What a PUT says, but for the digits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) started_at_ms: Option<Millis>,
    pub(super) finished_at_ms: Option<Millis>,
    pub(super) status: Option<String>,
    pub(super) error: Option<String>,
    pub(super) has_output: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Skeleton {
    calc_started_at: Option<String>,
    finished_at: Option<String>,
    status: Option<String>,
    error: Option<String>,
    output: Option<String>,
}

/// Where the scanner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Between,
    String { is_key: bool, is_escaped: bool },
    Output,
}

/// Goes over a body as it comes.
#[derive(Debug)]
pub(super) struct Scanner {
    skeleton: Vec<u8>,
    place: Place,
    depth: usize,
    /// The last key of the outermost object.
    key: Vec<u8>,
    /// In the outermost object, between a colon and a comma.
    is_value: bool,
    has_output: bool,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            skeleton: Vec::new(),
            place: Place::Between,
            depth: 0,
            key: Vec::new(),
            is_value: false,
            has_output: false,
        }
    }

    /// Goes on, up to the next digits or the end of what came; takes what it has seen off `bytes`.
    pub(super) fn next_digits<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<&'a [u8], Wrong> {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.place == Place::Output {
                let end = bytes.iter().position(|byte| !byte.is_ascii_digit());
                let (digits, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                if !digits.is_empty() {
                    *bytes = rest;
                    return Ok(digits);
                }
                if *byte != b'"' {
                    return Err(Wrong::NoDigits);
                }
            }
            self.step(*byte)?;
            *bytes = rest;
        }
        Ok(&[])
    }

    fn step(&mut self, byte: u8) -> Result<(), Wrong> {
        if self.skeleton.len() == SKELETON_BYTES_MAX {
            return Err(Wrong::TooLong);
        }
        self.skeleton.push(byte);
        match self.place {
            Place::Between => self.step_between(byte)?,
            Place::Output => self.place = Place::Between,
            Place::String { is_key, is_escaped } => {
                if byte == b'"' && !is_escaped {
                    self.place = Place::Between;
                } else {
                    if is_key {
                        self.key.push(byte);
                    }
                    let is_escaped = byte == b'\\' && !is_escaped;
                    self.place = Place::String { is_key, is_escaped };
                }
            }
        }
        Ok(())
    }

    fn step_between(&mut self, byte: u8) -> Result<(), Wrong> {
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => self.is_value = true,
            b',' if self.depth == 1 => self.is_value = false,
            b'"' if self.depth == 1 && self.is_value && self.key == b"output" => {
                if std::mem::replace(&mut self.has_output, true) {
                    return Err(Wrong::Twice);
                }
                self.place = Place::Output;
            }
            b'"' => {
                let is_key = self.depth == 1 && !self.is_value;
                if is_key {
                    self.key.clear();
                }
                self.place = Place::String { is_key, is_escaped: false };
            }
            _ => {}
        }
        Ok(())
    }

    /// The body has ended: what it said.
    pub(super) fn finish(self) -> Result<Partial, Wrong> {
        let malformed = |error: serde_json::Error| Wrong::Malformed(error.to_string());
        let is_object = self.skeleton.trim_ascii_start().starts_with(b"{");
        if !is_object {
            return Err(Wrong::Malformed("it must be an object".to_owned()));
        }
        let skeleton: Skeleton = serde_json::from_slice(&self.skeleton).map_err(malformed)?;
        // A key that is written with escapes passes the scanner by.
        if skeleton.output.is_some_and(|output| output != PLACE || !self.has_output) {
            return Err(Wrong::NoDigits);
        }
        Ok(Partial {
            started_at_ms: date("calcStartedAt", skeleton.calc_started_at)?,
            finished_at_ms: date("finishedAt", skeleton.finished_at)?,
            status: skeleton.status,
            error: skeleton.error,
            has_output: self.has_output,
        })
    }
}

fn date(name: &'static str, text: Option<String>) -> Result<Option<Millis>, Wrong> {
    let read = |text: String| {
        let date = DateTime::parse_from_rfc3339(&text).map_err(|_| Wrong::NoDate(name))?;
        Ok(date.timestamp_millis())
    };
    text.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// What a body says, and its digits, when it comes in pieces of `size` bytes.
    fn scan(body: &[u8], size: usize) -> Result<(Partial, String), Wrong> {
        let mut scanner = Scanner::new();
        let mut digits = Vec::new();
        for mut chunk in body.chunks(size) {
            while !chunk.is_empty() {
                digits.extend_from_slice(scanner.next_digits(&mut chunk)?);
            }
        }
        Ok((scanner.finish()?, String::from_utf8(digits).unwrap()))
    }

    #[test]
    fn r4s_partial_items_are_read() {
        let begun = br#"{"calcStartedAt":"2026-11-22T07:30:00.000Z"}"#;
        let (partial, digits) = scan(begun, 7).unwrap();
        let at_ms = Some(1_795_332_600_000);
        assert_eq!(partial, Partial { started_at_ms: at_ms, ..Partial::default() });
        assert_eq!(digits, "");
        let done = br#"{ "output" : "120", "finishedAt": "2026-11-22T08:30:00+01:00" }"#;
        let (partial, digits) = scan(done, 7).unwrap();
        assert_eq!((partial.finished_at_ms, partial.has_output), (at_ms, true));
        assert_eq!(digits, "120");
    }

    #[test]
    fn only_the_member_output_of_the_outermost_object_is_output() {
        let body =
            br#"{"a":{"output":"1"},"b":["output","2"],"c":"\"output\":\"3\"","d":"output"}"#;
        let (partial, digits) = scan(body, 3).unwrap();
        assert_eq!((partial.has_output, digits.as_str()), (false, ""));
        assert_eq!(scan(br#"{"output":null}"#, 3).unwrap().1, "");
    }

    #[test]
    fn what_is_no_sound_object_with_digits_is_refused() {
        for body in [
            r#"{"output":"12a"}"#,
            r#"{"output":"-1"}"#,
            r#"{"output":"1\u0032"}"#,
            r#"{"out\u0070ut":"12"}"#,
            r#"{"out\u0070ut":""}"#,
        ] {
            assert_eq!(scan(body.as_bytes(), 2), Err(Wrong::NoDigits), "{body}");
        }
        assert_eq!(scan(br#"{"output":"1","output":"2"}"#, 9), Err(Wrong::Twice));
        for body in [
            "",
            "[]",
            "null",
            r#"["output","1"]"#,
            r#"{"output" "1"}"#,
            r#"{"output":"1""#,
            r#"{"output":"1"#,
            r#"{"output":"1"}}"#,
            r#"{"output":12}"#,
            r#"{"status":1}"#,
            r#"{"output"::"1"}"#,
        ] {
            let wrong = scan(body.as_bytes(), 4);
            assert!(matches!(wrong, Err(Wrong::Malformed(_))), "{body}: {wrong:?}");
        }
        assert_eq!(scan(br#"{"finishedAt":"today"}"#, 9), Err(Wrong::NoDate("finishedAt")));
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(SKELETON_BYTES_MAX));
        assert_eq!(scan(long.as_bytes(), 4096), Err(Wrong::TooLong));
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_its_digits_are_found(
            digits in "[0-9]{0,40}", other in ".{0,20}", size in 1_usize..50, first: bool,
        ) {
            let output = format!("\"output\":{}", Value::from(digits.as_str()));
            let other = format!("{}:{}", json!(format!("x{other}")), json!({ "output": other }));
            let [a, b] = if first { [&output, &other] } else { [&other, &output] };
            let body = format!("{{{a},{b}}}");
            let (partial, found) = scan(body.as_bytes(), size).unwrap();
            prop_assert_eq!(found, digits);
            prop_assert!(partial.has_output);
        }
    }
}
