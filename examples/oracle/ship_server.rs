//! What a scheduler says of its schedules.

use crate::http::Answer;
use crate::json::{self, Fault};
use crate::task_server::Server;

/// A task that was started, as its schedule or its time shows it; texts are empty that are not
/// there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) task: String,
    pub(crate) state: String,
    pub(crate) started_at: String,
    pub(crate) error: String,
    pub(crate) outcome: String,
}

impl Run {
    /// A number of its outcome.
    pub(crate) fn number(&self, wanted: &str) -> Option<u64> {
        let mut found = None;
        json::members(&self.outcome, &mut |name, value| {
            if name == wanted {
                found = value.parse().ok();
            }
        })
        .ok()?;
        found
    }

    fn take(&mut self, name: &str, value: &str) {
        let text = || value.trim_matches('"').to_owned();
        match name {
            "task_id" => self.task = text(),
            "state" => self.state = text(),
            "started_at" => self.started_at = text(),
            "error" => self.error = text(),
            "outcome" => self.outcome = value.to_owned(),
            _ => {}
        }
    }
}

/// A schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) id: String,
    pub(crate) ship: String,
    pub(crate) run: Run,
    /// All that is shown.
    pub(crate) text: String,
}

/// One due time, or several in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) due_at: String,
    pub(crate) last_due_at: String,
    pub(crate) count: u64,
    pub(crate) decision: String,
    pub(crate) reason: String,
    pub(crate) run: Run,
}

/// Every schedule that there is.
pub(crate) fn schedules(server: &mut Server) -> Result<Vec<Schedule>, String> {
    read(server, "/scheduler/", schedule)
}

/// What was decided of the times of a schedule, latest first.
pub(crate) fn occurrences(server: &mut Server, id: &str) -> Result<Vec<Time>, String> {
    read(server, &format!("/scheduler/{id}/occurrences"), decided)
}

/// What all pages of a list hold.
fn read<T>(
    server: &mut Server,
    path: &str,
    one: impl Fn(&str) -> Result<T, Fault>,
) -> Result<Vec<T>, String> {
    let (mut all, mut page) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = page {
        let Answer { status, body, next, .. } = server.get(&path)?;
        if status != 200 {
            return Err(format!("GET {path}: {status} {body}"));
        }
        let mut fault = Ok(());
        let read = json::elements(&body, &mut |element| match one(element) {
            Ok(one) => all.push(one),
            Err(found) => fault = Err(found),
        });
        read.and(fault).map_err(|fault| format!("GET {path}: {fault}"))?;
        page = next;
    }
    Ok(all)
}

fn schedule(text: &str) -> Result<Schedule, Fault> {
    let mut schedule = Schedule { text: text.to_owned(), ..Schedule::default() };
    json::members(text, &mut |name, value| match name {
        "id" => schedule.id = value.trim_matches('"').to_owned(),
        "ship_name" => schedule.ship = value.trim_matches('"').to_owned(),
        _ => schedule.run.take(name, value),
    })?;
    Ok(schedule)
}

fn decided(text: &str) -> Result<Time, Fault> {
    let mut time = Time::default();
    json::members(text, &mut |name, value| {
        let text = || value.trim_matches('"').to_owned();
        match name {
            "due_at" => time.due_at = text(),
            "last_due_at" => time.last_due_at = text(),
            "count" => time.count = value.parse().unwrap_or(0),
            "decision" => time.decision = text(),
            "reason" => time.reason = text(),
            _ => time.run.take(name, value),
        }
    })?;
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::{decided, schedule};

    #[test]
    fn schedules_and_times_are_read_as_the_scheduler_shows_them() {
        let text = r#"{"id":"a","ship_name":"b","task_id":"c","state":"finished",
            "started_at":"t","outcome":{"sent":7,"lost":null}}"#;
        let schedule = schedule(text).unwrap();
        assert_eq!((schedule.id.as_str(), schedule.ship.as_str()), ("a", "b"));
        let run = &schedule.run;
        assert_eq!((run.task.as_str(), run.state.as_str()), ("c", "finished"));
        assert_eq!((run.number("sent"), run.number("lost")), (Some(7), None));
        let time = decided(r#"{"due_at":"t","count":2,"decision":"missed","reason":"r"}"#).unwrap();
        assert_eq!((time.count, time.decision.as_str(), time.reason.as_str()), (2, "missed", "r"));
    }
}
