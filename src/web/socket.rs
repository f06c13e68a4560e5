//! WebSockets (RFC 6455): who may open one, and what both sides owe each other while it is open.
//!
//! | the server closes with | when |
//! |---|---|
//! | 1001 | it stops |
//! | what the [`Talk`] says | it has nothing more to tell |
//! | nothing | the client has not answered pings for a minute, or takes no bytes |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, timeout};

use super::auth::SOCKET_BEARER;
use super::error::HttpError;
use crate::service::Lifecycle;

/// How often a client is pinged.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of a message that a client sends.
const RECEIVED_BYTES_MAX: usize = 4096;

/// Why a server ends a conversation: a close code (RFC 6455, section 7.4), and words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// The code.
    pub code: u16,
    /// At most 123 bytes.
    pub reason: &'static str,
}

impl Farewell {
    /// The server stops.
    pub const AWAY: Self = Self { code: close_code::AWAY, reason: "the server stops" };
}

/// One side of a conversation: what there is to tell a client, and what the client says.
pub trait Talk: Send + 'static {
    /// Waits for the next text. Dropped before it is ready, it must have lost nothing.
    fn next(&mut self) -> impl Future<Output = Result<Utf8Bytes, Farewell>> + Send;

    /// Hears a text of the client.
    ///
    /// # Errors
    /// It makes no sense: the conversation ends.
    fn hear(&mut self, text: &str) -> Result<(), Farewell>;
}

/// Places for clients. Cheap to clone; clones are the same places.
#[derive(Debug, Clone)]
pub struct Seats(Arc<Places>);

#[derive(Debug)]
struct Places {
    taken: watch::Sender<usize>,
    most: usize,
    gauge: Gauge,
}

/// A client's place, given back when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Places>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.send_modify(|taken| *taken -= 1);
        self.0.gauge.dec();
    }
}

impl Seats {
    /// So many places; each client also takes a connection of the server.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Places { taken: watch::Sender::new(0), most, gauge: Gauge::default() }))
    }

    /// Shows in `/metrics` how many are taken.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("websocket_clients", "WebSockets open", self.0.gauge.clone());
    }

    /// A place.
    ///
    /// # Errors
    /// 503: all are taken.
    pub fn take(&self) -> Result<Seat, HttpError> {
        let most = self.0.most;
        let seated = self.0.taken.send_if_modified(|taken| {
            let is_free = *taken < most;
            *taken += usize::from(is_free);
            is_free
        });
        if !seated {
            let text = "as many WebSockets are open as may be";
            return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1));
        }
        self.0.gauge.inc();
        Ok(Seat(Arc::clone(&self.0)))
    }

    /// Waits until all places are free: after the stop, that all clients were told of it.
    pub async fn closed(&self) {
        let mut taken = self.0.taken.subscribe();
        // The sender lives as long as `self`.
        let _closed = taken.wait_for(|taken| *taken == 0).await;
    }
}

/// What axum makes of a request that asks for a WebSocket, or not.
pub type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Opens a WebSocket and converses until one side ends it, or `life` stops. `protocol` is the
/// subprotocol for clients that offer any.
///
/// # Errors
/// 426: the request asks for no WebSocket.
pub fn open(
    upgrade: Upgrade,
    protocol: &str,
    talk: impl Talk,
    seat: Seat,
    life: Lifecycle,
) -> Result<Response, HttpError> {
    let mut upgrade = upgrade.map_err(|rejection| {
        HttpError::new(StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket (RFC 6455) only")
            .internal(rejection)
    })?;
    let chosen = chosen(upgrade.requested_protocols(), protocol).cloned();
    if let Some(chosen) = chosen {
        upgrade.set_selected_protocol(chosen);
    }
    let upgrade = upgrade.max_message_size(RECEIVED_BYTES_MAX);
    Ok(upgrade.on_upgrade(|socket| converse(socket, talk, seat, life)))
}

/// The subprotocol to answer with: ours, or the token that was offered alone, since a browser hangs
/// up on a server that takes none of what it offered.
fn chosen<'a>(
    offered: impl Iterator<Item = &'a HeaderValue>,
    protocol: &str,
) -> Option<&'a HeaderValue> {
    let mut bearer = None;
    for value in offered {
        if value == protocol {
            return Some(value);
        }
        if value.as_bytes().starts_with(SOCKET_BEARER.as_bytes()) {
            bearer = Some(value);
        }
    }
    bearer
}

async fn converse(mut socket: WebSocket, mut talk: impl Talk, seat: Seat, life: Lifecycle) {
    if let Some(Farewell { code, reason }) = tell(&mut socket, &mut talk, &life).await {
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

/// Tells and hears until there is a reason not to; the reason, unless the client is gone.
async fn tell(socket: &mut WebSocket, talk: &mut impl Talk, life: &Lifecycle) -> Option<Farewell> {
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            () = life.stopping() => return Some(Farewell::AWAY),
            received = socket.recv() => {
                heard = Instant::now();
                if let Message::Text(text) = received?.ok()?
                    && let Err(farewell) = talk.hear(&text)
                {
                    return Some(farewell);
                }
                continue;
            }
            next = talk.next() => match next {
                Ok(text) => Message::Text(text),
                Err(farewell) => return Some(farewell),
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
            () = life.stopping() => return Some(Farewell::AWAY),
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
            chosen(values.iter(), "items").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(choose(&["bearer.x", "items"]).as_deref(), Some("items"));
        assert_eq!(choose(&["bearer.x"]).as_deref(), Some("bearer.x"));
        assert_eq!(choose(&["mqtt"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[tokio::test]
    async fn a_place_is_given_back_and_there_are_no_more_than_there_are() {
        let seats = Seats::new(1);
        let seat = seats.take().unwrap();
        assert_eq!(seats.take().unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(seat);
        seats.closed().await;
        seats.take().unwrap();
    }
}
