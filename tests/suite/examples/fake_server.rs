//! A server that answers as it is told: what a client meets on a bad day.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

/// What it does with a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    /// Reads it, and closes the connection without a word.
    HangUp,
    /// Starts an answer, and closes the connection within it.
    BreakOff,
    /// Answers with this status, and with `Retry-After: 0`.
    Status(u16),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) key: String,
    pub(super) body: String,
}

pub(super) struct FakeServer {
    pub(super) address: SocketAddr,
    thread: JoinHandle<Vec<Received>>,
}

impl FakeServer {
    /// Gives each request the next of `replies`, then ends.
    pub(super) fn start(replies: &'static [Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let serve = |reply: &Reply| {
                let (mut stream, _) = listener.accept().unwrap();
                let received = receive(&mut stream);
                answer(&mut stream, *reply);
                received
            };
            replies.iter().map(serve).collect()
        });
        Self { address, thread }
    }

    /// What it has received, once it has given all its replies.
    pub(super) fn received(self) -> Vec<Received> {
        self.thread.join().unwrap()
    }
}

fn receive(stream: &mut TcpStream) -> Received {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the client left within its request");
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        assert!(head.starts_with("POST /message HTTP/1.1\r\n"), "{head}");
        if body.len() >= header("content-length").unwrap().parse::<usize>().unwrap() {
            let key = header("idempotency-key").unwrap().to_owned();
            return Received { key, body: body.to_owned() };
        }
    }
}

fn answer(stream: &mut TcpStream, reply: Reply) {
    let status = match reply {
        Reply::HangUp => return,
        Reply::BreakOff => {
            return stream
                .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 40\r\n\r\n{")
                .unwrap();
        }
        Reply::Status(status) => status,
    };
    let body = format!("{{\"told\":{status}}}");
    let head = format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n", body.len());
    let tail = "Retry-After: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{head}{tail}{body}").as_bytes()).unwrap();
}
