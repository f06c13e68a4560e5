//! `oracle ship-check`: compares a ledger of ships with their schedules, their tasks, the files,
//! and what `ship-data` counts. Everything must have ended, and all of it be in files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::args::Flags;
use crate::book::Outcome;
use crate::json::{self, quote};
use crate::ship_book::{Again, Entry, ShipBook, time};
use crate::ship_server::{Run, Schedule, Time, occurrences, schedules};
use crate::task_book::Cancel;
use crate::task_server::{Server, Shown};

/// Characters of a time up to its milliseconds.
const MILLIS: usize = 23;
/// Of so many lines one may be there twice where several streams of a ship may have run side by
/// side, since two of them may send the same within a microsecond. What is stored again by mistake
/// is a whole request or batch.
const LINES_PER_REPEATED: usize = 50;
/// How many cases are shown.
const SHOWN: usize = 20;

const FAILURES: [&str; 10] = [
    "lost",
    "unexpected",
    "doubled",
    "silent",
    "early",
    "wrong",
    "sum",
    "unaccounted",
    "stored_twice",
    "miscounted",
];

/// What a check found.
#[derive(Default)]
struct Findings {
    counts: BTreeMap<String, u64>,
    /// How many cases of each failure.
    failures: BTreeMap<&'static str, u64>,
    shown: Vec<String>,
}

impl Findings {
    fn count(&mut self, what: &str, number: u64) {
        *self.counts.entry(what.to_owned()).or_default() += number;
    }

    fn fail(&mut self, failure: &'static str, ship: &str, what: &str) {
        *self.failures.entry(failure).or_default() += 1;
        if self.shown.len() < SHOWN {
            let (failure, ship, what) = (quote(failure), quote(ship), quote(what));
            self.shown.push(format!(r#"{{"failure":{failure},"ship":{ship},"what":{what}}}"#));
        }
    }

    fn to_json(&self) -> String {
        let counts = self.counts.iter().map(|(name, count)| format!("{}:{count}", quote(name)));
        let failures = FAILURES
            .iter()
            .map(|name| format!("\"{name}\":{}", self.failures.get(name).unwrap_or(&0)));
        let members: Vec<String> = counts.chain(failures).collect();
        format!("{{{},\"first_cases\":[{}]}}", members.join(","), self.shown.join(","))
    }
}

/// Checks everything against the ledger; returns the JSON report and whether all is well.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let mut scheduler = Server::at(flags.required("--scheduler")?)?;
    let tasks = Server::at(flags.required("--url")?)?.tasks()?;
    let book = ShipBook::read(flags.required("--ledger")?.as_ref())?;
    let mut findings = Findings::default();
    let lines = read_files(flags.required("--output")?.as_ref(), &book, &mut findings)?;
    check_counts(flags.required("--counts")?.as_ref(), &lines, &mut findings)?;
    let all = schedules(&mut scheduler)?;
    let mut seen = HashSet::new();
    for schedule in &all {
        if !seen.insert(schedule.ship.as_str()) {
            findings.fail("doubled", &schedule.ship, "it has two schedules");
        }
        let entry = book.entries.get(&schedule.ship);
        let Some(entry) = entry.filter(|entry| entry.outcome != Outcome::Refused) else {
            findings.fail("unexpected", &schedule.ship, "nobody has it, or it was refused");
            continue;
        };
        let times = match entry.wish.again {
            Some(_) => occurrences(&mut scheduler, &schedule.id)?,
            None => Vec::new(),
        };
        let nothing = Lines::default();
        let lines = lines.get(&schedule.ship).unwrap_or(&nothing);
        let again_allowed = flags.has("--allow-again");
        Judge { entry, schedule, tasks: &tasks, again_allowed, findings: &mut findings }
            .judge(&times, lines);
    }
    for (ship, entry) in &book.entries {
        let may_be_gone = matches!(entry.delete, Cancel::Tried | Cancel::Done);
        match (seen.contains(ship.as_str()), entry.outcome) {
            (false, Outcome::Acked) if !may_be_gone => findings.fail("lost", ship, "accepted"),
            (true, _) if entry.delete == Cancel::Done => findings.fail("wrong", ship, "deleted"),
            (true, Outcome::Sent | Outcome::Unknown) => findings.count("recovered", 1),
            (false, _) if may_be_gone => findings.count("deleted", 1),
            _ => {}
        }
    }
    for (id, task) in tasks.iter().filter(|(_, task)| !task.has_ended() && task.state != "missed") {
        findings.fail("silent", id, &format!("{task:?}"));
    }
    if schedules(&mut scheduler)? != all {
        findings.fail("wrong", "", "what had ended has changed");
    }
    Ok((findings.to_json(), findings.failures.is_empty()))
}

/// What is in files of a ship.
#[derive(Default)]
struct Lines {
    count: u64,
    /// When the first was sent; empty when there is none.
    first: String,
    /// Those that were there before.
    repeated: Vec<String>,
}

impl Lines {
    /// Those of which one is too many.
    fn stored_twice(&self, entry: Option<&Entry>) -> &[String] {
        let again = entry.and_then(|entry| entry.wish.again.as_ref());
        let are_side_by_side = again.is_some_and(|again| again.overlap == "allow");
        let lines = usize::try_from(self.count).unwrap_or(usize::MAX);
        let are_few = self.repeated.len() <= lines / LINES_PER_REPEATED;
        if are_side_by_side && are_few { &[] } else { &self.repeated }
    }
}

/// One schedule against its wish.
struct Judge<'a> {
    entry: &'a Entry,
    schedule: &'a Schedule,
    tasks: &'a HashMap<String, Shown>,
    again_allowed: bool,
    findings: &'a mut Findings,
}

impl Judge<'_> {
    fn fail(&mut self, failure: &'static str, what: &str) {
        let text = format!("{what}: {} {}", self.entry.wish, self.schedule.text);
        self.findings.fail(failure, &self.schedule.ship, &text);
    }

    /// Compares everything of it with what is in files of its ship.
    fn judge(mut self, times: &[Time], lines: &Lines) {
        self.findings.count("schedules", 1);
        let (entry, schedule) = (self.entry, self.schedule);
        if entry.id.as_ref().is_some_and(|id| *id != schedule.id) {
            self.fail("wrong", "it has another id than was answered");
        }
        let is_cancelled = schedule.run.state == "cancelled";
        match entry.cancel {
            Cancel::Done if !is_cancelled => self.fail("wrong", "it was cancelled"),
            Cancel::Never | Cancel::Late if is_cancelled && entry.delete == Cancel::Never => {
                self.fail("wrong", "nobody cancelled it, or it was too late");
            }
            _ => {}
        }
        let runs: Vec<&Run> = match &entry.wish.again {
            None => {
                self.judge_run(entry.wish.start_ms, &schedule.run, is_cancelled);
                vec![&schedule.run]
            }
            Some(again) => {
                self.judge_times(again, times);
                times
                    .iter()
                    .filter(|time| time.decision == "started")
                    .map(|time| &time.run)
                    .collect()
            }
        };
        // To the millisecond, as schedules have it.
        let (first, start) = (lines.first.get(..MILLIS), time(entry.wish.start_ms));
        if first.is_some_and(|first| Some(first) < start.get(..MILLIS)) {
            self.fail("early", &format!("the first datagram was sent at {}", lines.first));
        }
        self.judge_lines(&runs, lines.count);
    }

    /// Each due time was decided once, in order, and those that were started have ended.
    fn judge_times(&mut self, again: &Again, times: &[Time]) {
        let (mut number, is_cancelled) = (0, self.schedule.run.state == "cancelled");
        if !["ended", "cancelled"].contains(&self.schedule.run.state.as_str()) {
            self.fail("silent", "it has not ended");
        }
        for one in times.iter().rev() {
            let due = |number| time(self.entry.wish.due_ms(number));
            let last = number + one.count.max(1) - 1;
            if one.due_at != due(number) || (one.count > 1 && one.last_due_at != due(last)) {
                let what = format!("{one:?} is not what was due at {}", due(number));
                self.fail("wrong", &what);
            }
            match one.decision.as_str() {
                "started" => {
                    let may_be_cancelled = is_cancelled || again.overlap == "replace";
                    self.judge_run(self.entry.wish.due_ms(number), &one.run, may_be_cancelled);
                }
                _ if one.reason.is_empty() => self.fail("silent", &format!("{one:?}")),
                decision => self.findings.count(&format!("times_{decision}"), one.count),
            }
            number = last + 1;
        }
        if number > again.times || (number < again.times && !is_cancelled) {
            self.fail("silent", &format!("{number} times of {} were decided", again.times));
        }
    }

    fn judge_run(&mut self, due_ms: u64, run: &Run, may_be_cancelled: bool) {
        let Run { state, started_at, error, .. } = run;
        self.findings.count(state, 1);
        if !started_at.is_empty() && *started_at < time(due_ms) {
            self.fail("early", &format!("{run:?} due at {}", time(due_ms)));
        }
        match state.as_str() {
            "finished" => self.judge_outcome(run),
            "missed" | "failed" if error.is_empty() => self.fail("silent", &format!("{run:?}")),
            "missed" | "failed" => self.findings.count(&format!("{state}: {}", why(error)), 1),
            "cancelled" if may_be_cancelled => {}
            "cancelled" => self.fail("wrong", &format!("{run:?} was cancelled by nobody")),
            _ => self.fail("silent", &format!("{run:?} has not ended")),
        }
    }

    fn judge_outcome(&mut self, run: &Run) {
        let parts = ["stored", "malformed", "truncated", "lost"].map(|name| run.number(name));
        let sum: Option<u64> = parts.into_iter().sum();
        if run.number("sent") != sum || run.number("stored").is_none() {
            self.fail("sum", &run.outcome);
        }
        self.findings.count("stored", run.number("stored").unwrap_or(0));
        self.findings.count("lost_datagrams", run.number("lost").unwrap_or(0));
        match run.number("sent") {
            None => self.findings.count("uncounted", 1),
            Some(_) if run.number("foreign") != Some(0) => self.fail("wrong", &run.outcome),
            Some(_) => {}
        }
    }

    /// What is in files is what was stored, and perhaps what those stored whose account died.
    fn judge_lines(&mut self, runs: &[&Run], lines: u64) {
        let stored: u64 = runs.iter().filter_map(|run| run.number("stored")).sum();
        let attempts = |run: &&Run| self.tasks.get(&run.task).map_or(0, |task| task.attempt);
        let has_begun = runs.iter().any(|run| attempts(run) > 0);
        let is_whole = !self.again_allowed
            && runs.iter().all(|run| match run.state.as_str() {
                "finished" => attempts(run) == 1,
                _ => attempts(run) == 0,
            });
        if stored > lines || (is_whole && stored < lines) || (!has_begun && lines > 0) {
            let attempts: Vec<u64> = runs.iter().map(attempts).collect();
            let what = format!("{stored} stored, {lines} in files, attempts {attempts:?}");
            self.fail("unaccounted", &what);
        }
        self.findings.count("lines_of_whole_accounts", if is_whole { lines } else { 0 });
    }
}

/// A reason without what differs each time.
fn why(error: &str) -> String {
    let words = error.split(' ').filter(|word| !word.chars().any(|one| one.is_ascii_digit()));
    words.take(12).collect::<Vec<_>>().join(" ")
}

/// How many lines of each ship are in files, each at most once.
fn read_files(
    output: &Path,
    book: &ShipBook,
    findings: &mut Findings,
) -> Result<HashMap<String, Lines>, String> {
    let (mut lines, mut seen): (HashMap<String, Lines>, _) = (HashMap::new(), HashSet::new());
    for path in files_below(&output.join("ships"))? {
        let place = |error: std::io::Error| format!("{}: {error}", path.display());
        for line in BufReader::new(std::fs::File::open(&path).map_err(place)?).lines() {
            let line = line.map_err(place)?;
            let (mut ship, mut timestamp) = ("", "");
            json::members(&line, &mut |name, value| match name {
                "ship" => ship = value.trim_matches('"'),
                "timestamp" => timestamp = value.trim_matches('"'),
                _ => {}
            })
            .map_err(|fault| format!("{}: {line}: {fault}", path.display()))?;
            if !book.entries.contains_key(ship) {
                findings.fail("unexpected", ship, &line);
            }
            let of_ship = lines.entry(ship.to_owned()).or_default();
            of_ship.count += 1;
            if of_ship.first.is_empty() || timestamp < of_ship.first.as_str() {
                of_ship.first = timestamp.to_owned();
            }
            if !seen.insert(line.clone()) {
                of_ship.repeated.push(line);
            }
        }
    }
    for (ship, of_ship) in &lines {
        for line in of_ship.stored_twice(book.entries.get(ship)) {
            findings.fail("stored_twice", ship, line);
        }
    }
    findings.count("lines", lines.values().map(|of_ship| of_ship.count).sum());
    Ok(lines)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut files, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        let place = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(place)? {
            let path = entry.map_err(place)?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Compares lines `<ship>: <count>` with those in files.
fn check_counts(
    path: &Path,
    lines: &HashMap<String, Lines>,
    findings: &mut Findings,
) -> Result<(), String> {
    let place = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(place)?;
    let counted = text.lines().map(|line| {
        let (ship, count) = line.split_once(": ").ok_or_else(|| format!("no count: {line}"))?;
        Ok((ship.to_owned(), count.parse().map_err(|_| format!("no count: {line}"))?))
    });
    let counted: HashMap<String, u64> = counted.collect::<Result<_, String>>()?;
    for ship in lines.keys().chain(counted.keys()).collect::<HashSet<_>>() {
        let there = lines.get(ship).map(|of_ship| of_ship.count);
        let shown = counted.get(ship).copied();
        if shown != there {
            findings.fail("miscounted", ship, &format!("{shown:?} shown, {there:?} in files"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Findings, Judge, Lines};
    use crate::book::Outcome;
    use crate::json;
    use crate::ship_book::{Entry, ShipBook, Wish, time};
    use crate::ship_server::{Run, Schedule, Time};
    use crate::task_book::Cancel;
    use crate::task_server::Shown;

    const START_MS: u64 = 1_795_332_600_000;

    /// A task whose window began so many milliseconds after it was due.
    fn run(state: &str, late_ms: i64, more: &str) -> Run {
        let started_at = time(START_MS.checked_add_signed(late_ms).unwrap());
        let (task, state) = ("t".to_owned(), state.to_owned());
        let mut run = Run { task, state, started_at, ..Run::default() };
        match more.starts_with('{') {
            true => run.outcome = more.to_owned(),
            false => run.error = more.to_owned(),
        }
        run
    }

    /// What is found of a schedule of ship `s` after these lines of a ledger.
    fn found(ledger: &[&str], state: Run, times: &[Time], attempt: u64, lines: u64) -> String {
        let (mut book, mut findings) = (ShipBook::default(), Findings::default());
        ledger.iter().for_each(|line| book.add(line).unwrap());
        let schedule =
            Schedule { id: "7".into(), ship: "s".into(), run: state, text: String::new() };
        let task = Shown { attempt, ..Shown::default() };
        let tasks = HashMap::from([("t".to_owned(), task)]);
        let (entry, findings_of) = (&book.entries["s"], &mut findings);
        let judge = Judge {
            entry,
            schedule: &schedule,
            tasks: &tasks,
            again_allowed: false,
            findings: findings_of,
        };
        let first = time(START_MS).replace('Z', "001Z");
        judge.judge(times, &Lines { count: lines, first, ..Lines::default() });
        json::members(&findings.to_json(), &mut |_, _| ()).unwrap();
        findings.failures.keys().copied().collect::<Vec<_>>().join(" ")
    }

    const WHOLE: &str = r#"{"sent":5,"stored":4,"malformed":0,"truncated":0,"lost":1,"foreign":0}"#;

    #[test]
    fn one_outcome_neither_early_nor_silent_with_its_sum_and_its_lines_is_fine() {
        let sent = format!("sent s {START_MS}/1");
        let once = [sent.as_str(), "acked s 7"];
        let cancelled = [sent.as_str(), "acked s 7", "cancel s"];
        for (ledger, run, attempt, lines, expected) in [
            (&once[..], run("finished", 0, WHOLE), 1, 4, ""),
            (&once, run("finished", 0, WHOLE), 2, 9, ""),
            (&once, run("missed", 9, "why"), 0, 0, ""),
            (&once, run("failed", 9, "why"), 1, 3, ""),
            (&cancelled, run("cancelled", 9, ""), 1, 3, ""),
            (&cancelled, run("finished", 9, WHOLE), 1, 4, ""),
            (&once, run("finished", -1, WHOLE), 1, 4, "early"),
            (&once, run("finished", 0, &WHOLE.replace('5', "6")), 1, 4, "sum"),
            (&once, run("finished", 0, &WHOLE.replace('4', "null")), 1, 0, "sum"),
            (&once, run("finished", 0, ""), 1, 0, "sum"),
            (&once, run("finished", 0, WHOLE), 1, 5, "unaccounted"),
            (&once, run("finished", 0, WHOLE), 2, 3, "unaccounted"),
            (&once, run("missed", 0, "why"), 0, 1, "unaccounted"),
            (&once, run("missed", 0, ""), 0, 0, "silent"),
            (&once, run("running", 0, ""), 1, 0, "silent"),
            (&once, run("cancelled", 0, ""), 1, 0, "wrong"),
            (&once[..1], run("pending", 0, ""), 0, 0, "silent"),
            (&[&sent, "acked s 8"], run("missed", 9, "why"), 0, 0, "wrong"),
            (
                &[&sent, "acked s 7", "cancel s", "cancelled s"],
                run("finished", 0, WHOLE),
                1,
                4,
                "wrong",
            ),
        ] {
            let text = format!("{run:?} {attempt} {lines}");
            assert_eq!(found(ledger, run, &[], attempt, lines), expected, "{text}");
        }
    }

    #[test]
    fn what_is_there_twice_was_sent_by_two_streams_or_stored_twice() {
        let twice = |wish: &str, lines: u64, repeated: usize| {
            let wish = Wish::parse(wish).unwrap();
            let outcome = Outcome::Acked;
            let entry =
                Entry { wish, outcome, id: None, cancel: Cancel::Never, delete: Cancel::Never };
            let repeated = vec![String::new(); repeated];
            Lines { count: lines, repeated, ..Lines::default() }.stored_twice(Some(&entry)).len()
        };
        for (wish, lines, repeated, expected) in [
            ("0/1", 100, 1, 1),
            ("0/1/2/3/skip/all", 100, 1, 1),
            ("0/1/2/3/allow/all", 100, 2, 0),
            ("0/1/2/3/allow/all", 100, 3, 3),
            ("0/1/2/3/allow/all", 49, 1, 1),
        ] {
            assert_eq!(twice(wish, lines, repeated), expected, "{wish} {lines} {repeated}");
        }
    }

    #[test]
    fn every_time_of_what_recurs_is_decided_once_and_ends() {
        let sent = format!("sent s {START_MS}/1/2/3/skip/all");
        let ledger = [sent.as_str(), "acked s 7"];
        let at = |number: u64| time(START_MS + 2000 * number);
        let started = |number, run| Time {
            due_at: at(number),
            count: 1,
            decision: "started".into(),
            run,
            ..Time::default()
        };
        let skipped = |first, count, reason: &str| Time {
            due_at: at(first),
            last_due_at: if count > 1 { at(first + count - 1) } else { String::new() },
            count,
            decision: "skipped".into(),
            reason: reason.into(),
            ..Time::default()
        };
        let whole = || run("finished", 0, WHOLE);
        for (state, times, expected) in [
            ("ended", vec![skipped(1, 2, "why"), started(0, whole())], ""),
            ("active", vec![skipped(1, 2, "why"), started(0, whole())], "silent"),
            ("ended", vec![skipped(1, 1, "why"), started(0, whole())], "silent"),
            ("ended", vec![skipped(1, 2, ""), started(0, whole())], "silent"),
            ("ended", vec![skipped(0, 2, "why"), started(0, whole())], "wrong"),
            ("ended", vec![skipped(1, 3, "why"), started(0, whole())], "silent"),
            ("ended", vec![skipped(1, 2, "why"), started(0, run("cancelled", 0, ""))], "wrong"),
            ("ended", vec![skipped(1, 2, "why"), started(0, run("running", 0, ""))], "silent"),
            ("ended", vec![skipped(1, 2, "why"), started(0, run("finished", -1, WHOLE))], "early"),
        ] {
            let schedule = Run { state: state.into(), ..Run::default() };
            let has_account = times.iter().any(|time| time.run.state == "finished");
            let lines = if has_account { 4 } else { 0 };
            let found = found(&ledger, schedule, &times, 1, lines);
            assert_eq!(found, expected, "{times:?}");
        }
    }
}
