//! Every system call of the commit path failed, once and for good, in the real binary.
//!
//! Calls are counted per thread, and only those on the files that matter: the state environment,
//! the output directory, its folders, and the staged files. After the faults a process without any
//! goes on, and everything must be in files once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Process, Rig, connect, files_below, read_answer, send, wait_for};
use crate::survive_signals::{Ledger, unique_entry};

/// Which calls fail, how, and on which files and folders; as `strace --inject` takes them.
pub(crate) struct Faults<'a> {
    pub(crate) calls: &'a str,
    pub(crate) fault: &'a str,
    pub(crate) paths: &'a [PathBuf],
}

/// Starts a command that meets faults; it is the process itself, and strace is beside it.
pub(crate) fn start_with_faults(rig: &Rig, faults: &Faults<'_>, arguments: &[&str]) -> Process {
    let Faults { calls, fault, paths } = faults;
    let inject = format!("inject={calls}:{fault}");
    let mut words = vec!["-e", &inject];
    words.extend(only(paths));
    strace(rig, calls, &rig.dir.path().join("faults"), &words, arguments)
}

/// Starts a command whose `calls` are written into a file, each on a line.
pub(crate) fn start_traced(rig: &Rig, calls: &str, log: &Path, arguments: &[&str]) -> Process {
    strace(rig, calls, log, &[], arguments)
}

fn only(paths: &[PathBuf]) -> impl Iterator<Item = &str> {
    paths.iter().flat_map(|path| ["-P", path.to_str().unwrap()])
}

fn strace(rig: &Rig, calls: &str, log: &Path, more: &[&str], arguments: &[&str]) -> Process {
    let trace = format!("trace={calls}");
    let mut words = vec!["strace", "-D", "-f", "--seccomp-bpf", "-q", "-e", &trace];
    words.extend(["-o", log.to_str().unwrap()]);
    words.extend(more);
    Process::start(rig.wrapped(&words, arguments))
}

/// A line of a trace: thread and call.
fn parts(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').map(|(thread, call)| (thread, call.trim_start()))
}

/// Waits until all is written that strace saw of an ended process.
fn whole_trace(log: &Path, process: &Process) -> String {
    let id = process.id().to_string();
    let is_last = |(thread, call): (&str, &str)| thread == id && call.starts_with("+++ ");
    wait_for("the end of a trace", || {
        let trace = fs::read_to_string(log).unwrap();
        trace.lines().filter_map(parts).any(is_last).then_some(trace)
    })
}

/// A state environment to start from, made once and copied.
struct Template {
    data: Vec<u8>,
    ledger: Ledger,
}

impl Template {
    fn new(entries: usize) -> Self {
        let rig = settled(Rig::new());
        let mut ledger = Ledger::default();
        let entries: Vec<_> = (0..entries).map(|_| unique_entry(20)).collect();
        let output = rig.run_with_input(&["publish"], entries.join("\n").as_bytes());
        assert!(output.status.success(), "{output:?}");
        ledger.note(201, &entries);
        Self { data: fs::read(rig.state().join("data.mdb")).unwrap(), ledger }
    }

    fn rig(&self) -> Rig {
        let rig = settled(Rig::new());
        fs::create_dir(rig.state()).unwrap();
        fs::write(rig.state().join("data.mdb"), &self.data).unwrap();
        rig
    }
}

const BATCH: usize = 3;

/// One shard and one worker, so that calls come in one order.
fn settled(mut rig: Rig) -> Rig {
    rig.set("SHARDS_COUNT", 1).set("WORKERS_COUNT", 1).set("FILES_PER_SECOND", 0);
    rig.set("BATCH_MIN", 1).set("BATCH_MAX", BATCH).set("BATCH_LINGER_MS", 0);
    rig
}

/// Calls on some of the files.
struct Target {
    calls: &'static [&'static str],
    errors: &'static [&'static str],
    paths: fn(&Rig) -> Vec<PathBuf>,
}

/// What the consumer writes to in the output directory while it brings two batches there.
const OUTPUT: Target = Target {
    calls: &["openat", "mkdirat", "write", "fsync", "fdatasync", "renameat2", "unlinkat"],
    errors: &["EIO", "ENOSPC"],
    paths: |rig| {
        let staging = rig.output().join(".staging/messages-0");
        let mut paths = vec![rig.output(), rig.output().join(".staging"), staging.clone()];
        let now = chrono::Utc::now();
        for hour in [now, now + chrono::TimeDelta::hours(1)] {
            let folder = rig.output().join(hour.format("%Y-%m-%d/%H").to_string());
            paths.extend([folder.parent().unwrap().to_owned(), folder]);
        }
        let tries = (0..2).flat_map(|batch| (0..6).map(move |nonce| (batch * BATCH, nonce)));
        paths.extend(tries.map(|(at, nonce)| staging.join(format!("{at}-{BATCH}-1-{nonce}"))));
        paths
    },
};

/// How LMDB writes; the last of each commit is a `pwrite64` that is synced by itself.
const STATE: Target = Target {
    calls: &["pwrite64", "writev", "fdatasync"],
    errors: &["EIO", "ENOSPC"],
    paths: |rig| vec![rig.state().join("data.mdb")],
};

/// How often each call is made by the thread that makes it most, by a trace.
fn counts(target: &Target, trace: &str) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (thread, call) in trace.lines().filter_map(parts) {
        let call = call.split('(').next().unwrap();
        if let Some(call) = target.calls.iter().find(|known| **known == call) {
            *counts.entry((*call, thread)).or_insert(0) += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in counts {
        most.entry(call).and_modify(|most: &mut usize| *most = count.max(*most)).or_insert(count);
    }
    assert_eq!(most.len(), target.calls.len(), "{most:?}");
    most
}

/// Every call failed at every turn, once and from then on, with every error. A round says whether
/// it met its fault: commits are grouped now so, now so, and the last turn may not come.
fn for_every_fault(
    counts: BTreeMap<&str, usize>,
    target: &Target,
    round: impl Fn(&str, &str) -> bool,
) {
    for (call, count) in counts {
        let (mut met, mut rounds) = (0, 0);
        for turn in 1..=count {
            for mode in ["", "+"] {
                for error in target.errors {
                    met += usize::from(round(call, &format!("error={error}:when={turn}{mode}")));
                    rounds += 1;
                }
            }
        }
        assert!(met * 4 >= rounds * 3, "{call}: only {met} of {rounds} faults were met");
    }
}

/// A file that a crash has left in staging and no batch names: it is removed at the start.
fn plant_stray(rig: &Rig) {
    let staging = rig.output().join(".staging/messages-0");
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("0-3-0-0"), "of another time\n").unwrap();
}

fn consumer_reference(template: &Template, target: &Target) -> BTreeMap<&'static str, usize> {
    let rig = template.rig();
    plant_stray(&rig);
    let log = rig.dir.path().join("trace");
    let paths = (target.paths)(&rig);
    let only: Vec<_> = only(&paths).collect();
    let mut consumer = strace(&rig, &target.calls.join(","), &log, &only, &["message-consumer"]);
    consumer.wait_log("took over shards");
    rig.wait_drained();
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(0));
    counts(target, &whole_trace(&log, &consumer))
}

/// Waits for the end of a process with a fault, which must be in order: its exit code, and whether
/// it met the fault.
fn wait_faulty(rig: &Rig, mut process: Process, fault: &str) -> (i32, bool) {
    let status = process.wait();
    let trace = whole_trace(&rig.dir.path().join("faults"), &process);
    let exit = status.code().unwrap_or_else(|| panic!("{fault}: {status}\n{}", process.log()));
    assert!([0, 73, 74].contains(&exit), "{fault}: {status}\n{}", process.log());
    (exit, trace.contains("(INJECTED)"))
}

/// Without faults, what waits is consumed, and everything is there once.
fn assert_recovers(rig: &Rig, ledger: &Ledger, fault: &str) {
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    rig.wait_drained();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
    let staged = fs::read_dir(rig.output().join(".staging/messages-0")).unwrap();
    assert_eq!(staged.count(), 0, "{fault}");
}

/// Consumes with a fault until it is through, has failed, or is held up; then without.
fn consumer_round(template: &Template, target: &Target, call: &str, fault: &str) -> bool {
    let rig = template.rig();
    plant_stray(&rig);
    let paths = (target.paths)(&rig);
    let faults = Faults { calls: call, fault, paths: &paths };
    let consumer = start_with_faults(&rig, &faults, &["message-consumer"]);
    wait_for("the consumer to be through, to fail or to be held up", || {
        let log = consumer.log();
        let through = files_below(&rig.output()).len() == 2;
        (log.contains("error: ") || log.contains(", yet") || through).then_some(())
    });
    // Also of no effect on one that has ended already.
    consumer.signal("TERM");
    let (_, met) = wait_faulty(&rig, consumer, &format!("{call} {fault}"));
    assert_recovers(&rig, &template.ledger, &format!("{call} {fault}"));
    met
}

fn fail_consumer(target: &Target) {
    let template = Template::new(2 * BATCH);
    let counts = consumer_reference(&template, target);
    for_every_fault(counts, target, |call, fault| consumer_round(&template, target, call, fault));
}

#[test]
fn a_consumer_whose_output_calls_fail_loses_and_doubles_nothing() {
    fail_consumer(&OUTPUT);
}

#[test]
fn a_consumer_whose_state_calls_fail_loses_and_doubles_nothing() {
    fail_consumer(&STATE);
}

/// Posts six times; what is not synced must not be answered 201.
fn post_six(server: &Process, ledger: &mut Ledger) -> Vec<u16> {
    let address = server.address();
    (0..6).map(|_| ledger.post(address, &[unique_entry(20)])).collect()
}

fn server_reference(template: &Template) -> BTreeMap<&'static str, usize> {
    let rig = template.rig();
    let log = rig.dir.path().join("trace");
    let paths = (STATE.paths)(&rig);
    let only: Vec<_> = only(&paths).collect();
    let mut server = strace(&rig, &STATE.calls.join(","), &log, &only, &["server"]);
    assert_eq!(post_six(&server, &mut Ledger::default()), [201; 6]);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    counts(&STATE, &whole_trace(&log, &server))
}

fn server_round(template: &Template, call: &str, fault: &str) -> bool {
    let case = format!("{call} {fault}");
    let rig = template.rig();
    let paths = (STATE.paths)(&rig);
    let faults = Faults { calls: call, fault, paths: &paths };
    let server = start_with_faults(&rig, &faults, &["server"]);
    let mut ledger = template.ledger.clone();
    let answers = post_six(&server, &mut ledger);
    // Whatever reaches it is answered, also the request that it stops for.
    let stops = answers.iter().find(|status| ![201, 507].contains(status));
    assert!(stops.is_none_or(|status| *status == 503), "{case}: {answers:?}");
    if stops.is_some() {
        // By itself, with its reason.
        let error = server.wait_log("error: ");
        assert!(error.contains("a commit "), "{case}: {error}");
    } else {
        assert!(answers.contains(&507) && !fault.contains("EIO"), "{case}: {answers:?}");
        server.signal("TERM");
    }
    let (exit, met) = wait_faulty(&rig, server, &case);
    assert_eq!(exit, if stops.is_some() { 74 } else { 0 }, "{case}: {answers:?}");
    assert_recovers(&rig, &ledger, &case);
    met
}

#[test]
fn a_server_answers_201_only_for_what_is_synced() {
    let template = Template::new(1);
    let counts = server_reference(&template);
    for_every_fault(counts, &STATE, |call, fault| server_round(&template, call, fault));
}

#[test]
fn requests_that_wait_for_a_sync_that_fails_are_all_answered() {
    let rig = Template::new(1).rig();
    let paths = (STATE.paths)(&rig);
    // Late, so that the others wait for the next commit, which never begins.
    let fault = "error=EIO:delay_enter=300000:when=1+";
    let faults = Faults { calls: "fdatasync", fault, paths: &paths };
    let server = start_with_faults(&rig, &faults, &["server"]);
    let mut streams: Vec<_> = (0..8).map(|_| connect(server.address())).collect();
    for stream in &mut streams {
        send(stream, "POST", "/message", &[], format!("[{}]", unique_entry(20)).as_bytes());
    }
    let answers: Vec<_> = streams.iter_mut().map(|stream| read_answer(stream).status).collect();
    assert_eq!(answers, [503; 8]);
    assert_eq!(wait_faulty(&rig, server, fault), (74, true));
}
