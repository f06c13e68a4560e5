//! `/websockets`: each created or updated item as a JSON text, output shortened.
//!
//! A client that reads too slowly is closed with 1013: it lists the items, and connects again. What
//! a client sends is passed over.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::extract::ws::{Utf8Bytes, close_code};
use axum::response::Response;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::api::Calculations;
use crate::web::{Farewell, HttpError, Talk, Upgrade, open_socket};

/// The subprotocol, for clients that offer any.
const PROTOCOL: &str = "items";

const TOO_SLOW: Farewell =
    Farewell { code: close_code::AGAIN, reason: "too slow: list, and connect again" };

/// Opens a WebSocket.
pub(super) async fn open(
    Shared(room): Shared<Arc<Calculations>>,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let (seat, items) = room.hub.listen().await?;
    open_socket(upgrade, PROTOCOL, Items(items), seat, room.hub.life().clone())
}

/// The items that change.
struct Items(Receiver<Utf8Bytes>);

impl Talk for Items {
    async fn next(&mut self) -> Result<Utf8Bytes, Farewell> {
        self.0.recv().await.map_err(|error| match error {
            RecvError::Lagged(_) => TOO_SLOW,
            RecvError::Closed => Farewell::AWAY,
        })
    }

    fn hear(&mut self, _text: &str) -> Result<(), Farewell> {
        Ok(())
    }
}
