//! What rooms read of a request beside its body: the idempotency key, whether the body is lines.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};

use super::error::HttpError;

/// The media type of lines of JSON.
const LINES_MEDIA_TYPE: &str = "application/x-ndjson";
/// The header of the IETF draft draft-ietf-httpapi-idempotency-key-header.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The most bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 255;

/// Whether the body is announced as lines of JSON.
#[must_use]
pub fn is_lines(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(LINES_MEDIA_TYPE)
}

/// The idempotency key, without the quotes that the draft asks for and many clients leave out.
///
/// # Errors
/// 400 for one that is empty, too long, no ASCII, or there twice.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, HttpError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .map(|text| text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text));
    match key {
        Some(key) if values.next().is_none() && (1..=KEY_BYTES_MAX).contains(&key.len()) => {
            Ok(Some(key.to_owned()))
        }
        _ => Err(HttpError::new(
            StatusCode::BAD_REQUEST,
            format!(
                "Idempotency-Key must stand once, with 1 to {KEY_BYTES_MAX} visible ASCII \
                 characters"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }

    #[test]
    fn media_types_are_read_as_the_rfc_says() {
        assert!(is_lines(&headers("content-type", "Application/X-NDJSON; charset=utf-8")));
        assert!(!is_lines(&headers("content-type", "application/json")));
    }

    #[test]
    fn keys_come_with_quotes_or_without() {
        let key = |value: &str| idempotency_key(&headers(IDEMPOTENCY_KEY, value)).ok().flatten();
        assert_eq!(key("\"abc\""), Some("abc".to_owned()));
        assert_eq!(key("abc"), Some("abc".to_owned()));
        assert_eq!(key(&"k".repeat(255)).map(|key| key.len()), Some(255));
        assert_eq!(key(&"k".repeat(256)), None);
        assert_eq!(key("\"\""), None);
    }
}
