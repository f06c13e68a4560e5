//! The charts: of all messages look by look, and small ones of each shard.
//!
//! They are drawn when a look has brought something, not whenever a message has come.

use askama::Template;

use super::history::{History, Rated, SLOW_STEP, SPAN};
use super::shards::per_second;
use super::{Shared, of, spark};
use crate::message::{ShardKey, Topic};
use crate::page::chart::{Chart, Scale, Series, Shape};
use crate::page::view::Fragment;
use crate::service::held;

const CHARTS: &str = "pipeline-charts";
const SPARKS: &str = "pipeline-sparks";

#[derive(Template)]
#[template(path = "pipeline/sparks.html", config = "src/page/askama.toml")]
struct Sparks {
    /// The top of all of them, in messages per second.
    top: String,
    minutes: u64,
    step_seconds: u64,
    shards: Vec<Small>,
}

struct Small {
    name: String,
    is_telemetry: bool,
    svg: String,
}

impl Shared {
    pub(super) fn pictures(&self, keys: &[ShardKey]) -> [Fragment; 2] {
        let history = held(&self.history);
        let charts = self.charts.of(history.count(), || charts(&history, keys));
        // A shard more is drawn at once.
        let step = (history.slow_count() << 16) + keys.len() as u64;
        let sparks = self.sparks.of(step, || sparks(&history, keys));
        [Fragment { id: CHARTS, html: charts }, Fragment { id: SPARKS, html: sparks }]
    }
}

fn charts(history: &History, keys: &[ShardKey]) -> String {
    let has_some = |topic: Topic| keys.iter().any(|key| key.topic == topic);
    let shown = Topic::ALL.into_iter().filter(|topic| topic.is_messages() || has_some(*topic));
    shown.map(|topic| chart(history, topic)).collect()
}

fn chart(history: &History, topic: Topic) -> String {
    let rates = history.rates(&of(topic));
    let span_ms = u64::try_from(SPAN.as_millis()).unwrap_or(0);
    let to_ms = history.last_wall_ms().max(span_ms);
    let line = |name, class, value: &dyn Fn(&Rated) -> Option<f64>| {
        let samples = rates.iter().map(|rated| (rated.0, value(rated)));
        Series { name, class, shape: Shape::Line(samples.collect()) }
    };
    let (title, unit) = match topic {
        Topic::Messages => ("Messages in and out", "messages/s"),
        Topic::Telemetry => ("Telemetry in and out", "readings/s"),
    };
    let series = vec![
        line("in", "one", &|(_, rates)| rates.map(|rates| rates.into)),
        line("out", "two", &|(_, rates)| rates.map(|rates| rates.out_of)),
    ];
    Chart { title, unit, from_ms: to_ms - span_ms, to_ms, scale: Scale::Zero, series }.figure()
}

fn sparks(history: &History, keys: &[ShardKey]) -> String {
    let slow: Vec<_> = keys.iter().map(|key| history.slow(&|of| of == *key)).collect();
    let top = spark::top(slow.iter().map(Vec::as_slice));
    let shards = keys.iter().zip(&slow).map(|(key, rates)| {
        let name = key.short();
        let greatest = |value: fn(&super::history::Rates) -> f64| {
            per_second(rates.iter().flatten().map(value).reduce(f64::max))
        };
        let (into, out_of) = (greatest(|rates| rates.into), greatest(|rates| rates.out_of));
        let label = format!("Shard {name}: in at most {into}, out at most {out_of} per second");
        let svg = spark::draw(rates, top, &label);
        Small { name, is_telemetry: !key.topic.is_messages(), svg }
    });
    let sparks = Sparks {
        top: per_second(Some(top)),
        minutes: SPAN.as_secs() / 60,
        step_seconds: SLOW_STEP.as_secs(),
        shards: shards.collect(),
    };
    sparks.render().unwrap_or_else(|error| error.to_string())
}
