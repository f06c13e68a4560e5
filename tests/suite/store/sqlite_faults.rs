//! What a file of tasks survives, and what it is refused for.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_data_processor::store::schedules::ScheduleFilter;
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{Filter, Millis, NewTask, Store, StoreError, Task, TaskState};
use async_data_processor::task::{Outcome, TaskId, WorkerId};
use rusqlite::Connection;

use super::{T0, claim, result, schedules, settlement, task};
use crate::harness::wait_for;
use crate::survive_space::SmallDisk;

/// When schedules are due: after all that runs.
const AHEAD: Millis = T0 + 24 * 60 * schedules::MINUTE_MS;
const LEDGER: &str = "STORE_LEDGER";
const CHILD: &str = "store::sqlite_faults::a_child_writes_until_it_is_killed";

fn file(dir: &Path) -> PathBuf {
    dir.join("tasks.sqlite")
}

fn refused(dir: &Path) -> String {
    let Err(StoreError::Broken(reason)) = SqliteStore::open(dir) else { panic!("was opened") };
    assert!(reason.contains(&file(dir).display().to_string()), "{reason}");
    reason
}

#[test]
fn the_file_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert!(!SqliteStore::exists(&state));
    let _store = SqliteStore::open(&state).unwrap();
    assert!(SqliteStore::exists(&state));
    for entry in std::fs::read_dir(&state).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
    }
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_not_touched() {
    let foreign = tempfile::tempdir().unwrap();
    let other = Connection::open(file(foreign.path())).unwrap();
    other.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").unwrap();
    assert!(refused(foreign.path()).contains("another program"));
    let rows: i64 = other.query_row("SELECT count(*) FROM theirs", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);

    let garbage = tempfile::tempdir().unwrap();
    let text = "no database ".repeat(1000);
    std::fs::write(file(garbage.path()), &text).unwrap();
    refused(garbage.path());
    assert_eq!(std::fs::read_to_string(file(garbage.path())).unwrap(), text);

    let newer = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(newer.path()).unwrap());
    let other = Connection::open(file(newer.path())).unwrap();
    other.pragma_update(None, "user_version", 1000).unwrap();
    assert!(refused(newer.path()).contains("later release"));
}

#[tokio::test]
async fn a_damaged_file_is_given_up_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path()).unwrap());
    super::submit_many(&store, "a", 2000).await;
    drop(store);
    let mut bytes = std::fs::read(file(dir.path())).unwrap();
    // All but the head and the schema.
    bytes[8 * 4096..].fill(0xa5);
    std::fs::write(file(dir.path()), bytes).unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let filter = || Filter { tasks_max: 9000, ..Filter::default() };
    let Err(StoreError::Broken(reason)) = store.tasks(filter()).await else {
        panic!("read what is damaged")
    };
    // Not even what might have worked is done any more.
    let submitted = store.submit(vec![task("a")], T0).await;
    assert_eq!(submitted, Err(StoreError::Broken(reason)));
}

#[tokio::test]
async fn a_full_disk_is_told_and_free_again_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("small"), 16);
    let dir = dir.path().join("small");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir).unwrap());
    let ids = super::submit_many(&store, "a", 10).await;
    disk.fill(256);
    let mut kept = ids.len();
    let told = loop {
        let new = vec![NewTask { payload: vec![7; 900], ..task("b") }];
        match store.submit(new, T0).await {
            Ok(_) => kept += 1,
            Err(told) => break told,
        }
    };
    assert!(matches!(&told, StoreError::Full(text) if text.contains("room")), "{told}");
    let filter = || Filter { tasks_max: usize::MAX, ..Filter::default() };
    assert_eq!(store.tasks(filter()).await.unwrap().len(), kept);
    disk.free();
    super::submit_many(&store, "a", 10).await;
    let claimed = claim(&store, WorkerId::new(), 100).await;
    assert_eq!(claimed.len(), 20);
    drop(store);
    let store = SqliteStore::open(&dir).unwrap();
    assert_eq!(store.tasks(filter()).await.unwrap().len(), kept + 10);
}

/// Not a test of its own: meets a sync that fails.
#[tokio::test]
async fn a_child_meets_a_failed_sync() {
    let Some(ledger) = std::env::var_os(LEDGER).map(PathBuf::from) else { return };
    let store = SqliteStore::open(ledger.parent().unwrap()).unwrap();
    let mut lines = String::new();
    let told = loop {
        let new = task("a");
        let line = format!("{} pending\n", new.id);
        match store.submit(vec![new], T0).await {
            Ok(_) => lines += &line,
            Err(told) => break told,
        }
    };
    assert!(matches!(told, StoreError::Broken(_)), "{told}");
    // The next sync would succeed, and mean nothing.
    assert_eq!(store.submit(vec![task("a")], T0).await, Err(told.clone()));
    assert_eq!(store.task(TaskId::new()).await, Err(told));
    std::fs::write(ledger, lines).unwrap();
}

#[tokio::test]
async fn a_failed_sync_is_no_success_then_or_later() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    drop(SqliteStore::open(dir.path()).unwrap());
    let log = dir.path().join("tasks.sqlite-wal");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-P"]);
    command.arg(log).args(["-e", "inject=fsync,fdatasync:error=EIO:when=40"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "store::sqlite_faults::a_child_meets_a_failed_sync"]);
    let ended = command.env(LEDGER, &ledger).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let store = SqliteStore::open(dir.path()).unwrap();
    let promised = promised(&ledger);
    assert!(promised.len() > 20, "{}", promised.len());
    for id in promised.into_keys() {
        assert!(store.task(id).await.unwrap().is_some(), "lost {id}");
    }
}

#[tokio::test]
async fn the_write_ahead_log_does_not_grow_with_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path()).unwrap());
    for _ in 0..60 {
        let id = super::submit(&store, task("a")).await;
        for index in 0..4 {
            assert!(store.put_part(id, None, index, vec![7; 1 << 20]).await.unwrap());
        }
        store.cancel(id, T0).await.unwrap();
    }
    let bytes = std::fs::metadata(dir.path().join("tasks.sqlite-wal")).unwrap().len();
    assert!(bytes <= 96 << 20, "240 MiB written, and {bytes} bytes of them in the log");
}

/// Not a test of its own: what the next one kills. Whatever was answered goes into the ledger.
#[tokio::test]
async fn a_child_writes_until_it_is_killed() {
    let Some(ledger) = std::env::var_os(LEDGER).map(PathBuf::from) else { return };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(ledger.parent().unwrap()).unwrap());
    let mut ledger = std::fs::File::options().append(true).open(ledger).unwrap();
    let worker = WorkerId::new();
    let mut due_ms = AHEAD;
    let again = schedules::add(&store, schedules::recurring(due_ms)).await;
    loop {
        let new: Vec<NewTask> = (0..20).map(|_| task("a")).collect();
        let mut lines = String::new();
        for new in &new {
            lines += &format!("{} pending\n", new.id);
        }
        store.submit(new, T0).await.unwrap();
        ledger.write_all(lines.as_bytes()).unwrap();
        let tasks = claim(&store, worker, 15).await;
        let done: Vec<_> =
            tasks.iter().map(|t| settlement(t, Outcome::Finished(result(b"1")), T0)).collect();
        let lines: String = done.iter().map(|done| format!("{} finished\n", done.id)).collect();
        store.settle(done).await.unwrap();
        ledger.write_all(lines.as_bytes()).unwrap();
        let coming = schedules::once("s", AHEAD);
        let lines = format!("{} pending\n", coming.id);
        store.add_schedule(coming, T0).await.unwrap();
        ledger.write_all(lines.as_bytes()).unwrap();
        let steps = vec![schedules::step(again, due_ms, vec![schedules::start(again, due_ms)])];
        assert_eq!(store.advance(steps, T0).await.unwrap(), [true]);
        let lines = format!("{} pending\n", again.task_due_at(due_ms));
        ledger.write_all(lines.as_bytes()).unwrap();
        due_ms += schedules::MINUTE_MS;
        for is_kept in [true, false] {
            let over = schedules::once("s", AHEAD);
            let id = over.id;
            store.add_schedule(over, T0).await.unwrap();
            let cancelled = store.cancel_schedule(id, T0).await;
            let ended = if is_kept { cancelled } else { store.delete_schedule(id, T0).await };
            assert!(ended.unwrap());
        }
    }
}

/// Schedules and their tasks are there together, and each step whole.
async fn assert_schedules_are_whole(store: &Arc<dyn Store>, tasks: &[Task]) {
    let filter = ScheduleFilter { schedules_max: usize::MAX, ..Default::default() };
    let page = store.schedules(filter).await.unwrap();
    assert_eq!(page.next, None);
    let mut started: HashSet<TaskId> = HashSet::new();
    for schedule in page.schedules {
        let Some(next_at_ms) = schedule.next_at_ms else {
            assert!(schedule.run.is_some(), "{} has no task", schedule.id);
            started.insert(schedule.id.task());
            continue;
        };
        let decided = store.occurrences(schedule.id, None, usize::MAX).await.unwrap();
        let steps = (next_at_ms - AHEAD) / schedules::MINUTE_MS;
        assert_eq!(decided.len() as i64, steps, "{} has gone on by as much", schedule.id);
        assert!(decided.iter().all(|one| one.run.is_some()), "{} lacks a task", schedule.id);
        assert_eq!(schedule.task, decided.first().and_then(|last| last.task));
        started.extend(decided.iter().filter_map(|one| one.task));
    }
    let waits = |task: &&Task| task.run_at_ms >= AHEAD && task.state == TaskState::Pending;
    for task in tasks.iter().filter(waits) {
        assert!(started.contains(&task.id), "{} is nobody's", task.id);
    }
}

fn start_child(ledger: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", CHILD]).env(LEDGER, ledger);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// What the ledger says of each task last.
fn promised(ledger: &Path) -> HashMap<TaskId, bool> {
    let text = std::fs::read_to_string(ledger).unwrap();
    let whole = text.lines().filter_map(|line| line.split_once(' '));
    whole.filter_map(|(id, state)| Some((id.parse().ok()?, state == "finished"))).collect()
}

#[tokio::test]
async fn killed_writers_leave_all_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    std::fs::File::create(&ledger).unwrap();
    for round in 1..=4 {
        let mut children = [start_child(&ledger), start_child(&ledger)];
        wait_for("lines in the ledger", || (promised(&ledger).len() > round * 300).then_some(()));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let all = store.tasks(Filter { tasks_max: usize::MAX, ..Filter::default() }).await.unwrap();
        let found: HashMap<TaskId, TaskState> =
            all.iter().map(|task| (task.id, task.state)).collect();
        for (id, is_finished) in promised(&ledger) {
            let state = found.get(&id).copied();
            assert!(state.is_some(), "lost {id}");
            assert!(!is_finished || state == Some(TaskState::Finished), "{id} is not finished");
        }
        assert_schedules_are_whole(&store, &all).await;
        for count in store.counts().await.unwrap() {
            let counted = all.iter().filter(|task| task.state == count.state).count();
            assert_eq!(counted as u64, count.tasks, "{}", count.state);
        }
        let other = Connection::open(file(dir.path())).unwrap();
        let said: String = other.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(said, "ok");
    }
}
