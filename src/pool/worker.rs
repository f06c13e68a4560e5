//! One worker: a thread that takes deliveries and hands each to the handler.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::Handler;
use crate::broker::claim::Claim;
use crate::broker::source::Source;
use crate::message::OffsetRange;
use crate::service::{Lifecycle, held};

/// A running worker, as its pool sees it.
#[derive(Debug)]
pub(super) struct Worker {
    /// Its place in the pool, from 1.
    pub(super) place: u16,
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

/// What a worker and its pool share.
#[derive(Debug)]
struct Desk {
    hand: Mutex<Hand>,
    /// It is to end when it has nothing in hand.
    resigned: AtomicBool,
}

/// What a worker has in hand.
#[derive(Debug)]
struct Hand {
    /// The claim on what it works on.
    claim: Option<Arc<Claim>>,
    /// Since when it works on that, or on nothing.
    since: Instant,
}

impl Desk {
    fn put(&self, claim: Option<Arc<Claim>>) {
        *held(&self.hand) = Hand { claim, since: Instant::now() };
    }
}

impl Worker {
    pub(super) fn start(
        place: u16,
        source: &Arc<Source>,
        handler: &Arc<dyn Handler>,
        life: &Lifecycle,
    ) -> io::Result<Self> {
        let key = source.key();
        let hand = Mutex::new(Hand { claim: None, since: Instant::now() });
        let desk = Arc::new(Desk { hand, resigned: AtomicBool::new(false) });
        let run = Run {
            place,
            source: Arc::clone(source),
            handler: Arc::clone(handler),
            life: life.clone(),
            desk: Arc::clone(&desk),
        };
        let name = format!("{}-{}-{place}", key.topic.name(), key.shard);
        let thread = std::thread::Builder::new().name(name).spawn(move || run.run())?;
        Ok(Self { place, desk, thread })
    }

    pub(super) fn is_busy(&self) -> bool {
        held(&self.desk.hand).claim.is_some()
    }

    /// The messages that it has in hand, and since when it has them, or has had nothing.
    pub(super) fn in_hand(&self) -> (Option<OffsetRange>, Instant) {
        let hand = held(&self.desk.hand);
        (hand.claim.as_ref().map(|claim| claim.range()), hand.since)
    }

    /// The claim that it held for too long, if it did: it is lost to it now.
    pub(super) fn revoke_if_late(&self, now: Instant) -> Option<Arc<Claim>> {
        let hand = held(&self.desk.hand);
        hand.claim.as_ref().filter(|claim| claim.revoke_if_late(now)).cloned()
    }

    pub(super) fn has_lost_its_claim(&self) -> bool {
        held(&self.desk.hand).claim.as_ref().is_some_and(|claim| claim.is_lost())
    }

    /// Asks it to end when it has nothing in hand.
    pub(super) fn resign(&self) {
        self.desk.resigned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn join(self) {
        // A panic has stopped the process already, with its reason.
        let _panicked = self.thread.join();
    }
}

struct Run {
    place: u16,
    source: Arc<Source>,
    handler: Arc<dyn Handler>,
    life: Lifecycle,
    desk: Arc<Desk>,
}

impl Run {
    fn run(self) {
        while !self.desk.resigned.load(Ordering::Relaxed) {
            match self.source.next(&self.desk.resigned) {
                Ok(Some(delivery)) => {
                    self.desk.put(Some(Arc::clone(delivery.claim())));
                    self.handler.handle(self.place, delivery);
                    self.desk.put(None);
                }
                Ok(None) => return,
                Err(error) => {
                    let key = self.source.key();
                    return self.life.fail(format!("{key}: cannot take messages: {error}"));
                }
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.life.fail(format!("a worker of {} panicked", self.source.key()));
        }
    }
}
