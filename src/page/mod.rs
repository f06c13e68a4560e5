//! The page: everything that a person sees and steers in a browser, compiled in.
//!
//! ```text
//!  GET /          shell: one document with a section for each view; nothing in it is live
//!  /page/*        the script, the style, the icon
//!  /page/session  who asks, and whether they may change anything
//!  /page/live     WebSocket: the browser says what it looks at, the server what changes of it
//!  /docs          the API, from /openapi.json
//! ```
//!
//! A [`view::View`] draws fragments: pieces of HTML, each the content of one element. The
//! [`board`] draws each view once for all browsers that look at the same, again when something has
//! changed, and passes on the fragments that differ. Whatever a person does goes to the API that
//! everybody uses.
//!
//! | room | what it holds |
//! |---|---|
//! | [`view`] | what a view is, and what it is asked for |
//! | [`board`] | who looks at what, and when it is drawn again |
//! | [`live`] | the WebSocket |
//! | [`shell`] | what never changes while the server runs |
//! | [`chart`] | charts over time, drawn as SVG |
//! | `remembered` | answers of others, for which nobody waits long |
//! | [`format`] | numbers, spans and times as people read them |
//! | [`calculations`] | factorials |
//! | [`docs`] | the API for people |
//! | [`pipeline`] | messages from coming in to their files, and those that no worker could do |
//! | [`health`] | what runs where, what it stands on, and what is wrong |
//! | [`schedules`] | when what starts, and what came of it |
//! | [`ships`] | telemetry: voltage, captures, streams |
//!
//! Nothing in a fragment depends on the time at which it was drawn: the script turns
//! `<time datetime="…">` into the reader's zone, and into an age where it says `data-age`.

pub mod board;
pub mod calculations;
pub mod chart;
pub mod docs;
pub mod format;
pub mod health;
pub mod live;
pub mod pipeline;
mod remembered;
pub mod schedules;
pub mod shell;
pub mod ships;
pub mod view;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use self::board::Board;
use self::shell::Shell;
use crate::service::Lifecycle;
use crate::web::{Auth, Room, Scope, Seats, Shape, described};

/// The page, ready to be served.
#[derive(Debug)]
pub struct Page {
    /// What never changes.
    pub shell: Shell,
    /// What does.
    pub board: Arc<Board>,
    /// Places of those who look.
    pub seats: Seats,
    /// Ends all looking.
    pub life: Lifecycle,
}

/// The routes of the page. Its shell holds nothing but itself, and needs no token.
#[must_use]
pub fn room(page: Page, auth: &Auth) -> Room {
    let shared = Arc::new(page);
    let session = Router::new().route("/page/session", get(live::session));
    let live = Router::new().route("/page/live", get(live::open)).with_state(Arc::clone(&shared));
    let router = shell::routes(&shared.shell)
        .merge(auth.require(session, Scope::Read))
        .merge(auth.require_for_socket(live, Scope::Read));
    Room { router, openapi: described(include_str!("openapi.json")), shape: Shape::Problem }
}
