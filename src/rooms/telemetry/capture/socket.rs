//! A capture's socket: takes in as many datagrams at once as there are, and sends none.
//!
//! One call of the kernel brings up to [`MESSAGES`] messages, and with UDP_GRO (udp(7)) each of
//! them up to 128 datagrams of one sender and length, as they were sent together. A kernel that
//! knows no UDP_GRO gives each datagram a message of its own.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, RxqOvfl, UdpGroSegment};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg, setsockopt,
};

/// Messages that one call takes in at most.
pub const MESSAGES: usize = 16;
/// More than any datagram has, and any that were sent together (RFC 768).
const MESSAGE_BYTES: usize = 1 << 16;

/// Where captures listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSettings {
    /// The address, of this machine.
    pub host: IpAddr,
    /// The ports to choose from; `None`: the kernel chooses.
    pub ports: Option<RangeInclusive<u16>>,
    /// Bytes of the receive buffer to ask the kernel for.
    pub buffer_bytes: usize,
}

/// A socket of its own for a capture; its port is closed when it is dropped.
pub struct Socket {
    socket: UdpSocket,
    address: SocketAddr,
    buffer_bytes: usize,
    timeout: Option<Duration>,
    messages: Box<[u8]>,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Come<'a> {
    /// A datagram, and from whom.
    Datagram(SocketAddr, &'a [u8]),
    /// How many messages the kernel has dropped so far, since the buffer was full.
    Dropped(u32),
}

impl Socket {
    /// Binds a free port.
    ///
    /// # Errors
    /// There is none, or it is not allowed.
    pub fn bind(settings: &SocketSettings) -> io::Result<Self> {
        let socket = bind(settings)?;
        let buffer_bytes = grow(&socket, settings.buffer_bytes)?;
        setsockopt(&socket, RxqOvfl, &1)?;
        // Without it each datagram is a message.
        let _kernel_is_older = setsockopt(&socket, UdpGroSegment, &true);
        let address = socket.local_addr()?;
        // What no message has reached takes up no memory.
        let messages = vec![0; MESSAGES * MESSAGE_BYTES].into_boxed_slice();
        Ok(Self { socket, address, buffer_bytes, timeout: None, messages })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of the receive buffer, as the kernel has given them.
    #[must_use]
    pub const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Takes in what there is; if there is nothing, waits for so long. How many messages there
    /// were: when fewer than [`MESSAGES`], no more were there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn receive(
        &mut self,
        timeout: Duration,
        mut each: impl FnMut(Come<'_>),
    ) -> io::Result<usize> {
        if self.timeout != Some(timeout) {
            self.socket.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        // A header takes no more than it brought last time, so that each call needs new ones.
        let mut headers =
            MultiHeaders::<SockaddrStorage>::preallocate(MESSAGES, Some(cmsg_space!(i32, u32)));
        let chunks = self.messages.chunks_exact_mut(MESSAGE_BYTES);
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            chunks.map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_WAITFORONE;
        let results = match recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None) {
            Ok(results) => results,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut messages = 0;
        for message in results {
            messages += 1;
            let mut segment_bytes = None;
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::UdpGroSegments(bytes) => segment_bytes = Some(bytes),
                    ControlMessageOwned::RxqOvfl(ever) => each(Come::Dropped(ever)),
                    _ => {}
                }
            }
            let Some(from) = message.address.as_ref().and_then(address) else { continue };
            // One without bytes has no slice.
            let whole = message.iovs().next().unwrap_or_default();
            let segment_bytes = segment_bytes.and_then(|bytes| usize::try_from(bytes).ok());
            match segment_bytes.filter(|bytes| *bytes > 0) {
                None => each(Come::Datagram(from, whole)),
                Some(bytes) => {
                    whole.chunks(bytes).for_each(|one| each(Come::Datagram(from, one)));
                }
            }
        }
        Ok(messages)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

fn bind(SocketSettings { host, ports, .. }: &SocketSettings) -> io::Result<UdpSocket> {
    let Some(ports) = ports else { return UdpSocket::bind((*host, 0)) };
    for port in ports.clone() {
        match UdpSocket::bind((*host, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    let (first, last) = (ports.start(), ports.end());
    let text = format!("the ports {first} to {last} are all in use");
    Err(io::Error::new(io::ErrorKind::AddrInUse, text))
}

/// Asks for a receive buffer; what the kernel has given.
fn grow(socket: &UdpSocket, bytes: usize) -> io::Result<usize> {
    // Beyond net.core.rmem_max, for who may administer the network.
    if setsockopt(socket, RcvBufForce, &bytes).is_err() {
        setsockopt(socket, RcvBuf, &bytes)?;
    }
    // It doubles what is asked for, for its own needs, and says the double (socket(7)).
    Ok(getsockopt(socket, RcvBuf)? / 2)
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::socket::sockopt::UdpGsoSegment;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn settings(host: &str, ports: Option<RangeInclusive<u16>>) -> SocketSettings {
        SocketSettings { host: host.parse().unwrap(), ports, buffer_bytes: 1 << 20 }
    }

    /// Receives until so many datagrams have come.
    fn take(socket: &mut Socket, datagrams: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut taken, until) = (Vec::new(), Instant::now() + LONG);
        while taken.len() < datagrams && Instant::now() < until {
            let each = |come: Come<'_>| {
                if let Come::Datagram(from, bytes) = come {
                    taken.push((from, bytes.to_vec()));
                }
            };
            socket.receive(Duration::from_millis(100), each).unwrap();
        }
        taken
    }

    #[test]
    fn each_datagram_comes_as_it_was_sent_alone_or_together_over_both_protocols() {
        for host in ["127.0.0.1", "::1"] {
            let mut socket = Socket::bind(&settings(host, None)).unwrap();
            let sender = UdpSocket::bind((host, 0)).unwrap();
            let from = sender.local_addr().unwrap();
            let mut sent: Vec<Vec<u8>> = vec![b"one".to_vec(), Vec::new(), vec![7; 9000]];
            for one in &sent {
                sender.send_to(one, socket.address()).unwrap();
            }
            setsockopt(&sender, UdpGsoSegment, &100).unwrap();
            let together: Vec<u8> =
                (0..4242_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
            sender.send_to(&together, socket.address()).unwrap();
            sent.extend(together.chunks(100).map(<[u8]>::to_vec));
            let taken = take(&mut socket, sent.len());
            let expected: Vec<_> = sent.into_iter().map(|one| (from, one)).collect();
            assert_eq!(taken, expected, "{host}");
        }
    }

    #[test]
    fn what_the_kernel_drops_it_tells() {
        let settings = SocketSettings { buffer_bytes: 4096, ..settings("127.0.0.1", None) };
        let mut socket = Socket::bind(&settings).unwrap();
        assert!(socket.buffer_bytes() < 1 << 16, "{}", socket.buffer_bytes());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(&[b'x'; 1000], socket.address()).unwrap();
        }
        let mut come = 0;
        while socket.receive(Duration::from_millis(1), |_| come += 1).unwrap() > 0 {}
        assert!(come < 100, "{come}");
        sender.send_to(b"last", socket.address()).unwrap();
        let mut dropped = None;
        let note = |told: Come<'_>| {
            if let Come::Dropped(ever) = told {
                dropped = Some(ever);
            }
        };
        socket.receive(LONG, note).unwrap();
        assert_eq!(dropped, Some(100 - come));
    }

    #[test]
    fn of_a_range_of_ports_a_free_one_is_taken() {
        let taken = Socket::bind(&settings("127.0.0.1", None)).unwrap();
        let port = taken.address().port();
        let error = Socket::bind(&settings("127.0.0.1", Some(port..=port))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("all in use"), "{error}");
        let range = port..=port + 50;
        let other = Socket::bind(&settings("127.0.0.1", Some(range.clone()))).unwrap();
        assert!(other.address().port() > port && range.contains(&other.address().port()));
    }
}
