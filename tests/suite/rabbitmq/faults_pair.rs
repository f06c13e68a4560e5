//! A server and a consumer over a broker, and clients that give them no rest: what the tests of
//! faults share.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::broker::{Depth, PrivateBroker};
use super::ports::free_port;
use crate::harness::{PATIENCE, Process, Rig, request, wait_for};
use crate::survive_signals::{Ledger, unique_entry};

/// Few, so that each of them has something to do all the time.
pub(super) const SHARDS: u16 = 3;

/// Two processes with one state directory. The server keeps its port when it is started again.
pub(super) struct Pair {
    pub(super) rig: Rig,
    pub(super) address: SocketAddr,
    pub(super) server_url: String,
    pub(super) consumer_url: String,
    server: Option<Process>,
    consumer: Option<Process>,
}

impl Pair {
    /// Starts nothing yet.
    pub(super) fn new(url: &str) -> Self {
        let mut rig = Rig::new();
        let port = free_port();
        rig.set("PORT", port).set("SHARDS_COUNT", SHARDS).set("FILES_PER_SECOND", 0);
        Self {
            rig,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            server_url: url.to_owned(),
            consumer_url: url.to_owned(),
            server: None,
            consumer: None,
        }
    }

    /// Starts both and waits until they work.
    pub(super) fn start(url: &str) -> Self {
        let mut pair = Self::new(url);
        pair.start_server();
        pair.start_consumer();
        pair.server().wait_log("connected to the broker");
        pair.consumer().wait_log("connected to the broker");
        pair
    }

    pub(super) fn start_server(&mut self) {
        let mut command = self.rig.command(&["server"]);
        command.env("RABBITMQ_URL", &self.server_url);
        let server = Process::start(command);
        server.address();
        self.server = Some(server);
    }

    pub(super) fn start_consumer(&mut self) {
        let mut command = self.rig.command(&["message-consumer"]);
        command.env("RABBITMQ_URL", &self.consumer_url);
        self.consumer = Some(Process::start(command));
    }

    pub(super) fn server(&self) -> &Process {
        self.server.as_ref().unwrap()
    }

    pub(super) fn consumer(&self) -> &Process {
        self.consumer.as_ref().unwrap()
    }

    pub(super) fn take_server(&mut self) -> Process {
        self.server.take().unwrap()
    }

    pub(super) fn take_consumer(&mut self) -> Process {
        self.consumer.take().unwrap()
    }

    /// Waits until both have said `text` so often.
    pub(super) fn wait_both_log(&self, text: &str, times: usize) {
        for process in [self.server(), self.consumer()] {
            wait_log_times(process, text, times);
        }
    }

    /// What `/readyz` says.
    pub(super) fn ready(&self) -> String {
        let answer = request(self.address, "GET", "/readyz", &[], b"");
        String::from_utf8(answer.body).unwrap()
    }

    /// Waits until `/readyz` says `text`.
    pub(super) fn wait_ready_says(&self, text: &str) {
        wait_for(&format!("{text:?} in /readyz"), || self.ready().contains(text).then_some(()));
    }

    /// Posts entries until they are accepted and in files; how long each took.
    pub(super) fn probe(&self, ledger: &mut Ledger) -> (Duration, Duration) {
        let since = Instant::now();
        let entries = each_shard();
        post_until_stored(self.address, &entries, ledger);
        let accepted = since.elapsed();
        wait_in_files(&self.rig, &entries);
        (accepted, since.elapsed())
    }

    /// Ends both in order, when all is in files, and counts every message.
    pub(super) fn finish(mut self, broker: &PrivateBroker, vhost: &str, ledger: &Ledger) {
        wait_taken(broker, vhost);
        self.rig.wait_drained();
        self.take_server().stop();
        self.take_consumer().stop();
        ledger.assert_exactly_once(&self.rig.lines());
        assert_eq!(self.rig.verify(&[])["ok"], true);
    }
}

/// Figures, to be seen with `--nocapture`.
#[expect(clippy::print_stdout, reason = "a test's output is shown when it fails or is asked for")]
pub(super) fn report(text: &str) {
    println!("{text}");
}

/// Waits until a process has said `text` so often.
pub(super) fn wait_log_times(process: &Process, text: &str, times: usize) {
    let so_far = process.log();
    wait_for(&format!("{text:?} {times} times in the log:\n{so_far}"), || {
        (process.log().matches(text).count() >= times).then_some(())
    });
}

/// The queue of a shard.
pub(super) fn queue(shard: u16) -> String {
    format!("async-data-processor.messages.{shard}")
}

/// Waits until the broker holds nothing any more; what the net for what is given up holds is lost.
pub(super) fn wait_taken(broker: &PrivateBroker, vhost: &str) {
    let none = Depth { ready: 0, unacknowledged: 0 };
    for shard in 0..SHARDS {
        wait_for("everything to be taken from the broker", || {
            (broker.depth(vhost, &queue(shard)) == none).then_some(())
        });
    }
    assert_eq!(broker.depth(vhost, "async-data-processor.messages.returned"), none);
}

/// Waits until files hold all of these entries.
pub(super) fn wait_in_files(rig: &Rig, entries: &[String]) {
    wait_for("entries to be in files", || {
        let lines: HashSet<_> = rig.lines().into_iter().collect();
        // Files are many, and reading them takes time from those who write them.
        std::thread::sleep(Duration::from_millis(20));
        let is_there = entries.iter().all(|entry| lines.contains(entry));
        is_there.then_some(())
    });
}

/// Entries enough for every shard to get some.
pub(super) fn each_shard() -> Vec<String> {
    (0..30).map(|_| unique_entry(20)).collect()
}

/// An answer, if there was one.
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) text: String,
}

/// Posts entries on a connection of its own.
pub(super) fn try_post(address: SocketAddr, entries: &[String], key: Option<&str>) -> Option<Told> {
    let body = format!("[{}]", entries.join(","));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut head = "POST /message HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".to_owned();
    if let Some(key) = key {
        write!(head, "Idempotency-Key: \"{key}\"\r\n").unwrap();
    }
    write!(head, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
    // A server that stops may have answered before it has read everything.
    let _refused = stream.write_all(format!("{head}{body}").as_bytes());
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Told { status, text })
}

/// Repeats a request with its key until it is stored.
pub(super) fn post_until_stored(address: SocketAddr, entries: &[String], ledger: &mut Ledger) {
    repeat_until_stored(address, entries, |told| ledger.note(told.status, entries));
}

fn repeat_until_stored(address: SocketAddr, entries: &[String], mut note: impl FnMut(&Told)) {
    // Nobody else has an entry like the first one.
    let key: String = entries[0].chars().filter(char::is_ascii_alphanumeric).collect();
    wait_for("a request to be stored", || {
        let none = Told { status: 0, text: String::new() };
        let told = try_post(address, entries, Some(&key)).unwrap_or(none);
        note(&told);
        assert!(matches!(told.status, 0 | 201 | 409 | 503 | 507), "{}", told.text);
        if told.status == 201 {
            return Some(());
        }
        std::thread::sleep(Duration::from_millis(20));
        None
    });
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    ledger: Mutex<Ledger>,
    unknown: AtomicBool,
}

/// Clients that post without end: some with keys, who repeat until they are heard, and one without,
/// who repeats nothing.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(address: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let threads = [true, true, false].map(|has_key| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.post_on_and_on(address, has_key))
        });
        Self { shared, threads: threads.into() }
    }

    /// Waits until so many more entries were accepted.
    pub(super) fn wait_accepted(&self, more: usize) {
        let accepted = || self.shared.ledger.lock().unwrap().accepted();
        let enough = accepted() + more;
        wait_for("entries to be accepted", || (accepted() >= enough).then_some(()));
    }

    /// Waits until a request was answered that its outcome is unknown.
    pub(super) fn wait_unknown(&self) {
        wait_for("an unknown outcome", || self.shared.unknown.load(Relaxed).then_some(()));
    }

    /// Ends it when everything with a key is stored.
    pub(super) fn stop(self) -> Ledger {
        self.shared.stopped.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let ledger = self.shared.ledger.lock().unwrap();
        ledger.clone()
    }
}

impl Shared {
    fn post_on_and_on(&self, address: SocketAddr, has_key: bool) {
        for number in 0.. {
            if self.stopped.load(Relaxed) {
                return;
            }
            let entries = [(); 3].map(|()| unique_entry(20));
            let note = |told: &Told| self.note(told, &entries);
            if has_key {
                repeat_until_stored(address, &entries, note);
                if number % 8 == 0 {
                    repeat_until_stored(address, &entries, note);
                }
            } else {
                let told = try_post(address, &entries, None);
                note(&told.unwrap_or(Told { status: 0, text: String::new() }));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn note(&self, told: &Told, entries: &[String]) {
        if told.text.contains("it is unknown whether") {
            self.unknown.store(true, Relaxed);
        }
        self.ledger.lock().unwrap().note(told.status, entries);
    }
}
