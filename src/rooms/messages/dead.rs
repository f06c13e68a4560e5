//! `GET /dead`, `GET /dead/{number}` and `POST /dead/{number}/resend`: the messages that no worker
//! could do, and their second chance.
//!
//! Their rows are in the state directory, they themselves in the files of its consumer. Those may
//! be out of reach from here: then the answer says so.

use std::fmt::Display;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::batch::dead::{self, DeadError, DeadLetter, DeadRow, Listed};
use crate::batch::output::{self, OutputError};
use crate::batch::resend::{Edit, Place, Resender};
use crate::broker::Receipt;
use crate::broker::wake::Waker;
use crate::clock::Clock;
use crate::message::{Offset, Topic};
use crate::state::{State, StateError};
use crate::web::{
    Auth, BodyReader, HttpError, Query, Room, Scope, Shape, described, json, printable,
    refuse_coded,
};

/// Files, or letters, of a page, if nothing is said, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// How long a request waits for its commit before it is told that the outcome is unknown.
const RESEND_TIMEOUT: Duration = Duration::from_secs(30);
/// When a client that found no room may come again, in seconds.
const ROOM_RETRY_SECONDS: u32 = 5;

/// What the handlers share.
#[derive(Debug)]
pub struct DeadLetters {
    /// The state environment.
    pub state: State,
    /// Reads bodies within their limits.
    pub bodies: BodyReader,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
    /// Wakes whoever consumes.
    pub waker: Waker,
    /// What reads the messages of a topic.
    pub place_of: fn(Topic) -> Place,
    /// How many shards there are.
    pub shards: NonZeroU16,
    /// For those who read files, which may be long.
    pub desks: Arc<Semaphore>,
}

/// How many files are read at a time, at most.
pub const READ_AT_ONCE: usize = 4;

/// The routes, behind their scopes.
#[must_use]
pub fn room(letters: DeadLetters, auth: &Auth) -> Room {
    let shared = Arc::new(letters);
    let write =
        Router::new().route("/dead/{number}/resend", post(resend)).with_state(Arc::clone(&shared));
    let read = Router::new()
        .route("/dead", get(list))
        .route("/dead/{number}", get(show))
        .with_state(shared);
    let router = auth.require(write, Scope::Write).merge(auth.require(read, Scope::Read));
    Room { router, openapi: openapi(), shape: Shape::Error }
}

type NumberPath = Result<Path<String>, PathRejection>;

fn number(path: NumberPath) -> Result<u64, HttpError> {
    path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(unknown)
}

fn unknown() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "there is no file of dead letters with this number")
}

async fn list(
    Shared(letters): Shared<Arc<DeadLetters>>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let query = Query::read(query.as_deref(), &["limit", "before", "all"])?;
    let limit = query.limit("limit", PAGE_DEFAULT, PAGE_MAX)?;
    let before = query.parsed("before")?.unwrap_or(u64::MAX);
    let is_all = query.parsed("all")?.unwrap_or(false);
    let rows = blocking(move || Ok(dead::newest(&letters.state, before, limit, is_all)?)).await?;
    let listed: Vec<Listed<'_>> = rows.iter().map(DeadRow::listed).collect();
    let mut response = json(StatusCode::OK, &listed)?;
    if let Some(last) = listed.last().filter(|_| listed.len() == limit)
        && let Some(link) = query.next("/dead", &last.number)
    {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// A file with some of its letters.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    row: Listed<'a>,
    letters: Vec<Box<RawValue>>,
}

async fn show(
    Shared(letters): Shared<Arc<DeadLetters>>,
    path: NumberPath,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let number = number(path)?;
    let query = Query::read(query.as_deref(), &["limit", "after", "format"])?;
    let is_lines = lines_asked(&query)?;
    let limit = query.limit("limit", PAGE_DEFAULT, PAGE_MAX)?;
    let after: Option<Offset> = query.parsed("after")?;
    let reading = at_desk(&letters, move |letters| shown(&letters.state, number, after, limit));
    let (row, page) = reading.await?;
    let last = page.last().filter(|_| page.len() == limit).map(|(offset, _)| *offset);
    let letters = page.into_iter().map(|(_, letter)| letter).collect();
    let mut response = if is_lines {
        as_lines(letters)
    } else {
        json(StatusCode::OK, &Shown { row: row.listed(), letters })?
    };
    if let Some(last) = last {
        let format = if is_lines { "&format=lines" } else { "" };
        let link = format!("</dead/{number}?limit={limit}{format}&after={last}>; rel=\"next\"");
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(LINK, link);
        }
    }
    Ok(response)
}

/// Whether the letters are asked for as lines, without what is known of the file.
fn lines_asked(query: &Query) -> Result<bool, HttpError> {
    match query.get("format") {
        None | Some("json") => Ok(false),
        Some("lines") => Ok(true),
        Some(_) => {
            let text = "format must be json or lines";
            Err(HttpError::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// The letters as they stand in the file.
fn as_lines(letters: Vec<Box<RawValue>>) -> Response {
    let mut lines = String::new();
    for letter in letters {
        lines.push_str(letter.get());
        lines.push('\n');
    }
    ([(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], lines).into_response()
}

type Letters = Vec<(Offset, Box<RawValue>)>;

/// A file and its letters after an offset, in order.
fn shown(
    state: &State,
    number: u64,
    after: Option<Offset>,
    limit: usize,
) -> Result<(DeadRow, Letters), Refusal> {
    let row = dead::row(state, number)?;
    let disk = output::open(state)?;
    let mut page = Vec::new();
    for line in dead::read(&disk, &row)? {
        let line = line?;
        let damaged = |error: serde_json::Error| {
            let (file, found) = (row.row.file.clone(), error.to_string());
            DeadError::Damaged { file, found }
        };
        let offset = serde_json::from_str::<DeadLetter<'_>>(&line).map_err(damaged)?.offset;
        if after.is_none_or(|after| offset > after) {
            page.push((offset, RawValue::from_string(line).map_err(damaged)?));
        }
        if page.len() == limit {
            break;
        }
    }
    Ok((row, page))
}

/// What a body may say: other messages in place of some.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edited<'a> {
    #[serde(borrow)]
    messages: Vec<EditedMessage<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditedMessage<'a> {
    offset: Offset,
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Serialize)]
struct Resent {
    messages: u64,
    edited: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

async fn resend(
    Shared(letters): Shared<Arc<DeadLetters>>,
    path: NumberPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let number = number(path)?;
    let received = letters.bodies.read(body).await?;
    let edits = edits(&received.bytes)?;
    drop(received);
    let edited = edits.len();
    // What has begun is finished, whether or not somebody waits for it.
    let sending = at_desk(&letters, move |letters| letters.resend(number, &edits));
    let sent = tokio::time::timeout(RESEND_TIMEOUT, sending).await;
    let receipt = sent.unwrap_or_else(|_| Err(unknown_outcome(&"the commit takes too long")))?;
    let messages = receipt.count();
    let receipt = Some(receipt).filter(Receipt::is_readable);
    json(StatusCode::OK, &Resent { messages, edited, receipt })
}

fn edits(body: &[u8]) -> Result<Vec<Edit>, HttpError> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let edited: Edited<'_> = serde_json::from_slice(body).map_err(|error| {
        let text = "the body must be empty, or {\"messages\":[{\"offset\":…,\"message\":{…}}]}";
        let error = printable(&error.to_string());
        HttpError::new(StatusCode::BAD_REQUEST, format!("{text}: {error}"))
    })?;
    let edit = |edited: EditedMessage<'_>| Edit {
        offset: edited.offset,
        message: edited.message.get().to_owned(),
    };
    Ok(edited.messages.into_iter().map(edit).collect())
}

impl DeadLetters {
    fn resend(&self, number: u64, edits: &[Edit]) -> Result<Receipt, Refusal> {
        let disk = output::open(&self.state)?;
        let resender = Resender {
            state: &self.state,
            disk: &disk,
            place_of: self.place_of,
            shards: self.shards,
            now_ms: self.clock.wall_ms(),
        };
        let receipt = resender.resend(number, edits)?;
        self.waker.wake(&receipt.keys());
        Ok(receipt)
    }
}

/// Why letters are not shown or sent again.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Dead(#[from] DeadError),
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Self::Dead(error.into())
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let dead = match refusal {
            Refusal::Dead(dead) => dead,
            Refusal::Output(OutputError::State(error)) => error.into(),
            Refusal::Output(error) => return out_of_reach(&error),
        };
        let text = printable(&dead.to_string());
        match dead {
            DeadError::Unknown(_) => unknown(),
            DeadError::Resent(_) | DeadError::Gone(_) | DeadError::Damaged { .. } => {
                Self::new(StatusCode::CONFLICT, text)
            }
            DeadError::NotEdited { .. } | DeadError::NoEntry { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
            }
            DeadError::Io { .. } => out_of_reach(&dead),
            DeadError::State(error) if error.is_space() => {
                let text = "no room for messages; nothing was stored, try again later";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, text)
                    .internal_told(error)
                    .retry_after(ROOM_RETRY_SECONDS)
            }
            DeadError::State(error) => unknown_outcome(&error),
        }
    }
}

fn out_of_reach(error: &dyn Display) -> HttpError {
    let reason = printable(&error.to_string());
    let text = format!(
        "the files of dead letters cannot be read from here ({reason}): is the message-consumer on \
         another host or in another container, or its output directory not mounted? Where they \
         are, `dead show` and `dead resend` do the same"
    );
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).internal(error)
}

fn unknown_outcome(detail: &dyn Display) -> HttpError {
    let text = "the state directory does not answer now; repeat the request: no file is sent again \
                twice";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).internal(detail).retry_after(1)
}

/// A look into the memory map, or at files, may wait for the disk.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, HttpError> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| unknown_outcome(&error))?.map_err(HttpError::from)
}

/// The same for what reads files: it keeps its desk until it is done, whoever waits for it.
async fn at_desk<T: Send + 'static>(
    letters: &Arc<DeadLetters>,
    look: impl FnOnce(&DeadLetters) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, HttpError> {
    let (letters, desks) = (Arc::clone(letters), Arc::clone(&letters.desks));
    // The desks are never closed.
    let desk = desks.acquire_owned().await.map_err(|error| unknown_outcome(&error))?;
    blocking(move || {
        let looked = look(&letters);
        drop(desk);
        looked
    })
    .await
}

fn openapi() -> Value {
    // A file of its own, since it is a document and not code.
    described(include_str!("dead.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_json_and_names_every_route() {
        crate::web::assert_describes(
            &openapi(),
            &[
                ("/dead", &["get"]),
                ("/dead/{number}", &["get"]),
                ("/dead/{number}/resend", &["post"]),
            ],
        );
    }

    #[test]
    fn a_body_is_nothing_or_edits_each_with_its_message_as_it_was_written() {
        assert_eq!(edits(b" \n").unwrap(), []);
        let body =
            b"{\"messages\":[{\"offset\":17,\"message\":{ \"a\": 1.50,\n\"b\":\"\\u00e9\"}}]}";
        let message = "{ \"a\": 1.50,\n\"b\":\"\\u00e9\"}".to_owned();
        assert_eq!(edits(body).unwrap(), [Edit { offset: 17, message }]);
        for wrong in [
            "[]",
            "x",
            "{}",
            "{\"messages\":[{\"offset\":-1,\"message\":{}}]}",
            "{\"messages\":[{\"offset\":1}]}",
            "{\"messages\":[],\"message\":[]}",
            "{\"messages\":[{\"offset\":1,\"offset\":1,\"message\":{}}]}",
        ] {
            let refused = edits(wrong.as_bytes()).unwrap_err();
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
