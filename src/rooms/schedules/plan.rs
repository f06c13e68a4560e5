//! What was asked for: read and checked once, and stored with the schedule as JSON.
//!
//! ```text
//! {"work":{"capture":{"ship_name":"TARDIS","duration_seconds":60}},
//!  "start_time":"2026-11-22T07:30:00Z"}
//! {"work":{"task":{"kind":"echo","payload":"x"}},"start_time":null,"lateness_seconds":null,
//!  "recurrence":{"steps":{"cron":{"expression":"30 6 * * *","time_zone":"UTC"}},…}}
//! ```

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::members::{Members, Wrong};
use super::policy::{CatchUp, Overlap};
use super::rule::{Rule, Steps};
use crate::rooms::telemetry::order::{self, Order};
use crate::rooms::telemetry::ship::ShipName;
use crate::store::schedules::{NewSchedule, ScheduleId, Start};
use crate::store::{Millis, NewTask};
use crate::task::{Name, TaskId};

/// The longest capture, in seconds: a day.
const DURATION_SECONDS_MAX: u32 = 24 * 60 * 60;
/// The most that something may be late, in seconds: a year.
const LATENESS_SECONDS_MAX: u32 = 366 * 24 * 60 * 60;
/// By how much a time of what recurs may be late, if nothing is said.
const LATENESS_SECONDS: u32 = 60;
/// The most bytes of a payload: each schedule in a list is read with it.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// After how many failures a task is given up.
const FAILURES_MAX: u32 = 5;

/// The members of a request.
const MEMBERS: [&str; 12] = [
    "ship_name",
    "start_time",
    "duration",
    "kind",
    "payload",
    "lateness_seconds",
    "cron",
    "every_seconds",
    "time_zone",
    "until",
    "catch_up",
    "overlap",
];
/// Those that make no sense for what starts once.
const OF_RECURRENCE: [&str; 4] = ["time_zone", "until", "catch_up", "overlap"];

/// What is done at its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// The telemetry of a ship is captured.
    Capture { ship_name: ShipName, duration_seconds: u32 },
    /// A task of any kind is run.
    Task { kind: Name, payload: String },
}

/// How it recurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recurrence {
    pub(super) steps: Steps,
    /// As it was written.
    pub(super) until: Option<String>,
    pub(super) catch_up: CatchUp,
    pub(super) overlap: Overlap,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) work: Work,
    /// As it was written.
    pub(super) start_time: Option<String>,
    pub(super) lateness_seconds: Option<u32>,
    pub(super) recurrence: Option<Recurrence>,
}

impl Plan {
    /// Reads a request.
    pub(super) fn read(body: &[u8]) -> Result<Self, Wrong> {
        let mut members = Members::read(body, &MEMBERS)?;
        let recurrence = recurrence(&mut members)?;
        let plan = Self {
            work: work(&mut members)?,
            start_time: members.take("start_time")?,
            lateness_seconds: number(&mut members, "lateness_seconds", LATENESS_SECONDS_MAX)?,
            recurrence,
        };
        if plan.start_time.is_none() && plan.recurrence.is_none() {
            return Err(Wrong::new("start_time", "it is missing"));
        }
        plan.start_ms()?;
        plan.until_ms()?;
        Ok(plan)
    }

    /// From the stored form; `None` if it is none of ours.
    pub(super) fn stored(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The stored form.
    pub(super) fn bytes(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The ship, if it is about one.
    const fn ship_name(&self) -> Option<&ShipName> {
        match &self.work {
            Work::Capture { ship_name, .. } => Some(ship_name),
            Work::Task { .. } => None,
        }
    }

    /// The schedule of this id that is made now, if its times lie in the future; captures are tasks
    /// of the kind `capture`.
    pub(super) fn schedule(
        &self,
        id: ScheduleId,
        capture: &Name,
        now_ms: Millis,
    ) -> Result<NewSchedule, Wrong> {
        let start = self.start(id, capture, now_ms)?;
        let label = self.ship_name().map(ToString::to_string);
        Ok(NewSchedule { id, label, plan: self.bytes(), start })
    }

    fn start(&self, id: ScheduleId, capture: &Name, now_ms: Millis) -> Result<Start, Wrong> {
        let start_ms = self.start_ms()?;
        if start_ms.is_some_and(|start_ms| start_ms <= now_ms) {
            return Err(Wrong::new("start_time", "it must lie in the future"));
        }
        let until_ms = self.until_ms()?;
        match (self.rule(now_ms)?, start_ms) {
            (Some(rule), _) => {
                rule.after(now_ms).map(Start::Recurring).ok_or_else(|| match until_ms {
                    Some(_) => Wrong::new("until", "its first time would be after that"),
                    None => Wrong::new("cron", "it never comes"),
                })
            }
            (None, Some(start_ms)) => Ok(Start::Once(self.task(id.task(), capture, start_ms))),
            (None, None) => Err(Wrong::new("start_time", "it is missing")),
        }
    }

    /// When it is due, if it recurs; made at that time.
    pub(super) fn rule(&self, created_at_ms: Millis) -> Result<Option<Rule>, Wrong> {
        let Some(recurrence) = &self.recurrence else { return Ok(None) };
        let from_ms = self.start_ms()?.unwrap_or(created_at_ms);
        Rule::new(&recurrence.steps, from_ms, self.until_ms()?).map(Some)
    }

    /// By how much a time of what recurs may be late.
    pub(super) fn lateness_ms(&self) -> Millis {
        Millis::from(self.lateness_seconds.unwrap_or(LATENESS_SECONDS)) * 1000
    }

    /// The task that does it from `start_ms` on. It is missed if nobody has begun within the budget
    /// of lateness, and when a capture would have ended.
    pub(super) fn task(&self, id: TaskId, capture: &Name, start_ms: Millis) -> NewTask {
        let recurs = self.recurrence.is_some();
        let lateness_ms = (recurs || self.lateness_seconds.is_some()).then(|| self.lateness_ms());
        match &self.work {
            Work::Capture { ship_name, duration_seconds } => {
                let duration_ms = Millis::from(*duration_seconds) * 1000;
                let order = Order {
                    ship_name: ship_name.clone(),
                    until_ms: start_ms.saturating_add(duration_ms),
                };
                let late_ms = lateness_ms.map_or(duration_ms, |ms| ms.min(duration_ms));
                order.task(capture.clone(), id, start_ms, start_ms.saturating_add(late_ms))
            }
            Work::Task { kind, payload } => NewTask {
                id,
                kind: kind.clone(),
                endpoint: None,
                payload: payload.clone().into_bytes(),
                run_at_ms: start_ms,
                expires_at_ms: lateness_ms.map(|ms| start_ms.saturating_add(ms)),
                failures_max: FAILURES_MAX,
                key: None,
                is_watched: true,
            },
        }
    }

    /// When it starts, if that was said.
    pub(super) fn start_ms(&self) -> Result<Option<Millis>, Wrong> {
        self.start_time.as_deref().map(|text| time("start_time", text)).transpose()
    }

    /// When it ends to recur, if that was said.
    pub(super) fn until_ms(&self) -> Result<Option<Millis>, Wrong> {
        let until = self.recurrence.as_ref().and_then(|recurrence| recurrence.until.as_deref());
        until.map(|text| time("until", text)).transpose()
    }
}

fn work(members: &mut Members<'_>) -> Result<Work, Wrong> {
    if members.holds("kind") {
        members.refuse(&["ship_name", "duration"], "there is a kind: it is one or the other")?;
        let kind: Name =
            members.take("kind")?.ok_or_else(|| Wrong::new("kind", "it is missing"))?;
        if kind.as_str() == order::KIND {
            let why = "a capture is ordered with ship_name and duration";
            return Err(Wrong::new("kind", why));
        }
        return Ok(Work::Task { kind, payload: payload(members)? });
    }
    members.refuse(&["payload"], "it needs a kind")?;
    let ship_name = members.take("ship_name")?;
    let duration_seconds = number(members, "duration", DURATION_SECONDS_MAX)?;
    Ok(Work::Capture {
        ship_name: ship_name.ok_or_else(|| Wrong::new("ship_name", "it is missing"))?,
        duration_seconds: duration_seconds
            .ok_or_else(|| Wrong::new("duration", "it is missing"))?,
    })
}

/// A JSON string is the text it stands for; any other payload is the JSON as it was received.
fn payload(members: &mut Members<'_>) -> Result<String, Wrong> {
    let text = match members.raw("payload") {
        Some(raw) if raw.starts_with('"') => {
            serde_json::from_str(raw).map_err(|error| Wrong::new("payload", error.to_string()))?
        }
        raw => raw.unwrap_or_default().to_owned(),
    };
    if text.len() > PAYLOAD_BYTES_MAX {
        let why = format!("it has more than {PAYLOAD_BYTES_MAX} bytes");
        return Err(Wrong::new("payload", why));
    }
    Ok(text)
}

fn recurrence(members: &mut Members<'_>) -> Result<Option<Recurrence>, Wrong> {
    let steps = match (members.take("cron")?, members.take("every_seconds")?) {
        (Some(_), Some(_)) => {
            return Err(Wrong::new("every_seconds", "there is a cron: it is one or the other"));
        }
        (Some(expression), None) => {
            let time_zone = members.take("time_zone")?.unwrap_or_else(|| "UTC".to_owned());
            Steps::Cron { expression, time_zone }
        }
        (None, Some(seconds)) => {
            members.refuse(&["time_zone"], "it needs a cron")?;
            Steps::Every { seconds }
        }
        (None, None) => {
            members.refuse(&OF_RECURRENCE, "it needs a cron or every_seconds")?;
            return Ok(None);
        }
    };
    let recurrence = Recurrence {
        steps,
        until: members.take("until")?,
        catch_up: members.take("catch_up")?.unwrap_or_default(),
        overlap: members.take("overlap")?.unwrap_or_default(),
    };
    Rule::new(&recurrence.steps, 0, None)?;
    Ok(Some(recurrence))
}

fn number(members: &mut Members<'_>, name: &'static str, most: u32) -> Result<Option<u32>, Wrong> {
    let wrong = || Wrong::new(name, format!("it must be a whole number from 1 to {most}"));
    let read = |raw: &str| raw.parse().ok().filter(|number| (1..=most).contains(number));
    members.raw(name).map(|raw| read(raw).ok_or_else(wrong)).transpose()
}

/// A time with its offset, as milliseconds; not before it.
fn time(member: &'static str, text: &str) -> Result<Millis, Wrong> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => {
            let is_between = time.timestamp_subsec_nanos() % 1_000_000 > 0;
            Ok(time.timestamp_millis() + Millis::from(is_between))
        }
        Err(_) if DateTime::parse_from_rfc3339(&format!("{text}Z")).is_ok() => {
            let why = format!("{text} says no offset from UTC: write {text}Z or {text}+01:00");
            Err(Wrong::new(member, why))
        }
        Err(error) => {
            let why = format!("{error}: write an RFC 3339 time such as 2026-11-22T07:30:00Z");
            Err(Wrong::new(member, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: Millis = 1_795_332_600_000;

    fn read(body: &str) -> Result<Plan, String> {
        Plan::read(body.as_bytes()).map_err(|wrong| wrong.to_string())
    }

    fn capture() -> Name {
        order::KIND.parse().unwrap()
    }

    fn start(body: &str) -> Result<Start, String> {
        let id = ScheduleId::derived(&["a"]);
        read(body)?.start(id, &capture(), NOW_MS).map_err(|wrong| wrong.to_string())
    }

    fn task(body: &str) -> NewTask {
        match start(body) {
            Ok(Start::Once(task)) => task,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_capture_is_a_task_that_is_missed_when_its_window_is_over() {
        let body = r#"{"ship_name":"USS Enterprise","start_time":"2026-11-22T08:00:00+00:00",
            "duration":60}"#;
        let plan = read(body).unwrap();
        assert_eq!(Plan::stored(&plan.bytes()), Some(plan));
        let ordered = task(body);
        assert_eq!(ordered.kind, capture());
        assert_eq!(ordered.run_at_ms, NOW_MS + 30 * 60_000);
        assert_eq!(ordered.expires_at_ms, Some(ordered.run_at_ms + 60_000));
        let order = Order::read(&ordered.payload).unwrap();
        assert_eq!(
            (order.ship_name.as_str(), order.until_ms),
            ("USS Enterprise", ordered.run_at_ms + 60_000)
        );
        for (lateness, expires_ms) in [(10, 10_000), (600, 60_000)] {
            let more = format!(r#","lateness_seconds":{lateness}}}"#);
            let late = task(&body.replace('}', &more));
            assert_eq!(late.expires_at_ms, Some(late.run_at_ms + expires_ms));
        }
    }

    #[test]
    fn a_time_between_two_milliseconds_is_not_early() {
        let at = |text: &str| {
            let body = format!(r#"{{"kind":"echo","start_time":"{text}"}}"#);
            task(&body).run_at_ms
        };
        assert_eq!(at("2026-11-22T08:00:00.123456Z"), at("2026-11-22T08:00:00.124Z"));
        assert_eq!(at("2026-11-22T09:00:00+01:00"), at("2026-11-22T08:00:00Z"));
    }

    #[test]
    fn any_kind_of_task_may_be_scheduled() {
        let at = r#""start_time":"2026-11-22T08:00:00Z""#;
        let echo = task(&format!(r#"{{"kind":"echo","payload":"a\n",{at}}}"#));
        assert_eq!((echo.payload.as_slice(), echo.expires_at_ms), (b"a\n".as_slice(), None));
        let json = task(&format!(r#"{{"kind":"k","payload":{{ "b": 1.50 }},{at}}}"#));
        assert_eq!(json.payload, br#"{ "b": 1.50 }"#);
        let none = task(&format!(r#"{{"kind":"k","lateness_seconds":5,{at}}}"#));
        assert_eq!((none.payload.len(), none.expires_at_ms), (0, Some(none.run_at_ms + 5000)));
    }

    #[test]
    fn what_recurs_says_when_it_is_due_first() {
        let of = |more: &str| start(&format!(r#"{{"kind":"echo",{more}}}"#));
        assert_eq!(of(r#""every_seconds":60"#), Ok(Start::Recurring(NOW_MS + 60_000)));
        let later = r#""every_seconds":60,"start_time":"2026-11-22T08:00:00Z""#;
        assert_eq!(of(later), Ok(Start::Recurring(NOW_MS + 30 * 60_000)));
        let daily = r#""cron":"30 9 * * *","time_zone":"Europe/Berlin""#;
        assert_eq!(of(daily), Ok(Start::Recurring(NOW_MS + 60 * 60_000)));
        let plan =
            read(&format!(r#"{{"kind":"echo",{daily},"catch_up":"latest","overlap":"replace"}}"#));
        let plan = plan.unwrap();
        assert_eq!(Plan::stored(&plan.bytes()).as_ref(), Some(&plan));
        let started = plan.task(TaskId::new(), &capture(), 5000);
        assert_eq!(started.expires_at_ms, Some(65_000));
        let recurrence = plan.recurrence.unwrap();
        assert_eq!((recurrence.catch_up, recurrence.overlap), (CatchUp::Latest, Overlap::Replace));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_member() {
        let ship = |members: &str| format!(r#"{{"ship_name":"TARDIS",{members}}}"#);
        let at = r#""start_time":"2026-11-22T08:00:00Z""#;
        for (body, said) in [
            (ship(at), "duration: it is missing"),
            (ship(r#""duration":9"#), "start_time: it is missing"),
            (ship(&format!(r#"{at},"duration":0"#)), "duration: it must be"),
            (ship(&format!(r#"{at},"duration":-1"#)), "duration: it must be"),
            (ship(&format!(r#"{at},"duration":1.5"#)), "duration: it must be"),
            (ship(&format!(r#"{at},"duration":"9""#)), "duration: it must be"),
            (ship(&format!(r#"{at},"duration":86401"#)), "duration: it must be"),
            (ship(r#""start_time":"2026-11-22T08:00:00","duration":9"#), "says no offset"),
            (ship(r#""start_time":"tomorrow","duration":9"#), "start_time: "),
            (ship(r#""start_time":7,"duration":9"#), "start_time: invalid type"),
            (ship(r#""start_time":"2026-11-22T07:30:00Z","duration":9"#), "in the future"),
            (format!(r#"{{"ship_name":"",{at},"duration":9}}"#), "ship_name: "),
            (format!(r#"{{{at},"duration":9}}"#), "ship_name: it is missing"),
            (ship(&format!(r#"{at},"duration":9,"dration":9"#)), "there is no member dration"),
            (ship(&format!(r#"{at},"duration":9,"kind":"echo""#)), "ship_name: there is a kind"),
            (ship(&format!(r#"{at},"duration":9,"payload":1"#)), "payload: it needs a kind"),
            (ship(&format!(r#"{at},"duration":9,"until":"x""#)), "until: it needs a cron"),
            (format!(r#"{{"kind":"capture",{at}}}"#), "kind: a capture is ordered"),
            (format!(r#"{{"kind":"a b",{at}}}"#), "kind: a name has"),
            (r#"{"kind":"k","cron":"x"}"#.to_owned(), "cron: "),
            (r#"{"kind":"k","cron":"* * * * *","every_seconds":1}"#.to_owned(), "every_seconds: "),
            (
                r#"{"kind":"k","every_seconds":1,"time_zone":"UTC"}"#.to_owned(),
                "time_zone: it needs",
            ),
            (r#"{"kind":"k","every_seconds":1,"catch_up":"none"}"#.to_owned(), "catch_up: "),
            (r#"{"kind":"k","every_seconds":0}"#.to_owned(), "every_seconds: "),
            (r#"{"kind":"k","cron":"0 0 30 2 *"}"#.to_owned(), "cron: it never comes"),
            (
                r#"{"kind":"k","every_seconds":60,"until":"2026-11-22T07:30:09Z"}"#.to_owned(),
                "until: its first time",
            ),
        ] {
            let wrong = start(&body).unwrap_err();
            assert!(wrong.contains(said), "{body}: {wrong}");
        }
        let long =
            format!(r#"{{"kind":"k",{at},"payload":"{}"}}"#, "x".repeat(PAYLOAD_BYTES_MAX + 1));
        assert!(start(&long).unwrap_err().starts_with("payload: it has more"));
    }
}
