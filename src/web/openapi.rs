//! `/openapi.json`: the OpenAPI 3.1 description, put together from one fragment per room.

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Map, Value, json};

/// A room's description from its file; nothing, if that is no JSON, which the room's test sees.
#[must_use]
pub fn described(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What each room's description must say: it is JSON, and names these methods of these paths.
#[cfg(test)]
pub fn assert_describes(description: &Value, routes: &[(&str, &[&str])]) {
    for (path, methods) in routes {
        for method in *methods {
            assert!(description["paths"][path][method].is_object(), "{method} {path}");
        }
    }
}

/// A document that grows by fragments.
#[derive(Debug, Clone)]
pub(super) struct Document {
    root: Value,
}

impl Document {
    /// A document with no paths yet.
    pub(super) fn new(title: &str, version: &str) -> Self {
        let root = json!({
            "openapi": "3.1.0",
            "info": { "title": title, "version": version },
            "paths": {},
        });
        Self { root }
    }

    /// Merges `{"paths": …, "components": …}` in; where two fragments say a thing, the later wins.
    pub(super) fn with(mut self, fragment: Value) -> Self {
        merge(&mut self.root, fragment);
        self
    }

    /// Serves the document, serialised once.
    pub(super) fn into_router(self) -> Router {
        let body = Bytes::from(self.root.to_string());
        let media_type = HeaderValue::from_static("application/json");
        let answer = move || async move { ([(CONTENT_TYPE, media_type)], body).into_response() };
        Router::new().route("/openapi.json", get(answer))
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// What `web` itself serves beside the probes and the metrics.
pub(super) fn fragment() -> Value {
    json!({
        "paths": {
            "/openapi.json": { "get": {
                "summary": "This description",
                "responses": { "200": { "description": "OpenAPI 3.1",
                    "content": { "application/json": { "schema": { "type": "object" } } } } },
            } },
        },
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Problem": {
                "description": "RFC 9457",
                "type": "object",
                "properties": {
                    "type": { "type": "string" },
                    "title": { "type": "string" },
                    "status": { "type": "integer" },
                    "detail": { "type": "string" },
                },
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_that_share_a_path_or_a_component_table_keep_both_parts() {
        let document = Document::new("t", "1")
            .with(json!({"paths": {"/a": {"get": {"summary": "g"}}}}))
            .with(json!({"paths": {"/a": {"post": {}}}, "components": {"schemas": {"A": true}}}))
            .with(json!({"components": {"schemas": {"B": {"type": "string"}}}}));
        let root = document.root;
        assert_eq!(root["openapi"], "3.1.0");
        assert_eq!(root["paths"]["/a"], json!({"get": {"summary": "g"}, "post": {}}));
        assert_eq!(root["components"]["schemas"], json!({"A": true, "B": {"type": "string"}}));
    }
}
