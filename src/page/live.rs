//! `/page/live`: what a browser looks at, and what changes of it.
//!
//! ```text
//! browser:  view?focus              it looks at this now; an empty text: at nothing
//! server:   view?focus#id\n<html>   the content of an element
//!           ms                      an answer to every text, so that a dead link is noticed: the
//!                                   wall time in ms since 1970, as ages are reckoned by it
//! ```
//!
//! | the server closes with | when |
//! |---|---|
//! | 1008 | there is no such view |

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State as Shared;
use axum::extract::ws::{Utf8Bytes, close_code};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::Page;
use super::board::{Board, Look};
use crate::clock::{Clock, SystemClock};
use crate::web::{Farewell, HttpError, Principal, Talk, Upgrade, json, open_socket};

/// How often one browser begins to look at something else, at most: of what it names in between,
/// the last counts.
const TURNED_EVERY: Duration = Duration::from_millis(150);

/// The subprotocol, for clients that offer any.
const PROTOCOL: &str = "page";

const NO_VIEW: Farewell = Farewell { code: close_code::POLICY, reason: "there is no such view" };

/// Tells who asks.
pub(super) async fn session(who: Extension<Principal>) -> Result<Response, HttpError> {
    let session = json!({ "name": *who.name, "may_write": who.may_write });
    json(StatusCode::OK, &session)
}

/// Opens a WebSocket.
pub(super) async fn open(
    Shared(page): Shared<Arc<Page>>,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let seat = page.seats.take()?;
    let board = Arc::clone(&page.board);
    let looking = Looking { board, look: None, wanted: None, turned_at: None, is_asked: false };
    open_socket(upgrade, PROTOCOL, looking, seat, page.life.clone())
}

/// What one browser looks at.
struct Looking {
    board: Arc<Board>,
    look: Option<(String, Look)>,
    /// What it looks at next.
    wanted: Option<String>,
    /// When it last began to look at something.
    turned_at: Option<Instant>,
    /// Whether an answer is owed.
    is_asked: bool,
}

impl Talk for Looking {
    async fn next(&mut self) -> Result<Utf8Bytes, Farewell> {
        if std::mem::take(&mut self.is_asked) {
            return Ok(SystemClock.wall_ms().to_string().into());
        }
        if self.wanted.is_some() {
            if let Some(turned_at) = self.turned_at {
                sleep_until(turned_at + TURNED_EVERY).await;
            }
            self.turn()?;
        }
        match &mut self.look {
            Some((_, look)) => look.next().await.ok_or(Farewell::AWAY),
            None => std::future::pending().await,
        }
    }

    fn hear(&mut self, text: &str) -> Result<(), Farewell> {
        self.is_asked = true;
        self.wanted = None;
        if self.look.as_ref().is_none_or(|(looked_at, _)| looked_at != text) {
            self.look = None;
            self.wanted = Some(text.to_owned()).filter(|text| !text.is_empty());
        }
        Ok(())
    }
}

impl Looking {
    /// Begins to look at what is wanted.
    fn turn(&mut self) -> Result<(), Farewell> {
        let Some(wanted) = self.wanted.take() else { return Ok(()) };
        let look = self.board.look(&wanted).ok_or(NO_VIEW)?;
        (self.look, self.turned_at) = (Some((wanted, look)), Some(Instant::now()));
        Ok(())
    }
}
