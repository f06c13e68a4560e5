//! The page that `server` serves: its views, and what each of them reads.

use std::sync::Arc;

use tokio::sync::watch;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::settings::TaskServerSettings;
use super::task_store::TaskStore;
use crate::page::board::Board;
use crate::page::calculations::Calculations;
use crate::page::schedules::Schedules;
use crate::page::shell::Shell;
use crate::page::ships::{Ships, Streams};
use crate::page::view::View;
use crate::page::{self, Page};
use crate::rooms::calculations::order;
use crate::rooms::telemetry::order as capture_order;
use crate::rooms::telemetry::road::Road;
use crate::task::Name;
use crate::web::{Auth, Room, Seats};

/// What the views read.
pub(super) struct PageParts<'a> {
    pub(super) process: &'a Process,
    pub(super) tasks: &'a TaskServerSettings,
    pub(super) store: &'a TaskStore,
    pub(super) seats: &'a Seats,
    /// The way to the spaceship.
    pub(super) road: &'a Road,
    /// Rung when a stream was begun or stopped by way of this server.
    pub(super) streams_changed: watch::Receiver<u64>,
}

/// The room that serves the page.
pub(super) fn room(parts: PageParts<'_>, auth: &Auth) -> Result<Room, Failure> {
    let PageParts { process, tasks, store, seats, road, streams_changed } = parts;
    let calculations = Calculations {
        store: Arc::clone(&store.store),
        kind: order::KIND.parse().or_exit(Exit::Software)?,
        output_length_max: tasks.max_length,
    };
    let capture: Name = capture_order::KIND.parse().or_exit(Exit::Software)?;
    let schedules =
        Schedules { store: Arc::clone(&store.store), clock: Arc::clone(&process.clock) };
    let ships = Ships {
        state: process.state.clone(),
        store: Arc::clone(&store.store),
        clock: Arc::clone(&process.clock),
        capture,
        streams: Streams::new(road.clone(), streams_changed),
    };
    let views: Vec<Arc<dyn View>> =
        vec![Arc::new(calculations), Arc::new(schedules), Arc::new(ships)];
    let (state, life) = (process.state.clone(), process.life.clone());
    let page = Page {
        shell: Shell {
            version: env!("CARGO_PKG_VERSION"),
            is_locked: !auth.is_open(),
            input_max: tasks.calculation_input_max,
        },
        board: Arc::new(Board::new(views, state, Arc::clone(&store.store), life.clone())),
        seats: seats.clone(),
        life,
    };
    Ok(page::room(page, auth))
}
