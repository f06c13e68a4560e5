//! After the load: have all tasks ended, and as they should?
//!
//! While tasks still run, only the last one is looked at, by its id; then, what is not over yet, a
//! task at a time. So the looking costs the server next to nothing. When it is quiet, all tasks of
//! the run are read, page by page.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::load::{Fate, TICK};
use super::tasks_client::Client;
use super::tasks_marks::TaskMarks;
use crate::service::Lifecycle;
use crate::store::TaskState;
use crate::tasks::echo;

/// How often it is looked.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Tasks of a page.
const PAGE_TASKS: u64 = 1000;
/// Results that are read and compared.
const SAMPLE: u64 = 200;

/// The tasks of a run.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    pub(super) marks: &'a TaskMarks,
    /// What became of each request.
    pub(super) fates: &'a [Fate],
    /// Tasks of a request.
    pub(super) bulk: u64,
}

/// How the waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// Nothing of the run waits or runs any more; when that was seen.
    Quiet(Instant),
    /// Ctrl-C.
    Interrupted,
    /// It took too long.
    Stuck,
}

/// Is everything there, and right?
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) ok: bool,
    /// Of the accepted ones.
    pub(super) finished: u64,
    /// Accepted, and not there.
    pub(super) lost: u64,
    /// Accepted, and ended otherwise: by state.
    pub(super) otherwise: BTreeMap<String, u64>,
    /// There, though their request was refused.
    pub(super) unasked: u64,
    /// There, of requests that were not answered.
    pub(super) unanswered: u64,
    /// Results that were compared with what they should be.
    pub(super) results_compared: u64,
    pub(super) results_wrong: u64,
}

impl Expected<'_> {
    fn fate(&self, number: u64) -> Option<Fate> {
        let request = usize::try_from(number / self.bulk.max(1)).ok()?;
        self.fates.get(request).copied()
    }

    /// The number of the last task that was accepted.
    fn last(&self) -> Option<u64> {
        let request = self.fates.iter().rposition(|fate| *fate == Fate::Accepted)?;
        Some((request as u64 + 1) * self.bulk - 1)
    }

    /// One more than the number of the last task, accepted or not.
    fn end(&self) -> u64 {
        self.fates.len() as u64 * self.bulk
    }

    /// Waits until nothing of the run waits or runs; `tick` is called now and then.
    pub(super) async fn wait(
        &self,
        client: &mut Client,
        patience: Duration,
        life: &Lifecycle,
        mut tick: impl FnMut(),
    ) -> anyhow::Result<Waited> {
        let (began, mut ticked) = (Instant::now(), Instant::now());
        let Some(last) = self.last() else { return Ok(Waited::Quiet(began)) };
        let path = format!("/tasks/{}", self.marks.id(last));
        let mut last_is_over = false;
        loop {
            last_is_over = last_is_over || is_over(&client.get(&path).await?);
            if last_is_over && self.is_quiet(client).await? {
                return Ok(Waited::Quiet(Instant::now()));
            }
            if life.is_stopping() {
                return Ok(Waited::Interrupted);
            }
            if began.elapsed() > patience {
                return Ok(Waited::Stuck);
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                tick();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether no task of the run is in a state that another one follows; in the order in which
    /// they are gone through.
    async fn is_quiet(&self, client: &mut Client) -> anyhow::Result<bool> {
        for state in TaskState::ALL.into_iter().filter(|state| !state.is_terminal()) {
            let path = format!("/tasks?kind={}&state={state}&limit=1", echo::KIND);
            let page = client.get(&path).await?;
            let newest = page.as_array().and_then(|tasks| tasks.first());
            if newest.is_some_and(|task| self.marks.number(text(task, "id")).is_some()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads all tasks of the run, and some of their results; `None` if one is not over after all.
    pub(super) async fn verify(&self, client: &mut Client) -> anyhow::Result<Option<Verdict>> {
        let mut verdict = Verdict::default();
        let mut accepted = 0;
        // In the order in which they came in, which is not that of their numbers.
        let (mut before, mut has_begun) = (String::new(), false);
        loop {
            let path = format!("/tasks?kind={}&limit={PAGE_TASKS}{before}", echo::KIND);
            let page = client.get(&path).await?;
            let tasks = page.as_array().map(Vec::as_slice).unwrap_or_default();
            let ours = tasks.iter().filter_map(|task| {
                let number = self.marks.number(text(task, "id"))?;
                Some((number, task))
            });
            let mut found = false;
            for (number, task) in ours {
                found = true;
                if !is_over(task) {
                    return Ok(None);
                }
                match self.fate(number) {
                    Some(Fate::Accepted) => accepted += 1,
                    Some(Fate::Unknown) => verdict.unanswered += 1,
                    _ => verdict.unasked += 1,
                }
                match (self.fate(number), text(task, "state")) {
                    (Some(Fate::Accepted), "finished") => verdict.finished += 1,
                    (Some(Fate::Accepted), state) => {
                        *verdict.otherwise.entry(state.to_owned()).or_default() += 1;
                    }
                    _ => {}
                }
            }
            let Some(last) = tasks.last().filter(|_| found || !has_begun) else { break };
            has_begun |= found;
            before = format!("&before={}", text(last, "id"));
        }
        let promised = self.fates.iter().filter(|fate| **fate == Fate::Accepted).count() as u64;
        verdict.lost = (promised * self.bulk).saturating_sub(accepted);
        self.compare(client, &mut verdict).await?;
        verdict.ok = verdict.lost == 0
            && verdict.otherwise.is_empty()
            && verdict.unasked == 0
            && verdict.results_wrong == 0;
        Ok(Some(verdict))
    }

    /// Compares results, evenly spread over the run.
    async fn compare(&self, client: &mut Client, verdict: &mut Verdict) -> anyhow::Result<()> {
        if verdict.finished == 0 {
            return Ok(());
        }
        let step = (self.end() / SAMPLE).max(1);
        let sample = (0..self.end()).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        for number in sample.filter(|number| self.fate(*number) == Some(Fate::Accepted)) {
            let path = format!("/tasks/{}/result", self.marks.id(number));
            let result = client.get_bytes(&path).await;
            verdict.results_compared += 1;
            let is_right = result.is_ok_and(|result| result == self.marks.payload(number));
            verdict.results_wrong += u64::from(!is_right);
        }
        Ok(())
    }
}

fn text<'a>(task: &'a Value, name: &str) -> &'a str {
    task.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_over(task: &Value) -> bool {
    TaskState::from_word(text(task, "state")).is_some_and(TaskState::is_terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_the_fate_of_its_request() {
        let fates = [Fate::Accepted, Fate::Refused, Fate::Accepted, Fate::Unknown];
        let expected = Expected { marks: &TaskMarks::new(0), fates: &fates, bulk: 10 };
        assert_eq!((expected.last(), expected.end()), (Some(29), 40));
        assert_eq!(expected.fate(9), Some(Fate::Accepted));
        assert_eq!(expected.fate(10), Some(Fate::Refused));
        assert_eq!(expected.fate(39), Some(Fate::Unknown));
        assert_eq!(expected.fate(40), None);
    }

    #[test]
    fn only_an_ended_task_is_over() {
        for state in TaskState::ALL {
            let task = serde_json::json!({ "state": state.word() });
            assert_eq!(is_over(&task), state.is_terminal());
        }
        assert!(!is_over(&Value::Null));
    }
}
