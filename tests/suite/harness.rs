//! Runs the real binary in a temporary directory, and speaks HTTP to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_data_processor::state::{OpenError, State, StateOptions};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_async-data-processor");

/// The longest that any event is waited for: more than it ever takes, so that a test that waits in
/// vain says so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// An entry of the second `second` after 2026-11-22T07:30:00Z.
pub(crate) fn entry(second: u32, value: &str) -> String {
    let (minute, second) = (30 + second / 60 % 30, second % 60);
    format!("{{\"timestamp\":\"2026-11-22T07:{minute:02}:{second:02}Z\",\"value\":\"{value}\"}}")
}

/// Waits until `event` has come.
pub(crate) fn wait_for<T>(what: &str, mut event: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let began = Instant::now();
        if let Some(come) = event() {
            return come;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(pause_after(began.elapsed()));
    }
}

/// The pause before looking again: a look that starts a process keeps no core busy.
pub(crate) fn pause_after(look: Duration) -> Duration {
    (3 * look).clamp(Duration::from_millis(5), Duration::from_millis(500))
}

/// A state and an output directory, and the settings that every process of the test gets.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    settings: Vec<(String, String)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_dir(dir: TempDir) -> Self {
        Self { dir, settings: Vec::new() }
    }

    /// A setting for every process started from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.dir.path().join("output")
    }

    /// A command with this rig's settings and no others.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.wrapped(&[], arguments)
    }

    /// The same, run by another program: `strace`, `unshare` …
    pub(crate) fn wrapped(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let mut words = wrapper.iter().chain([&BINARY]).chain(arguments);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("STATE_DIR", self.state()).env("DATA_OUTPUT_DIR", self.output());
        command.envs(["PORT", "SCHEDULER_PORT", "SPACESHIP_PORT"].map(|port| (port, "0")));
        command.env("LOG_FORMAT", "json").current_dir(self.dir.path());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command to its end with `input` on stdin.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that stops reading has a reason, which its output says.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _closed = writer.join().unwrap();
        output
    }

    /// Starts a long-running command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        Process::start(self.command(arguments))
    }

    /// Starts `server` (or `up`) and waits until it listens.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Process {
        let process = self.start(arguments);
        process.address();
        process
    }

    /// The account of `verify`, whose exit code must agree with it.
    pub(crate) fn verify(&self, flags: &[&str]) -> Value {
        let mut arguments = vec!["verify", "--output", "json"];
        arguments.extend(flags);
        let output = self.run(&arguments);
        let account: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("verify: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(output.status.success(), account["ok"] == true);
        account
    }

    /// Waits until nothing waits, and everything is right.
    pub(crate) fn wait_drained(&self) -> Value {
        wait_for("everything to be in files", || {
            let account = self.verify(&[]);
            (account["waiting"] == 0 && account["ok"] == true).then_some(account)
        })
    }

    /// Every line in committed files, in order of the files' names.
    pub(crate) fn lines(&self) -> Vec<String> {
        let files = self.files();
        let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// The committed files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        files_below(&self.output())
    }
}

/// The batch files below a folder, sorted by name.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".jsonl") {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| path.file_name().unwrap().to_owned());
    found
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log, reader: Some(reader) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until a line of its log holds `text`; the line.
    pub(crate) fn wait_log(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the log:\n{}", self.log()), || {
            self.log.lock().unwrap().iter().find(|line| line.contains(text)).cloned()
        })
    }

    /// Where it listens; of `up`, where its server does.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listening("\"listening\"")
    }

    /// Where a service of it listens.
    pub(crate) fn address_of(&self, service: &str) -> SocketAddr {
        self.listening(&format!("\"listening\",\"service\":\"{service}\""))
    }

    fn listening(&self, text: &str) -> SocketAddr {
        let line = self.wait_log(text);
        let url = serde_json::from_str::<Value>(&line).unwrap()["url"].as_str().unwrap().to_owned();
        url.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Sends a signal by its name: TERM, KILL, STOP, CONT, INT.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let so_far = self.log();
        let ended = || self.child.try_wait().unwrap();
        let status = wait_for(&format!("the end of a process:\n{so_far}"), ended);
        // Its last lines are in the pipe still.
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to stop, and expects it to do so in order.
    pub(crate) fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been stopped by a signal that holds the kill back.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request on a connection of its own.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = connect(address);
    send(&mut stream, method, path, headers, body);
    read_answer(&mut stream)
}

/// Sends a request on an open connection.
pub(crate) fn send(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    // A server that has heard enough may close before all is sent; its answer is there anyway.
    let _refused = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Reads one answer from a connection that may stay open.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(answer) = parse_answer(&bytes) {
            return answer;
        }
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => bytes.extend_from_slice(&chunk[..count]),
            // A signal of another test, such as the end of a child (signal(7)).
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            ended => panic!("no answer, but {ended:?} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}

fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let head_bytes = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..head_bytes].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
    answer.body = bytes[head_bytes + 4..].get(..length)?.to_vec();
    Some(answer)
}

/// `POST /message` with a body; the answer, whatever it is.
pub(crate) fn post(address: SocketAddr, body: &[u8]) -> Answer {
    request(address, "POST", "/message", &[], body)
}

/// Posts entries and expects them to be accepted; the receipt, nothing where there is none.
pub(crate) fn post_entries(address: SocketAddr, entries: &[String]) -> String {
    let answer = post(address, format!("[{}]", entries.join(",")).as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["accepted"], entries.len());
    answer.json()["receipt"].as_str().unwrap_or_default().to_owned()
}

/// Opens a state environment in this process.
pub(crate) fn open_state(dir: &Path, map_bytes: usize) -> Result<State, OpenError> {
    State::open(StateOptions {
        dir: dir.to_owned(),
        map_bytes,
        low_water_bytes: Some(0),
        on_poison: Box::new(|reason| panic!("poisoned: {reason}")),
    })
}
