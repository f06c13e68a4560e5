//! A schedule as it is printed.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use crate::cli::exit::{Exit, Failure, OrExit};
use crate::service::printable;

/// What is shown of a schedule, as a JSON object.
pub(super) fn value(shown: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(shown).or_exit(Exit::Software)
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => printable(text),
        Some(other) => printable(&other.to_string()),
    }
}

/// The head of a list.
pub(super) fn print_head(out: &mut impl Write) -> io::Result<()> {
    line(out, "id", "state", "starts", "ship or kind", "outcome or error")
}

/// A line of it.
pub(super) fn print_line(out: &mut impl Write, schedule: &Value) -> io::Result<()> {
    let first = |names: &[&str]| {
        let mut texts = names.iter().map(|name| text(schedule, name));
        texts.find(|text| !text.is_empty()).unwrap_or_default()
    };
    let (what, came) = (first(&["ship_name", "kind"]), first(&["outcome", "error"]));
    let starts = first(&["next_at", "start_time"]);
    line(out, &text(schedule, "id"), &text(schedule, "state"), &starts, &what, &came)
}

fn line(
    out: &mut impl Write,
    id: &str,
    state: &str,
    starts: &str,
    what: &str,
    came: &str,
) -> io::Result<()> {
    let line = format!("{id:<36}  {state:<9}  {starts:<24}  {what:<16}  {came}");
    writeln!(out, "{}", line.trim_end())
}

/// All of it, a line for each member, and one for each of its last times.
pub(super) fn print_all(out: &mut impl Write, schedule: &Value) -> io::Result<()> {
    let members = schedule.as_object().into_iter().flatten();
    for (name, _) in members.filter(|(name, _)| *name != "occurrences") {
        writeln!(out, "{name:<18} {}", text(schedule, name))?;
    }
    let times = schedule.get("occurrences").and_then(Value::as_array);
    for time in times.into_iter().flatten() {
        let (due_at, decision) = (text(time, "due_at"), text(time, "decision"));
        let (count, why) = (text(time, "count"), ["reason", "state", "error", "outcome"]);
        let why: Vec<String> = why.iter().map(|name| text(time, name)).collect();
        let line = format!("{due_at:<24}  {count:>5} {decision:<8} {}", why.join(" "));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(print: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_stand_below_their_heads_and_nothing_reaches_the_terminal_as_it_is() {
        let schedule = json!({
            "id": "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a", "state": "failed",
            "ship_name": "USS \u{1b}[31m", "start_time": "2026-11-22T07:30:00Z", "error": "no\nway",
        });
        let (head, line) = (printed(print_head), printed(|out| print_line(out, &schedule)));
        assert_eq!(head.find("starts"), line.find("2026-11-22"));
        assert_eq!(head.find("outcome or"), line.find(r"no\nway"));
        assert!(!line.contains('\u{1b}'), "{line}");
        let all = printed(|out| print_all(out, &schedule));
        assert_eq!(all.lines().count(), 5, "{all}");
    }
}
