//! From samples to a path in the plot.

use std::fmt::Write;

use super::Tenth;

/// Points of a series up to which every one is drawn.
const POINTS_MAX: usize = 600;

/// Samples: each with its time in milliseconds since 1970, and its least and greatest value.
type Samples = [(u64, Option<(f64, f64)>)];

/// What the plot covers. Its coordinates go from 0 to a width and to a height, from above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Field {
    pub(super) const WIDTH: f64 = 600.0;
    pub(super) const HEIGHT: f64 = 150.0;
    /// Columns of which each has a least and a greatest value, where there are too many samples.
    const COLUMNS: f64 = 300.0;

    pub(super) fn x(&self, at_ms: u64) -> f64 {
        let span_ms = self.to_ms.saturating_sub(self.from_ms).max(1);
        at_ms.saturating_sub(self.from_ms) as f64 / span_ms as f64 * Self::WIDTH
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        (self.high - value) / (self.high - self.low) * Self::HEIGHT
    }

    fn column(&self, x: f64) -> f64 {
        (x / Self::WIDTH * Self::COLUMNS).floor()
    }
}

/// A place in the plot, from the greatest value down to the least.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    x: f64,
    top: f64,
    bottom: f64,
}

/// The paths of a series.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// What is drawn.
    pub(super) path: String,
    /// Values that have no neighbour, of a line.
    pub(super) dots: String,
}

/// The path of a line.
pub(super) fn line(field: &Field, samples: &Samples) -> Trace {
    let mut trace = Trace::default();
    for run in thinned(field, runs(field, samples), extremes) {
        if let [Place { x, top, .. }] = run.as_slice() {
            let _ = write!(trace.dots, "M{},{}h0", Tenth(*x), Tenth(*top));
            continue;
        }
        for (index, Place { x, top, .. }) in run.iter().enumerate() {
            let before = if index == 0 { 'M' } else { ' ' };
            let _ = write!(trace.path, "{before}{},{}", Tenth(*x), Tenth(*top));
        }
    }
    trace
}

/// The path around a band.
pub(super) fn band(field: &Field, samples: &Samples) -> Trace {
    let mut trace = Trace::default();
    for run in thinned(field, runs(field, samples), hull) {
        for (index, Place { x, top, .. }) in run.iter().enumerate() {
            let before = if index == 0 { 'M' } else { ' ' };
            let _ = write!(trace.path, "{before}{},{}", Tenth(*x), Tenth(*top));
        }
        for Place { x, bottom, .. } in run.iter().rev() {
            let _ = write!(trace.path, " {},{}", Tenth(*x), Tenth(*bottom));
        }
        trace.path.push('Z');
    }
    trace
}

/// The places, apart where there is a gap.
fn runs(field: &Field, samples: &Samples) -> Vec<Vec<Place>> {
    let parts = samples.split(|(_, span)| span.is_none());
    let place = |(at_ms, span): &(u64, Option<(f64, f64)>)| {
        let (low, high) = (*span)?;
        Some(Place { x: field.x(*at_ms), top: field.y(high), bottom: field.y(low) })
    };
    let runs = parts.map(|part| part.iter().filter_map(place).collect::<Vec<_>>());
    runs.filter(|run| !run.is_empty()).collect()
}

/// The same with fewer places, if there are more than can be seen: `keep` says what is kept of
/// those in one column.
fn thinned(
    field: &Field,
    runs: Vec<Vec<Place>>,
    keep: impl Fn(&[Place]) -> Vec<Place>,
) -> Vec<Vec<Place>> {
    if runs.iter().map(Vec::len).sum::<usize>() <= POINTS_MAX {
        return runs;
    }
    let column = |place: &Place| field.column(place.x);
    let same = |a: &Place, b: &Place| column(a) == column(b);
    let is_within = |run: &[Place]| run.first().map(column) == run.last().map(column);
    let mut kept: Vec<Vec<Place>> = Vec::new();
    // Gaps within a column cannot be seen: of all runs between them, what is kept of one.
    let mut specks: Vec<Place> = Vec::new();
    let settle = |specks: &mut Vec<Place>, kept: &mut Vec<Vec<Place>>| {
        kept.extend(keep(specks).into_iter().map(|place| vec![place]));
        specks.clear();
    };
    for run in runs {
        if let (Some(speck), Some(first)) = (specks.last(), run.first())
            && !same(speck, first)
        {
            settle(&mut specks, &mut kept);
        }
        if is_within(&run) {
            specks.extend(run);
        } else {
            settle(&mut specks, &mut kept);
            kept.push(run.chunk_by(same).flat_map(&keep).collect());
        }
    }
    settle(&mut specks, &mut kept);
    kept
}

/// The highest and the lowest place of some, in their order.
fn extremes(places: &[Place]) -> Vec<Place> {
    let by_height = |a: &(usize, &Place), b: &(usize, &Place)| a.1.top.total_cmp(&b.1.top);
    let highest = places.iter().enumerate().min_by(by_height);
    let lowest = places.iter().enumerate().max_by(by_height);
    let (Some((high, highest)), Some((low, lowest))) = (highest, lowest) else {
        return Vec::new();
    };
    match high.cmp(&low) {
        std::cmp::Ordering::Less => vec![*highest, *lowest],
        std::cmp::Ordering::Equal => vec![*highest],
        std::cmp::Ordering::Greater => vec![*lowest, *highest],
    }
}

/// The one place that covers the heights of some.
fn hull(places: &[Place]) -> Vec<Place> {
    let both =
        |a: Place, b: &Place| Place { top: a.top.min(b.top), bottom: a.bottom.max(b.bottom), ..a };
    let covered = places.first().map(|first| places.iter().fold(*first, both));
    covered.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 0 to 100, with gaps, 10 ms apart.
    fn samples() -> impl Strategy<Value = Vec<(u64, Option<(f64, f64)>)>> {
        let value = prop_oneof![
            8 => (0.0..100.0_f64).prop_map(Some),
            1 => Just(None),
        ];
        prop::collection::vec(value, 1..1500).prop_map(|values| {
            let times = (0..).map(|index| index * 10);
            times.zip(values).map(|(at, value)| (at, value.map(|v| (v, v)))).collect()
        })
    }

    fn field(samples: &Samples) -> Field {
        let to_ms = samples.last().map_or(1, |(at_ms, _)| (*at_ms).max(1));
        Field { from_ms: 0, to_ms, low: 0.0, high: 100.0 }
    }

    proptest! {
        #[test]
        fn no_extreme_is_lost_and_nothing_invented(samples in samples()) {
            let field = field(&samples);
            let all = runs(&field, &samples).concat();
            for keep in [extremes, hull] {
                let kept = thinned(&field, runs(&field, &samples), keep).concat();
                prop_assert!(kept.len() <= POINTS_MAX.max(6 * 300));
                for column in 0..=300 {
                    let here = |place: &&Place| field.column(place.x) == f64::from(column);
                    let highest = |places: &[Place]| {
                        places.iter().filter(here).map(|place| place.top).min_by(f64::total_cmp)
                    };
                    let lowest = |places: &[Place]| {
                        places.iter().filter(here).map(|place| place.bottom).max_by(f64::total_cmp)
                    };
                    prop_assert_eq!(highest(&kept), highest(&all));
                    prop_assert_eq!(lowest(&kept), lowest(&all));
                }
            }
        }

        #[test]
        fn no_line_crosses_a_gap(samples in samples()) {
            let field = field(&samples);
            let gaps = samples.iter().filter(|(_, span)| span.is_none());
            let gaps: Vec<f64> = gaps.map(|(at_ms, _)| field.x(*at_ms)).collect();
            for run in thinned(&field, runs(&field, &samples), extremes) {
                let (first, last) = (run.first().unwrap().x, run.last().unwrap().x);
                prop_assert!(first <= last);
                prop_assert!(!gaps.iter().any(|gap| first < *gap && *gap < last));
            }
        }

        #[test]
        fn all_lies_within_the_plot(samples in samples()) {
            let field = field(&samples);
            let Trace { path, dots } = line(&field, &samples);
            let area = band(&field, &samples).path;
            let paths = [path, dots, area].concat();
            for pair in paths.split(['M', ' ', 'h', 'Z']) {
                let Some((x, y)) = pair.split_once(',') else { continue };
                prop_assert!((0.0..=Field::WIDTH).contains(&x.parse::<f64>().unwrap()));
                prop_assert!((0.0..=Field::HEIGHT).contains(&y.parse::<f64>().unwrap()));
            }
        }
    }

    #[test]
    fn a_known_sample_lands_on_the_known_pixel() {
        let field = Field { from_ms: 1000, to_ms: 2000, low: 10.0, high: 15.0 };
        let one = |value: f64| Some((value, value));
        let samples =
            [(1000, one(10.0)), (1500, one(15.0)), (1600, None), (1750, one(12.0)), (2000, None)];
        let Trace { path, dots } = line(&field, &samples);
        assert_eq!((path.as_str(), dots.as_str()), ("M0,150 300,0", "M450,90h0"));
        let samples = [(1000, Some((10.0, 15.0))), (2000, Some((11.0, 12.5)))];
        assert_eq!(band(&field, &samples).path, "M0,0 600,75 600,120 0,150Z");
    }
}
