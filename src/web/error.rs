//! The one error type of HTTP handlers: what the client is told and what the log is told, apart.
//!
//! [`HttpError`] renders itself in one of three shapes (see [`Shape`]). The internal detail goes
//! to the log; a client sees it only with `debug_errors`, where the envelope of
//! [`app`](super::app()) adds it. The room's shape is also put on by the envelope, so that an error
//! made by `web` itself (401, 413, 503, ...) looks like the room's own.

use std::fmt;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::service::printable;

/// How an error looks on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// `application/problem+json` (RFC 9457).
    #[default]
    Problem,
    /// `{"error": …}`, as the reference systems R1 and R4 answer.
    Error,
    /// `{"detail": …}`, as the reference system R2 answers.
    Detail,
}

/// An error answer.
///
/// The external text is sent as it is: user data in it goes through [`printable`] first.
#[derive(Debug, Clone)]
pub struct HttpError {
    status: StatusCode,
    external: String,
    internal: Option<String>,
    /// Whether the log tells of it elsewhere, once and not for each request.
    is_told: bool,
    retry_after_seconds: Option<u32>,
    challenge: Option<HeaderValue>,
    shape: Option<Shape>,
}

impl HttpError {
    /// An error with what the client is told.
    #[must_use]
    pub fn new(status: StatusCode, external: impl Into<String>) -> Self {
        Self {
            status,
            external: external.into(),
            internal: None,
            is_told: false,
            retry_after_seconds: None,
            challenge: None,
            shape: None,
        }
    }

    /// Adds what only the log is told: at `warn` for a 5xx status, else at `debug`.
    #[must_use]
    pub fn internal(mut self, detail: impl fmt::Display) -> Self {
        self.internal = Some(detail.to_string());
        self
    }

    /// The same for a state that lasts, such as a full disk, and that the log tells of elsewhere:
    /// a line for each request would only fill it.
    #[must_use]
    pub fn internal_told(mut self, detail: impl fmt::Display) -> Self {
        self.is_told = true;
        self.internal(detail)
    }

    /// Adds `Retry-After` (RFC 9110, section 10.2.3), in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Adds `WWW-Authenticate` (RFC 9110, section 11.6.1).
    #[must_use]
    pub(super) fn challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Fixes the shape, whatever the room's is.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = Some(shape);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body in `shape`; with the internal detail if `reveal`.
    fn body(&self, shape: Shape, reveal: bool) -> String {
        let mut value = match shape {
            Shape::Error => json!({ "error": self.external }),
            Shape::Detail => json!({ "detail": self.external }),
            Shape::Problem => json!({
                "type": "about:blank",
                "title": self.status.canonical_reason().unwrap_or("Error"),
                "status": self.status.as_u16(),
                "detail": self.external,
            }),
        };
        if let (true, Some(detail), Value::Object(members)) = (reveal, &self.internal, &mut value) {
            members.insert("internal".to_owned(), Value::String(printable(detail)));
        }
        value.to_string()
    }

    fn headers(&self, shape: Shape, headers: &mut HeaderMap) {
        let media_type = match shape {
            Shape::Problem => "application/problem+json",
            Shape::Error | Shape::Detail => "application/json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        // Media types are not refused, content codings are, all of them (RFC 9110, 15.5.16).
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        // The rest of the request is not read: a client that knows stops sending.
        if matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Logs the internal detail, if there is one; `request` names the request in the log.
    fn log(&self, request: &dyn fmt::Display) {
        let Some(detail) = &self.internal else { return };
        let (status, detail) = (self.status.as_u16(), printable(detail));
        if self.status.is_server_error() && !self.is_told {
            tracing::warn!(status, %request, %detail, "{}", self.external);
        } else {
            tracing::debug!(status, %request, %detail, "{}", self.external);
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.status, self.external)
    }
}

impl std::error::Error for HttpError {}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let shape = self.shape.unwrap_or_default();
        let mut response = Response::new(Body::from(self.body(shape, false)));
        *response.status_mut() = self.status;
        self.headers(shape, response.headers_mut());
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an error answer the room's shape, reveals its detail if allowed, and logs it.
///
/// `request` names the request in the log. Other answers stay as they are.
pub(super) fn finish(
    response: &mut Response,
    room: Shape,
    debug_errors: bool,
    request: &dyn fmt::Display,
) {
    let Some(error) = response.extensions_mut().remove::<HttpError>() else { return };
    error.log(request);
    let shape = error.shape.unwrap_or(room);
    let rendered = error.shape.unwrap_or_default();
    if shape != rendered || (debug_errors && error.internal.is_some()) {
        *response.body_mut() = Body::from(error.body(shape, debug_errors));
        error.headers(shape, response.headers_mut());
    }
}

/// The answer on a path that nothing serves.
pub(super) async fn not_found() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "there is nothing at this path; see /openapi.json")
}

/// The answer to a method that a path does not have; `Allow` is added by the router.
pub(super) async fn method_not_allowed() -> HttpError {
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take this method; the Allow header names those it takes",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::service::PRINTABLE_CHARACTERS;

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn user_data_cannot_forge_a_log_line_or_flood_it() {
        assert_eq!(printable("a\r\nERROR \u{1b}[31mx"), "a\\r\\nERROR \\u{1b}[31mx");
        assert_eq!(printable("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(printable("naïve 🚀"), "naïve 🚀");
        let cut = printable(&"ß".repeat(300));
        assert_eq!(cut.chars().count(), PRINTABLE_CHARACTERS + 1);
        assert!(cut.ends_with('…'));
    }

    proptest! {
        #[test]
        fn nothing_unprintable_passes_whatever_is_sent(text in "\\PC*|.{0,300}|[\\x00-\\x9f]*") {
            let safe = printable(&text);
            prop_assert!(!safe.chars().any(char::is_control));
            prop_assert!(text.chars().count() > PRINTABLE_CHARACTERS || !safe.ends_with('…')
                || text.ends_with('…'));
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_gets_the_detail_that_the_client_does_not() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let failed = HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "sorry");
            finish(&mut failed.internal("disk\n3").into_response(), Shape::Error, false, &"GET /a");
            let busy = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "later");
            finish(&mut busy.into_response(), Shape::Error, false, &"GET /b");
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(
            log.contains("WARN") && log.contains("disk\\n3") && log.contains("GET /a"),
            "{log}"
        );
        assert!(!log.contains("GET /b"), "a full server must not also fill its log: {log}");
    }

    #[tokio::test]
    async fn the_three_shapes_are_those_of_the_reference_systems_and_rfc_9457() {
        let error = || HttpError::new(StatusCode::BAD_REQUEST, "no \"timestamp\"").retry_after(3);
        let response = error().into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "3");
        let problem: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(
            problem,
            json!({"type": "about:blank", "title": "Bad Request", "status": 400,
                   "detail": "no \"timestamp\""})
        );
        let response = error().shape(Shape::Error).into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(text(response).await, r#"{"error":"no \"timestamp\""}"#);
        let response = error().shape(Shape::Detail).into_response();
        assert_eq!(text(response).await, r#"{"detail":"no \"timestamp\""}"#);
    }

    #[tokio::test]
    async fn the_internal_detail_reaches_a_client_only_in_debug_mode() {
        let error = || HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "sorry").internal("disk");
        let mut response = error().into_response();
        finish(&mut response, Shape::Error, false, &"GET /");
        assert_eq!(text(response).await, r#"{"error":"sorry"}"#);
        let mut response = error().into_response();
        finish(&mut response, Shape::Error, true, &"GET /");
        assert_eq!(text(response).await, r#"{"error":"sorry","internal":"disk"}"#);
    }

    #[tokio::test]
    async fn a_shape_fixed_by_the_handler_outlives_the_rooms() {
        let error = HttpError::new(StatusCode::CONFLICT, "no").shape(Shape::Detail);
        let mut response = error.into_response();
        finish(&mut response, Shape::Error, false, &"GET /");
        assert_eq!(text(response).await, r#"{"detail":"no"}"#);
    }
}
