//! The ships: how much is stored of each, the latest value, and when it was measured.

use askama::Template;

use super::{Ships, in_address};
use crate::page::format::{Bytes, Count, Moment};
use crate::page::view::{Focus, Fragment};
use crate::rooms::telemetry::datagram::{self, UNIT};
use crate::rooms::telemetry::ship::ShipName;
use crate::rooms::telemetry::ships::table::{self, ShipRow};

const ID: &str = "ships-list";
/// Ships of a page.
const ROWS: usize = 50;

#[derive(Template)]
#[template(path = "ships/list.html", config = "src/page/askama.toml")]
struct List {
    rows: Vec<Row>,
    /// The last ship of this page, if there are more, as it stands in an address.
    next: Option<String>,
    is_later_page: bool,
    unit: &'static str,
}

struct Row {
    name: String,
    /// The same as it stands in an address.
    address: String,
    is_chosen: bool,
    count: Count,
    bytes: Bytes,
    value: Option<f64>,
    last_at: Option<Moment>,
}

impl Row {
    fn new(name: &ShipName, row: &ShipRow, chosen: Option<&str>) -> Self {
        Self {
            name: name.to_string(),
            address: in_address(name.as_str()),
            is_chosen: chosen == Some(name.as_str()),
            count: Count(row.count),
            bytes: Bytes(row.bytes),
            value: latest(row),
            last_at: row.last_us.map(|us| Moment(us.div_euclid(1000))),
        }
    }
}

/// The value of the latest reading.
pub(super) fn latest(row: &ShipRow) -> Option<f64> {
    let line = row.latest.as_ref()?;
    datagram::read_line(line.get().as_bytes()).map(|(_, reading)| reading.value)
}

impl Ships {
    pub(super) async fn list(&self, focus: &Focus) -> Fragment {
        let after: Option<ShipName> = focus.parsed("after");
        let is_later_page = after.is_some();
        // One more than is shown tells whether there is a next page.
        let found = self.blocking(move |state| {
            let (txn, tables) = (state.read()?, state.tables());
            table::ships(&txn, tables, after.as_ref(), ROWS + 1)
        });
        let mut ships = match found.await {
            Ok(ships) => ships,
            Err(why) => return Fragment::trouble(ID, "Ships", &why),
        };
        let has_more = ships.len() > ROWS;
        ships.truncate(ROWS);
        let last = ships.last().filter(|_| has_more);
        let next = last.map(|(name, _)| in_address(name.as_str()));
        let chosen = focus.get("ship");
        let rows = ships.iter().map(|(name, row)| Row::new(name, row, chosen)).collect();
        Fragment::of(ID, &List { rows, next, is_later_page, unit: UNIT })
    }
}
