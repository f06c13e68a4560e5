//! Thousands of requests that were good until bytes of them changed: whatever comes, the server
//! lives, never answers 5xx, and has stored exactly what it accepted.
//!
//! The dice are seeded, so a failure names a case that comes again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::harness::{Answer, Process, Rig, connect, entry, post_entries, request};

const SEED: u64 = 0x5eed_2026_1122;
const THREADS: u64 = 4;
const BODIES_PER_THREAD: u64 = 750;
const REQUESTS_PER_THREAD: u64 = 400;
const LINES: (&str, &str) = ("Content-Type", "application/x-ndjson");

const ARRAYS: [&str; 4] = [
    r#"[{"timestamp":"2026-11-22T07:30:00Z","value":""},{"timestamp":"1969-12-31T23:59:59Z"}]"#,
    r#"[ {"timestamp" : "2016-12-31T23:59:60Z", "n" : [1, -2e3, true,{"k":"\ud83d\ude80"}]} ]"#,
    r#"[{"value":"\"\\\n","timestamp":"9999-12-31T23:59:59Z","näïve":"🚀"}]"#,
    "[]",
];
const LINE_BODIES: [&str; 2] = [
    "{\"timestamp\":\"2026-11-22T07:30:01Z\"}\n\r\n{\"timestamp\":\"2026-11-22T07:30:02Z\"}\n",
    "{\"timestamp\":\"0000-01-01T00:00:00Z\",\"value\":\"b\"}",
];
/// What parsers stumble over.
const PIECES: [&[u8]; 23] = [
    b"\"",
    b"\\",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x88\x92",
    b"\xf0\x9f\x9a\x80",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"1e999",
    b"null",
    b"[[[[[[[[",
    b"\"timestamp\":\"2026-11-22T07:30:00Z\"",
    b"{\"timestamp\":\"2026-11-22T07:30:00Z\"}",
    b"99999999999999999999",
];

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(sides.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).unwrap()
    }

    /// Changes a few places of `bytes`; sometimes none, so that good ones are among them.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.roll(4) {
            let at = self.roll(bytes.len());
            let end = (at + 1 + self.roll(12)).min(bytes.len());
            match self.roll(10) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                1 if at < bytes.len() => bytes[at] = self.byte(),
                2 => bytes.insert(at, self.byte()),
                3 => drop(bytes.drain(at..end)),
                4 => bytes.truncate(at),
                5 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                _ => {
                    let piece = PIECES[self.roll(PIECES.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
        }
    }
}

/// What one thread has seen.
#[derive(Default)]
struct Tally {
    accepted: u64,
    created: u64,
    refused: u64,
}

impl Tally {
    /// Counts an answer, which must be one that a client can be blamed for.
    fn count(&mut self, answer: &Answer, case: &str) {
        match answer.status {
            201 => {
                self.created += 1;
                self.accepted += answer.json()["accepted"].as_u64().unwrap();
            }
            400..500 => self.refused += 1,
            _ => panic!("{case}: {answer:?}"),
        }
    }
}

/// Runs `one` with the dice of every case, in several threads; all tallies as one.
fn in_threads(cases: u64, one: impl Fn(&mut Dice, &mut Tally, &str) + Sync) -> Tally {
    let mut total = Tally::default();
    let one = &one;
    let work = move |thread: u64| {
        let mut tally = Tally::default();
        for case in thread * cases..(thread + 1) * cases {
            let name = format!("seed {SEED:#x}, case {case}");
            one(&mut Dice(SEED ^ (case << 20)), &mut tally, &name);
        }
        tally
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || work(n))).collect();
        for tally in threads.into_iter().map(|thread| thread.join().unwrap()) {
            total.accepted += tally.accepted;
            total.created += tally.created;
            total.refused += tally.refused;
        }
    });
    let enough = THREADS * cases / 10;
    assert!(total.created > enough && total.refused > enough, "too many mutations, or too few");
    total
}

/// Ends it all: what was accepted, no more and no less, is there and can be read.
fn settle(rig: &Rig, server: Process, accepted: u64) {
    post_entries(server.address(), &[entry(0, "alive")]);
    assert_eq!(rig.verify(&[])["accepted"], accepted + 1);
    let log = server.stop();
    assert!(!log.contains("panicked"), "{log}");
    let consumer = rig.start(&["message-consumer"]);
    assert_eq!(rig.wait_drained()["in_files"], accepted + 1);
    consumer.stop();
    let lines = rig.lines();
    assert_eq!(u64::try_from(lines.len()).unwrap(), accepted + 1);
    for line in lines {
        let entry: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(entry["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn mutated_bodies_are_accepted_whole_or_refused_and_the_server_lives() {
    let mut rig = Rig::new();
    rig.set("FILES_PER_SECOND", 0);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let total = in_threads(BODIES_PER_THREAD, |dice, tally, case| {
        let lines = dice.roll(4) == 0;
        let seeds: &[&str] = if lines { &LINE_BODIES } else { &ARRAYS };
        let mut body = seeds[dice.roll(seeds.len())].as_bytes().to_vec();
        dice.mutate(&mut body);
        let headers: &[_] = if lines { &[LINES] } else { &[] };
        let answer = request(address, "POST", "/message", headers, &body);
        let case = format!("{case}: {}", String::from_utf8_lossy(&body));
        tally.count(&answer, &case);
        if answer.status != 201 {
            let text = answer.json()["error"].as_str().unwrap_or_default().to_owned();
            assert!(!text.is_empty() && !text.chars().any(char::is_control), "{case}: {answer:?}");
        }
    });
    settle(&rig, server, total.accepted);
}

/// The answers on a connection, until it closes.
fn answers(stream: &mut TcpStream) -> Vec<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut found = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8(rest[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").unwrap().parse::<usize>().unwrap();
        answer.body = rest[end + 4..end + 4 + length].to_vec();
        rest = &rest[end + 4 + length..];
        found.push(answer);
    }
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(rest));
    found
}

#[test]
fn mutated_requests_are_answered_or_cut_and_the_server_lives() {
    let mut rig = Rig::new();
    rig.set("FILES_PER_SECOND", 0);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let total = in_threads(REQUESTS_PER_THREAD, |dice, tally, case| {
        let body = ARRAYS[dice.roll(ARRAYS.len())];
        let framed = if dice.roll(2) == 0 {
            format!("Content-Length: {}\r\n\r\n{body}", body.len())
        } else {
            let (one, two) = body.split_at(1);
            let (first, second) = (one.len(), two.len());
            format!(
                "Transfer-Encoding: chunked\r\n\r\n{first:x}\r\n{one}\r\n\
                 {second:X};a=b\r\n{two}\r\n0\r\n\r\n"
            )
        };
        let mut bytes = format!(
            "POST /message HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: \"{case}\"\r\n{framed}"
        )
        .into_bytes();
        dice.mutate(&mut bytes);
        let case = format!("{case}: {}", String::from_utf8_lossy(&bytes));
        let mut stream = connect(address);
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        for answer in answers(&mut stream) {
            tally.count(&answer, &case);
        }
    });
    settle(&rig, server, total.accepted);
}
