//! The thread that follows the journal and pushes into Redis, for ever.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::RedisError;
use tokio::runtime::Handle;

use super::link::Link;
use super::piece::Piece;
use super::{Address, trouble};
use crate::batch::disk::Disk;
use crate::batch::journal::BatchRow;
use crate::batch::lines::{self, Opened};
use crate::message::ShardKey;
use crate::rooms::telemetry::ships::commits::{Commits, Next, Place};
use crate::service::lock::FileLock;
use crate::service::{Lifecycle, jittered};
use crate::state::{State, StateError};

/// How often it is looked for what was committed since.
const POLL: Duration = Duration::from_millis(100);
/// How often it is looked whether Redis still is where it was: it may be emptied, or another one.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
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
    let commits = Commits::from_start(parts.state.clone());
    let sink = Sink { runtime, commits, parts, has_pushed: false };
    std::thread::Builder::new().name("redis".to_owned()).spawn(move || sink.run())
}

struct Sink {
    runtime: Handle,
    parts: SinkParts,
    commits: Commits,
    /// Whether this process knows that something of its state directory was in Redis.
    has_pushed: bool,
}

impl Sink {
    fn run(mut self) {
        let Some(_lock) = self.stand_by() else { return };
        let life = self.parts.life.clone();
        if let Err(error) = self.follow_until_stopped(&life) {
            life.fail(error.to_string());
        }
        // Whoever takes over finds out for itself.
        if let Err(error) = trouble::note(&self.parts.state, None) {
            tracing::debug!(%error, "what is wrong with Redis stays noted");
        }
    }

    fn follow_until_stopped(&mut self, life: &Lifecycle) -> Result<(), StateError> {
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let Err(paused) = self.follow();
            match paused {
                Paused::Stopping => return Ok(()),
                Paused::Trouble(text) => self.note(Some(&text)),
                Paused::State(error) => return Err(error),
            }
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE;
            }
            if life.wait_stopping(jittered(pause)) {
                return Ok(());
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
        self.look_up(&mut link)?;
        let (mut looked_at, mut is_well) = (Instant::now(), false);
        loop {
            let next = self.commits.next()?;
            let is_idle = next.is_none();
            if let Some((key, next)) = next {
                self.push(&mut link, key, next)?;
            }
            if !is_well {
                // Only now: a Redis without memory lets everybody in.
                tracing::info!(address = %self.parts.address, "pushing telemetry into lists");
                self.note(None);
                is_well = true;
            }
            if is_idle && self.parts.life.wait_stopping(POLL) {
                return Err(Paused::Stopping);
            }
            if looked_at.elapsed() > LOOK_UP_EVERY {
                self.look_up(&mut link)?;
                looked_at = Instant::now();
            }
        }
    }

    /// Goes to where Redis is in each shard: it may have lost what it had, or all of it.
    fn look_up(&mut self, link: &mut Link) -> Result<(), Paused> {
        let theirs = self.wait(link.places(self.parts.state.identity()))?;
        if theirs.is_empty() && self.has_pushed && self.wait(link.lists_are_uncounted())? {
            return Err(Paused::Trouble(format!(
                "{}: database 0 was emptied and database 1 was not, so nobody knows which readings \
                 are in its lists: empty both, and all that the journal knows is pushed again",
                self.parts.address
            )));
        }
        self.has_pushed |= !theirs.is_empty();
        let shards = self.commits.shards()?.into_iter().chain(theirs.keys().copied());
        for key in shards.collect::<BTreeSet<_>>() {
            let place = theirs.get(&key).copied().unwrap_or_default();
            if self.commits.knows(key, place)? {
                self.commits.go_to(key, place);
            } else {
                self.begin_anew(link, key, place)?;
            }
        }
        Ok(())
    }

    /// Lets a shard go on behind what is committed: Redis is in a place where this state directory
    /// never was, since that is an older copy of itself.
    fn begin_anew(&mut self, link: &mut Link, key: ShardKey, place: Place) -> Result<(), Paused> {
        let end = self.commits.end(key)?;
        let SinkParts { state, list_max, .. } = &self.parts;
        let nothing = Piece::gap(place, end);
        if self.wait(link.push(state.identity(), key, &nothing, *list_max))? == end {
            self.commits.go_to(key, end);
            tracing::warn!(
                %key, lines_pushed = place.lines, lines_here = end.lines,
                "Redis has readings that this state directory does not know, as after a restore: \
                 it goes on with what is stored from now on"
            );
        }
        Ok(())
    }

    /// Pushes what comes next in a shard, piece by piece.
    fn push(&mut self, link: &mut Link, key: ShardKey, next: Next) -> Result<(), Paused> {
        let from = self.commits.place(key);
        let (row, skip, end) = match next {
            Next::Batch { row, skip, end } => (row, skip, end),
            Next::Gone { lines, end, .. } => {
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
        let missing = match opened.map_err(|error| unreadable(&row, &error))? {
            Opened::Lines(lines) => return self.push_lines(link, key, lines, &row, skip, end),
            Opened::TakenAway => "it was taken away".to_owned(),
            Opened::Damaged(found) => format!("it is damaged: {found}"),
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
        row: &BatchRow,
        skip: u64,
        end: Place,
    ) -> Result<(), Paused> {
        for _ in 0..skip {
            lines.skip_until(b'\n').map_err(|error| unreadable(row, &error))?;
        }
        loop {
            let from = self.commits.place(key);
            let piece = Piece::read(lines.as_mut(), from, end);
            let piece = piece.map_err(|error| unreadable(row, &error))?;
            // In another place than was thought, all is looked up anew.
            if !self.push_piece(link, key, &piece)? || piece.to == end {
                return Ok(());
            }
        }
    }

    /// Pushes a piece; false if the shard was in another place, which is looked up then.
    fn push_piece(
        &mut self,
        link: &mut Link,
        key: ShardKey,
        piece: &Piece,
    ) -> Result<bool, Paused> {
        let SinkParts { state, list_max, .. } = &self.parts;
        let place = self.wait(link.push(state.identity(), key, piece, *list_max))?;
        let is_pushed = place == piece.to;
        if is_pushed {
            self.has_pushed = true;
            self.commits.go_to(key, place);
        } else {
            self.look_up(link)?;
        }
        Ok(is_pushed)
    }
}

/// A file that is whole, for all that is known: it is tried again.
fn unreadable(row: &BatchRow, error: &io::Error) -> Paused {
    let file = row.file.display();
    Paused::Trouble(format!("readings wait for Redis, since {file} cannot be read: {error}"))
}
