//! A stdout that may be slow, stopped or closed: written in pieces that fit into a pipe, each when
//! there is room, so that Ctrl-C is heard meanwhile.

use std::fmt::Display;
use std::io::{self, Stdout, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::service::Lifecycle;

/// Bytes for which a pipe that says to have room has room (`PIPE_BUF`, pipe(7)).
const PIPE_BYTES: usize = 4096;
/// How often Ctrl-C is looked for while stdout has no room, in nanoseconds.
const STOP_POLL_NS: i64 = 100_000_000;

/// The process's stdout.
pub(super) struct Pipe {
    stdout: Stdout,
    stop: Lifecycle,
    /// Whether a write has found nobody to read.
    closed: bool,
}

impl Pipe {
    /// Stdout, until `stop` says so.
    pub(super) fn new(stop: Lifecycle) -> Self {
        Self { stdout: io::stdout(), stop, closed: false }
    }

    /// Whether it was neither stopped nor closed.
    pub(super) fn goes_on(&self) -> io::Result<bool> {
        Ok(!self.stop.is_stopping() && !self.is_closed()?)
    }

    /// Whether nobody will ever read what is printed.
    pub(super) fn is_closed(&self) -> io::Result<bool> {
        Ok(self.closed || self.poll(0)?.intersects(PollFlags::ERR | PollFlags::HUP))
    }

    fn poll(&self, nanoseconds: i64) -> io::Result<PollFlags> {
        let mut stdout = [PollFd::new(&self.stdout, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        match poll(&mut stdout, Some(&timeout)) {
            Err(Errno::INTR) => Ok(PollFlags::empty()),
            polled => {
                polled.map(|_| stdout.iter().map(PollFd::revents).collect()).map_err(Into::into)
            }
        }
    }

    /// Writes some of `bytes`, if there is room soon; how much.
    pub(super) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.poll(STOP_POLL_NS)?.contains(PollFlags::OUT) {
            return Ok(0);
        }
        let chunk = bytes.get(..PIPE_BYTES).unwrap_or(bytes);
        match rustix::io::write(&self.stdout, chunk) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(Errno::PIPE) => {
                self.closed = true;
                Ok(0)
            }
            written => Ok(written?),
        }
    }

    /// Writes all of `bytes`, unless it is stopped or closed before.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && self.goes_on()? {
            let written = self.write_some(bytes)?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Says something on stderr; whether anybody listens changes nothing.
pub(super) fn say(text: impl Display) {
    let _told = writeln!(io::stderr(), "{text}");
}
