//! `/scheduler/` and what lies beneath: R2's endpoints and shapes, and what they lack.
//!
//! Beyond R2: each schedule by itself with its state and outcome, cancelling, deleting, filters and
//! pages, schedules that recur, tasks of any kind, `Idempotency-Key`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header::LINK;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use serde_json::Value;

use super::plan::Plan;
use super::view::{Asked, Time, View, Whole};
use crate::clock::Clock;
use crate::store::schedules::{
    Schedule, ScheduleFilter, ScheduleId, SchedulePage, ScheduleState, Start,
};
use crate::store::{Millis, Store, StoreError, Submitted};
use crate::task::Name;
use crate::web::{
    Auth, BodyReader, HttpError, Principal, Query, Room, Scope, Shape, described, idempotency_key,
    json, refuse_coded,
};

/// Schedules, or occurrences, of a page at most, and if nothing is said.
const PAGE_MAX: usize = 1000;
/// How long a page is looked for.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Debug)]
pub struct Scheduler {
    /// Where the schedules are.
    pub store: Arc<dyn Store>,
    /// Reads bodies within their limits.
    pub bodies: BodyReader,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
    /// The kind of the task that captures.
    pub capture: Name,
}

/// The routes of the room, behind their scopes.
#[must_use]
pub fn room(scheduler: Scheduler, auth: &Auth) -> Room {
    let shared = Arc::new(scheduler);
    let write = Router::new();
    let write = routed(write, "/scheduler", &post(add));
    let write = routed(write, "/scheduler/{id}", &delete(remove));
    let write = routed(write, "/scheduler/{id}/cancel", &post(cancel));
    let read = Router::new();
    let read = routed(read, "/scheduler", &get(list));
    let read = routed(read, "/scheduler/{id}", &get(show));
    let read = routed(read, "/scheduler/{id}/occurrences", &get(occurrences));
    let write = auth.require(write.with_state(Arc::clone(&shared)), Scope::Write);
    let read = auth.require(read.with_state(shared), Scope::Read);
    Room { router: write.merge(read), openapi: openapi(), shape: Shape::Detail }
}

type Routes = Router<Arc<Scheduler>>;

/// With a slash at the end, as R2 has it, and without.
fn routed(router: Routes, path: &str, method: &MethodRouter<Arc<Scheduler>>) -> Routes {
    router.route(path, method.clone()).route(&format!("{path}/"), method.clone())
}

type IdPath = Result<Path<String>, PathRejection>;

impl Scheduler {
    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    async fn schedule(&self, id: ScheduleId) -> Result<Schedule, HttpError> {
        self.store.schedule(id).await?.ok_or_else(unknown)
    }
}

/// A page that is full, or the last; where few of many pass, what was found until it took long.
///
/// # Errors
/// Those of the store.
pub async fn page(
    store: &dyn Store,
    clock: &dyn Clock,
    filter: ScheduleFilter,
) -> Result<SchedulePage, StoreError> {
    let (began, wanted) = (clock.monotonic(), filter.schedules_max);
    let mut page = store.schedules(filter.clone()).await?;
    while page.next.is_some() && page.schedules.len() < wanted {
        if clock.monotonic().saturating_duration_since(began) > LOOK_MAX {
            break;
        }
        let schedules_max = wanted - page.schedules.len();
        let rest = ScheduleFilter { before: page.next, schedules_max, ..filter.clone() };
        let rest = store.schedules(rest).await?;
        page.schedules.extend(rest.schedules);
        page.next = rest.next;
    }
    Ok(page)
}

fn id(path: IdPath) -> Result<ScheduleId, HttpError> {
    path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(unknown)
}

fn unknown() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "Schedule not found")
}

async fn add(
    Shared(room): Shared<Arc<Scheduler>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let key = idempotency_key(&headers)?;
    let received = room.bodies.read(body).await?;
    let plan = Plan::read(&received.bytes)?;
    drop(received);
    let id = match &key {
        Some(key) => ScheduleId::derived(&["schedules", &principal.name, key]),
        None => ScheduleId::new(),
    };
    // The answer to a request that is sent again does not depend on its time still being ahead.
    if key.is_some()
        && let Some(known) = room.store.schedule(id).await?
    {
        return replayed(known, plan);
    }
    let now_ms = room.now_ms();
    let schedule = plan.schedule(id, &room.capture, now_ms)?;
    let (task_id, next_at_ms) = match &schedule.start {
        Start::Once(task) => (Some(task.id), None),
        Start::Recurring(next_at_ms) => (None, Some(*next_at_ms)),
    };
    match room.store.add_schedule(schedule, now_ms).await? {
        Submitted::New | Submitted::Follows(_) => {}
        Submitted::Known => return replayed(room.schedule(id).await?, plan),
        Submitted::Conflict => return Err(another()),
    }
    json(StatusCode::CREATED, &Asked::new(id, plan, task_id, next_at_ms))
}

/// The answer to a request with the key of an earlier one.
fn replayed(known: Schedule, plan: Plan) -> Result<Response, HttpError> {
    if known.plan != plan.bytes() {
        return Err(another());
    }
    let asked = Asked::new(known.id, plan, known.task, known.next_at_ms);
    let mut response = json(StatusCode::CREATED, &asked)?;
    let replayed = HeaderName::from_static("idempotency-replayed");
    response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    Ok(response)
}

fn another() -> HttpError {
    let text = "this Idempotency-Key was used with another schedule, or with one that was deleted: \
                use a new one";
    HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}

async fn list(
    Shared(room): Shared<Arc<Scheduler>>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let query = Query::read(query.as_deref(), &["limit", "ship_name", "state", "before"])?;
    let state = |word: &str| {
        ScheduleState::from_word(word).ok_or_else(|| {
            let words = ScheduleState::ALL.map(ScheduleState::word).join(", ");
            HttpError::new(StatusCode::BAD_REQUEST, format!("state must be one of {words}"))
        })
    };
    let filter = ScheduleFilter {
        label: query.get("ship_name").map(str::to_owned),
        states: query.get("state").map(state).transpose()?.into_iter().collect(),
        before: query.parsed("before")?,
        schedules_max: query.limit("limit", PAGE_MAX, PAGE_MAX)?,
    };
    let page = page(room.store.as_ref(), room.clock.as_ref(), filter).await?;
    let views: Vec<View> = page.schedules.into_iter().map(View::new).collect();
    let mut response = json(StatusCode::OK, &views)?;
    if let Some(link) = page.next.and_then(|next| query.next("/scheduler/", &next)) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

async fn show(Shared(room): Shared<Arc<Scheduler>>, path: IdPath) -> Result<Response, HttpError> {
    let whole = Whole::read(room.store.as_ref(), id(path)?).await?;
    json(StatusCode::OK, &whole.ok_or_else(unknown)?)
}

async fn occurrences(
    Shared(room): Shared<Arc<Scheduler>>,
    path: IdPath,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let id = id(path)?;
    let query = Query::read(query.as_deref(), &["limit", "before"])?;
    let wanted = query.limit("limit", PAGE_MAX, PAGE_MAX)?;
    let before_ms = query.parsed("before")?;
    room.schedule(id).await?;
    // One more than is wanted tells whether there is a next page.
    let mut found = room.store.occurrences(id, before_ms, wanted + 1).await?;
    let is_more = found.len() > wanted;
    found.truncate(wanted);
    let last = found.last().map(|occurrence| occurrence.times.due_at_ms).filter(|_| is_more);
    let times: Vec<Time> = found.into_iter().map(Time::new).collect();
    let mut response = json(StatusCode::OK, &times)?;
    let path = format!("/scheduler/{id}/occurrences");
    if let Some(link) = last.and_then(|last| query.next(&path, &last)) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// Cancels; again is as good as once.
async fn cancel(Shared(room): Shared<Arc<Scheduler>>, path: IdPath) -> Result<Response, HttpError> {
    let id = id(path)?;
    if !room.store.cancel_schedule(id, room.now_ms()).await? {
        return Err(unknown());
    }
    let schedule = room.schedule(id).await?;
    if schedule.state != ScheduleState::Cancelled {
        let text = format!("the schedule is {}: there is nothing to cancel", schedule.state);
        return Err(HttpError::new(StatusCode::CONFLICT, text));
    }
    json(StatusCode::OK, &View::new(schedule))
}

/// Cancels what waits or runs, and removes the schedule; answers with it as it stood last.
async fn remove(Shared(room): Shared<Arc<Scheduler>>, path: IdPath) -> Result<Response, HttpError> {
    let id = id(path)?;
    let now_ms = room.now_ms();
    room.store.cancel_schedule(id, now_ms).await?;
    let schedule = room.schedule(id).await?;
    if !room.store.delete_schedule(id, now_ms).await? {
        return Err(unknown());
    }
    json(StatusCode::OK, &View::new(schedule))
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
                ("/scheduler/", &["get", "post"]),
                ("/scheduler/{id}", &["get", "delete"]),
                ("/scheduler/{id}/cancel", &["post"]),
                ("/scheduler/{id}/occurrences", &["get"]),
            ],
        );
    }
}
