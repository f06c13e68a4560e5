//! What the page costs: its weight, the server's CPU while many look at it, and how soon a change
//! is seen.
//!
//! Starts a server and a message-consumer of its own, and sends 1,000 messages a second, 10 a
//! request: first while nobody looks, then while many pages show the pipeline. Then it orders
//! factorials one by one, and measures from the request to the frame that shows it.
//!
//! ```sh
//! cargo build --release --bins && cargo run --release --example page   # 100 pages, 15 s
//! cargo run --release --example page -- 20 5                           # 20 pages, 5 s each time
//! ```
//!
//! `BINARY` names another binary than the one that was built with it.
#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::{Message, WebSocket};

const REQUESTS_PER_SECOND: u32 = 100;
const MESSAGES_PER_REQUEST: usize = 10;
/// How long the server may take to draw what it draws for everybody who comes.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// Between two orders: so that each comes after a quiet time.
const PAUSE: Duration = Duration::from_millis(200);
/// Clock ticks per second of `/proc/PID/stat`: 100 on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let pages: usize = arguments.next().as_deref().unwrap_or("100").parse()?;
    let seconds: u64 = arguments.next().as_deref().unwrap_or("15").parse()?;
    let directory = tempfile::tempdir()?;
    let server = Process::start("server", directory.path())?;
    let _consumer = Process::start("message-consumer", directory.path())?;
    let address = server.address;
    let (bytes, parts) = weight(address)?;
    println!("the page weighs {bytes} bytes, in {parts} answers");
    let rate = REQUESTS_PER_SECOND as usize * MESSAGES_PER_REQUEST;
    let span = Duration::from_secs(seconds);
    load(address, SETTLED_AFTER)?;
    let alone = server.while_sending(span)?;
    println!("nobody looks: {alone:.2} % of a core at {rate} messages/s");
    let seen = Arc::new(Seen::default());
    for _ in 0..pages {
        let (mut page, seen) = (look(address, "pipeline")?, Arc::clone(&seen));
        std::thread::spawn(move || while page.read().is_ok_and(|frame| seen.note(&frame)) {});
    }
    load(address, SETTLED_AFTER)?;
    let before = seen.taken();
    let watched = server.while_sending(span)?;
    let after = seen.taken();
    let each = |count: u64| count as f64 / pages.max(1) as f64 / span.as_secs_f64();
    let (frames, bytes) = (each(after.0 - before.0), each(after.1 - before.1));
    println!("{pages} pages look: {watched:.2} % of a core, {:.2} % more", watched - alone);
    println!("each of them gets {frames:.1} frames/s, {bytes:.0} bytes/s");
    let mut waits = latencies(address, 10 * seconds)?;
    waits.sort_unstable();
    let at = |share: usize| waits.get(waits.len() * share / 100).copied().unwrap_or_default();
    println!(
        "a change is in a frame after p50 {:.1} ms, p99 {:.1} ms",
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3
    );
    Ok(())
}

/// A service that ends with its owner.
struct Process {
    child: Child,
    /// Where it listens; of one that does not, where nobody is.
    address: SocketAddr,
}

impl Process {
    /// Starts a service, and waits until it is ready.
    fn start(command: &str, directory: &Path) -> Outcome<Self> {
        let built = std::env::current_exe()?.parent().and_then(Path::parent).map(Path::to_owned);
        let beside = || built.unwrap_or_default().join("async-data-processor");
        let binary = std::env::var_os("BINARY").map_or_else(beside, PathBuf::from);
        let mut child = Command::new(binary)
            .arg(command)
            .env_clear()
            .env("STATE_DIR", directory.join("state"))
            .env("DATA_OUTPUT_DIR", directory.join("output"))
            .envs([("PORT", "0"), ("LOG_FORMAT", "json")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no log")?).lines();
        let address = loop {
            let line = lines.next().ok_or("it ends while it starts")??;
            let line: Value = serde_json::from_str(&line)?;
            let member = |name| line.get(name).and_then(Value::as_str);
            match (member("message"), member("url")) {
                (Some("listening"), Some(url)) => {
                    break url.rsplit('/').next().unwrap_or(url).parse()?;
                }
                (Some("took over shards"), _) => break SocketAddr::from(([0, 0, 0, 0], 0)),
                _ => {}
            }
        };
        // A log that nobody reads would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    /// CPU seconds so far.
    fn cpu_seconds(&self) -> Outcome<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything (proc(5)), the 14th and 15th: utime and stime.
        let rest = text.rsplit(')').next().unwrap_or_default();
        let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
    }

    /// Percent of a core that it takes while messages come.
    fn while_sending(&self, span: Duration) -> Outcome<f64> {
        let (before, began) = (self.cpu_seconds()?, Instant::now());
        load(self.address, span)?;
        Ok((self.cpu_seconds()? - before) / began.elapsed().as_secs_f64() * 100.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sends messages at a steady rate.
fn load(address: SocketAddr, span: Duration) -> Outcome<()> {
    let entry = r#"{"timestamp":"2026-11-22T07:30:00Z","value":"hello"}"#;
    let body = format!("[{}]", [entry; MESSAGES_PER_REQUEST].join(","));
    let mut client = Client::new(address)?;
    let began = Instant::now();
    let mut requests = 0;
    while began.elapsed() < span {
        let due = began + Duration::from_secs(1) * requests / REQUESTS_PER_SECOND;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        client.ask("POST /message", &body)?;
        requests += 1;
    }
    Ok(())
}

/// HTTP over one connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The body of an answer that says yes.
    fn ask(&mut self, line: &str, body: &str) -> Outcome<String> {
        let length = body.len();
        write!(
            self.0.get_mut(),
            "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let (mut head, mut length) = (String::new(), 0);
        while self.0.read_line(&mut head)? > 2 {
            let last = head.lines().last().unwrap_or_default().to_ascii_lowercase();
            if let Some(value) = last.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let body = String::from_utf8(body)?;
        if head.starts_with("HTTP/1.1 2") {
            Ok(body)
        } else {
            Err(format!("{line}: {head}{body}").into())
        }
    }
}

/// The bytes of the page and of all that it loads, and of how many answers they are the bodies.
fn weight(address: SocketAddr) -> Outcome<(usize, usize)> {
    let mut client = Client::new(address)?;
    let (mut open, mut bytes) = (vec!["/".to_owned()], 0);
    let mut known: BTreeSet<String> = open.iter().cloned().collect();
    while let Some(path) = open.pop() {
        let text = client.ask(&format!("GET {path}"), "")?;
        bytes += text.len();
        let quoted = text.split(['"', '\'']).filter_map(|word| {
            let word = word.strip_prefix("./").or_else(|| word.strip_prefix("/page/"))?;
            let is_loaded = [".js", ".css", ".svg"].iter().any(|end| word.ends_with(end));
            is_loaded.then(|| format!("/page/{word}"))
        });
        for path in quoted {
            if known.insert(path.clone()) {
                open.push(path);
            }
        }
    }
    Ok((bytes, known.len()))
}

/// Opens the socket of a page that looks at a view.
fn look(address: SocketAddr, view: &str) -> Outcome<WebSocket<TcpStream>> {
    let url = format!("ws://localhost:{}/page/live", address.port());
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut page, _) = tungstenite::client(url, stream).map_err(|error| error.to_string())?;
    page.send(Message::text(view))?;
    Ok(page)
}

/// What all pages have got.
#[derive(Default)]
struct Seen {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Seen {
    /// Counts a frame; whether more may come.
    fn note(&self, frame: &Message) -> bool {
        self.frames.fetch_add(1, Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Relaxed);
        !frame.is_close()
    }

    fn taken(&self) -> (u64, u64) {
        (self.frames.load(Relaxed), self.bytes.load(Relaxed))
    }
}

/// How long it takes from an order to the frame that shows it, each after a quiet time.
fn latencies(address: SocketAddr, orders: u64) -> Outcome<Vec<Duration>> {
    let (mut page, mut client) = (look(address, "calculations")?, Client::new(address)?);
    let mut waits = Vec::new();
    for input in 1_000_000..1_000_000 + orders {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        client.ask("POST /factorial", &format!("{{\"input\":{input}}}"))?;
        let cell = format!(">{input}</td>");
        while !page.read()?.to_text()?.contains(&cell) {}
        waits.push(began.elapsed());
    }
    Ok(waits)
}
