//! Answers in JSON.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::HttpError;

/// An answer in JSON.
///
/// # Errors
/// 500 for a value that JSON cannot hold.
pub fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, HttpError> {
    let failed = |error| {
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written")
            .internal(error)
    };
    let body = serde_json::to_vec(value).map_err(failed)?;
    let media_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((status, [media_type], body).into_response())
}
