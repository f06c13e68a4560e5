//! Ports that a broker or a proxy can come back to after it was away.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Ports below those that the system gives to outgoing connections, so that none of them takes a
/// port while its owner is away. No two calls in this process give the same one.
pub(crate) fn free_port() -> u16 {
    static USED: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different places.
    let first = std::process::id() % 300 * 64;
    loop {
        let step = u32::from(USED.fetch_add(1, Relaxed));
        let port = u16::try_from(10_000 + (first + step) % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
