//! Waking consumers of any process of the machine: a datagram on a Unix socket.
//!
//! Each consumer process binds `<state>/wake/<pid>-<random>.sock`; whoever commits messages sends
//! every socket there the stored keys of the shards that got some. A datagram may get lost: each
//! shard is looked at every [`SLOW_POLL`](super::take::SLOW_POLL) as well.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::message::ShardKey;
use crate::service::held;
use crate::state::random_identity;

/// The longest path of a socket, without the byte that ends it (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long the list of sockets is good for.
const SOCKETS_FRESH: Duration = Duration::from_millis(250);
/// How long the listener pauses when it cannot receive: the slow poll does its work meanwhile.
const ERROR_PAUSE: Duration = Duration::from_millis(250);
/// Bytes of a datagram that names every shard there may be.
const DATAGRAM_BYTES: usize = ShardKey::BYTES * 256;

/// The folder of the sockets, held open: a socket's path is limited to 107 bytes, and one through
/// `/proc/self/fd` is short however deep the state directory lies.
#[derive(Debug)]
struct SocketDir {
    path: PathBuf,
    handle: File,
}

impl SocketDir {
    fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("wake");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
        let handle = File::options().read(true).custom_flags(flags).open(&path)?;
        Ok(Self { path, handle })
    }

    fn short_path(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return path;
        }
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }
}

/// Sends wake-ups.
#[derive(Debug)]
pub struct Waker {
    dir: SocketDir,
    socket: UnixDatagram,
    known: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Waker {
    /// A waker of the consumers that use `state_dir`.
    ///
    /// # Errors
    /// The folder or a socket can't be made.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { dir: SocketDir::open(state_dir)?, socket, known: Mutex::new(None) })
    }

    /// Tells every consumer that `shards` have messages.
    pub fn wake(&self, shards: &[ShardKey]) {
        let mut datagram = Vec::with_capacity(shards.len() * ShardKey::BYTES);
        shards.iter().for_each(|shard| datagram.extend_from_slice(&shard.key()));
        let mut known = held(&self.known);
        let fresh = known.as_ref().is_some_and(|(at, _)| at.elapsed() < SOCKETS_FRESH);
        if !fresh {
            *known = Some((Instant::now(), self.sockets()));
        }
        let Some((_, names)) = known.as_mut() else { return };
        names.retain(|name| {
            let path = self.dir.short_path(name);
            match self.socket.send_to(&datagram, &path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // Its process died: nobody will ever listen there again.
                    let _gone = std::fs::remove_file(self.dir.path.join(name));
                    false
                }
                // A full queue means that the consumer is awake.
                _ => true,
            }
        });
    }

    fn sockets(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir.path) else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}

/// Receives wake-ups and passes them to the shards that this process consumes.
#[derive(Debug)]
pub struct WakeListener {
    shards: Arc<Mutex<HashMap<ShardKey, Sender<()>>>>,
    path: PathBuf,
    socket: UnixDatagram,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WakeListener {
    /// Listens until dropped.
    ///
    /// # Errors
    /// The socket or the thread can't be made.
    pub fn start(state_dir: &Path) -> io::Result<Self> {
        let dir = SocketDir::open(state_dir)?;
        let name = format!("{}-{}.sock", std::process::id(), random_identity()?);
        let socket = UnixDatagram::bind(dir.short_path(&name))?;
        let receiving = socket.try_clone()?;
        let shards = Arc::new(Mutex::new(HashMap::<ShardKey, Sender<()>>::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&shards), Arc::clone(&ended));
        let thread = std::thread::Builder::new().name("wake".to_owned()).spawn(move || {
            let mut datagram = [0; DATAGRAM_BYTES];
            while !end.load(Ordering::Acquire) {
                // Shut down, the socket answers with nothing; an empty datagram does, too.
                let Ok(bytes) = receiving.recv(&mut datagram) else {
                    std::thread::sleep(ERROR_PAUSE);
                    continue;
                };
                let keys = datagram.get(..bytes).unwrap_or_default().chunks(ShardKey::BYTES);
                let shards = held(&shared);
                for sender in keys.filter_map(ShardKey::parse).filter_map(|key| shards.get(&key)) {
                    // One wake-up that waits is as good as many.
                    let _already = sender.try_send(());
                }
            }
        })?;
        Ok(Self { shards, path: dir.path.join(name), socket, ended, thread: Some(thread) })
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

impl Drop for WakeListener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ended = self.socket.shutdown(std::net::Shutdown::Read);
        let _gone = std::fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn a_deep_state_directory_and_a_dead_consumer_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        let listener = WakeListener::start(&deep).unwrap();
        let woken = listener.register(key(1));
        let dead = UnixDatagram::bind(SocketDir::open(&deep).unwrap().short_path("dead.sock"));
        drop(dead.unwrap());
        Waker::new(&deep).unwrap().wake(&[key(1)]);
        woken.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(!deep.join("wake/dead.sock").exists());
        drop(listener);
        assert_eq!(std::fs::read_dir(deep.join("wake")).unwrap().count(), 0);
    }
}
