//! What surrounds every handler: one layer, so that a request passes one box and not five.
//!
//! Outermost first: count and time; check host and origin, answer preflights; the handler; give
//! errors the room's shape; security and CORS headers.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::error::{self, Shape};
use super::headers;
use super::metrics::{HttpMetrics, RouteMetrics, UNMATCHED};
use super::origin::{OriginGuard, Verdict};
use crate::service::printable;

/// What all routes of an application share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) guard: OriginGuard,
    pub(super) metrics: Arc<HttpMetrics>,
    pub(super) debug_errors: bool,
}

/// The layer of one room.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) shared: Arc<Shared>,
    pub(super) shape: Shape,
}

impl<S> Layer<S> for Envelope {
    type Service = Enveloped<S>;

    fn layer(&self, inner: S) -> Enveloped<S> {
        Enveloped {
            inner,
            shared: Arc::clone(&self.shared),
            shape: self.shape,
            route: Arc::default(),
        }
    }
}

/// One route in its envelope.
#[derive(Debug, Clone)]
pub(super) struct Enveloped<S> {
    inner: S,
    shared: Arc<Shared>,
    shape: Shape,
    /// The router layers each route apart, so the first request settles the route for all.
    route: Arc<OnceLock<Arc<RouteMetrics>>>,
}

/// A request as the log names it: the route's pattern, not the path, which is user data.
struct Named<'a>(&'a Method, &'a RouteMetrics);

impl fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", printable(self.0.as_str()), self.1.pattern())
    }
}

impl<S> Service<Request> for Enveloped<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let route = Arc::clone(self.route.get_or_init(|| {
            let matched = request.extensions().get::<MatchedPath>();
            self.shared.metrics.route(matched.map_or(UNMATCHED, MatchedPath::as_str))
        }));
        let finish = Finish {
            started,
            route,
            method: request.method().clone(),
            shared: Arc::clone(&self.shared),
            shape: self.shape,
        };
        match self.shared.guard.admit(&request) {
            Verdict::Pass(allowed) => {
                let handled = self.inner.call(request);
                Box::pin(async move { Ok(finish.apply(handled.await?, allowed)) })
            }
            Verdict::Preflight(response) => done(finish.apply(response, None)),
            Verdict::Refuse(error) => done(finish.apply(error.into_response(), None)),
        }
    }
}

fn done(response: Response) -> Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>> {
    Box::pin(std::future::ready(Ok(response)))
}

/// What is left to do once there is an answer.
struct Finish {
    started: Instant,
    route: Arc<RouteMetrics>,
    method: Method,
    shared: Arc<Shared>,
    shape: Shape,
}

impl Finish {
    fn apply(self, mut response: Response, allowed: Option<HeaderValue>) -> Response {
        let request = Named(&self.method, &self.route);
        error::finish(&mut response, self.shape, self.shared.debug_errors, &request);
        headers::apply(response.headers_mut());
        self.shared.guard.expose(allowed, response.headers_mut());
        self.route.observe((&self.method).into(), response.status(), self.started.elapsed());
        response
    }
}
