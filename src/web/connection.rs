//! The timers of one connection, as a wrapper around its stream.
//!
//! hyper has one timer for idle connections and slow heads alike, and closes without an answer. The
//! wrapper sees the bytes, the service sees requests begin and answers end; between them they know
//! the phase, and each phase has its own deadline (RFC 9110, section 15.5.9, for the 408):
//!
//! | phase | deadline | then |
//! |---|---|---|
//! | head | `head_timeout` from its first byte, or from the accept | 408 if a byte came, close |
//! | handling | none: bodies are timed by [`body`](super::body), handlers by themselves | |
//! | idle | `idle_timeout` from the end of the last answer | close |
//! | any, while a write waits | `write_timeout` from its last progress | close |
//!
//! A partial head that arrived together with the request before it counts from its next byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::admission::Permit;
use super::raw::RawAnswer;
use super::serve::ServeSettings;
use super::timer::Timer;

const HEAD: u8 = 0;
const HANDLING: u8 = 1;
/// The answer has ended but may still be in a buffer.
const ANSWERED: u8 = 2;
const IDLE: u8 = 3;
/// Another protocol took over, and has its own timers.
const UPGRADED: u8 = 4;

/// What the wrapper and the service of a connection tell each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: AtomicU8,
    /// The client may be told to stop in the middle of sending, so its bytes must be read away
    /// for a moment, or the reset that they cause would take the answer from it.
    linger: AtomicBool,
}

impl Progress {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Release);
    }

    /// A request's head is whole.
    pub(super) fn begin(&self) {
        self.enter(HANDLING);
    }

    /// Whether a request is between its head and the end of its answer.
    pub(super) fn is_handling(&self) -> bool {
        self.phase() == HANDLING
    }

    /// There is an answer; its body is still to be sent.
    pub(super) fn answer(&self, status: StatusCode) {
        let is_error = status.is_client_error() || status.is_server_error();
        self.linger.store(is_error, Ordering::Release);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.enter(UPGRADED);
        }
    }

    fn end(&self) {
        let _ =
            self.phase.compare_exchange(HANDLING, ANSWERED, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// An answer's body that marks the end of the answer.
#[derive(Debug)]
pub(super) struct TrackedBody {
    inner: Body,
    progress: Arc<Progress>,
}

impl TrackedBody {
    pub(super) fn new(inner: Body, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.progress.end();
    }
}

/// A stream with deadlines. It holds the connection's permit, so that a connection is counted until
/// its socket closes, wherever an upgrade takes it.
#[derive(Debug)]
pub(super) struct Timed<S> {
    stream: S,
    progress: Arc<Progress>,
    settings: Arc<ServeSettings>,
    timer: Timer,
    /// When the head must be whole, or the idle connection used again.
    read_deadline: Option<Instant>,
    write_deadline: Option<Instant>,
    linger_deadline: Option<Instant>,
    /// A byte of the present head has come.
    arrived: bool,
    /// What is still to be written in place of an answer of hyper's own.
    own_answer: &'static [u8],
    _permit: Permit,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Timed<S> {
    /// Wraps a stream that was just accepted.
    pub(super) fn new(
        stream: S,
        progress: Arc<Progress>,
        settings: Arc<ServeSettings>,
        permit: Permit,
    ) -> Self {
        let read_deadline = Some(Instant::now() + settings.head_timeout);
        Self {
            stream,
            progress,
            settings,
            timer: Timer::default(),
            read_deadline,
            write_deadline: None,
            linger_deadline: None,
            arrived: false,
            own_answer: &[],
            _permit: permit,
        }
    }

    fn on_bytes(&mut self) {
        match self.progress.phase() {
            IDLE => {
                self.progress.enter(HEAD);
                self.read_deadline = None;
                self.arrived = true;
            }
            HEAD => self.arrived = true,
            _ => {}
        }
    }

    /// Nothing to read: once it is late, the end of the stream (idle, or nothing came) or an error.
    fn poll_starved(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let allowed = match self.progress.phase() {
            HEAD => self.settings.head_timeout,
            IDLE => self.settings.idle_timeout,
            _ => return Poll::Pending,
        };
        let deadline = *self.read_deadline.get_or_insert_with(|| Instant::now() + allowed);
        ready!(self.timer.poll(context, deadline));
        if self.progress.phase() != HEAD || !self.arrived {
            return Poll::Ready(Ok(()));
        }
        // Not into the middle of an answer that the client has not taken yet.
        if self.write_deadline.is_none() {
            let answer = RawAnswer::HeadTooSlow.bytes();
            // One try: who takes no 500 bytes after that long gets none.
            let _ = Pin::new(&mut self.stream).poll_write(context, answer);
            let _ = Pin::new(&mut self.stream).poll_shutdown(context);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether hyper answers by itself: a head that is no request, before any handler has it.
    fn is_own_answer(&mut self, bytes: &[u8]) -> bool {
        if self.own_answer.is_empty() && self.progress.phase() == HEAD {
            self.own_answer = RawAnswer::in_place_of(bytes).map_or(&[][..], RawAnswer::bytes);
        }
        !self.own_answer.is_empty()
    }

    /// Writes what stands for hyper's own answer.
    fn poll_own_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own_answer.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, self.own_answer);
            let count = ready!(self.poll_written(context, written))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own_answer = self.own_answer.get(count..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }

    /// A write waits: an error once it has waited for too long.
    fn poll_stalled<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let allowed = self.settings.write_timeout;
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + allowed);
        self.timer.poll(context, deadline).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            return self.poll_stalled(context);
        }
        self.write_deadline = None;
        written
    }

    /// RFC 9112, section 9.6: after the last answer, read on for a moment.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let allowed = self.settings.linger_timeout;
        let deadline = *self.linger_deadline.get_or_insert_with(|| Instant::now() + allowed);
        let mut space = [0; 4096];
        loop {
            if self.timer.poll(context, deadline).is_ready() {
                return Poll::Ready(());
            }
            let mut discarded = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut discarded)) {
                Ok(()) if !discarded.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                if buffer.filled().len() > before {
                    self.on_bytes();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_starved(context),
        }
    }
}

/// Without vectored writes: answers are small, and one buffer is written more cheaply than two.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_own_answer(bytes) {
            ready!(self.poll_own_answer(context))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.poll_written(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        ready!(self.poll_written(context, flushed))?;
        if self.progress.phase() == ANSWERED {
            self.progress.enter(IDLE);
            self.arrived = false;
            let deadline = Instant::now() + self.settings.idle_timeout;
            self.read_deadline = Some(deadline);
            // hyper need not read again before something wakes it, so the timer starts here.
            let _ = self.timer.poll(context, deadline);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger_deadline.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.poll_written(context, shut))?;
            let broken_head = self.progress.phase() == HEAD && self.arrived;
            if !broken_head && !self.progress.linger.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_linger(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgraded_connection_never_counts_as_idle() {
        let progress = Arc::new(Progress::default());
        progress.begin();
        let body = TrackedBody::new(Body::empty(), Arc::clone(&progress));
        progress.answer(StatusCode::SWITCHING_PROTOCOLS);
        drop(body);
        assert_eq!(progress.phase(), UPGRADED);
    }

    #[test]
    fn the_end_of_an_answer_is_seen_only_when_its_body_is_gone() {
        let progress = Arc::new(Progress::default());
        progress.begin();
        progress.answer(StatusCode::OK);
        let body = TrackedBody::new(Body::empty(), Arc::clone(&progress));
        assert_eq!(progress.phase(), HANDLING);
        drop(body);
        assert_eq!(progress.phase(), ANSWERED);
    }
}
