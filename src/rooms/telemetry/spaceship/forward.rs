//! `/stream/` at a server, which hands it on to the spaceship: so that one address answers for all.
//!
//! Status and body are the spaceship's own, unless they would be taken for the server's: that it
//! does not let the server in, or is somewhere else. Then, and where none answers, it is a 502 that
//! says what to do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Shared};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, VIA};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::active;
use crate::rooms::telemetry::road::Road;
use crate::web::{Auth, BodyReader, HttpError, Room, Scope, Shape, described, refuse_coded};

/// How long an answer may take: longer than a spaceship takes to resolve a name, at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// What a request that was handed on says of its way (RFC 9110, section 7.6.3).
const ON_ITS_WAY: HeaderValue = HeaderValue::from_static("1.1 async-data-processor");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the handlers share.
#[derive(Debug)]
pub struct Forward {
    /// The way to the spaceship.
    pub road: Road,
    /// Reads bodies within their limits.
    pub bodies: BodyReader,
    /// Rung when a stream was begun, renewed or stopped by way of this server.
    pub changed: watch::Sender<u64>,
}

/// The routes of the room, behind their scopes.
#[must_use]
pub fn room(forward: Forward, auth: &Auth) -> Room {
    let (mut write, mut read) = (Router::new(), Router::new());
    for slash in ["", "/"] {
        let (all, one) = (format!("/stream{slash}"), format!("/stream/{{event_key}}{slash}"));
        write = write.route(&all, post(hand_on)).route(&one, put(hand_on).merge(delete(hand_on)));
        read = read.route(&all, get(hand_on)).route(&one, get(hand_on));
    }
    let shared = Arc::new(forward);
    let (write, read) = (write.with_state(Arc::clone(&shared)), read.with_state(shared));
    let router = auth.require(write, Scope::Write).merge(auth.require(read, Scope::Read));
    Room { router, openapi: openapi(), shape: Shape::Detail }
}

async fn hand_on(
    Shared(room): Shared<Arc<Forward>>,
    request: Request,
) -> Result<Response, HttpError> {
    let (parts, body) = request.into_parts();
    refuse_coded(&parts.headers)?;
    if parts.headers.get_all(VIA).iter().any(|way| way == ON_ITS_WAY) {
        let text = "this server is no spaceship: start `spaceship`, and set SPACESHIP_URL to it";
        return Err(bad_gateway(text.to_owned()));
    }
    if !is_plain(parts.uri.path()) {
        return Err(HttpError::new(StatusCode::NOT_FOUND, "Event key not found"));
    }
    let received = room.bodies.read(body).await?;
    let only_reads = parts.method.is_safe();
    let request = Request::builder()
        .method(parts.method)
        .uri(parts.uri.path())
        .header(VIA, ON_ITS_WAY)
        .header(CONTENT_TYPE, JSON)
        .body(received.bytes.clone());
    let request = request.map_err(|error| bad_gateway(error.to_string()))?;
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, room.road.exchange(request)).await;
    if !only_reads {
        // Also without an answer it may have been done.
        room.changed.send_modify(|times| *times = times.wrapping_add(1));
    }
    let answer = asked.map_err(|_| late(&room.road, only_reads))?;
    passed_on(&room.road, answer.map_err(|error| nobody(&room.road, &error))?)
}

/// Whether a path stays what it is on its way, whoever reads it: nothing of it is encoded, and no
/// part of it leads elsewhere.
fn is_plain(path: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    path.split('/').all(|part| part.bytes().all(is_unreserved) && part != "." && part != "..")
}

/// The answer of the spaceship as that of the server.
fn passed_on(road: &Road, answer: axum::http::Response<Bytes>) -> Result<Response, HttpError> {
    let status = answer.status();
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "set SPACESHIP_TOKEN_FILE",
        StatusCode::MISDIRECTED_REQUEST => "set SPACESHIP_URL to the address it listens on",
        _ if status.is_redirection() => "set SPACESHIP_URL to where it is",
        _ => {
            let (mut parts, body) = answer.into_parts();
            let of_it = std::mem::replace(&mut parts.headers, HeaderMap::new());
            let pause = of_it.get(RETRY_AFTER).map(|value| (RETRY_AFTER, value.clone()));
            parts.headers.extend(pause);
            // Whatever it says: nothing of it is to be taken for a page of this server.
            parts.headers.insert(CONTENT_TYPE, JSON);
            return Ok(Response::from_parts(parts, Body::from(body)));
        }
    };
    Err(bad_gateway(format!("the spaceship at {road} answers {status}: {advice}")))
}

fn late(road: &Road, only_reads: bool) -> HttpError {
    let advice =
        if only_reads { "" } else { "; what was asked for may be done all the same: see the list" };
    bad_gateway(format!("the spaceship at {road} did not answer in time{advice}"))
}

fn nobody(road: &Road, error: &io::Error) -> HttpError {
    bad_gateway(active::absent(road)).internal_told(error)
}

fn bad_gateway(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_GATEWAY, text)
}

/// The spaceship's own description, with what a server adds to it.
fn openapi() -> Value {
    let mut document = described(include_str!("openapi.json"));
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for operation in paths.into_iter().flat_map(|paths| paths.values_mut()) {
        for method in operation.as_object_mut().into_iter().flat_map(|path| path.values_mut()) {
            if let Some(responses) = method.get_mut("responses").and_then(Value::as_object_mut) {
                let error = json!({"$ref": "#/components/responses/StreamError"});
                responses.insert("502".to_owned(), error);
            }
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_to_anything_but_streams() {
        for path in ["/stream", "/stream/", "/stream/0198-ab_c~.d", "/stream/x/"] {
            assert!(is_plain(path), "{path}");
        }
        for path in
            ["/stream/%2e%2e%2fx", "/stream/..", "/stream/.", "/stream/a%20b", "/stream/a;b"]
        {
            assert!(!is_plain(path), "{path}");
        }
    }
}
