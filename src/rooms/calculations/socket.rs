//! `/websockets`: each created or updated item as a JSON text, output shortened (RFC 6455).
//!
//! | the server closes with | when |
//! |---|---|
//! | 1001 | it stops |
//! | 1013 | the client reads too slowly: list the items, and connect again |
//! | nothing | the client has not answered pings for a minute, or takes no bytes |
//!
//! What a client sends is passed over.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, interval_at, timeout};

use super::api::Calculations;
use super::hub::{NoSeat, Seat};
use crate::service::Lifecycle;
use crate::web::{HttpError, SOCKET_BEARER};

/// How often a client is pinged.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of a message that a client sends.
const RECEIVED_BYTES_MAX: usize = 4096;
/// The subprotocol, for clients that offer any.
const PROTOCOL: &str = "items";

const AWAY: (u16, &str) = (close_code::AWAY, "the server stops");
const TOO_SLOW: (u16, &str) = (close_code::AGAIN, "too slow: list, and connect again");

/// Opens a WebSocket.
pub(super) async fn open(
    Shared(room): Shared<Arc<Calculations>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, HttpError> {
    let mut upgrade = upgrade.map_err(|rejection| {
        HttpError::new(StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket (RFC 6455) only")
            .internal(rejection)
    })?;
    let (seat, items) = room.hub.listen().await.map_err(|refused| {
        let text = match refused {
            NoSeat::Full => "as many WebSockets are open as may be",
            NoSeat::NoStore => "there are no changes to be told now",
        };
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1)
    })?;
    let chosen = chosen(upgrade.requested_protocols()).cloned();
    if let Some(chosen) = chosen {
        upgrade.set_selected_protocol(chosen);
    }
    let life = room.hub.life().clone();
    let upgrade = upgrade.max_message_size(RECEIVED_BYTES_MAX);
    Ok(upgrade.on_upgrade(|socket| converse(socket, items, seat, life)))
}

/// The subprotocol to answer with: ours, or the token that was offered alone, since a browser hangs
/// up on a server that takes none of what it offered.
fn chosen<'a>(offered: impl Iterator<Item = &'a HeaderValue>) -> Option<&'a HeaderValue> {
    let mut bearer = None;
    for value in offered {
        if value == PROTOCOL {
            return Some(value);
        }
        if value.as_bytes().starts_with(SOCKET_BEARER.as_bytes()) {
            bearer = Some(value);
        }
    }
    bearer
}

async fn converse(mut socket: WebSocket, items: Receiver<Utf8Bytes>, seat: Seat, life: Lifecycle) {
    if let Some((code, reason)) = tell(&mut socket, items, &life).await {
        let farewell = async {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            socket.send(Message::Close(Some(frame))).await?;
            while let Some(received) = socket.recv().await {
                received?;
            }
            Ok::<(), axum::Error>(())
        };
        if timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
            tracing::debug!("a WebSocket was cut: its client did not answer the close");
        }
    }
    drop(seat);
}

/// Tells items until there is a reason not to; the reason, unless the client is gone.
async fn tell(
    socket: &mut WebSocket,
    mut items: Receiver<Utf8Bytes>,
    life: &Lifecycle,
) -> Option<(u16, &'static str)> {
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            () = life.stopping() => return Some(AWAY),
            received = socket.recv() => {
                received?.ok()?;
                heard = Instant::now();
                continue;
            }
            item = items.recv() => match item {
                Ok(item) => Message::Text(item),
                Err(RecvError::Lagged(_)) => return Some(TOO_SLOW),
                Err(RecvError::Closed) => return Some(AWAY),
            },
            _ = pings.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    return None;
                }
                Message::Ping(Bytes::new())
            }
        };
        tokio::select! {
            // A write that waits is the connection's to time; a stop does not wait for it.
            sent = socket.send(message) => sent.ok()?,
            () = life.stopping() => return Some(AWAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_that_offers_a_token_alone_is_answered_with_it() {
        let choose = |offered: &[&'static str]| {
            let values: Vec<_> =
                offered.iter().map(|text| HeaderValue::from_static(text)).collect();
            chosen(values.iter()).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(choose(&["bearer.x", "items"]).as_deref(), Some("items"));
        assert_eq!(choose(&["bearer.x"]).as_deref(), Some("bearer.x"));
        assert_eq!(choose(&["mqtt"]), None);
        assert_eq!(choose(&[]), None);
    }
}
