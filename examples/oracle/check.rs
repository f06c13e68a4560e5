//! `oracle check`: compares the ledgers with the files that were written.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::args::Flags;
use crate::book::{Book, Outcome};
use crate::entry;
use crate::json::quote;

/// How many cases of each failure are shown.
const SHOWN: usize = 10;

/// The cases of one kind of failure: how many, and the first few as JSON objects.
#[derive(Default)]
struct Cases {
    count: u64,
    shown: Vec<String>,
}

impl Cases {
    fn add(&mut self, describe: impl FnOnce() -> String) {
        self.count += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(describe());
        }
    }
}

/// What a check found.
#[derive(Default)]
pub(crate) struct Findings {
    files: u64,
    other_files: u64,
    lines: u64,
    bytes: u64,
    /// Acked, and in no file.
    lost: Cases,
    /// In the files more than once.
    duplicated: Cases,
    /// In no ledger, or of a refused request.
    unexpected: Cases,
    /// Requests of which a part is in the files.
    torn: Cases,
    /// Lines that do not hold exactly one whole entry.
    damaged: Cases,
    /// Acked entries that are not in the files yet, where that is allowed.
    waiting: u64,
    /// Entries without an answer that are in the files.
    recovered: u64,
    acked: u64,
    present: u64,
    sent: u64,
    requests: u64,
}

/// Checks the files against the ledgers; returns the JSON report and whether all is well.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let (ledgers, outputs) = (flags.all("--ledger"), flags.all("--output"));
    if ledgers.is_empty() || outputs.is_empty() {
        return Err("--ledger and --output are needed".to_owned());
    }
    let mut findings = Findings::default();
    // Files first, ledgers second: an entry stands in the ledger before it can be in a file, so
    // that a check beside a running load meets no id that it doesn't know.
    let mut paths = Vec::new();
    for output in outputs {
        list(Path::new(output), &mut paths, &mut findings)?;
    }
    paths.sort();
    let mut book = Book::default();
    for ledger in ledgers {
        book.read(Path::new(ledger))?;
    }
    for (number, path) in (0..).zip(&paths) {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        read_file(
            &mut BufReader::with_capacity(1 << 18, file),
            number,
            &paths,
            &mut book,
            &mut findings,
        )
        .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let allowed =
        Allowed { waiting: flags.has("--allow-waiting"), torn: flags.has("--allow-torn") };
    judge(&book, allowed, &mut findings);
    Ok((findings.to_json(), findings.is_clean()))
}

/// Adds the batch files beneath `folder`. Names with a dot in front are not for readers; links
/// are not followed.
fn list(folder: &Path, paths: &mut Vec<PathBuf>, findings: &mut Findings) -> Result<(), String> {
    let place = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(place)? {
        let entry = entry.map_err(place)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type().map_err(place)?.is_dir() {
            list(&path, paths, findings)?;
        } else if path.extension() == Some(OsStr::new("jsonl")) {
            paths.push(path);
        } else {
            findings.other_files += 1;
        }
    }
    Ok(())
}

fn read_file(
    reader: &mut impl BufRead,
    file: u32,
    paths: &[PathBuf],
    book: &mut Book,
    findings: &mut Findings,
) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    findings.files += 1;
    while reader.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        findings.lines += 1;
        findings.bytes += u64::try_from(line.len()).unwrap_or(0);
        match read_line(&line) {
            Ok(id) => find(&id, file, paths, book, findings),
            Err(reason) => findings.damaged.add(|| describe_damage(paths, file, number, reason)),
        }
        line.clear();
    }
    if number == 0 {
        findings.damaged.add(|| describe_damage(paths, file, 0, "an empty file"));
    }
    Ok(())
}

fn read_line(line: &[u8]) -> Result<String, &'static str> {
    let line = line.strip_suffix(b"\n").ok_or("a last line without its newline")?;
    entry::read(std::str::from_utf8(line).map_err(|_| "text that is not UTF-8")?)
}

/// Notes that `id` was found in `file`.
fn find(id: &str, file: u32, paths: &[PathBuf], book: &mut Book, findings: &mut Findings) {
    let Some(number) = book.ids.find(id) else {
        findings.unexpected.add(|| describe(id, "not in the ledger", &[path_of(paths, file)]));
        return;
    };
    let Some(entry) = book.entry_mut(number) else { return };
    entry.seen += 1;
    let (request, seen, first_file) = (entry.request, entry.seen, entry.first_file);
    if seen > 1 {
        let files = [path_of(paths, first_file), path_of(paths, file)];
        findings.duplicated.add(|| describe(id, "more than once", &files));
        return;
    }
    entry.first_file = file;
    findings.present += 1;
    if let Some(request) = book.request_mut(request) {
        request.present += 1;
    }
    match book.outcome(request) {
        Outcome::Refused => {
            findings.unexpected.add(|| describe(id, "it was refused", &[path_of(paths, file)]));
        }
        Outcome::Sent | Outcome::Unknown => findings.recovered += 1,
        Outcome::Acked => (),
    }
}

/// What is no failure.
#[derive(Clone, Copy, Default)]
struct Allowed {
    /// Accepted entries that are not in the files yet.
    waiting: bool,
    /// Requests that were not accepted and are there in part.
    torn: bool,
}

/// Once every file is read: what is missing.
fn judge(book: &Book, allowed: Allowed, findings: &mut Findings) {
    for (number, entry) in (0..).zip(&book.entries) {
        findings.sent += 1;
        if book.outcome(entry.request) != Outcome::Acked {
            continue;
        }
        findings.acked += 1;
        if entry.seen == 0 && allowed.waiting {
            findings.waiting += 1;
        } else if entry.seen == 0 {
            let request = book.request_names.name(entry.request);
            findings.lost.add(|| describe(book.ids.name(number), &format!("acked {request}"), &[]));
        }
    }
    for (number, request) in (0..).zip(&book.requests) {
        findings.requests += 1;
        let partly = request.present > 0 && request.present < request.entries;
        let is_allowed = allowed.waiting || allowed.torn;
        if partly && !is_allowed && request.outcome != Outcome::Refused {
            let name = book.request_names.name(number);
            let share = format!("{} of {} entries", request.present, request.entries);
            findings.torn.add(|| describe(name, &share, &[]));
        }
    }
}

impl Findings {
    fn is_clean(&self) -> bool {
        let failures = [&self.lost, &self.duplicated, &self.unexpected, &self.torn, &self.damaged];
        failures.iter().all(|cases| cases.count == 0)
    }

    fn to_json(&self) -> String {
        let counts = [
            ("files", self.files),
            ("other_files", self.other_files),
            ("lines", self.lines),
            ("bytes", self.bytes),
            ("requests", self.requests),
            ("sent", self.sent),
            ("acked", self.acked),
            ("present", self.present),
            ("recovered", self.recovered),
            ("waiting", self.waiting),
        ];
        let failures = [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("unexpected", &self.unexpected),
            ("torn", &self.torn),
            ("damaged", &self.damaged),
        ];
        let mut text = format!("{{\"ok\":{}", self.is_clean());
        for (name, count) in counts {
            text += &format!(",\"{name}\":{count}");
        }
        for (name, cases) in failures {
            text += &format!(",\"{name}\":{}", cases.count);
        }
        let shown = failures.into_iter().filter(|(_, cases)| cases.count > 0);
        let shown: Vec<String> =
            shown.map(|(name, cases)| format!("\"{name}\":[{}]", cases.shown.join(","))).collect();
        text + &format!(",\"first_cases\":{{{}}}}}", shown.join(","))
    }
}

fn path_of(paths: &[PathBuf], file: u32) -> String {
    let path = usize::try_from(file).ok().and_then(|file| paths.get(file));
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn describe(id: &str, what: &str, files: &[String]) -> String {
    let files: Vec<String> = files.iter().map(|file| quote(file)).collect();
    format!("{{\"id\":{},\"what\":{},\"files\":[{}]}}", quote(id), quote(what), files.join(","))
}

fn describe_damage(paths: &[PathBuf], file: u32, line: u64, reason: &str) -> String {
    let file = quote(&path_of(paths, file));
    format!("{{\"file\":{file},\"line\":{line},\"what\":{}}}", quote(reason))
}

#[cfg(test)]
mod tests {
    use super::{Allowed, Findings, judge, read_file};
    use crate::book::Book;
    use crate::entry;
    use crate::json;
    use crate::random::SplitMix64;
    use std::path::{Path, PathBuf};

    const LEDGER: [&str; 6] =
        ["sent r1 a b", "sent r2 c d", "sent r3 e", "acked r1", "unknown r2", "refused r3 400"];

    /// Lines for these ids, as a program would write them.
    fn lines(ids: &str) -> String {
        let mut random = SplitMix64::new(1, 0);
        let entries = ids.chars().map(|id| entry::build(&mut random, &id.to_string()));
        entries.map(|entry| entry.replace(['\r', '\n'], " ") + "\n").collect()
    }

    /// What a check finds when the files hold these texts.
    fn check(files: &[&str], waiting: bool) -> Findings {
        check_but(files, Allowed { waiting, torn: false })
    }

    fn check_but(files: &[&str], allowed: Allowed) -> Findings {
        let (mut book, mut findings) = (Book::default(), Findings::default());
        LEDGER.iter().for_each(|line| book.add(line).unwrap());
        let paths: Vec<PathBuf> =
            (0..files.len()).map(|number| format!("out/{number}.jsonl").into()).collect();
        for (number, file) in (0..).zip(files) {
            read_file(&mut file.as_bytes(), number, &paths, &mut book, &mut findings).unwrap();
        }
        judge(&book, allowed, &mut findings);
        json::members(&findings.to_json(), &mut |_, _| ()).unwrap();
        findings
    }

    /// lost, duplicated, unexpected, torn, damaged
    fn failures(findings: &Findings) -> [u64; 5] {
        let Findings { lost, duplicated, unexpected, torn, damaged, .. } = findings;
        [lost.count, duplicated.count, unexpected.count, torn.count, damaged.count]
    }

    #[test]
    fn whole_requests_once_are_clean() {
        for (ids, recovered) in [("ab", 0), ("abcd", 2)] {
            let findings = check(&[&lines(ids)], false);
            assert!(findings.is_clean(), "{}", findings.to_json());
            assert_eq!((findings.acked, findings.recovered), (2, recovered));
        }
    }

    #[test]
    fn a_lost_entry_is_found() {
        let findings = check(&[&lines("cd")], false);
        assert_eq!(failures(&findings), [2, 0, 0, 0, 0]);
        assert!(findings.to_json().contains(r#""lost":[{"id":"a","what":"acked r1""#));
        let findings = check(&[&lines("cd")], true);
        assert!(findings.is_clean() && findings.waiting == 2);
    }

    #[test]
    fn a_doubled_entry_is_found_with_both_its_files() {
        let findings = check(&[&lines("ab"), &lines("b")], false);
        assert_eq!(failures(&findings), [0, 1, 0, 0, 0]);
        assert!(findings.to_json().contains(r#"["out/0.jsonl","out/1.jsonl"]"#));
        assert_eq!(failures(&check(&[&lines("abab")], true)), [0, 2, 0, 0, 0]);
    }

    #[test]
    fn an_entry_that_nobody_sent_or_that_was_refused_is_found() {
        assert_eq!(failures(&check(&[&lines("abz")], true)), [0, 0, 1, 0, 0]);
        assert_eq!(failures(&check(&[&lines("abe")], true)), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_torn_request_is_found() {
        let findings = check(&[&lines("abc")], false);
        assert_eq!(failures(&findings), [0, 0, 0, 1, 0]);
        assert!(findings.to_json().contains(r#""id":"r2","what":"1 of 2 entries""#));
        assert_eq!(failures(&check(&[&lines("a")], false)), [1, 0, 0, 1, 0]);
        assert!(check(&[&lines("ac")], true).is_clean());
        let torn = Allowed { waiting: false, torn: true };
        assert!(check_but(&[&lines("abc")], torn).is_clean());
        assert_eq!(failures(&check_but(&[&lines("a")], torn)), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn damage_is_found() {
        let whole = lines("ab");
        let torn_end = lines("cd");
        for damaged in ["", "\n", "{}\n", torn_end.trim_end(), "{\"timestamp\":\"t\",\"value\":\"c"]
        {
            let findings = check(&[&whole, damaged], true);
            assert_eq!(failures(&findings), [0, 0, 0, 0, 1], "{damaged:?}");
        }
        let zeros = whole.clone() + "\0\0\0\0";
        assert_eq!(failures(&check(&[&zeros], true)), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn staged_files_and_other_files_are_left_out() {
        let root = std::env::temp_dir().join(format!("oracle-list-{}", std::process::id()));
        for file in [".staging/0/a.jsonl", "d/h/b.jsonl", "c.jsonl", ".marker", "d/n.txt"] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let (mut paths, mut findings) = (Vec::new(), Findings::default());
        super::list(&root, &mut paths, &mut findings).unwrap();
        paths.sort();
        assert_eq!(paths, [root.join("c.jsonl"), root.join("d/h/b.jsonl")]);
        assert_eq!(findings.other_files, 1);
        assert!(super::list(Path::new("/nowhere/at/all"), &mut paths, &mut findings).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
