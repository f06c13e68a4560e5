//! The pipeline: what comes in and goes out, what waits, who works, where it lands, and what no
//! worker could do.
//!
//! Focus: `dead` (`all`: those that were sent again, too), `before` (of dead letters: the last
//! number of the page before).

mod dead;
mod files;
mod history;
mod rates;
mod shards;
mod spark;
mod workers;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::history::History;
use super::view::{Focus, Fragment, Sources, View};
use crate::clock::Clock;
use crate::message::{ShardKey, Topic};
use crate::rooms::watch::{ShardView, Watch};
use crate::service::{Lifecycle, held};
use crate::state::State;

/// What changes without the state directory: the rates, and what the workers have in hand.
const EVERY: Duration = Duration::from_secs(1);

/// The queue of a shard in a broker elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// The shard.
    pub key: ShardKey,
    /// Packets that wait in it.
    pub packets: u32,
    /// Who consumes it, or stands by.
    pub consumers: u32,
}

/// Tells how the queues of a broker stand; nothing while it cannot be asked.
pub type Queues = Arc<dyn Fn() -> Vec<Queue> + Send + Sync>;

/// What the view reads.
pub struct PipelineParts {
    /// The state environment.
    pub state: State,
    /// What tells why a shard stands still.
    pub watch: Arc<Watch>,
    /// For the times of what is seen.
    pub clock: Arc<dyn Clock>,
    /// Ends all looking.
    pub life: Lifecycle,
    /// The queues, where messages go over a broker elsewhere.
    pub queues: Option<Queues>,
}

/// The view.
pub struct Pipeline {
    shared: Arc<Shared>,
}

struct Shared {
    parts: PipelineParts,
    history: Arc<Mutex<History>>,
    charts: Kept<String>,
    sparks: Kept<String>,
    workers: Kept<Vec<Fragment>>,
    dead: Mutex<dead::Lists>,
}

/// What changes with the looks of the history at most, however often it is drawn.
struct Kept<T>(Mutex<Option<(u64, T)>>);

impl<T: Clone> Kept<T> {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What was made for this look, or is made now.
    fn of(&self, look: u64, make: impl FnOnce() -> T) -> T {
        let mut kept = held(&self.0);
        match kept.as_ref() {
            Some((known, made)) if *known == look => made.clone(),
            _ => kept.insert((look, make())).1.clone(),
        }
    }
}

impl fmt::Debug for PipelineParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineParts").field("state", &self.state).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("parts", &self.shared.parts).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// The view. From now on it remembers what comes in and goes out, whether or not anybody looks.
    /// Needs a tokio runtime.
    #[must_use]
    pub fn start(parts: PipelineParts) -> Self {
        let (clock, life) = (Arc::clone(&parts.clock), parts.life.clone());
        let history = history::watch(parts.state.clone(), clock, life);
        let shared = Shared {
            parts,
            history,
            charts: Kept::new(),
            sparks: Kept::new(),
            workers: Kept::new(),
            dead: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl View for Pipeline {
    fn name(&self) -> &'static str {
        "pipeline"
    }

    fn sources(&self) -> Sources {
        Sources { state: true, every: Some(EVERY), ..Sources::default() }
    }

    fn choices(&self) -> &'static [&'static str] {
        &["dead", "before"]
    }

    fn draw<'a>(&'a self, focus: &'a Focus) -> BoxFuture<'a, Vec<Fragment>> {
        let shared = Arc::clone(&self.shared);
        let asked = dead::Asked::of(focus);
        async move {
            // A look into the memory map may wait for the disk.
            let drawn = tokio::task::spawn_blocking(move || shared.draw(&asked)).await;
            drawn.unwrap_or_else(|error| {
                vec![Fragment::trouble(shards::NOW, "The pipeline", &error.to_string())]
            })
        }
        .boxed()
    }
}

impl Shared {
    fn draw(&self, asked: &dead::Asked) -> Vec<Fragment> {
        let trouble =
            |id, what, error: &dyn fmt::Display| Fragment::trouble(id, what, &error.to_string());
        let state = &self.parts.state;
        let mut fragments = match self.parts.watch.view() {
            Ok(views) => {
                let keys: Vec<ShardKey> = views.iter().map(|view| view.key).collect();
                let files = files::fragment(state, &keys, self.parts.queues.is_some());
                let files = files.unwrap_or_else(|e| trouble(files::FILES, "The latest files", &e));
                let mut fragments = self.shards(&views);
                fragments.extend(self.pictures(&keys));
                fragments.push(files);
                fragments
            }
            Err(error) => vec![trouble(shards::NOW, "The pipeline", &error)],
        };
        let look = held(&self.history).count();
        fragments.extend(self.workers.of(look, || {
            let workers = workers::fragments(state, self.parts.queues.is_some());
            workers.unwrap_or_else(|e| vec![trouble(workers::NOW, "The workers", &e)])
        }));
        let dead = self.dead(asked);
        fragments.push(dead.unwrap_or_else(|e| trouble(dead::DEAD, "The dead letters", &e)));
        fragments
    }
}

/// Whether a shard is of a topic.
fn of(topic: Topic) -> impl Fn(ShardKey) -> bool {
    move |key| key.topic == topic
}

/// The sum of the shards of a topic.
fn sum(views: &[ShardView], topic: Topic, figure: impl Fn(&ShardView) -> u64) -> u64 {
    views.iter().filter(|view| view.key.topic == topic).map(figure).sum()
}
