//! The thread that follows the journal and pushes into Redis, for ever.

use std::convert::Infallible;
use std::io::BufRead;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::RedisError;
use tokio::runtime::Handle;

use super::link::Link;
use super::piece::Piece;
use super::{Address, trouble};
use crate::batch::disk::Disk;
use crate::batch::lines::{self, Opened};
use crate::broker::ownership::FileLock;
use crate::message::ShardKey;
use crate::rooms::telemetry::ships::commits::{Commits, Next, Place};
use crate::service::{Lifecycle, jittered};
use crate::state::{State, StateError};

/// How often it is looked for what was committed since.
const POLL: Duration = Duration::from_millis(100);
/// How often an idle connection is tried.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The pause before Redis is tried again, at first and at most; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// How often a process that stands by looks whether it is its turn.
const STAND_BY: Duration = Duration::from_millis(500);
/// Held by the one process of a state directory that pushes.
const LOCK: &str = "redis.lock";

/// What a sink needs.
#[derive(Clone)]
pub struct SinkParts {
    /// Redis.
    pub address: Address,
    /// The most datagrams of a list, 0 for any number (`SHIP_LIST_MAX`).
    pub list_max: u64,
    /// The state environment.
    pub state: State,
    /// The output directory.
    pub disk: Arc<dyn Disk>,
    /// The process.
    pub life: Lifecycle,
}

impl std::fmt::Debug for SinkParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SinkParts({})", self.address)
    }
}

/// Why pushing has paused.
enum Paused {
    /// The process stops.
    Stopping,
    /// It may pass: try again.
    Trouble(String),
    /// It will not.
    State(StateError),
}

impl From<StateError> for Paused {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// Starts the thread; it ends when the process stops. Must be called within a tokio runtime.
///
/// # Errors
/// The thread can't be started.
pub fn start(parts: SinkParts) -> std::io::Result<JoinHandle<()>> {
    let runtime = Handle::current();
    let sink = Sink { runtime, commits: Commits::from_start(parts.state.clone()), parts };
    std::thread::Builder::new().name("redis".to_owned()).spawn(move || sink.run())
}

struct Sink {
    runtime: Handle,
    parts: SinkParts,
    commits: Commits,
}

impl Sink {
    fn run(mut self) {
        let Some(_lock) = self.stand_by() else { return };
        let life = self.parts.life.clone();
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let Err(paused) = self.follow();
            match paused {
                Paused::Stopping => return,
                Paused::Trouble(text) => self.note(Some(&text)),
                Paused::State(error) => return life.fail(error.to_string()),
            }
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE;
            }
            if life.wait_stopping(jittered(pause)) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until no other process of the state directory pushes.
    fn stand_by(&self) -> Option<FileLock> {
        let mut told = false;
        loop {
            match FileLock::try_take(&self.parts.state.dir().join(LOCK)) {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) if !told => tracing::info!("another process pushes to Redis"),
                Ok(None) => {}
                Err(error) if !told => tracing::warn!(%error, "locking {LOCK}"),
                Err(_) => {}
            }
            told = true;
            if self.parts.life.wait_stopping(STAND_BY) {
                return None;
            }
        }
    }

    /// Says what is wrong, when that has changed.
    fn note(&self, text: Option<&str>) {
        let known = trouble::look(&self.parts.state).ok().flatten();
        match text {
            Some(text) if known.as_deref() != Some(text) => tracing::warn!("{text}"),
            None if known.is_some() => tracing::info!("{} is back", self.parts.address),
            _ => {}
        }
        if let Err(error) = trouble::note(&self.parts.state, text) {
            tracing::debug!(%error, "what is wrong with Redis is not noted");
        }
    }

    /// Waits for Redis, unless the process stops first: whatever was sent by then is found out by
    /// the place of the shard.
    fn wait<T>(&self, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, Paused> {
        let SinkParts { address, life, .. } = &self.parts;
        self.runtime.block_on(async {
            tokio::select! {
                () = life.stopping() => Err(Paused::Stopping),
                answer = answer => answer.map_err(|error| Paused::Trouble(format!(
                    "{address}: {error}; readings are in files, and go on to it when it is back"
                ))),
            }
        })
    }

    /// Follows and pushes until something comes between.
    fn follow(&mut self) -> Result<Infallible, Paused> {
        let mut link = self.wait(Link::connect(&self.parts.address))?;
        tracing::info!(address = %self.parts.address, "pushing telemetry into lists");
        self.note(None);
        let mut asked_at = Instant::now();
        loop {
            if let Some((key, next)) = self.commits.next()? {
                self.push(&mut link, key, next)?;
                asked_at = Instant::now();
            } else if self.parts.life.wait_stopping(POLL) {
                return Err(Paused::Stopping);
            }
            if asked_at.elapsed() > PING_EVERY {
                self.wait(link.ping())?;
                asked_at = Instant::now();
            }
        }
    }

    /// Pushes what comes next in a shard, piece by piece.
    fn push(&mut self, link: &mut Link, key: ShardKey, next: Next) -> Result<(), Paused> {
        let from = self.commits.place(key);
        let (row, skip, end) = match next {
            Next::Batch { row, skip, end } => (row, skip, end),
            Next::Gone { lines, end } => {
                if self.push_piece(link, key, &Piece::gap(from, end))? {
                    tracing::warn!(
                        %key, lines, "readings are in no list: the journal no longer knows their \
                        files"
                    );
                }
                return Ok(());
            }
        };
        let left = row.range.count().saturating_sub(skip);
        let opened = lines::open(self.parts.disk.as_ref(), &row);
        let missing = match opened {
            Ok(Opened::Lines(lines)) => return self.push_lines(link, key, lines, skip, end),
            Ok(Opened::TakenAway) => "it was taken away".to_owned(),
            Ok(Opened::Damaged(found)) => format!("it is damaged: {found}"),
            Err(error) => format!("it cannot be read: {error}"),
        };
        if self.push_piece(link, key, &Piece::gap(from, end))? {
            let file = row.file.display();
            tracing::warn!(%key, lines = left, %file, missing, "readings are in no list");
        }
        Ok(())
    }

    fn push_lines(
        &mut self,
        link: &mut Link,
        key: ShardKey,
        mut lines: Box<dyn BufRead>,
        skip: u64,
        end: Place,
    ) -> Result<(), Paused> {
        let unreadable = |error| Paused::Trouble(format!("reading a batch of {key}: {error}"));
        for _ in 0..skip {
            lines.skip_until(b'\n').map_err(unreadable)?;
        }
        loop {
            let from = self.commits.place(key);
            let piece = Piece::read(lines.as_mut(), from, end).map_err(unreadable)?;
            // In another place than was thought, all is looked up anew.
            if !self.push_piece(link, key, &piece)? || piece.to == end {
                return Ok(());
            }
        }
    }

    /// Pushes a piece; false if the shard was in another place, where it goes on then.
    fn push_piece(
        &mut self,
        link: &mut Link,
        key: ShardKey,
        piece: &Piece,
    ) -> Result<bool, Paused> {
        let SinkParts { state, list_max, .. } = &self.parts;
        let place = self.wait(link.push(state.identity(), key, piece, *list_max))?;
        self.commits.go_to(key, place);
        Ok(place == piece.to)
    }
}
