//! The workers: what each of them has in hand now, and what it has done, ever.

use askama::Template;

use super::shards::moment;
use crate::batch::journal;
use crate::page::format::{Bytes, Count, Moment};
use crate::page::view::Fragment;
use crate::service::presence::{self, PoolCard, Standing, WorkerCard};
use crate::state::{State, StateError};

pub(super) const NOW: &str = "pipeline-workers";
const EVER: &str = "pipeline-worker-history";

#[derive(Template)]
#[template(path = "pipeline/workers.html", config = "src/page/askama.toml")]
struct Workers {
    pools: Vec<Pool>,
    is_over_broker: bool,
}

struct Pool {
    shard: String,
    is_telemetry: bool,
    least: u16,
    most: u16,
    process: String,
    workers: Vec<Worker>,
}

struct Worker {
    place: u16,
    /// Messages in hand; none if it has nothing to do.
    messages: Option<Count>,
    since: Moment,
    note: &'static str,
}

#[derive(Template)]
#[template(path = "pipeline/worker_history.html", config = "src/page/askama.toml")]
struct Ever {
    rows: Vec<Row>,
}

struct Row {
    worker: String,
    batches: Count,
    messages: Count,
    bytes: Bytes,
    errors: Count,
    timeouts: Count,
    last_seen: Moment,
}

/// Both, or why not.
pub(super) fn fragments(state: &State, is_over_broker: bool) -> Result<Vec<Fragment>, String> {
    let cards = presence::living(state.dir()).map_err(|error| error.to_string())?;
    let pools = cards.iter().flat_map(|card| {
        let process = format!("{} {}", card.command, card.pid);
        card.pools.iter().map(move |pool| self::pool(pool, process.clone()))
    });
    let workers = Workers { pools: pools.collect(), is_over_broker };
    let ever = ever(state).map_err(|error| error.to_string())?;
    Ok(vec![Fragment::of(NOW, &workers), ever])
}

fn pool(pool: &PoolCard, process: String) -> Pool {
    let is_telemetry = pool.topic != "messages";
    Pool {
        shard: format!("{}{}", if is_telemetry { "t" } else { "" }, pool.shard),
        is_telemetry,
        least: pool.least,
        most: pool.most,
        process,
        workers: pool.workers.iter().map(worker).collect(),
    }
}

fn worker(card: &WorkerCard) -> Worker {
    Worker {
        place: card.place,
        messages: card.range.map(|(first, end)| Count(end.saturating_sub(first))),
        since: moment(card.since_ms),
        note: match card.standing {
            Standing::Serving => "",
            Standing::Leaving => "ends when it is done",
            Standing::Hanging => "took too long: its messages went to another",
        },
    }
}

fn ever(state: &State) -> Result<Fragment, StateError> {
    let txn = state.read()?;
    let workers = journal::workers(&txn, state.tables())?;
    let rows = workers.into_iter().map(|(name, totals)| Row {
        worker: name.to_string(),
        batches: Count(totals.batches),
        messages: Count(totals.messages),
        bytes: Bytes(totals.bytes),
        errors: Count(totals.errors),
        timeouts: Count(totals.timeouts),
        last_seen: moment(totals.last_seen_ms),
    });
    Ok(Fragment::of(EVER, &Ever { rows: rows.collect() }))
}
