//! How late tasks begin that were scheduled: their due times against what the scheduler shows.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::DateTime;
use serde::Serialize;
use serde_json::Value;

use super::latency::{Percentiles, Times};
use super::schedules_load::{Draws, Sort, text};
use super::tasks_client::Client;
use crate::service::Lifecycle;

/// Before the first one is due: time for all to be posted.
const AHEAD_MS: u64 = 2000;
/// Schedules that are posted in a millisecond at least.
const POSTS_PER_MS: u64 = 1;
/// How often one that has not ended is looked at, and for how long after its time.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen of tasks that were due.
#[derive(Debug, Serialize)]
pub(super) struct Lateness {
    pub(super) due: u64,
    pub(super) finished: u64,
    /// Begun before their time.
    pub(super) early: u64,
    /// From the due time to when the worker was given the task; whole milliseconds.
    pub(super) begun_ms: Option<Percentiles>,
    /// From the due time to its end, which is right after its beginning; whole milliseconds.
    pub(super) finished_ms: Option<Percentiles>,
}

/// Schedules so many that do nothing within some time, and waits for them.
pub(super) async fn measure(
    client: &mut Client,
    draws: &mut Draws,
    (due, within): (u64, Duration),
    life: &Lifecycle,
    mut tick: impl FnMut(u64),
) -> anyhow::Result<Lateness> {
    let mut waiting = Vec::new();
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let first_ms = AHEAD_MS + due / POSTS_PER_MS;
    for _ in 0..due {
        let ahead_ms = first_ms + draws.between((0, within_ms));
        let (body, start_ms) = Sort::Echoes.body(draws, ahead_ms);
        let posted = client.post("/scheduler/", &body).await?;
        waiting.push((text(&posted, "id").to_owned(), start_ms));
    }
    let over = Instant::now() + Duration::from_millis(first_ms) + within;
    while Instant::now() < over && !life.is_stopping() {
        tokio::time::sleep(LOOK_EVERY).await;
        tick(0);
    }
    let (mut begun, mut finished) = (Times::new(), Times::new());
    let mut seen = Lateness { due, finished: 0, early: 0, begun_ms: None, finished_ms: None };
    for (id, start_ms) in waiting {
        let Some(schedule) = ended(client, &id, over + PATIENCE, life).await? else { break };
        let began_ms = after(&schedule, "started_at", start_ms)?;
        let ended_ms = after(&schedule, "finished_at", start_ms)?;
        seen.finished += 1;
        seen.early += u64::from(began_ms < 0);
        let time = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        begun.record(time(began_ms));
        finished.record(time(ended_ms));
        tick(seen.finished);
    }
    seen.begun_ms = begun.percentiles();
    seen.finished_ms = finished.percentiles();
    Ok(seen)
}

/// The schedule, once it is finished; `None` if that takes too long.
async fn ended(
    client: &mut Client,
    id: &str,
    deadline: Instant,
    life: &Lifecycle,
) -> anyhow::Result<Option<Value>> {
    loop {
        let schedule = client.get(&format!("/scheduler/{id}")).await?;
        match text(&schedule, "state") {
            "finished" => return Ok(Some(schedule)),
            "pending" | "running" if Instant::now() < deadline && !life.is_stopping() => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            "pending" | "running" => return Ok(None),
            state => bail!("the schedule {id} is {state}: {}", text(&schedule, "error")),
        }
    }
}

/// How many milliseconds after its start something came.
fn after(schedule: &Value, member: &str, start_ms: i64) -> anyhow::Result<i64> {
    let at = DateTime::parse_from_rfc3339(text(schedule, member));
    let at = at.with_context(|| format!("{member} of {schedule}"))?;
    Ok(at.timestamp_millis() - start_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_told_in_milliseconds_early_ones_too() {
        let schedule = serde_json::json!({"started_at": "1970-01-01T00:00:01.007Z"});
        assert_eq!(after(&schedule, "started_at", 1000).unwrap(), 7);
        assert_eq!(after(&schedule, "started_at", 1010).unwrap(), -3);
        assert!(after(&schedule, "finished_at", 0).is_err());
    }
}
