//! `/stream/` and `/stream/{event_key}`: R2's endpoints and shapes, and what they lack.
//!
//! Each path is served with its last slash, as R2 writes it, and without.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use serde_json::Value;
use uuid::Uuid;

use super::entry::{self, Defaults};
use super::fleet::{Fleet, StartError};
use super::target::{NoTarget, Rules};
use super::view::{Active, Started, Stopped, View};
use super::wire::OpenError;
use crate::web::{Auth, BodyReader, HttpError, Room, Scope, Shape, described, json, refuse_coded};

/// When a client that found no stream left may come again, in seconds.
const RETRY_SECONDS: u32 = 5;

/// What the handlers share.
#[derive(Debug)]
pub struct Spaceship {
    /// The streams.
    pub fleet: Arc<Fleet>,
    /// Where they may go.
    pub rules: Rules,
    /// What they are unless it is said.
    pub defaults: Defaults,
    /// Reads bodies within their limits.
    pub bodies: BodyReader,
}

/// The routes of the room, behind their scopes.
#[must_use]
pub fn room(shared: Arc<Spaceship>, auth: &Auth) -> Room {
    let (mut write, mut read) = (Router::new(), Router::new());
    for slash in ["", "/"] {
        let (all, one) = (format!("/stream{slash}"), format!("/stream/{{event_key}}{slash}"));
        write = write.route(&all, post(start)).route(&one, put(renew)).route(&one, delete(stop));
        read = read.route(&all, get(list)).route(&one, get(show));
    }
    let (write, read) = (write.with_state(Arc::clone(&shared)), read.with_state(shared));
    let router = auth.require(write, Scope::Write).merge(auth.require(read, Scope::Read));
    Room { router, openapi: openapi(), shape: Shape::Detail }
}

type KeyPath = Result<Path<String>, PathRejection>;

fn key(path: KeyPath) -> Result<Uuid, HttpError> {
    path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(unknown)
}

/// In R2's words.
fn unknown() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "Event key not found")
}

impl From<NoTarget> for HttpError {
    fn from(wrong: NoTarget) -> Self {
        Self::new(StatusCode::BAD_REQUEST, wrong.to_string())
    }
}

impl From<StartError> for HttpError {
    fn from(error: StartError) -> Self {
        let text = error.to_string();
        match error {
            StartError::TooMany(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(RETRY_SECONDS)
            }
            StartError::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(RETRY_SECONDS)
            }
            StartError::Wire(OpenError::NoWay(_, cause)) => {
                Self::new(StatusCode::BAD_REQUEST, text).internal(cause)
            }
            StartError::Wire(OpenError::NoSocket(cause)) | StartError::NoThread(cause) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
                    .internal(cause)
                    .retry_after(RETRY_SECONDS)
            }
        }
    }
}

async fn start(
    Shared(room): Shared<Arc<Spaceship>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let received = room.bodies.read(body).await?;
    let wish = entry::read(&received.bytes, room.defaults)?;
    drop(received);
    let target = room.rules.resolve(&wish.host, wish.port).await?;
    let stream = room.fleet.start(wish, target)?;
    json(StatusCode::OK, &Started::new(&stream))
}

async fn list(Shared(room): Shared<Arc<Spaceship>>) -> Result<Response, HttpError> {
    let active = room.fleet.active();
    let streams: Vec<View<'_>> = active.iter().map(|stream| View::new(stream)).collect();
    json(StatusCode::OK, &Active { number_of_active_streams: streams.len(), streams })
}

async fn show(Shared(room): Shared<Arc<Spaceship>>, path: KeyPath) -> Result<Response, HttpError> {
    let stream = room.fleet.find(key(path)?).ok_or_else(unknown)?;
    json(StatusCode::OK, &View::new(&stream))
}

async fn renew(Shared(room): Shared<Arc<Spaceship>>, path: KeyPath) -> Result<Response, HttpError> {
    let stream = room.fleet.find(key(path)?);
    let stream = stream.filter(|stream| stream.renew()).ok_or_else(unknown)?;
    json(StatusCode::OK, &View::new(&stream))
}

/// Answers when nothing is sent any more.
async fn stop(Shared(room): Shared<Arc<Spaceship>>, path: KeyPath) -> Result<Response, HttpError> {
    let key = key(path)?;
    let stopped = tokio::task::spawn_blocking(move || room.fleet.stop(key)).await;
    let failed = |error| {
        let text = "it is unknown whether the stream has stopped";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, text).internal(error)
    };
    let stream = stopped.map_err(failed)?.ok_or_else(unknown)?;
    json(StatusCode::OK, &Stopped::new(&stream))
}

fn openapi() -> Value {
    // A file of its own, since it is a document and not code.
    described(include_str!("openapi.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::assert_describes;

    #[test]
    fn the_description_is_json_and_names_every_route() {
        assert_describes(
            &openapi(),
            &[("/stream/", &["get", "post"]), ("/stream/{event_key}", &["get", "put", "delete"])],
        );
    }
}
