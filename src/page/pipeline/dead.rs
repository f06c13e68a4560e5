//! The dead letters: a list of their files. What stands in them, the script asks the API for.

use askama::Template;

use super::Shared;
use super::shards::moment;
use crate::batch::dead::{DeadRow, newest};
use crate::page::format::{Count, Moment};
use crate::page::view::{Focus, Fragment};
use crate::service::{held, printable};
use crate::state::{State, StateError};

pub(super) const DEAD: &str = "pipeline-dead";
/// Files of a page.
const ROWS: usize = 20;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    is_all: bool,
    before: Option<u64>,
}

impl Asked {
    pub(super) fn of(focus: &Focus) -> Self {
        Self { is_all: focus.get("dead") == Some("all"), before: focus.parsed("before") }
    }
}

/// Messages that are dead and were not sent again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) messages: u64,
    pub(super) telemetry: u64,
}

impl Shared {
    /// Counted once for each look of the history: there may be many files.
    pub(super) fn dead(&self) -> Sums {
        let look = held(&self.history).count();
        self.dead.of(look, || {
            let dead = newest(&self.parts.state, u64::MAX, usize::MAX, false).unwrap_or_default();
            let of = |is_of_messages: bool| {
                let is_of = |dead: &&DeadRow| {
                    dead.key().is_none_or(|key| key.topic.is_messages()) == is_of_messages
                };
                dead.iter().filter(is_of).map(|dead| dead.row.range.count()).sum()
            };
            Sums { messages: of(true), telemetry: of(false) }
        })
    }
}

#[derive(Template)]
#[template(path = "pipeline/dead.html", config = "src/page/askama.toml")]
struct Dead {
    rows: Vec<Row>,
    is_all: bool,
    is_later_page: bool,
    next: Option<u64>,
}

struct Row {
    number: u64,
    shard: String,
    messages: Count,
    reason: String,
    since: Moment,
    resent: Option<Moment>,
}

pub(super) fn fragment(state: &State, asked: &Asked) -> Result<Fragment, StateError> {
    let Asked { is_all, before } = *asked;
    // One more than is shown tells whether there is another page.
    let mut rows = newest(state, before.unwrap_or(u64::MAX), ROWS + 1, is_all)?;
    let has_more = rows.len() > ROWS;
    rows.truncate(ROWS);
    let next = rows.last().map(|dead| dead.row.number).filter(|_| has_more);
    let rows = rows.iter().map(row).collect();
    Ok(Fragment::of(DEAD, &Dead { rows, is_all, is_later_page: before.is_some(), next }))
}

fn row(dead: &DeadRow) -> Row {
    Row {
        number: dead.row.number,
        shard: dead.key().map(|key| key.short()).unwrap_or_default(),
        messages: Count(dead.row.range.count()),
        reason: printable(&dead.reason),
        since: moment(dead.row.committed_ms),
        resent: dead.resent_ms.map(moment),
    }
}
