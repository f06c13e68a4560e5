//! The points of a chart: a span of time in so many parts at most, each with what was measured.
//!
//! A part in which nothing was measured is a gap, and stays one.

use heed::RoTxn;

use super::bucket::Bucket;
use super::table;
use crate::rooms::telemetry::ship::ShipName;
use crate::state::{StateError, Tables};

/// Seconds of a minute.
const MINUTE: i64 = 60;

/// How a span of time is cut into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The second since 1970 with which the first part begins.
    pub first: i64,
    /// Seconds of a part.
    pub step: i64,
    /// How many parts.
    pub parts: usize,
    /// Whether they are made of minutes; else of seconds.
    of_minutes: bool,
}

impl Plan {
    /// Cuts the seconds `from` to before `to`, of which there is at least one, into `points` parts
    /// at most; there are figures for single seconds from `fine_from` on.
    fn new(from: i64, to: i64, points: usize, fine_from: i64) -> Self {
        let fine = Self::of_units(from, to, points, 1);
        if from >= fine_from && fine.step < MINUTE {
            return fine;
        }
        Self { of_minutes: true, ..Self::of_units(from, to, points, MINUTE) }
    }

    fn of_units(from: i64, to: i64, points: usize, unit: i64) -> Self {
        let first = from.div_euclid(unit) * unit;
        let units = ceiling((to - first).max(1), unit);
        let per_part = ceiling(units, i64::try_from(points).unwrap_or(i64::MAX).max(1));
        let parts = usize::try_from(ceiling(units, per_part)).unwrap_or(points);
        Self { first, step: per_part * unit, parts, of_minutes: false }
    }

    /// Seconds of a row of the table that it is made of.
    const fn unit(self) -> i64 {
        if self.of_minutes { MINUTE } else { 1 }
    }

    /// The rows of that table that it is made of: from the first to before the last.
    fn rows(self) -> (i64, i64) {
        let parts = i64::try_from(self.parts).unwrap_or(i64::MAX);
        let (first, unit) = (self.first / self.unit(), self.unit());
        (first, first.saturating_add(parts.saturating_mul(self.step / unit)))
    }

    /// The second since 1970 with which a part begins.
    #[must_use]
    pub fn begin(self, part: usize) -> i64 {
        self.first.saturating_add(i64::try_from(part).unwrap_or(i64::MAX).saturating_mul(self.step))
    }
}

/// How many `parts` it takes to hold `whole`; both above 0.
const fn ceiling(whole: i64, part: i64) -> i64 {
    whole / part + if whole % part > 0 { 1 } else { 0 }
}

/// The parts of a chart, as they are filled.
#[derive(Debug)]
pub struct Chart {
    /// How the span is cut.
    pub plan: Plan,
    /// What was measured in each part; `None` is a gap.
    pub parts: Vec<Option<Bucket>>,
}

impl Chart {
    /// What was measured of a ship in the seconds since 1970 from the first to before the last, of
    /// which there is at least one: in so many parts at most.
    ///
    /// # Errors
    /// A read failed, or a row is damaged.
    pub fn read(
        txn: &RoTxn<'_>,
        tables: Tables,
        name: &ShipName,
        (from, to): (i64, i64),
        points: usize,
    ) -> Result<Self, StateError> {
        let plan = Plan::new(from, to, points, table::fine_from(txn, tables, name)?);
        let table = if plan.of_minutes { tables.ship_minutes } else { tables.ship_seconds };
        let mut chart = Self::new(plan);
        for found in table::buckets(txn, table, name, plan.rows())? {
            let (at, bucket) = found?;
            chart.add(at, bucket);
        }
        Ok(chart)
    }

    fn new(plan: Plan) -> Self {
        Self { plan, parts: vec![None; plan.parts] }
    }

    /// Takes in a row of the table that the chart is made of.
    fn add(&mut self, at: i64, bucket: Bucket) {
        let into = at * self.plan.unit() - self.plan.first;
        let part = usize::try_from(into.div_euclid(self.plan.step)).ok();
        let Some(part) = part.and_then(|part| self.parts.get_mut(part)) else { return };
        match part {
            Some(sum) => sum.add(bucket),
            None => *part = Some(bucket),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_is_cut_into_seconds_or_minutes_as_there_are_points() {
        let plan = |points, fine_from| Plan::new(7_190, 10_790, points, fine_from);
        let fine = Plan { first: 7_190, step: 2, parts: 1_800, of_minutes: false };
        assert_eq!(plan(2_000, 0), fine);
        let coarse = Plan { first: 7_140, step: 60, parts: 61, of_minutes: true };
        assert_eq!(plan(2_000, 7_191), coarse);
        let one = Plan { first: 7_140, step: 3_660, parts: 1, of_minutes: true };
        assert_eq!(plan(1, 0), one);
        assert_eq!(coarse.rows(), (119, 180));
    }

    #[test]
    fn a_gap_stays_a_gap() {
        let mut chart = Chart::new(Plan::new(100, 104, 2, 0));
        chart.add(99, Bucket::of(1.0));
        chart.add(103, Bucket::of(2.0));
        chart.add(102, Bucket::of(4.0));
        chart.add(104, Bucket::of(8.0));
        let second = Bucket { count: 2, least: 2.0, most: 4.0, sum: 6.0 };
        assert_eq!(chart.parts, [None, Some(second)]);
    }

    proptest! {
        #[test]
        fn a_span_is_covered_by_no_more_points_than_asked_for(
            from in -10_000_000_000_i64..10_000_000_000,
            span in prop_oneof![1_i64..10_000, 1_i64..1_000_000_000],
            points in 1_usize..=2000,
            fine_from in prop_oneof![Just(i64::MIN), Just(i64::MAX)],
        ) {
            let plan = Plan::new(from, from + span, points, fine_from);
            prop_assert!(plan.parts >= 1 && plan.parts <= points, "{plan:?}");
            prop_assert!(plan.first <= from && plan.begin(plan.parts) >= from + span, "{plan:?}");
            prop_assert!(plan.begin(plan.parts - 1) < from + span, "{plan:?}");
            prop_assert_eq!(plan.of_minutes, plan.step % 60 == 0 && (plan.step >= 60));
            prop_assert!(plan.of_minutes || fine_from == i64::MIN);
            let (first, end) = plan.rows();
            let unit = if plan.of_minutes { 60 } else { 1 };
            prop_assert_eq!((first * unit, end * unit), (plan.first, plan.begin(plan.parts)));
        }
    }
}
