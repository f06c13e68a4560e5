//! Signals under load: stop, force, pause, kill. What was answered 201 ends up in files once.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use async_data_processor::state::{State, StateOptions};
use crossbeam_channel::{Sender, bounded};

use crate::harness::{PATIENCE, Process, Rig, connect, entry, post_entries, request, wait_for};
use crate::survive_calls::start_traced;

/// What was sent, and what of it was answered 201.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    sent: HashSet<String>,
    accepted: HashSet<String>,
    /// How often each other answer came; 0 stands for none.
    refused: HashMap<u16, usize>,
}

impl Ledger {
    /// Posts entries, and notes them before and after; the status, 0 if none came.
    pub(crate) fn post(&mut self, address: SocketAddr, entries: &[String]) -> u16 {
        self.sent.extend(entries.iter().cloned());
        let status = try_post(address, entries).unwrap_or(0);
        self.note(status, entries);
        status
    }

    /// Notes the answer to entries.
    pub(crate) fn note(&mut self, status: u16, entries: &[String]) {
        self.sent.extend(entries.iter().cloned());
        match status {
            201 => self.accepted.extend(entries.iter().cloned()),
            status => *self.refused.entry(status).or_default() += 1,
        }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    pub(crate) fn refused(&self, status: u16) -> usize {
        self.refused.get(&status).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sent.extend(other.sent);
        self.accepted.extend(other.accepted);
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
    }

    /// The same as if nothing had been accepted: each may be there once.
    pub(crate) fn doubted(self) -> Self {
        Self { accepted: HashSet::new(), ..self }
    }

    /// Everything answered 201 is there once; what got another answer, once or not at all.
    pub(crate) fn assert_exactly_once(&self, lines: &[String]) {
        let mut found: HashMap<&String, usize> = HashMap::new();
        for line in lines {
            *found.entry(line).or_default() += 1;
        }
        let lost: Vec<_> = self.accepted.iter().filter(|line| !found.contains_key(line)).collect();
        let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        let strange: Vec<_> = found.keys().filter(|line| !self.sent.contains(**line)).collect();
        assert!(
            lost.is_empty() && doubled.is_empty() && strange.is_empty(),
            "lost {lost:?}, doubled {doubled:?}, never sent {strange:?}"
        );
    }
}

/// Posts entries; the status, if there was an answer at all.
fn try_post(address: SocketAddr, entries: &[String]) -> Option<u16> {
    let body = format!("[{}]", entries.join(","));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head = format!(
        "POST /message HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    // A server that stops may have answered before it has read everything.
    let _refused = stream.write_all(format!("{head}{body}").as_bytes());
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer);
    let status = String::from_utf8_lossy(answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).into_owned();
    status.parse().ok()
}

static POSTED: AtomicU64 = AtomicU64::new(0);

/// An entry that no other test and no other call makes, some `bytes` long.
pub(crate) fn unique_entry(bytes: usize) -> String {
    let number = POSTED.fetch_add(1, Ordering::Relaxed);
    entry(u32::try_from(number % 1000).unwrap(), &format!("{number:0bytes$}"))
}

/// Threads that post without pause.
pub(crate) struct Posters {
    stopped: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    threads: Vec<JoinHandle<()>>,
}

impl Posters {
    /// Each request has three entries with values of `bytes`.
    pub(crate) fn start(address: SocketAddr, threads: usize, bytes: usize) -> Self {
        let (stopped, ledger) = (Arc::default(), Arc::default());
        let mut posters = Self { stopped, ledger, threads: Vec::new() };
        for _ in 0..threads {
            let (stopped, ledger) = (Arc::clone(&posters.stopped), Arc::clone(&posters.ledger));
            posters.threads.push(std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let entries = [(); 3].map(|()| unique_entry(bytes));
                    let status = try_post(address, &entries).unwrap_or(0);
                    ledger.lock().unwrap().note(status, &entries);
                    if status != 201 {
                        // As a client would that was told to come again.
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                }
            }));
        }
        posters
    }

    /// Waits until so many more entries than now were answered 201.
    pub(crate) fn wait_accepted(&self, more: usize) {
        let enough = self.ledger.lock().unwrap().accepted() + more;
        wait_for("entries to be accepted", || {
            (self.ledger.lock().unwrap().accepted() >= enough).then_some(())
        });
    }

    /// Waits until a request more was answered so.
    pub(crate) fn wait_refused(&self, status: u16) {
        let before = self.ledger.lock().unwrap().refused(status);
        wait_for(&format!("an answer {status}"), || {
            (self.ledger.lock().unwrap().refused(status) > before).then_some(())
        });
    }

    pub(crate) fn stop(self) -> Ledger {
        self.stopped.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let ledger = self.ledger.lock().unwrap();
        ledger.clone()
    }
}

/// What waits is consumed by a new process; then everything is counted.
fn assert_nothing_lost(rig: &Rig, ledger: &Ledger) {
    let account = rig.verify(&[]);
    assert_eq!(account["ok"], true, "{account}");
    assert!(account["accepted"].as_u64().unwrap() >= ledger.accepted() as u64, "{account}");
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    rig.wait_drained();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn sigterm_under_load_loses_nothing() {
    let rig = Rig::new();
    let mut up = rig.serve(&["up"]);
    let posters = Posters::start(up.address(), 4, 20);
    posters.wait_accepted(300);
    up.signal("TERM");
    assert_eq!(up.wait().code(), Some(0), "{}", up.log());
    up.wait_log("everything taken is stored");
    assert_nothing_lost(&rig, &posters.stop());
}

#[test]
fn ctrl_c_under_load_loses_nothing() {
    let rig = Rig::new();
    let mut server = rig.serve(&["server"]);
    let mut consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let posters = Posters::start(server.address(), 4, 20);
    posters.wait_accepted(300);
    for process in [&mut consumer, &mut server] {
        process.signal("INT");
        assert_eq!(process.wait().code(), Some(0), "{}", process.log());
        process.wait_log("Ctrl-C: stopping");
    }
    assert_nothing_lost(&rig, &posters.stop());
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let rig = Rig::new();
    let mut server = rig.serve(&["server"]);
    let posters = Posters::start(server.address(), 2, 20);
    posters.wait_accepted(100);
    // A request of which the rest never comes: for its sake a stop takes long.
    let mut stuck = connect(server.address());
    stuck
        .write_all(b"POST /message HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n[")
        .unwrap();
    // That one is being worked on when a later one on another connection is answered.
    post_entries(server.address(), &[entry(0, "later")]);
    server.signal("TERM");
    server.wait_log("once more ends at once");
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(130), "{}", server.log());
    let mut ledger = posters.stop();
    ledger.note(201, &[entry(0, "later")]);
    assert_nothing_lost(&rig, &ledger);
}

#[test]
fn a_stopped_owner_keeps_its_shards_and_goes_on() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1);
    let server = rig.serve(&["server"]);
    let owner = rig.start(&["message-consumer"]);
    owner.wait_log("took over shards");
    let tries = rig.dir.path().join("tries");
    let other = start_traced(&rig, "flock", &tries, &["message-consumer"]);
    other.wait_log("standing by");
    owner.signal("STOP");
    let mut ledger = Ledger::default();
    let entries: Vec<_> = (0..20).map(|_| unique_entry(20)).collect();
    assert_eq!(ledger.post(server.address(), &entries), 201);
    let tried = || std::fs::read_to_string(&tries).unwrap().matches("EAGAIN").count();
    let before = tried();
    wait_for("the other to try again and again", || (tried() >= before + 5).then_some(()));
    assert!(!other.log().contains("took over"), "{}", other.log());
    assert_eq!(rig.verify(&[])["waiting"], 20);
    owner.signal("CONT");
    rig.wait_drained();
    assert!(!other.log().contains("took over"), "{}", other.log());
    owner.stop();
    other.wait_log("took over shards");
    assert_eq!(ledger.post(server.address(), &[unique_entry(20)]), 201);
    rig.wait_drained();
    other.stop();
    server.stop();
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn a_killed_owner_is_succeeded_and_nothing_is_lost_or_doubled() {
    let mut rig = Rig::new();
    rig.set("FILES_PER_SECOND", 0);
    let server = rig.serve(&["server"]);
    let mut consumers = vec![rig.start(&["message-consumer"])];
    consumers[0].wait_log("took over shards");
    let posters = Posters::start(server.address(), 2, 20);
    for _ in 0..5 {
        let next = rig.start(&["message-consumer"]);
        next.wait_log("standing by");
        posters.wait_accepted(60);
        consumers.pop().unwrap().kill();
        next.wait_log("took over shards");
        consumers.push(next);
    }
    let ledger = posters.stop();
    rig.wait_drained();
    consumers.pop().unwrap().stop();
    ledger.assert_exactly_once(&rig.lines());
}

/// Keeps the write lock of a state directory, in the name of this process, until dropped.
struct WriteLock {
    release: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl WriteLock {
    fn take(rig: &Rig) -> Self {
        let state = State::open(StateOptions {
            dir: rig.state(),
            map_bytes: 1 << 30,
            low_water_bytes: None,
            on_poison: Box::new(|reason| panic!("poisoned: {reason}")),
        });
        let state = state.unwrap();
        let (release, released) = bounded::<()>(0);
        let (tell, taken) = bounded(1);
        let holder = std::thread::spawn(move || {
            let held = state.commit(move |_| {
                tell.send(()).unwrap();
                // Ends when the other side is dropped.
                let _released = released.recv();
                Ok(())
            });
            held.unwrap();
        });
        taken.recv().unwrap();
        Self { release: Some(release), holder: Some(holder) }
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        drop(self.release.take());
        self.holder.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_stop_that_takes_too_long_ends_and_loses_nothing() {
    let mut rig = Rig::new();
    rig.set("SHUTDOWN_SECONDS", 1).set("FILES_PER_SECOND", 0);
    let server = rig.serve(&["server"]);
    let mut consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let posters = Posters::start(server.address(), 2, 20);
    posters.wait_accepted(60);
    let lock = WriteLock::take(&rig);
    // It cannot record what its workers hold.
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(75), "{}", consumer.log());
    consumer.wait_log("the stop takes too long");
    drop(lock);
    posters.wait_accepted(60);
    let ledger = posters.stop();
    server.stop();
    assert_nothing_lost(&rig, &ledger);
}

#[test]
fn a_server_that_is_stopped_at_rest_holds_up_no_other() {
    let rig = Rig::new();
    let stopped = rig.serve(&["server"]);
    post_entries(stopped.address(), &[entry(0, "first")]);
    stopped.signal("STOP");
    let other = rig.serve(&["server"]);
    post_entries(other.address(), &[entry(0, "second")]);
    stopped.signal("CONT");
    post_entries(stopped.address(), &[entry(0, "third")]);
    assert_eq!(rig.verify(&[])["waiting"], 3);
}

/// What `/readyz` says of a process that holds the write lock.
fn blocked_by(address: SocketAddr) -> Option<String> {
    let answer = request(address, "GET", "/readyz", &[], b"").json();
    let reasons = answer["reasons"].as_array()?.iter().filter_map(|reason| reason.as_str());
    reasons.into_iter().find(|reason| reason.contains("holds the state")).map(str::to_owned)
}

/// Stops `holder`, which is under load, until it is caught with the write lock in its hands: then
/// `/readyz` of the other server says so by the id, and its clients wait.
fn catch_with_lock(holder: &Process, other: SocketAddr, ledger: &Mutex<Ledger>) {
    for _ in 0..300 {
        holder.signal("STOP");
        let caught = std::thread::scope(|scope| {
            let entries = [unique_entry(20)];
            let probe = scope.spawn(move || (try_post(other, &entries), entries));
            let caught = wait_for("the other server to answer or to complain", || {
                if probe.is_finished() { Some(None) } else { blocked_by(other).map(Some) }
            });
            holder.signal("CONT");
            let (status, entries) = probe.join().unwrap();
            ledger.lock().unwrap().note(status.unwrap_or(0), &entries);
            assert_eq!(status, Some(201));
            caught
        });
        // It writes its id down right after it took the lock: between the two it is not known yet.
        if caught.is_some_and(|text| text.contains(&format!("process {} holds", holder.id()))) {
            return;
        }
    }
    panic!("a server under load was never caught with the write lock in its hands");
}

#[test]
fn a_server_stopped_with_the_write_lock_is_named_by_readyz_and_loses_nothing() {
    let rig = Rig::new();
    let (holder, other) = (rig.serve(&["server"]), rig.serve(&["server"]));
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let posters = Posters::start(holder.address(), 4, 20);
    posters.wait_accepted(30);
    let ledger = Mutex::default();
    catch_with_lock(&holder, other.address(), &ledger);
    wait_for("the other server to be ready again", || {
        blocked_by(other.address()).is_none().then_some(())
    });
    posters.wait_accepted(30);
    let mut ledger = ledger.into_inner().unwrap();
    ledger.add(posters.stop());
    rig.wait_drained();
    for process in [holder, other, consumer] {
        process.stop();
    }
    ledger.assert_exactly_once(&rig.lines());
}
