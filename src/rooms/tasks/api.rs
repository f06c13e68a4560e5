//! `/tasks`, `/tasks/{id}`, `/tasks/{id}/result`, `/tasks/{id}/retry`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use serde::Serialize;
use serde_json::Value;

use super::entry;
use super::view::View;
use crate::clock::Clock;
use crate::store::{Filter, Millis, Store, Submitted, Task, TaskState};
use crate::task::TaskId;
use crate::tasks::{page, result};
use crate::web::{
    Auth, BodyReader, HttpError, Principal, Query, Room, Scope, Shape, described, idempotency_key,
    is_lines, json, refuse_coded,
};

/// The most bytes of a body that submits tasks: for the caller's [`BodyReader`].
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Tasks of a page, if nothing is said.
const TASKS_DEFAULT: usize = 100;
/// Tasks of a page at most.
const TASKS_MAX: usize = 1000;

/// What the handlers share.
#[derive(Debug)]
pub struct Tasks {
    /// Where the tasks are.
    pub store: Arc<dyn Store>,
    /// Reads bodies within their limits.
    pub bodies: BodyReader,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
}

/// The routes of the room, behind their scopes.
#[must_use]
pub fn room(tasks: Tasks, auth: &Auth) -> Room {
    let shared = Arc::new(tasks);
    let write = Router::new()
        .route("/tasks", post(submit))
        .route("/tasks/{id}", delete(cancel))
        .route("/tasks/{id}/retry", post(retry))
        .with_state(Arc::clone(&shared));
    let read = Router::new()
        .route("/tasks", get(list))
        .route("/tasks/{id}", get(show))
        .route("/tasks/{id}/result", get(show_result))
        .with_state(shared);
    let router = auth.require(write, Scope::Write).merge(auth.require(read, Scope::Read));
    Room { router, openapi: openapi(), shape: Shape::Problem }
}

type IdPath = Result<Path<String>, PathRejection>;

impl Tasks {
    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    async fn task(&self, id: TaskId) -> Result<Task, HttpError> {
        self.store.task(id).await?.ok_or_else(unknown)
    }
}

fn id(path: IdPath) -> Result<TaskId, HttpError> {
    path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(unknown)
}

fn unknown() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "there is no task with this id")
}

fn conflict(text: String) -> HttpError {
    HttpError::new(StatusCode::CONFLICT, text)
}

#[derive(Serialize)]
struct Accepted {
    accepted: usize,
    ids: Vec<TaskId>,
}

async fn submit(
    Shared(room): Shared<Arc<Tasks>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let key = idempotency_key(&headers)?;
    let received = room.bodies.read(body).await?;
    let now_ms = room.now_ms();
    let new_id = |place: usize| match &key {
        Some(key) => TaskId::derived(&["tasks", &principal.name, key, &place.to_string()]),
        None => TaskId::new(),
    };
    let tasks = entry::read(&received.bytes, is_lines(&headers), now_ms, new_id)?;
    drop(received);
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    let submitted = room.store.submit(tasks, now_ms).await?;
    if let Some(place) = submitted.iter().position(|one| *one == Submitted::Conflict) {
        return Err(other(place, &submitted));
    }
    let is_replay = !ids.is_empty() && submitted.iter().all(|one| *one == Submitted::Known);
    let mut response = json(StatusCode::CREATED, &Accepted { accepted: ids.len(), ids })?;
    if is_replay {
        let replayed = HeaderName::from_static("idempotency-replayed");
        response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The answer where an entry names a task that is another one.
fn other(place: usize, submitted: &[Submitted]) -> HttpError {
    let is_new = |one: &Submitted| matches!(one, Submitted::New | Submitted::Follows(_));
    let rest = match submitted.iter().filter(|one| is_new(one)).count() {
        0 => "nothing was stored".to_owned(),
        new => format!("{new} other entries were new, and are stored"),
    };
    let text = format!(
        "entry {place}: a task of its id, or of this Idempotency-Key, is there already and is \
         another one; {rest}"
    );
    HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}

async fn list(
    Shared(room): Shared<Arc<Tasks>>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let known = &["limit", "kind", "state", "endpoint", "before"];
    let query = Query::read(query.as_deref(), known)?;
    let state = |word: &str| {
        TaskState::from_word(word).ok_or_else(|| {
            let words = TaskState::ALL.map(TaskState::word).join(", ");
            HttpError::new(StatusCode::BAD_REQUEST, format!("state must be one of {words}"))
        })
    };
    let filter = Filter {
        kind: query.parsed("kind")?,
        states: query.get("state").map(state).transpose()?.into_iter().collect(),
        endpoint: query.parsed("endpoint")?,
        before: query.parsed("before")?,
        tasks_max: query.limit("limit", TASKS_DEFAULT, TASKS_MAX)?,
    };
    let page = page::read(room.store.as_ref(), filter, |task| Some(View::new(task))).await?;
    let mut response = json(StatusCode::OK, &page.items)?;
    if let Some(link) = page.next.and_then(|next| query.next("/tasks", &next)) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

async fn show(Shared(room): Shared<Arc<Tasks>>, path: IdPath) -> Result<Response, HttpError> {
    json(StatusCode::OK, &View::with_payload(room.task(id(path)?).await?))
}

async fn show_result(
    Shared(room): Shared<Arc<Tasks>>,
    path: IdPath,
) -> Result<Response, HttpError> {
    let task = room.task(id(path)?).await?;
    let head = task.result.filter(|_| task.state == TaskState::Finished);
    let head =
        head.ok_or_else(|| conflict(format!("the task is {}: there is no result", task.state)))?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_LENGTH, HeaderValue::from(head.bytes)),
    ];
    let body = Body::from_stream(result::stream(Arc::clone(&room.store), task.id, head));
    Ok((headers, body).into_response())
}

/// Cancels; again is as good as once.
async fn cancel(Shared(room): Shared<Arc<Tasks>>, path: IdPath) -> Result<Response, HttpError> {
    let id = id(path)?;
    let was = room.store.cancel(id, room.now_ms()).await?.ok_or_else(unknown)?;
    if was.is_terminal() && was != TaskState::Cancelled {
        return Err(conflict(format!("the task is {was}: there is nothing to cancel")));
    }
    json(StatusCode::OK, &View::new(room.task(id).await?))
}

async fn retry(Shared(room): Shared<Arc<Tasks>>, path: IdPath) -> Result<Response, HttpError> {
    let id = id(path)?;
    let was = room.store.retry(id, room.now_ms()).await?.ok_or_else(unknown)?;
    if !matches!(was, TaskState::Failed | TaskState::Cancelled | TaskState::Missed) {
        let text =
            format!("the task is {was}: what failed, was cancelled or missed is tried again");
        return Err(conflict(text));
    }
    json(StatusCode::OK, &View::new(room.task(id).await?))
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
            &[
                ("/tasks", &["get", "post"]),
                ("/tasks/{id}", &["get", "delete"]),
                ("/tasks/{id}/result", &["get"]),
                ("/tasks/{id}/retry", &["post"]),
            ],
        );
    }
}
