//! What a check gives: findings, and the report that they make together.

use std::io::{self, Write};

use serde::Serialize;

/// The columns that a line of the table may have.
const COLUMNS: usize = 100;
/// Where the texts of the table begin.
const TEXT_AT: usize = 21;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It could not be checked.
    Unknown,
    /// It weakens a promise, or will.
    Warning,
    /// A promise does not hold, or nothing works.
    Problem,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// What was found.
    pub(super) found: String,
    /// What it means for the data.
    pub(super) means: Option<String>,
    /// What to do.
    #[serde(rename = "do")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn new(level: Level, check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level, found: found.into(), means: None, advice: None }
    }

    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, found)
    }

    pub(super) fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Note, check, found)
    }

    pub(super) fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Unknown, check, found)
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, found)
    }

    pub(super) fn problem(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Problem, check, found)
    }

    /// What it means for the data.
    pub(super) fn means(mut self, means: impl Into<String>) -> Self {
        self.means = Some(means.into());
        self
    }

    /// What to do.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// How often each level was found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    ok: usize,
    notes: usize,
    unknown: usize,
    warnings: usize,
    problems: usize,
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Whether there is no problem.
    pub(super) ok: bool,
    counts: Counts,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let counts = Counts {
            ok: count(Level::Ok),
            notes: count(Level::Note),
            unknown: count(Level::Unknown),
            warnings: count(Level::Warning),
            problems: count(Level::Problem),
        };
        Self { ok: counts.problems == 0, counts, findings }
    }

    /// Prints a table for people.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for Finding { check, level, found, means, advice } in &self.findings {
            let level = format!("{level:?}").to_lowercase();
            let advice = advice.as_ref().map(|advice| format!("-> {advice}"));
            let texts = [Some(found), means.as_ref(), advice.as_ref()];
            let lines = texts.into_iter().flatten().flat_map(|text| wrapped(text));
            let mut head = format!("{level:<8} {check:<11} ");
            for line in lines {
                writeln!(out, "{head}{line}")?;
                head = " ".repeat(TEXT_AT);
            }
        }
        let Counts { ok, notes, unknown, warnings, problems } = self.counts;
        writeln!(
            out,
            "problems {problems}, warnings {warnings}, unknown {unknown}, notes {notes}, ok {ok}"
        )?;
        writeln!(out, "{}", if self.ok { "ok" } else { "NOT OK" })
    }
}

/// A text in lines of the table.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let columns = TEXT_AT + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && columns > COLUMNS {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_problem_makes_it_not_ok_and_long_texts_are_wrapped() {
        let found = |level| Finding::new(level, "check", "what was found");
        let report = |level| Report::new(vec![found(Level::Ok), found(level)]);
        for level in [Level::Note, Level::Unknown, Level::Warning] {
            assert!(report(level).ok, "{level:?}");
        }
        let warning = Finding::warning("state disk", "word ".repeat(40)).means("m").advise("do it");
        let report = Report::new(vec![warning, found(Level::Problem)]);
        let mut printed = Vec::new();
        report.print(&mut printed).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        let lines: Vec<_> = printed.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{printed}");
        assert!(lines[0].starts_with("warning  state disk  word word"), "{printed}");
        assert_eq!(lines[4], format!("{}-> do it", " ".repeat(TEXT_AT)));
        assert_eq!(lines[6..], ["problems 1, warnings 1, unknown 0, notes 0, ok 0", "NOT OK"]);
    }
}
