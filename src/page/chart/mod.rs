//! Charts over time, drawn as SVG: pure, from samples to text.
//!
//! A chart is a `<figure>`: a caption with a legend, and a picture that is as wide as its place.
//! Text in it keeps its size (it stands beside the plot, placed by percentages), and only the plot
//! is stretched. Nothing has a `style`, which the policy of the page forbids: classes and
//! presentation attributes only.
//!
//! A gap is shown as a gap, a single value between two of them as a dot, and of more samples than
//! can be seen the least and the greatest of each column are drawn, so that no spike is lost.
//!
//! | room | what it holds |
//! |---|---|
//! | `axis` | which ticks an axis has, and what stands at them |
//! | `trace` | from samples to the path of a line or of a band |

mod axis;
mod trace;

use std::fmt::{self, Write};

use self::axis::Axis;
pub(super) use self::axis::{clock_text, time_ticks};
use self::trace::{Field, Trace, band, line};
use super::format::Moment;

/// The opening of the picture; the style sheet leaves room for the labels around the plot.
const PICTURE: &str = "<svg class=\"picture\" role=\"img\" width=\"100%\" height=\"180\">";

/// A chart over time.
#[derive(Debug, Clone)]
pub struct Chart<'a> {
    /// What it shows, such as `Messages in and out`.
    pub title: &'a str,
    /// The unit of all values, such as `messages/s`.
    pub unit: &'a str,
    /// Where the axis of time begins, in milliseconds since 1970.
    pub from_ms: u64,
    /// Where it ends. Samples outside are not drawn.
    pub to_ms: u64,
    /// What the axis of values covers.
    pub scale: Scale,
    /// What is drawn, the last one on top.
    pub series: Vec<Series<'a>>,
}

/// What the axis of values covers; it is extended if a value lies outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// From 0.
    Zero,
    /// From the first to the second.
    Span(f64, f64),
}

/// A line or a band of a chart.
#[derive(Debug, Clone)]
pub struct Series<'a> {
    /// What the legend calls it.
    pub name: &'a str,
    /// The class that gives it its colour: `one`, `two` or `three`.
    pub class: &'a str,
    /// What is drawn.
    pub shape: Shape,
}

/// The samples of a series, in the order of time: each with its time in milliseconds since 1970,
/// and `None` where nothing is known, which is a gap. What is no finite number is a gap, too.
#[derive(Debug, Clone)]
pub enum Shape {
    /// A line through values.
    Line(Vec<(u64, Option<f64>)>),
    /// All between a least and a greatest value.
    Band(Vec<(u64, Option<(f64, f64)>)>),
}

impl Shape {
    /// A line whose values are `step_ms` apart, the first one at `from_ms`.
    #[must_use]
    pub fn steps(
        from_ms: u64,
        step_ms: u64,
        values: impl IntoIterator<Item = Option<f64>>,
    ) -> Self {
        let times = (0..).map(|index| from_ms + index * step_ms);
        Self::Line(times.zip(values).collect())
    }

    /// A line through values that come at times of their own, with a gap wherever two of them are
    /// more than `longest_ms` apart.
    #[must_use]
    pub fn broken_after(longest_ms: u64, values: impl IntoIterator<Item = (u64, f64)>) -> Self {
        let mut samples: Vec<(u64, Option<f64>)> = Vec::new();
        for (at_ms, value) in values {
            if let Some((last_ms, _)) = samples.last().copied()
                && at_ms.saturating_sub(last_ms) > longest_ms
            {
                samples.push((last_ms + longest_ms, None));
            }
            samples.push((at_ms, Some(value)));
        }
        Self::Line(samples)
    }

    /// The samples between two times, as least and greatest values.
    fn within(&self, from_ms: u64, to_ms: u64) -> Vec<(u64, Option<(f64, f64)>)> {
        let is_finite = |(low, high): &(f64, f64)| low.is_finite() && high.is_finite();
        let shown = |at_ms: &u64| (from_ms..=to_ms).contains(at_ms);
        match self {
            Self::Line(samples) => {
                let samples = samples.iter().filter(|(at_ms, _)| shown(at_ms));
                let twice = |(at_ms, value): &(u64, Option<f64>)| (*at_ms, value.map(|v| (v, v)));
                samples.map(twice).map(|(at_ms, span)| (at_ms, span.filter(is_finite))).collect()
            }
            Self::Band(samples) => {
                let samples = samples.iter().filter(|(at_ms, _)| shown(at_ms));
                samples.map(|(at_ms, span)| (*at_ms, span.filter(is_finite))).collect()
            }
        }
    }
}

/// A series, as far as it is shown.
struct Shown<'a> {
    series: &'a Series<'a>,
    samples: Vec<(u64, Option<(f64, f64)>)>,
}

impl Shown<'_> {
    fn spans(&self) -> impl Iterator<Item = (u64, (f64, f64))> {
        self.samples.iter().filter_map(|(at_ms, span)| Some((*at_ms, (*span)?)))
    }

    /// The value at its end; none if it ends with a gap.
    fn latest(&self) -> Option<(f64, f64)> {
        self.samples.last().and_then(|(_, span)| *span)
    }

    /// When it was greatest, and how great.
    fn greatest(&self) -> Option<(u64, f64)> {
        self.spans().map(|(at_ms, (_, high))| (at_ms, high)).max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

impl Chart<'_> {
    /// The chart as HTML.
    #[must_use]
    pub fn figure(&self) -> String {
        let to_ms = self.to_ms.max(self.from_ms.saturating_add(1));
        let shown = self
            .series
            .iter()
            .map(|series| Shown { series, samples: series.shape.within(self.from_ms, to_ms) });
        let shown: Vec<Shown<'_>> = shown.collect();
        let values = shown.iter().flat_map(Shown::spans).flat_map(|(_, (low, high))| [low, high]);
        let axis = Axis::over(values, self.scale);
        let field = Field { from_ms: self.from_ms, to_ms, low: axis.low, high: axis.high };
        let mut html = String::with_capacity(8192);
        html.push_str("<figure class=\"chart\">");
        self.caption(&mut html, &axis, &shown);
        html.push_str(PICTURE);
        self.words(&mut html, &axis, &shown, to_ms);
        grid(&mut html, &axis, &field);
        plot(&mut html, &field, &shown);
        html.push_str("</svg></figure>");
        html
    }

    /// What it is, and which line is which: with the value at the end of each.
    fn caption(&self, html: &mut String, axis: &Axis, shown: &[Shown<'_>]) {
        let (title, unit) = (Escaped(self.title), Escaped(self.unit));
        let _ = write!(html, "<figcaption><b>{title}</b> <span>{unit}</span><ul class=\"legend\">");
        for one in shown {
            let (name, class) = (Escaped(one.series.name), Escaped(one.series.class));
            let _ = write!(html, "<li class=\"{class}\">{name}");
            if let Some(latest) = one.latest().map(|span| axis.value_of(span)) {
                let _ = write!(html, " <output>{latest}</output>");
            }
            html.push_str("</li>");
        }
        html.push_str("</ul></figcaption>");
    }

    /// The same for those who do not see it.
    fn words(&self, html: &mut String, axis: &Axis, shown: &[Shown<'_>], to_ms: u64) {
        let (from, to) = (clock_text(self.from_ms), clock_text(to_ms));
        let (title, unit) = (Escaped(self.title), Escaped(self.unit));
        let _ = write!(html, "<title>{title}</title><desc>From {from} to {to} UTC, in {unit}.");
        for one in shown {
            let _ = write!(html, " {}: ", Escaped(one.series.name));
            let Some((at_ms, greatest)) = one.greatest() else {
                html.push_str("no values.");
                continue;
            };
            let latest = one.latest().map_or("none".to_owned(), |span| axis.value_of(span));
            let (greatest, at) = (axis.value(greatest), clock_text(at_ms));
            let _ = write!(html, "latest {latest}, highest {greatest} at {at}.");
        }
        html.push_str("</desc>");
    }
}

/// The lines at the ticks, and what stands beside them.
fn grid(html: &mut String, axis: &Axis, field: &Field) {
    let mut lines = String::new();
    for (value, label) in axis.ticks() {
        let y = field.y(value);
        let _ = write!(lines, "M0,{}H{}", Tenth(y), Field::WIDTH);
        let at = Tenth(y / Field::HEIGHT * 100.0);
        let _ = write!(html, "<text class=\"value\" x=\"-6\" y=\"{at}%\" dy=\"4\">{label}</text>");
    }
    for at_ms in time_ticks(field.from_ms, field.to_ms) {
        let x = field.x(at_ms);
        let _ = write!(lines, "M{},0V{}", Tenth(x), Field::HEIGHT);
        let share = x / Field::WIDTH * 100.0;
        // A label at the edge must not stand out of the picture.
        let anchor = match share {
            near if near < 8.0 => "start",
            far if far > 92.0 => "end",
            _ => "middle",
        };
        let (at, iso, text) = (Tenth(share), Moment(at_ms.cast_signed()), clock_text(at_ms));
        let _ = write!(
            html,
            "<text x=\"{at}%\" y=\"100%\" dy=\"16\" text-anchor=\"{anchor}\" \
             data-time=\"{iso}\">{text}</text>"
        );
    }
    let _ = write!(
        html,
        "<svg width=\"100%\" height=\"100%\" viewBox=\"0 0 {} {}\" \
         preserveAspectRatio=\"none\"><path class=\"grid\" d=\"{lines}\"/>",
        Field::WIDTH,
        Field::HEIGHT
    );
}

/// The lines and bands; ends the plot that [`grid`] began.
fn plot(html: &mut String, field: &Field, shown: &[Shown<'_>]) {
    for Shown { series, samples } in shown {
        let (kind, Trace { path, dots }) = match series.shape {
            Shape::Line(_) => ("line", line(field, samples)),
            Shape::Band(_) => ("band", band(field, samples)),
        };
        let class = Escaped(series.class);
        if !path.is_empty() {
            let _ = write!(html, "<path class=\"{kind} {class}\" d=\"{path}\"/>");
        }
        if !dots.is_empty() {
            let _ = write!(html, "<path class=\"dots {class}\" d=\"{dots}\"/>");
        }
    }
    html.push_str("</svg>");
    if shown.iter().all(|one| one.spans().next().is_none()) {
        html.push_str("<text class=\"nothing\" x=\"50%\" y=\"50%\">No values in this time</text>");
    }
}

/// A coordinate, with at most one decimal.
struct Tenth(f64);

impl fmt::Display for Tenth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round();
        // Also where rounding makes a negative zero.
        let value = tenths / 10.0 + 0.0;
        if tenths % 10.0 == 0.0 { write!(f, "{value:.0}") } else { write!(f, "{value:.1}") }
    }
}

/// Text of others, as it may stand in HTML and in a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
