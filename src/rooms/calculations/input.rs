//! The input of a calculation: which numbers are taken.
//!
//! A number is whole if its value is: `5.0` and `5e0` are 5, as in JSON Schema, since JSON knows
//! one type of number and some languages write every number with a point. A text is no number.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::web::{HttpError, printable};

/// The largest number up to which a double holds every whole one.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

#[derive(Deserialize)]
struct NewItem {
    input: Option<Value>,
}

/// Reads the body of an order: `{"input": n}`, 0 to `input_max`.
///
/// # Errors
/// 400 with R4's texts where R4 has one.
pub(super) fn read(body: &[u8], input_max: u64) -> Result<u64, HttpError> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    if !is_object && serde_json::from_slice::<Value>(body).is_ok() {
        return Err(refused("the body must be an object: {\"input\": 42}"));
    }
    let item: NewItem = serde_json::from_slice(body)
        .map_err(|error| refused(&format!("the body: {}", printable(&error.to_string()))))?;
    match item.input {
        None => Err(refused("Required")),
        Some(Value::Number(number)) => whole(&number, input_max),
        Some(_) => Err(refused("Must be a whole number")),
    }
}

fn whole(number: &serde_json::Number, input_max: u64) -> Result<u64, HttpError> {
    let input = match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(value)) if value.fract() != 0.0 => {
            return Err(refused("Must be a whole number"));
        }
        (None, Some(value)) if value < 0.0 => return Err(refused("Must be a positive number")),
        (None, Some(value)) if value <= EXACT_MAX => exact(value),
        _ => u64::MAX,
    };
    if input > input_max {
        return Err(refused(&format!("Must be at most {input_max}")));
    }
    Ok(input)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^53, and whole")]
fn exact(value: f64) -> u64 {
    value as u64
}

fn refused(text: &str) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(body: &str) -> Result<u64, String> {
        read(body.as_bytes(), 10_000_000).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_up_to_the_limit_are_taken_however_they_are_written() {
        for (body, expected) in [
            (r#"{"input":0}"#, 0),
            (r#"{"input":-0}"#, 0),
            (r#" {"input": 42, "more": [1]} "#, 42),
            (r#"{"input":5.0}"#, 5),
            (r#"{"input":1e3}"#, 1000),
            (r#"{"input":10000000}"#, 10_000_000),
        ] {
            assert_eq!(input(body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn everything_else_is_refused_in_r4s_words() {
        for (body, text) in [
            ("{}", "Required"),
            (r#"{"input":null}"#, "Required"),
            (r#"{"input":1.5}"#, "Must be a whole number"),
            (r#"{"input":-1.5}"#, "Must be a whole number"),
            (r#"{"input":"42"}"#, "Must be a whole number"),
            (r#"{"input":true}"#, "Must be a whole number"),
            (r#"{"input":[42]}"#, "Must be a whole number"),
            (r#"{"input":{}}"#, "Must be a whole number"),
            (r#"{"input":-1}"#, "Must be a positive number"),
            (r#"{"input":-1e300}"#, "Must be a positive number"),
            (r#"{"input":10000001}"#, "Must be at most 10000000"),
            (r#"{"input":18446744073709551616}"#, "Must be at most 10000000"),
            (r#"{"input":1e300}"#, "Must be at most 10000000"),
            (r#"{"input":1e999}"#, "the body"),
            (r#"{"input":1,"input":2}"#, "the body"),
            (r#"{"input":NaN}"#, "the body"),
            ("42", "must be an object"),
            ("[1]", "must be an object"),
            ("null", "must be an object"),
            ("", "the body"),
            ("{", "the body"),
        ] {
            let refused = input(body).unwrap_err();
            assert!(refused.contains("400") && refused.contains(text), "{body}: {refused}");
        }
    }
}
