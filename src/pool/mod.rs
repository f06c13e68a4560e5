//! The workers of a shard: threads that take deliveries and hand each to a [`Handler`].
//!
//! The idle workers of a pool share one [`Source`]: one of them waits for the delivery that becomes
//! due, the others for their turn (leader and followers; Schmidt et al., PLoP 2000). So five
//! messages that wait are one worker's batch, and there is no queue between pool and workers.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::broker::Delivery;
use crate::broker::source::Source;
use crate::message::ShardKey;
use crate::service::Lifecycle;

/// What a worker does with a delivery.
pub trait Handler: Send + Sync {
    /// Handles it to its end: settled, or dropped because the process stops. `place` is the
    /// worker's place in its pool, from 1.
    fn handle(&self, place: u16, delivery: Delivery);
}

/// The running workers of one shard.
#[derive(Debug)]
pub struct Pool {
    key: ShardKey,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `workers` threads that consume `source` until the process stops.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(
        workers: u16,
        source: &Arc<Source>,
        handler: &Arc<dyn Handler>,
        life: &Lifecycle,
    ) -> io::Result<Self> {
        let key = source.key();
        let mut pool = Self { key, workers: Vec::new() };
        for place in 1..=workers {
            let worker = Worker {
                place,
                source: Arc::clone(source),
                handler: Arc::clone(handler),
                life: life.clone(),
            };
            let named = std::thread::Builder::new().name(format!(
                "{}-{}-{place}",
                key.topic.name(),
                key.shard
            ));
            match named.spawn(move || worker.run()) {
                Ok(thread) => pool.workers.push(thread),
                Err(error) => {
                    // Those that run must end before the shard is let go.
                    life.fail(format!("starting a worker of {key}: {error}"));
                    pool.join();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// The shard.
    #[must_use]
    pub const fn key(&self) -> ShardKey {
        self.key
    }

    /// Waits until every worker has ended, which they do when the process stops.
    pub fn join(self) {
        for worker in self.workers {
            // A panic has stopped the process already, with its reason.
            let _panicked = worker.join();
        }
    }
}

struct Worker {
    place: u16,
    source: Arc<Source>,
    handler: Arc<dyn Handler>,
    life: Lifecycle,
}

impl Worker {
    fn run(self) {
        loop {
            match self.source.next() {
                Ok(Some(delivery)) => self.handler.handle(self.place, delivery),
                Ok(None) => return,
                Err(error) => {
                    let key = self.source.key();
                    return self.life.fail(format!("{key}: cannot take messages: {error}"));
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.life.fail(format!("a worker of {} panicked", self.source.key()));
        }
    }
}
