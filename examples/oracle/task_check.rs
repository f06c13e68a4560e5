//! `oracle task-check`: compares a ledger of tasks with what the server says of them.
//!
//! Two looks, one before and one after the results are read: what has ended does not change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use crate::args::Flags;
use crate::book::Outcome;
use crate::factorial::Factorial;
use crate::json::quote;
use crate::task_book::{Cancel, Entry, TaskBook};
use crate::task_server::{Server, Shown};
use crate::work::End;

/// How many cases are shown.
const SHOWN: usize = 20;

const COUNTED: [&str; 9] = [
    "finished",
    "failed",
    "cancelled",
    "followers",
    "recovered",
    "absent",
    "runs",
    "begun_again",
    "adopted",
];

/// What a check found.
#[derive(Default)]
struct Findings {
    counts: BTreeMap<&'static str, u64>,
    /// How many cases of each failure.
    failures: BTreeMap<&'static str, u64>,
    shown: Vec<String>,
    attempts_max: u64,
}

impl Findings {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn fail(&mut self, failure: &'static str, id: &str, what: &str) {
        *self.failures.entry(failure).or_default() += 1;
        if self.shown.len() < SHOWN {
            let (failure, id, what) = (quote(failure), quote(id), quote(what));
            self.shown.push(format!(r#"{{"failure":{failure},"id":{id},"what":{what}}}"#));
        }
    }

    fn to_json(&self) -> String {
        let mut text = format!("{{\"attempts_max\":{}", self.attempts_max);
        for name in COUNTED {
            text += &format!(",\"{name}\":{}", self.counts.get(name).unwrap_or(&0));
        }
        for name in ["lost", "unfinished", "wrong", "unexpected", "torn", "changed", "run_twice"] {
            text += &format!(",\"{name}\":{}", self.failures.get(name).unwrap_or(&0));
        }
        text + &format!(",\"first_cases\":[{}]}}", self.shown.join(","))
    }
}

/// Checks the server's tasks against the ledger; returns the JSON report and whether all is well.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let url = flags.required("--url")?;
    let mut server = Server::at(url)?;
    let book = TaskBook::read(flags.required("--ledger")?.as_ref())?;
    let patience = Duration::from_secs(flags.number("--patience-seconds", 60)?);
    let mut findings = Findings::default();
    let tasks = server.wait_for_the_end(patience)?;
    let finished = judge(&book, &tasks, &mut findings);
    let again_allowed = flags.has("--allow-again");
    check_results(&mut server, finished, again_allowed, &mut findings)?;
    for (id, task) in &server.tasks()? {
        if tasks.get(id) != Some(task) {
            findings.fail("changed", id, &format!("{:?}, then {task:?}", tasks.get(id)));
        }
    }
    for runs in flags.all("--runs") {
        check_runs(Path::new(runs), &tasks, again_allowed, &mut findings)?;
    }
    Ok((findings.to_json(), findings.failures.is_empty()))
}

/// A task that has a result, and what it must be.
type Finished = (String, End);

/// Compares the states; which tasks have a result.
fn judge(
    book: &TaskBook,
    tasks: &HashMap<String, Shown>,
    findings: &mut Findings,
) -> Vec<Finished> {
    for (id, task) in tasks {
        findings.attempts_max = findings.attempts_max.max(task.attempt);
        let outcome = book.entries.get(id).map(|entry| book.outcome(entry.request));
        match outcome {
            None => findings.fail("unexpected", id, "not in the ledger"),
            Some(Outcome::Refused) => findings.fail("unexpected", id, "it was refused"),
            Some(Outcome::Acked) => {}
            Some(Outcome::Sent | Outcome::Unknown) => findings.count("recovered"),
        }
    }
    for request in &book.requests {
        let present = request.ids.iter().filter(|id| tasks.contains_key(*id)).count();
        let all = request.ids.len();
        if present > 0 && present < all {
            findings.fail("torn", &request.name, &format!("{present} of {all}"));
        }
    }
    let mut finished = Vec::new();
    for (id, entry) in &book.entries {
        match (tasks.get(id), book.outcome(entry.request)) {
            (Some(task), _) => match ended(id, entry, task) {
                Ok(end) => {
                    findings.count(end_word(&task.state));
                    if task.is_follower {
                        findings.count("followers");
                    }
                    finished.extend(end.map(|end| (id.clone(), end)));
                }
                Err((failure, what)) => {
                    findings.fail(failure, id, &format!("{}: {what}; {task:?}", entry.work));
                }
            },
            (None, Outcome::Acked) => findings.fail("lost", id, &entry.work.to_string()),
            (None, _) => findings.count("absent"),
        }
    }
    finished
}

fn end_word(state: &str) -> &'static str {
    match state {
        "cancelled" => "cancelled",
        "failed" => "failed",
        _ => "finished",
    }
}

/// Whether a task has ended as it must; what its result must be, if it has one.
fn ended(
    id: &str,
    entry: &Entry,
    task: &Shown,
) -> Result<Option<End>, (&'static str, &'static str)> {
    if !task.has_ended() {
        return Err(("unfinished", "it has not ended"));
    }
    if task.state == "cancelled" {
        return match entry.cancel {
            Cancel::Never => Err(("wrong", "nobody cancelled it")),
            Cancel::Late => Err(("wrong", "it was too late to cancel it")),
            Cancel::Tried | Cancel::Done => Ok(None),
        };
    }
    if entry.cancel == Cancel::Done {
        return Err(("wrong", "it was cancelled"));
    }
    match (entry.work.end(id, task.attempt), task.state.as_str()) {
        (End::Failed(failures), "failed") if task.failures == failures => Ok(None),
        (End::Failed(_), "failed") => Err(("wrong", "a wrong number of failures")),
        (End::Failed(_), _) => Err(("wrong", "it should fail")),
        (_, "failed") => Err(("wrong", "it should not fail")),
        (end, _) => Ok(Some(end)),
    }
}

/// Checks what came of those that have finished. Where an attempt may begin again, one that runs
/// may also be settled as the attempt that has come after it.
fn check_results(
    server: &mut Server,
    mut finished: Vec<Finished>,
    again_allowed: bool,
    findings: &mut Findings,
) -> Result<(), String> {
    finished.sort_by_key(|(_, end)| match end {
        End::Factorial(input) => *input,
        _ => 0,
    });
    let (mut factorial, mut known) = (Factorial::new(), (0, "1".to_owned()));
    for (id, end) in finished {
        let answer = server.get(&format!("/tasks/{id}/result"))?;
        let right = match &end {
            End::Bytes(bytes) => bytes,
            End::Signed(words, attempt) => {
                let earlier = || (1..*attempt).map(|attempt| format!("{words} {attempt}"));
                if again_allowed && earlier().any(|earlier| earlier == answer.body) {
                    findings.count("adopted");
                    continue;
                }
                &format!("{words} {attempt}")
            }
            End::Factorial(input) => {
                if known.0 != *input {
                    known = (*input, factorial.digits(*input));
                }
                &known.1
            }
            End::Failed(_) => continue,
        };
        if answer.status != 200 || answer.body != *right {
            let start = |text: &str| text.chars().take(80).collect::<String>();
            let (is, should) = (start(&answer.body), start(right));
            let (is_bytes, should_bytes) = (answer.body.len(), right.len());
            let what = format!(
                "result {} {is_bytes} bytes {is:?}, not {should_bytes} bytes {should:?}",
                answer.status
            );
            findings.fail("wrong", &id, &what);
        }
    }
    Ok(())
}

/// Checks what programs noted when they began, `ID ATTEMPT …`: no attempt ran twice, unless that
/// is allowed, and none that was never given out.
fn check_runs(
    path: &Path,
    tasks: &HashMap<String, Shown>,
    again_allowed: bool,
    findings: &mut Findings,
) -> Result<(), String> {
    let place = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(place)?;
    let mut seen = HashSet::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(id), Some(attempt)) = (words.next(), words.next()) else { continue };
        findings.count("runs");
        match seen.insert((id, attempt)) {
            true => {}
            false if again_allowed => findings.count("begun_again"),
            false => findings.fail("run_twice", id, &format!("attempt {attempt}")),
        }
        let last = tasks.get(id).map(|task| task.attempt);
        if attempt.parse().ok().is_none_or(|attempt: u64| last.is_none_or(|last| attempt > last)) {
            findings.fail("unexpected", id, &format!("ran as attempt {attempt} of {last:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Findings, check_runs, judge};
    use crate::json;
    use crate::task_book::TaskBook;
    use crate::task_server::Shown;
    use std::collections::HashMap;

    const LEDGER: [&str; 10] = [
        "sent r1 a:echo/3 b:slow/20",
        "acked r1",
        "sent r2 p:poison/2 q:echo/1",
        "unknown r2",
        "sent r3 x:echo/1",
        "refused r3 507",
        "cancel b",
        "cancelled b",
        "sent r4 c:echo/1",
        "acked r4",
    ];

    /// id, state, failures
    fn failures(tasks: &[(&str, &str, u64)]) -> Vec<String> {
        let (mut book, mut findings) = (TaskBook::default(), Findings::default());
        LEDGER.iter().for_each(|line| book.add(line).unwrap());
        let shown = |&(id, state, failures): &(&str, &str, u64)| {
            let task = Shown { state: state.into(), attempt: 3, failures, ..Shown::default() };
            (id.to_owned(), task)
        };
        judge(&book, &tasks.iter().map(shown).collect(), &mut findings);
        json::members(&findings.to_json(), &mut |_, _| ()).unwrap();
        let failed = findings.failures.iter();
        failed.map(|(failure, count)| format!("{failure} {count}")).collect()
    }

    #[test]
    fn tasks_that_ended_as_they_must_are_fine() {
        let acked = [("a", "finished", 0), ("b", "cancelled", 0), ("c", "finished", 2)];
        assert_eq!(failures(&acked), [""; 0]);
        let recovered = [acked.as_slice(), &[("p", "failed", 2), ("q", "finished", 0)]].concat();
        assert_eq!(failures(&recovered), [""; 0]);
    }

    #[test]
    fn everything_else_is_found() {
        let (a, b, c) = (("a", "finished", 0), ("b", "cancelled", 0), ("c", "finished", 0));
        for (tasks, failure) in [
            (vec![a, b], "lost 1"),
            (vec![a, b, ("c", "running", 0)], "unfinished 1"),
            (vec![a, b, ("c", "pending", 0)], "unfinished 1"),
            (vec![a, b, ("c", "missed", 0)], "unfinished 1"),
            (vec![a, b, ("c", "failed", 5)], "wrong 1"),
            (vec![a, b, ("c", "cancelled", 0)], "wrong 1"),
            (vec![a, ("b", "finished", 0), c], "wrong 1"),
            (vec![a, b, c, ("p", "failed", 2)], "torn 1"),
            (vec![a, b, c, ("p", "failed", 1), ("q", "finished", 0)], "wrong 1"),
            (vec![a, b, c, ("p", "finished", 0), ("q", "finished", 0)], "wrong 1"),
            (vec![a, b, c, ("x", "finished", 0)], "unexpected 1"),
            (vec![a, b, c, ("z", "finished", 0)], "unexpected 1"),
        ] {
            assert_eq!(failures(&tasks), [failure], "{tasks:?}");
        }
    }

    #[test]
    fn a_run_too_many_is_found() {
        let path = std::env::temp_dir().join(format!("oracle-runs-{}", std::process::id()));
        let task = Shown { attempt: 2, ..Shown::default() };
        let tasks = HashMap::from([("a".to_owned(), task)]);
        for (text, expected) in [
            ("a 1 77\na 2 78\n", ""),
            ("a 1 77\na 1 78\n", "run_twice"),
            ("a 3 77\n", "unexpected"),
            ("b 1 77\n", "unexpected"),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut findings = Findings::default();
            check_runs(&path, &tasks, false, &mut findings).unwrap();
            assert_eq!(findings.failures.keys().copied().collect::<String>(), expected, "{text}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
