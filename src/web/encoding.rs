//! The content coding of a request's body: none (RFC 9110, section 8.4).
//!
//! A body that was compressed would be told to be no UTF-8, which helps nobody. It is not unpacked
//! here, since a small one may unpack to any size: a reverse proxy may do that in front.

use axum::http::header::CONTENT_ENCODING;
use axum::http::{HeaderMap, StatusCode};

use super::error::HttpError;
use crate::service::printable;

/// Refuses a body that is not sent as it is; the answer says which coding would do (RFC 9110,
/// section 15.5.16).
///
/// # Errors
/// 415, with the coding in its text.
pub fn refuse_coded(headers: &HeaderMap) -> Result<(), HttpError> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
    for value in values {
        let mut codings = value.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        if let Some(coding) = codings.find(|coding| !coding.eq_ignore_ascii_case("identity")) {
            let coding = printable(coding);
            let text =
                format!("Content-Encoding {coding} is not read here: send the body as it is");
            return Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::response::IntoResponse;

    use super::*;

    fn checked(values: &[&str]) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        refuse_coded(&headers).map_err(|error| error.to_string())
    }

    #[test]
    fn a_body_that_is_sent_as_it_is_passes() {
        for values in [&[][..], &[""], &["identity"], &["Identity , identity"], &[" ,"]] {
            assert_eq!(checked(values), Ok(()), "{values:?}");
        }
    }

    #[test]
    fn a_coded_body_is_refused_by_the_name_of_its_coding() {
        for (values, named) in [
            (&["gzip"][..], "gzip"),
            (&["identity, br"], "br"),
            (&["identity", "zstd"], "zstd"),
            (&["gzïp"], "gzïp"),
        ] {
            let refused = checked(values).unwrap_err();
            assert!(refused.contains("415") && refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn the_answer_says_which_coding_would_do() {
        let error = HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "no");
        assert_eq!(error.into_response().headers()["accept-encoding"], "identity");
    }
}
