//! A first figure of speed: starts `server` and `message-consumer` in a temporary directory, posts
//! the standard load from this machine, waits until all of it is in files, and prints one line of
//! JSON.
//!
//! ```sh
//! cargo build --release --bins --examples
//! throughput --binary PATH [--seconds 10] [--connections 16] [--entries 100] [--keep]
//! ```
//!
//! The standard load: 51 bytes an entry, timestamps spread evenly over a minute, default settings,
//! every 201 synced, every file synced. CPU seconds are those of server and consumer together, as
//! the kernel accounts for them; the client's own are not in them.

#[path = "../oracle/args.rs"]
mod args;
#[path = "../oracle/http.rs"]
mod http;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use args::Flags;
use http::Connection;

/// How long a server may take to listen, and the backlog to drain.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clock ticks per second of `/proc/<pid>/stat`: 100 on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

struct Load {
    address: SocketAddr,
    seconds: u64,
    connections: u64,
    entries: u64,
}

/// A child that ends with this value, whatever happens.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            use std::io::Write;
            let written = writeln!(std::io::stdout(), "{report}");
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            use std::io::Write;
            let _closed = writeln!(std::io::stderr(), "throughput: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let valued = ["--binary", "--seconds", "--connections", "--entries"];
    let flags = Flags::parse(std::env::args().skip(1), &valued, &["--keep"])?;
    let binary = PathBuf::from(flags.required("--binary")?);
    let dir = std::env::temp_dir().join(format!("throughput-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let load = Load {
        address: free_address()?,
        seconds: flags.number("--seconds", 10)?,
        connections: flags.number("--connections", 16)?,
        entries: flags.number("--entries", 100)?,
    };
    let outcome = measure(&binary, &dir, &load);
    if !flags.has("--keep") {
        fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    outcome
}

fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

fn command(binary: &Path, dir: &Path, load: &Load, name: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg(name).env_clear().env("LOG", "warn").env("PORT", load.address.port().to_string());
    command.env("STATE_DIR", dir.join("state")).env("DATA_OUTPUT_DIR", dir.join("output"));
    command.stdin(Stdio::null());
    command
}

fn start(binary: &Path, dir: &Path, load: &Load, name: &str) -> Result<Part, String> {
    let child = command(binary, dir, load, name).spawn();
    child.map(Part).map_err(|error| format!("{}: {error}", binary.display()))
}

fn measure(binary: &Path, dir: &Path, load: &Load) -> Result<String, String> {
    let server = start(binary, dir, load, "server")?;
    let consumer = start(binary, dir, load, "message-consumer")?;
    wait(|| Ok(Connection::open(load.address).is_ok().then_some(())))?;
    let began_at = Instant::now();
    let requests = post_all(load)?;
    let posted_seconds = began_at.elapsed().as_secs_f64();
    wait(|| Ok((waiting(binary, dir, load)? == 0).then_some(())))?;
    let drained_seconds = began_at.elapsed().as_secs_f64();
    let messages = whole(requests * load.entries);
    let parts = [&server, &consumer];
    let mut cpu_seconds = 0.0;
    let mut anonymous_kib = Vec::new();
    for Part(child) in parts {
        cpu_seconds += cpu_seconds_of(child.id())?;
        anonymous_kib.push(anonymous_kib_of(child.id())?);
    }
    Ok(format!(
        "{{\"entries_per_request\":{},\"connections\":{},\"accepted\":{messages},\
         \"accepted_per_second\":{:.0},\"drained_per_second\":{:.0},\
         \"cpu_seconds_per_million\":{:.3},\"anonymous_kib\":{anonymous_kib:?}}}",
        load.entries,
        load.connections,
        messages / posted_seconds,
        messages / drained_seconds,
        cpu_seconds / messages * 1e6,
    ))
}

fn wait<T>(mut event: impl FnMut() -> Result<Option<T>, String>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(come) = event()? {
            return Ok(come);
        }
        if Instant::now() > deadline {
            return Err("waited in vain".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Posts from every connection until the time is up; how many requests were answered 201.
fn post_all(load: &Load) -> Result<u64, String> {
    let request = request(load);
    let answered = AtomicU64::new(0);
    let deadline = Instant::now() + Duration::from_secs(load.seconds);
    std::thread::scope(|scope| {
        let post = || -> Result<(), String> {
            let text = |error: std::io::Error| error.to_string();
            let mut connection = Connection::open(load.address).map_err(text)?;
            while Instant::now() < deadline {
                let answer = connection.exchange(&request).map_err(text)?;
                if answer.status != 201 {
                    return Err(format!("{}: {}", answer.status, answer.body));
                }
                answered.fetch_add(1, Ordering::Relaxed);
                if !answer.reusable {
                    connection = Connection::open(load.address).map_err(text)?;
                }
            }
            Ok(())
        };
        let clients: Vec<_> = (0..load.connections).map(|_| scope.spawn(post)).collect();
        let mut ended = clients.into_iter().map(|client| client.join());
        ended.try_for_each(|end| end.unwrap_or_else(|_| Err("a client panicked".to_owned())))
    })
    .map(|()| answered.load(Ordering::Relaxed))
}

fn request(load: &Load) -> Vec<u8> {
    let entry = |n: u64| {
        let second = n % 60;
        format!("{{\"timestamp\":\"2026-11-22T07:30:{second:02}Z\",\"value\":\"{n:04}\"}}")
    };
    let body = format!("[{}]", (0..load.entries).map(entry).collect::<Vec<_>>().join(","));
    let head = format!(
        "POST /message HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// How many messages wait, from `verify`, which must find nothing wrong.
fn waiting(binary: &Path, dir: &Path, load: &Load) -> Result<u64, String> {
    let mut verify = command(binary, dir, load, "verify");
    let output = verify.args(["--output", "json"]).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("verify: {text}"));
    }
    // The account's own figure stands before those of its shards.
    let figure = text.split("\"waiting\":").nth(1).unwrap_or_default();
    let digits: String = figure.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("verify: {text}"))
}

fn cpu_seconds_of(pid: u32) -> Result<f64, String> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| error.to_string())?;
    // Behind the name, which may hold anything: state is the first field, user time the 12th.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or("/proc/<pid>/stat is not readable")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

fn anonymous_kib_of(pid: u32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let figure = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| "no RssAnon in /proc/<pid>/status".to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "a count of messages is far below 2^53")]
fn whole(count: u64) -> f64 {
    count as f64
}
