//! The axes: round numbers at the ticks of values, round times at those of time.

use chrono::{DateTime, Utc};

use super::Scale;

/// Ticks of the axis of values at most, beside the first.
const TICKS_MAX: f64 = 4.0;
/// Ticks of the axis of time at most: more would not fit beside each other on a phone.
const TIMES_MAX: u64 = 4;
/// The distances between ticks of time, in seconds; beyond them whole days.
const STEPS_S: [u64; 18] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, DAY_S];
const DAY_S: u64 = 86_400;

/// The axis of values: from a round number to a round number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    step: f64,
}

impl Axis {
    /// The axis on which all of the values lie.
    pub(super) fn over(values: impl Iterator<Item = f64>, scale: Scale) -> Self {
        let (low, high) = match scale {
            Scale::Zero => (0.0, 0.0),
            Scale::Span(low, high) => (low.min(high), low.max(high)),
        };
        let (low, high) =
            values.fold((low, high), |(low, high), value| (low.min(value), high.max(value)));
        // Without any extent: as much as there is below it, and one unit at least.
        let high = if high > low { high } else { low + low.abs().max(1.0) };
        let step = round_step((high / TICKS_MAX) - (low / TICKS_MAX));
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// The values at the ticks, from below, and what stands at them.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        // Rounding must neither lose the last one nor add another.
        let values = (0_u8..=16).map(|index| self.low + f64::from(index) * self.step);
        let values = values.take_while(|value| *value <= self.high + self.step / 2.0);
        values.map(|value| (value, number(value, decimals(self.step)))).collect()
    }

    /// A value, some twenty times as exact as the ticks.
    pub(super) fn value(&self, value: f64) -> String {
        let decimals = if value.fract() == 0.0 { 0 } else { decimals(self.step / 20.0) };
        number(value, decimals)
    }

    /// The same of all between a least and a greatest value.
    pub(super) fn value_of(&self, (low, high): (f64, f64)) -> String {
        if low < high {
            format!("{} to {}", self.value(low), self.value(high))
        } else {
            self.value(high)
        }
    }
}

/// The decimals that numbers need to tell a step.
fn decimals(step: f64) -> usize {
    let enough = (0_u8..12).find(|decimals| step * 10_f64.powi((*decimals).into()) > 0.99);
    enough.unwrap_or(12).into()
}

/// The least of 1, 2, 5, 10, 20, 50 … that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    // What rounding puts just above a round number is that number.
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| round * power >= step * 0.999_999);
    round.unwrap_or(10.0) * power
}

/// A number for people: `1 250`, with a space that does not break, `0.5`, `2.5 M`.
fn number(value: f64, decimals: usize) -> String {
    for (size, letter) in [(1e9, "G"), (1e6, "M")] {
        if value.abs() >= size {
            let text = format!("{:.2}", value / size);
            return format!("{} {letter}", text.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    let text = format!("{:.decimals$}", value + 0.0);
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::with_capacity(text.len() + 2);
    for (index, digit) in whole.char_indices() {
        let left = whole.len() - index;
        if left.is_multiple_of(3) && grouped.ends_with(|last: char| last.is_ascii_digit()) {
            grouped.push('\u{202F}');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// The round times between two times, in milliseconds since 1970.
pub(in crate::page) fn time_ticks(from_ms: u64, to_ms: u64) -> Vec<u64> {
    let least_s = (to_ms - from_ms).div_ceil(TIMES_MAX * 1000);
    let step_s = STEPS_S.into_iter().find(|step_s| *step_s >= least_s);
    let step_ms = step_s.unwrap_or_else(|| least_s.next_multiple_of(DAY_S)) * 1000;
    let first = from_ms.next_multiple_of(step_ms);
    (first..=to_ms).step_by(usize::try_from(step_ms).unwrap_or(usize::MAX)).collect()
}

fn time(at_ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(at_ms).ok()?)
}

/// The time of day in UTC, such as `07:30:00`.
pub(in crate::page) fn clock_text(at_ms: u64) -> String {
    time(at_ms).map_or_else(String::new, |time| time.format("%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], scale: Scale) -> Vec<String> {
        let axis = Axis::over(values.iter().copied(), scale);
        axis.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn values_stand_between_round_ticks() {
        assert_eq!(labels(&[], Scale::Zero), ["0.0", "0.5", "1.0"]);
        assert_eq!(labels(&[0.0, 5.0], Scale::Zero), ["0", "2", "4", "6"]);
        assert_eq!(labels(&[1234.0], Scale::Zero), ["0", "500", "1\u{202F}000", "1\u{202F}500"]);
        assert_eq!(labels(&[2.5e6], Scale::Zero), ["0", "1 M", "2 M", "3 M"]);
        assert_eq!(labels(&[0.003], Scale::Zero), ["0.000", "0.001", "0.002", "0.003"]);
        assert_eq!(
            labels(&[12.2], Scale::Span(11.0, 13.0)),
            ["11.0", "11.5", "12.0", "12.5", "13.0"]
        );
        assert_eq!(labels(&[10.4], Scale::Span(11.0, 13.0)).first().unwrap(), "10");
        assert_eq!(labels(&[-3.0, 1.0], Scale::Zero), ["-3", "-2", "-1", "0", "1"]);
        assert_eq!(labels(&[], Scale::Span(12.0, 12.0)), ["10", "15", "20", "25"]);
    }

    #[test]
    fn numbers_are_grouped_and_short() {
        let texts = [(999.0, 0), (1000.0, 0), (-1e5, 0), (1234.5, 1), (2.5e6, 0), (7e9, 0)];
        let texts = texts.map(|(value, decimals)| number(value, decimals));
        assert_eq!(
            texts,
            ["999", "1\u{202F}000", "-100\u{202F}000", "1\u{202F}234.5", "2.5 M", "7 G"]
        );
    }

    #[test]
    fn times_stand_at_round_times() {
        let minute = 60_000;
        let midnight = 29_921_760 * minute;
        let from = midnight + 7_300;
        let ticks = time_ticks(from, from + 5 * minute);
        assert_eq!(ticks, [midnight + 2 * minute, midnight + 4 * minute]);
        assert_eq!(clock_text(ticks[0] + 250), "00:02:00");
        for span in [1, 999, 61_000, 7 * 3_600_000, 40 * 86_400_000, u64::from(u32::MAX) * 1000] {
            let ticks = time_ticks(from, from + span);
            assert!(ticks.len() <= 5, "{span}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (from..=from + span).contains(tick)));
        }
    }
}
