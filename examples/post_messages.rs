//! Posts entries from stdin (JSON, one per line) so that each is stored exactly once.
//!
//! ```text
//! cargo run --example post_messages -- 127.0.0.1:8080 < entries.jsonl
//! ```
//!
//! What a client has to do for that, with nothing but the standard library: give each request an
//! `Idempotency-Key` of its own, and repeat it, key and body unchanged, until its outcome is known.
//! No answer, 408, 409, 429, 503 and 507 mean *again, later*, and `Retry-After` says when; every
//! other refusal is final. Prints the answer to each request.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use uuid::Uuid;

/// Entries of one request; the server takes at most 10,000.
const ENTRIES_PER_REQUEST: usize = 1000;
/// Bytes of one request; the server takes at most 1 MiB.
const BYTES_PER_REQUEST: usize = 900_000;
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longer than the server waits for its disk before it gives up: 30 seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What an attempt came to.
enum Outcome {
    /// 201, and the body of the answer.
    Stored(String),
    /// Try again: why, and how long to wait at least.
    Again(String, Duration),
    /// Trying again would not help.
    Refused(String),
}

struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: String,
}

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        return end(Err("usage: post_messages HOST:PORT < entries.jsonl".to_owned()));
    };
    end(post_all(&address, &mut io::stdin().lock()))
}

fn end(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone as well there is nobody left to tell.
            writeln!(io::stderr(), "{error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn post_all(address: &str, input: &mut impl BufRead) -> Result<(), String> {
    let (mut body, mut entries) = (String::new(), 0);
    loop {
        let before = body.len();
        let read = input.read_line(&mut body).map_err(|error| format!("stdin: {error}"))?;
        entries += usize::from(body.len() > before);
        if entries >= ENTRIES_PER_REQUEST || body.len() >= BYTES_PER_REQUEST || read == 0 {
            if !body.is_empty() {
                let answer = post(address, &body)?;
                writeln!(io::stdout(), "{answer}").map_err(|error| format!("stdout: {error}"))?;
            }
            (body, entries) = (String::new(), 0);
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Posts one request until its outcome is known.
fn post(address: &str, body: &str) -> Result<String, String> {
    // Made once: the key is what makes the attempts one request.
    let key = Uuid::new_v4();
    let mut pause = PAUSE;
    for attempt in 1..=TRIES {
        match try_once(address, key, body) {
            Outcome::Stored(answer) => return Ok(answer),
            Outcome::Refused(why) => return Err(format!("refused: {why}")),
            Outcome::Again(why, at_least) => {
                let wait = jittered(pause).max(at_least);
                writeln!(io::stderr(), "attempt {attempt}: {why}; again in {wait:?}").ok();
                std::thread::sleep(wait);
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    Err(format!("given up after {TRIES} attempts; the key was {key}"))
}

/// Clients that failed together must not come back together.
fn jittered(pause: Duration) -> Duration {
    let [random, ..] = *Uuid::new_v4().as_bytes();
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}

fn try_once(address: &str, key: Uuid, body: &str) -> Outcome {
    let answer = match exchange(address, key, body) {
        Ok(answer) => answer,
        Err(error) => return Outcome::Again(format!("no answer: {error}"), Duration::ZERO),
    };
    let told = format!("{} {}", answer.status, answer.body);
    match answer.status {
        201 => Outcome::Stored(answer.body),
        408 | 409 | 429 | 503 | 507 => Outcome::Again(told, answer.retry_after.unwrap_or_default()),
        _ => Outcome::Refused(told),
    }
}

fn exchange(address: &str, key: Uuid, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let length = body.len();
    let head = format!(
        "POST /message HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-ndjson\r\n\
         Idempotency-Key: \"{key}\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    // A server that refuses early may close before all is sent; its answer is there all the same.
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    match parse(&String::from_utf8_lossy(&bytes)) {
        Some(answer) => Ok(answer),
        None => Err(sent.and(read.map(drop)).err().unwrap_or_else(|| cut_off(&bytes))),
    }
}

fn cut_off(bytes: &[u8]) -> io::Error {
    io::Error::other(format!("the connection was closed after {} bytes", bytes.len()))
}

/// A whole answer, or nothing.
fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| value.trim().parse::<u64>().ok())
    };
    let is_whole = header("content-length").is_none_or(|length| length == body.len() as u64);
    let retry_after = header("retry-after").map(Duration::from_secs);
    is_whole.then(|| Answer { status, retry_after, body: body.to_owned() })
}
