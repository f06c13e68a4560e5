//! The lines of stdin, for tools that store what a pipe brings.

use std::io::{self, BufRead, BufReader, Read, StdinLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::service::Lifecycle;

/// What is read from stdin at once; more than the standard library's own buffer, which is then
/// passed by, so that this one's being empty means that nothing was read ahead.
const READ_BYTES: usize = 64 << 10;
/// How often Ctrl-C is looked for while the sender pauses, in nanoseconds.
const STOP_POLL_NS: i64 = 100_000_000;

/// The lines of stdin.
pub(super) struct Input {
    reader: BufReader<StdinLock<'static>>,
    stop: Lifecycle,
    line_bytes_max: u64,
}

impl Input {
    /// Lines of which so many bytes are read at once, so that one without an end does not fill the
    /// memory; until `stop` stops.
    pub(super) fn new(stop: Lifecycle, line_bytes_max: u64) -> Self {
        let reader = BufReader::with_capacity(READ_BYTES, io::stdin().lock());
        Self { reader, stop, line_bytes_max }
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.is_stopping()
    }

    /// Whether something can be read without waiting, the end included.
    pub(super) fn is_ready(&self) -> io::Result<bool> {
        Ok(!self.reader.buffer().is_empty() || self.poll(0)?)
    }

    /// Waits until something can be read or the process is asked to stop.
    pub(super) fn wait(&self) -> io::Result<()> {
        while !self.stopped() && !self.poll(STOP_POLL_NS)? {}
        Ok(())
    }

    fn poll(&self, nanoseconds: i64) -> io::Result<bool> {
        let mut stdin = [PollFd::new(self.reader.get_ref(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        match poll(&mut stdin, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => Ok(false),
            polled => Ok(polled? > 0),
        }
    }

    /// Reads a line with its end, or the start of one that is too long; nothing at the end.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<()> {
        line.clear();
        self.reader.by_ref().take(self.line_bytes_max).read_until(b'\n', line).map(drop)
    }

    /// Passes over the rest of a line that was too long to be read at once.
    pub(super) fn skip_line(&mut self) -> io::Result<()> {
        self.reader.skip_until(b'\n').map(drop)
    }
}
