//! The accept loop: connections in, limits kept, and a drain with a deadline at the end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::admission::{Doors, Permit, Refusal};
use super::connection::{Progress, Timed, TrackedBody};
use super::error::HttpError;
use super::headers;
use super::metrics::HttpMetrics;
use crate::service::Lifecycle;

/// How long accepting pauses when the process has no file descriptor or memory left for another.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The least time between two log lines about refused connections or failed accepts.
const QUIET_SECONDS: u64 = 10;
/// What hyper may buffer per connection and direction. Bodies of 1 MiB come in fastest with it;
/// hyper's own 400 KiB would let slow clients hold far more memory than the budget of bodies.
const BUFFER_BYTES: usize = 64 << 10;
/// Refusals that are being told at once; beyond it a connection is just closed.
const MAX_REFUSALS: usize = 64;

/// The limits of a listener.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Open connections in all.
    pub max_connections: usize,
    /// Open connections per client address (IPv6: per /64).
    pub max_connections_per_address: usize,
    /// Loopback clients are spared the limit per address.
    pub exempt_loopback: bool,
    /// Clients in these networks are spared the limit per address.
    pub trusted_proxies: Vec<IpNet>,
    /// Header fields of a request; more are answered 431.
    pub max_headers: usize,
    /// Bytes of a request's head; more are answered 431.
    pub max_head_bytes: usize,
    /// How long a head may take from its first byte (or from the accept).
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long a write may wait without progress.
    pub write_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long what a refused client still sends is read away, so that it sees the answer.
    pub linger_timeout: Duration,
    /// How long requests in flight may take once the process stops.
    pub drain_timeout: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            max_connections: 2048,
            max_connections_per_address: 128,
            exempt_loopback: true,
            trusted_proxies: Vec::new(),
            max_headers: 64,
            max_head_bytes: 16 << 10,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            linger_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// What the connections of a listener share.
struct Server {
    http: http1::Builder,
    router: Router,
    settings: Arc<ServeSettings>,
    tls: Option<TlsAcceptor>,
    draining: AtomicBool,
    drain: Notify,
}

/// Serves `router` on `listener` until `life` stops, then lets requests in flight finish.
///
/// Returns when all connections are closed, or `drain_timeout` after the stop: the rest is then
/// cut, and the log says how many. Connections that another protocol took over are their handlers'
/// to end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Arc<ServeSettings>,
    tls: Option<Arc<rustls::ServerConfig>>,
    metrics: Arc<HttpMetrics>,
    life: &Lifecycle,
) {
    let server = Arc::new(Server {
        http: http(&settings),
        router,
        settings: Arc::clone(&settings),
        tls: tls.map(TlsAcceptor::from),
        draining: AtomicBool::new(false),
        drain: Notify::new(),
    });
    let mut entrance = Entrance {
        doors: Doors::new(settings, Arc::clone(&metrics)),
        server: Arc::clone(&server),
        metrics,
        refusals: JoinSet::new(),
        quiet: Quiet::default(),
    };
    let mut connections = JoinSet::new();
    let mut stopping = pin!(life.stopping());
    loop {
        tokio::select! {
            biased;
            () = &mut stopping => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => entrance.enter(stream, client, &mut connections),
                Err(error) if client_left(&error) => {}
                Err(error) => {
                    entrance.fails(&error);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    server.draining.store(true, Ordering::Release);
    server.drain.notify_waiters();
    let ended = async { while connections.join_next().await.map(report).is_some() {} };
    if timeout(server.settings.drain_timeout, ended).await.is_err() {
        let dropped = connections.len();
        tracing::warn!(dropped, "connections were cut: their requests took too long to finish");
        // Not awaited: a handler that blocks would hold up the stop.
        connections.abort_all();
    }
}

fn http(settings: &ServeSettings) -> http1::Builder {
    let mut http = http1::Builder::new();
    // The timers are ours. The number of fields is checked by the service: hyper's own setting
    // allocates for each request.
    http.half_close(true)
        .header_read_timeout(None)
        .max_header_size(settings.max_head_bytes)
        .max_buf_size(settings.max_head_bytes.max(BUFFER_BYTES));
    http
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a handler panicked; its connection was closed");
    }
}

/// Lets connections in, or tells them why not.
struct Entrance {
    doors: Arc<Doors>,
    server: Arc<Server>,
    metrics: Arc<HttpMetrics>,
    refusals: JoinSet<()>,
    quiet: Quiet,
}

impl Entrance {
    fn enter(&mut self, stream: TcpStream, client: SocketAddr, connections: &mut JoinSet<()>) {
        match self.doors.enter(client.ip()) {
            Ok(permit) => {
                let server = Arc::clone(&self.server);
                let metrics = Arc::clone(&self.metrics);
                connections.spawn(connect(server, metrics, stream, permit));
            }
            Err(refusal) => self.refuse(stream, client, refusal),
        }
    }

    fn refuse(&mut self, stream: TcpStream, client: SocketAddr, refusal: Refusal) {
        let reason = refusal.reason();
        self.metrics.refuse(reason);
        if let Some(silenced) = self.quiet.speak() {
            let address = client.ip();
            tracing::warn!(reason, %address, silenced, "a connection was refused");
        }
        while self.refusals.try_join_next().is_some() {}
        // Behind TLS an answer would cost a handshake, which a full server does not have.
        if self.server.tls.is_none() && self.refusals.len() < MAX_REFUSALS {
            let wait = self.server.settings.linger_timeout;
            self.refusals.spawn(async move {
                let _ = timeout(wait, tell(stream, refusal.answer())).await;
            });
        }
    }

    /// Counts and logs a failed accept.
    fn fails(&mut self, error: &io::Error) {
        self.metrics.refuse("accept");
        if let Some(silenced) = self.quiet.speak() {
            tracing::error!(%error, silenced, "cannot accept connections; is `ulimit -n` too low?");
        }
    }
}

/// Whether an accept failed only because its client had left already.
fn client_left(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Writes an answer and reads on until the client has seen it.
async fn tell(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.writable().await?;
    // Whole or not at all: the buffer of a socket that was just accepted is empty.
    stream.try_write(answer)?;
    poll_fn(|context| Pin::new(&mut stream).poll_shutdown(context)).await?;
    let mut space = [0; 1024];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut space) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Keeps the log readable under a flood: one line per period, which counts the ones before it.
#[derive(Debug, Default)]
struct Quiet {
    spoke: Option<Instant>,
    silenced: u64,
}

impl Quiet {
    /// How many lines were left out since the last one, if it is time for another.
    fn speak(&mut self) -> Option<u64> {
        if self.spoke.is_some_and(|spoke| spoke.elapsed().as_secs() < QUIET_SECONDS) {
            self.silenced += 1;
            return None;
        }
        self.spoke = Some(Instant::now());
        Some(std::mem::take(&mut self.silenced))
    }
}

async fn connect(
    server: Arc<Server>,
    metrics: Arc<HttpMetrics>,
    stream: TcpStream,
    permit: Permit,
) {
    // Answers are written whole: waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let Some(tls) = &server.tls else { return converse(&server, stream, permit).await };
    match timeout(server.settings.handshake_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(&server, stream, permit).await,
        Ok(Err(error)) => {
            metrics.refuse("handshake");
            tracing::debug!(%error, "a TLS handshake failed");
        }
        Err(_) => metrics.refuse("handshake"),
    }
}

/// Serves one connection to its end.
async fn converse<S>(server: &Server, stream: S, permit: Permit)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let progress = Arc::new(Progress::default());
    let settings = Arc::clone(&server.settings);
    let stream = Timed::new(stream, Arc::clone(&progress), settings, permit);
    let service = service_fn(|request| answer(server, Arc::clone(&progress), request));
    let connection = server.http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    let mut drain = pin!(server.drain.notified());
    let mut waker: Option<Waker> = None;
    let mut told = false;
    let ended = poll_fn(|context| {
        // What an idle connection has just received is still taken; the answer of a busy one is
        // to say that it is the last.
        let last = server.draining.load(Ordering::Acquire) && progress.is_handling();
        if (told || !last)
            && let Poll::Ready(ended) = connection.as_mut().poll(context)
        {
            return Poll::Ready(ended);
        }
        if told {
            return Poll::Pending;
        }
        // Polling a notification takes a lock that all connections share, so it is done once.
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            let _ = drain.as_mut().poll(context);
            waker = Some(context.waker().clone());
        }
        if server.draining.load(Ordering::Acquire) {
            told = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(context);
        }
        Poll::Pending
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Hands a request to the router and watches its answer.
async fn answer(
    server: &Server,
    progress: Arc<Progress>,
    request: Request<Incoming>,
) -> Result<Response<TrackedBody>, Infallible> {
    progress.begin();
    let max_headers = server.settings.max_headers;
    let response = if request.headers().len() > max_headers {
        let text = format!("a request may have {max_headers} header fields");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let mut response = HttpError::new(status, text).into_response();
        headers::apply(response.headers_mut());
        response
    } else {
        server.router.clone().call(request.map(Body::new)).await?
    };
    progress.answer(response.status());
    Ok(response.map(|body| TrackedBody::new(body, progress)))
}
