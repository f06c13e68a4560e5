//! The page that `server` serves: its views, and what each of them reads.

use std::sync::Arc;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::settings::TaskServerSettings;
use super::task_store::TaskStore;
use crate::page::board::Board;
use crate::page::calculations::Calculations;
use crate::page::health::{Beyond, Health, RemoteBroker};
use crate::page::shell::Shell;
use crate::page::view::View;
use crate::page::{self, Page};
use crate::rooms::calculations::order;
use crate::rooms::telemetry::road::Road;
use crate::web::{Auth, Readiness, Room, Seats};

/// What the views read.
pub(super) struct PageParts<'a> {
    pub(super) process: &'a Process,
    pub(super) tasks: &'a TaskServerSettings,
    pub(super) store: &'a TaskStore,
    pub(super) seats: &'a Seats,
    /// What `/readyz` asks.
    pub(super) readiness: Arc<dyn Readiness>,
    pub(super) broker: Option<RemoteBroker>,
    /// The way to the spaceship.
    pub(super) road: &'a Road,
}

/// The room that serves the page.
pub(super) fn room(parts: PageParts<'_>, auth: &Auth) -> Result<Room, Failure> {
    let PageParts { process, tasks, store, seats, readiness, broker, road } = parts;
    let calculations = Calculations {
        store: Arc::clone(&store.store),
        kind: order::KIND.parse().or_exit(Exit::Software)?,
        output_length_max: tasks.max_length,
    };
    let health = Health {
        state: process.state.clone(),
        store: Arc::clone(&store.store),
        is_remote: store.is_remote,
        readiness,
        broker,
        beyond: Beyond::new(road.clone()),
    };
    let views: Vec<Arc<dyn View>> = vec![Arc::new(calculations), Arc::new(health)];
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
