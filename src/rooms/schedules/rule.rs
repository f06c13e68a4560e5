//! When a recurring schedule is due: every so many seconds, or by a cron expression.
//!
//! A cron expression is one of time zones' wall clocks. When a clock is put forward, what was to
//! start at a time that there is not starts when the clock goes on; when it is put back, what
//! starts at fixed times starts once, and what starts every so often goes on (as vixie cron does).
//! Fixed are times whose seconds, minutes and hours are written as numbers, lists and ranges.

use chrono::{DateTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use serde::{Deserialize, Serialize};

use super::members::Wrong;
use crate::store::Millis;

/// The most characters of an expression.
const EXPRESSION_CHARACTERS_MAX: usize = 256;
/// The most that a clock has left out: a day, and to spare.
const LEFT_OUT_MINUTES_MAX: i64 = 48 * 60;
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
    /// The same of fixed times.
    Fixed(Box<Cron>, Tz),
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
                let cron = Box::new(cron(expression)?);
                let times = [&cron.pattern.seconds, &cron.pattern.minutes, &cron.pattern.hours];
                let is_fixed = times.iter().all(|field| !field.from_wildcard && field.step == 1);
                if is_fixed { Ready::Fixed(cron, zone) } else { Ready::Cron(cron, zone) }
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
            Ready::Fixed(cron, zone) => {
                let at = DateTime::<Utc>::from_timestamp(at_ms.div_euclid(1000), 0)?;
                next_fixed(cron, *zone, at)?.timestamp_millis()
            }
        };
        let is_there = next_ms > at_ms && self.until_ms.is_none_or(|until_ms| next_ms <= until_ms);
        is_there.then_some(next_ms)
    }
}

/// Goes by what the clock shows, as if it were never put.
fn next_fixed(cron: &Cron, zone: Tz, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut shown = at.with_timezone(&zone).naive_local().and_utc();
    loop {
        shown = cron.find_next_occurrence(&shown, false).ok()?;
        // It may have shown that before already.
        if let Some(next) = first_shown(zone, shown.naive_utc()).filter(|next| *next > at) {
            return Some(next);
        }
    }
}

/// When a clock shows a time first; of one that it leaves out, when it goes on.
fn first_shown(zone: Tz, shown: NaiveDateTime) -> Option<DateTime<Utc>> {
    let first = |shown| zone.from_local_datetime(&shown).earliest();
    let on = || {
        let minute = shown - TimeDelta::seconds(shown.and_utc().timestamp().rem_euclid(60));
        (1..=LEFT_OUT_MINUTES_MAX).find_map(|n| first(minute + TimeDelta::minutes(n)))
    };
    first(shown).or_else(on).map(|first| first.to_utc())
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
    fn lists_and_ranges_of_fixed_times_come_once_each() {
        let clock = |times: Vec<String>| -> Vec<String> {
            times.iter().map(|time| time[5..16].replace('T', " ")).collect()
        };
        let zone = "Europe/Berlin";
        let twice = clock(times("30 2,14 * * *", zone, "2027-03-27T14:00:00Z", 3));
        assert_eq!(twice, ["03-28 01:00", "03-28 12:30", "03-29 00:30"]);
        let twice = clock(times("30 2,14 * * *", zone, "2026-10-24T13:00:00Z", 3));
        assert_eq!(twice, ["10-25 00:30", "10-25 13:30", "10-26 01:30"]);
        // What begins while the clock shows an hour for the second time finds it gone.
        let again = clock(times("30 2,14 * * *", zone, "2026-10-25T01:10:00Z", 1));
        assert_eq!(again, ["10-25 13:30"]);
        let hours = clock(times("0 1-3 * * *", zone, "2026-10-24T22:30:00Z", 4));
        assert_eq!(hours, ["10-24 23:00", "10-25 00:00", "10-25 02:00", "10-26 00:00"]);
        // Several that are left out are one start.
        let quarters = clock(times("0,15,30,45 2 * * *", zone, "2027-03-27T23:00:00Z", 2));
        assert_eq!(quarters, ["03-28 01:00", "03-29 00:00"]);
    }

    #[test]
    fn midnight_may_be_left_out_and_clocks_be_put_by_half_or_two_hours() {
        // On 2027-04-30 in Cairo the clock goes from 00:00 to 01:00.
        let cairo = times("@daily", "Africa/Cairo", "2027-04-29T00:00:00Z", 2);
        assert_eq!(cairo, ["2027-04-29T22:00:00+00:00", "2027-04-30T21:00:00+00:00"]);
        // On 2027-04-04 on Lord Howe it goes from 02:00 to 01:30, on 2026-10-04 back again.
        let zone = "Australia/Lord_Howe";
        let back = times("45 1 * * *", zone, "2027-04-02T20:00:00Z", 2);
        assert_eq!(back, ["2027-04-03T14:45:00+00:00", "2027-04-04T15:15:00+00:00"]);
        let forward = times("15 2 * * *", zone, "2026-10-03T00:00:00Z", 2);
        assert_eq!(forward, ["2026-10-03T15:30:00+00:00", "2026-10-04T15:15:00+00:00"]);
        // At Troll it goes from 01:00 to 03:00 on 2027-03-28.
        let troll = times("30 1,2 * * *", "Antarctica/Troll", "2027-03-27T12:00:00Z", 2);
        assert_eq!(troll, ["2027-03-28T01:00:00+00:00", "2027-03-28T23:30:00+00:00"]);
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

        #[test]
        fn fixed_times_come_each_day(
            at_ms in 1_700_000_000_000_i64..2_000_000_000_000,
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo", "Antarctica/Troll",
            ]),
            (hour, minute) in (0..24, 0..60),
        ) {
            let rule = by_cron(&format!("{minute} {hour} * * *"), zone).unwrap();
            let (next, hour_ms) = (rule.after(at_ms).unwrap(), 3_600_000);
            prop_assert!(next > at_ms && next - at_ms <= 26 * hour_ms, "{next} after {at_ms}");
            prop_assert_eq!(rule.after(next - 1), Some(next));
            let more = rule.after(next).unwrap() - next;
            prop_assert!((22 * hour_ms..=26 * hour_ms).contains(&more), "{more} ms later");
        }
    }
}
