//! The files that were written last.

use askama::Template;

use super::shards::moment;
use crate::batch::latest::latest;
use crate::batch::name::BatchKind;
use crate::message::ShardKey;
use crate::page::format::{Bytes, Count, Moment};
use crate::page::view::Fragment;
use crate::state::{State, StateError};

pub(super) const FILES: &str = "pipeline-files";
/// Files that are shown.
const ROWS: usize = 15;

#[derive(Template)]
#[template(path = "pipeline/files.html", config = "src/page/askama.toml")]
struct Files {
    is_over_broker: bool,
    rows: Vec<Row>,
}

struct Row {
    number: u64,
    /// None where a program made nothing of the messages.
    file: Option<String>,
    is_dead: bool,
    is_in_place: bool,
    shard: String,
    messages: Count,
    bytes: Bytes,
    worker: String,
    committed: Moment,
}

pub(super) fn fragment(
    state: &State,
    shards: &[ShardKey],
    is_over_broker: bool,
) -> Result<Fragment, StateError> {
    let txn = state.read()?;
    let latest = latest(&txn, state.tables(), shards, ROWS)?;
    let rows = latest.into_iter().map(|(key, row, is_in_place)| Row {
        number: row.number,
        file: row.has_file().then(|| row.file.display().to_string()),
        is_dead: row.kind == BatchKind::Dead,
        is_in_place,
        shard: key.short(),
        messages: Count(row.range.count()),
        bytes: Bytes(row.bytes),
        worker: row.worker.to_string(),
        committed: moment(row.committed_ms),
    });
    Ok(Fragment::of(FILES, &Files { is_over_broker, rows: rows.collect() }))
}
