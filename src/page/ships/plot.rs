//! The battery voltage of one ship over time, and what is stored of it.

use askama::Template;

use super::list::latest;
use super::{Ships, in_address};
use crate::page::chart::{Chart, Scale, Series, Shape};
use crate::page::format::{Bytes, Count, Moment};
use crate::page::view::{Focus, Fragment};
use crate::rooms::telemetry::datagram::{DESCRIPTION, UNIT};
use crate::rooms::telemetry::ship::ShipName;
use crate::rooms::telemetry::ships::chart::Chart as Measured;
use crate::rooms::telemetry::ships::table::{self, ShipRow};

const ID: &str = "ships-chart";
/// Parts at the end of a chart in which nothing is stored yet, though it may have been measured:
/// the line ends before them.
const LATE: usize = 5;
/// Parts of a chart at most.
const POINTS: usize = 300;

/// What can be looked at: its name in an address, for people, and its seconds, which are a
/// multiple of what its parts take.
const SPANS: [(&str, &str, i64, i64); 3] = [
    ("5m", "5 minutes", 5 * 60, 1),
    ("1h", "1 hour", 60 * 60, 12),
    ("24h", "24 hours", 24 * 60 * 60, 300),
];

#[derive(Template)]
#[template(path = "ships/plot.html", config = "src/page/askama.toml")]
struct Plot {
    name: String,
    spans: Vec<Choice>,
    figure: String,
    count: Count,
    bytes: Bytes,
    first_at: Option<Moment>,
    last_at: Option<Moment>,
    value: Option<f64>,
    unit: &'static str,
    step_seconds: i64,
    /// Readings in the time that is shown.
    shown: Count,
}

/// A span to choose.
struct Choice {
    address: String,
    text: &'static str,
    is_chosen: bool,
}

#[derive(Template)]
#[template(path = "ships/nothing.html", config = "src/page/askama.toml")]
struct Nothing<'a> {
    name: Option<&'a str>,
}

impl Ships {
    pub(super) async fn chart(&self, focus: &Focus) -> Fragment {
        let name = focus.get("ship");
        let Some(ship) = name.and_then(|name| name.parse::<ShipName>().ok()) else {
            return Fragment::of(ID, &Nothing { name });
        };
        let asked = focus.get("span");
        let span = SPANS.into_iter().find(|(word, ..)| Some(*word) == asked);
        let span = span.unwrap_or(("5m", "", 5 * 60, 1));
        let (_, _, seconds, step) = span;
        // So that a part holds the same seconds each time it is drawn.
        let to = (self.clock.wall().timestamp().div_euclid(step) + 1) * step;
        let looked_for = ship.clone();
        let found = self.blocking(move |state| {
            let (txn, tables) = (state.read()?, state.tables());
            let Some(row) = table::ship(&txn, tables, &looked_for)? else { return Ok(None) };
            let span = (to - seconds, to);
            Ok(Some((row, Measured::read(&txn, tables, &looked_for, span, POINTS)?)))
        });
        match found.await {
            Ok(Some((row, measured))) => Fragment::of(ID, &plot(&ship, span.0, &row, &measured)),
            Ok(None) => Fragment::of(ID, &Nothing { name }),
            Err(why) => Fragment::trouble(ID, "The chart", &why),
        }
    }
}

fn plot(ship: &ShipName, chosen: &str, row: &ShipRow, measured: &Measured) -> Plot {
    let address = in_address(ship.as_str());
    let choice = |(word, text, ..): (&'static str, &'static str, i64, i64)| Choice {
        address: format!("#ships?ship={address}&span={word}"),
        text,
        is_chosen: word == chosen,
    };
    let readings = measured.parts.iter().flatten().map(|bucket| bucket.count).sum();
    let moment = |us: Option<i64>| us.map(|us| Moment(us.div_euclid(1000)));
    Plot {
        name: ship.to_string(),
        spans: SPANS.into_iter().map(choice).collect(),
        figure: figure(measured),
        count: Count(row.count),
        bytes: Bytes(row.bytes),
        first_at: moment(row.first_us),
        last_at: moment(row.last_us),
        value: latest(row),
        unit: UNIT,
        step_seconds: measured.plan.step,
        shown: Count(readings),
    }
}

/// The least, average and greatest value of each part; a part without any is a gap.
fn figure(measured: &Measured) -> String {
    let at_ms = |part| u64::try_from(measured.plan.begin(part) * 1000).unwrap_or(0);
    let late = measured.parts.iter().rev().take(LATE).take_while(|part| part.is_none()).count();
    let parts = || measured.parts.iter().take(measured.parts.len() - late).enumerate();
    let band = parts().map(|(part, bucket)| (at_ms(part), bucket.map(|b| (b.least, b.most))));
    let line = parts().map(|(part, bucket)| (at_ms(part), bucket.map(|b| b.average())));
    let series = |name, class, shape| Series { name, class, shape };
    let chart = Chart {
        title: DESCRIPTION,
        unit: UNIT,
        from_ms: at_ms(0),
        to_ms: at_ms(measured.plan.parts),
        scale: Scale::Zero,
        series: vec![
            series("least to greatest", "one", Shape::Band(band.collect())),
            series("average", "two", Shape::Line(line.collect())),
        ],
    };
    chart.figure()
}
