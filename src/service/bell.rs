//! Bells that ring in every process of the machine: a datagram on a Unix socket.
//!
//! Whoever listens binds `<folder>/<pid>-<random>.sock`; whoever rings sends a datagram to every
//! socket there. A ring may be lost: who waits for one looks by itself now and then as well.

use std::fmt;
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

use super::held;

/// The longest path of a socket, without the byte that ends it (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long the list of sockets is good for.
const SOCKETS_FRESH: Duration = Duration::from_millis(250);
/// How long the listener pauses when it cannot receive: the slow poll does its work meanwhile.
const ERROR_PAUSE: Duration = Duration::from_millis(250);

/// The folder of the sockets, held open: a socket's path is limited to 107 bytes, and one through
/// `/proc/self/fd` is short however deep the folder lies.
#[derive(Debug)]
struct SocketDir {
    path: PathBuf,
    handle: File,
}

impl SocketDir {
    fn open(path: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
        let handle = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(Self { path: path.to_owned(), handle })
    }

    fn short_path(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return path;
        }
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }
}

/// Rings the bells of a folder.
#[derive(Debug)]
pub struct Ringer {
    dir: SocketDir,
    socket: UnixDatagram,
    known: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Ringer {
    /// A ringer for all who listen in `folder`, which is made if absent.
    ///
    /// # Errors
    /// The folder or a socket can't be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { dir: SocketDir::open(folder)?, socket, known: Mutex::new(None) })
    }

    /// Sends `datagram` to every listener. Never waits.
    pub fn ring(&self, datagram: &[u8]) {
        let mut known = held(&self.known);
        let fresh = known.as_ref().is_some_and(|(at, _)| at.elapsed() < SOCKETS_FRESH);
        if !fresh {
            *known = Some((Instant::now(), self.sockets()));
        }
        let Some((_, names)) = known.as_mut() else { return };
        names.retain(|name| {
            let path = self.dir.short_path(name);
            match self.socket.send_to(datagram, &path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // Its process died: nobody will ever listen there again.
                    let _gone = std::fs::remove_file(self.dir.path.join(name));
                    false
                }
                // A full queue means that the listener is awake.
                _ => true,
            }
        });
    }

    fn sockets(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir.path) else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}

/// Listens in a folder, until dropped.
pub struct Listener {
    path: PathBuf,
    socket: UnixDatagram,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Calls `heard` with each datagram, in a thread of its own; one that is longer than
    /// `datagram_bytes` is cut there.
    ///
    /// # Errors
    /// The folder, the socket or the thread can't be made.
    pub fn start(
        folder: &Path,
        datagram_bytes: usize,
        mut heard: impl FnMut(&[u8]) + Send + 'static,
    ) -> io::Result<Self> {
        let dir = SocketDir::open(folder)?;
        let name = format!("{}-{:032x}.sock", std::process::id(), random_number()?);
        let socket = UnixDatagram::bind(dir.short_path(&name))?;
        let receiving = socket.try_clone()?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("wake".to_owned()).spawn(move || {
            let mut datagram = vec![0; datagram_bytes];
            while !end.load(Ordering::Acquire) {
                // Shut down, the socket answers with nothing; an empty datagram does, too.
                match receiving.recv(&mut datagram) {
                    Ok(bytes) => heard(datagram.get(..bytes).unwrap_or_default()),
                    Err(_) => std::thread::sleep(ERROR_PAUSE),
                }
            }
        })?;
        Ok(Self { path: dir.path.join(name), socket, ended, thread: Some(thread) })
    }
}

fn random_number() -> io::Result<u128> {
    let mut bits = [0; 16];
    // From the kernel itself, so that it works without `/dev`.
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
    Ok(u128::from_be_bytes(bits))
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for Listener {
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
    use crossbeam_channel::unbounded;

    #[test]
    fn a_deep_folder_and_a_dead_listener_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        let (sender, rings) = unbounded();
        let listener =
            Listener::start(&deep, 8, move |ring| sender.send(ring.to_vec()).unwrap()).unwrap();
        let dead = UnixDatagram::bind(SocketDir::open(&deep).unwrap().short_path("dead.sock"));
        drop(dead.unwrap());
        Ringer::new(&deep).unwrap().ring(b"ring");
        assert_eq!(rings.recv_timeout(Duration::from_secs(10)).unwrap(), b"ring");
        assert!(!deep.join("dead.sock").exists());
        drop(listener);
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
    }
}
