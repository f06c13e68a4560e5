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

use super::docs::Docs;

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
    include_str!("pipeline/pipeline.css"),
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
    ("/page/pipeline.js", SCRIPT, include_str!("pipeline/pipeline.js")),
    ("/page/schedules.js", SCRIPT, include_str!("schedules/schedules.js")),
    ("/page/ships.js", SCRIPT, include_str!("ships/ships.js")),
    ("/page/docs.css", "text/css; charset=utf-8", include_str!("docs/docs.css")),
    ("/page/docs.js", SCRIPT, include_str!("docs/docs.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// The routes of what never changes.
pub(super) fn routes(shell: &Shell) -> Router {
    let router = Router::new()
        .route("/", document(shell).served())
        .route("/docs", document(&Docs { is_locked: shell.is_locked }).served());
    ASSETS.iter().fold(router, |router, (path, media_type, text)| {
        let asset = Asset::new(media_type, Bytes::from_static(text.as_bytes()));
        router.route(path, asset.served())
    })
}

fn document(template: &impl Template) -> Asset {
    let text = template.render().unwrap_or_else(|error: askama::Error| error.to_string());
    Asset::new(HTML, Bytes::from(text))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Shell {
        Shell { version: "1.2.3", is_locked: false, input_max: 7 }
    }

    #[test]
    fn whoever_has_it_already_is_told_so_and_nobody_else() {
        let asset = Asset::new(HTML, Bytes::from_static(b"x"));
        let ask = |tag: Option<&str>| {
            let value = tag.map(|tag| (IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap()));
            asset.answer(&HeaderMap::from_iter(value))
        };
        let tag = ask(None).headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(ask(None).status(), 200);
        for known in [tag.clone(), format!("W/{tag}"), format!("\"a\", {tag}"), "*".to_owned()] {
            assert_eq!(ask(Some(&known)).status(), 304, "{known}");
        }
        assert_eq!(ask(Some("\"a\"")).status(), 200);
        let other = Asset::new(HTML, Bytes::from_static(b"y"));
        assert_ne!(other.tag, asset.tag);
    }

    #[test]
    fn the_policy_of_every_answer_lets_all_of_the_document_in() {
        let all = shell().render().unwrap();
        for refused in [" style=", "<style", "onclick=", "javascript:", "http://", "https://"] {
            assert!(!all.contains(refused), "{refused}");
        }
        for script in all.split("<script").skip(1) {
            assert!(script.starts_with(" type=\"module\" src=\"/page/"), "{script:.40}");
        }
    }

    #[test]
    fn every_module_that_a_script_imports_is_served() {
        let scripts = ASSETS.iter().filter(|(_, media_type, _)| *media_type == SCRIPT);
        for (path, _, text) in scripts {
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let name = line.split("\"./").nth(1).and_then(|rest| rest.split('"').next());
                let wanted = format!("/page/{}", name.unwrap());
                assert!(ASSETS.iter().any(|(served, ..)| *served == wanted), "{path}: {wanted}");
            }
        }
    }

    #[test]
    fn all_of_it_weighs_no_more_than_a_picture() {
        let bytes = ASSETS.iter().map(|(.., text)| text.len()).sum::<usize>();
        let bytes = bytes + shell().render().unwrap().len();
        assert!(bytes <= 150_000, "{bytes} bytes");
    }
}
