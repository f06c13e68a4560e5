//! What a schedule is about, and when: for whoever shows it to a person.

use super::plan::{Plan, Work};
use super::rule::{Rule, Steps};
use crate::store::Millis;
use crate::store::schedules::Schedule;

/// What a schedule starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A capture.
    Ship {
        /// Of this ship.
        name: String,
        /// For so many seconds.
        seconds: u32,
    },
    /// A task of this kind.
    Kind(String),
}

/// How a schedule recurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recurs {
    /// Every so many seconds.
    Every(u32),
    /// As a cron expression says, by the clock of a time zone.
    Cron {
        /// The expression.
        expression: String,
        /// The zone's IANA name.
        time_zone: String,
    },
}

/// What was asked for.
#[derive(Debug)]
pub struct Outline {
    /// What is started.
    pub subject: Subject,
    /// When it is started, or when it begins to recur, if that was said.
    pub start_ms: Option<Millis>,
    /// How it recurs, if it does.
    pub recurs: Option<Recurs>,
    /// When it ends to recur, if that was said.
    pub until_ms: Option<Millis>,
    rule: Option<Rule>,
}

impl Outline {
    /// That of a schedule; `None` if its plan cannot be read.
    #[must_use]
    pub fn of(schedule: &Schedule) -> Option<Self> {
        let plan = Plan::stored(&schedule.plan)?;
        let (start_ms, until_ms) = (plan.start_ms().ok()?, plan.until_ms().ok()?);
        let rule = plan.rule(schedule.created_at_ms).ok()?;
        let subject = match plan.work {
            Work::Capture { ship_name, duration_seconds } => {
                Subject::Ship { name: ship_name.to_string(), seconds: duration_seconds }
            }
            Work::Task { kind, .. } => Subject::Kind(kind.to_string()),
        };
        let recurs = plan.recurrence.map(|recurrence| match recurrence.steps {
            Steps::Every { seconds } => Recurs::Every(seconds),
            Steps::Cron { expression, time_zone } => Recurs::Cron { expression, time_zone },
        });
        Some(Self { subject, start_ms, recurs, until_ms, rule })
    }

    /// How long a start of it takes, in milliseconds, if that was said.
    #[must_use]
    pub fn duration_ms(&self) -> Option<Millis> {
        match self.subject {
            Subject::Ship { seconds, .. } => Some(Millis::from(seconds) * 1000),
            Subject::Kind(_) => None,
        }
    }

    /// The times at which it is due from `from_ms` to before `to_ms`, `most` at most, if it recurs.
    #[must_use]
    pub fn times(&self, from_ms: Millis, to_ms: Millis, most: usize) -> Vec<Millis> {
        let Some(rule) = &self.rule else { return Vec::new() };
        let first = rule.after(from_ms.saturating_sub(1));
        let all = std::iter::successors(first, |at_ms| rule.after(*at_ms));
        all.take_while(|at_ms| *at_ms < to_ms).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schedules::{ScheduleId, ScheduleState};

    fn outline(body: &str) -> Option<Outline> {
        Outline::of(&Schedule {
            id: ScheduleId::new(),
            label: None,
            plan: Plan::read(body.as_bytes()).map_or_else(|_| Vec::new(), |plan| plan.bytes()),
            created_at_ms: 500,
            state: ScheduleState::Active,
            next_at_ms: None,
            ended_at_ms: None,
            task: None,
            run: None,
        })
    }

    #[test]
    fn an_outline_says_what_was_asked_for_and_when_it_comes() {
        let once = r#"{"ship_name":"USS <b>","start_time":"1970-01-01T00:01:00Z","duration":7}"#;
        let once = outline(once).unwrap();
        assert_eq!(once.subject, Subject::Ship { name: "USS <b>".to_owned(), seconds: 7 });
        assert_eq!((once.start_ms, once.recurs.as_ref()), (Some(60_000), None));
        assert_eq!((once.duration_ms(), once.times(0, 1 << 40, 9)), (Some(7000), vec![]));
        let again = outline(r#"{"kind":"echo","every_seconds":2,"until":"1970-01-01T00:00:09Z"}"#);
        let again = again.unwrap();
        assert_eq!(again.recurs, Some(Recurs::Every(2)));
        assert_eq!(again.times(2500, 6500, 9), [2500, 4500]);
        assert_eq!(again.times(0, 1 << 40, 3), [500, 2500, 4500]);
        assert_eq!(again.times(8000, 1 << 40, 9), [8500]);
        assert!(outline("{}").is_none());
    }
}
