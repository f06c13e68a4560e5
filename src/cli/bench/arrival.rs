//! When files come into place: the kernel tells (inotify), so that watching costs next to nothing
//! and sees a rename as soon as its thread is woken.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use crate::batch::name;
use crate::service::Lifecycle;

/// How often the thread looks whether it should end, in nanoseconds.
const END_POLL_NS: i64 = 100_000_000;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the file of each number came into place.
    pub(super) at: HashMap<u64, Instant>,
    /// The longest that seeing a file was held up by those before it; to this comes the time in
    /// which the kernel wakes a thread.
    pub(super) resolution: Duration,
}

/// Watches an output directory until it is finished.
#[derive(Debug)]
pub(super) struct Arrivals {
    end: Lifecycle,
    thread: JoinHandle<io::Result<Seen>>,
}

struct Watcher {
    inotify: OwnedFd,
    output: PathBuf,
    /// The folders watched, relative to the output directory, by their watch.
    folders: HashMap<i32, PathBuf>,
    seen: Seen,
}

impl Arrivals {
    /// Watches `output`.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn start(output: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let output = output.to_owned();
        let (folders, seen) = (HashMap::new(), Seen::default());
        let mut watcher = Watcher { inotify, output, folders, seen };
        watcher.add(Path::new(""))?;
        let end = Lifecycle::new();
        let ending = end.clone();
        let watch = move || watcher.watch(&ending);
        let thread = std::thread::Builder::new().name("arrivals".to_owned()).spawn(watch)?;
        Ok(Self { end, thread })
    }

    /// Ends; what was seen.
    ///
    /// # Errors
    /// What the system said, when it said it.
    pub(super) fn finish(self) -> io::Result<Seen> {
        self.end.stop();
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the watcher panicked")))
    }
}

impl Watcher {
    fn watch(mut self, end: &Lifecycle) -> io::Result<Seen> {
        loop {
            let is_last = end.is_stopping();
            let timeout = Timespec { tv_sec: 0, tv_nsec: END_POLL_NS };
            match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => _ = polled?,
            }
            self.take_events()?;
            if is_last {
                return Ok(self.seen);
            }
        }
    }

    fn take_events(&mut self) -> io::Result<()> {
        let woken = Instant::now();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = Vec::new();
        {
            let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_bytes().to_vec());
                        events.extend(name.map(|name| (event.wd(), name, Instant::now())));
                    }
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if events.is_empty() {
            return Ok(());
        }
        for (watch, name, at) in events {
            let Some(folder) = self.folders.get(&watch).cloned() else { continue };
            self.take(&folder, OsStr::from_bytes(&name), at)?;
        }
        self.seen.resolution = self.seen.resolution.max(woken.elapsed());
        Ok(())
    }

    /// A name has appeared in a folder.
    fn take(&mut self, folder: &Path, file: &OsStr, at: Instant) -> io::Result<()> {
        let Some(file) = file.to_str() else { return Ok(()) };
        if let Some(number) = name::parse_final(file) {
            self.seen.at.entry(number).or_insert(at);
        } else if name::is_folder(folder, file) {
            self.add(&folder.join(file))?;
        }
        Ok(())
    }

    /// Watches a folder, and takes what is in it already.
    fn add(&mut self, folder: &Path) -> io::Result<()> {
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let path = self.output.join(folder);
        let watch = match add_watch(&self.inotify, &path, flags) {
            // A reader may take folders away.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            added => added?,
        };
        self.folders.insert(watch, folder.to_owned());
        for entry in std::fs::read_dir(path).into_iter().flatten() {
            self.take(folder, &entry?.file_name(), Instant::now())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_seen_in_folders_old_and_new() {
        let dir = tempfile::tempdir().unwrap();
        let file = |hour: &str, number: u64| {
            let folder = dir.path().join("2026-11-22").join(hour);
            std::fs::create_dir_all(&folder).unwrap();
            let aside = dir.path().join("aside");
            std::fs::write(&aside, "x").unwrap();
            let name = format!("{number:012}-shard-0-worker-1.jsonl");
            std::fs::rename(&aside, folder.join(name)).unwrap();
        };
        file("06", 1);
        let arrivals = Arrivals::start(dir.path()).unwrap();
        file("06", 2);
        file("07", 3);
        std::fs::write(dir.path().join("2026-11-22/07/notes"), "x").unwrap();
        let seen = arrivals.finish().unwrap();
        let mut numbers: Vec<_> = seen.at.into_keys().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3]);
    }
}
