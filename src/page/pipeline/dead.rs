//! The dead letters: a list of their files. What stands in them, the script asks the API for.

use std::collections::HashMap;

use askama::Template;

use super::shards::moment;
use super::{PipelineParts, Shared};
use crate::batch::dead::{DeadRow, newest};
use crate::batch::unsent::{Unsent, unsent};
use crate::page::format::{Count, Moment};
use crate::page::view::{Focus, Fragment};
use crate::service::{held, printable};
use crate::state::StateError;

pub(super) const DEAD: &str = "pipeline-dead";
/// Files of a page.
const ROWS: usize = 20;
/// Pages that are remembered.
const LISTS: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    is_all: bool,
    before: Option<u64>,
}

impl Asked {
    pub(super) fn of(focus: &Focus) -> Self {
        Self { is_all: focus.get("dead") == Some("all"), before: focus.parsed("before") }
    }
}

/// What was drawn since the dead letters last changed.
#[derive(Debug, Default)]
pub(super) struct Lists {
    unsent: Option<Unsent>,
    drawn: HashMap<Asked, Fragment>,
}

impl Shared {
    /// The list asked for. It may be far to go for, so it is drawn once for each change.
    pub(super) fn dead(&self, asked: &Asked) -> Result<Fragment, StateError> {
        let unsent = unsent(&self.parts.state)?;
        let mut lists = held(&self.dead);
        if lists.unsent != Some(unsent) || lists.drawn.len() >= LISTS {
            *lists = Lists { unsent: Some(unsent), drawn: HashMap::new() };
        }
        if let Some(drawn) = lists.drawn.get(asked) {
            return Ok(drawn.clone());
        }
        let drawn = fragment(&self.parts, asked)?;
        lists.drawn.insert(*asked, drawn.clone());
        Ok(drawn)
    }
}

#[derive(Template)]
#[template(path = "pipeline/dead.html", config = "src/page/askama.toml")]
struct Dead {
    rows: Vec<Row>,
    is_all: bool,
    is_over_broker: bool,
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

fn fragment(parts: &PipelineParts, asked: &Asked) -> Result<Fragment, StateError> {
    let Asked { is_all, before } = *asked;
    // One more than is shown tells whether there is another page.
    let mut rows = newest(&parts.state, before.unwrap_or(u64::MAX), ROWS + 1, is_all)?;
    let has_more = rows.len() > ROWS;
    rows.truncate(ROWS);
    let next = rows.last().map(|dead| dead.row.number).filter(|_| has_more);
    let rows = rows.iter().map(row).collect();
    let (is_over_broker, is_later_page) = (parts.queues.is_some(), before.is_some());
    Ok(Fragment::of(DEAD, &Dead { rows, is_all, is_over_broker, is_later_page, next }))
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
