//! A spaceship that sends what the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use serde_json::{Value, json};
use uuid::Uuid;

/// What a stream does: it ends when this does, and is to end soon when it is no more wanted.
type Script = dyn Fn(&FakeStream) + Send + Sync;

/// A spaceship; it goes on until the tests end.
pub(super) struct FakeShip {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    streams: Mutex<Vec<Arc<FakeStream>>>,
    asked: Mutex<Vec<String>>,
    /// What the next wishes for a stream are answered, instead of a stream.
    refusals: Mutex<Vec<(u16, Value)>>,
    /// What every stream is called, if they are not to have names of their own.
    key: Mutex<Option<Uuid>>,
    /// Whether it answers nothing but that it cannot.
    is_out: AtomicBool,
    /// How many more answers to a DELETE do not arrive.
    lost_answers: AtomicU64,
    /// R2's ship names no source, knows no lease, and counts nothing.
    is_r2: bool,
}

pub(super) struct FakeStream {
    pub(super) key: Uuid,
    pub(super) ship: String,
    pub(super) target: SocketAddr,
    socket: UdpSocket,
    sent: AtomicU64,
    lease: Duration,
    renewed_at: Mutex<Instant>,
    is_stopped: AtomicBool,
    is_collected: AtomicBool,
    sender: Mutex<Option<JoinHandle<()>>>,
}

impl FakeStream {
    /// Sends a datagram, and counts it.
    pub(super) fn send(&self, datagram: &[u8]) {
        // A port that is closed is no matter of the ship's.
        let _refused = self.socket.send_to(datagram, self.target);
        self.sent.fetch_add(1, Ordering::SeqCst);
    }

    /// Sends again what was sent before, which the network might do as well.
    pub(super) fn send_again(&self, datagram: &[u8]) {
        self.send(datagram);
        self.sent.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sends a datagram again and again, as fast as it can, for as long as it is wanted. Counts
    /// none.
    pub(super) fn flood(&self, datagram: &[u8]) {
        flood(&self.socket, self.target, datagram, || self.is_wanted());
    }

    /// Says to have sent one that it does not send.
    pub(super) fn lose(&self) {
        self.sent.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(super) fn is_wanted(&self) -> bool {
        let is_leased = self.renewed_at.lock().unwrap().elapsed() < self.lease;
        is_leased && !self.is_stopped.load(Ordering::SeqCst)
    }

    /// Whether it still sends.
    pub(super) fn is_on(&self) -> bool {
        self.sender.lock().unwrap().as_ref().is_some_and(|sender| !sender.is_finished())
    }

    /// Waits until nobody wants it any more.
    pub(super) fn wait_unwanted(&self) {
        while self.is_wanted() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops it; when this returns, it sends nothing more.
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        let sender = self.sender.lock().unwrap().take();
        sender.into_iter().for_each(|sender| sender.join().unwrap());
    }
}

/// Sends a datagram while it is to go on: more of them than anybody takes in.
pub(super) fn flood(
    socket: &UdpSocket,
    target: SocketAddr,
    datagram: &[u8],
    goes_on: impl Fn() -> bool,
) {
    setsockopt(socket, UdpGsoSegment, &i32::try_from(datagram.len()).unwrap()).unwrap();
    let many = datagram.repeat(64);
    while goes_on() {
        // A port that is closed, or a kernel without room.
        let _refused = socket.send_to(&many, target);
    }
}

/// A datagram as a ship of ours sends it.
pub(super) fn telemetry(sequence: u64) -> Vec<u8> {
    format!(
        "{{\"timestamp\":\"2026-11-22T07:30:00.000001Z\",\"description\":\"Battery Voltage\",\
         \"value\":{},\"unit\":\"V\",\"sequence\":{sequence}}}",
        5 + sequence % 26
    )
    .into_bytes()
}

impl FakeShip {
    pub(super) fn start(script: impl Fn(&FakeStream) + Send + Sync + 'static) -> Self {
        Self::start_as(false, script)
    }

    /// A ship as R2 has them.
    pub(super) fn start_r2(script: impl Fn(&FakeStream) + Send + Sync + 'static) -> Self {
        Self::start_as(true, script)
    }

    fn start_as(is_r2: bool, script: impl Fn(&FakeStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            streams: Mutex::default(),
            asked: Mutex::default(),
            refusals: Mutex::default(),
            key: Mutex::default(),
            is_out: AtomicBool::new(false),
            lost_answers: AtomicU64::new(0),
            is_r2,
        });
        let answering = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let shared = Arc::clone(&answering);
                std::thread::spawn(move || shared.answer(connection.unwrap()));
            }
        });
        Self { address, shared }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next wish for a stream with this.
    pub(super) fn refuse(&self, status: u16, answer: Value) {
        self.shared.refusals.lock().unwrap().push((status, answer));
    }

    /// From now on it does nothing of what it is asked, or does so again. Its streams go on.
    pub(super) fn set_out(&self, is_out: bool) {
        self.shared.is_out.store(is_out, Ordering::SeqCst);
    }

    /// Every stream from now on has this key.
    pub(super) fn name_streams(&self, key: Uuid) {
        *self.shared.key.lock().unwrap() = Some(key);
    }

    /// The answers to the next DELETEs do not arrive.
    pub(super) fn lose_answers(&self, count: u64) {
        self.shared.lost_answers.store(count, Ordering::SeqCst);
    }

    /// Every request so far: `POST /stream/`.
    pub(super) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Every stream so far.
    pub(super) fn streams(&self) -> Vec<Arc<FakeStream>> {
        self.shared.streams.lock().unwrap().clone()
    }

    /// As if it were started anew: nothing is sent, and nobody knows what was.
    pub(super) fn forget(&self) {
        let streams = std::mem::take(&mut *self.shared.streams.lock().unwrap());
        streams.iter().for_each(|stream| stream.stop());
    }
}

impl Shared {
    fn answer(self: Arc<Self>, mut connection: TcpStream) {
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let words: Vec<&str> = first.split(' ').collect();
        let (method, path) = (words[0], words[1]);
        self.asked.lock().unwrap().push(format!("{method} {path}"));
        let (status, answer) = match self.is_out.load(Ordering::SeqCst) {
            true => (503, json!({"detail": "out of order"})),
            false => self.serve(method, path, &body),
        };
        let fewer = |count: u64| count.checked_sub(1);
        let lost = &self.lost_answers;
        let is_delete = method == "DELETE";
        if is_delete && lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            return;
        }
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", answer.len());
        // Whoever asked may have gone.
        let _gone =
            connection.write_all(format!("{head}Connection: close\r\n\r\n{answer}").as_bytes());
    }

    fn serve(self: &Arc<Self>, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let key = path.strip_prefix("/stream/").unwrap();
        let unknown = (404, json!({"detail": "Event key not found"}));
        match method {
            "POST" => {
                let mut refusals = self.refusals.lock().unwrap();
                if !refusals.is_empty() {
                    return refusals.remove(0);
                }
                drop(refusals);
                (200, self.begin(&serde_json::from_slice(body).unwrap()))
            }
            "PUT" if self.is_r2 => (405, json!({"detail": "Method Not Allowed"})),
            "PUT" => match self.find(key).filter(|stream| stream.is_wanted()) {
                Some(stream) => {
                    *stream.renewed_at.lock().unwrap() = Instant::now();
                    (200, json!({"state": "active"}))
                }
                None => unknown,
            },
            "DELETE" => match self.find(key) {
                Some(stream) if stream.is_collected.swap(true, Ordering::SeqCst) => unknown,
                Some(stream) => {
                    stream.stop();
                    let stopped = json!("Communication stopped");
                    let answer = match self.is_r2 {
                        true => json!({"message": stopped}),
                        false => json!({"message": stopped, "sent": stream.sent()}),
                    };
                    (200, answer)
                }
                None => unknown,
            },
            "GET" => match self.find(key) {
                Some(stream) if stream.is_on() => (200, json!({"state": "active", "sent": 1})),
                Some(stream) => (200, json!({"state": "ended", "sent": stream.sent()})),
                None => unknown,
            },
            _ => panic!("{method} {path}"),
        }
    }

    fn find(&self, key: &str) -> Option<Arc<FakeStream>> {
        let streams = self.streams.lock().unwrap();
        streams.iter().find(|stream| stream.key.to_string() == key).cloned()
    }

    fn begin(self: &Arc<Self>, wish: &Value) -> Value {
        let host = wish["host"].as_str().unwrap().parse().unwrap();
        let port = u16::try_from(wish["port"].as_u64().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = socket.local_addr().unwrap();
        let lease = wish["lease_seconds"].as_u64().unwrap();
        let lease = if self.is_r2 { Duration::MAX } else { Duration::from_secs(lease) };
        let stream = Arc::new(FakeStream {
            key: self.key.lock().unwrap().unwrap_or_else(Uuid::new_v4),
            ship: wish["ship_name"].as_str().unwrap().to_owned(),
            target: SocketAddr::new(host, port),
            socket,
            sent: AtomicU64::new(0),
            lease,
            renewed_at: Mutex::new(Instant::now()),
            is_stopped: AtomicBool::new(false),
            is_collected: AtomicBool::new(false),
            sender: Mutex::default(),
        });
        let (sending, shared) = (Arc::clone(&stream), Arc::clone(self));
        // It is known before it sends anything.
        let mut sender = stream.sender.lock().unwrap();
        self.streams.lock().unwrap().push(Arc::clone(&stream));
        *sender = Some(std::thread::spawn(move || (shared.script)(&sending)));
        drop(sender);
        match self.is_r2 {
            true => json!({"message": "Communication started", "event_key": stream.key}),
            false => json!({
                "message": "Communication started", "event_key": stream.key,
                "source": source, "ship_name": stream.ship, "rate": 0,
            }),
        }
    }
}
