//! What never changes while the server runs: the document, the script, the style, the icon.
//!
//! Each is served with an `ETag` (RFC 9110, section 8.8.3) and `no-cache`: a browser asks each time
//! and is told that it has it already, so that a new version of the server is seen at once.

use std::fmt;

use askama::Template;
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use twox_hash::XxHash3_64;

/// What the document says of this server.
#[derive(Debug, Clone, Copy, Template)]
#[template(path = "shell.html", config = "src/page/askama.toml")]
pub struct Shell {
    /// The version of the program.
    pub version: &'static str,
    /// Whether a token is needed.
    pub is_locked: bool,
    /// The largest number whose factorial is computed.
    pub input_max: u64,
}

/// One style for all, and for each view what only it needs.
const STYLE: &str = concat!(
    include_str!("assets/page.css"),
    include_str!("assets/chart.css"),
    include_str!("assets/form.css"),
    include_str!("calculations/calculations.css"),
    include_str!("schedules/schedules.css"),
    include_str!("ships/ships.css"),
);

/// The parts of the script, each a module of its own, and the icon.
const ASSETS: &[(&str, &str, &str)] = &[
    ("/page/page.css", "text/css; charset=utf-8", STYLE),
    ("/page/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("/page/page.js", SCRIPT, include_str!("assets/page.js")),
    ("/page/live.js", SCRIPT, include_str!("assets/live.js")),
    ("/page/api.js", SCRIPT, include_str!("assets/api.js")),
    ("/page/time.js", SCRIPT, include_str!("assets/time.js")),
    ("/page/form.js", SCRIPT, include_str!("assets/form.js")),
    ("/page/calculations.js", SCRIPT, include_str!("calculations/calculations.js")),
    ("/page/schedules.js", SCRIPT, include_str!("schedules/schedules.js")),
    ("/page/ships.js", SCRIPT, include_str!("ships/ships.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// The routes of what never changes.
pub(super) fn routes(shell: &Shell) -> Router {
    let document = shell.render().unwrap_or_else(|error: askama::Error| error.to_string());
    let router = Router::new().route("/", Asset::new(HTML, Bytes::from(document)).served());
    ASSETS.iter().fold(router, |router, (path, media_type, text)| {
        let asset = Asset::new(media_type, Bytes::from_static(text.as_bytes()));
        router.route(path, asset.served())
    })
}

/// One of them.
#[derive(Clone)]
struct Asset {
    media_type: &'static str,
    bytes: Bytes,
    tag: HeaderValue,
}

impl fmt::Debug for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asset").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Asset {
    fn new(media_type: &'static str, bytes: Bytes) -> Self {
        let tag = format!("\"{:016x}\"", XxHash3_64::oneshot(&bytes));
        let tag = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""));
        Self { media_type, bytes, tag }
    }

    /// The method that serves it.
    fn served(self) -> MethodRouter {
        get(async move |headers: HeaderMap| self.answer(&headers))
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let common = [
            (ETAG, self.tag.clone()),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (CONTENT_TYPE, HeaderValue::from_static(self.media_type)),
        ];
        let asked = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let tags = asked.flat_map(|value| value.split(','));
        // A proxy that compresses makes a tag weak; the bytes that it names are these.
        let mut tags = tags.map(|tag| tag.trim().trim_start_matches("W/"));
        if tags.any(|tag| tag == "*" || self.tag == tag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, self.bytes.clone()).into_response()
    }
}
