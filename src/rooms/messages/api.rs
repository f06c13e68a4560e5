//! `POST /message` and `GET /receipt/{receipt}`.
//!
//! The wire shape is R1's: a JSON array of entries in, 201 when they are durable, `{"error": …}`
//! when not. Beyond it: lines (`application/x-ndjson`), receipts, `Idempotency-Key` (IETF draft
//! draft-ietf-httpapi-idempotency-key-header), `Prefer: return=representation` (RFC 7240).

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::entry::{self, Entries, Refused, Wrong};
use super::receipt;
use crate::broker::{IdempotencyKey, Publish, PublishError, Published, Unit};
use crate::state::State;
use crate::web::{
    Auth, BodyReader, HttpError, Principal, Room, Scope, Shape, described, idempotency_key,
    is_lines, printable, refuse_coded,
};

/// How long a request waits for its commit before it is told that the outcome is unknown.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// When a client that found no room may come again, in seconds.
const ROOM_RETRY_SECONDS: u32 = 5;
const PREFER: &str = "prefer";
const REPRESENTATION: &str = "return=representation";

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// Where messages go.
    pub publisher: Arc<dyn Publish>,
    /// Reads bodies within their limits.
    pub bodies: BodyReader,
    /// The state environment, for receipts.
    pub state: State,
    /// How many shards there are.
    pub shards: NonZeroU16,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// The routes of the room, behind their scopes.
#[must_use]
pub fn room(api: Api, auth: &Auth) -> Room {
    let api = Arc::new(api);
    let write = Router::new().route("/message", post(post_message)).with_state(Arc::clone(&api));
    let read = Router::new().route("/receipt/{receipt}", get(get_receipt)).with_state(api);
    Room {
        router: auth.require(write, Scope::Write).merge(auth.require(read, Scope::Read)),
        openapi: openapi(),
        shape: Shape::Error,
    }
}

async fn post_message(
    Shared(api): Shared<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let key = idempotency_key(&headers)?;
    let received = api.bodies.read(body).await?;
    let body = &received.bytes;
    let lines = is_lines(&headers);
    let read = if lines { entry::read_lines } else { entry::read_array };
    let entries: Entries = read(body, api.shards).map_err(refusal)?;
    let accepted = entries.count();
    let key = key.map(|key| IdempotencyKey {
        principal: Arc::clone(&principal.name),
        key,
        fingerprint: Sha256::digest(body).into(),
    });
    let answer = api.publisher.publish(Unit { parts: entries.into_parts(), key });
    let published = match tokio::time::timeout(PUBLISH_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer.map_err(|error| publish_error(&error))?,
        Ok(Err(_)) => return Err(unknown("the server is stopping")),
        Err(_) => return Err(unknown("the commit takes too long")),
    };
    Ok(created(&headers, lines, body, accepted, &published))
}

fn created(
    headers: &HeaderMap,
    lines: bool,
    body: &[u8],
    accepted: usize,
    published: &Published,
) -> Response {
    let receipt = published.receipt.as_ref().map(ToString::to_string);
    let location = receipt.as_ref().map(|receipt| format!("/receipt/{receipt}"));
    let json_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = if prefers_representation(headers) {
        let applied = HeaderName::from_static("preference-applied");
        let applied = (applied, HeaderValue::from_static(REPRESENTATION));
        let echo = if lines { as_array(body) } else { body.to_vec() };
        (StatusCode::CREATED, [json_type, applied], echo).into_response()
    } else {
        // A receipt is letters, digits and marks that JSON needs not escape.
        let answer = match receipt {
            Some(receipt) => format!("{{\"accepted\":{accepted},\"receipt\":\"{receipt}\"}}"),
            None => format!("{{\"accepted\":{accepted}}}"),
        };
        (StatusCode::CREATED, [json_type], answer).into_response()
    };
    if let Some(Ok(location)) = location.map(HeaderValue::try_from) {
        response.headers_mut().insert(LOCATION, location);
    }
    if published.replayed {
        let replayed = HeaderName::from_static("idempotency-replayed");
        response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    }
    response
}

/// The lines of a body as a JSON array, in their order.
fn as_array(body: &[u8]) -> Vec<u8> {
    let mut array = vec![b'['];
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    for line in lines.filter(|line| !line.is_empty()) {
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend_from_slice(line);
    }
    array.push(b']');
    array
}

fn prefers_representation(headers: &HeaderMap) -> bool {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split([',', ';']))
        .any(|preference| preference.trim().eq_ignore_ascii_case(REPRESENTATION))
}

fn refusal(refused: Refused) -> HttpError {
    let status = match &refused.wrong {
        Wrong::DuplicateKey(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Wrong::TooMany | Wrong::EntryTooLong { .. } | Wrong::ValueTooLong { .. } => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Wrong::NotUtf8(_)
        | Wrong::Malformed(_)
        | Wrong::Type(_)
        | Wrong::NoTimestamp
        | Wrong::Timestamp(_) => StatusCode::BAD_REQUEST,
    };
    HttpError::new(status, printable(&refused.to_string()))
}

fn publish_error(error: &PublishError) -> HttpError {
    match error {
        PublishError::KeyReused => {
            HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
        }
        PublishError::KeyInFlight => {
            HttpError::new(StatusCode::CONFLICT, error.to_string()).retry_after(1)
        }
        PublishError::Busy => {
            let text = "too many requests are waiting; nothing was stored, try again";
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1)
        }
        PublishError::Full(detail) => {
            let text = "no room for messages; nothing was stored, try again later";
            HttpError::new(StatusCode::INSUFFICIENT_STORAGE, text)
                .internal_told(detail)
                .retry_after(ROOM_RETRY_SECONDS)
        }
        PublishError::Unavailable(detail) => {
            let text = "the broker takes no messages now; nothing was stored, try again later";
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text)
                .internal_told(detail)
                .retry_after(ROOM_RETRY_SECONDS)
        }
        PublishError::Unknown(detail) => unknown(detail),
    }
}

fn unknown(detail: &str) -> HttpError {
    let text = "it is unknown whether the messages were stored; repeat the request, with the same \
                Idempotency-Key if it had one";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).internal(detail).retry_after(1)
}

async fn get_receipt(
    Shared(api): Shared<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<axum::response::Response, HttpError> {
    let not_known = || HttpError::new(StatusCode::NOT_FOUND, "no such receipt");
    // axum's own answer to a path that is no UTF-8 would be plain text.
    let Path(text) = path.map_err(|_| not_known())?;
    let receipt = text.parse().map_err(|_| not_known())?;
    // A look into the memory map may wait for the disk.
    let looked = tokio::task::spawn_blocking(move || receipt::look_up(&api.state, &receipt)).await;
    let failed = |error: &dyn std::fmt::Display| {
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "the receipt cannot be looked up now")
            .internal(error)
    };
    let found = looked.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let report = found.ok_or_else(not_known)?;
    let body = serde_json::to_string(&report).map_err(|error| failed(&error))?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

fn openapi() -> Value {
    // A file of its own, since it is a document and not code.
    described(include_str!("openapi.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_json_and_names_both_routes() {
        let description = openapi();
        assert!(description["paths"]["/message"]["post"].is_object());
        assert!(description["paths"]["/receipt/{receipt}"]["get"].is_object());
    }

    #[test]
    fn lines_echo_as_an_array_in_their_order() {
        assert_eq!(as_array(b"{\"a\":1}\r\n\n {\"b\":2}"), b"[{\"a\":1},{\"b\":2}]");
        assert_eq!(as_array(b""), b"[]");
    }

    #[test]
    fn preferences_are_read_as_the_rfc_says() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        assert!(prefers_representation(&headers(PREFER, "wait=5, return=representation")));
        assert!(!prefers_representation(&headers(PREFER, "return=minimal")));
    }
}
