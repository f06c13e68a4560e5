//! The page that `server` serves: its views, and what each of them reads.

use std::sync::Arc;

use tokio::sync::watch;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::settings::TaskServerSettings;
use super::task_store::TaskStore;
use crate::broker::rabbitmq::QueueView;
use crate::broker::rabbitmq::publisher::RabbitPublisher;
use crate::page::board::Board;
use crate::page::calculations::{Calculations, Counts};
use crate::page::health::{Beyond, Health, RemoteBroker};
use crate::page::pipeline::{Pipeline, PipelineParts, Queue, Queues};
use crate::page::schedules::Schedules;
use crate::page::shell::Shell;
use crate::page::ships::{Captures, Ships, Streams};
use crate::page::view::View;
use crate::page::{self, Page};
use crate::rooms::calculations::order;
use crate::rooms::telemetry::order as capture_order;
use crate::rooms::telemetry::road::Road;
use crate::rooms::watch::Watch;
use crate::task::Name;
use crate::web::{Auth, Readiness, Room, Seats};

/// What the views read.
pub(super) struct PageParts<'a> {
    pub(super) process: &'a Process,
    pub(super) tasks: &'a TaskServerSettings,
    pub(super) store: &'a TaskStore,
    pub(super) seats: &'a Seats,
    pub(super) watch: &'a Arc<Watch>,
    pub(super) rabbit: Option<&'a RabbitPublisher>,
    /// What `/readyz` asks.
    pub(super) readiness: Arc<dyn Readiness>,
    pub(super) broker: Option<RemoteBroker>,
    /// The way to the spaceship.
    pub(super) road: &'a Road,
    /// Rung when a stream was begun or stopped by way of this server.
    pub(super) streams_changed: watch::Receiver<u64>,
}

/// The room that serves the page.
pub(super) fn room(parts: PageParts<'_>, auth: &Auth) -> Result<Room, Failure> {
    let PageParts { process, tasks, store, seats, watch, rabbit, readiness, broker, .. } = parts;
    let (road, streams_changed) = (parts.road, parts.streams_changed);
    let calculations = Calculations {
        store: Arc::clone(&store.store),
        kind: order::KIND.parse().or_exit(Exit::Software)?,
        output_length_max: tasks.max_length,
        clock: Arc::clone(&process.clock),
        state_dir: process.state.dir().to_owned(),
        counts: Counts::default(),
    };
    let health = Health {
        state: process.state.clone(),
        store: Arc::clone(&store.store),
        is_remote: store.is_remote,
        readiness,
        broker,
        beyond: Beyond::new(road.clone()),
    };
    let capture: Name = capture_order::KIND.parse().or_exit(Exit::Software)?;
    let schedules = Schedules {
        state: process.state.clone(),
        store: Arc::clone(&store.store),
        is_remote: store.is_remote,
        clock: Arc::clone(&process.clock),
    };
    let ships = Ships {
        state: process.state.clone(),
        clock: Arc::clone(&process.clock),
        captures: Captures::new(Arc::clone(&store.store), capture),
        streams: Streams::new(road.clone(), streams_changed),
    };
    let (state, life) = (process.state.clone(), process.life.clone());
    let pipeline = Pipeline::start(PipelineParts {
        state: state.clone(),
        watch: Arc::clone(watch),
        clock: Arc::clone(&process.clock),
        life: life.clone(),
        queues: rabbit.cloned().map(queues),
    });
    let views: Vec<Arc<dyn View>> = vec![
        Arc::new(calculations),
        Arc::new(pipeline),
        Arc::new(schedules),
        Arc::new(ships),
        Arc::new(health),
    ];
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

/// The queues of the broker as they were last looked at.
fn queues(rabbit: RabbitPublisher) -> Queues {
    Arc::new(move || {
        let views = rabbit.queues().views().into_iter();
        let queue = |view: QueueView| Queue {
            key: view.key,
            packets: view.packets,
            consumers: view.consumers,
        };
        views.map(queue).collect()
    })
}
