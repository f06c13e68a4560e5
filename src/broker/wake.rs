//! Waking consumers of any process of the machine: a bell in `<state>/wake`.
//!
//! Whoever commits messages rings it with the stored keys of the shards that got some. A ring may
//! get lost: each shard is looked at every [`SLOW_POLL`](super::take::SLOW_POLL) as well.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::message::ShardKey;
use crate::service::bell::{Listener, Ringer};
use crate::service::held;

/// Bytes of a datagram that names every shard there may be.
const DATAGRAM_BYTES: usize = ShardKey::BYTES * 256;

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("wake")
}

/// Sends wake-ups.
#[derive(Debug)]
pub struct Waker(Ringer);

impl Waker {
    /// A waker of the consumers that use `state_dir`.
    ///
    /// # Errors
    /// The folder or a socket can't be made.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        Ringer::new(&folder(state_dir)).map(Self)
    }

    /// Tells every consumer that `shards` have messages.
    pub fn wake(&self, shards: &[ShardKey]) {
        let mut datagram = Vec::with_capacity(shards.len() * ShardKey::BYTES);
        shards.iter().for_each(|shard| datagram.extend_from_slice(&shard.key()));
        self.0.ring(&datagram);
    }
}

/// Receives wake-ups and passes them to the shards that this process consumes.
#[derive(Debug)]
pub struct WakeListener {
    shards: Arc<Mutex<HashMap<ShardKey, Sender<()>>>>,
    _listener: Listener,
}

impl WakeListener {
    /// Listens until dropped.
    ///
    /// # Errors
    /// The socket or the thread can't be made.
    pub fn start(state_dir: &Path) -> io::Result<Self> {
        let shards = Arc::new(Mutex::new(HashMap::<ShardKey, Sender<()>>::new()));
        let shared = Arc::clone(&shards);
        let listener = Listener::start(&folder(state_dir), DATAGRAM_BYTES, move |datagram| {
            let keys = datagram.chunks(ShardKey::BYTES);
            let shards = held(&shared);
            for sender in keys.filter_map(ShardKey::parse).filter_map(|key| shards.get(&key)) {
                // One wake-up that waits is as good as many.
                let _already = sender.try_send(());
            }
        })?;
        Ok(Self { shards, _listener: listener })
    }

    /// The wake-ups of one shard; the latest registration gets them.
    #[must_use]
    pub fn register(&self, key: ShardKey) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        held(&self.shards).insert(key, sender);
        receiver
    }

    /// Wakes everything that waits here.
    pub fn wake_all(&self) {
        for sender in held(&self.shards).values() {
            let _already = sender.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;
    use crate::message::{ShardId, Topic};

    fn key(shard: u16) -> ShardKey {
        ShardKey::new(Topic::Messages, ShardId(shard))
    }

    #[test]
    fn only_the_shards_named_are_woken() {
        let dir = tempfile::tempdir().unwrap();
        let listener = WakeListener::start(dir.path()).unwrap();
        let (one, two) = (listener.register(key(1)), listener.register(key(2)));
        Waker::new(dir.path()).unwrap().wake(&[key(0), key(2)]);
        two.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(one.try_recv().is_err());
        listener.wake_all();
        one.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_dead_consumer_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let listener = WakeListener::start(dir.path()).unwrap();
        let woken = listener.register(key(1));
        drop(UnixDatagram::bind(dir.path().join("wake/dead.sock")).unwrap());
        Waker::new(dir.path()).unwrap().wake(&[key(1)]);
        woken.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(!dir.path().join("wake/dead.sock").exists());
        drop(listener);
        assert_eq!(std::fs::read_dir(dir.path().join("wake")).unwrap().count(), 0);
    }
}
