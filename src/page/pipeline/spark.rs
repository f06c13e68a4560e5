//! A chart as small as a word: two lines over the last minutes, of one scale for all shards.

use std::fmt::Write;

use super::history::Rates;

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 32.0;

/// The greatest rate of all, of which a nice number is the top of every chart.
pub(super) fn top<'a>(all: impl IntoIterator<Item = &'a [Option<Rates>]>) -> f64 {
    let rates = all.into_iter().flatten().flatten();
    let greatest = rates.map(|rates| rates.into.max(rates.out_of)).fold(1.0, f64::max);
    let decade = 10_f64.powf(greatest.log10().floor());
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * decade);
    nice.into_iter().find(|nice| *nice >= greatest).unwrap_or(greatest)
}

/// The two lines as SVG, from 0 to `top`; a gap is a gap, a lone value a dot.
pub(super) fn draw(rates: &[Option<Rates>], top: f64, label: &str) -> String {
    let mut svg = format!(
        "<svg class=\"spark\" viewBox=\"0 -1 {WIDTH} {}\" preserveAspectRatio=\"none\" \
         role=\"img\" aria-label=\"{label}\">",
        HEIGHT + 2.0
    );
    let _ = write!(svg, "<path class=\"grid\" d=\"M0 0H{WIDTH}M0 {HEIGHT}H{WIDTH}\"/>");
    for (class, value) in [
        ("one", (|rates: Rates| rates.into) as fn(Rates) -> f64),
        ("two", |rates: Rates| rates.out_of),
    ] {
        let values = rates.iter().map(|rates| rates.map(value));
        let _ = write!(svg, "<path class=\"{class}\" d=\"{}\"/>", path(values, top));
    }
    svg + "</svg>"
}

fn path(values: impl ExactSizeIterator<Item = Option<f64>>, top: f64) -> String {
    let last = u32::try_from(values.len().saturating_sub(1)).unwrap_or(u32::MAX).max(1);
    let mut path = String::new();
    let mut is_open = false;
    for (place, value) in (0_u32..).zip(values) {
        let Some(value) = value else {
            is_open = false;
            continue;
        };
        let x = WIDTH * f64::from(place) / f64::from(last);
        let y = HEIGHT * (1.0 - (value / top).clamp(0.0, 1.0));
        // A lone point is a line of no length, which its round end shows.
        let _ = match is_open {
            true => write!(path, "L{x:.0} {y:.1}"),
            false => write!(path, "M{x:.0} {y:.1}h0"),
        };
        is_open = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(values: &[Option<f64>]) -> Vec<Option<Rates>> {
        values.iter().map(|value| value.map(|into| Rates { into, out_of: 0.0 })).collect()
    }

    #[test]
    fn no_line_crosses_a_gap_and_every_value_stands_at_its_height() {
        let path = path([Some(0.0), Some(10.0), None, Some(5.0)].into_iter(), 10.0);
        assert_eq!(path, "M0 32.0h0L80 0.0M240 16.0h0");
    }

    #[test]
    fn the_top_is_a_nice_number_that_nothing_exceeds() {
        for (greatest, nice) in
            [(0.0, 1.0), (1.0, 1.0), (3.0, 5.0), (999.0, 1000.0), (1001.0, 2000.0)]
        {
            assert_eq!(top([rates(&[None, Some(greatest)]).as_slice()]), nice, "{greatest}");
        }
    }

    #[test]
    fn nothing_known_draws_nothing() {
        let svg = draw(&rates(&[None, None]), 1.0, "x");
        assert!(svg.contains("class=\"one\" d=\"\""), "{svg}");
    }
}
