//! What runs where, what it stands on, and what is wrong, with what to do about it.
//!
//! Processes of this machine tell of themselves (`service::presence`), so a killed one is missed at
//! once. What is elsewhere is asked now and then, and the last answer is shown meanwhile.
//!
//! | room | what it holds |
//! |---|---|
//! | `running` | from cards to what is shown of them; pure |
//! | `beyond` | what is asked elsewhere |

mod beyond;
mod running;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::beyond::{FRESH, Tasks, ask_spaceship, ask_store};
use self::running::{Absent, CardView, absent, hints};
use super::format::Bytes;
use super::remembered::Remembered;
use super::view::{Focus, Fragment, Sources, View};
use crate::rooms::telemetry::road::Road;
use crate::rooms::telemetry::ships::redis::trouble;
use crate::service::presence::{Card, living};
use crate::state::{DiskRoom, State, StateError};
use crate::store::Store;
use crate::web::Readiness;

/// How often it is looked what runs.
const LOOKED_EVERY: Duration = Duration::from_millis(200);

const READY: &str = "health-ready";
const RUNNING: &str = "health-running";
const GROUND: &str = "health-ground";

/// The view.
pub struct Health {
    /// The state environment.
    pub state: State,
    /// Where tasks and schedules are.
    pub store: Arc<dyn Store>,
    /// Whether those are on another machine.
    pub is_remote: bool,
    /// What `/readyz` asks.
    pub readiness: Arc<dyn Readiness>,
    /// The broker that messages go over, unless they stay on this machine.
    pub broker: Option<RemoteBroker>,
    /// What is asked elsewhere.
    pub beyond: Beyond,
}

/// A broker on the network.
#[derive(Clone)]
pub struct RemoteBroker {
    /// Its address, without its password.
    pub address: String,
    /// What keeps it from being used.
    pub readiness: Arc<dyn Readiness>,
}

/// What is asked elsewhere, and the way there.
pub struct Beyond {
    road: Road,
    spaceship: Remembered<Result<Option<String>, String>>,
    tasks: Remembered<Result<Tasks, String>>,
}

impl Beyond {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(road: Road) -> Self {
        Self { road, spaceship: Remembered::new(FRESH), tasks: Remembered::new(FRESH) }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("store", &self.store).finish_non_exhaustive()
    }
}

impl View for Health {
    fn name(&self) -> &'static str {
        "health"
    }

    fn sources(&self) -> Sources {
        Sources { every: Some(LOOKED_EVERY), ..Sources::default() }
    }

    fn draw<'a>(&'a self, _: &'a Focus) -> BoxFuture<'a, Vec<Fragment>> {
        async move {
            let (here, spaceship, tasks) =
                tokio::join!(self.look_here(), self.spaceship(), self.tasks());
            let here = match here {
                Ok(here) => here,
                Err(why) => {
                    let trouble = |(id, what)| Fragment::trouble(id, what, &why);
                    let all = [(READY, "Health"), (RUNNING, "What runs"), (GROUND, "The rest")];
                    return all.map(trouble).to_vec();
                }
            };
            let recurs = tasks.as_ref().and_then(|tasks| tasks.as_ref().ok());
            let recurs = recurs.is_some_and(|tasks| tasks.recurs);
            let (is_remote, has_broker) = (self.is_remote, self.broker.is_some());
            let (ready, running) = match here.cards {
                Ok(cards) => {
                    let absent = absent(&cards, has_broker, recurs, is_remote);
                    let hints = hints(&cards, &spaceship);
                    let missed = absent.iter().filter(|absent| absent.is_missed).collect();
                    let ready = Ready { problems: &here.problems, missed, hints };
                    let ready = Fragment::of(READY, &ready);
                    let cards = cards.iter().map(CardView::of).collect();
                    (ready, Fragment::of(RUNNING, &Running { cards, spaceship, absent }))
                }
                Err(why) => {
                    let problems = &here.problems;
                    let ready = Ready { problems, missed: Vec::new(), hints: Vec::new() };
                    let running = Fragment::trouble(RUNNING, "What runs", &why);
                    (Fragment::of(READY, &ready), running)
                }
            };
            let ground = Ground {
                state_dir: self.state.dir().display().to_string(),
                broker: here.broker,
                database: self.store.name(),
                is_remote,
                tasks,
                redis: here.redis,
                disk: here.disk,
                map: here.map,
            };
            vec![ready, running, Fragment::of(GROUND, &ground)]
        }
        .boxed()
    }
}

impl Health {
    /// What is read on this machine.
    async fn look_here(&self) -> Result<Here, String> {
        let (state, readiness) = (self.state.clone(), Arc::clone(&self.readiness));
        let broker = self.broker.clone();
        let looking = tokio::task::spawn_blocking(move || Here::look(&state, &*readiness, broker));
        looking.await.map_err(|error| error.to_string())
    }

    /// The spaceship; `None` where it is one of the processes here.
    async fn spaceship(&self) -> Option<ShipView> {
        let road = &self.beyond.road;
        if matches!(road, Road::Within(_)) {
            return None;
        }
        let answer = self.beyond.spaceship.get(0, || ask_spaceship(road.clone()).boxed()).await;
        Some(ShipView { place: road.to_string(), answer })
    }

    async fn tasks(&self) -> Option<Result<Tasks, String>> {
        self.beyond.tasks.get(0, || ask_store(Arc::clone(&self.store)).boxed()).await
    }
}

/// What is read on this machine.
struct Here {
    problems: Vec<String>,
    cards: Result<Vec<Card>, String>,
    broker: Option<BrokerView>,
    redis: Option<String>,
    disk: Result<DiskView, String>,
    map: Result<MapView, String>,
}

impl Here {
    /// May block.
    fn look(state: &State, readiness: &dyn Readiness, broker: Option<RemoteBroker>) -> Self {
        let text = |error: StateError| error.to_string();
        let broker = broker.map(|broker| BrokerView {
            problems: broker.readiness.problems(),
            address: broker.address,
        });
        Self {
            problems: readiness.problems(),
            cards: living(state.dir()).map_err(|error| error.to_string()),
            broker,
            redis: trouble::look(state).unwrap_or_else(|error| Some(text(error))),
            disk: state.disk_room().map(DiskView::of).map_err(text),
            map: state
                .used_bytes()
                .map(|(used, most)| MapView::of(used, most, state.reserve_bytes()))
                .map_err(text),
        }
    }
}

#[derive(Template)]
#[template(path = "health/ready.html", config = "src/page/askama.toml")]
struct Ready<'a> {
    problems: &'a [String],
    missed: Vec<&'a Absent>,
    hints: Vec<String>,
}

#[derive(Template)]
#[template(path = "health/running.html", config = "src/page/askama.toml")]
struct Running {
    cards: Vec<CardView>,
    spaceship: Option<ShipView>,
    absent: Vec<Absent>,
}

#[derive(Template)]
#[template(path = "health/ground.html", config = "src/page/askama.toml")]
struct Ground {
    state_dir: String,
    broker: Option<BrokerView>,
    database: String,
    is_remote: bool,
    tasks: Option<Result<Tasks, String>>,
    redis: Option<String>,
    disk: Result<DiskView, String>,
    map: Result<MapView, String>,
}

/// A spaceship elsewhere.
struct ShipView {
    place: String,
    /// Its version, if it says so, or why it does not answer; `None`: it was not asked yet.
    answer: Option<Result<Option<String>, String>>,
}

struct BrokerView {
    address: String,
    problems: Vec<String>,
}

struct DiskView {
    free: Bytes,
    total: Bytes,
    low_water: Bytes,
    used_percent: u64,
    high_percent: u64,
}

impl DiskView {
    fn of(DiskRoom { free_bytes, total_bytes, low_water_bytes }: DiskRoom) -> Self {
        Self {
            free: Bytes(free_bytes),
            total: Bytes(total_bytes),
            low_water: Bytes(low_water_bytes),
            used_percent: percent(total_bytes.saturating_sub(free_bytes), total_bytes),
            high_percent: percent(total_bytes.saturating_sub(low_water_bytes), total_bytes),
        }
    }
}

/// The map of the state environment.
struct MapView {
    used: Bytes,
    most: Bytes,
    used_percent: u64,
    high_percent: u64,
}

impl MapView {
    fn of(used_bytes: u64, most_bytes: u64, reserve_bytes: u64) -> Self {
        Self {
            used: Bytes(used_bytes),
            most: Bytes(most_bytes),
            used_percent: percent(used_bytes, most_bytes),
            high_percent: percent(most_bytes.saturating_sub(reserve_bytes), most_bytes),
        }
    }
}

/// Rounded up, so that little is not nothing.
fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).div_ceil(whole.max(1)).min(100)
}

#[cfg(test)]
mod tests;
