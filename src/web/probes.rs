//! What orchestrators and people ask first: is it up, does it answer, should it get work.
//!
//! Probes need no token. Liveness says only that the process answers: it must not fail for what a
//! restart does not cure.

use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::service::Lifecycle;

/// What stands in the way of work, in words for a person.
pub trait Readiness: Send + Sync {
    /// The problems now; none means ready. May block: it runs on a thread of its own.
    fn problems(&self) -> Vec<String>;
}

fn json_answer(status: StatusCode, body: String) -> Response {
    let media_type = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, media_type)], body).into_response()
}

fn fixed(body: &'static str) -> Response {
    json_answer(StatusCode::OK, body.to_owned())
}

/// `/health`, `/healthcheck/`, `/livez` and `/readyz`.
pub(super) fn router(readiness: Arc<dyn Readiness>, life: Lifecycle) -> Router {
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    let ready = move || {
        let (readiness, life, turn) = (Arc::clone(&readiness), life.clone(), Arc::clone(&turn));
        async move { readyz(readiness, &life, turn).await }
    };
    let is_up = || async { fixed(r#"{"message":"Service is up and running."}"#) };
    Router::new()
        .route("/health", get(|| async { fixed(r#"{"status":"ok"}"#) }))
        .route("/healthcheck", get(is_up))
        .route("/healthcheck/", get(is_up))
        .route("/livez", get(|| async { fixed(r#"{"live":true}"#) }))
        .route("/readyz", get(ready))
}

/// One at a time: probes that pile up on a slow disk must not take every blocking thread.
async fn readyz(
    readiness: Arc<dyn Readiness>,
    life: &Lifecycle,
    turn: Arc<tokio::sync::Mutex<()>>,
) -> Response {
    let mut reasons = Vec::new();
    if life.is_stopping() {
        reasons.push("stopping".to_owned());
    } else {
        let held = turn.lock_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            let _held = held;
            readiness.problems()
        });
        match asked.await {
            Ok(problems) => reasons = problems,
            Err(error) => {
                tracing::error!(%error, "the readiness check failed");
                reasons.push("the readiness check failed".to_owned());
            }
        }
    }
    if reasons.is_empty() {
        return fixed(r#"{"ready":true}"#);
    }
    let body = json!({ "ready": false, "reasons": reasons });
    json_answer(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
}

/// The description of the probes.
pub(super) fn fragment() -> Value {
    let probe = |summary: &str| {
        json!({ "get": { "summary": summary, "security": [],
            "responses": { "200": { "description": "Yes" } } } })
    };
    json!({ "paths": {
        "/health": probe("The process answers"),
        "/healthcheck/": probe("The process answers"),
        "/livez": probe("The process answers"),
        "/readyz": { "get": { "summary": "The process should get work", "security": [],
            "responses": {
                "200": { "description": "Ready" },
                "503": { "description": "Not ready; `reasons` says why" },
            } } },
    } })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::Service;

    use super::*;

    #[derive(Default)]
    struct Planted(Mutex<Vec<String>>);

    impl Readiness for Planted {
        fn problems(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    async fn get_text(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().call(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn liveness_does_not_depend_on_readiness() {
        let planted = Arc::new(Planted::default());
        let life = Lifecycle::new();
        let router = router(Arc::clone(&planted) as Arc<dyn Readiness>, life.clone());
        assert_eq!(get_text(&router, "/readyz").await, (200, r#"{"ready":true}"#.to_owned()));
        planted.0.lock().unwrap().push("the disk is nearly full".to_owned());
        assert_eq!(
            get_text(&router, "/readyz").await,
            (503, r#"{"ready":false,"reasons":["the disk is nearly full"]}"#.to_owned())
        );
        life.stop();
        let (status, body) = get_text(&router, "/readyz").await;
        assert_eq!((status, body.contains("stopping")), (503, true));
        assert_eq!(get_text(&router, "/livez").await.0, 200);
        assert_eq!(get_text(&router, "/health").await, (200, r#"{"status":"ok"}"#.to_owned()));
        for path in ["/healthcheck", "/healthcheck/"] {
            assert_eq!(
                get_text(&router, path).await,
                (200, r#"{"message":"Service is up and running."}"#.to_owned())
            );
        }
    }
}
