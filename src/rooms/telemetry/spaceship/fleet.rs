//! All streams of a process: how many there may be, and what is remembered of those that ended.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::metrics::StreamMetrics;
use super::stream::{Reason, Stream, Wish};
use super::wire::{OpenError, Wire};
use crate::clock::Clock;
use crate::service::held;

/// How long a stream that has ended is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// How many of them.
pub const REMEMBERED_MAX: usize = 1000;

/// Why a stream does not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There are as many as there may be.
    #[error("{0} streams are active, and no more may be")]
    TooMany(usize),
    /// No stream begins any more.
    #[error("the spaceship is stopping")]
    Stopping,
    /// There is no socket that reaches the target.
    #[error(transparent)]
    Wire(#[from] OpenError),
    /// There is no thread left.
    #[error("no stream can begin now")]
    NoThread(#[source] io::Error),
}

/// All streams of a process.
#[derive(Debug)]
pub struct Fleet {
    streams_max: usize,
    clock: Arc<dyn Clock>,
    metrics: StreamMetrics,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    /// In the order in which they began, as their names are.
    known: BTreeMap<Uuid, Arc<Stream>>,
    is_closed: bool,
}

impl Fleet {
    /// A fleet of at most so many active streams.
    #[must_use]
    pub fn new(streams_max: usize, clock: Arc<dyn Clock>, metrics: StreamMetrics) -> Self {
        Self { streams_max, clock, metrics, streams: Mutex::default() }
    }

    /// Begins a stream to a target that was checked.
    ///
    /// # Errors
    /// None began.
    pub fn start(&self, wish: Wish, target: SocketAddr) -> Result<Arc<Stream>, StartError> {
        let wire = Wire::open(target)?;
        let mut streams = held(&self.streams);
        if streams.is_closed {
            return Err(StartError::Stopping);
        }
        forget(&mut streams.known, self.clock.monotonic());
        if streams.active().count() >= self.streams_max {
            return Err(StartError::TooMany(self.streams_max));
        }
        let clock = Arc::clone(&self.clock);
        let stream = Stream::start(wish, wire, clock, &self.metrics);
        let stream = stream.map_err(StartError::NoThread)?;
        streams.known.insert(stream.key, Arc::clone(&stream));
        Ok(stream)
    }

    /// A stream that is active, or remembered.
    #[must_use]
    pub fn find(&self, key: Uuid) -> Option<Arc<Stream>> {
        let mut streams = held(&self.streams);
        forget(&mut streams.known, self.clock.monotonic());
        streams.known.get(&key).cloned()
    }

    /// The streams that are active, in the order in which they began.
    #[must_use]
    pub fn active(&self) -> Vec<Arc<Stream>> {
        held(&self.streams).active().cloned().collect()
    }

    /// Stops a stream, and waits until nothing is sent any more; `None` if there is none that
    /// nobody has stopped yet. Blocks, for a moment.
    #[must_use]
    pub fn stop(&self, key: Uuid) -> Option<Arc<Stream>> {
        let stream = self.find(key).filter(|stream| stream.collect())?;
        stream.order(Reason::Stopped);
        stream.join();
        Some(stream)
    }

    /// Stops all streams, and waits until nothing is sent any more; none begins from now on.
    /// Blocks, for a moment.
    pub fn close(&self) {
        let mut streams = held(&self.streams);
        streams.is_closed = true;
        let active: Vec<_> = streams.active().cloned().collect();
        drop(streams);
        active.iter().for_each(|stream| stream.order(Reason::Shutdown));
        active.iter().for_each(|stream| stream.join());
    }
}

impl Streams {
    fn active(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.known.values().filter(|stream| stream.end().is_none())
    }
}

/// Forgets those that ended long ago, and the first of too many.
fn forget(known: &mut BTreeMap<Uuid, Arc<Stream>>, now: Instant) {
    let is_old = |when| now.saturating_duration_since(when) >= REMEMBERED;
    known.retain(|_, stream| stream.end().is_none_or(|end| !is_old(end.when)));
    if known.len() <= REMEMBERED_MAX {
        return;
    }
    let ended = known.values().filter_map(|stream| Some((stream.end()?.when, stream.key)));
    let mut ended: Vec<(Instant, Uuid)> = ended.collect();
    ended.sort_unstable();
    let too_many = ended.len().saturating_sub(REMEMBERED_MAX);
    for (_, key) in ended.iter().take(too_many) {
        known.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::clock::SystemClock;

    /// A clock that can be set forward.
    #[derive(Debug, Default)]
    struct Ahead(Mutex<Duration>);

    impl Clock for Ahead {
        fn wall(&self) -> DateTime<Utc> {
            SystemClock.wall()
        }

        fn monotonic(&self) -> Instant {
            SystemClock.monotonic() + *self.0.lock().unwrap()
        }
    }

    fn wish(lease: Option<Duration>) -> Wish {
        Wish {
            host: "localhost".to_owned(),
            port: 1,
            ship_name: "TARDIS".parse().unwrap(),
            rate: Some(std::num::NonZeroU32::MIN),
            lifetime: Duration::from_secs(86_400),
            lease,
            seed: 1,
        }
    }

    struct Port {
        fleet: Fleet,
        clock: Arc<Ahead>,
        receiver: UdpSocket,
    }

    impl Port {
        fn new(streams_max: usize) -> Self {
            let clock = Arc::new(Ahead::default());
            let shared: Arc<dyn Clock> = clock.clone();
            let fleet = Fleet::new(streams_max, shared, StreamMetrics::default());
            Self { fleet, clock, receiver: UdpSocket::bind("127.0.0.1:0").unwrap() }
        }

        fn start(&self, lease: Option<Duration>) -> Result<Arc<Stream>, StartError> {
            self.fleet.start(wish(lease), self.receiver.local_addr().unwrap())
        }

        fn pass(&self, time: Duration) {
            *self.clock.0.lock().unwrap() += time;
        }
    }

    #[test]
    fn there_are_no_more_than_there_may_be_and_one_that_ended_makes_room() {
        let port = Port::new(2);
        let (one, _two) = (port.start(None).unwrap(), port.start(None).unwrap());
        assert!(matches!(port.start(None), Err(StartError::TooMany(2))));
        assert!(port.fleet.stop(one.key).is_some());
        let three = port.start(None).unwrap();
        let active: Vec<Uuid> = port.fleet.active().iter().map(|stream| stream.key).collect();
        assert_eq!((active.len(), active.last()), (2, Some(&three.key)));
        port.fleet.close();
        assert!(port.fleet.active().is_empty());
        assert_eq!(three.end().unwrap().reason, Reason::Shutdown);
        assert!(matches!(port.start(None), Err(StartError::Stopping)));
    }

    #[test]
    fn what_has_ended_is_told_once_more_to_who_stops_it_and_then_only_shown() {
        let port = Port::new(1);
        let stream = port.start(None).unwrap();
        assert!(port.fleet.stop(stream.key).is_some());
        assert!(port.fleet.stop(stream.key).is_none());
        assert!(!stream.renew(), "what has ended is not renewed");
        assert_eq!(port.fleet.find(stream.key).unwrap().end().unwrap().reason, Reason::Stopped);
        port.pass(REMEMBERED - Duration::from_secs(1));
        assert!(port.fleet.find(stream.key).is_some());
        port.pass(Duration::from_secs(1));
        assert!(port.fleet.find(stream.key).is_none(), "it is remembered for ever");
        assert!(port.fleet.stop(Uuid::now_v7()).is_none());
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let port = Port::new(1);
        let keys = (0..REMEMBERED_MAX + 2).map(|_| {
            let stream = port.start(None).unwrap();
            assert!(port.fleet.stop(stream.key).is_some());
            stream.key
        });
        let keys: Vec<Uuid> = keys.collect();
        assert!(keys[..2].iter().all(|key| port.fleet.find(*key).is_none()));
        assert!(keys[2..].iter().all(|key| port.fleet.find(*key).is_some()));
    }

    #[test]
    fn a_lease_that_is_over_is_not_renewed_even_before_its_thread_has_seen_it() {
        let port = Port::new(1);
        let lease = Duration::from_secs(100);
        let stream = port.start(Some(lease)).unwrap();
        port.pass(lease - Duration::from_secs(10));
        assert!(stream.renew());
        port.pass(lease - Duration::from_secs(10));
        assert!(stream.renew());
        port.pass(lease);
        assert!(!stream.renew());
        stream.join();
        assert_eq!(stream.end().unwrap().reason, Reason::Lease);
    }

    #[test]
    fn no_way_to_a_target_is_no_stream() {
        let port = Port::new(1);
        let refused = port.fleet.start(wish(None), "255.255.255.255:9999".parse().unwrap());
        assert!(matches!(refused, Err(StartError::Wire(OpenError::NoWay(..)))), "{refused:?}");
        assert!(port.fleet.active().is_empty());
    }
}
