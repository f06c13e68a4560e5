//! A spaceship's API, as captures use it. A stream is begun, its lease renewed, and it is stopped,
//! whatever happens: a task of its own looks after each, and stops it when nobody holds it any
//! more. If that is not possible either (this process is dead, the network is gone), its lease
//! ends it.
//!
//! R2's spaceship can be used as well. It names no source, knows no leases, and counts nothing.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::rooms::telemetry::road::Road;
use crate::rooms::telemetry::ship::ShipName;
use crate::service::printable;

/// How long a spaceship streams on when nothing is heard of the capture.
const LEASE_SECONDS: u64 = 10;
/// How often the lease is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is tried to stop a stream, and the pause before trying again.
const STOP_TRIES: u32 = 3;
const STOP_PAUSE: Duration = Duration::from_millis(500);

/// A spaceship, as captures know it.
#[derive(Debug, Clone)]
pub struct Spaceship {
    road: Road,
}

/// Why a spaceship does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShipError {
    /// There is no answer.
    #[error("it does not answer: {0}")]
    Unreachable(String),
    /// It answers that it will not.
    #[error("it answers {status}: {detail}")]
    Refused {
        /// The status.
        status: u16,
        /// Why, as it says.
        detail: String,
    },
    /// It answers something else.
    #[error("its answer is none of a spaceship: {0}")]
    Answer(String),
}

impl ShipError {
    /// Whether it would answer the same again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        // Too slow, too early, too many: that passes.
        let passes = [408, 425, 429];
        matches!(self, Self::Refused { status: status @ 400..500, .. } if !passes.contains(status))
    }
}

/// A stream that was begun. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Stream {
    /// By what the spaceship knows it.
    pub event_key: Uuid,
    /// From where its datagrams come, if the spaceship says so.
    pub source: Option<SocketAddr>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
    doubt: Arc<Notify>,
    end: watch::Receiver<Option<End>>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Datagrams that it has sent, if the spaceship says so: nothing is sent any more then.
    pub sent: Option<u64>,
    /// Whether it ended before it was told to.
    pub is_early: bool,
}

impl Stream {
    /// Asks for its end. Does not wait.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Nothing has come of it for a while: asks whether it goes on, before its lease is to be
    /// renewed. Does not wait.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        *self.end.borrow()
    }
}

/// The answer to the wish for a stream.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Begun {
    event_key: Uuid,
    source: Option<SocketAddr>,
}

/// What an answer may say.
#[derive(Debug, Default, Deserialize)]
struct Told {
    state: Option<String>,
    sent: Option<u64>,
    /// So that of a spaceship in the same process is understood as well.
    #[serde(alias = "error")]
    detail: Option<String>,
}

impl Told {
    /// Nothing, if it is not understood.
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Whether the stream has ended.
    fn is_over(&self) -> bool {
        self.state.as_deref() == Some("ended")
    }
}

/// The other ends of a [`Stream`].
struct Keeping {
    begun: oneshot::Sender<Result<Begun, ShipError>>,
    stop: CancellationToken,
    doubt: Arc<Notify>,
    end: watch::Sender<Option<End>>,
}

impl Spaceship {
    /// The spaceship at the end of this road.
    #[must_use]
    pub const fn new(road: Road) -> Self {
        Self { road }
    }

    /// Begins a stream to this address. Must be called within a tokio runtime; if it is dropped
    /// before it answers, no stream stays.
    ///
    /// # Errors
    /// The spaceship begins none.
    pub async fn begin(
        self: &Arc<Self>,
        target: SocketAddr,
        ship: &ShipName,
    ) -> Result<Stream, ShipError> {
        let wish = json!({
            "host": target.ip(),
            "port": target.port(),
            "ship_name": ship,
            "lease_seconds": LEASE_SECONDS,
        });
        let (begun, hearing) = oneshot::channel();
        let (stop, end) = (CancellationToken::new(), watch::Sender::new(None));
        let (ended, stop_when_dropped) = (end.subscribe(), stop.clone().drop_guard());
        let doubt = Arc::<Notify>::default();
        let keeping = Keeping { begun, stop: stop.clone(), doubt: Arc::clone(&doubt), end };
        tokio::spawn(Arc::clone(self).keep(wish, keeping));
        let stopped = |_| ShipError::Unreachable("this process stops".to_owned());
        let Begun { event_key, source } = hearing.await.map_err(stopped)??;
        let _stop_when_dropped = stop_when_dropped;
        Ok(Stream { event_key, source, stop, _stop_when_dropped, doubt, end: ended })
    }

    /// Looks after a stream from its beginning to its end.
    async fn keep(self: Arc<Self>, wish: Value, keeping: Keeping) {
        let Keeping { begun, stop, doubt, end } = keeping;
        let stream = match self.start(&wish).await {
            Ok(stream) => stream,
            Err(error) => {
                let _nobody_waits = begun.send(Err(error));
                return;
            }
        };
        let path = stream.event_key.to_string();
        let is_wanted = begun.send(Ok(stream)).is_ok();
        let is_leased = stream.source.is_some();
        let renewing = self.renew_until_gone(&path, is_leased, &doubt);
        let renewing = stop.run_until_cancelled(renewing);
        let is_early = is_wanted && renewing.await.is_some();
        let sent = self.stop(&path).await;
        end.send_replace(Some(End { sent, is_early }));
    }

    async fn start(&self, wish: &Value) -> Result<Begun, ShipError> {
        let (status, body) = self.ask(Method::POST, "", Some(wish)).await?;
        if status != StatusCode::OK && status != StatusCode::CREATED {
            return Err(refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| ShipError::Answer(error.to_string()))
    }

    /// Renews the lease until the stream is no more: the spaceship says so, or its lease has run
    /// out meanwhile.
    async fn renew_until_gone(&self, path: &str, is_leased: bool, doubt: &Notify) {
        let (mut is_told, mut renewed_at) = (false, Instant::now());
        loop {
            let _in_doubt = tokio::time::timeout(RENEW_EVERY, doubt.notified()).await;
            let reason = match self.ask(Method::PUT, path, None).await {
                Ok((StatusCode::NOT_FOUND, _)) => return,
                // Whoever knows no leases needs none.
                Ok((StatusCode::METHOD_NOT_ALLOWED, _)) => continue,
                Ok((StatusCode::OK, body)) => {
                    if Told::read(&body).is_over() {
                        return;
                    }
                    (is_told, renewed_at) = (false, Instant::now());
                    continue;
                }
                Ok((status, body)) => refused(status, &body).to_string(),
                Err(error) => error.to_string(),
            };
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(spaceship = %self, reason, "a lease is not renewed");
            }
            if is_leased && renewed_at.elapsed() >= Duration::from_secs(LEASE_SECONDS) {
                return;
            }
        }
    }

    /// Stops a stream; how much it has sent, if that can be learnt.
    async fn stop(&self, path: &str) -> Option<u64> {
        for attempt in 1..=STOP_TRIES {
            let reason = match self.ask(Method::DELETE, path, None).await {
                Ok((StatusCode::OK, body)) => {
                    return Told::read(&body).sent;
                }
                // It was stopped before, if only the answer to that was lost.
                Ok((StatusCode::NOT_FOUND, _)) => return self.sent(path).await,
                Ok((status, body)) => refused(status, &body).to_string(),
                Err(error) => error.to_string(),
            };
            if attempt < STOP_TRIES {
                tokio::time::sleep(STOP_PAUSE).await;
            } else {
                tracing::warn!(
                    spaceship = %self, reason,
                    "a stream could not be stopped: its lease ends it in {LEASE_SECONDS} s"
                );
            }
        }
        None
    }

    /// How much a stream that has ended has sent, if that is remembered.
    async fn sent(&self, path: &str) -> Option<u64> {
        let (_, body) = self.ask(Method::GET, path, None).await.ok()?;
        let told = Told::read(&body);
        told.sent.filter(|_| told.is_over())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), ShipError> {
        let unreachable = |error: String| ShipError::Unreachable(error);
        let mut request = Request::builder().method(method).uri(format!("/stream/{path}"));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Bytes::from(body.map_or_else(String::new, Value::to_string));
        let request = request.body(body).map_err(|error| unreachable(error.to_string()))?;
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.road.exchange(request)).await;
        let late = || format!("nothing for {} s", ANSWER_TIMEOUT.as_secs());
        let answered = asked.map_err(|_| unreachable(late()))?;
        let answered = answered.map_err(|error| unreachable(error.to_string()))?;
        Ok((answered.status(), answered.into_body()))
    }
}

fn refused(status: StatusCode, body: &[u8]) -> ShipError {
    let detail = Told::read(body).detail;
    let detail = detail.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    ShipError::Refused { status: status.as_u16(), detail: printable(&detail) }
}

impl fmt::Display for Spaceship {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.road.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_a_refusal_is_not() {
        let refused = |status| ShipError::Refused { status, detail: String::new() };
        assert!([400, 401, 404, 422].into_iter().all(|status| refused(status).is_final()));
        assert!(
            ![302, 408, 425, 429, 500, 503].into_iter().any(|status| refused(status).is_final())
        );
        assert!(!ShipError::Unreachable("away".to_owned()).is_final());
    }

    #[test]
    fn what_it_says_of_a_refusal_is_repeated_with_care() {
        let text = |body: &[u8]| refused(StatusCode::BAD_REQUEST, body).to_string();
        assert_eq!(text(br#"{"detail":"no \u001b[31m"}"#), "it answers 400: no \\u{1b}[31m");
        assert_eq!(text(br#"{"detail":[{"loc":1}]}"#), r#"it answers 400: {"detail":[{"loc":1}]}"#);
    }
}
