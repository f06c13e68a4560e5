//! From a capture's socket into its account, and line by line into storage.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::account::{Account, Sums};
use super::outbox::{Outbox, Parcel, Stored};
use super::socket::{Come, MESSAGES, Socket};
use crate::clock::Clock;
use crate::rooms::telemetry::datagram::{self, DATAGRAM_BYTES_MAX};
use crate::rooms::telemetry::ship::ShipName;
use crate::service::Lifecycle;

/// The pause that lets datagrams gather, so that few of them do not each wake a thread.
const GATHERING: Duration = Duration::from_millis(5);
/// When so many bytes have come after such a pause, the next one is left out.
const MUCH_BYTES: usize = 128 << 10;
/// How long lines wait for more.
const LINGER: Duration = Duration::from_millis(500);
/// How long it is waited for storage, before it is looked what else is to be done.
const ROOM_PATIENCE: Duration = Duration::from_millis(20);
/// How often it is looked whether anybody still waits for storage.
const SETTLE_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Takes in what comes for one capture.
#[derive(Debug)]
pub struct Intake {
    socket: Socket,
    sorter: Sorter,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    /// Since when the first line that is not sent off yet waits.
    filling_since: Instant,
    /// When something of the stream came last, or could not be taken in.
    heard_at: Instant,
}

/// Tells what came, and keeps what is to be stored.
#[derive(Debug)]
struct Sorter {
    account: Account,
    /// What stored lines begin with.
    head: String,
    event_key: Uuid,
    /// Names its parcels. Not its key: that comes from elsewhere, and may come twice.
    stream: Uuid,
    /// From where the stream comes; `None`: from the first who sends telemetry.
    source: Option<SocketAddr>,
    /// Lines of the stream so far.
    lines: u64,
    /// Lines that are not sent off yet; all but the last one are full.
    parcels: VecDeque<Parcel>,
    /// Bytes that have come, of whatever.
    bytes: usize,
    /// Whether something of the stream was among them.
    is_heard: bool,
}

impl Intake {
    /// Takes in nothing before a stream [begins](Self::begin).
    #[must_use]
    pub fn new(socket: Socket, outbox: Outbox, ship: &ShipName, clock: Arc<dyn Clock>) -> Self {
        let sorter = Sorter {
            account: Account::new(),
            head: datagram::line_head(ship),
            event_key: Uuid::nil(),
            stream: Uuid::nil(),
            source: None,
            lines: 0,
            parcels: VecDeque::new(),
            bytes: 0,
            is_heard: false,
        };
        let now = clock.monotonic();
        Self { socket, sorter, outbox, clock, filling_since: now, heard_at: now }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.socket.address()
    }

    /// A stream begins: what comes from its source is its.
    pub fn begin(&mut self, event_key: Uuid, source: Option<SocketAddr>) {
        self.sorter.event_key = event_key;
        self.sorter.stream = Uuid::now_v7();
        self.sorter.source = source;
        self.sorter.lines = 0;
        self.heard_at = self.clock.monotonic();
    }

    /// Takes in what has come; waits for it, at most so long, and takes no longer however much
    /// comes. Sends off what has waited enough.
    ///
    /// # Errors
    /// Nothing can be received.
    pub fn step(&mut self, patience: Duration) -> io::Result<()> {
        self.send_off();
        // What does not fit in is the kernel's to keep, or to drop and count.
        if self.sorter.parcels.len() > 1 {
            self.heard_at = self.clock.monotonic();
            return Ok(());
        }
        let was_empty = self.sorter.parcels.is_empty();
        (self.sorter.bytes, self.sorter.is_heard) = (0, false);
        let Self { socket, sorter, clock, .. } = self;
        let (mut wait, until) = (patience, clock.monotonic() + patience);
        // Of a flood that is not stored, no parcel ever fills.
        while socket.receive(wait, |come| sorter.take(come))? == MESSAGES
            && sorter.parcels.len() <= 1
            && clock.monotonic() < until
        {
            wait = Duration::from_millis(1);
        }
        let now = self.clock.monotonic();
        if was_empty {
            self.filling_since = now;
        }
        if self.sorter.is_heard {
            self.heard_at = now;
        }
        if self.sorter.bytes < MUCH_BYTES {
            std::thread::sleep(GATHERING);
        }
        Ok(())
    }

    /// Whether nothing more is to come of a stream that has ended after `sent` datagrams.
    #[must_use]
    pub fn has_all(&self, sent: Option<u64>) -> bool {
        sent.is_some_and(|sent| self.sorter.account.come() >= sent)
    }

    /// When something of the stream came last, or could not be taken in.
    #[must_use]
    pub const fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// The stream has ended, after so many datagrams. Sends off what has come of it, since nobody
    /// knows when the next one begins.
    pub fn end(&mut self, sent: Option<u64>) {
        self.sorter.send_off(&mut self.outbox, |_| true);
        if !self.sorter.account.end_stream(sent) {
            let event_key = self.sorter.event_key;
            tracing::warn!(%event_key, sent, "more has come than the ship says to have sent");
        }
    }

    /// Closes the port, and waits until all of it is stored; at most so long, and not when `life`
    /// stops. What it comes to, and the bytes of the datagrams that are stored.
    pub fn settle(mut self, patience: Duration, life: &Lifecycle) -> (Sums, u64) {
        drop(self.socket);
        let until = self.clock.monotonic() + patience;
        loop {
            self.sorter.send_off(&mut self.outbox, |_| true);
            let Stored { lines, datagram_bytes } = self.outbox.settle(SETTLE_LOOK_EVERY);
            let is_stored = self.sorter.parcels.is_empty() && self.outbox.is_empty();
            if is_stored || life.is_stopping() || self.clock.monotonic() >= until {
                return (self.sorter.account.close(lines), datagram_bytes);
            }
        }
    }

    /// Sends off what is full, or has waited long enough.
    fn send_off(&mut self) {
        let now = self.clock.monotonic();
        let is_old = now.saturating_duration_since(self.filling_since) >= LINGER;
        if self.sorter.send_off(&mut self.outbox, |parcel| is_old || parcel.is_full()) {
            self.filling_since = now;
        }
    }
}

impl Sorter {
    fn take(&mut self, come: Come<'_>) {
        let (from, bytes) = match come {
            Come::Dropped(ever) => return self.account.kernel_dropped(ever),
            Come::Datagram(from, bytes) => (from, bytes),
        };
        self.bytes += bytes.len();
        let is_from = |own: SocketAddr| (own.ip(), own.port()) == (from.ip(), from.port());
        if self.source.is_some_and(|own| !is_from(own)) {
            return self.account.foreign();
        }
        let is_long = bytes.len() > DATAGRAM_BYTES_MAX;
        let reading = if is_long { None } else { datagram::read(bytes) };
        if self.source.is_none() {
            if reading.is_none() {
                return self.account.foreign();
            }
            self.source = Some(from);
        }
        self.is_heard = true;
        match reading {
            None if is_long => self.account.truncated(),
            None => self.account.malformed(),
            Some(reading) => {
                if self.account.telemetry(reading.sequence) {
                    self.keep(bytes);
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.parcels.back().is_none_or(Parcel::is_full) {
            self.parcels.push_back(Parcel::new(self.stream, self.lines));
        }
        let Some(parcel) = self.parcels.back_mut() else { return };
        datagram::append_line(&mut parcel.lines.bytes, &self.head, bytes);
        parcel.lines.count += 1;
        parcel.datagram_bytes += bytes.len() as u64;
        self.lines += 1;
    }

    /// Sends parcels off, in order, while they are due and there is room; whether one was.
    fn send_off(&mut self, outbox: &mut Outbox, is_due: impl Fn(&Parcel) -> bool) -> bool {
        let mut is_sent = false;
        while let Some(parcel) = self.parcels.pop_front_if(|parcel| is_due(parcel)) {
            if let Some(parcel) = outbox.send(parcel, ROOM_PATIENCE) {
                self.parcels.push_front(parcel);
                break;
            }
            is_sent = true;
        }
        is_sent
    }
}
