//! `/docs`: the API as people read it. The document is empty: its script writes it from
//! `/openapi.json`.

use askama::Template;

/// The document.
#[derive(Debug, Clone, Copy, Template)]
#[template(path = "docs/docs.html", config = "src/page/askama.toml")]
pub struct Docs {
    /// Whether a token is needed.
    pub is_locked: bool,
}
