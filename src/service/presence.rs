//! What runs on this machine: every long-running process of a state directory leaves its card.
//!
//! ```text
//! <state>/running/<command>-<pid>.lock    held by its process (flock), for as long as it lives
//! <state>/running/<command>-<pid>.json    the card: one JSON object, replaced by a rename
//! ```
//!
//! The lock tells the living from what a killed process has left, without any heartbeat: the next
//! one that starts removes that. A card is written when something on it changes, and not synced: a
//! machine that has crashed has no process any more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::held;
use super::lock::FileLock;
use crate::clock::Clock;

/// The folder of the cards, below the state directory.
const FOLDER: &str = "running";

/// What a process says of itself. One of another version may leave out what it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The command that it was started with, such as `up`.
    pub command: String,
    /// Its version.
    pub version: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// What it consists of.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// The pools of the shards that it owns.
    #[serde(default)]
    pub pools: Vec<PoolCard>,
}

/// A part of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    /// What it is, by the name of the command that is nothing else, such as `server`.
    pub service: String,
    /// Where it listens.
    pub url: Option<String>,
    /// The output directory of a consumer.
    pub output: Option<String>,
    /// How many tasks it runs at a time.
    pub slots: Option<u64>,
    /// Kinds of the tasks that it runs.
    pub kinds: Vec<String>,
    /// The endpoint whose tasks it runs, if only those.
    pub endpoint: Option<String>,
}

/// The workers of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCard {
    /// The topic's name.
    pub topic: String,
    /// The shard's number.
    pub shard: u16,
    /// Workers at least.
    pub least: u16,
    /// Workers at most.
    pub most: u16,
    /// The workers.
    pub workers: Vec<WorkerCard>,
}

/// A worker of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCard {
    /// Its place in the pool, from 1.
    pub place: u16,
    /// How it stands to the pool.
    pub standing: Standing,
    /// The messages that it has in hand: the first offset, and one past the last; `None`: idle.
    pub range: Option<(u64, u64)>,
    /// Since when it has them, or has had nothing, in milliseconds since 1970.
    pub since_ms: u64,
}

/// How a worker stands to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes messages.
    Serving,
    /// It is no longer needed, and ends when it has nothing in hand.
    Leaving,
    /// It took too long, its messages went to another one, and it has not woken up since.
    Hanging,
}

/// The card of this process; by default nobody sees it.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    announced: Option<Arc<Announced>>,
}

#[derive(Debug)]
struct Announced {
    place: Place,
    /// What is announced, and what keeps it so; none when that has ended.
    card: Mutex<Option<(Card, FileLock)>>,
}

/// Where a card lies.
#[derive(Debug)]
struct Place {
    folder: PathBuf,
    name: String,
}

impl Place {
    fn with(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }

    fn replace(&self, card: &Card) -> io::Result<()> {
        let (new, path) = (self.with("new"), self.with("json"));
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(&serde_json::to_vec(card)?)?;
        fs::rename(new, path)
    }

    /// Removes it; the lock is in the hands of the caller.
    fn remove(&self) {
        for ending in ["new", "json", "lock"] {
            // What is not there is removed; what cannot be is of a process that is gone.
            let _left = fs::remove_file(self.with(ending));
        }
    }
}

impl Presence {
    /// Announces this process, and removes what dead ones have left.
    ///
    /// # Errors
    /// The card can't be written, or its lock not be taken.
    pub fn announce(
        state_dir: &Path,
        command: &str,
        version: &str,
        clock: &dyn Clock,
    ) -> io::Result<Self> {
        let folder = state_dir.join(FOLDER);
        remove_dead(&folder).map_err(|error| at(&folder, &error))?;
        let pid = std::process::id();
        let place = Place { folder, name: format!("{command}-{pid}") };
        let lock = FileLock::take(&place.with("lock"))?;
        let card = Card {
            command: command.to_owned(),
            version: version.to_owned(),
            pid,
            started_at_ms: clock.wall_ms(),
            parts: Vec::new(),
            pools: Vec::new(),
        };
        place.replace(&card)?;
        let card = Mutex::new(Some((card, lock)));
        Ok(Self { announced: Some(Arc::new(Announced { place, card })) })
    }

    /// Adds a part of this process.
    pub fn add(&self, part: Part) {
        self.change(|card| card.parts.push(part));
    }

    /// Says what the pools are like now; to be called about once a second.
    pub fn show_pools(&self, pools: Vec<PoolCard>) {
        self.change(|card| card.pools = pools);
    }

    fn change(&self, change: impl FnOnce(&mut Card)) {
        let Some(announced) = &self.announced else { return };
        let mut held = held(&announced.card);
        let Some((card, _)) = held.as_mut() else { return };
        let before = card.clone();
        change(card);
        if *card == before {
            return;
        }
        if let Err(error) = announced.place.replace(card) {
            // The next change tries again.
            *card = before;
            tracing::debug!(%error, "the card of this process is not written");
        }
    }

    /// Takes the card away: the process ends.
    pub fn end(&self) {
        let Some(announced) = &self.announced else { return };
        if let Some((_, lock)) = held(&announced.card).take() {
            announced.place.remove();
            drop(lock);
        }
    }
}

/// Removes the cards of processes that are no more.
fn remove_dead(folder: &Path) -> io::Result<()> {
    for name in names(folder, ".lock")? {
        let place = Place { folder: folder.to_owned(), name };
        // That of another user, such as root, is not ours to remove.
        if let Ok(Some(lock)) = FileLock::try_take(&place.with("lock")) {
            place.remove();
            drop(lock);
        }
    }
    Ok(())
}

/// The files of a folder that have this ending, without it.
fn names(folder: &Path, ending: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(ending));
        names.extend(name.map(str::to_owned));
    }
    Ok(names)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The cards of all processes of the state directory that live now, the oldest one first; not those
/// that this user may not read.
///
/// # Errors
/// The folder can't be read.
pub fn living(state_dir: &Path) -> io::Result<Vec<Card>> {
    let folder = state_dir.join(FOLDER);
    let mut cards: Vec<Card> = Vec::new();
    for name in names(&folder, ".json").map_err(|error| at(&folder, &error))? {
        let place = Place { folder: folder.clone(), name };
        if !FileLock::is_held(&place.with("lock")).unwrap_or(false) {
            continue;
        }
        let Ok(text) = fs::read(place.with("json")) else { continue };
        // Of a version to come, which says it in other words.
        let Ok(card) = serde_json::from_slice(&text) else { continue };
        cards.push(card);
    }
    cards.sort_by_key(|card| (card.started_at_ms, card.pid));
    Ok(cards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn announce(dir: &Path, command: &str) -> Presence {
        Presence::announce(dir, command, "1.2.3", &SystemClock).unwrap()
    }

    fn commands(dir: &Path) -> Vec<String> {
        living(dir).unwrap().into_iter().map(|card| card.command).collect()
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir.join(FOLDER)).unwrap().count()
    }

    #[test]
    fn who_lives_is_seen_with_its_parts_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(living(dir.path()).unwrap(), []);
        let up = announce(dir.path(), "up");
        let url = Some("http://127.0.0.1:8080".to_owned());
        up.add(Part { service: "server".to_owned(), url, ..Part::default() });
        let output = Some("/srv/messages".to_owned());
        up.add(Part { service: "message-consumer".to_owned(), output, ..Part::default() });
        let cards = living(dir.path()).unwrap();
        let [card] = cards.as_slice() else { panic!("{cards:?}") };
        assert_eq!((card.command.as_str(), card.pid), ("up", std::process::id()));
        let services: Vec<&str> = card.parts.iter().map(|part| part.service.as_str()).collect();
        assert_eq!(services, ["server", "message-consumer"]);
        let server = announce(dir.path(), "server");
        assert_eq!(commands(dir.path()).len(), 2);
        up.end();
        up.add(Part::default());
        assert_eq!(commands(dir.path()), ["server"]);
        server.end();
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn what_a_killed_one_left_is_not_seen_and_the_next_one_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(announce(dir.path(), "server"));
        assert_eq!(commands(dir.path()), [""; 0]);
        assert_eq!(files(dir.path()), 2);
        let _scheduler = announce(dir.path(), "scheduler");
        assert_eq!(commands(dir.path()), ["scheduler"]);
        assert_eq!(files(dir.path()), 2);
    }

    #[test]
    fn what_cannot_be_read_hides_nobody_and_keeps_nobody_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let _server = announce(dir.path(), "server");
        // A folder can neither be opened for writing nor be read, whoever runs this.
        for name in ["up-1.lock", "up-1.json"] {
            fs::create_dir(dir.path().join(FOLDER).join(name)).unwrap();
        }
        let _scheduler = announce(dir.path(), "scheduler");
        let mut seen = commands(dir.path());
        seen.sort();
        assert_eq!(seen, ["scheduler", "server"]);
    }

    #[test]
    fn a_card_is_written_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let consumer = announce(dir.path(), "message-consumer");
        let path =
            dir.path().join(FOLDER).join(format!("message-consumer-{}.json", std::process::id()));
        let written = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        let worker = WorkerCard { place: 1, standing: Standing::Serving, range: None, since_ms: 7 };
        let topic = "messages".to_owned();
        let pool = PoolCard { topic, shard: 0, least: 3, most: 4, workers: vec![worker] };
        consumer.show_pools(vec![pool.clone()]);
        let first = written();
        consumer.show_pools(vec![pool.clone()]);
        assert_eq!(written(), first);
        consumer.show_pools(vec![PoolCard { workers: vec![worker; 2], ..pool }]);
        assert_eq!(living(dir.path()).unwrap()[0].pools[0].workers.len(), 2);
    }

    #[test]
    fn a_card_of_another_version_is_read_as_far_as_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let server = announce(dir.path(), "server");
        let path = dir.path().join(FOLDER).join(format!("server-{}.json", std::process::id()));
        let text = r#"{"command":"server","version":"9","pid":1,"started_at_ms":2,"more":[3],
            "parts":[{"service":"server","cores":4}]}"#;
        fs::write(path, text).unwrap();
        let cards = living(dir.path()).unwrap();
        assert_eq!(
            (cards[0].version.as_str(), cards[0].parts[0].service.as_str()),
            ("9", "server")
        );
        server.end();
    }
}
