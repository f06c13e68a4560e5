//! A TCP proxy that fails as networks do, at the moment that a test says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::ports::free_port;
use crate::harness::wait_for;

/// Where bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToBroker,
    ToClient,
}

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    Pass,
    /// They wait, and go on when this ends.
    Held,
    /// They are gone.
    Swallowed,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    refuse: bool,
    fates: [Fate; 2],
    delay: Duration,
}

/// Listens until it is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    runtime: Option<Runtime>,
}

struct Shared {
    rules: watch::Sender<Rules>,
    /// Counts the cuts.
    cut: watch::Sender<u64>,
    /// Bytes left before the next cut.
    left: [Mutex<Option<u64>>; 2],
    bytes: [AtomicU64; 2],
    connections: AtomicU64,
    open: AtomicU64,
    is_listening: AtomicBool,
}

impl Proxy {
    /// To a port of this machine.
    pub(crate) fn to(target: u16) -> Self {
        let shared = Arc::new(Shared {
            rules: watch::Sender::default(),
            cut: watch::Sender::default(),
            left: Default::default(),
            bytes: Default::default(),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            is_listening: AtomicBool::new(false),
        });
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let port = free_port();
        runtime.spawn(listen(Arc::clone(&shared), port, target));
        let proxy = Self { shared, port, runtime: Some(runtime) };
        proxy.wait_listening(true);
        proxy
    }

    /// A broker's URL by way of this proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (authority, path) = rest.split_once('/').unwrap();
        let (host, _port) = authority.split_once(':').unwrap();
        format!("{scheme}://{user}@{host}:{}/{path}", self.port)
    }

    /// Resets all open connections.
    pub(crate) fn cut(&self) {
        self.shared.cut_all();
        wait_for("the cut connections to end", || (self.open() == 0).then_some(()));
    }

    /// Refuses new connections; open ones stay.
    pub(crate) fn refuse(&self) {
        self.shared.rules.send_modify(|rules| rules.refuse = true);
        self.wait_listening(false);
    }

    /// Bytes in this direction wait until [`Self::heal`], also those of new connections; nothing is
    /// closed.
    pub(crate) fn hold(&self, direction: Direction) {
        self.set_fate(direction, Fate::Held);
    }

    /// Bytes in this direction are lost; nothing is closed.
    pub(crate) fn swallow(&self, direction: Direction) {
        self.set_fate(direction, Fate::Swallowed);
    }

    fn set_fate(&self, direction: Direction, fate: Fate) {
        self.shared.rules.send_modify(|rules| rules.fates[direction as usize] = fate);
    }

    /// What is read at once goes on so much later.
    pub(crate) fn delay(&self, delay_ms: u64) {
        self.shared.rules.send_modify(|rules| rules.delay = Duration::from_millis(delay_ms));
    }

    /// Lets exactly so many more bytes through in this direction, counted over all connections, and
    /// then resets all of them, once.
    pub(crate) fn cut_after(&self, direction: Direction, bytes: u64) {
        *self.shared.left[direction as usize].lock().unwrap() = Some(bytes);
    }

    /// Whether the cut that was planned is still to come.
    pub(crate) fn awaits_cut(&self, direction: Direction) -> bool {
        self.shared.left[direction as usize].lock().unwrap().is_some()
    }

    /// Everything passes again; what was cut stays cut.
    pub(crate) fn heal(&self) {
        self.shared.left.iter().for_each(|left| *left.lock().unwrap() = None);
        self.shared.rules.send_replace(Rules::default());
        self.wait_listening(true);
    }

    fn wait_listening(&self, expected: bool) {
        let is_so = || (self.shared.is_listening.load(SeqCst) == expected).then_some(());
        wait_for("the proxy to open or close its port", is_so);
    }

    /// Bytes that went on in this direction.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        self.shared.bytes[direction as usize].load(SeqCst)
    }

    /// Connections there ever were.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }

    /// Connections there are.
    pub(crate) fn open(&self) -> u64 {
        self.shared.open.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // In the background, since a test may drop it inside a runtime of its own.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(shared: Arc<Shared>, port: u16, target: u16) {
    let mut rules = shared.rules.subscribe();
    loop {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        shared.is_listening.store(true, SeqCst);
        loop {
            tokio::select! {
                biased;
                changed = rules.wait_for(|rules| rules.refuse) => break drop(changed),
                accepted = listener.accept() => {
                    let Ok((client, _)) = accepted else { continue };
                    shared.connections.fetch_add(1, SeqCst);
                    shared.open.fetch_add(1, SeqCst);
                    let cut = shared.cut.subscribe();
                    tokio::spawn(carry(Arc::clone(&shared), client, target, cut));
                }
            }
        }
        drop(listener);
        shared.is_listening.store(false, SeqCst);
        drop(rules.wait_for(|rules| !rules.refuse).await);
    }
}

/// One connection.
async fn carry(
    shared: Arc<Shared>,
    mut client: TcpStream,
    target: u16,
    mut cut: watch::Receiver<u64>,
) {
    let mut broker = TcpStream::connect(("127.0.0.1", target)).await.ok();
    let is_in_order = if let Some(broker) = &mut broker {
        let _plain = (client.set_nodelay(true), broker.set_nodelay(true));
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let up = pump(&shared, Direction::ToBroker, from_client, to_broker);
        let down = pump(&shared, Direction::ToClient, from_broker, to_client);
        tokio::select! {
            biased;
            _ = cut.changed() => false,
            ended = async { tokio::try_join!(up, down) } => ended.is_ok(),
        }
    } else {
        false
    };
    if !is_in_order {
        // Closed so, the other side sees a reset.
        let _reset = client.set_zero_linger();
        let _reset = broker.as_ref().map(TcpStream::set_zero_linger);
    }
    drop((client, broker));
    shared.open.fetch_sub(1, SeqCst);
}

/// One direction of a connection, until the sender closes it.
async fn pump(
    shared: &Shared,
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    let mut rules = shared.rules.subscribe();
    loop {
        let count = from.read(&mut chunk).await?;
        let delay = rules.borrow_and_update().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let is_free = |rules: &Rules| rules.fates[direction as usize] != Fate::Held;
        let fate = match rules.wait_for(is_free).await {
            Ok(rules) => rules.fates[direction as usize],
            Err(_) => return Ok(()),
        };
        if fate == Fate::Swallowed {
            // The end of the stream is swallowed too: the connection looks alive.
            if count == 0 {
                drop(rules.wait_for(|_| false).await);
            }
            continue;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        let (passed, is_last) = shared.allowance(direction, count);
        to.write_all(&chunk[..passed]).await?;
        shared.bytes[direction as usize].fetch_add(passed as u64, SeqCst);
        if is_last {
            // What was written is on its way before the reset: the peer has it on this machine.
            shared.cut_all();
            std::future::pending::<()>().await;
        }
    }
}

impl Shared {
    fn cut_all(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// How many of these bytes may pass, and whether they are the last before a cut.
    fn allowance(&self, direction: Direction, count: usize) -> (usize, bool) {
        let mut left = self.left[direction as usize].lock().unwrap();
        let Some(allowed) = *left else { return (count, false) };
        let passed = count.min(usize::try_from(allowed).unwrap());
        let rest = allowed - passed as u64;
        *left = (rest > 0).then_some(rest);
        (passed, rest == 0)
    }
}
