//! What tasks have to survive, on the real binary: workers that die, stand still or are told to go,
//! programs that hang and kill, disks and databases that are gone for a while.
//!
//! Programs of the tests wait until a file says that they may go on, so that whatever a test does
//! to them it does while they run.

mod cancel;
mod outages;
mod poison;
mod sharing;
mod space;
mod workers;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::harness::{Answer, Process, Rig, request, wait_for};
use crate::postgres::server::PrivatePostgres;
use crate::rabbitmq::broker::PrivateBroker;
use crate::{postgres, rabbitmq};

/// Makes a test of each function for each way in which tasks reach workers.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[test] fn $test() { super::$test(crate::tasks::rig()); })+
        }
        mod database {
            $(#[test] fn $test() { super::$test(crate::tasks::rig_with_database()); })+
        }
        mod pipes {
            $(#[test] fn $test() { super::$test(crate::tasks::rig_with_pipes()); })+
        }
    };
}
use everywhere;

/// Notes that it runs: `ID ATTEMPT WORKER PROCESS`.
const BEGIN: &str = r#"printf '%s %s %s %s\n' "$TASK_ID" "$TASK_ATTEMPT" "$PPID" "$$" >>runs"#;

/// A run of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    id: String,
    attempt: u64,
    /// The worker's process.
    worker: u32,
    /// The program's.
    process: u32,
}

/// A rig whose workers run one task at once, of the kinds below or of our own.
///
/// | kind | does |
/// |---|---|
/// | `gated` | waits for the file `go-ATTEMPT`, then says its payload, `:` and the attempt |
/// | `noted` | notes that it ran, and says its payload |
/// | `parent` | starts a process of its own and waits for it: an hour |
/// | `hasty` | the same, and may take a second |
/// | `suicide` | kills itself |
/// | `assassin` | kills its worker |
/// | `large` | prints the file `large` |
fn rig() -> Rig {
    let mut rig = Rig::new();
    let programs = [
        ("gated", "while [ ! -e go-$TASK_ATTEMPT ]; do sleep 0.02; done; cat; echo :$TASK_ATTEMPT"),
        ("noted", "cat"),
        (
            "parent",
            "sleep 3600 & echo $! >child-$TASK_ATTEMPT.new; \
                    mv child-$TASK_ATTEMPT.new child-$TASK_ATTEMPT; wait",
        ),
        (
            "hasty:1",
            "sleep 3600 & echo $! >child-$TASK_ATTEMPT.new; \
                     mv child-$TASK_ATTEMPT.new child-$TASK_ATTEMPT; wait",
        ),
        ("suicide", "kill -9 $$"),
        ("assassin", "kill -9 $PPID; sleep 1"),
        ("large", "cat large"),
    ];
    let exec = programs.map(|(kind, program)| format!("{kind}={BEGIN}; {program}"));
    rig.set("TASK_EXEC", exec.join("\n")).set("TASK_WORKERS", 1);
    rig
}

/// The same with tasks in a database.
fn rig_with_database() -> Rig {
    in_database(postgres::server::shared())
}

/// A database of its own in this server.
fn in_database(server: &PrivatePostgres) -> Rig {
    let mut rig = rig();
    rig.set("DATABASE_URL", server.database(&format!("tasks_{}", number())));
    rig
}

/// The same over a broker, too.
fn rig_with_pipes() -> Rig {
    over_pipes(postgres::server::shared(), rabbitmq::broker::shared())
}

/// A virtual host of its own in this broker.
fn over_pipes(server: &PrivatePostgres, broker: &PrivateBroker) -> Rig {
    let mut rig = in_database(server);
    rig.set("RABBITMQ_URL", broker.vhost(&format!("tasks-{}", number())));
    rig
}

fn number() -> usize {
    static NUMBERS: AtomicUsize = AtomicUsize::new(0);
    NUMBERS.fetch_add(1, Relaxed)
}

/// Starts a worker, and waits until it takes tasks.
fn work(rig: &Rig) -> Process {
    let mut command = rig.command(&["task-worker"]);
    if command.get_envs().any(|(name, _)| name == "RABBITMQ_URL") {
        // It has no need of it.
        command.env_remove("DATABASE_URL");
    }
    let worker = Process::start(command);
    worker.wait_log("running tasks");
    worker
}

/// `POST /tasks`; what came of it.
fn try_submit(server: SocketAddr, tasks: &[Value]) -> Answer {
    let body = serde_json::to_vec(tasks).unwrap();
    request(server, "POST", "/tasks", &[("Content-Type", "application/json")], &body)
}

/// Submits tasks; their ids.
fn submit(server: SocketAddr, tasks: &[Value]) -> Vec<String> {
    let answer = try_submit(server, tasks);
    assert_eq!(answer.status, 201, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["accepted"], tasks.len());
    let ids = answer["ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Submits one task.
fn submit_one(server: SocketAddr, kind: &str, payload: &str) -> String {
    submit(server, &[json!({"kind": kind, "payload": payload})]).remove(0)
}

/// A task as it stands.
fn task(server: SocketAddr, id: &str) -> Value {
    let answer = request(server, "GET", &format!("/tasks/{id}"), &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits until a task is in a state.
fn wait_state(server: SocketAddr, id: &str, state: &str) -> Value {
    wait_for(&format!("task {id} to be {state}"), || {
        let task = task(server, id);
        (task["state"] == state).then_some(task)
    })
}

fn result(server: SocketAddr, id: &str) -> Answer {
    request(server, "GET", &format!("/tasks/{id}/result"), &[], b"")
}

/// Waits until a task is finished; its result.
fn finished(server: SocketAddr, id: &str) -> String {
    wait_state(server, id, "finished");
    let answer = result(server, id);
    assert_eq!(answer.status, 200, "{answer:?}");
    String::from_utf8(answer.body).unwrap()
}

/// Every run that began.
fn runs(rig: &Rig) -> Vec<Run> {
    let text = std::fs::read_to_string(rig.dir.path().join("runs")).unwrap_or_default();
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        Run {
            id: words[0].to_owned(),
            attempt: words[1].parse().unwrap(),
            worker: words[2].parse().unwrap(),
            process: words[3].parse().unwrap(),
        }
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(run).collect()
}

/// Waits until an attempt runs.
fn wait_run(rig: &Rig, id: &str, attempt: u64) -> Run {
    wait_for(&format!("attempt {attempt} of {id}"), || {
        runs(rig).into_iter().find(|run| run.id == id && run.attempt == attempt)
    })
}

/// Lets this attempt, of whichever gated task, go on.
fn open_gate(rig: &Rig, attempt: u64) {
    std::fs::write(rig.dir.path().join(format!("go-{attempt}")), "").unwrap();
}

/// Whether a process is there, and no zombie.
fn is_there(process: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

fn wait_gone(process: u32) {
    wait_for(&format!("the end of process {process}"), || (!is_there(process)).then_some(()));
}

/// The number in a file, once it is there.
fn wait_number(rig: &Rig, file: &str) -> u32 {
    wait_for(file, || std::fs::read_to_string(rig.dir.path().join(file)).ok()?.trim().parse().ok())
}

/// The processes whose parent this is, with their command lines.
fn children(parent: u32) -> Vec<(u32, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let numbers = processes.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let child = |process: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let is_child = stat.rsplit(") ").next()?.split(' ').nth(1)? == parent.to_string();
        let line = std::fs::read_to_string(format!("/proc/{process}/cmdline")).ok()?;
        is_child.then(|| (process, line.replace('\0', " ")))
    };
    numbers.filter_map(child).collect()
}

/// Waits for the process in which a worker has a large factorial calculated.
fn wait_calculating(worker: &Process) -> u32 {
    wait_for("a process that calculates", || {
        let mut found = children(worker.id()).into_iter();
        found.find(|(_, line)| line.contains("calculate-child")).map(|(process, _)| process)
    })
}
