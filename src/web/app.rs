//! An application: rooms, probes, metrics and description behind one envelope.

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::auth::Auth;
use super::envelope::{Envelope, Shared};
use super::error::{Shape, method_not_allowed, not_found};
use super::metrics::HttpMetrics;
use super::openapi::Document;
use super::origin::{CorsOrigins, OriginGuard};
use super::probes::Readiness;
use super::tokens::Scope;
use super::{metrics, openapi, probes};
use crate::service::Lifecycle;

/// What a room hands in.
#[derive(Debug)]
pub struct Room {
    /// The routes, with [`Auth::require`] applied by the room, and without a fallback of their own.
    pub router: Router,
    /// The description: `{"paths": …, "components": …}`.
    pub openapi: Value,
    /// How errors look on the room's paths, unless a handler fixes another shape.
    pub shape: Shape,
}

/// What an application needs beside its rooms.
pub struct AppParts {
    /// The title of the description.
    pub title: &'static str,
    /// The version of the description.
    pub version: &'static str,
    /// Tokens, or none.
    pub auth: Auth,
    /// Whether `Host` must be a loopback name as long as there are no tokens. False only for an
    /// address that was opened with `--insecure-listen`.
    pub check_host: bool,
    /// Sites elsewhere that may call.
    pub cors: CorsOrigins,
    /// Whether clients see internal details of errors.
    pub debug_errors: bool,
    /// Where the HTTP counters go.
    pub http_metrics: Arc<HttpMetrics>,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// What `/readyz` asks.
    pub readiness: Arc<dyn Readiness>,
    /// Ends readiness when it stops.
    pub life: Lifecycle,
}

/// Puts the application together.
///
/// # Panics
/// Where two rooms have the same route or a room has a fallback: axum refuses to merge them.
pub fn app(rooms: Vec<Room>, parts: AppParts) -> Router {
    let is_open = parts.auth.is_open();
    let guard = OriginGuard {
        check_host: is_open && parts.check_host,
        check_origin: is_open,
        cors: parts.cors,
    };
    let shared =
        Arc::new(Shared { guard, metrics: parts.http_metrics, debug_errors: parts.debug_errors });
    let enveloped = |router: Router, shape: Shape| {
        let envelope = Envelope { shared: Arc::clone(&shared), shape };
        router.method_not_allowed_fallback(method_not_allowed).layer(envelope)
    };
    let mut document = Document::new(parts.title, parts.version)
        .with(openapi::fragment())
        .with(probes::fragment())
        .with(metrics::fragment());
    let mut merged = Router::new();
    for room in rooms {
        document = document.with(room.openapi);
        merged = merged.merge(enveloped(room.router, room.shape));
    }
    let own = probes::router(parts.readiness, parts.life)
        .merge(parts.auth.require(metrics::router(parts.registry), Scope::Read))
        .merge(document.into_router())
        .fallback(not_found);
    // `with_state` turns handlers into services once, not once per request.
    merged.merge(enveloped(own, Shape::Problem)).with_state(())
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::response::Response;
    use axum::routing::{get, post};
    use http_body_util::BodyExt;
    use prometheus_client::encoding::text;
    use tower::Service;

    use super::super::auth::Principal;
    use super::super::error::HttpError;
    use super::super::tokens::Tokens;
    use super::*;
    use crate::clock::SystemClock;

    struct Ready;

    impl Readiness for Ready {
        fn problems(&self) -> Vec<String> {
            Vec::new()
        }
    }

    struct Built {
        router: Router,
        registry: Arc<Registry>,
    }

    fn built(auth: Auth, origins: &[&str], debug_errors: bool) -> Built {
        let mut registry = Registry::default();
        let http_metrics = HttpMetrics::register(&mut registry);
        let registry = Arc::new(registry);
        let routes = Router::new()
            .route(
                "/message",
                post(|who: Extension<Principal>| async move { who.name.to_string() }),
            )
            .route("/item/{id}", get(|| async { "item" }))
            .route(
                "/broken",
                get(|| async {
                    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "sorry").internal("disk 3")
                }),
            );
        let room = Room {
            router: auth.require(routes, Scope::Write),
            openapi: serde_json::json!({"paths": {"/message": {"post": {}}}}),
            shape: Shape::Error,
        };
        let parts = AppParts {
            title: "test",
            version: "0",
            auth,
            check_host: true,
            cors: CorsOrigins::parse(origins).unwrap(),
            debug_errors,
            http_metrics,
            registry: Arc::clone(&registry),
            readiness: Arc::new(Ready),
            life: Lifecycle::new(),
        };
        Built { router: app(vec![room], parts), registry }
    }

    fn locked() -> Auth {
        let tokens = Tokens::parse("w:write:wr1te\nr:read:r34d").unwrap();
        Auth::with_tokens(tokens, 0, Arc::new(SystemClock))
    }

    async fn ask(built: &Built, line: &str, headers: &[(&str, &str)]) -> Response {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        built.router.clone().call(request).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn every_answer_carries_the_security_headers() {
        let built = built(Auth::open(), &[], false);
        for line in ["GET /health", "GET /nothing", "DELETE /message", "GET /broken"] {
            let response = ask(&built, line, &[]).await;
            assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{line}");
            assert_eq!(response.headers()["cache-control"], "no-store", "{line}");
            assert!(response.headers().contains_key("content-security-policy"), "{line}");
        }
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_told_so_even_without_a_token() {
        let built = built(locked(), &[], false);
        let response = ask(&built, "GET /nothing", &[]).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let response = ask(&built, "DELETE /item/7", &[]).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "GET,HEAD");
    }

    #[tokio::test]
    async fn errors_of_web_itself_take_the_rooms_shape() {
        let built = built(locked(), &[], false);
        let response = ask(&built, "POST /message", &[]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(text(response).await.starts_with(r#"{"error":"#));
        let response = ask(&built, "GET /metrics", &[]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[tokio::test]
    async fn details_are_shown_only_when_asked_for() {
        let quiet = built(Auth::open(), &[], false);
        assert_eq!(text(ask(&quiet, "GET /broken", &[]).await).await, r#"{"error":"sorry"}"#);
        let loud = built(Auth::open(), &[], true);
        assert!(text(ask(&loud, "GET /broken", &[]).await).await.contains("disk 3"));
    }

    #[tokio::test]
    async fn tokens_replace_the_host_check_and_probes_need_none() {
        let open = built(Auth::open(), &[], false);
        let mut request = Request::get("/health").header("host", "evil.example");
        let asked = request.body(Body::empty()).unwrap();
        let response = open.router.clone().call(asked).await.unwrap();
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
        let locked = built(locked(), &[], false);
        request = Request::get("/health").header("host", "prod.example");
        let asked = request.body(Body::empty()).unwrap();
        assert_eq!(locked.router.clone().call(asked).await.unwrap().status(), 200);
        assert_eq!(ask(&locked, "GET /readyz", &[]).await.status(), 200);
        let read = [("authorization", "Bearer r34d")];
        assert_eq!(ask(&locked, "GET /metrics", &read).await.status(), 200);
        assert_eq!(ask(&locked, "POST /message", &read).await.status(), 403);
    }

    #[tokio::test]
    async fn a_preflight_needs_no_token_and_a_refusal_can_be_read_by_the_site() {
        let built = built(locked(), &["https://site.example"], false);
        let site = ("origin", "https://site.example");
        let asks = ("access-control-request-method", "POST");
        let response = ask(&built, "OPTIONS /message", &[site, asks]).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()["access-control-allow-origin"], "https://site.example");
        let response = ask(&built, "POST /message", &[site]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["access-control-allow-origin"], "https://site.example");
        assert_eq!(response.headers()["vary"], "Origin");
        let other = ("origin", "https://other.example");
        let response = ask(&built, "OPTIONS /message", &[other, asks]).await;
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }

    #[tokio::test]
    async fn routes_not_paths_are_counted() {
        let built = built(Auth::open(), &[], false);
        for line in ["GET /item/1", "GET /item/2", "GET /x1", "GET /x2", "POST /message"] {
            ask(&built, line, &[]).await;
        }
        let mut body = String::new();
        text::encode(&mut body, &built.registry).unwrap();
        assert!(body.contains(r#"{method="GET",route="/item/{id}",status="2xx"} 2"#), "{body}");
        assert!(body.contains(r#"{method="GET",route="unmatched",status="4xx"} 2"#), "{body}");
        assert!(body.contains(r#"{method="POST",route="/message",status="2xx"} 1"#), "{body}");
    }

    #[tokio::test]
    async fn the_description_holds_the_rooms_and_our_own_paths() {
        let built = built(Auth::open(), &[], false);
        let response = ask(&built, "GET /openapi.json", &[]).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let document: Value = serde_json::from_str(&text(response).await).unwrap();
        for path in ["/message", "/health", "/readyz", "/metrics", "/openapi.json"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
    }
}
