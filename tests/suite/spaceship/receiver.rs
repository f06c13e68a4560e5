//! Whoever a stream goes to: a thread that takes every datagram at once.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::harness::wait_for;

/// More than any test has on its way at once.
const BUFFER_BYTES: usize = 8 << 20;

#[derive(Debug, Clone)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) bytes: usize,
    pub(super) object: Value,
}

impl Datagram {
    pub(super) fn sequence(&self) -> u64 {
        self.object["sequence"].as_u64().unwrap()
    }
}

pub(super) struct Receiver {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Datagram>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub(super) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // As much as is allowed.
        let _refused = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
        let _refused =
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap();
        let (taken, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (into, over) = (Arc::clone(&taken), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !over.load(Ordering::Acquire) {
                let Ok((count, from)) = socket.recv_from(&mut bytes) else { continue };
                let object = serde_json::from_slice(&bytes[..count]).unwrap();
                into.lock().unwrap().push(Datagram { from, bytes: count, object });
            }
        });
        Self { address, taken, is_over, thread: Some(thread) }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What has come so far.
    pub(super) fn taken(&self) -> Vec<Datagram> {
        self.taken.lock().unwrap().clone()
    }

    /// Waits until so many have come.
    pub(super) fn wait(&self, count: u64) -> Vec<Datagram> {
        wait_for(&format!("{count} datagrams"), || {
            let taken = self.taken();
            (taken.len() as u64 >= count).then_some(taken)
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // What it has found wrong it has told.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}
