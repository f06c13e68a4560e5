//! `/metrics` (OpenMetrics), and what HTTP itself counts.
//!
//! A series exists once something happened on it. Paths that nobody serves share one label value,
//! so that a scanner cannot grow the tables. Handles are resolved once per route, method and status
//! class: counting a request allocates and looks up nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};

use super::error::HttpError;
use crate::service::held;

/// The media type of the text form, OpenMetrics 1.0.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The label value of paths that nobody serves.
pub(super) const UNMATCHED: &str = "unmatched";

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Seconds; a publish is a synced commit (about a millisecond), a refusal far less.
const DURATION_BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

type Durations = Family<RouteLabels, Histogram, fn() -> Histogram>;

/// The counters of HTTP. One per process, shared by all its listeners.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Durations,
    connections: Gauge,
    refused: Family<ReasonLabels, Counter>,
    body_bytes: Gauge,
    routes: Mutex<HashMap<String, Arc<RouteMetrics>>>,
}

impl HttpMetrics {
    /// Creates the families and registers them, under the registry's prefix.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let histogram: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            connections: Gauge::default(),
            refused: Family::default(),
            body_bytes: Gauge::default(),
            routes: Mutex::default(),
        };
        registry.register("http_requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "From the request's head to the answer's",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("http_connections", "Connections open", metrics.connections.clone());
        registry.register(
            "http_connections_refused",
            "Connections refused, by reason",
            metrics.refused.clone(),
        );
        registry.register_with_unit(
            "http_bodies_in_flight",
            "Request bodies in memory",
            Unit::Bytes,
            metrics.body_bytes.clone(),
        );
        Arc::new(metrics)
    }

    /// The handles of a route, by its pattern (not by the path of a request).
    pub(super) fn route(&self, pattern: &str) -> Arc<RouteMetrics> {
        let mut routes = held(&self.routes);
        if let Some(route) = routes.get(pattern) {
            return Arc::clone(route);
        }
        let labels = RouteLabels { route: pattern.to_owned() };
        let route = Arc::new(RouteMetrics {
            pattern: pattern.to_owned(),
            family: self.requests.clone(),
            requests: Default::default(),
            duration: self.durations.get_or_create_owned(&labels),
        });
        routes.insert(pattern.to_owned(), Arc::clone(&route));
        route
    }

    /// The gauge of connections open.
    pub(super) fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// The gauge of request bodies in memory, in bytes.
    pub(super) fn body_bytes(&self) -> &Gauge {
        &self.body_bytes
    }

    /// Counts a connection refused.
    pub(super) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }
}

/// The handles of one route.
#[derive(Debug)]
pub(super) struct RouteMetrics {
    pattern: String,
    family: Family<RequestLabels, Counter>,
    requests: [[OnceLock<Counter>; CLASSES.len()]; METHODS.len()],
    duration: Histogram,
}

impl RouteMetrics {
    /// The pattern, as `/receipt/{id}`.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Counts an answer.
    pub(super) fn observe(&self, method: MethodIndex, status: StatusCode, elapsed: Duration) {
        let class = match status.as_u16() {
            hundreds @ 100..=599 => usize::from(hundreds / 100 - 1),
            _ => CLASSES.len() - 1,
        };
        self.duration.observe(elapsed.as_secs_f64());
        if let Some(cell) = self.requests.get(method.0).and_then(|row| row.get(class)) {
            cell.get_or_init(|| self.counter(method, class)).inc();
        }
    }

    fn counter(&self, method: MethodIndex, class: usize) -> Counter {
        let labels = RequestLabels {
            method: METHODS.get(method.0).copied().unwrap_or("other"),
            route: self.pattern.clone(),
            status: CLASSES.get(class).copied().unwrap_or("other"),
        };
        self.family.get_or_create_owned(&labels)
    }
}

/// A method as a place in a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct MethodIndex(usize);

impl From<&Method> for MethodIndex {
    fn from(method: &Method) -> Self {
        let position = METHODS.iter().position(|name| *name == method.as_str());
        Self(position.unwrap_or(METHODS.len() - 1))
    }
}

/// Serves `registry` at `/metrics`.
///
/// Collectors may read the disk, so they run on a blocking thread, one request at a time.
pub(super) fn router(registry: Arc<Registry>) -> Router {
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    Router::new().route(
        "/metrics",
        get(move || {
            let (registry, turn) = (Arc::clone(&registry), Arc::clone(&turn));
            async move { encode(registry, turn).await }
        }),
    )
}

async fn encode(
    registry: Arc<Registry>,
    turn: Arc<tokio::sync::Mutex<()>>,
) -> Result<Response, HttpError> {
    let held = turn.lock_owned().await;
    let encoded = tokio::task::spawn_blocking(move || {
        // Held by the thread: a client that leaves does not let a second one in beside it.
        let _held = held;
        let mut body = String::new();
        text::encode(&mut body, &registry).map(|()| body)
    });
    let failed = |detail: String| {
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be read")
            .internal(detail)
    };
    match encoded.await {
        Ok(Ok(body)) => Ok(([(CONTENT_TYPE, MEDIA_TYPE)], body).into_response()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The description of `/metrics`.
pub(super) fn fragment() -> Value {
    json!({ "paths": { "/metrics": { "get": {
        "summary": "Metrics for Prometheus",
        "security": [{ "bearer": [] }],
        "responses": { "200": { "description": "OpenMetrics text",
            "content": { "application/openmetrics-text": {} } } },
    } } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(registry: &Registry) -> String {
        let mut body = String::new();
        text::encode(&mut body, registry).unwrap();
        body
    }

    #[test]
    fn requests_are_counted_by_route_method_and_class() {
        let mut registry = Registry::default();
        let metrics = HttpMetrics::register(&mut registry);
        let route = metrics.route("/message");
        let second = metrics.route("/message");
        route.observe((&Method::POST).into(), StatusCode::CREATED, Duration::from_millis(2));
        second.observe((&Method::POST).into(), StatusCode::OK, Duration::from_millis(2));
        route.observe((&Method::TRACE).into(), StatusCode::NOT_FOUND, Duration::ZERO);
        let odd = StatusCode::from_u16(799).unwrap();
        metrics.route(UNMATCHED).observe((&Method::GET).into(), odd, Duration::ZERO);
        metrics.refuse("limit");
        let body = encoded(&registry);
        for line in [
            r#"http_requests_total{method="POST",route="/message",status="2xx"} 2"#,
            r#"http_requests_total{method="other",route="/message",status="4xx"} 1"#,
            r#"http_requests_total{method="GET",route="unmatched",status="other"} 1"#,
            r#"http_request_duration_seconds_count{route="/message"} 3"#,
            r#"http_connections_refused_total{reason="limit"} 1"#,
            "http_connections 0",
            "http_bodies_in_flight_bytes 0",
        ] {
            assert!(body.contains(line), "{line} is not in\n{body}");
        }
    }
}
