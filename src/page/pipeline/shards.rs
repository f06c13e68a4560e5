//! The figures of now: of all messages, and of each shard.

use askama::Template;

use super::history::Rates;
use super::{Queue, Shared, of, sum};
use crate::batch::unsent::unsent;
use crate::message::{ShardKey, Topic};
use crate::page::format::{Count, Moment};
use crate::page::view::Fragment;
use crate::rooms::watch::ShardView;
use crate::service::held;
use crate::store::Millis;

pub(super) const NOW: &str = "pipeline-now";
const SHARDS: &str = "pipeline-shards";

/// A rate as people read it: `3.5`, `1 234`; a dash where it is not known.
pub(super) fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "–".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        Some(rate) => Count(whole(rate)).to_string(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is no less than 0"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

pub(super) fn moment(ms: u64) -> Moment {
    Moment(Millis::try_from(ms).unwrap_or(Millis::MAX))
}

/// What there is of a topic.
struct Figures {
    topic: &'static str,
    into: String,
    out_of: String,
    waiting: Count,
    oldest: Option<Moment>,
    /// Dead letters that were not sent again.
    dead: String,
    has_dead: bool,
    accepted: Count,
}

#[derive(Template)]
#[template(path = "pipeline/now.html", config = "src/page/askama.toml")]
struct Now {
    topics: Vec<Figures>,
    is_empty: bool,
    problems: Vec<String>,
    is_over_broker: bool,
    queues: Option<QueueSums>,
}

struct QueueSums {
    packets: Count,
    /// Queues in which packets wait that nobody consumes.
    forsaken: usize,
}

#[derive(Template)]
#[template(path = "pipeline/shards.html", config = "src/page/askama.toml")]
struct Shards {
    rows: Vec<Row>,
    is_over_broker: bool,
}

struct Row {
    name: String,
    is_telemetry: bool,
    accepted: Count,
    into: String,
    out_of: String,
    waiting: Count,
    oldest: Option<Moment>,
    problem: Option<String>,
    queue: Option<Queue>,
}

impl Shared {
    pub(super) fn shards(&self, views: &[ShardView]) -> Vec<Fragment> {
        let queues = self.parts.queues.as_ref().map(|queues| queues());
        // Without figures that move: what is said once is not said again each second.
        let problem = |view: &ShardView| {
            let why = self.parts.watch.standstill(view)?;
            Some(format!("{}: messages wait, and {why}", view.key))
        };
        let problems: Vec<_> = views.iter().map(problem).collect();
        let now = self.now(views, queues.as_deref(), problems.iter().flatten().cloned().collect());
        let mut rows = self.rows(views, queues.as_deref().unwrap_or_default());
        for (row, problem) in rows.iter_mut().zip(problems) {
            row.problem = problem;
        }
        let shards = Shards { rows, is_over_broker: queues.is_some() };
        vec![now, Fragment::of(SHARDS, &shards)]
    }

    fn now(
        &self,
        views: &[ShardView],
        queues: Option<&[Queue]>,
        problems: Vec<String>,
    ) -> Fragment {
        let unsent = unsent(&self.parts.state).ok();
        let history = held(&self.history);
        let figures = |topic: Topic| {
            let rates = history.latest(&of(topic));
            let of_topic = views.iter().filter(|view| view.key.topic == topic);
            let dead = unsent.map(|unsent| match topic.is_messages() {
                true => unsent.messages.messages,
                false => unsent.telemetry.messages,
            });
            Figures {
                topic: if topic.is_messages() { "Messages" } else { "Telemetry" },
                into: per_second(rates.map(|rates| rates.into)),
                out_of: per_second(rates.map(|rates| rates.out_of)),
                waiting: Count(sum(views, topic, |view| view.waiting)),
                dead: dead.map_or("–".to_owned(), |dead| Count(dead).to_string()),
                has_dead: dead.is_some_and(|dead| dead > 0),
                oldest: of_topic.filter_map(|view| view.oldest_ms).min().map(moment),
                accepted: Count(sum(views, topic, |view| view.end.offset)),
            }
        };
        let has_some = |topic: &Topic| views.iter().any(|view| view.key.topic == *topic);
        let shown = Topic::ALL.into_iter().filter(|t| t.is_messages() || has_some(t));
        let topics = shown.map(figures).collect();
        // A broker that answers has queues.
        let known = queues.filter(|queues| !queues.is_empty());
        let sums = known.map(|queues| QueueSums {
            packets: Count(queues.iter().map(|queue| u64::from(queue.packets)).sum()),
            forsaken: queues.iter().filter(|q| q.packets > 0 && q.consumers == 0).count(),
        });
        let (is_empty, is_over_broker) = (views.is_empty(), queues.is_some());
        let now = Now { topics, is_empty, problems, is_over_broker, queues: sums };
        Fragment::of(NOW, &now)
    }

    /// A row for each shard that ever took a message, and after these one for each other queue.
    fn rows(&self, views: &[ShardView], queues: &[Queue]) -> Vec<Row> {
        let history = held(&self.history);
        let queue_of = |key: ShardKey| queues.iter().find(|queue| queue.key == key).copied();
        let row = |key: ShardKey, rates: Option<Rates>| Row {
            name: key.short(),
            is_telemetry: !key.topic.is_messages(),
            accepted: Count(0),
            into: per_second(rates.map(|rates| rates.into)),
            out_of: per_second(rates.map(|rates| rates.out_of)),
            waiting: Count(0),
            oldest: None,
            problem: None,
            queue: queue_of(key),
        };
        let of_views = views.iter().map(|view| Row {
            accepted: Count(view.end.offset),
            waiting: Count(view.waiting),
            oldest: view.oldest_ms.map(moment),
            ..row(view.key, history.latest(&|key| key == view.key))
        });
        let is_other = |queue: &&Queue| views.iter().all(|view| view.key != queue.key);
        let others = queues.iter().filter(is_other).map(|queue| row(queue.key, None));
        of_views.chain(others).collect()
    }
}
