//! `GET /ships` and `GET /ships/{name}`: what the consumers of this state directory have stored.

use std::fmt::Display;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header::LINK;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use chrono::{DateTime, SecondsFormat};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::bucket::Bucket;
use super::chart::Chart;
use super::table::{self, ShipRow};
use crate::clock::Clock;
use crate::rooms::telemetry::datagram;
use crate::rooms::telemetry::ship::ShipName;
use crate::state::{State, StateError};
use crate::web::{Auth, HttpError, Query, Room, Scope, Shape, described, json};

/// Ships of a page, if nothing is said, and at most.
const SHIPS_DEFAULT: usize = 100;
const SHIPS_MAX: usize = 1000;
/// Points of a chart, if nothing is said, and at most.
const POINTS_DEFAULT: usize = 300;
const POINTS_MAX: usize = 2000;
/// The span of a chart, if nothing is said, in seconds.
const SPAN_DEFAULT: i64 = 60 * 60;
const SECOND_US: i64 = 1_000_000;

/// What the handlers share.
#[derive(Debug)]
pub struct Ships {
    /// The state environment.
    pub state: State,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
}

/// The routes of the room, behind their scope.
#[must_use]
pub fn room(ships: Ships, auth: &Auth) -> Room {
    let read = Router::new()
        .route("/ships", get(list))
        .route("/ships/{name}", get(show))
        .with_state(Arc::new(ships));
    Room { router: auth.require(read, Scope::Read), openapi: openapi(), shape: Shape::Problem }
}

/// A ship in a list.
#[derive(Debug, Serialize)]
struct Listed {
    name: ShipName,
    count: u64,
    last_at: Option<String>,
    value: Option<f64>,
}

/// A ship by itself, with a chart.
#[derive(Debug, Serialize)]
struct Shown {
    name: ShipName,
    count: u64,
    bytes: u64,
    first_at: Option<String>,
    last_at: Option<String>,
    latest: Option<Box<RawValue>>,
    from: Option<String>,
    to: Option<String>,
    bucket_seconds: i64,
    points: Vec<Point>,
}

/// A part of a chart; a gap has a count of 0, and nothing else.
#[derive(Debug, Serialize)]
struct Point {
    at: Option<String>,
    count: u64,
    min: Option<f64>,
    avg: Option<f64>,
    max: Option<f64>,
}

async fn list(
    Shared(ships): Shared<Arc<Ships>>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let query = Query::read(query.as_deref(), &["limit", "after"])?;
    let limit = query.limit("limit", SHIPS_DEFAULT, SHIPS_MAX)?;
    let after: Option<ShipName> = query.parsed("after")?;
    let listed = blocking(move || {
        let (txn, tables) = (ships.state.read()?, ships.state.tables());
        let rows = table::ships(&txn, tables, after.as_ref(), limit)?;
        Ok(rows.into_iter().map(listed).collect::<Vec<_>>())
    })
    .await?;
    let mut response = json(StatusCode::OK, &listed)?;
    if let Some(last) = listed.last().filter(|_| listed.len() == limit) {
        let after = utf8_percent_encode(last.name.as_str(), NON_ALPHANUMERIC);
        let link = format!("</ships?limit={limit}&after={after}>; rel=\"next\"");
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(LINK, link);
        }
    }
    Ok(response)
}

fn listed((name, row): (ShipName, ShipRow)) -> Listed {
    let latest = row.latest.as_ref().and_then(|line| datagram::read_line(line.get().as_bytes()));
    let value = latest.map(|(_, reading)| reading.value);
    Listed { name, count: row.count, last_at: date(row.last_us), value }
}

async fn show(
    Shared(ships): Shared<Arc<Ships>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let unknown = || HttpError::new(StatusCode::NOT_FOUND, "nothing is stored of a ship so named");
    let name = path.ok().and_then(|Path(name)| name.parse::<ShipName>().ok());
    let name = name.ok_or_else(unknown)?;
    let query = Query::read(query.as_deref(), &["from", "to", "points"])?;
    let asked = Asked {
        from_us: moment(&query, "from")?,
        to_us: moment(&query, "to")?,
        points: query.limit("points", POINTS_DEFAULT, POINTS_MAX)?,
    };
    let now_us = ships.clock.wall().timestamp_micros();
    let shown = blocking(move || shown(&ships.state, name, asked, now_us)).await?;
    json(StatusCode::OK, &shown.ok_or_else(unknown)??)
}

/// What a chart is asked for.
struct Asked {
    from_us: Option<i64>,
    to_us: Option<i64>,
    points: usize,
}

impl Asked {
    /// The seconds, since 1970, from the first to before the last; if nothing is said, the hour up
    /// to the last reading.
    fn span(&self, last_us: i64) -> Result<(i64, i64), HttpError> {
        let up = |us: i64| us.div_euclid(SECOND_US) + i64::from(us.rem_euclid(SECOND_US) > 0);
        let from = self.from_us.map(|us| us.div_euclid(SECOND_US));
        let default_to = (last_us.div_euclid(SECOND_US) + 1).max(from.map_or(i64::MIN, |s| s + 1));
        let to = self.to_us.map_or(default_to, up);
        let from = from.unwrap_or(to - SPAN_DEFAULT);
        let is_sound = from < to;
        let wrong = || HttpError::new(StatusCode::BAD_REQUEST, "from must be before to");
        is_sound.then_some((from, to)).ok_or_else(wrong)
    }
}

/// A ship, if anything is stored of it; an inner error is the client's.
fn shown(
    state: &State,
    name: ShipName,
    asked: Asked,
    now_us: i64,
) -> Result<Option<Result<Shown, HttpError>>, StateError> {
    let (txn, tables) = (state.read()?, state.tables());
    let Some(row) = table::ship(&txn, tables, &name)? else { return Ok(None) };
    let (from, to) = match asked.span(row.last_us.unwrap_or(now_us)) {
        Ok(span) => span,
        Err(wrong) => return Ok(Some(Err(wrong))),
    };
    let chart = Chart::read(&txn, tables, &name, (from, to), asked.points)?;
    let plan = chart.plan;
    Ok(Some(Ok(Shown {
        name,
        count: row.count,
        bytes: row.bytes,
        first_at: date(row.first_us),
        last_at: date(row.last_us),
        latest: row.latest,
        from: date_s(plan.begin(0)),
        to: date_s(plan.begin(plan.parts)),
        bucket_seconds: plan.step,
        points: points(&chart),
    })))
}

fn points(chart: &Chart) -> Vec<Point> {
    let point = |(part, bucket): (usize, &Option<Bucket>)| Point {
        at: date_s(chart.plan.begin(part)),
        count: bucket.map_or(0, |bucket| bucket.count),
        min: bucket.map(|bucket| bucket.least),
        avg: bucket.map(|bucket| bucket.average()),
        max: bucket.map(|bucket| bucket.most),
    };
    chart.parts.iter().enumerate().map(point).collect()
}

/// A moment of the query, in microseconds since 1970.
fn moment(query: &Query, name: &str) -> Result<Option<i64>, HttpError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let wrong = |_| {
        let text = format!("{name} must be RFC 3339, such as 2026-11-22T07:30:00Z");
        HttpError::new(StatusCode::BAD_REQUEST, text)
    };
    let at = DateTime::parse_from_rfc3339(text).map_err(wrong)?;
    Ok(Some(at.timestamp_micros()))
}

fn date(us: Option<i64>) -> Option<String> {
    let at = DateTime::from_timestamp_micros(us?)?;
    Some(at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn date_s(second: i64) -> Option<String> {
    Some(DateTime::from_timestamp(second, 0)?.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A look into the memory map may wait for the disk.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, HttpError> {
    let failed = |error: &dyn Display| {
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "ships cannot be looked up now")
            .internal(error)
    };
    let looked = tokio::task::spawn_blocking(look).await.map_err(|error| failed(&error))?;
    looked.map_err(|error| failed(&error))
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
        assert!(description["paths"]["/ships"]["get"].is_object());
        assert!(description["paths"]["/ships/{name}"]["get"].is_object());
    }

    #[test]
    fn a_span_is_the_last_hour_or_what_was_asked_for() {
        let asked = |from_us, to_us| Asked { from_us, to_us, points: 9 };
        let span = |asked: Asked| asked.span(7_200_000_001).ok();
        assert_eq!(span(asked(None, None)), Some((3_601, 7_201)));
        assert_eq!(span(asked(Some(1_999_999), Some(3_000_001))), Some((1, 4)));
        assert_eq!(span(asked(Some(9_000_000_000), None)), Some((9_000, 9_001)));
        assert_eq!(span(asked(Some(5_000_000), Some(5_000_000))), None);
    }
}
