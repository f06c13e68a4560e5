//! Real sockets against [`serve`], with shortened limits.
//!
//! The client is plain blocking code; its read timeout only turns a hang into a failure. Where a
//! test must let a limit pass, it waits for another connection to be closed by that limit.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::*;
use crate::service::Lifecycle;

const SHORT: Duration = Duration::from_millis(150);

struct Running {
    runtime: Runtime,
    address: SocketAddr,
    life: Lifecycle,
    metrics: Arc<HttpMetrics>,
    served: JoinHandle<()>,
}

impl Running {
    fn start(router: Router, settings: ServeSettings) -> Self {
        Self::start_tls(router, settings, None)
    }

    fn start_tls(
        router: Router,
        settings: ServeSettings,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let life = Lifecycle::new();
        let metrics = HttpMetrics::register(&mut Registry::default());
        let (counted, living) = (Arc::clone(&metrics), life.clone());
        let served = runtime.spawn(async move {
            serve(listener, router, Arc::new(settings), tls, counted, &living).await;
        });
        Self { runtime, address, life, metrics, served }
    }

    fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client { stream, spare: Vec::new() }
    }

    /// Waits until so many connections are open.
    fn await_open(&self, count: i64) {
        while self.metrics.connections().get() != count {
            std::thread::yield_now();
        }
    }

    /// Waits until [`serve`] has returned.
    fn ended(self) {
        self.runtime.block_on(self.served).unwrap();
    }
}

struct Client<S> {
    stream: S,
    /// What was read beyond the last answer.
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl<S: Read + Write> Client<S> {
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        self.answer()
    }

    fn more(&mut self) -> usize {
        let mut space = [0; 4096];
        let read = self.stream.read(&mut space).unwrap();
        self.spare.extend_from_slice(&space[..read]);
        read
    }

    fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.spare.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(self.more() > 0, "closed before an answer");
        };
        let rest = self.spare.split_off(end + 4);
        let head = String::from_utf8(std::mem::replace(&mut self.spare, rest)).unwrap();
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        while self.spare.len() < length {
            assert!(self.more() > 0, "closed within an answer");
        }
        let rest = self.spare.split_off(length);
        let body = String::from_utf8(std::mem::replace(&mut self.spare, rest)).unwrap();
        let status = head[9..12].parse().unwrap();
        Answer { status, head, body }
    }

    /// Waits for the close; what came before it.
    fn rest(&mut self) -> String {
        while self.more() > 0 {}
        String::from_utf8(std::mem::take(&mut self.spare)).unwrap()
    }
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" })).with_state(())
}

fn short_heads() -> ServeSettings {
    ServeSettings { head_timeout: SHORT, ..ServeSettings::default() }
}

fn short_idles() -> ServeSettings {
    ServeSettings { idle_timeout: SHORT, ..ServeSettings::default() }
}

fn echo(settings: BodySettings) -> Router {
    let metrics = HttpMetrics::register(&mut Registry::default());
    let reader = BodyReader::new(settings, Budget::new(Budget::DEFAULT_BYTES, &metrics));
    async fn handler(reader: State<BodyReader>, request: Request) -> Result<Bytes, HttpError> {
        Ok(reader.read(request.into_body()).await?.bytes)
    }
    Router::new().route("/", post(handler)).with_state(reader)
}

#[test]
fn a_head_that_drips_gets_408_and_others_are_served_meanwhile() {
    let running = Running::start(hello(), short_heads());
    let mut slow = running.connect();
    slow.send("GET / HTTP/1.1\r\n");
    slow.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut space = [0; 1024];
    let read = loop {
        assert_eq!(running.connect().get("/").body, "hello");
        let _ = slow.stream.write_all(b"x");
        match slow.stream.read(&mut space) {
            Ok(read) => break read,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    };
    let answer = std::str::from_utf8(&space[..read]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with(r#"slowly"}"#), "{answer}");
}

#[test]
fn a_slow_second_head_gets_408_too() {
    let running = Running::start(hello(), short_heads());
    let mut client = running.connect();
    assert_eq!(client.get("/").status, 200);
    client.send("GET / HT");
    assert!(client.rest().starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_client_that_says_nothing_is_closed_without_an_answer() {
    let running = Running::start(hello(), short_heads());
    assert_eq!(running.connect().rest(), "");
}

#[test]
fn an_idle_connection_is_closed_without_an_answer() {
    let running = Running::start(hello(), short_idles());
    let mut client = running.connect();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.rest(), "");
    running.await_open(0);
}

#[test]
fn an_idle_connection_is_not_taken_for_a_slow_head() {
    let running = Running::start(hello(), short_heads());
    let mut client = running.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 200);
        assert_eq!(running.connect().rest(), "", "the head limit has passed");
    }
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_handler_that_takes_its_time_is_neither_idle_nor_slow() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Arc::new(std::sync::Mutex::new(gone));
    let wait = move || {
        let gone = Arc::clone(&gone);
        async move {
            tokio::task::spawn_blocking(move || gone.lock().unwrap().recv().unwrap())
                .await
                .unwrap();
            "done"
        }
    };
    let router = hello().route("/wait", get(wait));
    let settings = ServeSettings { idle_timeout: SHORT, ..short_heads() };
    let running = Running::start(router, settings);
    let mut client = running.connect();
    client.send("GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut idle = running.connect();
    idle.get("/");
    idle.rest();
    go.send(()).unwrap();
    assert_eq!(client.answer().body, "done");
}

/// A body without end that tells when it is dropped.
struct Endless(Option<mpsc::Sender<()>>);

impl axum::body::HttpBody for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        let chunk = Bytes::from_static(&[b'x'; 16 << 10]);
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(chunk))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let (sender, dropped) = mpsc::channel();
    let endless = move || {
        let body = Body::new(Endless(Some(sender.clone())));
        async move { body }
    };
    let settings = ServeSettings { write_timeout: SHORT, ..ServeSettings::default() };
    let running = Running::start(hello().route("/endless", get(endless)), settings);
    let mut client = running.connect();
    client.send("GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n");
    dropped.recv_timeout(Duration::from_secs(30)).expect("the answer was dropped");
    assert_eq!(running.connect().get("/").status, 200);
}

#[test]
fn an_address_over_its_limit_gets_429_and_loopback_is_spared() {
    let limited = |exempt_loopback| ServeSettings {
        max_connections_per_address: 1,
        exempt_loopback,
        ..ServeSettings::default()
    };
    let running = Running::start(hello(), limited(false));
    let mut first = running.connect();
    assert_eq!(first.get("/").status, 200);
    let mut second = running.connect();
    second.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let refused = second.answer();
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert_eq!(first.get("/").status, 200);
    let running = Running::start(hello(), limited(true));
    let mut clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200));
}

#[test]
fn a_full_server_says_503_and_takes_the_next_one_when_a_place_is_free() {
    let settings = ServeSettings { max_connections: 1, ..ServeSettings::default() };
    let running = Running::start(hello(), settings);
    let mut first = running.connect();
    assert_eq!(first.get("/").status, 200);
    let refused = running.connect().answer();
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1") && refused.body.starts_with(r#"{"error""#));
    first.stream.shutdown(Shutdown::Both).unwrap();
    running.await_open(0);
    assert_eq!(running.connect().get("/").status, 200);
}

#[test]
fn a_head_with_too_many_or_too_large_fields_is_431() {
    let running = Running::start(hello(), ServeSettings::default());
    let fields = |count: usize| "a: b\r\n".repeat(count - 1);
    let mut client = running.connect();
    client.send(&format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", fields(64)));
    assert_eq!(client.answer().status, 200);
    client.send(&format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", fields(65)));
    let answer = client.answer();
    assert_eq!(answer.status, 431);
    assert!(answer.head.contains("nosniff") && answer.body.contains("64"), "{answer:?}");
    for count in [101, 10_000] {
        let mut client = running.connect();
        let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", fields(count));
        client.send(&head);
        let answer = client.answer();
        assert_eq!(answer.status, 431, "{count}");
        assert!(answer.head.contains("nosniff") && answer.body.contains("too large"), "{answer:?}");
    }
    let mut client = running.connect();
    client.send("NOT HTTP\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.head.contains("nosniff") && answer.body.contains("error"), "{answer:?}");
    let mut client = running.connect();
    client.send(&format!("GET / HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n", "b".repeat(9000)));
    assert_eq!(client.answer().status, 200);
    client.send(&format!("GET / HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n", "b".repeat(17000)));
    assert_eq!(client.answer().status, 431);
}

#[test]
fn a_client_that_sends_far_too_much_can_still_read_the_413() {
    let running = Running::start(echo(BodySettings::default()), ServeSettings::default());
    let body = "x".repeat(4 << 20);
    let mut client = running.connect();
    client.send("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4194304\r\n\r\n");
    client.send(&body);
    let answer = client.answer();
    assert_eq!(answer.status, 413);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    let mut client = running.connect();
    client
        .send("POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n400000\r\n");
    client.send(&body);
    client.send("\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
}

#[test]
fn bodies_arrive_whole_and_the_connection_goes_on() {
    let running = Running::start(echo(BodySettings::default()), ServeSettings::default());
    let mut client = running.connect();
    for size in [0, 5, 20_000, 1 << 20] {
        client
            .send(&format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"));
        client.send(&"y".repeat(size));
        let answer = client.answer();
        assert_eq!((answer.status, answer.body.len()), (200, size));
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_continue_or_that_it_is_too_large() {
    let running = Running::start(echo(BodySettings::default()), ServeSettings::default());
    let head = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let mut client = running.connect();
    client.send(&head(3));
    assert_eq!(client.answer().status, 100);
    client.send("abc");
    assert_eq!(client.answer().body, "abc");
    client.send(&head(2 << 20));
    assert_eq!(client.answer().status, 413);
}

#[test]
fn a_body_that_stops_gets_408_and_the_connection_ends() {
    let settings = BodySettings { timeout: SHORT, ..BodySettings::default() };
    let running = Running::start(echo(settings), ServeSettings::default());
    let mut client = running.connect();
    client.send("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc");
    let answer = client.answer();
    assert_eq!(answer.status, 408);
    assert_eq!(client.rest(), "");
}

#[test]
fn a_client_that_closes_its_sending_side_still_gets_its_answer() {
    let running = Running::start(echo(BodySettings::default()), ServeSettings::default());
    let mut client = running.connect();
    client.send("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().body, "abc");
    assert_eq!(client.rest(), "");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let running = Running::start(echo(BodySettings::default()), short_idles());
    let mut client = running.connect();
    let one =
        |body| format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n{body}");
    let all: String = ('a'..='z').map(one).collect();
    client.send(&all);
    let answers: String = ('a'..='z').map(|_| client.answer().body).collect();
    assert_eq!(answers, "abcdefghijklmnopqrstuvwxyz");
    assert_eq!(client.rest(), "", "and then it is idle");
}

/// A route that announces itself and waits for a word.
fn gated() -> (Router, mpsc::Receiver<()>, tokio::sync::mpsc::UnboundedSender<()>) {
    let (entered, inside) = mpsc::channel();
    let (go, gate) = tokio::sync::mpsc::unbounded_channel::<()>();
    let gate = Arc::new(tokio::sync::Mutex::new(gate));
    let handler = move || {
        entered.send(()).unwrap();
        let gate = Arc::clone(&gate);
        async move {
            gate.lock().await.recv().await;
            // So that the connection looks up once more between the word and the answer.
            tokio::task::yield_now().await;
            "done"
        }
    };
    (hello().route("/gate", get(handler)), inside, go)
}

#[test]
fn a_stop_finishes_what_is_in_flight_and_closes_the_rest() {
    let (router, inside, go) = gated();
    let running = Running::start(router, ServeSettings::default());
    let (mut busy, mut idle, mut fresh) = (running.connect(), running.connect(), running.connect());
    assert_eq!(idle.get("/").status, 200);
    busy.send("GET /gate HTTP/1.1\r\nhost: localhost\r\n\r\n");
    inside.recv().unwrap();
    running.life.stop();
    assert_eq!(idle.rest(), "");
    assert_eq!(fresh.rest(), "");
    assert!(TcpStream::connect(running.address).is_err(), "nobody listens any more");
    go.send(()).unwrap();
    let answer = busy.answer();
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    running.ended();
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let (router, inside, _go) = gated();
    let settings = ServeSettings { drain_timeout: SHORT, ..ServeSettings::default() };
    let running = Running::start(router, settings);
    let mut busy = running.connect();
    busy.send("GET /gate HTTP/1.1\r\nhost: localhost\r\n\r\n");
    inside.recv().unwrap();
    running.life.stop();
    assert_eq!(busy.rest(), "");
    running.await_open(0);
    running.ended();
}

/// Answers 101 and then echoes one chunk.
async fn upgraded(mut request: Request) -> Response {
    use std::future::poll_fn;
    use std::pin::Pin;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
        let mut space = [0; 64];
        let mut buffer = ReadBuf::new(&mut space);
        poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut buffer)).await.unwrap();
        let bytes = buffer.filled().to_vec();
        poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await.unwrap();
    });
    let headers = [("connection", "upgrade"), ("upgrade", "echo")];
    (axum::http::StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[test]
fn an_upgraded_connection_outlives_the_idle_limit_and_stays_counted() {
    let settings = ServeSettings { idle_timeout: SHORT, ..short_heads() };
    let running = Running::start(hello().route("/echo", get(upgraded)), settings);
    let mut client = running.connect();
    client.send(
        "GET /echo HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
    );
    assert_eq!(client.answer().status, 101);
    let mut idle = running.connect();
    idle.get("/");
    idle.rest();
    running.await_open(1);
    client.send("still here");
    assert_eq!(client.rest(), "still here");
}

struct Secured {
    _files: tempfile::TempDir,
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

fn secured() -> Secured {
    let files = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
    std::fs::write(&chain, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Secured { server: load_tls(&chain, &key).unwrap(), client: Arc::new(client), _files: files }
}

type TlsClient = Client<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>;

fn connect_tls(running: &Running, secured: &Secured) -> TlsClient {
    let name = "localhost".try_into().unwrap();
    let session = rustls::ClientConnection::new(Arc::clone(&secured.client), name).unwrap();
    let stream = rustls::StreamOwned::new(session, running.connect().stream);
    Client { stream, spare: Vec::new() }
}

#[test]
fn requests_and_timers_work_through_tls() {
    let secured = secured();
    let settings = ServeSettings { idle_timeout: SHORT, ..short_heads() };
    let tls = Some(Arc::clone(&secured.server));
    let running = Running::start_tls(hello(), settings, tls);
    let mut client = connect_tls(&running, &secured);
    assert_eq!(client.get("/").body, "hello");
    assert_eq!(client.get("/").body, "hello");
    client.send("GET / HTTP");
    assert!(client.rest().starts_with("HTTP/1.1 408 "));
    let mut idle = connect_tls(&running, &secured);
    idle.get("/");
    assert_eq!(idle.rest(), "", "closed with close_notify, or this would be an error");
}

#[test]
fn a_handshake_that_never_comes_is_given_up() {
    let secured = secured();
    let settings = ServeSettings { handshake_timeout: SHORT, ..ServeSettings::default() };
    let running = Running::start_tls(hello(), settings, Some(Arc::clone(&secured.server)));
    assert_eq!(running.connect().rest(), "");
    let mut plain = running.connect();
    plain.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let _ = plain.stream.read(&mut [0; 64]);
    assert_eq!(connect_tls(&running, &secured).get("/").body, "hello");
}
