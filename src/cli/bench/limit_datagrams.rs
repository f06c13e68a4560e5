//! `bench limit` on datagrams: one stream as fast as it can, and a receiver on loopback that only
//! counts. It can be sent in two ways, which differ by what the kernel does for each datagram.

use std::io::{self, IoSliceMut, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use serde::Serialize;

use super::meter::per_million;
use super::run::{client_cpu, rate};
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::clock::SystemClock;
use crate::rooms::telemetry::ship::NoShipName;
use crate::rooms::telemetry::spaceship::metrics::StreamMetrics;
use crate::rooms::telemetry::spaceship::stream::{Reason, Stream, Wish};
use crate::rooms::telemetry::spaceship::wire::Wire;
use crate::service::Lifecycle;

/// What the receiver asks its buffer to be; the kernel may give less.
const BUFFER_BYTES: usize = 8 << 20;
/// What it takes at once: messages, each with what the kernel has joined of a volley.
const MESSAGES: usize = 64;
const MESSAGE_BYTES: usize = 16 << 10;
/// When nothing has come for so long after the end, nothing will.
const SILENCE: Duration = Duration::from_millis(200);

/// One stream to one receiver.
#[derive(Debug, Serialize)]
pub(super) struct DatagramLimit {
    /// Whether the kernel cut volleys into datagrams, and joined them again.
    segmented: bool,
    sent_per_second: f64,
    received_per_second: f64,
    lost: u64,
    /// Of the stream and the receiver.
    cpu_seconds_per_million: Option<f64>,
}

/// Measures both ways, each for `duration`.
///
/// # Errors
/// There are no sockets or threads left.
pub(super) fn measure(duration: Duration, life: &Lifecycle) -> Result<Vec<DatagramLimit>, Failure> {
    let ways = [true, false].into_iter();
    let measured = ways.map(|segmented| measure_one(segmented, duration, life));
    measured.collect::<anyhow::Result<_>>().context("datagrams on loopback").or_exit(Exit::Io)
}

fn measure_one(
    segmented: bool,
    duration: Duration,
    life: &Lifecycle,
) -> anyhow::Result<DatagramLimit> {
    let socket = receiver(segmented)?;
    let target = socket.local_addr()?;
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let counting = std::thread::Builder::new().spawn(move || count(&socket, &over))?;
    let wire = Wire::open(target)?;
    let wire = if segmented { wire } else { wire.one_by_one() };
    let wish = Wish {
        host: target.ip().to_string(),
        port: target.port(),
        ship_name: "bench".parse().map_err(|error: NoShipName| io::Error::other(error))?,
        rate: None,
        lifetime: Duration::MAX,
        lease: None,
        seed: 0,
    };
    let (began, cpu) = (Instant::now(), client_cpu());
    let stream = Stream::start(wish, wire, Arc::new(SystemClock), &StreamMetrics::default())?;
    let _stopping = life.wait_stopping(duration);
    stream.order(Reason::Stopped);
    stream.join();
    let elapsed = began.elapsed();
    is_over.store(true, Ordering::Release);
    let received = counting.join().unwrap_or(Err(io::ErrorKind::Other.into()))?;
    let (cpu, sent) = (client_cpu().saturating_sub(cpu), stream.tally().sent);
    Ok(DatagramLimit {
        segmented,
        sent_per_second: rate(sent, elapsed),
        received_per_second: rate(received, elapsed),
        lost: sent.saturating_sub(received),
        cpu_seconds_per_million: per_million(cpu.as_secs_f64(), received),
    })
}

fn receiver(segmented: bool) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES)?;
    // Beyond the limit of the system only for who may.
    let _refused = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES);
    setsockopt(&socket, sockopt::UdpGroSegment, &segmented)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Counts datagrams until it is over and nothing comes any more.
fn count(socket: &UdpSocket, is_over: &AtomicBool) -> io::Result<u64> {
    let mut bytes = vec![0; MESSAGES * MESSAGE_BYTES];
    let mut headers: MultiHeaders<()> = MultiHeaders::preallocate(MESSAGES, None);
    let mut datagrams = 0;
    loop {
        let mut slices: Vec<_> =
            bytes.chunks_mut(MESSAGE_BYTES).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None);
        let lengths: Vec<usize> = match received {
            Ok(messages) => messages.map(|message| message.bytes).collect(),
            Err(Errno::EAGAIN) if is_over.load(Ordering::Acquire) => return Ok(datagrams),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for (chunk, length) in bytes.chunks(MESSAGE_BYTES).zip(lengths) {
            let message = chunk.get(..length).unwrap_or_default();
            // Each datagram is one object without another in it.
            datagrams += memchr::memchr_iter(b'}', message).count() as u64;
        }
    }
}

impl DatagramLimit {
    /// A line of the table.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = if self.segmented { "cut and joined by the kernel" } else { "one by one" };
        let cpu = self.cpu_seconds_per_million.map(|cpu| format!("{cpu:.4}")).unwrap_or_default();
        let Self { sent_per_second, received_per_second, .. } = self;
        writeln!(out, "{name:<38} {received_per_second:>14.0} {cpu:>18}")?;
        writeln!(out, "  sent {sent_per_second:.0}/s, lost {}", self.lost)
    }
}
