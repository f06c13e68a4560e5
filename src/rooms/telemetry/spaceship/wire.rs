//! The socket of a stream, which hands a volley to the kernel in one call.
//!
//! The kernel cuts a volley into datagrams (`UDP_SEGMENT`, udp(7)); where it refuses, which a
//! device without checksums or a small MTU may be the reason for, they are handed over one by one,
//! in one call still (sendmmsg(2)).

use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

/// How long the kernel may hold up who sends; then it is asked again.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// Why there is no wire.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process has as many sockets as it may have.
    #[error("there is no socket left")]
    NoSocket(#[source] io::Error),
    /// The kernel finds no way.
    #[error("there is no way to {0}")]
    NoWay(SocketAddr, #[source] io::Error),
}

/// What became of datagrams.
#[derive(Debug)]
pub enum Sent {
    /// The kernel took so many of them.
    Taken(usize),
    /// It has no room now: none was taken.
    Busy,
    /// Nobody listens, or the way is cut, for datagrams that were taken earlier: none was taken.
    Refused,
    /// It will not take any.
    Failed(io::Error),
}

/// A socket that is connected to a target.
#[derive(Debug)]
pub struct Wire {
    socket: UdpSocket,
    /// The length at which the kernel cuts; `None` where it does not.
    segment_bytes: Option<usize>,
}

impl Wire {
    /// A socket of its own port, connected to the target.
    ///
    /// # Errors
    /// There is no socket left, or no way to the target.
    pub fn open(target: SocketAddr) -> Result<Self, OpenError> {
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).map_err(OpenError::NoSocket)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT)).map_err(OpenError::NoSocket)?;
        socket.connect(target).map_err(|error| OpenError::NoWay(target, error))?;
        Ok(Self { socket, segment_bytes: Some(0) })
    }

    /// The same, but the kernel is not asked to cut.
    #[must_use]
    pub fn one_by_one(self) -> Self {
        Self { segment_bytes: None, ..self }
    }

    /// Where the datagrams come from.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn source(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends datagrams of `datagram_bytes` each, one behind the other.
    pub fn send(&mut self, datagrams: &[u8], datagram_bytes: usize) -> Sent {
        if let Some(segment_bytes) = self.segment_bytes {
            match self.send_whole(datagrams, datagram_bytes, segment_bytes) {
                Ok(taken) => return Sent::Taken(taken),
                Err(error) => match sorted(error) {
                    Sent::Failed(error) => {
                        tracing::debug!(%error, "datagrams are sent one by one");
                        self.stop_cutting();
                    }
                    other => return other,
                },
            }
        }
        self.send_each(datagrams, datagram_bytes).map_or_else(sorted, Sent::Taken)
    }

    fn send_whole(
        &mut self,
        datagrams: &[u8],
        datagram_bytes: usize,
        segment_bytes: usize,
    ) -> io::Result<usize> {
        if datagram_bytes != segment_bytes {
            self.cut_at(datagram_bytes)?;
            self.segment_bytes = Some(datagram_bytes);
        }
        let bytes = self.socket.send(datagrams)?;
        Ok(bytes.checked_div(datagram_bytes).unwrap_or(0))
    }

    fn cut_at(&self, bytes: usize) -> io::Result<()> {
        let bytes = i32::try_from(bytes).map_err(|_| ErrorKind::InvalidInput)?;
        Ok(setsockopt(&self.socket, sockopt::UdpGsoSegment, &bytes)?)
    }

    fn stop_cutting(&mut self) {
        self.segment_bytes = None;
        // A kernel that does not know it has nothing to undo.
        let _unknown = self.cut_at(0);
    }

    fn send_each(&self, datagrams: &[u8], datagram_bytes: usize) -> io::Result<usize> {
        let slices: Vec<_> =
            datagrams.chunks(datagram_bytes.max(1)).map(|one| [IoSlice::new(one)]).collect();
        let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let messages = slices.iter().zip(&mut controls);
        let mut messages: Vec<_> =
            messages.map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
        Ok(sendmmsg(&self.socket, &mut messages, SendFlags::empty())?)
    }
}

fn sorted(error: io::Error) -> Sent {
    let no_buffers = rustix::io::Errno::NOBUFS.raw_os_error();
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => Sent::Refused,
        ErrorKind::WouldBlock
        | ErrorKind::TimedOut
        | ErrorKind::Interrupted
        | ErrorKind::OutOfMemory => Sent::Busy,
        _ if error.raw_os_error() == Some(no_buffers) => Sent::Busy,
        _ => Sent::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket to be sent to, and one that sends to it.
    fn pair() -> (UdpSocket, Wire) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let wire = Wire::open(receiver.local_addr().unwrap()).unwrap();
        (receiver, wire)
    }

    fn received(receiver: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 1 << 16];
        let (count, from) = receiver.recv_from(&mut bytes).unwrap();
        bytes.truncate(count);
        (bytes, from)
    }

    #[test]
    fn each_datagram_arrives_by_itself_however_it_is_sent() {
        let (receiver, wire) = pair();
        let (other, another) = pair();
        for (receiver, mut wire) in [(receiver, wire), (other, another.one_by_one())] {
            let source = wire.source().unwrap();
            assert!(source.ip().is_loopback() && source.port() > 0);
            for (datagrams, bytes) in [("aabbcc", 2), ("dddeee", 3), ("f", 1)] {
                let sent = wire.send(datagrams.as_bytes(), bytes);
                let count = datagrams.len() / bytes;
                assert!(matches!(sent, Sent::Taken(taken) if taken == count), "{sent:?}");
                for expected in datagrams.as_bytes().chunks(bytes) {
                    assert_eq!(received(&receiver), (expected.to_vec(), source));
                }
            }
        }
    }

    #[test]
    fn what_the_kernel_does_not_cut_is_sent_one_by_one() {
        let (receiver, mut wire) = pair();
        // More than any kernel cuts a volley into.
        let bytes: Vec<u8> = (0..150).collect();
        for _ in 0..2 {
            let sent = wire.send(&bytes, 1);
            assert!(matches!(sent, Sent::Taken(150)), "{sent:?}");
            assert_eq!(wire.segment_bytes, None);
            for expected in &bytes {
                assert_eq!(received(&receiver).0, [*expected]);
            }
        }
    }

    #[test]
    fn a_receiver_that_is_gone_is_told_by_the_next_datagram() {
        let (receiver, mut wire) = pair();
        drop(receiver);
        let mut outcomes = (0..4).map(|_| wire.send(b"aabb", 2));
        assert!(matches!(outcomes.next(), Some(Sent::Taken(2))));
        assert!(outcomes.any(|outcome| matches!(outcome, Sent::Refused)));
    }
}
