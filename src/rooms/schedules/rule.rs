//! When a recurring schedule is due: every so many seconds, or by a cron expression.
//!
//! A cron expression is one of time zones' wall clocks. When a clock is put forward, what was to
//! start at a time that there is not starts when the clock goes on; when it is put back, what
//! starts at a fixed time starts once, and what starts every so often goes on (as vixie cron does).

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use serde::{Deserialize, Serialize};

use super::members::Wrong;
use crate::store::Millis;

/// The most characters of an expression.
const EXPRESSION_CHARACTERS_MAX: usize = 256;
/// The longest step.
const EVERY_SECONDS_MAX: u32 = 366 * 24 * 60 * 60;

/// The steps as they were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Steps {
    /// Every so many seconds, from the start on.
    Every {
        /// How many.
        seconds: u32,
    },
    /// As a cron expression says.
    Cron {
        /// The expression: five fields, or six with seconds first.
        expression: String,
        /// The time zone whose clock is meant, by its IANA name.
        time_zone: String,
    },
}

/// When a schedule is due.
#[derive(Debug)]
pub(super) struct Rule {
    steps: Ready,
    /// Steps count from here; it is due here at the earliest.
    from_ms: Millis,
    /// It is due here at the latest.
    until_ms: Option<Millis>,
}

#[derive(Debug)]
enum Ready {
    Every(Millis),
    Cron(Box<Cron>, Tz),
}

impl Rule {
    /// The rule of these steps.
    pub(super) fn new(
        steps: &Steps,
        from_ms: Millis,
        until_ms: Option<Millis>,
    ) -> Result<Self, Wrong> {
        let steps = match steps {
            Steps::Every { seconds } if (1..=EVERY_SECONDS_MAX).contains(seconds) => {
                Ready::Every(Millis::from(*seconds) * 1000)
            }
            Steps::Every { .. } => {
                let why = format!("it must be a number of seconds from 1 to {EVERY_SECONDS_MAX}");
                return Err(Wrong::new("every_seconds", why));
            }
            Steps::Cron { expression, time_zone } => {
                let zone = time_zone.parse().map_err(|_| {
                    let why = "there is no such zone; write an IANA name such as Europe/Berlin";
                    Wrong::new("time_zone", why)
                })?;
                Ready::Cron(Box::new(cron(expression)?), zone)
            }
        };
        Ok(Self { steps, from_ms, until_ms })
    }

    /// When it is due next after `at_ms`.
    pub(super) fn after(&self, at_ms: Millis) -> Option<Millis> {
        let at_ms = at_ms.max(self.from_ms.checked_sub(1)?);
        let next_ms = match &self.steps {
            Ready::Every(every_ms) => {
                let steps = at_ms.checked_sub(self.from_ms)?.div_euclid(*every_ms) + 1;
                self.from_ms.checked_add(steps.checked_mul(*every_ms)?)?
            }
            Ready::Cron(cron, zone) => {
                // What is due at a second is due at its beginning.
                let at = DateTime::<Utc>::from_timestamp(at_ms.div_euclid(1000), 0)?;
                let next = cron.find_next_occurrence(&at.with_timezone(zone), false).ok()?;
                next.timestamp_millis()
            }
        };
        let is_there = next_ms > at_ms && self.until_ms.is_none_or(|until_ms| next_ms <= until_ms);
        is_there.then_some(next_ms)
    }
}

fn cron(expression: &str) -> Result<Cron, Wrong> {
    let wrong = |why: String| Wrong::new("cron", why);
    if expression.chars().count() > EXPRESSION_CHARACTERS_MAX {
        return Err(wrong(format!("it has more than {EXPRESSION_CHARACTERS_MAX} characters")));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(expression).map_err(|error| {
        wrong(format!(
            "{error}; write minute, hour, day, month and weekday, as in 30 6 * * MON-FRI"
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> Millis {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn shown(at_ms: Millis) -> String {
        DateTime::from_timestamp_millis(at_ms).unwrap().to_rfc3339()
    }

    fn by_cron(expression: &str, time_zone: &str) -> Result<Rule, Wrong> {
        let (expression, time_zone) = (expression.to_owned(), time_zone.to_owned());
        Rule::new(&Steps::Cron { expression, time_zone }, Millis::MIN + 1, None)
    }

    /// The next times after a moment, in UTC.
    fn times(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let rule = by_cron(expression, zone).unwrap();
        let next = |at_ms: &Millis| rule.after(*at_ms);
        std::iter::successors(rule.after(ms(after)), next).take(count).map(shown).collect()
    }

    #[test]
    fn steps_of_seconds_count_from_the_start() {
        let rule = Rule::new(&Steps::Every { seconds: 60 }, 5000, Some(130_000)).unwrap();
        assert_eq!(rule.after(Millis::MIN), Some(5000));
        assert_eq!(rule.after(4999), Some(5000));
        assert_eq!(rule.after(5000), Some(65_000));
        assert_eq!(rule.after(64_999), Some(65_000));
        assert_eq!(rule.after(65_000), Some(125_000));
        assert_eq!(rule.after(125_000), None, "that would be after its end");
    }

    #[test]
    fn a_time_that_a_clock_leaves_out_comes_when_the_clock_goes_on() {
        // On 2027-03-28 the clock goes from 02:00 to 03:00, which is 01:00 UTC.
        let before = "2027-03-27T12:00:00Z";
        let daily = times("30 2 * * *", "Europe/Berlin", before, 3);
        assert_eq!(
            daily,
            ["2027-03-28T01:00:00+00:00", "2027-03-29T00:30:00+00:00", "2027-03-30T00:30:00+00:00"]
        );
        let often = times("*/30 * * * *", "Europe/Berlin", "2027-03-28T00:20:00Z", 3);
        assert_eq!(
            often,
            ["2027-03-28T00:30:00+00:00", "2027-03-28T01:00:00+00:00", "2027-03-28T01:30:00+00:00"]
        );
    }

    #[test]
    fn a_fixed_time_that_a_clock_shows_twice_comes_once() {
        // On 2026-10-25 the clock goes from 03:00 to 02:00, which is 01:00 UTC.
        let before = "2026-10-24T12:00:00Z";
        let daily = times("30 2 * * *", "Europe/Berlin", before, 2);
        assert_eq!(daily, ["2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"]);
        let often = times("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:50:00Z", 5);
        assert_eq!(often.len(), 5);
        let hours: Vec<&str> = often.iter().map(|time| &time[11..16]).collect();
        assert_eq!(hours, ["00:00", "00:30", "01:00", "01:30", "02:00"], "none left out");
    }

    #[test]
    fn a_zone_without_such_clocks_and_seconds_go_by_evenly() {
        let daily = times("0 6 * * MON-FRI", "Asia/Tokyo", "2026-11-20T00:00:00Z", 2);
        assert_eq!(daily, ["2026-11-22T21:00:00+00:00", "2026-11-23T21:00:00+00:00"]);
        let seconds = times("*/20 * * * * *", "UTC", "2026-11-20T00:00:19.999Z", 2);
        assert_eq!(seconds, ["2026-11-20T00:00:20+00:00", "2026-11-20T00:00:40+00:00"]);
        let rare = times("0 0 29 2 *", "UTC", "2026-11-20T00:00:00Z", 2);
        assert_eq!(rare, ["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]);
    }

    #[test]
    fn what_is_no_rule_is_told_by_its_member() {
        for (expression, zone, named) in [
            ("* * * *", "UTC", "cron: "),
            ("61 * * * *", "UTC", "cron: "),
            ("* * * * * * 2027", "UTC", "cron: "),
            ("at noon", "UTC", "cron: "),
            ("* * * * *", "Mars/Olympus", "time_zone: "),
            (&"1,".repeat(200), "UTC", "cron: it has more"),
        ] {
            let wrong = by_cron(expression, zone).unwrap_err().to_string();
            assert!(wrong.starts_with(named), "{expression}: {wrong}");
        }
        for seconds in [0, u32::MAX] {
            assert!(Rule::new(&Steps::Every { seconds }, 0, None).is_err());
        }
        assert_eq!(by_cron("0 0 30 2 *", "UTC").unwrap().after(0), None, "never");
    }

    proptest! {
        #[test]
        fn each_time_comes_after_the_one_before_and_none_is_left_out(
            at_ms in 1_700_000_000_000_i64..2_000_000_000_000,
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo",
            ]),
            minutes in prop::sample::select(vec![1_i64, 5, 15, 30]),
        ) {
            let rule = by_cron(&format!("*/{minutes} * * * *"), zone).unwrap();
            let next = rule.after(at_ms).unwrap();
            prop_assert!(next > at_ms && next - at_ms <= minutes * 60_000, "{next} after {at_ms}");
            prop_assert_eq!(rule.after(next - 1), Some(next));
        }
    }
}
