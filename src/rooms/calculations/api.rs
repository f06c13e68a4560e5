//! `/factorial` and `/factorial/{id}`: R4's endpoints and shapes, and what they lack.
//!
//! Beyond R4: paging and filters, the whole result, cancelling, validation, `Idempotency-Key`. A
//! calculation is a task whose key is its input, so what was computed once is not computed again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;

use super::hub::Hub;
use super::item::{self, Item};
use super::order::Order;
use super::partial::SKELETON_BYTES_MAX;
use super::{input, outside, socket};
use crate::clock::Clock;
use crate::store::{Filter, Millis, Store, StoreError, Submitted, Task, TaskState};
use crate::task::{Name, RESULT_BYTES_MAX, TaskId};
use crate::tasks::{page, result};
use crate::web::{
    Auth, BodyReader, BodySettings, HttpError, Principal, Query, Room, Scope, Shape, described,
    idempotency_key, json, printable, refuse_coded,
};

/// Items of a page at most, and if nothing is said.
const ITEMS_MAX: usize = 1000;

/// What a person may set.
#[derive(Debug, Clone)]
pub struct CalculationsSettings {
    /// The kind of task that computes factorials.
    pub kind: Name,
    /// The largest input.
    pub input_max: u64,
    /// Digits of an output that are shown in lists and pushes before it is shortened; 1024 at most.
    pub output_length_max: usize,
    /// How long an outside worker may take from its `calcStartedAt`; it may say that again.
    pub outside_timeout: Duration,
    /// Where outputs of outside workers are held while they come in: a folder on a local disk.
    pub scratch: PathBuf,
}

/// What the handlers share.
#[derive(Debug)]
pub struct Calculations {
    /// Where the tasks are.
    pub store: Arc<dyn Store>,
    /// Reads orders within their limits.
    pub bodies: BodyReader,
    /// Reads what outside workers tell, with [`upload_settings`].
    pub uploads: BodyReader,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
    /// Tells changes.
    pub hub: Hub,
    /// What a person may set.
    pub settings: CalculationsSettings,
}

/// The limits of what outside workers send: an output may be large, and come from afar.
#[must_use]
pub fn upload_settings() -> BodySettings {
    let result_bytes = usize::try_from(RESULT_BYTES_MAX).unwrap_or(usize::MAX);
    BodySettings {
        max_bytes: result_bytes.saturating_add(SKELETON_BYTES_MAX),
        timeout: Duration::from_secs(60 * 60),
        min_bytes_per_second: 16 << 10,
        ..BodySettings::default()
    }
}

/// The routes of the room, behind their scopes.
#[must_use]
pub fn room(calculations: Calculations, auth: &Auth) -> Room {
    let shared = Arc::new(calculations);
    let write = Router::new()
        .route("/factorial", post(submit))
        .route("/factorial/{id}", axum::routing::put(outside::put).delete(cancel))
        .with_state(Arc::clone(&shared));
    let read = Router::new()
        .route("/factorial", get(list))
        .route("/factorial/{id}", get(show))
        .with_state(Arc::clone(&shared));
    let listen = Router::new().route("/websockets", get(socket::open)).with_state(shared);
    let router = auth
        .require(write, Scope::Write)
        .merge(auth.require(read, Scope::Read))
        .merge(auth.require_for_socket(listen, Scope::Read));
    Room { router, openapi: openapi(), shape: Shape::Error }
}

/// The id in a path, as axum hands it over.
pub(super) type IdPath = Result<Path<String>, PathRejection>;

impl Calculations {
    /// The wall time.
    pub(super) fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    /// The calculation of an id in a path.
    pub(super) async fn known(&self, path: IdPath) -> Result<Task, HttpError> {
        let id = path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(unknown)?;
        self.task(id).await
    }

    /// A calculation.
    pub(super) async fn task(&self, id: TaskId) -> Result<Task, HttpError> {
        let task = self.store.task(id).await?;
        task.filter(|task| task.kind == self.settings.kind).ok_or_else(unknown)
    }

    /// The answer with an item.
    pub(super) fn answer(&self, task: &Task) -> Result<Response, HttpError> {
        json(StatusCode::OK, &Item::new(task, self.settings.output_length_max))
    }
}

fn unknown() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "there is no calculation with this id")
}

async fn submit(
    Shared(room): Shared<Arc<Calculations>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let key = idempotency_key(&headers)?;
    let received = room.bodies.read(body).await?;
    let input = input::read(&received.bytes, room.settings.input_max)?;
    let id = match &key {
        Some(key) => TaskId::derived(&["factorial", &principal.name, key]),
        None => TaskId::new(),
    };
    let now_ms = room.now_ms();
    let task = Order::task(room.settings.kind.clone(), id, input, now_ms);
    let submitted = room.store.submit(vec![task], now_ms).await?;
    if submitted.contains(&Submitted::Conflict) {
        let text = "this Idempotency-Key was used with another input";
        return Err(HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let mut response = room.answer(&room.task(id).await?)?;
    if submitted.contains(&Submitted::Known) {
        let replayed = HeaderName::from_static("idempotency-replayed");
        response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn list(
    Shared(room): Shared<Arc<Calculations>>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let query = Query::read(query.as_deref(), &["limit", "status", "input", "before"])?;
    let status = query.get("status");
    let states = status.map_or(Some(Vec::new()), item::states).ok_or_else(|| {
        let text = "status must be pending, finished or error";
        HttpError::new(StatusCode::BAD_REQUEST, text)
    })?;
    let filter = Filter {
        kind: Some(room.settings.kind.clone()),
        states,
        endpoint: None,
        before: query.parsed("before")?,
        tasks_max: query.limit("limit", ITEMS_MAX, ITEMS_MAX)?,
    };
    let input: Option<u64> = query.parsed("input")?;
    let is_asked_for = |task: &Task| {
        input.is_none() || Order::read(&task.payload).map(|order| order.input) == input
    };
    let length_max = room.settings.output_length_max;
    let pick = |task: Task| is_asked_for(&task).then(|| Item::new(&task, length_max));
    let page = page::read(room.store.as_ref(), filter, pick).await?;
    let mut response = json(StatusCode::OK, &page.items)?;
    if let Some(link) = page.next.and_then(|next| query.next("/factorial", &next)) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

async fn show(
    Shared(room): Shared<Arc<Calculations>>,
    path: IdPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let query = Query::read(query.as_deref(), &["format"])?;
    let is_text = match query.get("format") {
        None => prefers_text(&headers),
        Some("text") => true,
        Some("json") => false,
        Some(other) => {
            let text = format!("format must be text or json, not {}", printable(other));
            return Err(HttpError::new(StatusCode::BAD_REQUEST, text));
        }
    };
    let task = room.known(path).await?;
    let result = task.result.clone().filter(|_| task.state == TaskState::Finished);
    let Some(head) = result else {
        if is_text {
            let text = format!("the calculation is {}: there is no result", task.state);
            return Err(HttpError::new(StatusCode::CONFLICT, text));
        }
        return room.answer(&task);
    };
    let (digits, output) = (head.bytes, result::stream(Arc::clone(&room.store), task.id, head));
    let (media_type, before, after) = if is_text {
        ("text/plain; charset=utf-8", String::new(), "")
    } else {
        ("application/json", opened(&task)?, "\"}")
    };
    let length = before.len() as u64 + digits + after.len() as u64;
    let piece = |text: Bytes| stream::iter([Ok::<_, StoreError>(text)]);
    let whole =
        piece(before.into()).chain(output).chain(piece(Bytes::from_static(after.as_bytes())));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    Ok((headers, Body::from_stream(whole)).into_response())
}

/// The item up to the first digit of its output, which is its last member.
fn opened(task: &Task) -> Result<String, HttpError> {
    let item = serde_json::to_string(&Item::without_output(task)).map_err(|error| {
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the item cannot be written")
            .internal(error)
    })?;
    let members = item.strip_suffix('}').unwrap_or(&item);
    Ok(format!("{members},\"output\":\""))
}

/// Whether the client asks for text. Some name it beside JSON without preferring it.
fn prefers_text(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accepted: Vec<&str> = values
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .collect();
    let names = |name: &str| accepted.iter().any(|range| range.eq_ignore_ascii_case(name));
    names("text/plain") && !names("application/json")
}

/// Cancels; again is as good as once.
async fn cancel(
    Shared(room): Shared<Arc<Calculations>>,
    path: IdPath,
) -> Result<Response, HttpError> {
    let task = room.known(path).await?;
    let was = room.store.cancel(task.id, room.now_ms()).await?.ok_or_else(unknown)?;
    if was.is_terminal() && was != TaskState::Cancelled {
        let text = format!("the calculation is {was}: there is nothing to cancel");
        return Err(HttpError::new(StatusCode::CONFLICT, text));
    }
    room.answer(&room.task(task.id).await?)
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
                ("/factorial", &["get", "post"]),
                ("/factorial/{id}", &["get", "put", "delete"]),
                ("/websockets", &["get"]),
            ],
        );
    }

    #[test]
    fn text_is_sent_to_who_asks_for_it_and_not_to_who_lists_it_beside_json() {
        let prefers = |accept: &'static str| {
            prefers_text(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(prefers("text/plain"));
        assert!(prefers("Text/Plain;q=0.9, */*;q=0.1"));
        assert!(!prefers("application/json, text/plain, */*"));
        assert!(!prefers("*/*"));
        assert!(!prefers_text(&HeaderMap::new()));
    }
}
