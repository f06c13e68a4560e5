//! Reading a request's body within limits of size, time and memory.
//!
//! The budget counts what handlers hold of all bodies at once. A length that is announced is
//! reserved before the first byte is read, so that a body which does not fit costs nothing but its
//! refusal; `Expect: 100-continue` is answered by the first read, thus only after the reservation.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use bytes::BytesMut;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::error::HttpError;
use super::metrics::HttpMetrics;
use super::timer::Timer;

/// Seconds after which a client that met a full budget should come back.
const BUSY_RETRY_SECONDS: u32 = 1;

/// What a body may cost.
#[derive(Debug, Clone)]
pub struct BodySettings {
    /// The most a body may hold, in bytes.
    pub max_bytes: usize,
    /// How long a body may take.
    pub timeout: Duration,
    /// How fast it must come on average, in bytes per second; 0 for no minimum.
    pub min_bytes_per_second: u32,
    /// How long it may be slower at its start.
    pub grace: Duration,
}

impl Default for BodySettings {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            timeout: Duration::from_secs(30),
            min_bytes_per_second: 1024,
            grace: Duration::from_secs(5),
        }
    }
}

/// Why there is no body.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    /// More than allowed: 413.
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit, in bytes.
        max_bytes: usize,
    },
    /// Not whole in time, or too slow: 408.
    #[error("the body came too slowly")]
    TooSlow,
    /// The budget of all bodies is spent: 503.
    #[error("too much is being received at once; try again")]
    Busy,
    /// The client left, or broke its own framing: 400, which hardly anybody reads.
    #[error("the body ended before its end")]
    Aborted,
}

impl From<BodyError> for HttpError {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::Aborted => StatusCode::BAD_REQUEST,
        };
        let answer = Self::new(status, error.to_string());
        if error == BodyError::Busy { answer.retry_after(BUSY_RETRY_SECONDS) } else { answer }
    }
}

/// The memory that all bodies share.
#[derive(Debug)]
pub struct Budget {
    max_bytes: i64,
    used: Gauge,
}

impl Budget {
    /// What `defaults.md` gives all bodies in flight, in bytes.
    pub const DEFAULT_BYTES: usize = 16 << 20;

    /// A budget of `max_bytes`, whose use shows in `metrics`. One per process, like the metrics.
    #[must_use]
    pub fn new(max_bytes: usize, metrics: &HttpMetrics) -> Arc<Self> {
        let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        Arc::new(Self { max_bytes, used: metrics.body_bytes().clone() })
    }

    fn take(&self, bytes: i64) -> Result<(), BodyError> {
        let grown = |used: i64| used.checked_add(bytes).filter(|sum| *sum <= self.max_bytes);
        let taken = self.used.inner().fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        taken.map(drop).map_err(|_| BodyError::Busy)
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct BudgetGuard {
    budget: Arc<Budget>,
    held: i64,
}

impl BudgetGuard {
    fn grow_to(&mut self, bytes: usize) -> Result<(), BodyError> {
        let wanted = i64::try_from(bytes).map_err(|_| BodyError::Busy)?;
        if wanted > self.held {
            self.budget.take(wanted - self.held)?;
            self.held = wanted;
        }
        Ok(())
    }
}

impl Drop for BudgetGuard {
    fn drop(&mut self) {
        self.budget.used.dec_by(self.held);
    }
}

/// A whole body. Keep the guard for as long as the bytes, or what was made of them, are held.
#[derive(Debug)]
pub struct ReceivedBody {
    /// The bytes.
    pub bytes: Bytes,
    /// Their share of the budget.
    pub guard: BudgetGuard,
}

/// Reads bodies. Cheap to clone; readers with other limits can share a budget.
#[derive(Debug, Clone)]
pub struct BodyReader {
    settings: Arc<BodySettings>,
    budget: Arc<Budget>,
}

impl BodyReader {
    /// A reader with these limits.
    #[must_use]
    pub fn new(settings: BodySettings, budget: Arc<Budget>) -> Self {
        Self { settings: Arc::new(settings), budget }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// See [`BodyError`]; it turns into an [`HttpError`].
    pub async fn read(&self, mut body: Body) -> Result<ReceivedBody, BodyError> {
        let max_bytes = self.settings.max_bytes;
        let mut guard = BudgetGuard { budget: Arc::clone(&self.budget), held: 0 };
        let announced = body.size_hint().lower();
        if announced > u64::try_from(max_bytes).unwrap_or(u64::MAX) {
            return Err(BodyError::TooLarge { max_bytes });
        }
        let announced = usize::try_from(announced).unwrap_or(max_bytes);
        guard.grow_to(announced)?;
        let mut pace = Pace::new(&self.settings);
        let mut gathered = Gathered::default();
        while let Some(chunk) = pace.next(&mut body).await? {
            let total = gathered.len() + chunk.len();
            if total > max_bytes {
                return Err(BodyError::TooLarge { max_bytes });
            }
            guard.grow_to(total)?;
            gathered.push(chunk, announced);
            if body.is_end_stream() {
                break;
            }
        }
        Ok(ReceivedBody { bytes: gathered.into_bytes(), guard })
    }

    /// Reads a body piece by piece. Of the budget it takes what its reader holds at once: the
    /// whole, `held_bytes` at most.
    ///
    /// # Errors
    /// If more is announced than may be, or the budget is spent.
    pub fn stream(&self, body: Body, held_bytes: usize) -> Result<BodyStream<'_>, BodyError> {
        let max_bytes = self.settings.max_bytes;
        let hint = body.size_hint();
        if hint.lower() > u64::try_from(max_bytes).unwrap_or(u64::MAX) {
            return Err(BodyError::TooLarge { max_bytes });
        }
        let announced = hint.upper().and_then(|upper| usize::try_from(upper).ok());
        let mut guard = BudgetGuard { budget: Arc::clone(&self.budget), held: 0 };
        guard.grow_to(announced.unwrap_or(held_bytes).min(held_bytes))?;
        Ok(BodyStream { body, pace: Pace::new(&self.settings), received: 0, _guard: guard })
    }
}

/// A body that is read piece by piece.
pub struct BodyStream<'a> {
    body: Body,
    pace: Pace<'a>,
    received: usize,
    _guard: BudgetGuard,
}

impl BodyStream<'_> {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// See [`BodyError`]; it turns into an [`HttpError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let chunk = self.pace.next(&mut self.body).await?;
        self.received += chunk.as_ref().map_or(0, Bytes::len);
        let max_bytes = self.pace.settings.max_bytes;
        if self.received > max_bytes { Err(BodyError::TooLarge { max_bytes }) } else { Ok(chunk) }
    }
}

impl fmt::Debug for BodyStream<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BodyStream")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

/// Chunks of a body: a lone one, the usual case, is not copied.
#[derive(Debug, Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn push(&mut self, chunk: Bytes, announced: usize) {
        if self.len() == 0 {
            self.first = chunk;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(announced.max(self.first.len() + chunk.len()));
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// The clock of one body.
struct Pace<'a> {
    settings: &'a BodySettings,
    started: Instant,
    received: f64,
    timer: Timer,
    looked_again: bool,
}

impl<'a> Pace<'a> {
    fn new(settings: &'a BodySettings) -> Self {
        let started = Instant::now();
        Self { settings, started, received: 0.0, timer: Timer::default(), looked_again: false }
    }

    fn deadline(&self) -> Instant {
        let mut allowed = self.settings.timeout;
        if self.settings.min_bytes_per_second > 0 {
            let earned = self.received / f64::from(self.settings.min_bytes_per_second);
            let earned = Duration::try_from_secs_f64(earned).unwrap_or(allowed);
            allowed = allowed.min(self.settings.grace.saturating_add(earned));
        }
        self.started + allowed
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        poll_fn(|context| self.poll_next(body, context)).await
    }

    fn poll_next(
        &mut self,
        body: &mut Body,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, BodyError>> {
        loop {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(BodyError::Aborted)),
                Poll::Ready(Some(Ok(frame))) => {
                    // What is no data is a trailer, which nobody here reads.
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue;
                    }
                    self.received += f64::from(u32::try_from(data.len()).unwrap_or(u32::MAX));
                    return Poll::Ready(Ok(Some(data)));
                }
                Poll::Pending => return self.poll_late(context),
            }
        }
    }

    /// The first wait of every body is for hyper to pass on what it has already read: a second look
    /// is cheaper than a timer for each request.
    fn poll_late<T>(&mut self, context: &mut Context<'_>) -> Poll<Result<T, BodyError>> {
        if !self.looked_again {
            self.looked_again = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let deadline = self.deadline();
        self.timer.poll(context, deadline).map(|()| Err(BodyError::TooSlow))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::HttpBody;
    use bytes::Buf;
    use http_body_util::BodyExt;
    use hyper::body::Frame;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::*;

    struct Fed(mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>);

    impl HttpBody for Fed {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            self.0.poll_recv(context).map(|item| item.map(|chunk| chunk.map(Frame::data)))
        }
    }

    type Feeder = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

    fn fed() -> (Feeder, Body) {
        let (feeder, receiver) = mpsc::unbounded_channel();
        (feeder, Body::new(Fed(receiver)))
    }

    fn reader(settings: BodySettings, budget_bytes: usize) -> BodyReader {
        let metrics = HttpMetrics::register(&mut Registry::default());
        BodyReader::new(settings, Budget::new(budget_bytes, &metrics))
    }

    fn small() -> BodySettings {
        BodySettings { max_bytes: 10, ..BodySettings::default() }
    }

    #[tokio::test]
    async fn a_body_at_the_limit_passes_and_one_byte_more_is_413_announced_or_not() {
        let reader = reader(small(), 100);
        let body = reader.read(Body::from("0123456789")).await.unwrap();
        assert_eq!(body.bytes, "0123456789");
        let too_large = BodyError::TooLarge { max_bytes: 10 };
        assert_eq!(reader.read(Body::from("0123456789a")).await.unwrap_err(), too_large);
        let (feeder, body) = fed();
        feeder.send(Ok(Bytes::from("01234"))).unwrap();
        feeder.send(Ok(Bytes::from("56789a"))).unwrap();
        assert_eq!(reader.read(body).await.unwrap_err(), too_large);
        assert_eq!(HttpError::from(too_large).status(), 413);
    }

    #[tokio::test]
    async fn chunks_are_joined_in_order_and_empty_bodies_are_bodies() {
        let reader = reader(small(), 100);
        let (feeder, body) = fed();
        for chunk in ["a", "", "bc", "def"] {
            feeder.send(Ok(Bytes::from(chunk))).unwrap();
        }
        drop(feeder);
        assert_eq!(reader.read(body).await.unwrap().bytes, "abcdef");
        assert!(reader.read(Body::empty()).await.unwrap().bytes.is_empty());
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_until_a_guard_is_dropped() {
        let reader = reader(small(), 15);
        let held = reader.read(Body::from("0123456789")).await.unwrap();
        assert_eq!(reader.read(Body::from("012345")).await.unwrap_err(), BodyError::Busy);
        let (feeder, body) = fed();
        feeder.send(Ok(Bytes::from("01234"))).unwrap();
        feeder.send(Ok(Bytes::from("5"))).unwrap();
        assert_eq!(reader.read(body).await.unwrap_err(), BodyError::Busy);
        drop(held);
        assert!(reader.read(Body::from("012345")).await.is_ok());
        assert_eq!(reader.budget.used.get(), 0, "every guard gives back what it took");
    }

    #[tokio::test]
    async fn a_busy_answer_says_when_to_come_back() {
        use axum::response::IntoResponse;
        let response = HttpError::from(BodyError::Busy).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        let text = response.into_body().collect().await.unwrap().aggregate();
        assert!(text.remaining() > 0);
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_408() {
        let settings = BodySettings { timeout: Duration::from_millis(30), ..small() };
        let (feeder, body) = fed();
        feeder.send(Ok(Bytes::from("a"))).unwrap();
        assert_eq!(reader(settings, 100).read(body).await.unwrap_err(), BodyError::TooSlow);
        assert_eq!(HttpError::from(BodyError::TooSlow).status(), 408);
        drop(feeder);
    }

    #[tokio::test]
    async fn a_body_below_the_minimum_rate_is_408_long_before_the_timeout() {
        let settings = BodySettings {
            timeout: Duration::from_secs(600),
            min_bytes_per_second: 100,
            grace: Duration::from_millis(10),
            ..small()
        };
        let (feeder, body) = fed();
        feeder.send(Ok(Bytes::from("abcde"))).unwrap();
        let started = Instant::now();
        assert_eq!(reader(settings, 100).read(body).await.unwrap_err(), BodyError::TooSlow);
        assert!(started.elapsed() >= Duration::from_millis(60), "five bytes earn 50 ms");
        drop(feeder);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_no_panic_and_no_body() {
        let (feeder, body) = fed();
        feeder.send(Ok(Bytes::from("a"))).unwrap();
        feeder.send(Err(std::io::ErrorKind::ConnectionReset.into())).unwrap();
        assert_eq!(reader(small(), 100).read(body).await.unwrap_err(), BodyError::Aborted);
    }
}
