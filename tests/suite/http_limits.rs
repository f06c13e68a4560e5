//! The limits of the listener, at their real sizes and times: who goes beyond them is told, and
//! everybody else is served meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{
    Answer, PATIENCE, Process, Rig, connect, entry, post, post_entries, request, wait_for,
};

const BODY_BYTES_MAX: usize = 1 << 20;
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A valid body of so many bytes.
fn body_of(bytes: usize) -> Vec<u8> {
    let mut body = format!("[{}", entry(0, "a")).into_bytes();
    body.resize(bytes - 1, b' ');
    body.push(b']');
    body
}

/// The head of a `POST /message` with these header lines.
fn head(lines: &str) -> Vec<u8> {
    format!("POST /message HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
}

/// A connection whose answers may come several at once.
struct Client {
    stream: TcpStream,
    spare: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self { stream: connect(address), spare: Vec::new() }
    }

    /// Sends what the server takes: one that refuses need not read all.
    fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let _refused = self.stream.write_all(bytes);
        self
    }

    /// Up to and with the next blank line.
    fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.spare.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.spare.split_off(end + 4);
                return String::from_utf8(std::mem::replace(&mut self.spare, rest)).unwrap();
            }
            assert_ne!(self.read(), 0, "closed before an answer");
        }
    }

    fn read(&mut self) -> usize {
        let mut chunk = [0; 16 << 10];
        let count = self.stream.read(&mut chunk).unwrap();
        self.spare.extend_from_slice(&chunk[..count]);
        count
    }

    fn answer(&mut self) -> Answer {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").unwrap().parse().unwrap();
        while self.spare.len() < length {
            assert_ne!(self.read(), 0, "closed within an answer");
        }
        let rest = self.spare.split_off(length);
        answer.body = std::mem::replace(&mut self.spare, rest);
        answer
    }

    /// Waits until the server closes, which it does without a further word.
    fn expect_close(mut self) {
        // What was sent in vain may have turned the close into a reset.
        let ended = self.stream.read(&mut [0; 1]);
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|e| e.kind() != ErrorKind::WouldBlock));
        assert!(self.spare.is_empty());
    }
}

/// `text` cut into chunks of `size` bytes, with the last one.
fn chunked(text: &[u8], size: usize) -> Vec<u8> {
    let mut framed = Vec::new();
    for chunk in text.chunks(size) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

#[test]
fn a_body_over_the_limit_is_413_however_it_is_framed_and_is_not_stored() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let too_large = body_of(BODY_BYTES_MAX + 1);
    let length = format!("Content-Length: {}\r\n", too_large.len());
    let told = |mut client: Client| {
        let answer = client.answer();
        assert_eq!(answer.status, 413, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(text.contains("larger than 1048576 bytes"), "{text}");
        client.expect_close();
    };
    let chunks = "Transfer-Encoding: chunked\r\n";
    for (lines, body) in [
        (length.as_str(), too_large.clone()),
        (chunks, chunked(&too_large, 1000)),
        (chunks, chunked(&too_large, too_large.len())),
        ("Content-Length: 18446744073709551613\r\n", Vec::new()),
    ] {
        let mut client = Client::new(address);
        client.send(&head(lines)).send(&body);
        told(client);
    }
    // Who asks first is not told to go on.
    let mut client = Client::new(address);
    client.send(&head(&format!("{length}Expect: 100-continue\r\n")));
    told(client);
    assert_eq!(rig.verify(&[])["accepted"], 0);
    let largest = body_of(BODY_BYTES_MAX);
    assert_eq!(post(address, &largest).status, 201);
    let mut client = Client::new(address);
    client.send(&head(chunks)).send(&chunked(&largest, 4093));
    assert_eq!(client.answer().status, 201);
    assert_eq!(rig.verify(&[])["accepted"], 2);
}

#[test]
fn a_head_with_too_many_or_too_large_fields_is_431_and_the_next_client_is_served() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let fields = |count| (0..count).map(|n| format!("X-{n}: a\r\n")).collect::<String>();
    let long = |bytes| format!("X-Long: {}\r\n", "a".repeat(bytes));
    // Host and Content-Length are fields, too.
    for lines in [fields(63), fields(1000), long(16 << 10), long(100 << 10), long(10 << 20)] {
        let mut client = Client::new(address);
        client.send(&head(&format!("Content-Length: 2\r\n{lines}"))).send(b"[]");
        assert_eq!(client.answer().status, 431, "{} bytes", lines.len());
        assert_eq!(post(address, b"[]").status, 201);
    }
    let path = format!("/{}", "a".repeat(16 << 10));
    assert_eq!(request(address, "GET", &path, &[], b"").status, 431);
    for lines in [fields(62), long(15 << 10)] {
        let mut client = Client::new(address);
        client.send(&head(&format!("Content-Length: 2\r\n{lines}"))).send(b"[]");
        assert_eq!(client.answer().status, 201);
    }
}

/// What a slow client does after its beginning: in the end it gets an answer.
type GoOn = fn(Client) -> Answer;

/// Sends a byte now and then until an answer comes.
fn drip(mut client: Client) -> Answer {
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    loop {
        let _closed = client.stream.write_all(b"x");
        match client.stream.peek(&mut [0]) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.answer()
}

#[test]
fn who_sends_too_slowly_is_told_408_and_others_are_served_meanwhile() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let mut second_head = Client::new(address);
    assert_eq!(second_head.send(HEALTH.as_bytes()).answer().status, 200);
    let go_on = |mut client: Client, begin: &[u8], go_on: GoOn| {
        client.send(begin);
        std::thread::spawn(move || go_on(client))
    };
    let stop: GoOn = |mut client| client.answer();
    let chunk = [&head("Transfer-Encoding: chunked\r\n")[..], b"fffff\r\n["].concat();
    let bodies = [
        go_on(Client::new(address), &head("Content-Length: 1000\r\n"), stop),
        go_on(
            Client::new(address),
            &[head("Content-Length: 9999\r\n"), body_of(99)].concat(),
            drip,
        ),
        go_on(Client::new(address), &chunk, drip),
    ];
    let heads = [
        go_on(Client::new(address), b"POST /message HTTP/1.1\r\nHos", stop),
        go_on(Client::new(address), b"POST /message HTTP/1.1\r\nX-", drip),
        go_on(second_head, b"GET /", drip),
    ];
    let all_told = |slow: &[JoinHandle<Answer>]| slow.iter().all(JoinHandle::is_finished);
    let mut served = 0;
    let mut others_served_until = |told: &dyn Fn() -> bool| {
        wait_for("the slow clients to be told", || {
            post_entries(address, &[entry(0, "quick")]);
            served += 1;
            told().then_some(())
        });
    };
    others_served_until(&|| all_told(&bodies));
    // Heads have twice as long as bodies that do not earn their time.
    assert!(!heads.iter().any(JoinHandle::is_finished), "the bodies were told too late");
    others_served_until(&|| all_told(&heads));
    for answer in bodies.into_iter().chain(heads).map(|thread| thread.join().unwrap()) {
        assert_eq!(answer.status, 408, "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("slow"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    }
    assert_eq!(rig.verify(&[])["accepted"], served);
}

/// How many connections the server has open, asked on one of them.
fn connections(client: &mut Client) -> usize {
    let metrics = client.send(HEALTH.replace("health", "metrics").as_bytes()).answer();
    let text = String::from_utf8(metrics.body).unwrap();
    let line = text.lines().find(|line| line.contains("http_connections ") && !line.contains('#'));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out_and_a_full_server_says_so() {
    // As many descriptors as the test may have: it has the other end of each connection.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let rig = Rig::new();
    // What a shell gives by default would be too few, but more may be had.
    let server = rig.wrapped(&["prlimit", "--nofile=512:4096"], &["server"]);
    let server = Process::start(server);
    let address = server.address();
    // Idle between requests: one that has never said a word is closed much sooner.
    let idle = |_| {
        let mut client = Client::new(address);
        assert_eq!(client.send(HEALTH.as_bytes()).answer().status, 200);
        client
    };
    let mut held: Vec<_> = (0..1000).map(idle).collect();
    assert_eq!(connections(&mut held[0]), 1000);
    post_entries(address, &[entry(0, "a")]);
    for client in &mut held {
        assert_eq!(client.send(HEALTH.as_bytes()).answer().status, 200);
    }
    let mut alone = |count| {
        wait_for("the others to be gone", || (connections(&mut held[0]) == count).then_some(()));
    };
    alone(1000);
    let more: Vec<_> = (1000..2048).map(idle).collect();
    let mut late = Client::new(address);
    let answer = late.answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains("connections"), "{answer:?}");
    drop(more);
    alone(1000);
    post_entries(address, &[entry(0, "b")]);
}

#[test]
fn requests_on_one_connection_are_answered_in_their_order() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let mut client = Client::new(server.address());
    let mut sent = Vec::new();
    for count in 0..50 {
        let entries: Vec<_> = (0..count).map(|n| entry(n, "a")).collect();
        let body = format!("[{}]", entries.join(","));
        sent.extend(head(&format!("Content-Length: {}\r\n", body.len())));
        sent.extend(body.into_bytes());
        sent.extend(HEALTH.as_bytes());
        sent.extend(head("Content-Length: 1\r\n"));
        sent.push(b'x');
    }
    client.send(&sent);
    for count in 0..50 {
        assert_eq!(client.answer().json()["accepted"], count);
        assert_eq!(client.answer().status, 200);
        assert_eq!(client.answer().status, 400);
    }
    assert_eq!(rig.verify(&[])["accepted"], 49 * 50 / 2);
}

#[test]
fn an_http_1_0_client_is_answered_and_its_connection_closed_unless_it_asks_otherwise() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let body = format!("[{}]", entry(0, "a"));
    let old = |lines: &str| {
        let length = body.len();
        format!("POST /message HTTP/1.0\r\n{lines}Content-Length: {length}\r\n\r\n{body}")
    };
    let mut client = Client::new(server.address());
    client.send(old("").as_bytes());
    assert_eq!(client.answer().status, 201);
    client.expect_close();
    let mut client = Client::new(server.address());
    for _ in 0..2 {
        client.send(old("Connection: keep-alive\r\n").as_bytes());
        assert_eq!(client.answer().status, 201);
    }
    client.send(HEALTH.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes());
    assert_eq!(client.answer().header("connection"), Some("close"));
    client.expect_close();
    assert_eq!(rig.verify(&[])["accepted"], 3);
}

#[test]
fn a_full_budget_of_bodies_is_503_and_all_it_held_are_served_after() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let ask = head(&format!("Content-Length: {BODY_BYTES_MAX}\r\nExpect: 100-continue\r\n"));
    let body = body_of(BODY_BYTES_MAX);
    // Twice: what was given back can be had again.
    for round in 1..=2 {
        // Half a body each, so that none of them is slow; told to go on, each has its place.
        let begun = [(); 16].map(|()| {
            let mut client = Client::new(address);
            assert!(client.send(&ask).head().starts_with("HTTP/1.1 100 "));
            client.send(&body[..BODY_BYTES_MAX / 2]);
            client
        });
        let answer = Client::new(address).send(&ask).answer();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty());
        assert_eq!(post(address, &body_of(100)).status, 503);
        assert_eq!(request(address, "GET", "/health", &[], b"").status, 200);
        for mut client in begun {
            assert_eq!(client.send(&body[BODY_BYTES_MAX / 2..]).answer().status, 201);
        }
        assert_eq!(rig.verify(&[])["accepted"], 16 * round);
    }
}

#[test]
fn who_does_not_read_its_answers_holds_up_nobody_and_is_not_buffered_for() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let mut deaf = Client::new(address);
    deaf.stream.set_nonblocking(true).unwrap();
    // Large requests, so that a few of them fill what lies between.
    let pad = format!("X-Pad: {}\r\n\r\n", "a".repeat(8 << 10));
    let ask = HEALTH.replace("/health", "/openapi.json").replace("\r\n\r\n", "\r\n") + &pad;
    let ask = ask.repeat(10).into_bytes();
    let (mut sent, mut served) = (0, 0);
    // It is stuck once others were served a hundred times while not a byte of it was taken.
    while served < 100 {
        match deaf.stream.write(&ask[sent % ask.len()..]) {
            Ok(count) => (sent, served) = (sent + count, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert_eq!(request(address, "GET", "/health", &[], b"").status, 200);
                served += 1;
            }
        }
        assert!(sent < 64 << 20, "the server reads on and on");
    }
    deaf.stream.set_nonblocking(false).unwrap();
    let mut reader = Client { stream: deaf.stream.try_clone().unwrap(), spare: Vec::new() };
    let whole = (sent / ask.len() + 1) * 10;
    let rest = ask[sent % ask.len()..].to_vec();
    let writer = std::thread::spawn(move || deaf.stream.write_all(&rest).unwrap());
    for _ in 0..whole {
        assert_eq!(reader.answer().status, 200);
    }
    writer.join().unwrap();
    post_entries(address, &[entry(0, "a")]);
}
